//! The replay of a log at a start: tells how far it is while it takes long, and how fast it went.

use std::time::{Duration, Instant};

/// A replay that takes longer than this says how far it is, each time.
const TOLD_EVERY: Duration = Duration::from_secs(2);

/// A replay under way.
#[derive(Debug)]
pub struct Replay {
    started: Instant,
    told: Instant,
    last: u64,
    entries: u64,
    bytes: u64,
}

impl Replay {
    /// Begins one that leads to the entry `last`.
    pub fn new(last: u64) -> Self {
        let now = Instant::now();
        Self { started: now, told: now, last, entries: 0, bytes: 0 }
    }

    /// Notes that the entry at `index`, of so many bytes, was replayed.
    pub fn note(&mut self, index: u64, bytes: usize) {
        self.entries += 1;
        self.bytes += bytes as u64;
        if self.told.elapsed() >= TOLD_EVERY {
            self.told = Instant::now();
            tracing::info!(index, last = self.last, "replaying the log");
        }
    }

    /// Tells what was replayed, if anything was.
    pub fn end(self) {
        if self.entries > 0 {
            let took = self.started.elapsed();
            let Self { last, entries, bytes, .. } = self;
            let took_ms = took.as_millis() as u64;
            let mib_per_s = mib_per_second(bytes, took);
            tracing::info!(last, entries, bytes, took_ms, mib_per_s, "log replayed");
        }
    }
}

/// MiB a second, to a tenth.
fn mib_per_second(bytes: u64, took: Duration) -> f64 {
    let mib = bytes as f64 / f64::from(1 << 20);
    (mib / took.as_secs_f64().max(1e-9) * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_all_bytes_and_all_time() {
        let rate = mib_per_second(150 << 20, Duration::from_millis(1_500));
        assert!((rate - 100.0).abs() < 1e-9, "{rate}");
        assert!(mib_per_second(1, Duration::ZERO).is_finite());
    }

    #[test]
    fn every_entry_counts_once() {
        let mut replay = Replay::new(7);
        (5..=7).for_each(|index| replay.note(index, 100));
        assert_eq!((replay.entries, replay.bytes), (3, 300));
        replay.end();
    }
}
