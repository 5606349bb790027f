//! Spans of time as people write them: `500ms`, `10s`, `5m`, `2h`, `7d`.

use std::time::Duration;

/// Parses a whole number with a unit. The unit is required: `5` alone may mean anything.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let expected = || format!("'{text}' is not a span of time: expected such as 500ms, 10s, 5m, 2h or 7d");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| expected())?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(expected()),
    };
    number.checked_mul(millis).map(Duration::from_millis).ok_or_else(expected)
}

/// Writes a span with its two largest units at most: `1h 5m`, `3.2 s`, `12 ms`.
pub fn format_millis(millis: u64) -> String {
    match millis {
        0..1_000 => format!("{millis} ms"),
        1_000..60_000 => format!("{}.{} s", millis / 1_000, millis % 1_000 / 100),
        60_000..3_600_000 => format!("{}m {}s", millis / 60_000, millis % 60_000 / 1_000),
        3_600_000..86_400_000 => format!("{}h {}m", millis / 3_600_000, millis % 3_600_000 / 60_000),
        _ => format!("{}d {}h", millis / 86_400_000, millis % 86_400_000 / 3_600_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_a_unit() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("2h"), Ok(Duration::from_secs(7_200)));
        assert_eq!(parse_duration("7d"), Ok(Duration::from_secs(604_800)));
        for text in
            ["", "5", "s", "-5s", "1.5s", "5 s", "5y", "99999999999999999999s", "18446744073709551615d"]
        {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn spans_are_short_to_read() {
        assert_eq!(format_millis(12), "12 ms");
        assert_eq!(format_millis(3_210), "3.2 s");
        assert_eq!(format_millis(3_900_000), "1h 5m");
    }
}
