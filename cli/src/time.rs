//! Spans of time as people write them, and moments relative to now.

use std::time::{SystemTime, UNIX_EPOCH};

pub use escrow_types::span::{format_millis, parse_duration};

/// The Unix milliseconds of now.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// How long ago a moment was, or how long it is until it; `-` for none.
pub fn relative(at_ms: u64, now_ms: u64) -> String {
    match at_ms {
        0 => "-".to_owned(),
        past if past <= now_ms => format!("{} ago", format_millis(now_ms - past)),
        future => format!("in {}", format_millis(future - now_ms)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_told_relative_to_now() {
        assert_eq!(relative(0, 5), "-");
        assert_eq!(relative(1_000, 1_012), "12 ms ago");
        assert_eq!(relative(1_012, 1_000), "in 12 ms");
    }
}
