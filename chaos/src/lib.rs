//! Real processes, real kills: the harness that chaos runs and end-to-end tests share.
//!
//! # Layout
//! - [`world`]: a cluster of real processes with a client: started, killed, restarted, checked; nothing outlives its owner
//! - [`load`]: open-loop load of every kind of transaction, with retries, feeding the oracle
//! - [`oracle`]: the checker: remembers every acknowledged answer, and what the balances must be in the end
//! - [`wait`]: the one way to wait for something: look until it is so, or a deadline
//! - [`chance`]: seeded choices
//!
//! **Invariant:** everything listens on loopback, on ports that are free at run time; every wait has a deadline; only processes
//! that were started here are ever killed, by their ids.

pub mod chance;
pub mod load;
pub mod oracle;
pub mod wait;
pub mod world;

pub use wait::until;
pub use world::World;
