//! The participant: a server that holds one or more wallet shards.
//!
//! Coordinators reserve, post and release through `ParticipantService`; `AccountService` opens and shows accounts;
//! `ShardService` tells tools what the shards hold and checks it.
//!
//! # On disk
//! One directory, locked by the process that uses it:
//! ```text
//! lock             advisory lock
//! identity.json    kind, format version, shards, cluster once known, id of the journal
//! journal/         the log of all shards: the one truth
//! shard-N/sled/    the shard's state as of its last checkpoint: a view, rebuilt from the log if it is lost
//! shard-N/checkpoint   a checkpoint that is being put into the view, record by record
//! shard-N/*.snapshot   of a replica: on its way to a follower, or from the leader
//! ```
//!
//! # Layout
//! - [`Config`], [`ParticipantError`], [`Server`]: what others use
//! - `identity`: whose directory it is; `recovery`: from disk to running shards
//! - `owner`: one task a shard that owns its wallet: log, then apply, then answer
//! - `replicated`, `snapshot`: what is different on disk when shards are replicas
//! - `store`: sled as the materialised view; `checkpoint`: the thread that writes it; `records`: files of its records
//! - `verify`: checkpoint and log, and the log alone, against the live state
//! - `edge`: the gRPC services
//! - [`ground`]: disk, views, clock and threads that it stands on; [`unbound`]: the same server on other ground
//! - [`offline`]: backups of shards, and what is done with data while no server runs
//! - [`stepped`]: all of it without sockets, threads, sled and clock, for simulations
//!
//! # To ensure correctness
//! - Every change goes through the log; nothing is answered, not even a rejection, before it is durable.
//! - A reservation is never released by a clock. Past its deadline the shard asks, and does as told.
//! - A failed write of the log ends the process; what was unanswered is answered as of unknown outcome.
//!
//! **Invariant:** knows nothing of transactions across shards and of decisions; never speaks to another server first.

mod checkpoint;
mod config;
mod edge;
mod error;
mod failpoint;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod ground;
mod identity;
pub mod offline;
mod owner;
mod records;
mod recovery;
mod replicated;
mod server;
mod snapshot;
pub mod stepped;
mod store;
pub mod unbound;
mod verify;

pub use config::{Archive, Config};
pub use edge::PARTICIPANT_METADATA;
pub use error::ParticipantError;
pub use ground::Ground;
pub use server::Server;
pub use store::MemoryView;
pub use unbound::Unbound;
