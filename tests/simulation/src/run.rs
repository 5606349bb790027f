//! Running one seed, or many.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use escrow_invariants::canary::{Canary, sing};

use crate::trace::Trace;
use crate::violation::Violation;
use crate::world::{Summary, World};

/// What became of one seed.
#[derive(Debug)]
pub struct Run {
    /// Which one.
    pub seed: u64,
    /// What it did, or what it found.
    pub result: Result<Summary, Violation>,
    /// What happened, if it was to be kept.
    pub trace: Trace,
}

/// Runs one seed, with so many replicas of everything, and a deliberate bug if there is to be one. A panic of the servers is a violation too: that is how they
/// assert invariants.
pub fn run(seed: u64, replicas: usize, canary: Option<Canary>, keep_trace: bool) -> Run {
    tell_other_panics_only();
    RUNNING.set(true);
    sing(canary);
    let mut world = World::new(seed, replicas, Trace::new(keep_trace));
    let result = catch_unwind(AssertUnwindSafe(|| world.run()));
    let result = result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(Violation::other(text.unwrap_or_else(|| "a panic".to_owned())))
    });
    let trace = std::mem::take(&mut world.trace);
    // What is left of the servers may be half-way through something: it is not asked to end in order.
    let dropped = catch_unwind(AssertUnwindSafe(|| drop(world)));
    sing(None);
    RUNNING.set(false);
    let result =
        if dropped.is_err() { result.and(Err(Violation::other("a panic while it ended"))) } else { result };
    Run { seed, result, trace }
}

/// What many seeds did.
#[derive(Debug, Default)]
pub struct Totals {
    /// Seeds that were run.
    pub seeds: u64,
    /// How long that took.
    pub took: Duration,
    /// Their sums.
    pub sum: Summary,
    /// What was found, at most a few a thread.
    pub found: Vec<Run>,
}

impl Totals {
    /// Seeds a minute.
    pub fn seeds_a_minute(&self) -> f64 {
        self.seeds as f64 * 60.0 / self.took.as_secs_f64().max(0.001)
    }
}

/// What is told of many seeds while they run.
#[derive(Debug)]
pub enum News<'a> {
    /// So many are done, after so long.
    Done(u64, Duration),
    /// This one found something.
    Found(&'a Run),
}

/// Runs many seeds on several threads; `tell` hears at once of what is found, and now and then how many are done. Stops early when
/// it keeps finding things.
pub fn run_many(
    seeds: std::ops::Range<u64>,
    replicas: usize,
    canary: Option<Canary>,
    threads: usize,
    tell: impl Fn(News<'_>) + Sync,
) -> Totals {
    /// So many violations are enough.
    const FOUND_MAX: usize = 5;
    const TELL_EVERY: u64 = 10_000;
    let (next, started) = (AtomicU64::new(seeds.start), Instant::now());
    let work = || {
        let mut totals = Totals::default();
        while totals.found.len() < FOUND_MAX {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                break;
            }
            let run = run(seed, replicas, canary, false);
            totals.seeds += 1;
            if let Ok(summary) = &run.result {
                totals.sum.add(summary);
            } else {
                tell(News::Found(&run));
                totals.found.push(run);
            }
            if (seed - seeds.start + 1).is_multiple_of(TELL_EVERY) {
                tell(News::Done(seed - seeds.start + 1, started.elapsed()));
            }
        }
        totals
    };
    let mut all = Totals::default();
    for totals in on_threads(threads, work) {
        all.seeds += totals.seeds;
        all.sum.add(&totals.sum);
        all.found.extend(totals.found);
    }
    all.took = started.elapsed();
    all
}

/// How many replicas a canary needs to be a bug at all.
pub const fn replicas_for(canary: Canary) -> usize {
    match canary {
        Canary::VoteNotPersisted | Canary::AppliedBeforeCommitted | Canary::DeposedLeaderAnswers => 3,
        _ => 1,
    }
}

/// Where it pays to begin with a canary: what few seeds catch costs minutes from the first on. Those before it come last, so that it
/// does not matter to what is caught.
const fn begins_at(canary: Canary) -> u64 {
    match canary {
        // A deposed leader must be asked after the new one told an outcome, and by a caller who was told: PENDING is no lie.
        Canary::DeposedLeaderAnswers => 1_400,
        Canary::FenceDroppedByAge => 250,
        _ => 0,
    }
}

/// A seed of a range that catches a canary, and what it said: the first one from where it pays to begin. Runs so many seeds at a time.
pub fn first_catch(canary: Canary, seeds: std::ops::Range<u64>, threads: usize) -> Option<(u64, Violation)> {
    let (replicas, count) = (replicas_for(canary), seeds.end.saturating_sub(seeds.start));
    let ahead = begins_at(canary).saturating_sub(seeds.start);
    let (next, is_caught) = (AtomicU64::new(0), AtomicBool::new(false));
    let catch = || {
        // Seeds are given out in order: when one is caught, all before it are done or being done.
        while !is_caught.load(Ordering::Relaxed) {
            let turn = next.fetch_add(1, Ordering::Relaxed);
            if turn >= count {
                break;
            }
            let seed = seeds.start + (ahead + turn) % count;
            if let Err(violation) = run(seed, replicas, Some(canary), false).result {
                is_caught.store(true, Ordering::Relaxed);
                return Some((turn, seed, violation));
            }
        }
        None
    };
    let caught = on_threads(threads, catch).into_iter().flatten().min_by_key(|(turn, ..)| *turn);
    caught.map(|(_, seed, violation)| (seed, violation))
}

/// Does the same on each of so many threads.
fn on_threads<T: Send>(threads: usize, work: impl Fn() -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(&work)).collect();
        workers.into_iter().map(|worker| worker.join().expect("panics of servers are caught")).collect()
    })
}

thread_local! {
    static RUNNING: Cell<bool> = const { Cell::new(false) };
}

/// A panic of a simulated server is told once, as a violation, by whoever ran the seed; any other is told as always.
fn tell_other_panics_only() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let tell = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !RUNNING.get() {
                tell(info);
            }
        }));
    });
}
