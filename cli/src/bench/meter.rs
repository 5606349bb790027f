//! Counts and latencies of a run.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use escrow_client::State;
use escrow_types::Reason;
use hdrhistogram::Histogram;
use serde::Serialize;

use super::series::{Point, Series, Steady, steady};

/// What is counted while a run goes on. One thread counts; the lock is never waited for.
#[derive(Debug)]
pub struct Meter {
    begun: Instant,
    counts: Mutex<Counts>,
    paced: Mutex<PacedCounts>,
}

#[derive(Debug)]
struct Counts {
    confirmed: u64,
    canceled: u64,
    failed: u64,
    reasons: [u64; 256],
    series: Series,
    silence: Silence,
}

/// The longest time in which something was unanswered and no answer came.
#[derive(Debug)]
struct Silence {
    sent: u64,
    answered: u64,
    /// Since when something is unanswered and no answer has come; means nothing while all is answered.
    since: Instant,
    longest: Duration,
    /// When the longest began.
    longest_since: Instant,
}

impl Silence {
    const fn new(now: Instant) -> Self {
        Self { sent: 0, answered: 0, since: now, longest: Duration::ZERO, longest_since: now }
    }

    fn sent(&mut self, count: u64) {
        // The clock is read only when something begins to wait.
        if self.sent == self.answered {
            self.since = Instant::now();
        }
        self.sent += count;
    }

    fn answered(&mut self, now: Instant, count: u64) {
        let silent = now.saturating_duration_since(self.since);
        if silent > self.longest {
            (self.longest, self.longest_since) = (silent, self.since);
        }
        self.since = now;
        self.answered += count;
    }
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
    /// For a run that begins now.
    pub(super) fn new(begun: Instant, interval: Duration) -> Self {
        let counts = Counts {
            confirmed: 0,
            canceled: 0,
            failed: 0,
            reasons: [0; 256],
            series: Series::new(begun, interval),
            silence: Silence::new(begun),
        };
        Self {
            counts: Mutex::new(counts),
            paced: Mutex::new(PacedCounts { held_back: 0, late_us: histogram(), last: None }),
            begun,
        }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().expect("nothing panics while it counts")
    }

    /// Transfers sent so far.
    pub fn sent(&self) -> u64 {
        self.counts().silence.sent
    }

    /// Transfers answered so far.
    pub fn answered(&self) -> u64 {
        self.counts().silence.answered
    }

    pub(super) fn note_sent(&self, count: u64) {
        self.counts().silence.sent(count);
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
    pub(super) fn record(&self, state: Option<State>, reason: Option<Reason>, since: Instant) {
        let mut counts = self.counts();
        counts.outcome(state, reason.map_or(0, |reason| reason as u8));
        counts.latencies(1, &[(since, 1)]);
    }

    /// Counts the answers of a message: its states and reasons by their numbers, and runs of rows whose latency counts
    /// from the same moment.
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
        counts.latencies(states.len() as u64, runs);
    }

    pub(super) fn summary(&self, elapsed: Duration) -> Summary {
        let mut counts = self.counts();
        let counts = &mut *counts;
        let (latencies, points) = counts.series.end(elapsed);
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
            latency_us: Latency::of(latencies),
            latency_curve: curve(latencies),
            open_loop: None,
            steady: steady(points),
            stall_ms: counts.silence.longest.as_secs_f64() * 1e3,
            stall_from_s: counts.silence.longest_since.saturating_duration_since(self.begun).as_secs_f64(),
            series: points.to_vec(),
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

    /// So many answers came now, in runs whose latency counts from the same moment.
    fn latencies(&mut self, answers: u64, runs: &[(Instant, u64)]) {
        let now = Instant::now();
        self.silence.answered(now, answers);
        self.series.roll(now);
        for &(since, rows) in runs {
            self.series.record(now, since, rows);
        }
    }
}

/// Of latencies in microseconds.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(LATENCY_US_MAX, 3).expect("the bounds are those of a histogram")
}

