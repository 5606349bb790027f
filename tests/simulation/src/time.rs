//! Simulated time: one true time in microseconds, and a wall clock for each process, which may be wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// Microseconds since the start of the simulation.
pub(crate) type Time = u64;

/// One millisecond.
pub(crate) const MS: Time = 1_000;
/// One second.
pub(crate) const SECOND: Time = 1_000 * MS;

/// When every simulation starts, Unix milliseconds.
const START_MS: u64 = 1_800_000_000_000;

/// The true time. Clones are the same clock.
#[derive(Clone, Default)]
pub(crate) struct TrueTime(Arc<AtomicU64>);

impl TrueTime {
    pub(crate) fn now(&self) -> Time {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, now: Time) {
        self.0.store(now, Ordering::Relaxed);
    }
}

/// The wall clock of one process.
#[derive(Clone)]
pub(crate) struct WallClock {
    time: TrueTime,
    offset_ms: Arc<AtomicI64>,
}

impl WallClock {
    pub(crate) fn new(time: &TrueTime) -> Self {
        Self { time: time.clone(), offset_ms: Arc::default() }
    }

    /// Unix milliseconds, as the process sees them.
    pub(crate) fn now_ms(&self) -> u64 {
        (START_MS + self.time.now() / MS).saturating_add_signed(self.offset_ms.load(Ordering::Relaxed))
    }

    /// The clock jumps.
    pub(crate) fn jump(&self, ms: i64) {
        self.offset_ms.fetch_add(ms, Ordering::Relaxed);
    }

    /// The clock is right again.
    pub(crate) fn correct(&self) {
        self.offset_ms.store(0, Ordering::Relaxed);
    }
}
