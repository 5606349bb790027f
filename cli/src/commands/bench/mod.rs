//! `escrow bench`: load, then verification.
//!
//! - `compare`: runs beside each other
//! - `show`: what a run came to, for people and programs
//! - `targets`: which processes of this machine are the servers
//! - `echo_server`: the other side of `--wire`

mod compare;
mod echo_server;
mod show;
mod targets;

use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use escrow_client::{Client, Options};
use escrow_types::Currency;
use indicatif::{ProgressBar, ProgressStyle};

use crate::args::Endpoints;
use crate::bench::processes::{Used, Watch};
use crate::bench::stages::{Breakdown, Snapshot};
use crate::bench::wire::{EchoProcess, Wire, WireLoad};
use crate::bench::{self, Accounts, Amount, BenchError, Load, Mode, Skew, Summary, Wanted};
use crate::commands::transfer::WaitFor;
use crate::exit::{Exit, Failure, with_exit_codes};
use crate::money::parse_currency;
use crate::output::Output;
use crate::time::parse_duration;
use escrow_verify::{Report, Settings, verify};

/// Commands beside the run itself.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Put two runs, or the medians of several, beside each other
    Compare(compare::Args),
    /// Send every message back: what --wire compares with
    #[command(hide = true)]
    EchoServer(echo_server::Args),
}

/// `escrow bench`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, after_help = with_exit_codes!("Examples:
  escrow bench                                           # bulk, 10 s
  escrow bench --mode stream --duration 30s --in-flight 20000
  escrow bench --mode unary --in-flight 1 --wait decided # one caller alone
  escrow bench --transfers 1000000 --skew zipf --cross-shard 50 -o json
  escrow bench --mode unary --rate 2000 --duration 60s   # open loop: nobody waits for others
  escrow bench --skew hot --cross-shard 0                # one account in every transfer
  escrow bench --duration 60s --warmup 10s --plot run.html
  escrow bench --wire --wire-dir ./escrow-data -o json   # as ratios to what this machine allows
  escrow bench -o json > a.json; escrow bench compare a.json b.json

Without --rate the next transfer goes out when one is answered: that finds the highest rate, and
hides how long callers of a server that stands still would have waited. With --rate transfers are
due at fixed times; those that cannot go out because --in-flight is reached wait, and their latency
shows it.

CPU and memory are told of this process and of those servers that are on this machine (Linux only):
those of --data-dir or --cluster-file, or else the coordinators of --endpoint and the wallet shards
that they know.

Opens accounts named bench-… and funds them from bench-treasury, whose overdraft is unlimited. Ends
with the checks of escrow verify; the exit code is 1 when one fails or a transfer was refused or
lost."))]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// So many transfers
    #[arg(long, conflicts_with = "duration", value_name = "N")]
    transfers: Option<u64>,
    /// As many as fit in this time
    #[arg(long, default_value = "10s", value_parser = parse_duration, value_name = "SPAN")]
    duration: Duration,
    /// How transfers go in
    #[arg(long, value_enum, default_value = "bulk")]
    mode: Mode,
    /// Unanswered transfers at a time (default: unary 256, stream 8192, bulk 65536)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    in_flight: Option<u64>,
    /// Open loop: so many transfers a second are due, at fixed times, and latency counts from then (default: a closed loop)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    rate: Option<u64>,
    /// Rows of a bulk message at most
    #[arg(long, default_value_t = 8_192, value_name = "ROWS", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    batch: u64,
    /// Accounts, spread over all shards
    #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    accounts: u64,
    /// Only accounts on these shards, such as 0,1
    #[arg(long, value_delimiter = ',', value_name = "SHARD")]
    shards: Vec<u16>,
    /// Percent of transfers between different shards
    #[arg(long, default_value_t = 100, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    cross_shard: u8,
    /// Which accounts are chosen how often
    #[arg(long, value_enum, default_value = "uniform")]
    skew: Skew,
    /// When answers are wanted
    #[arg(long, value_enum, default_value = "completed")]
    wait: WaitFor,
    /// ISO 4217 code
    #[arg(long, value_parser = parse_currency, default_value = "USD")]
    currency: Currency,
    /// Load of the same kind that runs first and is not counted
    #[arg(long, default_value = "0s", value_parser = parse_duration, value_name = "SPAN")]
    warmup: Duration,
    /// HTTP/2 connections of unary calls
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    connections: u16,
    /// Chooses the accounts of transfers: the same seed chooses the same
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Timeout of each transfer
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    timeout: Duration,
    /// Tell rate and latencies of each such span of the run
    #[arg(long, default_value = "1s", value_parser = parse_duration, value_name = "SPAN")]
    interval: Duration,
    /// Give up when no answer comes for this long
    #[arg(long, default_value = "20s", value_parser = parse_duration)]
    stall: Duration,
    /// Measure before and after the load what this machine allows, and tell the load as ratios to it: a raw gRPC echo of the same
    /// messages, and writes made durable
    #[arg(long)]
    wire: bool,
    /// Where --wire writes: a directory on the disk that the journals are on (default: the temporary directory)
    #[arg(long, value_name = "DIR", requires = "wire")]
    wire_dir: Option<PathBuf>,
    /// How long --wire runs each of its three echoes, and the disk, before the load and after it
    #[arg(long, default_value = "2s", value_parser = parse_duration, value_name = "SPAN", requires = "wire")]
    wire_span: Duration,
    #[command(flatten)]
    servers: targets::ServersArgs,
    /// Draw the run as a page of HTML that needs nothing else
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Leave the checks at the end away
    #[arg(long)]
    no_verify: bool,
    #[command(flatten)]
    endpoints: Endpoints,
}

