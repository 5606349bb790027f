//! `escrow-simulation`: runs seeds, repeats one, or shows that canaries are caught.

use std::process::ExitCode;

use clap::Parser;
use escrow_simulation::{Canary, News, first_catch, run, run_many};

/// Deterministic simulation of the whole of Escrow.
#[derive(Parser)]
#[command(
    name = "escrow-simulation",
    after_help = "Examples:\n  escrow-simulation --seeds 20000            many seeds, on all cores\n  \
                  escrow-simulation --seeds 1000 --replicas 3  the same of groups of replicas\n  \
                  escrow-simulation --seed 17 --trace        one seed again, with all that happens\n  \
                  escrow-simulation --canaries               each deliberate bug must be caught"
)]
struct Args {
    /// Run this one seed.
    #[arg(long)]
    seed: Option<u64>,
    /// Run so many seeds.
    #[arg(long, default_value_t = 2_000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Print what happens, of one seed.
    #[arg(long)]
    trace: bool,
    /// With this deliberate bug.
    #[arg(long)]
    canary: Option<Canary>,
    /// Look for the first seed that catches each deliberate bug, among so many seeds.
    #[arg(long)]
    canaries: bool,
    /// So many replicas of every process: 1 or 3.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=5))]
    replicas: u8,
    /// How many at a time. Default: one a core.
    #[arg(long)]
    threads: Option<usize>,
}

impl Args {
    fn threads(&self) -> usize {
        self.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    // What servers log, of one seed: RUST_LOG=openraft=debug, and --threads 1.
    if std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().without_time().with_ansi(false).with_env_filter(filter).init();
    }
    if let Some(seed) = args.seed {
        return one(seed, usize::from(args.replicas), args.canary, args.trace);
    }
    if args.canaries {
        return canaries(&args);
    }
    many(&args)
}

#[expect(clippy::print_stdout, reason = "this program prints what it finds")]
fn one(seed: u64, replicas: usize, canary: Option<Canary>, with_trace: bool) -> ExitCode {
    let run = run(seed, replicas, canary, true);
    let lines = run.trace.lines();
    let shown = if with_trace { lines.len() } else { 60 };
    if with_trace || run.result.is_err() {
        lines[lines.len().saturating_sub(shown)..].iter().for_each(|line| println!("{line}"));
    }
    match &run.result {
        Ok(summary) => println!("seed {seed}: {summary:?}"),
        Err(violation) => println!("seed {seed}: VIOLATION: {violation}"),
    }
    if run.result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[expect(clippy::print_stdout, reason = "this program prints what it finds")]
fn canaries(args: &Args) -> ExitCode {
    let seeds = args.first..args.first.saturating_add(args.seeds);
    let mut missed = 0;
    for &canary in Canary::ALL {
        if let Some((seed, violation)) = first_catch(canary, seeds.clone(), args.threads()) {
            println!("{canary}: caught by seed {seed}: {violation}");
        } else {
            println!("{canary}: NOT CAUGHT by {} seeds", args.seeds);
            missed += 1;
        }
    }
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[expect(clippy::print_stdout, reason = "this program prints what it finds")]
fn many(args: &Args) -> ExitCode {
    let threads = args.threads();
    let seeds = args.first..args.first.saturating_add(args.seeds);
    let totals = run_many(seeds, usize::from(args.replicas), args.canary, threads, |news| match news {
        News::Done(done, took) => println!("{done} seeds, {took:.0?}"),
        News::Found(run) => {
            if let Err(violation) = &run.result {
                println!("seed {}: VIOLATION: {violation}", run.seed);
                println!("again: {}", escrow_simulation::command(run.seed, usize::from(args.replicas)));
            }
        }
    });
    let (sum, found) = (&totals.sum, totals.found.len());
    println!(
        "{} seeds in {:.1?}, {:.0} a minute on {threads} threads: {} transactions, {} deaths, {} events, {found} violations",
        totals.seeds,
        totals.took,
        totals.seeds_a_minute(),
        sum.begun,
        sum.deaths,
        sum.events,
    );
    if found == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
