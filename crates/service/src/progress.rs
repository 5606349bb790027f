//! Work at a start that may take long: tells how far it is meanwhile, and how fast it went.

use std::time::{Duration, Instant};

/// Work that takes longer than this says how far it is, each time.
const TOLD_EVERY: Duration = Duration::from_secs(2);

/// Work under way.
#[derive(Debug)]
pub struct Progress {
    what: &'static str,
    started: Instant,
    told: Instant,
    last: u64,
    entries: u64,
    bytes: u64,
}

impl Progress {
    /// Begins some work that leads to the entry `last`.
    pub fn new(what: &'static str, last: u64) -> Self {
        let now = Instant::now();
        Self { what, started: now, told: now, last, entries: 0, bytes: 0 }
    }

    /// Notes that the entry at `index`, of so many bytes, is done.
    pub fn note(&mut self, index: u64, bytes: usize) {
        self.entries += 1;
        self.bytes += bytes as u64;
        if self.told.elapsed() >= TOLD_EVERY {
            self.told = Instant::now();
            tracing::info!(index, last = self.last, "{}: under way", self.what);
        }
    }

    /// Tells what was done, if anything was.
    pub fn end(self) {
        if self.entries > 0 {
            let took = self.started.elapsed();
            let Self { what, last, entries, bytes, .. } = self;
            let took_ms = took.as_millis() as u64;
            let mib_per_s = mib_per_second(bytes, took);
            tracing::info!(last, entries, bytes, took_ms, mib_per_s, "{what}: done");
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
        let mut progress = Progress::new("test", 7);
        (5..=7).for_each(|index| progress.note(index, 100));
        assert_eq!((progress.entries, progress.bytes), (3, 300));
        progress.end();
    }
}
