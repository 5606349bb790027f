//! Raft groups: what turns a pure state machine with one owner into a replicated one.
//!
//! A group is a few replicas, each in a process of its own, that agree on one log by openraft. The owner of the state machine proposes
//! batches of commands while its replica leads, and applies what is committed, in order, whether it leads or not: a leader change and
//! the recovery after a crash are the same path.
//!
//! # Layout
//! - [`config`]: what a server is told of replication
//! - [`freshness`]: who is sure to lead, and how old the state of a follower may be
//! - [`group`]: [`Replica`], one replica of a group: propose, read index, status; `proposing`: proposals until they are applied;
//!   `standing`: who leads, and what a leader sees to
//! - [`log`]: the log of a group as a virtual log in the journal of the process
//! - [`machine`]: committed entries and snapshots on their way to the owner ([`Fed`])
//! - [`network`]: calls to other replicas; [`service`]: calls from them; [`grpc`]: both over gRPC
//! - [`export`]: snapshots for backups; [`restore`]: a log that begins with one
//! - [`membership`]: adding, removing, replacing members; coming back after the loss of a disk
//! - [`runtime`]: tokio, or a simulation's executor; `watch`: the one channel that is our own
//! - `types`, `wire`: openraft's types, and as messages
//!
//! A group of one has no replica: its owner's log is the journal itself, and pays nothing for consensus
//! (docs/decisions/0015-raft-by-openraft.md).
//!
//! **Invariant:** knows nothing of transactions and wallets; commands are opaque. Nothing here decides what is committed: openraft does.

pub mod config;
pub mod error;
pub mod export;
pub mod freshness;
pub mod group;
pub mod grpc;
pub mod log;
pub mod machine;
pub mod membership;
pub mod network;
mod proposing;
pub mod restore;
pub mod runtime;
pub mod service;
mod standing;
mod types;
mod watch;
mod wire;

pub use config::Replication;
pub use error::{Malformed, NotLeader, ReplicaError};
pub use freshness::Freshness;
pub use group::{Feed, Replica, Settings, Times};
pub use log::{GroupLog, Recovering, Trim};
pub use machine::{Committed, Fed};
pub use membership::ChangeError;
pub use network::{CallError, Transport};
pub use service::Replicas;
pub use standing::Standing;
pub use types::{GroupId, Member, MemberId, Position};
