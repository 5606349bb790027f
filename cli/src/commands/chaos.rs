//! `escrow chaos`: scenarios are listed and run.

mod progress;
mod show;

use std::path::PathBuf;
use std::time::Duration;

use escrow_chaos::engine::{self, Ran, RunError, Settings};
use escrow_chaos::report;
use escrow_chaos::scenario::{ALL, Scenario, ScenarioError};
use escrow_types::span::parse_duration;
use serde_json::{Value, json};

use super::servers::shutdown;
use crate::exit::{Exit, Failure};
use crate::output::Output;

/// `escrow chaos`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Tell which scenarios there are
    #[command(after_help = "Examples:
  escrow chaos list
  escrow chaos list -o json")]
    List,
    /// Run a scenario: a cluster under load, faults, checks, a report
    Run(RunArgs),
}

/// `escrow chaos run`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  escrow chaos run participants-killed
  escrow chaos run mixed --duration 3m --rate 10000 --seed 7
  escrow chaos run ./my-scenario.toml
  escrow chaos run --all --duration 20s -o json

Starts a cluster of this same program in a directory of its own, on free ports of loopback, and touches
nothing else. The same seed strikes the same processes at the same moments. Ctrl-C stops everything.

Exit codes: 0 everything that must hold holds, 1 the run itself failed, 2 bad input, 6 something that must
hold does not (data and logs are kept, and told), 7 a scenario cannot be run by this program (no failpoints)
or on this machine (no right to mount). With --all: the worst of them.")]
pub struct RunArgs {
    /// The name of a scenario, or the path of a file
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    scenario: Option<String>,
    /// Every scenario of the list, one after the other
    #[arg(long)]
    all: bool,
    /// How long the load lasts (default: as the scenario says)
    #[arg(long, value_parser = parse_duration, value_name = "SPAN")]
    duration: Option<Duration>,
    /// Chooses accounts, amounts, moments and victims (default: another each time, and told)
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Transactions a second (default: as the scenario says)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rate: Option<u64>,
    /// Where the reports go: DIR/SCENARIO/report.html and summary.json
    #[arg(long, default_value = "chaos-report", value_name = "DIR")]
    report: PathBuf,
    /// Where data and logs are while it runs (default: the temporary directory)
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        let message = error.to_string();
        match error {
            RunError::Cannot(_) => Self { exit: Exit::Skipped, code: "CANNOT_RUN_HERE", message },
            RunError::TooShort(_) => Self::bad_input(message),
            RunError::Cluster(error) => error.into(),
            RunError::Client(error) => error.into(),
            RunError::Interrupted => Self::coded("INTERRUPTED", message),
            RunError::Ask(_) | RunError::Io { .. } => Self::internal(message),
        }
    }
}

impl From<ScenarioError> for Failure {
    fn from(error: ScenarioError) -> Self {
        Self { exit: Exit::BadInput, code: "SCENARIO_INVALID", message: error.to_string() }
    }
}

pub(super) async fn run(command: Command, output: &Output) -> Result<Exit, Failure> {
    match command {
        Command::List => list(output),
        Command::Run(args) if args.all => run_all(&args, output).await,
        Command::Run(args) => {
            let name = args.scenario.clone().unwrap_or_default();
            let (exit, document) = run_one(&args, Scenario::load(&name)?, output).await?;
            output.json(&document);
            Ok(exit)
        }
    }
}

fn list(output: &Output) -> Result<Exit, Failure> {
    let (mut rows, mut documents) = (Vec::new(), Vec::new());
    for (name, _) in ALL {
        let scenario = Scenario::load(name)?;
        let cannot = engine::can_run(&scenario).err();
        documents.push(json!({
            "name": scenario.name, "summary": scenario.summary, "proves": scenario.proves,
            "duration_ms": scenario.duration.0.as_millis() as u64, "rate": scenario.rate, "cannot_run": cannot,
        }));
        let mark = if scenario.needs_failpoints() { " (needs failpoints)" } else { "" };
        rows.push(vec![scenario.name, scenario.summary + mark]);
    }
    output.json(&documents);
    output.table(&["scenario", "what is done"], rows);
    output.line("\nescrow chaos run SCENARIO runs one; see escrow chaos run --help");
    Ok(Exit::Ok)
}

