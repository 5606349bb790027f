//! What every Escrow server shares: its listener, health and reflection, bounded shutdown, and error statuses.
//!
//! # Layout
//! - [`clock`]: what time it is
//! - [`listen`]: bind first, fail early with a clear error
//! - [`malformed`]: bytes that are not the message: refusals too
//! - `preface`: connections that never begin are given up
//! - [`replicas`]: a group of replicas as one endpoint, and the way of a call to the one that leads
//! - [`serve`]: a tonic server with health and reflection that drains within a deadline
//! - [`status`]: refusals as gRPC statuses with `google.rpc.ErrorInfo`, both directions
//! - [`transport`]: where connections come from; TCP, unless a simulation says otherwise
//!
//! **Invariant:** knows nothing of transactions, shards or logs.

pub mod clock;
mod direct;
pub mod listen;
pub mod malformed;
mod preface;
pub mod progress;
pub mod replicas;
pub mod serve;
pub mod status;
pub mod transport;

pub use listen::{ListenError, bind};
pub use replicas::{Course, Replicas};
pub use serve::{Limits, builder, serve, serve_until};
pub use status::{leader_of, not_leader, reason_of, refusal, unknown_outcome};
pub use transport::Incoming;
