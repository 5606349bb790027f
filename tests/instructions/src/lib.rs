//! How many instructions each step of a transfer takes: the pure state machines, the codecs, the frames of the journal.
//!
//! Times on a shared machine differ by a tenth from run to run; instructions differ by nothing, if the work is the same. So
//! every operation here is a function of nothing: fixed ids and accounts, no clock, no disk, no thread.
//!
//! Why no framework: those that count under valgrind want a runner of exactly their version installed, and bring some forty crates.
//! What is needed of them is [`callgrind`].
//!
//! # Layout
//! - [`OPERATIONS`]: the list; `operations/`: one file a subject
//! - [`meter`]: marks the part of an operation that is counted
//! - [`callgrind`]: runs one operation under valgrind; [`table`]: the counts as a table, and two tables compared
//! - `main.rs`: counts, compares, blesses. `tests/bench/instructions.sh` builds and runs it; the table is
//!   `docs/instructions.md`
//!
//! **Invariant:** an operation does the same work in every process. Nothing that depends on time, addresses or seeds of a hash
//! decides what it does.

pub mod callgrind;
pub mod meter;
mod operations;
pub mod table;

use meter::{Counted, Meter};

/// Something that is counted.
#[derive(Debug, Clone, Copy)]
pub struct Operation {
    /// Subject and step, as `driver/two-phase/begin`.
    pub name: &'static str,
    /// What a row is, and what is done with it: one line for people.
    pub what: &'static str,
    /// Does it, and marks what is to be counted.
    work: fn(&mut Meter),
}

/// All of them, in the order of the table.
pub const OPERATIONS: &[&[Operation]] = &[
    operations::driver::ALL,
    operations::machine::ALL,
    operations::wallet::ALL,
    operations::wire::ALL,
    operations::journal::ALL,
];

impl Operation {
    /// All of them, one after the other.
    pub fn all() -> impl Iterator<Item = &'static Self> {
        OPERATIONS.iter().copied().flatten()
    }

    /// The operation with a name.
    pub fn named(name: &str) -> Option<&'static Self> {
        Self::all().find(|operation| operation.name == name)
    }

    /// Runs it; what is counted runs inside of the function that [`callgrind`] watches.
    pub fn run(&self) -> Counted {
        let mut meter = Meter::of(self.name);
        (self.work)(&mut meter);
        meter.counted()
    }
}
