//! Real processes, real kills: `escrow chaos`, and the harness that end-to-end tests use.
//!
//! # Layout
//! A run:
//! - [`scenario`]: what is done to a cluster, as files that people read; those of `chaos/scenarios/` are in the binary
//! - [`schedule`]: when what strikes whom: the same seed makes the same list
//! - [`engine`]: starts a cluster, keeps it under load, strikes, measures recovery, checks everything, cleans up
//! - [`proxy`]: a TCP proxy that makes the network bad
//! - [`failpoints`]: where servers can be told to die
//! - [`record`]: what came of a run, as data; [`report`]: as a page
//!
//! Of runs and of tests:
//! - [`load`]: open-loop load of every kind of transaction, with retries, feeding the oracle and the meter
//! - [`oracle`]: remembers every acknowledged answer, and judges in the end
//! - [`chance`]: seeded choices
//!
//! Of tests:
//! - [`world`]: a cluster of real processes with a client: started, killed, restarted, checked; nothing outlives its owner
//! - [`trial`]: load on its accounts, from the first balances to the judgement
//! - [`wait`]: the one way to wait for something: look until it is so, or a deadline
//!
//! **Invariant:** everything listens on loopback, on ports that are free at run time; every wait has a deadline; only processes
//! that were started here are ever killed, by their ids.

pub mod chance;
pub mod engine;
pub mod failpoints;
pub mod load;
pub mod oracle;
pub mod proxy;
pub mod record;
pub mod report;
pub mod scenario;
pub mod schedule;
pub mod trial;
pub mod wait;
pub mod world;

pub use trial::Trial;
pub use wait::until;
pub use world::World;
