//! A run over time: what was answered in each interval and how fast, and from when on the rate was steady.
//!
//! Bounded memory: an interval in progress has a histogram, one that has ended a few numbers, and there are at most
//! [`POINTS_MAX`] of them; the last one then lasts as long as the run.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::meter::{histogram, micros};

/// Intervals of a run at most.
pub const POINTS_MAX: usize = 10_000;

/// What was answered in one interval.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Point {
    /// When it began, in seconds since the run did.
    pub from_s: f64,
    /// How long it was; the last one ends with the run.
    pub seconds: f64,
    /// Transfers answered in it.
    pub answered: u64,
    /// `answered / seconds`.
    pub per_second: f64,
    /// Half of the latencies are lower; in microseconds, 0 when nothing was answered.
    pub p50_us: u64,
    /// 99 of 100 are lower.
    pub p99_us: u64,
    /// The highest.
    pub max_us: u64,
}

/// The part of a run, up to its end, in which the rate stayed the same.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Steady {
    /// When it began, in seconds since the run did.
    pub from_s: f64,
    /// How long it was.
    pub seconds: f64,
    /// Transfers answered a second in it.
    pub per_second: f64,
}

/// The intervals of a run, and all its latencies.
#[derive(Debug)]
pub(super) struct Series {
    begun: Instant,
    interval: Duration,
    /// Of the intervals that ended.
    points: Vec<Point>,
    /// Of the one in progress.
    current: Histogram<u64>,
    /// Of those that ended.
    all: Histogram<u64>,
}

impl Series {
    pub(super) fn new(begun: Instant, interval: Duration) -> Self {
        // An interval of nothing would never let time pass.
        let interval = interval.max(Duration::from_millis(1));
        Self { begun, interval, points: Vec::new(), current: histogram(), all: histogram() }
    }

    /// Notes answers at `now` to transfers whose latency counts since some moment.
    #[inline]
    pub(super) fn record(&mut self, now: Instant, since: Instant, count: u64) {
        let latency = micros(now.saturating_duration_since(since));
        self.current.record_n(latency, count).expect("it is within the bounds");
    }

    /// Ends the intervals that have passed at `now`. Called before what happened then is recorded.
    #[inline]
    pub(super) fn roll(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.begun);
        while elapsed >= self.from(self.points.len() + 1) && self.points.len() + 1 < POINTS_MAX {
            self.end_interval(self.interval);
        }
    }

    fn from(&self, number: usize) -> Duration {
        self.interval * number as u32
    }

    fn end_interval(&mut self, lasted: Duration) {
        let (answered, seconds) = (self.current.len(), lasted.as_secs_f64());
        self.points.push(Point {
            from_s: self.from(self.points.len()).as_secs_f64(),
            seconds,
            answered,
            per_second: if seconds > 0.0 { answered as f64 / seconds } else { 0.0 },
            p50_us: self.current.value_at_quantile(0.5),
            p99_us: self.current.value_at_quantile(0.99),
            max_us: self.current.max(),
        });
        if answered > 0 {
            self.all.add(&self.current).expect("both have the same bounds");
            self.current.reset();
        }
    }

    /// All latencies and all intervals of a run that has lasted so long: the last may be shorter than the others.
    pub(super) fn end(&mut self, elapsed: Duration) -> (&Histogram<u64>, &[Point]) {
        self.roll(self.begun + elapsed);
        let rest = elapsed.saturating_sub(self.from(self.points.len()));
        if !rest.is_zero() || !self.current.is_empty() {
            self.end_interval(rest);
        }
        (&self.all, &self.points)
    }
}

/// Intervals of a steady part at least, and the share of the run that it must be.
const STEADY_POINTS_MIN: usize = 3;
const STEADY_SHARE_MIN: usize = 3;
/// How far the rate of an interval may be from the median of the steady part.
const STEADY_DEVIATION: f64 = 0.1;

/// The longest part up to the end in which the rate of every interval is within a tenth of the median of that part. `None` if
/// that is not at least three intervals and a third of the run. The last interval does not count when it is shorter than
/// the others.
pub(super) fn steady(points: &[Point]) -> Option<Steady> {
    let whole = match points {
        [first, .., last] if last.seconds < first.seconds * 0.999 => &points[..points.len() - 1],
        _ => points,
    };
    // The rates of the part that is looked at, in order: the part grows from the end of the run to its beginning.
    let mut rates: Vec<f64> = Vec::with_capacity(whole.len());
    let mut found = None;
    for (from, point) in whole.iter().enumerate().rev() {
        let place = rates.partition_point(|&rate| rate < point.per_second);
        rates.insert(place, point.per_second);
        let (lowest, highest) = (rates[0], rates[rates.len() - 1]);
        let median = median(&rates);
        let is_steady = lowest >= median * (1.0 - STEADY_DEVIATION)
            && highest <= median * (1.0 + STEADY_DEVIATION)
            && median > 0.0;
        if is_steady && rates.len() >= STEADY_POINTS_MIN && rates.len() * STEADY_SHARE_MIN >= whole.len() {
            found = Some(from);
        }
    }
    let part = &whole[found?..];
    let seconds: f64 = part.iter().map(|point| point.seconds).sum();
    let answered: u64 = part.iter().map(|point| point.answered).sum();
    Some(Steady { from_s: part[0].from_s, seconds, per_second: answered as f64 / seconds })
}

