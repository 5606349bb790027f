//! Measures what follows a fault: from the moment its target is back until the first, and until the last, of the transactions
//! that waited then has ended.
//!
//! The coordinator is asked all the time for how many transactions wait that began before that moment. New ones do not count; nor
//! do those whose caller holds them. What is measured is thus an upper bound, too long by a pause between two questions.

use std::fmt;
use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::operator::Operator;

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(10);
/// A question that takes long is asked less often: at most this part of the time is spent on answers.
const PAUSE_FOR_ANSWER: u32 = 4;
/// The coordinator may hear the question a little later than it was asked.
const MARGIN: Duration = Duration::from_millis(5);
/// What has not drained by then is not waited for any more.
const DRAIN_MAX: Duration = Duration::from_secs(30);

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Recovery {
    pub(super) in_doubt_at_return: Option<u64>,
    pub(super) first_resolution_ms: Option<f64>,
    pub(super) drained_ms: Option<f64>,
}

/// What waits while a fault lasts, as last seen.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Before {
    in_doubt: Option<u64>,
    waiting: Option<u64>,
}

impl fmt::Display for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let in_doubt = self.in_doubt_at_return.unwrap_or_default();
        match (self.first_resolution_ms, self.drained_ms) {
            (Some(first), Some(drained)) => {
                write!(
                    f,
                    "{in_doubt} in doubt, the first resolved after {first:.0} ms, all after {drained:.0} ms"
                )
            }
            _ if in_doubt == 0 => f.write_str("nothing was in doubt"),
            _ => write!(f, "{in_doubt} in doubt, not all resolved"),
        }
    }
}

/// Waits for something while looking at what waits; gives what that came to, and what was seen last. `participant` is a name,
/// or nothing for all.
pub(super) async fn while_watching<T>(
    operator: &Operator,
    participant: &str,
    something: impl Future<Output = T>,
) -> (T, Before) {
    let mut something = pin!(something);
    let mut last = Before::default();
    let look = || async {
        sleep(PAUSE).await;
        let in_doubt = operator.in_doubt(participant).await;
        let waiting = operator.waiting(participant, Duration::ZERO).await;
        Before { in_doubt, waiting }
    };
    loop {
        tokio::select! {
            done = &mut something => return (done, last),
            seen = look() => last = seen,
        }
    }
}

/// A coordinator is back: what it found unfinished is what waits.
pub(super) async fn found_at_start(operator: &Operator) -> Before {
    let found = operator.unfinished_at_start().await;
    let held = operator.reserved().await.unwrap_or_default();
    Before { in_doubt: found, waiting: found.map(|found| found.saturating_sub(held)) }
}

/// Measures from `returned` on. `still_alone` says whether nothing else has struck: then what is seen is of this fault.
pub(super) async fn measure(
    operator: &Operator,
    participant: &str,
    returned: Instant,
    before: Before,
    still_alone: impl Fn() -> bool,
) -> Option<Recovery> {
    let mut recovery = Recovery { in_doubt_at_return: before.in_doubt, ..Recovery::default() };
    let mut most = before.waiting.unwrap_or_default();
    while returned.elapsed() < DRAIN_MAX {
        let asked = Instant::now();
        let waiting = operator.waiting(participant, returned.elapsed() + MARGIN).await;
        if !still_alone() {
            return None;
        }
        if let Some(waiting) = waiting {
            let now_ms = returned.elapsed().as_secs_f64() * 1e3;
            if waiting < most && recovery.first_resolution_ms.is_none() {
                recovery.first_resolution_ms = Some(now_ms);
            }
            most = most.max(waiting);
            if waiting == 0 {
                recovery.drained_ms = (most > 0).then_some(now_ms);
                return Some(recovery);
            }
        }
        pause(asked).await;
    }
    Some(recovery)
}

async fn pause(asked: Instant) {
    sleep(PAUSE.max(asked.elapsed() * PAUSE_FOR_ANSWER)).await;
}