impl From<BenchError> for Failure {
    fn from(error: BenchError) -> Self {
        let message = error.to_string();
        match error {
            BenchError::Client(error) => error.into(),
            BenchError::Stalled(..) => Self::coded("STALLED", message),
            BenchError::Unasked(_) => Self::coded("MALFORMED_ANSWER", message),
            BenchError::Setup(_) => Self::coded("BENCH_SETUP", message),
        }
    }
}

/// All that a run came to.
struct Outcome {
    summary: Summary,
    wire: Option<Wire>,
    used: Vec<Used>,
    breakdown: Breakdown,
    /// What could not be measured, and why.
    missing: Vec<String>,
    report: Option<Report>,
}

pub(super) async fn run(mut args: Args, output: &Output) -> Result<Exit, Failure> {
    match args.command.take() {
        None => measure_all(&args, output).await,
        Some(Command::Compare(args)) => compare::run(args, output),
        Some(Command::EchoServer(_)) => echo_server::run(output).await,
    }
}

async fn measure_all(args: &Args, output: &Output) -> Result<Exit, Failure> {
    check_interval(args)?;
    let load = load(args);
    let wire = wire_load(args, &load)?;
    check_plot(args)?;
    let options = Options { connections: usize::from(args.connections), ..Endpoints::options() };
    let client = Client::connect(args.endpoints.endpoint.iter().cloned(), options)?;
    let (targets, mut missing) = args.servers.find(&client, &args.endpoints).await?;
    let wanted = Wanted {
        count: args.accounts as usize,
        shards: args.shards.iter().copied().collect::<BTreeSet<u16>>(),
        currency: args.currency,
        within: Duration::from_secs(60 + args.accounts / SLOWEST_FUNDING_PER_SECOND),
    };
    let accounts = bench::prepare(&client, &wanted).await?;
    let echo = match &wire {
        Some(_) => Some(EchoProcess::start().await?),
        None => None,
    };
    let before = match (&wire, &echo) {
        (Some(wire), Some(echo)) => Some(wire.round(echo).await?),
        _ => None,
    };
    if !args.warmup.is_zero() {
        let warmup =
            Load { amount: Amount::For(args.warmup), seed: load.seed.wrapping_add(1), ..load.clone() };
        measure(&client, &accounts, &warmup, "warm-up").await?;
    }
    let begun = Snapshot::take(&client).await?;
    let watch = Watch::begin(targets);
    let summary = measure(&client, &accounts, &load, "load").await?;
    let (used, unseen) = watch.end(summary.completed);
    missing.extend(unseen);
    // In an open loop latency counts from when a transfer was due, which is no matter of the servers.
    let mean_us = summary.open_loop.is_none().then_some(summary.latency_us.mean);
    let (breakdown, unseen) = Snapshot::take(&client).await?.since(&begun, summary.completed, mean_us);
    missing.extend(unseen);
    let wire = match (wire, echo, before) {
        (Some(wire), Some(echo), Some(before)) => {
            let after = wire.round(&echo).await?;
            echo.stop().await?;
            Some(Wire::new(&wire, before, after, &summary))
        }
        _ => None,
    };
    let report = if args.no_verify { None } else { Some(check(&args.endpoints).await?) };
    let outcome = Outcome { summary, wire, used, breakdown, missing, report };
    let document = show::document(args, &load, &outcome);
    output.json(&document);
    show::print(&outcome, output);
    if let Some(path) = &args.plot {
        let page = show::page(&document, &outcome).html();
        std::fs::write(path, page)
            .map_err(|error| Failure::internal(format!("--plot: {}: {error}", path.display())))?;
        output.line(format!("  drawn in {}", path.display()));
    }
    let lost = outcome.summary.failed > 0 || outcome.summary.completed == 0;
    Ok(match outcome.report.map_or(Exit::Ok, |report| Exit::of_checks(report.result())) {
        Exit::Ok if lost => Exit::Failed,
        exit => exit,
    })
}

