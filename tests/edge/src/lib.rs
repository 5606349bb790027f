//! The real servers and the real client over a simulated network and simulated time: what happens to connections.
//!
//! turmoil carries TCP between hosts that each have a tokio runtime of their own, with time that passes only when everybody waits.
//! On it run the whole coordinator and the whole participant (tonic, HTTP/2, keep-alive, links with their breaker, streams, drain),
//! on simulated disks. Only threads are replaced by tasks: who writes the log, and who writes checkpoints.
//!
//! # Layout
//! - [`story`]: runs a story for several seeds, and ends each with the checks
//! - [`world`]: hosts, faults, and what a story can do to them; [`node`]: the servers on their hosts
//! - [`ground`], [`net`]: what the servers stand on: disk, clock, log, connections
//! - [`load`]: transfers that go on meanwhile, and what their callers were told
//! - [`check`]: what must be true in the end
//!
//! The stories are in `tests/suites/`, one subject a file.
//!
//! **Invariant:** every wait has a limit in simulated time; nothing here touches the machine's network, disk or clock.

pub mod check;
pub mod ground;
pub mod load;
pub mod net;
pub mod node;
pub mod story;
pub mod world;

pub use load::Load;
pub use node::Node;
pub use story::{Setup, tell};
pub use world::World;
