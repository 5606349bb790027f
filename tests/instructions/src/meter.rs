//! Marks the part of an operation that is counted: what runs inside of one function with a name that valgrind is told.

use std::hint::black_box;

/// The function that valgrind watches, as a pattern: instructions count from its call to its return.
pub const WATCHED: &str = "*counted_by_callgrind*";

/// What was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// Rows: transfers, branches, entries.
    pub rows: u64,
    /// Rows that were worked on at a time.
    pub batch: u64,
}

/// Told of every batch and every step of it; counts the steps that are wanted.
#[derive(Debug)]
pub struct Meter {
    wanted: &'static str,
    /// Every step counts.
    whole: bool,
    warm: bool,
    rows: u64,
    batches: u64,
    steps: u64,
}

impl Meter {
    pub(crate) const fn of(wanted: &'static str) -> Self {
        Self { wanted, whole: false, warm: false, rows: 0, batches: 0, steps: 0 }
    }

    /// Counts nothing: for work that comes before.
    pub(crate) const fn idle() -> Self {
        Self::of("")
    }

    /// All steps together are what is wanted.
    pub(crate) const fn count_whole(&mut self) {
        self.whole = true;
    }

    /// A batch of so many rows follows. It is counted if it is `warm`: before, tables grow to the size that they have in a server
    /// that runs.
    pub(crate) const fn batch(&mut self, rows: usize, warm: bool) {
        self.warm = warm;
        if warm {
            self.rows += rows as u64;
            self.batches += 1;
        }
    }

    /// Does one step of the batch.
    pub(crate) fn step<T>(&mut self, name: &str, work: impl FnOnce() -> T) -> T {
        if !self.warm || !(self.whole || name == self.wanted) {
            return work();
        }
        self.steps += 1;
        let (mut work, mut result) = (Some(work), None);
        counted_by_callgrind(&mut || result = work.take().map(|work| work()));
        result.expect("it was called once")
    }

    pub(crate) fn counted(&self) -> Counted {
        assert!(self.steps >= self.batches && self.batches > 0, "{} does not count each batch", self.wanted);
        Counted { rows: self.rows, batch: self.rows / self.batches }
    }
}

/// Not inlined, and not generic: so it has this name in the binary, once.
#[inline(never)]
fn counted_by_callgrind(work: &mut dyn FnMut()) {
    black_box(work)();
}
