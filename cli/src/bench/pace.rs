//! When the transfers of an open loop are due: at fixed times, whatever the servers do.
//!
//! **Invariant:** a due time never moves because of an answer that is late. Latencies count from it, so that a server that
//! stands still for a second is seen by all who would have come in that second (no coordinated omission).

use std::future::Future;
use std::num::NonZeroU64;
use std::pin::pin;
use std::time::{Duration, Instant};

use super::meter::Meter;

const NANOS: u128 = 1_000_000_000;

/// Evenly spaced due times from a beginning on; transfers are numbered from 0.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schedule {
    begun: Instant,
    per_second: NonZeroU64,
}

impl Schedule {
    pub(super) const fn new(begun: Instant, per_second: NonZeroU64) -> Self {
        Self { begun, per_second }
    }

    /// How long after transfer `n` transfer `n + number` is due, to the nanosecond.
    #[inline]
    pub(super) fn offset(&self, number: u64) -> Duration {
        // Asked for every row of an answer: a division of 64 bits takes a fraction of the time of one of 128.
        if let Some(nanos) = number.checked_mul(NANOS as u64) {
            return Duration::from_nanos(nanos / self.per_second);
        }
        let nanos = u128::from(number) * NANOS / u128::from(self.per_second.get());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    pub(super) fn due(&self, number: u64) -> Instant {
        self.begun + self.offset(number)
    }

    /// How many are due at a moment, since the beginning.
    pub(super) fn due_by(&self, now: Instant) -> u64 {
        let Some(elapsed) = now.checked_duration_since(self.begun) else { return 0 };
        // The smallest number whose offset, rounded down, is above `elapsed`.
        let due = ((elapsed.as_nanos() + 1) * u128::from(self.per_second.get())).div_ceil(NANOS);
        u64::try_from(due).unwrap_or(u64::MAX)
    }
}

/// A sender that keeps to a schedule, and tells the meter how well it did.
#[derive(Debug)]
pub(super) struct Pace {
    schedule: Schedule,
    /// Since when nobody but this sender itself holds it up: before, too much was in flight or the connection was full.
    free_since: Instant,
}

impl Pace {
    pub(super) const fn new(schedule: Schedule) -> Self {
        Self { schedule, free_since: schedule.begun }
    }

    /// Notes that it was held up until now.
    pub(super) fn freed(&mut self) {
        self.free_since = Instant::now();
    }

    /// Waits until transfer `number` is due and gives its due time, and how many are due with it (at least one).
    ///
    /// tokio's timer ticks once a millisecond, so several may be due at each wake.
    pub(super) async fn wait(&self, number: u64) -> (Instant, u64) {
        let due = self.schedule.due(number);
        let mut now = Instant::now();
        if due > now {
            tokio::time::sleep_until(due.into()).await;
            now = Instant::now();
        }
        (due, self.schedule.due_by(now).saturating_sub(number).max(1))
    }

    /// Notes that transfers from `number` on go out now: how late that is by this sender's own fault, and how many were held
    /// back before.
    pub(super) fn note(&self, number: u64, count: u64, meter: &Meter) {
        let ready = self.schedule.due(number).max(self.free_since);
        let late = Instant::now().saturating_duration_since(ready);
        meter.note_paced(count, late, self.held_back(number, count));
    }

    /// How many of `count` transfers from `number` on were due before the sender was free.
    fn held_back(&self, number: u64, count: u64) -> u64 {
        // The transfer that is due at this very nanosecond was not held back.
        let before = self.free_since.checked_sub(Duration::from_nanos(1));
        before.map_or(0, |before| self.schedule.due_by(before)).saturating_sub(number).min(count)
    }
}

/// Drives a future to its end and tells whether it had to wait for anything.
pub(super) async fn noticing<T>(future: impl Future<Output = T>) -> (T, bool) {
    let mut future = pin!(future);
    let mut has_waited = false;
    std::future::poll_fn(|context| match future.as_mut().poll(context) {
        std::task::Poll::Ready(value) => std::task::Poll::Ready((value, has_waited)),
        std::task::Poll::Pending => {
            has_waited = true;
            std::task::Poll::Pending
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(per_second: u64) -> Schedule {
        Schedule::new(Instant::now(), NonZeroU64::new(per_second).unwrap())
    }

    #[test]
    fn a_transfer_is_due_from_its_time_on_and_not_before() {
        for per_second in [1, 3, 7, 1_000, 999_983, 1_000_000_000, 3_000_000_000] {
            let schedule = schedule(per_second);
            for number in [0, 1, 2, 17, 1_000, 123_456_789] {
                let due = schedule.due(number);
                assert!(schedule.due_by(due) > number, "{per_second}/s, {number}");
                if let Some(before) = due.checked_sub(Duration::from_nanos(1)) {
                    assert!(schedule.due_by(before) <= number, "{per_second}/s, {number}");
                }
            }
        }
    }

    #[test]
    fn so_many_are_due_in_a_second_as_were_asked() {
        let schedule = schedule(7);
        let end = schedule.begun + Duration::from_secs(10);
        assert_eq!(schedule.due_by(end.checked_sub(Duration::from_nanos(1)).unwrap()), 70);
        assert_eq!(schedule.due_by(schedule.begun), 1);
    }

    #[test]
    fn who_was_due_while_the_sender_was_held_up_is_counted() {
        let schedule = schedule(1_000);
        let mut pace = Pace::new(schedule);
        assert_eq!(pace.held_back(0, 5), 0);
        // Numbers 0 to 9 were due before; the tenth after them just then.
        pace.free_since = schedule.due(10);
        assert_eq!(pace.held_back(0, 100), 10);
        assert_eq!(pace.held_back(8, 100), 2);
        assert_eq!((pace.held_back(0, 4), pace.held_back(10, 4)), (4, 0));
    }

    #[tokio::test]
    async fn waiting_is_noticed() {
        assert_eq!(noticing(std::future::ready(1)).await, (1, false));
        let ((), has_waited) = noticing(tokio::task::yield_now()).await;
        assert!(has_waited);
    }

    #[tokio::test]
    async fn what_is_past_due_goes_out_at_once_and_together() {
        let begun = Instant::now().checked_sub(Duration::from_secs(2)).unwrap();
        let schedule = Schedule::new(begun, NonZeroU64::new(1_000).unwrap());
        let pace = Pace::new(schedule);
        let ((due, count), has_waited) = noticing(pace.wait(100)).await;
        assert!(!has_waited && count >= 1_900, "{count}");
        assert_eq!(due, schedule.due(100));
        let meter = Meter::new(Instant::now(), Duration::from_secs(1));
        pace.note(100, count, &meter);
        let paced = meter.paced();
        assert!(paced.late_us.max >= 1_900_000, "it was late by its own fault: {paced:?}");
        assert_eq!(paced.held_back, 0);
    }
}
