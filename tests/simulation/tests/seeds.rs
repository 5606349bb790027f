//! Many seeds, all of them clean. `ESCROW_SEEDS` runs more, `ESCROW_FIRST_SEED` others, `ESCROW_SEED` one.

use escrow_simulation::{command, run, run_many};

const SEEDS: u64 = 2_000;

/// Of groups of replicas: each takes as long as dozens of the others. The gate runs more, in a build that is optimised.
const SEEDS_OF_REPLICAS: u64 = 60;

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

/// Runs a seed again, keeps its trace, and fails with the end of it.
fn fail(seed: u64, replicas: usize) {
    const LINES: usize = 80;
    let run = run(seed, replicas, None, true);
    let lines = run.trace.lines();
    lines[lines.len().saturating_sub(LINES)..].iter().for_each(|line| eprintln!("{line}"));
    panic!("seed {seed}: {:?}\nagain: {}", run.result, command(seed, replicas));
}

#[test]
fn no_seed_finds_a_violation() {
    if let Some(seed) = number("ESCROW_SEED") {
        return fail_if_found(seed);
    }
    let first = number("ESCROW_FIRST_SEED").unwrap_or(0);
    let seeds = number("ESCROW_SEEDS").unwrap_or(SEEDS);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let totals = run_many(first..first + seeds, 1, None, threads, |_| ());
    // Straight to the log of CI, past the test harness.
    eprintln!(
        "simulation: {} seeds, {:.0} seeds a minute on {threads} threads, {:?}",
        totals.seeds,
        totals.seeds_a_minute(),
        totals.sum
    );
    if let Some(run) = totals.found.first() {
        fail(run.seed, 1);
    }
    assert_eq!(totals.seeds, seeds);
    // A simulation in which nothing happens finds nothing.
    assert!(totals.sum.begun > 20 * seeds && totals.sum.deaths > seeds, "{:?}", totals.sum);
}

fn fail_if_found(seed: u64) {
    if run(seed, 1, None, false).result.is_err() {
        fail(seed, 1);
    }
}

#[test]
fn one_seed_twice_is_the_same_run() {
    for seed in [1, 2, 3, 5, 8, 13, 21, 34, 55, 89] {
        let (one, two) = (run(seed, 1, None, true), run(seed, 1, None, true));
        let (lines, again) = (one.trace.lines(), two.trace.lines());
        let differs = lines.iter().zip(again).position(|(line, other)| line != other);
        assert_eq!(differs.map(|at| (&lines[at], &again[at])), None, "seed {seed}");
        assert_eq!(lines.len(), again.len(), "seed {seed}");
        assert!(lines.len() > 50, "seed {seed}: a trace says what happened");
        assert_eq!(one.result.unwrap(), two.result.unwrap(), "seed {seed}");
    }
}

#[test]
fn different_seeds_are_different_runs() {
    assert_ne!(run(1, 1, None, true).trace.lines(), run(2, 1, None, true).trace.lines());
}

#[test]
fn no_seed_of_replicas_finds_a_violation() {
    let first = number("ESCROW_FIRST_SEED").unwrap_or(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let totals = run_many(first..first + SEEDS_OF_REPLICAS, 3, None, threads, |_| ());
    eprintln!("simulation of replicas: {} seeds, {:?}", totals.seeds, totals.sum);
    if let Some(run) = totals.found.first() {
        fail(run.seed, 3);
    }
    assert_eq!(totals.seeds, SEEDS_OF_REPLICAS);
    assert!(
        totals.sum.begun > 15 * SEEDS_OF_REPLICAS
            && totals.sum.deaths > SEEDS_OF_REPLICAS
            && totals.sum.ages > 100 * SEEDS_OF_REPLICAS,
        "{:?}",
        totals.sum
    );
}

#[test]
fn one_seed_of_replicas_twice_is_the_same_run() {
    for seed in [1, 2, 3] {
        let (one, two) = (run(seed, 3, None, true), run(seed, 3, None, true));
        let (lines, again) = (one.trace.lines(), two.trace.lines());
        let differs = lines.iter().zip(again).position(|(line, other)| line != other);
        assert_eq!(differs.map(|at| (&lines[at], &again[at])), None, "seed {seed}");
        assert_eq!(one.result.unwrap(), two.result.unwrap(), "seed {seed}");
    }
}
