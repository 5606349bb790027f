//! Running one seed, or many.

use std::panic::{AssertUnwindSafe, catch_unwind};

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

/// Runs one seed, with a deliberate bug if there is to be one. A panic of the servers is a violation too: that is how they
/// assert invariants.
pub fn run(seed: u64, canary: Option<Canary>, keep_trace: bool) -> Run {
    sing(canary);
    let mut world = World::new(seed, Trace::new(keep_trace));
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
    let result =
        if dropped.is_err() { result.and(Err(Violation::other("a panic while it ended"))) } else { result };
    Run { seed, result, trace }
}

/// The first seed of a range that catches a canary, and what it said.
pub fn first_catch(canary: Canary, seeds: std::ops::Range<u64>) -> Option<(u64, Violation)> {
    seeds
        .into_iter()
        .find_map(|seed| run(seed, Some(canary), false).result.err().map(|violation| (seed, violation)))
}

/// Prints no message for panics of this thread and those after it: a violation is told once, by whoever ran the seed.
pub fn quiet_panics() {
    std::panic::set_hook(Box::new(|_| ()));
}
