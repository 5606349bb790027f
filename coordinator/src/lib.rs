//! The coordinator: takes transactions from callers, drives Try/Confirm/Cancel against participants, and brings every
//! transaction to its end whatever dies in between.
//!
//! # Layout
//! - [`config`]: what can be set; [`error`]: why a coordinator does not start or stops
//! - [`server`]: [`Server::bind`] recovers and listens, [`Server::run`] serves until told to stop
//! - [`ground`]: disk, clock, network and threads that it stands on; [`unbound`]: the same server on other ground
//! - `owner/`: the one task that owns the state: drains its mailbox, logs, applies, lets effects out
//! - `store/`: what is on disk besides the journal: identity, checkpoint, the runs of the idempotency window
//! - `replicated`: what is different on disk when the partition is replicated
//! - [`offline`]: backups of a partition, and what is done with data while no server runs
//! - `links/`: one task per participant: connect, hello, columns; unary calls to external participants
//! - `edge/`: the gRPC services: validate, hand to the owner, translate answers
//! - [`stepped`]: all of it without sockets, threads and clock, for simulations
//!
//! **Invariant:** the rules of the protocol are in `escrow-tcc`; here is only I/O. Nothing here knows sled or balances.

pub mod config;
mod edge;
pub mod error;
mod failpoint;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod ground;
mod links;
pub mod offline;
mod owner;
mod replicated;
pub mod server;
pub mod stepped;
mod store;
pub mod unbound;

pub use config::{Archive, Config, ParticipantConfig, ParticipantKind};
pub use error::CoordinatorError;
pub use ground::Ground;
pub use server::Server;
pub use unbound::Unbound;
