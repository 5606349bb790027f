//! `escrow up`: a cluster of child processes, supervised until a signal.

use std::io::Write as _;
use std::path::PathBuf;
use std::pin::Pin;

use tokio::signal::unix::Signal;

use super::servers::{hangups, shutdown};
use crate::args::Shared;
use crate::config::parse_named_url;
use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::time::format_millis;
use escrow_cluster::{Cluster, Event, ManifestEntry, Restart, Spec};

/// `escrow up`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  escrow up
  escrow up --data-dir /tmp/bank --participants 4 --base-port 0
  escrow up --replicas 3 --data-dir /srv/escrow # each shard and coordinator survives the loss of a process
  escrow up --external bank=http://127.0.0.1:9000 --restart never

Coordinators listen on --base-port and the ports after it, participants from ten above; the second
replicas a hundred above the first, and so on. While it runs, cluster.json in the data directory says
which process is where; logs are in its logs directory. SIGHUP restarts the processes one by one, the
leader of each group last; with replicas the cluster serves meanwhile. Ctrl-C (or SIGTERM) stops
everything.")]
pub struct Args {
    /// Where everything lives; made when missing
    #[arg(long, default_value = "./escrow-data", value_name = "DIR", env = "ESCROW_DATA_DIR")]
    data_dir: PathBuf,
    /// How many coordinators
    #[arg(long, default_value_t = 1, value_name = "N")]
    coordinators: u16,
    /// How many participants, each with one wallet shard
    #[arg(long, default_value_t = 2, value_name = "N")]
    participants: u16,
    /// How many replicas each coordinator and each shard has, every one a process: 1, 3, 5 or 7
    #[arg(long, default_value_t = 1, value_name = "N")]
    replicas: u16,
    /// The first port; 0 picks free ones
    #[arg(long, default_value_t = 7400, value_name = "P")]
    base_port: u16,
    /// When a process that ended is started again
    #[arg(long, value_enum, default_value = "on-failure")]
    restart: RestartWhen,
    /// An external participant by the name that legs use; may be repeated
    #[arg(long = "external", value_name = "NAME=URL", value_parser = parse_named_url)]
    externals: Vec<(String, String)>,
}

/// When a process that ended is started again.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum RestartWhen {
    /// When it crashed or was killed; not when it ended by itself with success.
    OnFailure,
    /// Never.
    Never,
}

impl From<RestartWhen> for Restart {
    fn from(when: RestartWhen) -> Self {
        match when {
            RestartWhen::OnFailure => Self::OnFailure,
            RestartWhen::Never => Self::Never,
        }
    }
}

pub(super) async fn run(args: Args, shared: &Shared, output: &Output) -> Result<Exit, Failure> {
    // Before anything is started: a signal that comes early stops it too.
    let shutdown = shutdown()?;
    let mut shutdown = std::pin::pin!(shutdown);
    let mut hangups = hangups()?;
    let mut spec = Spec {
        coordinators: args.coordinators,
        participants: args.participants,
        replicas: args.replicas,
        base_port: args.base_port,
        restart: args.restart.into(),
        externals: args.externals,
        ..Spec::new(&args.data_dir)?
    };
    let mut logging = vec!["--log-format".into(), shared.log_format.as_str().into()];
    if let Some(level) = &shared.log_level {
        logging.extend(["--log-level".into(), level.into()]);
    }
    spec.coordinator_args.clone_from(&logging);
    spec.participant_args = logging;
    let mut cluster = tokio::select! {
        // Dropping a cluster that is half started kills what has been started.
        () = &mut shutdown => return Ok(Exit::Ok),
        started = Cluster::start(spec) => started?,
    };
    announce(&cluster, output);
    let supervised = run_until(&mut cluster, shutdown, &mut hangups, output).await;
    output.line("stopping");
    cluster.stop(tell).await;
    supervised?;
    output.line("stopped");
    Ok(Exit::Ok)
}

/// Supervises until `shutdown`, with a rolling restart at each hangup.
async fn run_until(
    cluster: &mut Cluster,
    mut shutdown: Pin<&mut impl Future<Output = ()>>,
    hangups: &mut Signal,
    output: &Output,
) -> Result<(), Failure> {
    loop {
        let mut is_over = false;
        let interrupted = async {
            tokio::select! {
                () = &mut shutdown => is_over = true,
                _ = hangups.recv() => {}
            }
        };
        cluster.supervise(interrupted, tell).await?;
        if is_over {
            return Ok(());
        }
        output.line("restarting the processes one by one");
        let restarted = tokio::select! {
            // A process that was being stopped is killed; the others are stopped next.
            () = &mut shutdown => return Ok(()),
            restarted = cluster.rolling_restart(tell) => restarted,
        };
        match restarted {
            Ok(()) => output.line("every process was restarted"),
            // The cluster goes on as it is; whoever asked reads why.
            Err(error) => tell_text(&format!("the restart was broken off: {error}\n")),
        }
    }
}

fn announce(cluster: &Cluster, output: &Output) {
    let manifest = cluster.manifest();
    let rows = |role: &str, entries: &[ManifestEntry]| -> Vec<Vec<String>> {
        let pid = |pid: Option<u32>| pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        entries
            .iter()
            .map(|entry| vec![process(role, entry), pid(entry.pid), entry.endpoint.clone()])
            .collect()
    };
    let mut table = rows("coordinator", &manifest.coordinators);
    table.extend(rows("participant", &manifest.participants));
    output.json(&manifest);
    output.table(&["process", "pid", "endpoint"], table);
    let endpoints = cluster.coordinator_endpoints().join(",");
    output.line(format!(
        "\nready. Connect with  --endpoint {endpoints}  or  export ESCROW_ENDPOINT={endpoints}"
    ));
    output.line(format!("data and logs: {}   Ctrl-C stops everything", cluster.spec().data_dir.display()));
}

/// `participant 1`, or `participant 1.2` of a replica.
fn process(role: &str, entry: &ManifestEntry) -> String {
    match entry.replica {
        0 => format!("{role} {}", entry.id),
        replica => format!("{role} {}.{replica}", entry.id),
    }
}

/// Tells people on stderr what the supervisor saw.
fn tell(event: Event) {
    let text = match event {
        Event::Ended { node, status, again_in, log_tail } => {
            let again = match again_in {
                None => "it stays down".to_owned(),
                Some(pause) if pause.is_zero() => "starting it again".to_owned(),
                Some(pause) => format!("starting it again in {}", format_millis(pause.as_millis() as u64)),
            };
            // A killed process had no last words of its own.
            let tail = if status.code().is_some_and(|code| code != 0) { log_tail } else { String::new() };
            format!("{node} ended ({status}): {again}\n{tail}")
        }
        Event::Restarting { node } => format!("{node} is being restarted\n"),
        Event::Started { node, pid } => format!("{node} started, pid {pid}\n"),
        Event::NotStarted { node, error } => format!("{node} could not be started: {error}\n"),
        Event::Killed { node } => format!("{node} did not end in time and was killed\n"),
    };
    tell_text(&text);
}

fn tell_text(text: &str) {
    // Nobody may be reading; the supervisor goes on.
    let _ = std::io::stderr().write_all(text.as_bytes());
}
