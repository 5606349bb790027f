//! The one clock of the servers. Pure crates read none: time arrives in them as data.
//!
//! With the feature `failpoints` the clock can be set wrong from outside, to see what a clock that jumps does: the file that
//! `ESCROW_CLOCK_OFFSET_FILE` names holds milliseconds, perhaps negative, to add. Without the feature neither the variable nor
//! the file is looked at.

use std::time::{SystemTime, UNIX_EPOCH};

use escrow_types::Millis;

/// Now, in Unix milliseconds.
pub fn now_ms() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    #[cfg(feature = "failpoints")]
    let millis = millis.saturating_add_signed(offset::ms());
    millis
}

#[cfg(feature = "failpoints")]
mod offset {
    use std::path::PathBuf;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
    use std::time::Instant;

    /// Names the file that holds the offset.
    const FILE_ENV: &str = "ESCROW_CLOCK_OFFSET_FILE";
    /// The file is looked at again after so many milliseconds.
    const LOOK_EVERY_MS: u64 = 10;

    /// What the file said last.
    static OFFSET_MS: AtomicI64 = AtomicI64::new(0);
    /// When it was looked at last, in milliseconds since the first look, plus one; 0 for never.
    static LOOKED_AT: AtomicU64 = AtomicU64::new(0);

    /// How wrong the clock is to be. A file that is missing, or half written, changes nothing.
    pub(super) fn ms() -> i64 {
        static FILE: OnceLock<Option<(PathBuf, Instant)>> = OnceLock::new();
        let file = FILE.get_or_init(|| Some((PathBuf::from(std::env::var_os(FILE_ENV)?), Instant::now())));
        let Some((path, begun)) = file else { return 0 };
        let now = begun.elapsed().as_millis() as u64 + 1;
        let looked = LOOKED_AT.load(Ordering::Relaxed);
        if looked == 0 || now >= looked + LOOK_EVERY_MS {
            LOOKED_AT.store(now, Ordering::Relaxed);
            if let Some(offset) = std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok())
            {
                OFFSET_MS.store(offset, Ordering::Relaxed);
            }
        }
        OFFSET_MS.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_time_of_this_machine() {
        let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        let now = now_ms();
        assert!((before..before + 10_000).contains(&now), "{now}");
    }
}
