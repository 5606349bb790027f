//! Rust client of Escrow: routing, safe retries, unary, streaming and bulk.
//!
//! Every call that moves money bears a transaction_id, chosen by the caller or made here, and every retry bears the
//! same one: asking again is always safe, and what the server answers the second time is what it did the first time.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use escrow_client::{Client, Options, State, Transfer};
//! use escrow_types::Currency;
//!
//! let client = Client::connect(["http://127.0.0.1:7400"], Options::default())?;
//! let transfer = Transfer::new("alice".parse()?, "bob".parse()?, 1_234, Currency::USD);
//! let outcome = client.transfer(&transfer).await?;
//! assert_eq!(outcome.state, State::Confirmed);
//! # Ok(())
//! # }
//! ```
//!
//! A coordinator with replicas is one endpoint, `http://127.0.0.1:7400+http://127.0.0.1:7401`. Calls go to the one that leads, and
//! find the next one when it fails.
//!
//! # Layout
//! - [`options`]: time limits, retry policy, connections
//! - [`error`]: [`ClientError`]: may I retry, and can it have had an effect
//! - [`model`]: what callers give and get, in the types of `escrow_types`
//! - [`id`]: transaction ids made here: one, or millions a second
//! - `transfers`, `transactions`, `accounts`, `operator`: the calls of [`Client`], one file a service
//! - [`stream`]: many transfers over one stream, one message each
//! - [`bulk`]: very many transfers over one stream, as columns
//! - [`shard`]: what a wallet shard tells tools: totals, reservations, verification
//! - [`replicas`]: how the replicas of a partition or shard stand
//! - `call`, `retry`, `channel`, `convert`: one attempt and its classification, the pauses between attempts,
//!   connections, and the wire's types to ours
//! - `resume`: streams that outlive the replica that they were opened to
//!
//! **Invariant:** a call never lasts longer than its deadline, and no retry ever bears another transaction_id than the
//! first attempt did.

mod accounts;
pub mod bulk;
mod call;
mod channel;
mod client;
mod convert;
pub mod error;
pub mod id;
pub mod model;
pub mod operator;
pub mod options;
pub mod replicas;
mod resume;
mod retry;
pub mod shard;
pub mod stream;
mod transactions;
mod transfers;

pub use client::Client;
pub use error::ClientError;
/// The operators' reports are the messages of the wire contract themselves: they are to be looked at, not computed with.
pub use escrow_proto::v1 as report;
pub use id::IdSequence;
pub use model::{
    Account, AccountAsOf, Balance, Direction, Leg, OpenAccount, OpenedAccount, Outcome, Overdraft,
    ReadBounds, Record, Reservation, State, Transfer, Wait,
};
pub use options::{Options, RetryPolicy};
pub use shard::ShardClient;
