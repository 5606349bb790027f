//! A model of larger clusters than were ever measured: how many groups and machines a load needs, how long its queues are, and how
//! available it is when leaders are lost. docs/scale.md says what its figures are worth.
//!
//! # Layout
//! - `plan`: groups and machines
//! - `queue`: a log under load, simulated batch by batch
//! - `group`: a year of failures of one group, and what callers feel
//! - `random`: from a seed
//!
//! **Invariant:** calls no part of Escrow, reads no clock: the same arguments give the same output.
#![allow(clippy::cast_sign_loss)] // of counts that are calculated as positive numbers

mod group;
mod plan;
mod queue;
mod random;

use clap::Parser as _;

use crate::group::{Failures, felt};
use crate::plan::Capacity;
use crate::queue::{Log, percentile};
use crate::random::Random;

const YEAR: f64 = 365.0 * 86_400.0;

/// A model of larger clusters: groups, machines, waits and availability for a load.
///
/// Defaults that say ASSUMED are not measured yet: put your own figures in their place.
#[derive(Debug, clap::Parser)]
struct Args {
    /// Cross-shard transfers a second
    #[arg(long, default_value_t = 1_000_000.0)]
    transfers: f64,
    /// Transfers a second that one coordinator takes without replicas. Measured: at least this much, on shared cores
    #[arg(long, default_value_t = 479_000.0)]
    coordinator_capacity: f64,
    /// Branches a second that one shard takes without replicas. Measured: at least this much, on shared cores
    #[arg(long, default_value_t = 479_000.0)]
    shard_capacity: f64,
    /// What is left of these with replicas. Measured as processor time: 0.85 of a coordinator, 0.4 of a shard
    #[arg(long, default_value_t = 0.4)]
    replicated_share: f64,
    /// Replicas of each group
    #[arg(long, default_value_t = 3)]
    replicas: usize,
    /// What a follower costs of what its leader does. Measured: 0.57 of a coordinator, 0.85 of a shard
    #[arg(long, default_value_t = 0.67)]
    follower_share: f64,
    /// Cores that a leader keeps busy when it does all it can: its owner, its journal, its network. Measured: half of one
    #[arg(long, default_value_t = 1.0)]
    leader_cores: f64,
    /// Cores of a machine
    #[arg(long, default_value_t = 16.0)]
    machine_cores: f64,
    /// Milliseconds of a write by a majority without a network. Measured: group of 3, one caller
    #[arg(long, default_value_t = 0.309)]
    write_ms: f64,
    /// Milliseconds there and back between machines. ASSUMED
    #[arg(long, default_value_t = 0.2)]
    round_trip_ms: f64,
    /// Failures of a replica a year: process, machine, restart without handing over. ASSUMED
    #[arg(long, default_value_t = 12.0)]
    failures_per_year: f64,
    /// Minutes until a replica is back. ASSUMED
    #[arg(long, default_value_t = 10.0)]
    repair_minutes: f64,
    /// The election timeout: followers stand after three to four times this much
    #[arg(long, default_value_t = 200.0)]
    election_timeout_ms: f64,
    /// Least milliseconds from there until callers are served again. Measured
    #[arg(long, default_value_t = 75.0)]
    takeover_min_ms: f64,
    /// Most of them. Measured
    #[arg(long, default_value_t = 340.0)]
    takeover_max_ms: f64,
    /// An answer after more milliseconds than this is late
    #[arg(long, default_value_t = 500.0)]
    late_after_ms: f64,
    /// Callers give up after so many milliseconds
    #[arg(long, default_value_t = 5_000.0)]
    timeout_ms: f64,
    /// Years that each group lives through
    #[arg(long, default_value_t = 1_000.0)]
    years: f64,
    /// The same seed is the same run
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn check(args: &Args) -> Result<(), &'static str> {
    let above_zero = [
        args.transfers,
        args.coordinator_capacity,
        args.shard_capacity,
        args.replicated_share,
        args.leader_cores,
        args.machine_cores,
        args.failures_per_year,
        args.repair_minutes,
        args.write_ms,
        args.years,
    ];
    if above_zero.iter().any(|value| *value <= 0.0) || args.replicas == 0 {
        return Err("capacities, shares, rates, times and counts must be above 0");
    }
    if args.takeover_max_ms < args.takeover_min_ms || args.timeout_ms < args.late_after_ms {
        return Err("takeover_max_ms must not be below takeover_min_ms, nor timeout_ms below late_after_ms");
    }
    Ok(())
}

#[allow(clippy::print_stdout)] // it is what this program is for
fn main() -> std::process::ExitCode {
    let args = Args::parse();
    if let Err(why) = check(&args) {
        eprintln!("error: {why}");
        return std::process::ExitCode::from(2);
    }
    println!(
        "{:.0} transfers/s, groups of {}; a model: see docs/scale.md for what was measured and what is assumed",
        args.transfers, args.replicas
    );
    println!();
    println!(
        "| busy | coordinators | shards | machines | batch | decided p50 | decided p99 | late | given up | available |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for utilisation in [0.5, 0.7, 0.9] {
        println!("{}", row(&args, utilisation));
    }
    std::process::ExitCode::SUCCESS
}