pub(super) fn micros(span: Duration) -> u64 {
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
    /// The same as a curve: ever closer to the slowest.
    pub latency_curve: Vec<Quantile>,
    /// The part of the run with a steady rate; `None` if it did not settle.
    pub steady: Option<Steady>,
    /// The longest time in which something was unanswered and no answer came, in milliseconds.
    pub stall_ms: f64,
    /// When that began, in seconds since the run did.
    pub stall_from_s: f64,
    /// What was answered in each interval.
    pub series: Vec<Point>,
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
    /// Of all, added up and divided.
    pub mean: f64,
    /// Half are faster.
    pub p50: u64,
    /// Nine of ten are faster.
    pub p90: u64,
    /// 99 of 100 are faster.
    pub p99: u64,
    /// 999 of 1,000 are faster.
    pub p999: u64,
    /// 9,999 of 10,000 are faster.
    pub p9999: u64,
    /// The slowest.
    pub max: u64,
}

/// A point of the curve of latencies.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Quantile {
    /// The share of transfers that are at least as fast.
    pub quantile: f64,
    /// Their slowest, in microseconds.
    pub us: u64,
}

/// Points of the curve for each factor of ten of "one in so many is slower".
const CURVE_STEPS: u32 = 10;
/// One in 10^7 is slower: more cannot be told apart in a run.
const CURVE_DECADES: u32 = 7;

/// The curve of latencies, up to the point that a single transfer makes.
fn curve(histogram: &Histogram<u64>) -> Vec<Quantile> {
    let one_in = |step: u32| 10f64.powf(f64::from(step) / f64::from(CURVE_STEPS));
    let quantiles = (0..=CURVE_STEPS * CURVE_DECADES)
        .map(one_in)
        .take_while(|&one_in| one_in <= histogram.len() as f64)
        .map(|one_in| 1.0 - 1.0 / one_in);
    let quantiles = quantiles.chain((!histogram.is_empty()).then_some(1.0));
    quantiles.map(|quantile| Quantile { quantile, us: histogram.value_at_quantile(quantile) }).collect()
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile);
        let max = histogram.max();
        Self {
            mean: histogram.mean(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_is_counted_once() {
        let meter = Meter::new(Instant::now(), Duration::from_secs(1));
        let now = Instant::now();
        meter.note_sent(8);
        meter.record(Some(State::Confirmed), None, now);
        meter.record(Some(State::Canceled), Some(Reason::InsufficientFunds), now);
        meter.record(None, Some(Reason::OutcomeUnknown), now);
        meter.record_columns(&[3, 3, 4, 6, 1], &[0, 0, 4, 64, 0], &[(now, 5)]);
        let summary = meter.summary(Duration::from_secs(2));
        assert_eq!((summary.completed, summary.confirmed, summary.canceled, summary.failed), (8, 3, 2, 3));
        assert_eq!(summary.reasons["INSUFFICIENT_FUNDS"], 2);
        assert_eq!(summary.reasons["OVERLOADED"], 1);
        assert!((summary.per_second - 4.0).abs() < 1e-9);
        assert_eq!((meter.sent(), meter.answered()), (8, 8));
        assert_eq!(summary.series.iter().map(|point| point.answered).sum::<u64>(), 8);
    }

    #[test]
    fn silence_counts_only_while_something_is_unanswered() {
        let begun = Instant::now();
        let at = |ms| begun + Duration::from_millis(ms);
        let mut silence = Silence::new(begun);
        silence.sent(2);
        silence.answered(at(50), 1);
        silence.answered(at(80), 1);
        assert_eq!(silence.longest, at(50).duration_since(silence.longest_since));
        // Nothing is unanswered for a while; then the clock begins anew.
        silence.sent(1);
        silence.since = at(1_000);
        silence.answered(at(1_200), 1);
        assert_eq!((silence.longest, silence.longest_since), (Duration::from_millis(200), at(1_000)));
    }

    #[test]
    fn the_curve_ends_where_single_transfers_make_it() {
        let mut latencies = histogram();
        for micros in 1..=1_000 {
            latencies.record(micros).unwrap();
        }
        let curve = curve(&latencies);
        assert!(curve.windows(2).all(|pair| pair[0].quantile < pair[1].quantile && pair[0].us <= pair[1].us));
        assert_eq!(curve.len(), 32, "three decades, both ends, and the slowest");
        assert_eq!((curve[10].us, curve[31].us), (900, 1_000));
        assert!(super::curve(&histogram()).is_empty());
    }
}
