//! The coordinator's transactions as a pure, deterministic state machine.
//!
//! # Layout
//! - [`content`]: what a transaction moves: legs, branches, fingerprint
//! - [`command`]: what the recovery log holds, one kind a file; [`entry`]: one log entry
//! - [`machine`]: the state that the log gives: unfinished transactions, what is remembered, digest
//! - [`driver`]: the leader's volatile part: which branch answered what, who waits, what to send, when to retry
//! - [`window`]: the dense table by sequence that both use
//! - [`routing`]: accounts to participants; `hash`: the hash of 128-bit keys
//!
//! The [`Machine`] changes only by [`Machine::apply`] of durable entries, so that it is the same on every replay. The
//! [`Driver`] turns requests, answers and time into commands to log, and *applied* commands into messages to send and
//! answers to callers: that is why no phase-2 message can leave before its decision is durable.
//!
//! **Invariant:** no I/O, no clock, no randomness, no iteration order of hash tables in anything that leaves.

pub mod command;
pub mod content;
pub mod driver;
pub mod entry;
mod hash;
pub mod machine;
pub mod routing;
pub mod window;

pub use command::Command;
pub use content::{Content, Direction, Leg, Transfer};
pub use driver::Driver;
pub use entry::Entry;
pub use machine::{Decision, Machine};
