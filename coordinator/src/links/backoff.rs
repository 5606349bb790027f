//! Delays between attempts: the arithmetic of crate `backoff` (exponential, jittered, capped), and nothing else of it.

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff as _;
use escrow_tcc::driver::RetryDelays;
use escrow_types::Millis;

fn exponential(first: Duration, cap: Duration) -> ExponentialBackoff {
    ExponentialBackoff {
        current_interval: first,
        initial_interval: first,
        multiplier: 2.0,
        randomization_factor: 0.25,
        max_interval: cap,
        // Phase 2 is retried for ever.
        max_elapsed_time: None,
        ..ExponentialBackoff::default()
    }
}

/// The delays of phase 2: 50 ms × 2 up to 10 s, each ± 25 %.
#[derive(Debug, Default)]
pub(crate) struct Delays;

impl RetryDelays for Delays {
    fn delay_ms(&mut self, attempt: u32) -> Millis {
        /// Beyond this many doublings every delay is the cap.
        const DOUBLINGS_MAX: u32 = 16;
        let mut backoff = exponential(Duration::from_millis(50), Duration::from_secs(10));
        let mut delay = Duration::ZERO;
        for _ in 0..attempt.clamp(1, DOUBLINGS_MAX) {
            delay = backoff.next_backoff().expect("never gives up");
        }
        delay.as_millis() as Millis
    }
}

/// The delays between attempts to connect: 10 ms × 2 up to 100 ms. Low, because a refused connection costs next to nothing and
/// everything that waits for the participant waits for it to be found again.
pub(crate) struct Reconnect(ExponentialBackoff);

impl Reconnect {
    pub(crate) fn new() -> Self {
        Self(exponential(Duration::from_millis(10), Duration::from_millis(100)))
    }

    pub(crate) fn reset(&mut self) {
        self.0.reset();
    }

    pub(crate) fn next(&mut self) -> Duration {
        self.0.next_backoff().expect("never gives up")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_cap_and_stay_there() {
        let mut delays = Delays;
        for (attempt, expected) in [(1, 50.0), (2, 100.0), (5, 800.0), (9, 10_000.0), (60, 10_000.0)] {
            let delay = delays.delay_ms(attempt) as f64;
            assert!((expected * 0.74..=expected * 1.26).contains(&delay), "attempt {attempt}: {delay} ms");
        }
    }
}