/// Of numbers in order, at least one.
pub(super) fn median(ordered: &[f64]) -> f64 {
    let middle = ordered.len() / 2;
    if ordered.len().is_multiple_of(2) {
        f64::midpoint(ordered[middle - 1], ordered[middle])
    } else {
        ordered[middle]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn points(rates: &[u64]) -> Vec<Point> {
        let point = |(from, &answered): (usize, &u64)| Point {
            from_s: from as f64,
            seconds: 1.0,
            answered,
            per_second: answered as f64,
            p50_us: 0,
            p99_us: 0,
            max_us: 0,
        };
        rates.iter().enumerate().map(point).collect()
    }

    fn steady_from(rates: &[u64]) -> Option<(f64, f64)> {
        steady(&points(rates)).map(|steady| (steady.from_s, steady.per_second))
    }

    #[test]
    fn each_answer_is_in_the_interval_in_which_it_came() {
        let begun = Instant::now();
        let mut series = Series::new(begun, SECOND);
        for (at_ms, latency_ms) in [(100, 5), (900, 7), (1_000, 30), (3_500, 1_200)] {
            let now = begun + Duration::from_millis(at_ms);
            series.roll(now);
            series.record(now, now.checked_sub(Duration::from_millis(latency_ms)).unwrap(), 2);
        }
        let (all, points) = series.end(Duration::from_millis(3_600));
        let answered: Vec<u64> = points.iter().map(|point| point.answered).collect();
        assert_eq!(answered, [4, 2, 0, 2]);
        assert_eq!(all.len(), 8);
        assert!((points[3].seconds - 0.6).abs() < 1e-9 && (points[3].per_second - 2.0 / 0.6).abs() < 1e-9);
        assert!(points[3].max_us >= 1_200_000 && points[2].max_us == 0 && points[1].p50_us >= 30_000);
    }

    #[test]
    fn a_run_of_any_length_has_a_bounded_number_of_intervals() {
        let begun = Instant::now();
        let mut series = Series::new(begun, Duration::ZERO);
        let late = begun + SECOND * 1_000_000;
        series.roll(late);
        series.record(late, begun, 1);
        let (all, points) = series.end(SECOND * 1_000_000);
        assert_eq!((points.len(), all.len(), points[POINTS_MAX - 1].answered), (POINTS_MAX, 1, 1));
        let seconds: f64 = points.iter().map(|point| point.seconds).sum();
        assert!((seconds - 1e6).abs() < 1e-3, "the last covers the rest: {seconds}");
    }

    #[test]
    fn the_steady_part_is_the_longest_up_to_the_end() {
        assert_eq!(steady_from(&[100, 100, 100]), Some((0.0, 100.0)));
        assert_eq!(steady_from(&[10, 50, 100, 101, 99, 100]), Some((2.0, 100.0)));
        assert_eq!(steady_from(&[95, 109, 100, 100]), Some((0.0, 101.0)), "within a tenth");
        assert_eq!(steady_from(&[100, 100, 100, 50, 100, 100, 100]), Some((4.0, 100.0)));
    }

    #[test]
    fn what_does_not_settle_is_not_steady() {
        assert_eq!(steady_from(&[]), None);
        assert_eq!(steady_from(&[100, 100]), None, "too few intervals");
        assert_eq!(steady_from(&[10, 20, 40, 80, 160, 320]), None);
        assert_eq!(steady_from(&[100, 100, 100, 100, 0]), None, "it ended in a stall");
        assert_eq!(steady_from(&[0, 0, 0]), None);
        assert_eq!(steady_from(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 100, 100, 100]), None, "less than a third");
    }

    #[test]
    fn a_shorter_last_interval_does_not_count() {
        let mut points = points(&[100, 100, 100, 1]);
        points[3].seconds = 0.2;
        let steady = steady(&points).unwrap();
        assert!(
            (steady.per_second - 100.0).abs() < 1e-9 && (steady.seconds - 3.0).abs() < 1e-9,
            "{steady:?}"
        );
    }
}