/// One line of the table: a cluster whose groups are as busy as this.
fn row(args: &Args, utilisation: f64) -> String {
    let capacity = Capacity {
        coordinator: args.coordinator_capacity * args.replicated_share,
        shard: args.shard_capacity * args.replicated_share,
        replicas: args.replicas,
        follower: args.follower_share,
        leader_cores: args.leader_cores,
        machine_cores: args.machine_cores,
    };
    let plan = capacity.plan(args.transfers, utilisation);
    let decided = decided(args, &capacity, utilisation);
    let (late, lost) = year(args, utilisation);
    // A transfer needs its coordinator and two shards.
    let of_all = |share: f64| 1.0 - (1.0 - share).powi(3);
    format!(
        "| {:.0} % | {} | {} | {} | {:.2} ms | {:.2} ms | {:.2} ms | {:.5} % | {:.5} % | {:.5} % |",
        utilisation * 100.0,
        plan.coordinators,
        plan.shards,
        plan.machines,
        log(args, capacity.coordinator).cycle(utilisation) * 1e3,
        percentile(&decided, 0.5) * 1e3,
        percentile(&decided, 0.99) * 1e3,
        of_all(late) * 100.0,
        of_all(lost) * 100.0,
        (1.0 - of_all(late)) * 100.0,
    )
}

/// The log of a group that could take so many rows a second.
fn log(args: &Args, rows_a_second: f64) -> Log {
    let network = if args.replicas > 1 { args.round_trip_ms / 1e3 } else { 0.0 };
    Log { write: args.write_ms / 1e3 + network, row: 1.0 / rows_a_second, batch_max: usize::MAX }
}

/// From the coordinator's taking of a transfer until its decision is durable, while nothing fails; sorted. Try on the slower of two
/// shards, then the decision.
fn decided(args: &Args, capacity: &Capacity, utilisation: f64) -> Vec<f64> {
    const ROWS: usize = 400_000;
    let mut random = Random::new(args.seed);
    let mut run = |rows_a_second: f64| {
        let log = log(args, rows_a_second);
        log.run(log.arrivals(utilisation), ROWS, &mut random)
    };
    let (shard, coordinator) = (run(capacity.shard), run(capacity.coordinator));
    let mut draw = |from: &[f64]| from[random.below(from.len())];
    let round_trip = args.round_trip_ms / 1e3;
    let one = |_| round_trip + draw(&shard).max(draw(&shard)) + draw(&coordinator);
    let mut all: Vec<f64> = (0..ROWS).map(one).collect();
    all.sort_by(f64::total_cmp);
    all
}

/// The share of callers of one group that is answered late, and that gives up.
fn year(args: &Args, utilisation: f64) -> (f64, f64) {
    let timeout = args.election_timeout_ms / 1e3;
    let failures = Failures {
        replicas: args.replicas,
        between: YEAR / args.failures_per_year,
        repair: args.repair_minutes * 60.0,
        silence: (timeout * 3.0, timeout * 4.0),
        takeover: (args.takeover_min_ms / 1e3, args.takeover_max_ms / 1e3),
    };
    let horizon = YEAR * args.years;
    let outages = failures.outages(horizon, &mut Random::new(args.seed));
    felt(&outages, horizon, utilisation, args.late_after_ms / 1e3, args.timeout_ms / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Args {
        Args::parse_from(std::iter::once("model").chain(line.split_whitespace()))
    }

    #[test]
    fn one_seed_is_one_table() {
        assert_eq!(row(&args("--years 50"), 0.7), row(&args("--years 50"), 0.7));
        assert_ne!(row(&args("--years 50"), 0.7), row(&args("--years 50 --seed 2"), 0.7));
    }

    #[test]
    fn the_table_in_the_docs_is_that_of_the_defaults() {
        let docs = include_str!("../../../docs/scale.md");
        for utilisation in [0.5, 0.7, 0.9] {
            let row = row(&args(""), utilisation);
            assert!(docs.contains(&row), "docs/scale.md lacks {row}");
        }
    }

    #[test]
    fn replicas_make_it_available() {
        let (of_one, _) = year(&args("--replicas 1"), 0.5);
        let (of_three, _) = year(&args("--replicas 3"), 0.5);
        assert!(of_three < of_one / 10.0, "{of_three}, {of_one}");
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert!(check(&args("")).is_ok());
        for wrong in ["--transfers 0", "--replicas 0", "--takeover-max-ms 1", "--timeout-ms 1"] {
            assert!(check(&args(wrong)).is_err(), "{wrong}");
        }
    }
}
