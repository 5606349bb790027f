//! Axes: where a value is on them, where their ticks are, and how those are written.

/// An axis from 0 or a power of ten to a round value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    is_log: bool,
}

/// Ticks of an axis at most.
const TICKS_MAX: usize = 12;

impl Scale {
    /// From 0 to at least `highest`.
    pub(super) fn linear(highest: f64) -> Self {
        let highest = if highest.is_finite() && highest > 0.0 { highest } else { 1.0 };
        let step = step_of(highest);
        Self { low: 0.0, high: (highest / step).ceil() * step, is_log: false }
    }

    /// From 0 to exactly `highest`: for time.
    pub(super) fn exact(highest: f64) -> Self {
        let high = if highest.is_finite() && highest > 0.0 { highest } else { 1.0 };
        Self { low: 0.0, high, is_log: false }
    }

    /// Powers of ten around both; values below the first are on it.
    pub(super) fn log(lowest: f64, highest: f64) -> Self {
        let low = 10f64.powf(lowest.max(1.0).log10().floor());
        let high = 10f64.powf(highest.max(1.0).log10().ceil()).max(low * 10.0);
        Self { low, high, is_log: true }
    }

    /// From 0 at the low end to 1 at the high one, and never beyond.
    pub(super) fn at(&self, value: f64) -> f64 {
        let share = if self.is_log {
            (value.max(self.low) / self.low).log10() / (self.high / self.low).log10()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        share.clamp(0.0, 1.0)
    }

    pub(super) fn ticks(&self) -> Vec<f64> {
        let ticks: Vec<f64> = if self.is_log {
            // A few decades have room for more than their beginnings.
            let steps: &[f64] = if self.high / self.low < 1e3 { &[1.0, 2.0, 5.0] } else { &[1.0] };
            std::iter::successors(Some(self.low), |tick| Some(tick * 10.0))
                .flat_map(|decade| steps.iter().map(move |step| decade * step))
                .take_while(|tick| *tick <= self.high * 1.001)
                .take(TICKS_MAX)
                .collect()
        } else {
            let step = step_of(self.high);
            (0..TICKS_MAX as u32)
                .map(|tick| f64::from(tick) * step)
                .take_while(|tick| *tick <= self.high * 1.001)
                .collect()
        };
        ticks
    }
}

/// A step of 1, 2 or 5 times a power of ten that makes three to seven ticks.
fn step_of(highest: f64) -> f64 {
    let power = 10f64.powf((highest / 3.0).log10().floor());
    let rough = highest / 3.0 / power;
    power
        * if rough >= 5.0 {
            5.0
        } else if rough >= 2.0 {
            2.0
        } else {
            1.0
        }
}

/// `1.2M`, `480k`, `37`.
pub(super) fn short(value: f64) -> String {
    let (value, unit) = match value.abs() {
        large if large >= 1e6 => (value / 1e6, "M"),
        large if large >= 1e3 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    format!("{}{unit}", trimmed(value))
}

/// Microseconds as `850 µs`, `1.2 ms`, `2 s`.
pub(super) fn span(micros: f64) -> String {
    match micros {
        long if long >= 1e6 => format!("{} s", trimmed(micros / 1e6)),
        long if long >= 1e3 => format!("{} ms", trimmed(micros / 1e3)),
        _ => format!("{} µs", trimmed(micros)),
    }
}

/// Three digits, and no zeros behind the point.
pub(super) fn trimmed(value: f64) -> String {
    let text = match value.abs() {
        small if small < 10.0 => format!("{value:.2}"),
        small if small < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    };
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(left: f64, right: f64) -> bool {
        (left - right).abs() < 1e-9
    }

    #[test]
    fn a_linear_axis_begins_at_0_and_ends_at_a_round_value() {
        let scale = Scale::linear(479_000.0);
        assert!(near(scale.high, 500_000.0) && near(scale.at(0.0), 0.0) && near(scale.at(250_000.0), 0.5));
        let ticks: Vec<String> = scale.ticks().into_iter().map(short).collect();
        assert_eq!(ticks, ["0", "100k", "200k", "300k", "400k", "500k"]);
        assert!(near(scale.at(1e9), 1.0), "nothing is beyond the end");
    }

    #[test]
    fn a_logarithmic_axis_has_its_decades() {
        let scale = Scale::log(350.0, 42_000.0);
        let ticks: Vec<String> = scale.ticks().into_iter().map(span).collect();
        assert_eq!(ticks, ["100 µs", "1 ms", "10 ms", "100 ms"]);
        let one_decade: Vec<String> = Scale::log(150.0, 800.0).ticks().into_iter().map(span).collect();
        assert_eq!(one_decade, ["100 µs", "200 µs", "500 µs", "1 ms"]);
        assert!(near(scale.at(1_000.0), 1.0 / 3.0) && near(scale.at(0.0), 0.0));
    }

    #[test]
    fn an_axis_of_nothing_is_an_axis() {
        for scale in [Scale::linear(0.0), Scale::linear(f64::NAN), Scale::exact(0.0), Scale::log(0.0, 0.0)] {
            assert!(scale.at(0.0).is_finite() && (2..=TICKS_MAX).contains(&scale.ticks().len()), "{scale:?}");
        }
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in [(0.0, "0"), (37.0, "37"), (999.0, "999"), (1_250.0, "1.25k"), (1.5e6, "1.5M")] {
            assert_eq!(short(value), text);
        }
        assert_eq!((span(850.0), span(1_200.0), span(2e6)), ("850 µs".into(), "1.2 ms".into(), "2 s".into()));
    }
}
