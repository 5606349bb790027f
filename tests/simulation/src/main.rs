//! `escrow-simulation`: runs seeds, repeats one, or shows that canaries are caught.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use escrow_simulation::{Canary, Run, first_catch, quiet_panics, run};

/// Deterministic simulation of the whole of Escrow.
#[derive(Parser)]
#[command(
    name = "escrow-simulation",
    after_help = "Examples:\n  escrow-simulation --seeds 20000            many seeds, on all cores\n  \
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
    /// How many at a time. Default: one a core.
    #[arg(long)]
    threads: Option<usize>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(seed) = args.seed {
        return one(seed, args.canary, args.trace);
    }
    quiet_panics();
    if args.canaries {
        return canaries(args.first..args.first + args.seeds);
    }
    many(&args)
}

#[expect(clippy::print_stdout, reason = "this program prints what it finds")]
fn one(seed: u64, canary: Option<Canary>, with_trace: bool) -> ExitCode {
    let run = run(seed, canary, true);
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
fn canaries(seeds: std::ops::Range<u64>) -> ExitCode {
    let mut missed = 0;
    for &canary in Canary::ALL {
        match first_catch(canary, seeds.clone()) {
            Some((seed, violation)) => {
                let tried = seed - seeds.start + 1;
                println!("{canary}: caught by seed {seed}, {tried} tried: {violation}");
            }
            None => {
                println!("{canary}: NOT CAUGHT by {} seeds", seeds.end - seeds.start);
                missed += 1;
            }
        }
    }
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[expect(clippy::print_stdout, reason = "this program prints what it finds")]
fn many(args: &Args) -> ExitCode {
    let threads = args.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let (next, begun, deaths, events) =
        (AtomicU64::new(args.first), AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let end = args.first + args.seeds;
    let started = Instant::now();
    let work = || {
        let mut found = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end || found.len() >= 5 {
                return found;
            }
            let run = run(seed, args.canary, false);
            match &run.result {
                Ok(summary) => {
                    begun.fetch_add(summary.begun, Ordering::Relaxed);
                    deaths.fetch_add(summary.deaths, Ordering::Relaxed);
                    events.fetch_add(summary.events, Ordering::Relaxed);
                }
                Err(violation) => {
                    println!("seed {seed}: VIOLATION: {violation}");
                    found.push(run);
                }
            }
            if (seed - args.first + 1) % 10_000 == 0 {
                println!("{} seeds, {:.0?}", seed - args.first + 1, started.elapsed());
            }
        }
    };
    let found: Vec<Run> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("panics are caught")).collect()
    });
    let took = started.elapsed().max(Duration::from_millis(1));
    let rate = args.seeds as f64 * 60.0 / took.as_secs_f64();
    println!(
        "{} seeds in {took:.1?}, {rate:.0} a minute on {threads} threads: {} transactions, {} deaths, {} events, {} violations",
        args.seeds,
        begun.load(Ordering::Relaxed),
        deaths.load(Ordering::Relaxed),
        events.load(Ordering::Relaxed),
        found.len()
    );
    for run in &found {
        println!("again: cargo run --profile simulation -p escrow-simulation -- --seed {} --trace", run.seed);
    }
    if found.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
