//! The protocol once more, as a model that is checked exhaustively within a bound.
//!
//! It is a second, independent statement of docs/protocol.md: it shares no code with `crates/tcc` and `crates/wallet`, only the
//! ids of the invariants, and is meant to be read beside that document. It must never call them: a mistake there must
//! not be a mistake here.
//!
//! # Layout
//!
//! - [`words`], [`messages`], [`network`]: what there is, and what travels; a network that loses, repeats and reorders.
//! - [`coordinator`]: the durable log, and leaders that append to it, decide, crash, or are deposed and live on.
//! - [`participant`]: the table of slots of a wallet shard, hello, watermark.
//! - [`state`], [`model`]: all of it together, and which steps are possible.
//! - [`witness`], [`properties`], [`settle`]: an observer, what must be true of every state, and what happens when faults stop.
//! - [`canary`]: rules broken on purpose, each of which the checker must find.
//! - [`config`], [`bounds`], [`run`]: how much is checked, and the report.
//!
//! # What it covers
//!
//! Callers who ask again, Begin that is not waited for, the decision and its durability, both phases, one phase, rejections,
//! deadlines, branches that were never sent, changes of leader with and without a crash, deposed leaders who still send
//! and begin, hello, orphans, questions about overdue reservations, empty cancels, late Trys, watermarks, crashes of shards.
//!
//! # What it abstracts away
//!
//! - Money: A has funds for one reservation at a time, B takes any credit. Amounts, legs, accounts: `crates/wallet/tests`.
//! - Time: a deadline may pass at any moment at which it matters.
//! - Disks: the coordinator's log is durable entry by entry, in any order of transactions; checkpoints and torn tails are
//!   the journal's.
//! - Two-step transactions, operators, external participants, the end of the idempotency window. See docs/model.md.

pub mod bounds;
pub mod canary;
pub mod config;
pub mod coordinator;
pub mod messages;
pub mod model;
pub mod network;
pub mod participant;
pub mod properties;
pub mod run;
pub mod settle;
mod sights;
pub mod state;
pub mod witness;
pub mod words;

pub use bounds::Bound;
pub use canary::Canary;
pub use config::Config;
pub use run::{Report, Search, Verdict, run};
