//! How figures are written: always with their unit, never with more digits than they are worth.

/// Between a number and its unit no line ends.
const NBSP: char = '\u{a0}';

/// `1234567` is 1,234,567.
pub(super) fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A number with its noun: "1 fault", "20 faults".
pub(super) fn counted(value: u64, noun: &str) -> String {
    let plural = if value == 1 { "" } else { "s" };
    format!("{}{NBSP}{noun}{plural}", count(value))
}

/// Something a second, whole.
pub(super) fn rate(value: f64) -> String {
    count(whole(value))
}

/// The whole number next to a value, and 0 if that is negative or no number.
#[allow(clippy::cast_sign_loss)] // such casts saturate
pub(super) fn whole(value: f64) -> u64 {
    value.round() as u64
}

/// A count on an axis: 0, 10, 10k, 1M.
pub(super) fn short(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{}M", v / 1e6),
        v if v >= 1e4 => format!("{}k", v / 1e3),
        v if v.fract() == 0.0 => count(whole(v)),
        v => v.to_string(),
    }
}

/// Microseconds, in the unit that fits, with three digits.
pub(super) fn micros(value: f64) -> String {
    match value {
        v if v.round() < 1_000.0 => format!("{v:.0}{NBSP}µs"),
        v if v < 999_500.0 => format!("{}{NBSP}ms", three_digits(v / 1e3)),
        v => format!("{}{NBSP}s", three_digits(v / 1e6)),
    }
}

/// Milliseconds, likewise.
pub(super) fn millis(value: f64) -> String {
    micros(value * 1e3)
}

/// A round value of an axis, in microseconds: 200 µs, 1 ms, 10 s.
pub(super) fn micros_tick(value: f64) -> String {
    match value.round() {
        v if v < 1e3 => format!("{v}{NBSP}µs"),
        v if v < 1e6 => format!("{}{NBSP}ms", v / 1e3),
        v => format!("{}{NBSP}s", v / 1e6),
    }
}

fn three_digits(value: f64) -> String {
    match value {
        v if v < 9.995 => format!("{v:.2}"),
        v if v < 99.95 => format!("{v:.1}"),
        v => format!("{v:.0}"),
    }
}

/// How long something lasted: 250 ms, 12.5 s, 3 min 5 s, 1 h 2 min.
pub(super) fn length(ms: u64) -> String {
    let seconds = (ms + 500) / 1_000;
    match ms {
        0..1_000 => format!("{ms}{NBSP}ms"),
        1_000..60_000 if ms.is_multiple_of(1_000) => format!("{}{NBSP}s", ms / 1_000),
        1_000..59_950 => format!("{:.1}{NBSP}s", ms as f64 / 1e3),
        _ if seconds < 3_600 => pair(seconds / 60, "min", seconds % 60, "s"),
        _ => pair(seconds / 3_600, "h", seconds % 3_600 / 60, "min"),
    }
}

fn pair(large: u64, large_unit: &str, small: u64, small_unit: &str) -> String {
    if small == 0 {
        return format!("{large}{NBSP}{large_unit}");
    }
    format!("{large}{NBSP}{large_unit} {small}{NBSP}{small_unit}")
}

/// An instant of the run: 1:05, or 1:02:05 beyond an hour.
pub(super) fn clock(ms: u64) -> String {
    let seconds = ms / 1_000;
    let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

/// An instant of the run to the tenth of a second: 1:05.3.
pub(super) fn instant(ms: u64) -> String {
    format!("{}.{}", clock(ms), ms % 1_000 / 100)
}

/// A share, rounded down so that 100 % means all of it.
pub(super) fn percent(part: u64, whole: u64) -> String {
    if part == whole {
        return format!("100{NBSP}%");
    }
    let hundredths = u128::from(part) * 10_000 / u128::from(whole.max(1));
    format!("{}.{:02}{NBSP}%", hundredths / 100, hundredths % 100)
}

/// A date of the calendar, in UTC: 2026-04-14 09:30:05 UTC.
pub(super) fn date(unix_ms: u64) -> String {
    let (days, seconds) = (unix_ms / 86_400_000, unix_ms / 1_000 % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}{NBSP}UTC")
}

/// Year, month and day of a day since 1970: years begin in March, so that the leap day is the last.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> String {
        text.replace(NBSP, " ")
    }

    #[test]
    fn counts_have_commas() {
        for (value, expect) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(count(value), expect);
        }
        assert_eq!(plain(&counted(1, "fault")), "1 fault");
        assert_eq!(plain(&counted(2_000, "fault")), "2,000 faults");
    }

    #[test]
    fn latencies_have_three_digits_and_the_unit_that_fits() {
        let cases = [
            (0.0, "0 µs"),
            (850.0, "850 µs"),
            (999.7, "1.00 ms"),
            (1_234.0, "1.23 ms"),
            (99_960.0, "100 ms"),
            (999_600.0, "1.00 s"),
            (12_345_678.0, "12.3 s"),
        ];
        for (value, expect) in cases {
            assert_eq!(plain(&micros(value)), expect);
        }
        assert_eq!(plain(&micros_tick(500_000.0)), "500 ms");
    }

    #[test]
    fn lengths_and_instants() {
        let cases = [
            (250, "250 ms"),
            (2_000, "2 s"),
            (12_540, "12.5 s"),
            (59_990, "1 min"),
            (185_000, "3 min 5 s"),
            (3_725_000, "1 h 2 min"),
        ];
        for (ms, expect) in cases {
            assert_eq!(plain(&length(ms)), expect);
        }
        assert_eq!(instant(65_340), "1:05.3");
        assert_eq!(clock(3_725_000), "1:02:05");
    }

    #[test]
    fn a_hundred_percent_is_all() {
        assert_eq!(plain(&percent(99_999, 100_000)), "99.99 %");
        assert_eq!(plain(&percent(7, 7)), "100 %");
        assert_eq!(plain(&percent(0, 0)), "100 %");
    }

    #[test]
    fn dates_of_the_calendar() {
        assert_eq!(plain(&date(0)), "1970-01-01 00:00:00 UTC");
        assert_eq!(plain(&date(1_709_210_096_000)), "2024-02-29 12:34:56 UTC");
        assert_eq!(plain(&date(1_767_225_599_999)), "2025-12-31 23:59:59 UTC");
    }
}
