//! The words of Escrow as types: ids, keys, amounts, currencies, reason codes.
//!
//! Every other crate speaks in these types, so that an account cannot be passed where a transaction is meant
//! and a sum cannot overflow unseen.
//!
//! # Layout
//! - [`id`]: the caller's opaque strings ([`AccountId`], [`TransactionId`]) and their 128-bit keys
//! - [`xid`]: the coordinator's own name of a transaction: partition, epoch, sequence
//! - [`money`]: ISO 4217 currencies and decimal amounts
//! - [`reason`]: why a transaction was canceled or a request refused: one catalogue
//! - [`position`]: what a read must include
//! - [`dense`]: sequences without a gap
//! - [`KeyIndex`]: where the row of a key is
//! - [`routing`]: which shard holds an account
//! - [`span`]: spans of time as people write them
//! - [`digest`]: the order-independent hash that says whether two states are equal
//! - [`codec`]: little-endian columns, the one byte format of logs and checkpoints
//!
//! **Invariant:** no I/O, no clock, no randomness here; nothing in this crate knows gRPC or files.

pub mod codec;
pub mod dense;
pub mod digest;
pub mod id;
mod key_index;
pub mod money;
pub mod position;
pub mod reason;
pub mod routing;
pub mod span;
pub mod xid;

pub use digest::Digest;
pub use id::{AccountId, AccountKey, IdError, TransactionId, TransactionKey};
pub use key_index::KeyIndex;
pub use money::{Amount, AmountError, Currency};
pub use position::{NoPosition, ReadPosition};
pub use reason::{Answer, Reason};
pub use routing::{ParticipantId, Slot, SlotRange};
pub use xid::{Epoch, Partition, Sequence, Xid};

/// Milliseconds since the Unix epoch. Pure crates never read a clock: time arrives as data of a command.
pub type Millis = u64;
