//! Counts and latencies of a run.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use escrow_client::State;
use escrow_types::Reason;
use hdrhistogram::Histogram;
use serde::Serialize;

/// What is counted while a run goes on. One thread counts; the lock is never waited for.
#[derive(Debug)]
pub struct Meter {
    counts: Mutex<Counts>,
    paced: Mutex<PacedCounts>,
    sent: AtomicU64,
    answered: AtomicU64,
}

#[derive(Debug)]
struct Counts {
    confirmed: u64,
    canceled: u64,
    failed: u64,
    reasons: [u64; 256],
    latency_us: Histogram<u64>,
}

/// How well an open loop kept to its schedule.
#[derive(Debug)]
struct PacedCounts {
    held_back: u64,
    late_us: Histogram<u64>,
    /// When the last one went out.
    last: Option<Instant>,
}

/// The longest latency that is told apart, in microseconds.
const LATENCY_US_MAX: u64 = 600_000_000;

impl Meter {
    pub(super) fn new() -> Self {
        let counts =
            Counts { confirmed: 0, canceled: 0, failed: 0, reasons: [0; 256], latency_us: histogram() };
        Self {
            counts: Mutex::new(counts),
            paced: Mutex::new(PacedCounts { held_back: 0, late_us: histogram(), last: None }),
            sent: AtomicU64::new(0),
            answered: AtomicU64::new(0),
        }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().expect("nothing panics while it counts")
    }

    /// Transfers sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Transfers answered so far.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    pub(super) fn note_sent(&self, count: u64) {
        self.sent.fetch_add(count, Ordering::Relaxed);
    }

    /// Counts transfers of an open loop that go out: how late, by whose fault. See [`Paced`].
    pub(super) fn note_paced(&self, count: u64, late: Duration, held_back: u64) {
        let mut paced = self.paced.lock().expect("nothing panics while it counts");
        paced.held_back += held_back;
        paced.last = Some(Instant::now());
        paced.late_us.record_n(micros(late), count).expect("it is within the bounds");
    }

    /// When the last transfer of an open loop went out.
    pub(super) fn last_sent(&self) -> Option<Instant> {
        self.paced.lock().expect("nothing panics while it counts").last
    }

    /// How well an open loop kept to its schedule so far.
    pub(super) fn paced(&self) -> Paced {
        let paced = self.paced.lock().expect("nothing panics while it counts");
        Paced { held_back: paced.held_back, late_us: Latency::of(&paced.late_us) }
    }

    /// Counts one answer.
    pub(super) fn record(&self, state: Option<State>, reason: Option<Reason>, sent: Instant) {
        let mut counts = self.counts();
        counts.outcome(state, reason.map_or(0, |reason| reason as u8));
        counts.latency(sent, 1);
        drop(counts);
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts the answers of a message: its states and reasons by their numbers, and runs of rows that were sent at the
    /// same moment.
    pub(super) fn record_columns(&self, states: &[u8], reasons: &[u8], runs: &[(Instant, u64)]) {
        const CONFIRMED: u8 = 3;
        let mut counts = self.counts();
        for (&state, &reason) in states.iter().zip(reasons) {
            // Nearly all are confirmed: the others may take longer.
            if state == CONFIRMED {
                counts.confirmed += 1;
            } else {
                counts.outcome((state == 4).then_some(State::Canceled), reason);
            }
        }
        for &(sent, rows) in runs {
            counts.latency(sent, rows);
        }
        drop(counts);
        self.answered.fetch_add(states.len() as u64, Ordering::Relaxed);
    }

    pub(super) fn summary(&self, elapsed: Duration) -> Summary {
        let counts = self.counts();
        let completed = counts.confirmed + counts.canceled + counts.failed;
        let seconds = elapsed.as_secs_f64();
        let reasons = counts.reasons.iter().enumerate().filter(|&(_, &count)| count > 0);
        let name = |number: usize| match Reason::from_number(number as u8) {
            Some(reason) => reason.code().to_owned(),
            None => format!("UNKNOWN_{number}"),
        };
        Summary {
            completed,
            confirmed: counts.confirmed,
            canceled: counts.canceled,
            failed: counts.failed,
            seconds,
            per_second: if seconds > 0.0 { completed as f64 / seconds } else { 0.0 },
            latency_us: Latency::of(&counts.latency_us),
            open_loop: None,
            reasons: reasons.map(|(number, &count)| (name(number), count)).collect(),
        }
    }
}

