//! The ledger of one shard as a pure, deterministic state machine: accounts, reservations, fences.
//!
//! A [`Wallet`] takes [`Command`]s, which are columnar batches as they stand in the log, and gives [`Answers`]. The same
//! commands give the same state and the same answers, wherever and whenever they are applied: in the server, when it
//! replays its log, in simulation, in read models.
//!
//! # Layout
//! - [`command`]: what can be logged, one kind a file, with its bytes; [`entry`]: one log entry
//! - [`answers`]: what a command gives back
//! - [`wallet`]: the state machine, `apply`; `trying`, `ending`, `epochs`: its transitions
//! - `ledger` over `accounts`, `balances`, `branches`: the money
//! - `partition`, `slot`: which branches were seen, and how they ended
//! - `chunks`: what changed since the last checkpoint, copied in steps
//! - [`query`]: what can be asked of it; [`digest`]: whether two wallets are equal
//! - [`view`]: the state as records of a key-value store, for checkpoints
//!
//! # To ensure correctness
//! - A transfer's funds are held in Try, so that Confirm cannot fail for lack of them; credits are posted in Confirm.
//! - A branch leaves a slot behind when it ends. Slots are dropped by watermark or by a newer epoch, never by age.
//! - A slot that was dropped stays *finished*: nothing can bring that branch back.
//!
//! **Invariant:** no I/O, no clock, no randomness; no iteration over a hash table reaches an answer or a record.

pub mod answers;
pub mod command;
pub mod digest;
pub mod entry;
pub mod query;
pub mod view;
pub mod wallet;

mod accounts;
mod balances;
mod branches;
mod canaries;
mod chunks;
mod ending;
mod epochs;
#[cfg(test)]
mod fixture;
mod ledger;
mod partition;
mod slot;
mod trying;

pub use crate::answers::{Answers, BranchAnswers, Opened};
pub use crate::balances::Overdraft;
pub use crate::command::{
    Command, EndBatch, Hello, LEGS_MAX, OpenAccount, Partial, Sender, SetFrozen, TryBatch, UnequalColumns,
    Watermark, kind_of,
};
pub use crate::entry::Entry;
pub use crate::partition::WINDOW_SLOTS_MAX;
pub use crate::query::{AccountView, BalanceView, CurrencyTotal, ReservationView};
pub use crate::view::{Changes, Record};
pub use crate::wallet::Wallet;
pub use escrow_types::codec::Malformed;
