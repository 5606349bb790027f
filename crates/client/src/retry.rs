//! The pauses between attempts: exponential, capped, jittered, and never past the deadline.
//!
//! The only place that knows the crate `backoff`. That crate is unmaintained, so only its arithmetic is used.

use std::time::Duration;

use backoff::backoff::Backoff as _;
use backoff::{ExponentialBackoff, ExponentialBackoffBuilder};
use tokio::time::Instant;

use crate::options::RetryPolicy;

/// The state of one call's retries.
pub(crate) struct Retry {
    pauses: ExponentialBackoff,
    attempts_left: u32,
    deadline: Instant,
}

impl Retry {
    /// Counts the first attempt as made.
    pub(crate) fn new(policy: RetryPolicy, deadline: Instant) -> Self {
        let pauses = ExponentialBackoffBuilder::new()
            .with_initial_interval(policy.first)
            .with_max_interval(policy.cap)
            .with_multiplier(2.0)
            .with_randomization_factor(0.5)
            // The deadline is ours to keep: the crate would measure from when the builder ran.
            .with_max_elapsed_time(None)
            .build();
        Self { pauses, attempts_left: policy.attempts_max.saturating_sub(1), deadline }
    }

    /// The pause before the next attempt; `None` when there is none left or it would begin after the deadline.
    pub(crate) fn next_pause(&mut self) -> Option<Duration> {
        self.attempts_left = self.attempts_left.checked_sub(1)?;
        let pause = self.pauses.next_backoff()?;
        (Instant::now() + pause < self.deadline).then_some(pause)
    }

    /// What is left until the deadline.
    pub(crate) fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retry(attempts_max: u32, within: Duration) -> Retry {
        let policy =
            RetryPolicy { first: Duration::from_millis(10), cap: Duration::from_millis(100), attempts_max };
        Retry::new(policy, Instant::now() + within)
    }

    #[test]
    fn pauses_grow_to_the_cap_and_no_further() {
        let mut retry = retry(u32::MAX, Duration::from_secs(3_600));
        let pauses: Vec<Duration> = (0..50).map(|_| retry.next_pause().unwrap()).collect();
        assert!(pauses[0] <= Duration::from_millis(15), "{pauses:?}");
        assert!(pauses.iter().all(|pause| *pause <= Duration::from_millis(150)), "cap and half: {pauses:?}");
        assert!(pauses[20..].iter().all(|pause| *pause >= Duration::from_millis(50)), "{pauses:?}");
    }

    #[test]
    fn attempts_are_counted_with_the_first() {
        assert_eq!(retry(1, Duration::from_secs(60)).next_pause(), None);
        let mut twice = retry(2, Duration::from_secs(60));
        assert!(twice.next_pause().is_some());
        assert_eq!(twice.next_pause(), None);
    }

    #[test]
    fn no_pause_crosses_the_deadline() {
        assert_eq!(retry(u32::MAX, Duration::from_millis(1)).next_pause(), None);
    }
}