/// Accounts that the slowest cluster worth measuring funds in a second.
const SLOWEST_FUNDING_PER_SECOND: u64 = 20_000;

/// What is to be measured beside the load.
fn wire_load(args: &Args, load: &Load) -> Result<Option<WireLoad>, Failure> {
    if !args.wire {
        return Ok(None);
    }
    let directory = args.wire_dir.clone().unwrap_or_else(std::env::temp_dir);
    if !directory.is_dir() {
        return Err(Failure::bad_input(format!("--wire-dir: {} is no directory", directory.display())));
    }
    if args.wire_span.is_zero() {
        return Err(Failure::bad_input("--wire-span must be above zero"));
    }
    let (load, connections) = (load.clone(), usize::from(args.connections));
    Ok(Some(WireLoad { load, connections, span: args.wire_span, directory }))
}

/// What cannot be written is told before the run, not after it.
fn check_plot(args: &Args) -> Result<(), Failure> {
    let Some(path) = &args.plot else { return Ok(()) };
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if path.is_dir() || directory.is_some_and(|directory| !directory.is_dir()) {
        return Err(Failure::bad_input(format!("--plot: {} cannot be a file", path.display())));
    }
    Ok(())
}

/// A run is kept as a bounded number of intervals.
fn check_interval(args: &Args) -> Result<(), Failure> {
    let span = if args.transfers.is_none() { args.duration } else { Duration::ZERO };
    if args.interval < Duration::from_millis(1) {
        return Err(Failure::bad_input("--interval must be at least 1ms"));
    }
    if span.as_millis().div_ceil(args.interval.as_millis()) > bench::POINTS_MAX as u128 {
        return Err(Failure::bad_input(format!(
            "--duration has more than {} times --interval: take a longer --interval",
            bench::POINTS_MAX
        )));
    }
    Ok(())
}

fn load(args: &Args) -> Load {
    let in_flight = args.in_flight.unwrap_or(args.mode.in_flight_default());
    Load {
        mode: args.mode,
        amount: args.transfers.map_or(Amount::For(args.duration), Amount::Transfers),
        rate: args.rate.and_then(NonZeroU64::new),
        in_flight,
        // At least two messages are under way, or the servers would rest while we fill the next.
        batch: args.batch.min(in_flight.div_ceil(2)),
        cross_shard: args.cross_shard,
        skew: args.skew,
        wait: args.wait.into(),
        currency: args.currency,
        timeout: args.timeout,
        stall_after: args.stall,
        interval: args.interval,
        seed: args.seed,
    }
}

/// Runs load with a progress bar on stderr, if that is a terminal.
async fn measure(client: &Client, accounts: &Accounts, load: &Load, what: &str) -> Result<Summary, Failure> {
    let bar = match (std::io::stderr().is_terminal(), load.amount) {
        (false, _) => ProgressBar::hidden(),
        (true, Amount::Transfers(count)) => ProgressBar::new(count),
        (true, Amount::For(_)) => ProgressBar::new_spinner(),
    };
    let template = match load.amount {
        Amount::Transfers(_) => "{msg} {wide_bar} {human_pos}/{human_len}  {per_sec}",
        Amount::For(_) => "{msg} {spinner} {elapsed}  {human_pos} transfers  {per_sec}",
    };
    bar.set_style(ProgressStyle::with_template(template).expect("the template is a constant"));
    bar.set_message(what.to_owned());
    let summary = bench::run(client, accounts, load, |answered| bar.set_position(answered)).await;
    bar.finish_and_clear();
    Ok(summary?)
}

async fn check(endpoints: &Endpoints) -> Result<Report, Failure> {
    let settings = Settings { quiescent_within: Duration::from_secs(30), ..Settings::default() };
    let client = endpoints.patient_client(settings.silence_max)?;
    Ok(verify(&client, settings, |_| ()).await?)
}
