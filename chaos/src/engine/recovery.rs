//! Measures what follows a fault: from the moment its target is back until the first, and until the last, of the transactions
//! that waited for it has ended.
//!
//! The coordinator is asked all the time how many transactions wait that began before that moment. New ones do not count; nor
//! do those whose caller holds them. What is measured is thus an upper bound, too long by a pause between two questions.

use std::fmt;
use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

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
    /// Transactions that waited for the target when it was back. `None` if nobody could be asked.
    pub(super) in_doubt_at_return: Option<u64>,
    pub(super) first_resolution_ms: Option<f64>,
    pub(super) drained_ms: Option<f64>,
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

/// One answer: so many wait, so long after the return.
#[derive(Debug, Clone, Copy)]
struct Seen {
    waiting: u64,
    at_ms: f64,
}

/// Makes a recovery out of what was seen, in order. `before` is what waited before the return.
fn conclude(before: Option<u64>, seen: &[Seen]) -> Recovery {
    let mut most = before.unwrap_or_default();
    let mut first_resolution_ms = None;
    for seen in seen {
        if seen.waiting < most && first_resolution_ms.is_none() {
            first_resolution_ms = Some(seen.at_ms);
        }
        most = most.max(seen.waiting);
    }
    let drained = seen.iter().find(|seen| seen.waiting == 0).filter(|_| most > 0);
    let in_doubt_at_return = (before.is_some() || !seen.is_empty()).then_some(most);
    Recovery { in_doubt_at_return, first_resolution_ms, drained_ms: drained.map(|seen| seen.at_ms) }
}

/// Waits for something while looking at what waits; gives what that came to, and what was seen last. `participant` is a name,
/// or nothing for all.
pub(super) async fn while_watching<T>(
    operator: &Operator,
    participant: &str,
    something: impl Future<Output = T>,
) -> (T, Option<u64>) {
    let mut something = pin!(something);
    let mut last = None;
    let look = || async {
        sleep(PAUSE).await;
        operator.waiting(participant, Duration::ZERO).await
    };
    loop {
        tokio::select! {
            done = &mut something => return (done, last),
            seen = look() => last = seen,
        }
    }
}

/// Measures from `returned` on the recovery of participants. `still_alone` says whether nothing else has struck: else what is
/// seen is not of this fault, and there is no measurement.
pub(super) async fn of_participants(
    operator: &Operator,
    participant: &str,
    returned: Instant,
    before: Option<u64>,
    still_alone: impl Fn() -> bool,
) -> Option<Recovery> {
    let seen = watch(operator, participant, returned, returned, still_alone).await?;
    Some(conclude(before, &seen))
}

/// The same of coordinators: what waited is what they found unfinished when they started, but for what callers hold. Nothing
/// began between their end and `started`; what begins as soon as they serve, perhaps before that is seen, does not count.
pub(super) async fn of_coordinators(
    operator: &Operator,
    started: Instant,
    returned: Instant,
    still_alone: impl Fn() -> bool,
) -> Option<Recovery> {
    let found = async {
        // A coordinator that has just started may have other things to do.
        let asked = timeout(DRAIN_MAX, async {
            loop {
                if let Some(found) = operator.unfinished_at_start().await {
                    return found;
                }
                sleep(PAUSE).await;
            }
        });
        asked.await.ok()
    };
    let (seen, held, found) =
        tokio::join!(watch(operator, "", started, returned, still_alone), operator.reserved(), found);
    let before = found.map(|found| found.saturating_sub(held.unwrap_or_default()));
    Some(conclude(before, &seen?))
}

/// Asks until nothing waits that began before a moment. `None` when something else struck meanwhile.
async fn watch(
    operator: &Operator,
    participant: &str,
    begun_before: Instant,
    returned: Instant,
    still_alone: impl Fn() -> bool,
) -> Option<Vec<Seen>> {
    let mut all = Vec::new();
    while returned.elapsed() < DRAIN_MAX {
        let asked = Instant::now();
        let waiting = operator.waiting(participant, begun_before.elapsed() + MARGIN).await;
        if !still_alone() {
            return None;
        }
        if let Some(waiting) = waiting {
            all.push(Seen { waiting, at_ms: returned.elapsed().as_secs_f64() * 1e3 });
            if waiting == 0 {
                break;
            }
        }
        sleep(PAUSE.max(asked.elapsed() * PAUSE_FOR_ANSWER)).await;
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conclusion(before: Option<u64>, waiting: &[u64]) -> (Option<u64>, Option<i64>, Option<i64>) {
        let seen: Vec<Seen> = (1_u32..)
            .zip(waiting)
            .map(|(number, &waiting)| Seen { waiting, at_ms: f64::from(number * 10) })
            .collect();
        let recovery = conclude(before, &seen);
        let whole = |ms: Option<f64>| ms.map(|ms| ms.round() as i64);
        (recovery.in_doubt_at_return, whole(recovery.first_resolution_ms), whole(recovery.drained_ms))
    }

    #[test]
    fn the_first_and_the_last_are_seen() {
        assert_eq!(conclusion(Some(5), &[5, 3, 1, 0]), (Some(5), Some(20), Some(40)));
        assert_eq!(conclusion(Some(5), &[0]), (Some(5), Some(10), Some(10)));
    }

    #[test]
    fn more_may_begin_to_wait_up_to_the_return() {
        assert_eq!(conclusion(Some(5), &[9, 9, 8, 0]), (Some(9), Some(30), Some(40)));
    }

    #[test]
    fn nothing_waits_or_never_ends_or_cannot_be_asked() {
        assert_eq!(conclusion(Some(0), &[0]), (Some(0), None, None));
        assert_eq!(conclusion(Some(2), &[2, 2]), (Some(2), None, None));
        assert_eq!(conclusion(None, &[]), (None, None, None));
    }
}
