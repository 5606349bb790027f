//! The load generator: a closed or an open loop over one of three ways in, with latencies.
//!
//! It must cost little beside the servers that share the machine with it: accounts are chosen by a table look-up, ids
//! by a counter, answers are matched by their number in a ring, and in bulk nothing is allocated for a transfer.
//!
//! A run ends in bounded time whatever the servers do: when no answer comes for [`Load::stall_after`] it fails.

mod accounts;
mod bulk;
mod chooser;
pub mod compare;
mod meter;
mod pace;
pub mod plot;
pub mod processes;
mod ring;
mod rng;
mod series;
pub mod stages;
mod stream;
mod unary;
pub mod wire;

use std::future::Future;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use escrow_client::{Client, ClientError, Wait};
use escrow_types::{Currency, TransactionKey};

pub use accounts::{Accounts, Wanted, prepare};
use chooser::Chooser;
pub use chooser::Skew;
pub use meter::{Latency, Meter, OpenLoop, Paced, Quantile, Summary};
use pace::Schedule;
pub use series::{POINTS_MAX, Point, Steady};

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

impl Mode {
    /// What is in flight unless something else is asked for: enough to keep the servers busy.
    pub const fn in_flight_default(self) -> u64 {
        match self {
            Self::Unary => 256,
            Self::Stream => 8_192,
            Self::Bulk => 65_536,
        }
    }
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
    /// Transfers a second that are due at fixed times (an open loop); `None`: the next when one is answered (a closed loop).
    pub rate: Option<NonZeroU64>,
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
    /// The intervals of [`Summary::series`].
    pub interval: Duration,
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
    let begun = Instant::now();
    let meter = Arc::new(Meter::new(begun, load.interval));
    let until = match load.amount {
        Amount::Transfers(_) => None,
        Amount::For(span) => Some(begun + span + load.rate.map_or(Duration::ZERO, |_| LATE_MAX)),
    };
    let goal = match load.amount {
        Amount::Transfers(count) => count,
        Amount::For(span) => load.rate.map_or(u64::MAX, |rate| due_within(rate, span)),
    };
    let plan = Plan { load: load.clone(), accounts: accounts.clone(), goal, until };
    match load.mode {
        Mode::Unary => watched(load, &meter, tell, unary::run(client, &plan, &meter)).await?,
        Mode::Stream => watched(load, &meter, tell, stream::run(client, &plan, &meter)).await?,
        Mode::Bulk => watched(load, &meter, tell, bulk::run(client, &plan, &meter)).await?,
    }
    let elapsed = begun.elapsed();
    let mut summary = meter.summary(elapsed);
    summary.open_loop = load.rate.map(|rate| {
        let sent = meter.sent();
        let sending = meter.last_sent().map_or(Duration::ZERO, |last| last.duration_since(begun));
        let sending = sending.max(Schedule::new(begun, rate).offset(sent)).as_secs_f64();
        OpenLoop {
            asked_per_second: rate.get(),
            sent_per_second: if sending > 0.0 { sent as f64 / sending } else { 0.0 },
            not_sent: goal.saturating_sub(sent),
            paced: meter.paced(),
        }
    });
    Ok(summary)
}

/// So long after the end of an open loop what was due before may still go out: timers tick once a millisecond, and a machine
/// that is fully loaded lets threads wait. What is later than this was held back.
const LATE_MAX: Duration = Duration::from_millis(100);

/// How many transfers are due in a time that begins with the first.
fn due_within(rate: NonZeroU64, span: Duration) -> u64 {
    let due = (u128::from(rate.get()) * span.as_nanos()).div_ceil(1_000_000_000);
    u64::try_from(due).unwrap_or(u64::MAX)
}

/// What a transfer moves: some different amounts, as people have them. Equal ones would make a log that packs better than theirs.
fn minor_units(id: TransactionKey) -> u64 {
    1 + (id.0 as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) % 100
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

    /// The due times of an open loop that begins now.
    fn schedule(&self) -> Option<Schedule> {
        self.load.rate.map(|rate| Schedule::new(Instant::now(), rate))
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
    // In an open loop there may be nothing to answer until the next is due.
    let silence_max = load.stall_after
        + load.rate.map_or(Duration::ZERO, |rate| Duration::from_secs(1) / rate.get().min(1_000) as u32);
    let mut last = (meter.answered(), Instant::now());
    loop {
        tokio::select! {
            result = &mut run => return result,
            _ = tick.tick() => {
                let answered = meter.answered();
                tell(answered);
                if answered != last.0 {
                    last = (answered, Instant::now());
                } else if last.1.elapsed() > silence_max {
                    return Err(BenchError::Stalled(load.stall_after, meter.sent().saturating_sub(answered)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_within_a_time_begins_with_the_first() {
        let due = |rate, span| due_within(NonZeroU64::new(rate).unwrap(), span);
        assert_eq!(due(1_000, Duration::from_secs(3)), 3_000);
        assert_eq!(due(1, Duration::from_millis(1)), 1, "the first is due at once");
        assert_eq!(due(3, Duration::from_millis(334)), 2);
        assert_eq!(due(u64::MAX, Duration::from_secs(2)), u64::MAX);
    }
}
