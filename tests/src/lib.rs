//! End-to-end tests against real processes on real disks.
//!
//! # Layout
//! - [`command`]: the binary as people run it: one command, its output and exit code
//! - the harness is that of chaos runs: [`escrow_chaos`] (cluster, load, oracle), named here again for short
//!
//! The tests themselves are in `tests/`, one subject a file. `interop/` has the Python client and participant.
//!
//! **Invariant:** everything listens on loopback, on ports that are free at run time; every wait has a deadline.

pub mod command;

pub use command::{Ran, escrow, escrow_at};
pub use escrow_chaos::{Trial, World, chance, scenario, until, wait, world};
