//! One run: a cluster under load, struck as the schedule says, then judged.
//!
//! # Layout
//! - `testbed`: everything that is started and must be gone in the end: directory, small disk, proxies, processes
//! - `small_disk`: a file system of its own that can be filled
//! - `money`: accounts, and what is on them in the beginning
//! - `operator`: what the servers are asked while it runs
//! - `strikes`: carries out the faults
//! - `recovery`: measures what follows each
//! - `stale`: asks leaders that were paused
//! - `faults`: remembers them for the record
//! - `sampler`: looks at everything four times a second
//! - `checks`: the judgement in the end
//!
//! **Invariant:** whatever happens, also a signal: processes are ended, mounts are undone, and the directory is gone or told.

mod checks;
mod faults;
mod money;
mod operator;
mod recovery;
mod sampler;
mod small_disk;
mod stale;
mod strikes;
mod testbed;

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use escrow_client::ClientError;
use escrow_cluster::ClusterError;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{Instant, sleep_until};

use crate::failpoints;
use crate::load::{Ears, Load};
use crate::oracle::{AskError, Oracle};
use crate::record::{self, Record, Sample, Totals, Verdict};
use crate::scenario::Scenario;
use crate::schedule::{Strike, schedule};
use faults::FaultLog;
use sampler::Sampler;
use strikes::Striker;
use testbed::Testbed;

/// When the load has stopped, strikes that are not over yet get so long.
const LAST_STRIKES: Duration = Duration::from_secs(60);

/// What is to be run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What.
    pub scenario: Scenario,
    /// How long the load lasts.
    pub duration: Duration,
    /// Chooses everything.
    pub seed: u64,
    /// Transactions a second.
    pub rate: u64,
    /// In which directory data and logs are kept while it runs.
    pub data_root: PathBuf,
    /// Hears how it goes.
    pub tell: UnboundedSender<Event>,
}

/// How a run goes.
#[derive(Debug, Clone)]
pub enum Event {
    /// Something is being done that takes a while.
    Step(String),
    /// Something was done to the cluster, or came of it; milliseconds since the beginning of the load.
    Fault(u64, String),
    /// A window of the load is over.
    Window(Sample),
    /// Something was checked.
    Verdict(Verdict),
}

/// A run that came to its end.
#[derive(Debug)]
pub struct Ran {
    /// Everything that the report shows.
    pub record: Record,
    /// Data and logs, kept because something is wrong.
    pub kept: Option<PathBuf>,
}

