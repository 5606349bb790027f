//! What is on disk in a coordinator's data directory:
//!
//! ```text
//! identity.json      what this directory is: format, kind, partition, cluster id
//! lock               held while a process uses it
//! journal/           the recovery log: the truth
//! checkpoint         unfinished transactions as of some index of the log; names the runs that belong to it
//! *.snapshot         of a replica: on its way to a follower, or from the leader
//! runs/              ended transactions by key, immutable, one file a checkpoint: the idempotency window
//! ```
//!
//! Everything but the journal can be lost and is made again from it. Nothing here is changed in place.

mod checkpoint;
mod filter;
mod identity;
mod run;
mod snapshot;
mod window;

pub(crate) use checkpoint::Checkpoint;
pub(crate) use identity::{Identity, Membership};
pub(crate) use run::Run;
pub(crate) use snapshot::{export, install, read as read_snapshot, unfinished, unpack};
pub(crate) use window::{IdempotencyWindow, dir as runs_dir};
