//! The calling side of gRPC, on h2: what tonic's generated clients call through, at half of the cost of a call.
//!
//! tonic's own channel passes each call through a queue to a worker, a dozen layers, a task of hyper's, and back. For a stream that
//! is nothing; a call of one transfer spends most of its time there ([decision 0023](../../../docs/decisions/0023-calls-straight-over-h2.md)).
//! Here a call is written to its connection by whoever makes it.
//!
//! # Layout
//! - [`endpoint`]: where a channel leads, and its limits
//! - [`connector`]: what carries a connection: TCP, unless a simulation says otherwise
//! - [`channel`]: [`Channel`]: a connection that is made when it is first used and again when it is lost
//! - `connection`: one HTTP/2 connection: its settings, and pings that find out that nobody is there any more
//! - `upload`, `download`: the two directions of a call
//! - `unary`: a call of one message and one answer, without the layers of a stream
//! - `status`: what went wrong, as a gRPC status; whether a call [never left](was_not_sent)
//!
//! **Invariant:** knows nothing of transfers. What was not sent is never called "perhaps", and the other way round.

pub mod channel;
mod connection;
pub mod connector;
mod download;
pub mod endpoint;
mod status;
mod unary;
mod upload;

pub use channel::Channel;
pub use connector::Connector;
pub use download::Download;
pub use endpoint::{Endpoint, EndpointError, KeepAlive};
pub use status::{NotSent, was_not_sent};
