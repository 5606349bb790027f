//! Fuzz targets: every decoder that reads bytes from outside, one function of bytes each.
//!
//! A target takes any bytes. It panics if a rule is broken, and that is all it can say. Rules beyond "no panic": what was
//! encoded comes back; what is accepted means the same when it is written again; memory is bounded by the input, whatever
//! its length fields claim; what was accepted can be applied.
//!
//! # Layout
//! - [`TARGETS`]: the list; `targets/`: one file a subject, with the seeds that real encoders make
//! - [`mutate`]: new inputs from old ones, by a seed
//! - [`memory`]: how much a target may allocate
//! - `corpus/TARGET/`: `seed-*`, made by `ESCROW_BLESS=1 cargo test -p escrow-fuzz --test corpus`, and `found-*`, inputs that
//!   broke a rule once
//! - `tests/smoke.rs`: the short run of every `cargo test`; `libfuzzer/`: the same targets guided by coverage
//!
//! [Decision 0013](../../docs/decisions/0013-fuzz-targets-are-functions-of-bytes.md) says why it is built so.

pub mod memory;
pub mod mutate;
mod targets;

use std::path::{Path, PathBuf};

/// One decoder, or one door of a server.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, and that of its folder in `corpus/`.
    pub name: &'static str,
    /// Runs it; panics if a rule is broken.
    pub run: fn(&[u8]),
    /// Inputs made by real encoders, by name. The same at each call.
    pub seeds: fn() -> Vec<(&'static str, Vec<u8>)>,
    /// How many mutated inputs the short run tries: more for fast targets.
    pub short_runs: u64,
}

/// All targets.
pub const TARGETS: &[Target] = targets::ALL;

impl Target {
    /// The target with a name.
    pub fn named(name: &str) -> Option<&'static Self> {
        TARGETS.iter().find(|target| target.name == name)
    }

    /// Where its inputs are kept.
    pub fn corpus_dir(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(self.name)
    }
}
