//! A cluster of child processes on this machine, supervised: what `escrow up`, the demo, tests and chaos all use.
//!
//! On disk, under one data directory:
//! ```text
//! LOCK               held (flock) while a supervisor runs; holds its pid
//! topology.json      how many coordinators, participants and replicas: accounts are dealt out over them, so it cannot change;
//!                    with replicas also whether their groups are there, and which free ports were picked
//! restoring          there while it is filled from a backup: half a cluster is never started
//! cluster.json       while it runs: ids, pids, endpoints; replaced whole, so that readers never see half of it
//! coordinator-N/     data of a coordinator; of a replica coordinator-N.R/
//! participant-N/     data of a participant; of a replica participant-N.R/
//! logs/NAME.log      stdout and stderr of each process, appended over restarts
//! ```
//!
//! No child outlives its supervisor: a clean stop waits for each and kills those that are late; a supervisor that is
//! dropped kills its children; one that dies of SIGKILL takes them along, because each child asked the kernel for that
//! when it started ([`child::follow_supervisor`]).
//!
//! With replicas every partition and every shard is a group of processes. Each is told of the others, and, until everything was ready
//! for the first time, that the groups are new. A process that comes back without its data later is not told so: it asks the others
//! to take it in (`escrow_replica::membership`).
//!
//! **Invariant:** only processes that were started here are ever signalled, through handles that cannot hit another; knows
//! nothing of what the processes do beyond their health, how their replicas stand, and the coordinator's status.

mod arguments;
pub mod child;
mod error;
pub mod groups;
mod health;
mod layout;
mod ports;
mod process;
mod readiness;
mod rolling;
mod spec;
mod supervisor;

pub use error::ClusterError;
pub use escrow_replica::GroupId;
pub use health::wait_serving;
pub use layout::{Manifest, ManifestEntry, Restoring, begin_empty, size_of};
pub use spec::{NodeId, Restart, Role, Spec, check_replicas};
pub use supervisor::{Cluster, Event};