impl Counts {
    /// Everything that is neither confirmed nor canceled has failed: refused, or not known.
    fn outcome(&mut self, state: Option<State>, reason: u8) {
        match state {
            Some(State::Confirmed) => self.confirmed += 1,
            Some(State::Canceled) => self.canceled += 1,
            _ => self.failed += 1,
        }
        if reason != 0 {
            self.reasons[usize::from(reason)] += 1;
        }
    }

    fn latency(&mut self, sent: Instant, rows: u64) {
        self.latency_us.record_n(micros(sent.elapsed()), rows).expect("it is within the bounds");
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(LATENCY_US_MAX, 3).expect("the bounds are those of a histogram")
}

fn micros(span: Duration) -> u64 {
    span.as_micros().min(u128::from(LATENCY_US_MAX)) as u64
}

/// The result of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Answered transfers: the sum of the next three.
    pub completed: u64,
    /// The money moved.
    pub confirmed: u64,
    /// Canceled, for a reason.
    pub canceled: u64,
    /// Refused, or of unknown outcome.
    pub failed: u64,
    /// From the first transfer to the last answer.
    pub seconds: f64,
    /// `completed / seconds`.
    pub per_second: f64,
    /// To the answer, in microseconds: from sending in a closed loop, from the due time in an open one.
    pub latency_us: Latency,
    /// Of an open loop only: how it kept to its schedule.
    pub open_loop: Option<OpenLoop>,
    /// How often each reason was given.
    pub reasons: BTreeMap<String, u64>,
}

/// How an open loop kept to its schedule.
#[derive(Debug, Clone, Serialize)]
pub struct OpenLoop {
    /// Transfers a second that were asked for.
    pub asked_per_second: u64,
    /// Transfers a second that went out: of those that went out on time, as many as were asked.
    pub sent_per_second: f64,
    /// Due and not sent when the time was up: the servers took less than was asked, and latencies would have grown on.
    pub not_sent: u64,
    /// How it kept to it otherwise.
    #[serde(flatten)]
    pub paced: Paced,
}

/// Whose fault it was that transfers went out late.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Paced {
    /// The servers': due while too much was in flight or the connection was full.
    pub held_back: u64,
    /// The generator's own, in microseconds: from the moment that a transfer was due and nothing held it back to its going
    /// out. It is part of the latencies; where it is a large part of them, the generator was too slow, not the servers.
    pub late_us: Latency,
}

/// Percentiles in microseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Latency {
    /// Half are faster.
    pub p50: u64,
    /// Nine of ten are faster.
    pub p90: u64,
    /// 99 of 100 are faster.
    pub p99: u64,
    /// 999 of 1,000 are faster.
    pub p999: u64,
    /// The slowest.
    pub max: u64,
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max: histogram.max() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_is_counted_once() {
        let meter = Meter::new();
        let now = Instant::now();
        meter.record(Some(State::Confirmed), None, now);
        meter.record(Some(State::Canceled), Some(Reason::InsufficientFunds), now);
        meter.record(None, Some(Reason::OutcomeUnknown), now);
        meter.record_columns(&[3, 3, 4, 6, 1], &[0, 0, 4, 64, 0], &[(now, 5)]);
        let summary = meter.summary(Duration::from_secs(2));
        assert_eq!((summary.completed, summary.confirmed, summary.canceled, summary.failed), (8, 3, 2, 3));
        assert_eq!(summary.reasons["INSUFFICIENT_FUNDS"], 2);
        assert_eq!(summary.reasons["OVERLOADED"], 1);
        assert!((summary.per_second - 4.0).abs() < 1e-9);
        assert_eq!(meter.answered(), 8);
    }
}
