//! The load generator: a closed loop over one of three ways in, with latencies.
//!
//! It must cost little beside the servers that share the machine with it: accounts are chosen by a table look-up, ids
//! by a counter, answers are matched by their number in a ring, and in bulk nothing is allocated for a transfer.
//!
//! A run ends in bounded time whatever the servers do: when no answer comes for [`Load::stall_after`] it fails.

mod accounts;
mod bulk;
mod chooser;
mod meter;
mod ring;
mod rng;
mod stream;
mod unary;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use escrow_client::{Client, ClientError, Wait};
use escrow_types::Currency;

pub use accounts::{Accounts, Wanted, prepare};
use chooser::Chooser;
pub use chooser::Skew;
pub use meter::{Latency, Meter, Summary};

/// How transfers go in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// One call a transfer
    Unary,
    /// One message a transfer on one stream
    Stream,
    /// Columns of thousands of transfers a message
    Bulk,
}

/// How much is to be done.
#[derive(Debug, Clone, Copy)]
pub enum Amount {
    /// So many transfers.
    Transfers(u64),
    /// As many as can be sent in this time.
    For(Duration),
}

/// One run of load.
#[derive(Debug, Clone)]
pub struct Load {
    /// How transfers go in.
    pub mode: Mode,
    /// How much.
    pub amount: Amount,
    /// Unanswered transfers at a time.
    pub in_flight: u64,
    /// Rows of a bulk message.
    pub batch: u64,
    /// Percent of transfers between different shards.
    pub cross_shard: u8,
    /// Which accounts are chosen how often.
    pub skew: Skew,
    /// When answers are wanted.
    pub wait: Wait,
    /// Of all transfers.
    pub currency: Currency,
    /// Timeout of each transfer.
    pub timeout: Duration,
    /// A run without any answer for this long has failed.
    pub stall_after: Duration,
    /// Chooses the accounts; the same seed chooses the same.
    pub seed: u64,
}

/// Why a run has no result.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A call or stream failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// No answer came.
    #[error("no answer came for {0:?}: {1} transfers are unanswered")]
    Stalled(Duration, u64),
    /// The server answered what was not asked.
    #[error("an answer to a transfer that was not sent, or the second to one: {0}")]
    Unasked(String),
    /// There is nothing to run on.
    #[error("{0}")]
    Setup(String),
}

/// Runs load to its end: everything sent is answered. `tell` hears several times a second how many are.
pub async fn run(
    client: &Client,
    accounts: &Accounts,
    load: &Load,
    tell: impl FnMut(u64),
) -> Result<Summary, BenchError> {
    let meter = Arc::new(Meter::new());
    let begun = Instant::now();
    let until = match load.amount {
        Amount::Transfers(_) => None,
        Amount::For(span) => Some(begun + span),
    };
    let goal = match load.amount {
        Amount::Transfers(count) => count,
        Amount::For(_) => u64::MAX,
    };
    let plan = Plan { load: load.clone(), accounts: accounts.clone(), goal, until };
    match load.mode {
        Mode::Unary => watched(load, &meter, tell, unary::run(client, &plan, &meter)).await?,
        Mode::Stream => watched(load, &meter, tell, stream::run(client, &plan, &meter)).await?,
        Mode::Bulk => watched(load, &meter, tell, bulk::run(client, &plan, &meter)).await?,
    }
    Ok(meter.summary(begun.elapsed()))
}

/// What a mode is to do.
#[derive(Debug, Clone)]
struct Plan {
    load: Load,
    accounts: Accounts,
    /// Transfers to send at most.
    goal: u64,
    /// When to stop sending.
    until: Option<Instant>,
}

impl Plan {
    fn chooser(&self) -> Chooser {
        Chooser::new(&self.accounts.counts(), self.load.cross_shard, self.load.skew, self.load.seed)
    }

    /// How many of `wanted` may still be sent after `sent`.
    fn allowance(&self, sent: u64, wanted: u64) -> u64 {
        if self.until.is_some_and(|until| Instant::now() >= until) {
            return 0;
        }
        wanted.min(self.goal.saturating_sub(sent))
    }
}

/// Drives a run while watching that answers come.
async fn watched(
    load: &Load,
    meter: &Meter,
    mut tell: impl FnMut(u64),
    run: impl Future<Output = Result<(), BenchError>>,
) -> Result<(), BenchError> {
    let mut run = std::pin::pin!(run);
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    let mut last = (meter.answered(), Instant::now());
    loop {
        tokio::select! {
            result = &mut run => return result,
            _ = tick.tick() => {
                let answered = meter.answered();
                tell(answered);
                if answered != last.0 {
                    last = (answered, Instant::now());
                } else if last.1.elapsed() > load.stall_after {
                    return Err(BenchError::Stalled(load.stall_after, meter.sent().saturating_sub(answered)));
                }
            }
        }
    }
}
