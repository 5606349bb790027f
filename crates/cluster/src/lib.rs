//! A cluster of child processes on this machine, supervised: what `escrow up`, the demo, tests and chaos all use.
//!
//! On disk, under one data directory:
//! ```text
//! LOCK               held (flock) while a supervisor runs; holds its pid
//! topology.json      how many coordinators and participants: accounts are dealt out over them, so it cannot change
//! cluster.json       while it runs: ids, pids, endpoints; replaced whole, so that readers never see half of it
//! coordinator-N/     data of a coordinator
//! participant-N/     data of a participant
//! logs/NAME.log      stdout and stderr of each process, appended over restarts
//! ```
//!
//! No child outlives its supervisor: a clean stop waits for each and kills those that are late; a supervisor that is
//! dropped kills its children; one that dies of SIGKILL takes them along, because each child asked the kernel for that
//! when it started ([`child::follow_supervisor`]).
//!
//! **Invariant:** only processes that were started here are ever signalled, through handles that cannot hit another; knows
//! nothing of what the processes do beyond their health and the coordinator's status.

pub mod child;
mod error;
mod health;
mod layout;
mod ports;
mod process;
mod spec;
mod supervisor;

pub use error::ClusterError;
pub use health::wait_serving;
pub use layout::{Manifest, ManifestEntry};
pub use spec::{NodeId, Restart, Role, Spec};
pub use supervisor::{Cluster, Event};
