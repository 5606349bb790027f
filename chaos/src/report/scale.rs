//! From values to places on an axis, and the round values at which to put ticks.

use super::units;

/// Ticks closer than this part of the axis would touch.
const TICK_DISTANCE_MIN: f64 = 0.1;
/// Ticks of the time axis, at most.
const TIME_TICKS_MAX: u64 = 10;

/// A round value.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tick {
    /// Its place: 0 where the axis begins, 1 where it ends.
    pub(super) at: f64,
    pub(super) label: String,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Linear,
    /// Equal factors are equal distances.
    Log,
    /// Likewise, but of one more than the value, so that 0 has a place.
    LogOfOneMore,
}

/// An axis.
#[derive(Debug, Clone)]
pub(super) struct Scale {
    kind: Kind,
    low: f64,
    high: f64,
    pub(super) ticks: Vec<Tick>,
}

impl Scale {
    /// From 0 to the round value at or above `max`.
    pub(super) fn linear(max: f64, label: fn(f64) -> String) -> Self {
        let step = round_up((max / 4.0).max(f64::MIN_POSITIVE)).max(1.0);
        let steps = (max / step).ceil().max(1.0);
        let values = (0..=units::whole(steps)).map(|at| at as f64 * step);
        Self { kind: Kind::Linear, low: 0.0, high: steps * step, ticks: Vec::new() }.with_ticks(values, label)
    }

    /// From the round value at or below `low` to the one at or above `high`; both positive.
    pub(super) fn log(low: f64, high: f64, label: fn(f64) -> String) -> Self {
        let low = round_down(low);
        let high = round_up(high).max(low * 10.0);
        let mut values = rounds(low, high);
        if values.len() > 8 {
            values.retain(|value| is_power_of_ten(*value));
        }
        Self { kind: Kind::Log, low, high, ticks: Vec::new() }.with_ticks(values.into_iter(), label)
    }

    /// From 0 to the round value at or above `max`, where 1 and a million are both seen.
    pub(super) fn log_of_one_more(max: f64, label: fn(f64) -> String) -> Self {
        let high = round_up(max.max(10.0));
        let mut decades = rounds(1.0, high);
        decades.retain(|value| is_power_of_ten(*value));
        let values = std::iter::once(0.0).chain(decades);
        Self { kind: Kind::LogOfOneMore, low: 0.0, high, ticks: Vec::new() }.with_ticks(values, label)
    }

    /// The time of a run in milliseconds, from 0 to exactly `end_ms`.
    pub(super) fn time(end_ms: u64) -> Self {
        const STEPS_S: [u64; 15] = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 14_400];
        let end_ms = end_ms.max(1);
        let steps_ms = [100, 200, 500].into_iter().chain(STEPS_S.into_iter().map(|step| step * 1_000));
        let step = steps_ms.into_iter().find(|step| end_ms / step < TIME_TICKS_MAX).unwrap_or(end_ms / 8);
        let label = |ms: f64| match step {
            0..1_000 => format!("{}\u{a0}s", ms / 1e3),
            _ => units::clock(units::whole(ms)),
        };
        let values = (0..=end_ms / step).map(|at| (at * step) as f64);
        let scale = Self { kind: Kind::Linear, low: 0.0, high: end_ms as f64, ticks: Vec::new() };
        let ticks = values.map(|value| Tick { at: scale.at(value), label: label(value) }).collect();
        Self { ticks, ..scale }
    }

    /// The place of a value: 0 to 1, also for values that are outside.
    pub(super) fn at(&self, value: f64) -> f64 {
        let at = match self.kind {
            Kind::Linear => (value - self.low) / (self.high - self.low),
            Kind::Log => (value.max(self.low) / self.low).log10() / (self.high / self.low).log10(),
            Kind::LogOfOneMore => (1.0 + value.max(0.0)).log10() / (1.0 + self.high).log10(),
        };
        at.clamp(0.0, 1.0)
    }

    /// The value where the axis ends.
    pub(super) fn high(&self) -> f64 {
        self.high
    }

    fn with_ticks(mut self, values: impl Iterator<Item = f64>, label: fn(f64) -> String) -> Self {
        for value in values {
            let at = self.at(value);
            if self.ticks.last().is_none_or(|last| at - last.at >= TICK_DISTANCE_MIN) {
                self.ticks.push(Tick { at, label: label(value) });
            }
        }
        self
    }
}

