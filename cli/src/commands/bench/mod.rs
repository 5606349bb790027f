//! `escrow bench`: load, then verification.

use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::num::NonZeroU64;
use std::time::Duration;

use escrow_client::{Client, Options};
use escrow_types::Currency;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::args::Endpoints;
use crate::bench::{self, Accounts, Amount, BenchError, Load, Mode, Skew, Summary, Wanted};
use crate::commands::transfer::WaitFor;
use crate::commands::verify::{document, line};
use crate::exit::{Exit, Failure, with_exit_codes};
use crate::money::parse_currency;
use crate::output::Output;
use crate::time::parse_duration;
use escrow_verify::{Report, Settings, verify};

/// `escrow bench`.
#[derive(Debug, clap::Args)]
#[command(after_help = with_exit_codes!("Examples:
  escrow bench                                           # bulk, 10 s
  escrow bench --mode stream --duration 30s --in-flight 20000
  escrow bench --mode unary --in-flight 1 --wait decided # one caller alone
  escrow bench --transfers 1000000 --skew zipf --cross-shard 50 -o json
  escrow bench --mode unary --rate 2000 --duration 60s   # open loop: callers who do not wait for each other
  escrow bench --skew hot --cross-shard 0                # one account in every transfer

Without --rate the next transfer goes out when one is answered: that finds the highest rate, and hides how long
callers of a server that stands still would have waited. With --rate transfers are due at fixed times; those
that cannot go out because --in-flight is reached wait, and their latency shows it.

Opens accounts named bench-… and funds them from bench-treasury, whose overdraft is unlimited. Ends with
the checks of escrow verify; the exit code is 1 when one fails or a transfer was refused or lost."))]
pub struct Args {
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
    /// Open loop: so many transfers a second are due, at fixed times, and latency counts from then [default: closed loop]
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

pub(super) async fn run(args: Args, output: &Output) -> Result<Exit, Failure> {
    check_interval(&args)?;
    let options = Options { connections: usize::from(args.connections), ..Endpoints::options() };
    let client = Client::connect(args.endpoints.endpoint.iter().cloned(), options)?;
    let wanted = Wanted {
        count: args.accounts as usize,
        shards: args.shards.iter().copied().collect::<BTreeSet<u16>>(),
        currency: args.currency,
        within: Duration::from_secs(60),
    };
    let accounts = bench::prepare(&client, &wanted).await?;
    let load = load(&args);
    if !args.warmup.is_zero() {
        let warmup =
            Load { amount: Amount::For(args.warmup), seed: load.seed.wrapping_add(1), ..load.clone() };
        measure(&client, &accounts, &warmup, "warm-up").await?;
    }
    let summary = measure(&client, &accounts, &load, "load").await?;
    let report = if args.no_verify { None } else { Some(check(&args.endpoints).await?) };
    print(&load, &summary, report.as_ref(), output);
    let lost = summary.failed > 0 || summary.completed == 0;
    Ok(match report.map_or(Exit::Ok, |report| Exit::of_checks(report.result())) {
        Exit::Ok if lost => Exit::Failed,
        exit => exit,
    })
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
    let in_flight = args.in_flight.unwrap_or(match args.mode {
        Mode::Unary => 256,
        Mode::Stream => 8_192,
        Mode::Bulk => 65_536,
    });
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

fn print(load: &Load, summary: &Summary, report: Option<&Report>, output: &Output) {
    let mut value = serde_json::to_value(summary).unwrap_or_default();
    value["mode"] = format!("{:?}", load.mode).to_lowercase().into();
    value["in_flight"] = load.in_flight.into();
    value["verified"] = report.map_or(json!(null), |report| report.ok().into());
    value["verification"] = report.map_or(json!(null), document);
    output.json(&value);

    let latency = summary.latency_us;
    let millis = |micros: u64| format!("{}.{:03} ms", micros / 1_000, micros % 1_000);
    output.line(format!("{:.0} transfers a second", summary.per_second));
    output.line(format!(
        "  {} completed in {:.2} s: {} confirmed, {} canceled, {} failed",
        summary.completed, summary.seconds, summary.confirmed, summary.canceled, summary.failed
    ));
    match &summary.steady {
        Some(steady) => output.line(format!(
            "  steady from second {:.0} on: {:.0} a second over {:.0} s",
            steady.from_s, steady.per_second, steady.seconds
        )),
        None => {
            output.line("  no steady part: the rate did not stay within 10 % of its median up to the end");
        }
    }
    output.line(format!(
        "  longest time without an answer {:.1} ms, from second {:.1} on",
        summary.stall_ms, summary.stall_from_s
    ));
    if let Some(open) = &summary.open_loop {
        let late = open.paced.late_us;
        output.line(format!(
            "  {} a second were due, {:.0} went out; {} held back by the servers, {} never sent",
            open.asked_per_second, open.sent_per_second, open.paced.held_back, open.not_sent
        ));
        output.line(format!(
            "  the generator itself was late by p50 {}  p99 {}  max {}",
            millis(late.p50),
            millis(late.p99),
            millis(late.max)
        ));
    }
    for (reason, count) in &summary.reasons {
        output.line(format!("    {count} {reason}"));
    }
    output.line(format!(
        "  latency p50 {}  p90 {}  p99 {}  p99.9 {}  max {}",
        millis(latency.p50),
        millis(latency.p90),
        millis(latency.p99),
        millis(latency.p999),
        millis(latency.max)
    ));
    for check in report.iter().flat_map(|report| &report.checks) {
        output.line(format!("  {}", line(check)));
    }
}
