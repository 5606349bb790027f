//! Counts and latencies, for each window of the run and for all of it.

use std::sync::{Mutex, MutexGuard};

use hdrhistogram::Histogram;
use tokio::time::Instant;

use crate::record::{Sample, Totals};

/// Latencies are kept to three digits, up to this; what takes longer counts as this.
const LONGEST_US: u64 = 10 * 60 * 1_000_000;

/// How a transaction ended for its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Acknowledged as confirmed.
    Confirmed,
    /// Acknowledged as canceled.
    Canceled,
    /// It certainly had no effect.
    Refused,
    /// The caller gave up.
    Unknown,
}

/// Counts and measures. All of its methods may be called from many tasks.
#[derive(Debug)]
pub struct Meter {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    window: Sample,
    latencies: Histogram<u32>,
    all_latencies: Histogram<u64>,
    held_back: u64,
}

impl Default for Meter {
    fn default() -> Self {
        let inner = Inner {
            window: Sample::default(),
            latencies: Histogram::new_with_bounds(1, LONGEST_US, 3).expect("the bounds make sense"),
            all_latencies: Histogram::new_with_bounds(1, LONGEST_US, 3).expect("the bounds make sense"),
            held_back: 0,
        };
        Self { inner: Mutex::new(inner) }
    }
}

impl Meter {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nothing panics while it is held")
    }

    /// So many transactions became due and are sent.
    pub fn submitted(&self, count: u64) {
        self.inner().window.submitted += count;
    }

    /// One became due and was left out, because too many are under way.
    pub fn held_back(&self) {
        self.inner().held_back += 1;
    }

    /// One ended that was due at a certain moment.
    pub fn ended(&self, how: Ending, due: Instant) {
        let inner = &mut *self.inner();
        inner.count(how);
        if matches!(how, Ending::Confirmed | Ending::Canceled) {
            let took = (due.elapsed().as_micros() as u64).max(1);
            inner.latencies.saturating_record(took);
            inner.all_latencies.saturating_record(took);
        }
    }

    /// One ended whose caller let it wait on purpose: its latency says nothing.
    pub fn ended_untimed(&self, how: Ending) {
        self.inner().count(how);
    }

    /// What there was since the last time, without what only servers know.
    pub fn take_window(&self) -> Sample {
        let inner = &mut *self.inner();
        let mut sample = std::mem::take(&mut inner.window);
        let at = |quantile| inner.latencies.value_at_quantile(quantile);
        (sample.p50_us, sample.p99_us, sample.p999_us) = (at(0.5), at(0.99), at(0.999));
        sample.max_us = inner.latencies.max();
        inner.latencies.reset();
        sample
    }

    /// Latencies of everything, and how much was held back.
    pub fn totals(&self) -> Totals {
        let inner = self.inner();
        let at = |quantile| inner.all_latencies.value_at_quantile(quantile);
        Totals {
            held_back: inner.held_back,
            p50_us: at(0.5),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: inner.all_latencies.max(),
            ..Totals::default()
        }
    }
}

impl Inner {
    fn count(&mut self, how: Ending) {
        *match how {
            Ending::Confirmed => &mut self.window.confirmed,
            Ending::Canceled => &mut self.window.canceled,
            Ending::Refused => &mut self.window.refused,
            Ending::Unknown => &mut self.window.unknown,
        } += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_window_begins_where_the_last_ended() {
        let meter = Meter::default();
        meter.submitted(2);
        meter.ended(Ending::Confirmed, Instant::now());
        meter.ended(Ending::Refused, Instant::now());
        let window = meter.take_window();
        assert_eq!((window.submitted, window.confirmed, window.refused), (2, 1, 1));
        assert_eq!(meter.take_window(), Sample::default());
    }

    #[test]
    fn latency_counts_from_when_it_was_due() {
        let meter = Meter::default();
        let due = Instant::now().checked_sub(Duration::from_secs(2)).unwrap();
        meter.ended(Ending::Canceled, due);
        let window = meter.take_window();
        assert!(window.p50_us >= 2_000_000 && window.max_us >= 2_000_000, "{window:?}");
        assert!(meter.totals().p999_us >= 2_000_000);
    }
}