/// The value of 1, 2, 5, 10, 20 … at or above a positive one.
fn round_up(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .map(|factor| clean(factor * power))
        .into_iter()
        .find(|round| *round >= value * (1.0 - 1e-9))
        .unwrap_or(value)
}

/// The value of 1, 2, 5, 10, 20 … at or below a positive one.
fn round_down(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    [5.0, 2.0, 1.0]
        .map(|factor| clean(factor * power))
        .into_iter()
        .find(|round| *round <= value * (1.0 + 1e-9))
        .unwrap_or(value)
}

/// All of 1, 2, 5, 10, 20 … between two of them.
fn rounds(low: f64, high: f64) -> Vec<f64> {
    let mut values = vec![low];
    while let Some(last) = values.last().copied().filter(|last| *last < high * (1.0 - 1e-9)) {
        values.push(round_up(last * 1.5));
    }
    values
}

fn is_power_of_ten(value: f64) -> bool {
    let power = value.log10();
    (power - power.round()).abs() < 1e-9
}

/// Powers of ten are not exact; round values from 1 on are whole.
fn clean(value: f64) -> f64 {
    if value >= 1.0 { value.round() } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(scale: &Scale) -> Vec<String> {
        scale.ticks.iter().map(|tick| tick.label.replace('\u{a0}', " ")).collect()
    }

    #[test]
    fn linear_ticks_are_round_and_reach_over_the_highest_value() {
        assert_eq!(labels(&Scale::linear(950.0, units::short)), ["0", "500", "1,000"]);
        assert_eq!(labels(&Scale::linear(790.0, units::short)), ["0", "200", "400", "600", "800"]);
        assert_eq!(labels(&Scale::linear(0.0, units::short)), ["0", "1"]);
        assert!(Scale::linear(123_456.0, units::short).at(123_456.0) <= 1.0);
    }

    #[test]
    fn log_ticks_are_powers_of_ten_or_of_1_2_5_if_there_is_room() {
        let wide = Scale::log(180.0, 3_100_000.0, units::micros_tick);
        assert_eq!(labels(&wide), ["100 µs", "1 ms", "10 ms", "100 ms", "1 s"]);
        let narrow = Scale::log(900.0, 4_000.0, units::micros_tick);
        assert_eq!(labels(&narrow), ["500 µs", "1 ms", "2 ms", "5 ms"]);
        assert!((narrow.at(500.0)).abs() < 1e-9 && (narrow.at(5_000.0) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn zero_and_a_million_are_both_seen() {
        let scale = Scale::log_of_one_more(1_000_000.0, units::short);
        assert!(scale.at(0.0) < f64::EPSILON && scale.at(1.0) > 0.04 && scale.at(1e6) <= 1.0);
        assert_eq!(labels(&scale), ["0", "10", "100", "1,000", "10k", "100k", "1M"]);
        assert_eq!(labels(&Scale::log_of_one_more(0.0, units::short)), ["0", "1", "10"]);
    }

    #[test]
    fn time_ticks_are_of_the_clock() {
        assert_eq!(labels(&Scale::time(180_000)), ["0:00", "0:30", "1:00", "1:30", "2:00", "2:30", "3:00"]);
        assert_eq!(
            labels(&Scale::time(900)),
            ["0 s", "0.1 s", "0.2 s", "0.3 s", "0.4 s", "0.5 s", "0.6 s", "0.7 s", "0.8 s", "0.9 s"]
        );
        assert_eq!(Scale::time(0).ticks.len(), 1);
        for end_ms in [1, 7_500, 65_000, 86_400_000, 864_000_000] {
            let ticks = Scale::time(end_ms).ticks;
            assert!(ticks.len() <= TIME_TICKS_MAX as usize + 1 && ticks.iter().all(|tick| tick.at <= 1.0));
        }
    }

    #[test]
    fn values_outside_stay_at_the_edge() {
        let scale = Scale::log(100.0, 1_000.0, units::micros_tick);
        assert!(scale.at(1.0) < f64::EPSILON && scale.at(1e9) > 1.0 - f64::EPSILON);
    }
}