/// Every scenario; one that fails does not stop the others, a signal does.
async fn run_all(args: &RunArgs, output: &Output) -> Result<Exit, Failure> {
    let (mut documents, mut rows, mut worst) = (Vec::new(), Vec::new(), Exit::Ok);
    for (name, _) in ALL {
        output.line(format!("\n== {name}"));
        let (exit, mut document) = match run_one(args, Scenario::load(name)?, output).await {
            Ok(ran) => ran,
            Err(failure) if failure.code == "INTERRUPTED" => return Err(failure),
            Err(failure) => {
                output.line(format!("{name}: {}", failure.message));
                (failure.exit, json!({ "scenario": name, "error": failure.message }))
            }
        };
        document["exit_code"] = (exit as u8).into();
        rows.push(show::row(name, exit, &document));
        documents.push(document);
        worst = worse(worst, exit);
    }
    output.line("");
    output.json(&documents);
    output.table(show::HEADER, rows);
    Ok(worst)
}

/// Which of two ends is told: what is wrong before what failed, that before what could not be run.
fn worse(one: Exit, other: Exit) -> Exit {
    let weight = |exit| match exit {
        Exit::Ok => 0,
        Exit::Skipped => 1,
        Exit::Violated => 3,
        _ => 2,
    };
    if weight(other) > weight(one) { other } else { one }
}

/// Runs one scenario and writes its report. Gives its summary as well.
async fn run_one(args: &RunArgs, scenario: Scenario, output: &Output) -> Result<(Exit, Value), Failure> {
    let shutdown = shutdown()?;
    let (tell, events) = tokio::sync::mpsc::unbounded_channel();
    let settings = Settings {
        duration: args.duration.unwrap_or(scenario.duration.0),
        rate: args.rate.unwrap_or(scenario.rate),
        seed: args.seed.unwrap_or_else(|| crate::time::now_ms() % 1_000_000),
        data_root: args.data_dir.clone().unwrap_or_else(std::env::temp_dir),
        scenario,
        tell,
    };
    output.line(format!("{}: {}", settings.scenario.name, settings.scenario.summary));
    output.line(format!(
        "for {}, {} transactions a second, seed {}",
        crate::time::format_millis(settings.duration.as_millis() as u64),
        settings.rate,
        settings.seed
    ));
    let showing = tokio::spawn(progress::show(events, settings.duration));
    let ran = engine::run(&settings, shutdown).await;
    let (name, proves) = (settings.scenario.name.clone(), settings.scenario.proves.clone());
    // Its end is the end of what there is to show.
    drop(settings);
    showing.await.map_err(|error| Failure::internal(format!("showing progress: {error}")))?;
    let Ran { record, kept } = ran?;

    let dir = args.report.join(&name);
    let files = report::write(&record, &dir)
        .map_err(|error| Failure::internal(format!("{}: {error}", dir.display())))?;
    show::summary(&record, &proves, output);
    output.line(format!("report   {}", files.html.display()));
    output.line(format!("summary  {}", files.json.display()));
    let mut document = report::json(&record)
        .ok()
        .and_then(|text| serde_json::from_str::<Value>(&text).ok())
        .unwrap_or_default();
    if let Some(document) = document.as_object_mut() {
        // Megabytes of windows are in the file.
        document.remove("samples");
    }
    if let Some(kept) = kept {
        output.line(format!("kept     {}  (data and logs of every process)", kept.display()));
        document["kept"] = kept.display().to_string().into();
    }
    Ok((if record.is_sound() { Exit::Ok } else { Exit::Violated }, document))
}
