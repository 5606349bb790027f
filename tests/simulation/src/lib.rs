//! Deterministic simulation: the real coordinator and participants, with the real journal, ledger and protocol, on a
//! simulated network, clock and disk. One seed decides everything; the same seed is the same run, to the last message.
//!
//! # Layout
//! - [`run`]: one seed, and what it found; `world`: everything of one simulation, and its loop; `happen`: what each event does
//! - `faults`: what a seed draws; `trouble`: when it happens; `disk`, `network`, `links`, `time`: where it happens
//! - `coordinator`, `participant`, `external`: the processes; `processes`: how they go on; `lives`: how they die and
//!   come back
//! - `replicas`: what Raft runs on, if every process has replicas
//! - `jobs`, `callers`: the work, and the oracle at the side of the callers
//! - `observe`: reads every log as it becomes durable and holds it against the invariants; `settle`: what must hold in the end
//! - `task`, `chance`, `trace`, `violation`: futures by hand, choices, what happened, what must not
//!
//! What is real: recovery, owners, drivers, wallets, journal, checkpoints, idempotency window, sessions, the services behind gRPC and the
//! bytes of every message. What is not: sockets and HTTP/2 (see the suites of the edge), sled (a map that is replaced as one),
//! threads (their work is done step by step).
//!
//! **Invariant:** nothing here reads a clock, a random number or a file that is not simulated.

mod callers;
mod chance;
mod coordinator;
mod disk;
mod external;
mod faults;
mod happen;
mod jobs;
mod links;
mod lives;
mod members;
mod network;
mod observe;
mod participant;
mod processes;
mod replicas;
pub mod run;
mod settle;
mod task;
mod time;
pub mod trace;
mod trouble;
pub mod violation;
mod world;

pub use escrow_invariants::canary::Canary;
pub use run::{News, Run, Totals, first_catch, replicas_for, run, run_many};
pub use violation::Violation;
pub use world::Summary;

/// The one command that repeats a seed.
pub fn command(seed: u64, replicas: usize) -> String {
    let replicas = if replicas == 1 { String::new() } else { format!(" --replicas {replicas}") };
    format!("cargo run --profile simulation -p escrow-simulation -- --seed {seed}{replicas} --trace")
}