/// Why a run did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// This machine, or this program, cannot run it.
    #[error("{0}")]
    Cannot(String),
    /// The run is too short for any fault.
    #[error("nothing would happen within {0:?}: the first fault needs a longer --duration")]
    TooShort(Duration),
    /// The cluster did not start.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The cluster did not answer before anything was done to it.
    #[error("the cluster does not answer: {0}")]
    Client(#[from] ClientError),
    /// The same, of accounts.
    #[error("the cluster does not answer: {0}")]
    Ask(#[from] AskError),
    /// A file, directory, port or mount of the run.
    #[error("{what}: {source}")]
    Io {
        /// Of what.
        what: String,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A signal.
    #[error("interrupted: everything is stopped and cleaned up")]
    Interrupted,
}

impl RunError {
    fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

impl Settings {
    fn tell(&self, event: Event) {
        // Nobody may be listening.
        let _ = self.tell.send(event);
    }

    fn step(&self, what: &str) {
        self.tell(Event::Step(what.to_owned()));
    }
}

/// Whether this program can run a scenario; if not, why.
pub fn can_run(scenario: &Scenario) -> Result<(), String> {
    if scenario.needs_failpoints() && !failpoints::is_available() {
        return Err(format!(
            "{} needs servers with failpoints, which this program has not: {} chaos run {}",
            scenario.name,
            failpoints::PROGRAM,
            scenario.name
        ));
    }
    if scenario.cluster.small_disk.is_some() {
        small_disk::can_mount().map_err(|why| format!("{}: {why}", scenario.name))?;
    }
    Ok(())
}

/// Runs a scenario to its end, or until `shutdown` resolves. Needs a runtime whose threads live as long as the run.
pub async fn run(settings: &Settings, shutdown: impl Future<Output = ()>) -> Result<Ran, RunError> {
    can_run(&settings.scenario).map_err(RunError::Cannot)?;
    let strikes = schedule(&settings.scenario, settings.duration, settings.seed);
    if strikes.is_empty() && !settings.scenario.faults.is_empty() {
        return Err(RunError::TooShort(settings.duration));
    }
    settings.step("starting the cluster");
    let mut shutdown = pin!(shutdown);
    let testbed = tokio::select! {
        // What is half started goes with the future.
        () = &mut shutdown => return Err(RunError::Interrupted),
        started = Testbed::start(&settings.scenario, &settings.data_root, settings.seed) => Arc::new(started?),
    };
    let ran = tokio::select! {
        () = &mut shutdown => Err(RunError::Interrupted),
        ran = run_on(settings, strikes, &testbed) => ran,
    };
    settings.step("stopping the cluster");
    let wrong = ran.as_ref().is_ok_and(|record| !record.is_sound());
    let kept = testbed.stop(wrong).await;
    Ok(Ran { record: ran?, kept })
}

async fn run_on(
    settings: &Settings,
    strikes: Vec<Strike>,
    testbed: &Arc<Testbed>,
) -> Result<Record, RunError> {
    let scenario = &settings.scenario;
    settings.step("opening and funding accounts");
    let money = money::Money::make(&testbed.client, &scenario.cluster, &scenario.load).await?;
    let first = crate::oracle::balances(&testbed.client, &money.accounts).await?;

    let ears = Ears::new(Oracle::new(money.accounts));
    let load =
        Load { rate: settings.rate, mix: scenario.load.clone(), shards: money.shards, seed: settings.seed };
    settings.step("under load");
    let (begun, started_unix_ms) = (Instant::now(), unix_ms());
    let faults = Arc::new(FaultLog::new(begun, settings.tell.clone()));
    let sampler = Sampler::start(begun, testbed, &ears.meter, settings.tell.clone());
    let running = load.start(&testbed.client, &ears)?;
    let mut striker = Striker::start(begun, strikes, testbed, &faults, &ears.sentinel);
    sleep_until(begun + settings.duration).await;

    settings.step("the load stops");
    // Strikes first: what is down must come back, so that callers can be answered.
    let all_over = striker.finish(LAST_STRIKES).await;
    if !all_over {
        faults.trouble("a strike was not over in time".to_owned());
    }
    testbed.heal();
    if let Err(error) = running.stop().await {
        faults.trouble(format!("the load broke: {error}"));
    }
    let samples = sampler.stop().await;
    let lasted = begun.elapsed();

    settings.step("checking");
    let judged = checks::judge(settings, testbed, &ears.oracle, &first, &faults).await;
    let (faults, kills) = faults.take();
    let figures = &judged.figures;
    let totals = Totals {
        submitted: figures.transactions,
        acknowledged: figures.confirmed + figures.canceled,
        confirmed: figures.confirmed,
        canceled: figures.canceled,
        refused: figures.refused,
        unknown: figures.unknown,
        unknown_confirmed: figures.unknown_confirmed,
        kills,
        ..ears.meter.totals()
    };
    Ok(Record {
        scenario: scenario.name.clone(),
        summary: format!("{} {}", scenario.summary, scenario.proves),
        seed: settings.seed,
        rate_per_s: settings.rate,
        started_unix_ms,
        duration_ms: lasted.as_millis() as u64,
        build: build(),
        machine: record::Machine::here(),
        cluster: record::Cluster {
            coordinators: scenario.cluster.coordinators.into(),
            participants: scenario.cluster.participants.into(),
            replicas: scenario.cluster.replicas.into(),
        },
        reproduce: settings.command(),
        totals,
        verdicts: judged.verdicts,
        faults,
        samples,
    })
}

impl Settings {
    /// The command that runs the same again.
    fn command(&self) -> String {
        let program = if failpoints::is_available() { failpoints::PROGRAM } else { "escrow" };
        format!(
            "{program} chaos run {} --duration {}ms --seed {} --rate {}",
            self.scenario.name,
            self.duration.as_millis(),
            self.seed,
            self.rate
        )
    }
}

fn build() -> String {
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    let failpoints = if failpoints::is_available() { ", with failpoints" } else { "" };
    format!("{} {profile}{failpoints}", env!("CARGO_PKG_VERSION"))
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
