//! Counters of a journal, for metrics and benches. Relaxed: they order nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What the journal did since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Entries made durable.
    pub entries: u64,
    /// Batches made durable (`commit`s with something to do).
    pub batches: u64,
    /// Writes of frames.
    pub writes: u64,
    /// Bytes of frames written.
    pub bytes: u64,
    /// fdatasyncs on the path of an entry.
    pub syncs: u64,
    /// Time spent in them, in nanoseconds.
    pub sync_total_ns: u64,
    /// The longest one, in nanoseconds.
    pub sync_max_ns: u64,
    /// Segments begun.
    pub segments: u64,
    /// Segments archived or deleted.
    pub segments_trimmed: u64,
    /// Background jobs (trims, spare segments) that failed; they are tried again at the next occasion.
    pub background_failures: u64,
}

#[derive(Default)]
pub(crate) struct Counters {
    entries: AtomicU64,
    batches: AtomicU64,
    writes: AtomicU64,
    bytes: AtomicU64,
    syncs: AtomicU64,
    sync_total_ns: AtomicU64,
    sync_max_ns: AtomicU64,
    segments: AtomicU64,
    segments_trimmed: AtomicU64,
    background_failures: AtomicU64,
}

impl Counters {
    pub(crate) fn batch(&self, entries: u64) {
        self.entries.fetch_add(entries, Ordering::Relaxed);
        self.batches.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn write(&self, bytes: u64) {
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn sync(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.sync_total_ns.fetch_add(nanos, Ordering::Relaxed);
        self.sync_max_ns.fetch_max(nanos, Ordering::Relaxed);
    }

    pub(crate) fn segment(&self) {
        self.segments.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn trimmed(&self, segments: u64) {
        self.segments_trimmed.fetch_add(segments, Ordering::Relaxed);
    }

    pub(crate) fn background_failure(&self) {
        self.background_failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self) -> Stats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            entries: get(&self.entries),
            batches: get(&self.batches),
            writes: get(&self.writes),
            bytes: get(&self.bytes),
            syncs: get(&self.syncs),
            sync_total_ns: get(&self.sync_total_ns),
            sync_max_ns: get(&self.sync_max_ns),
            segments: get(&self.segments),
            segments_trimmed: get(&self.segments_trimmed),
            background_failures: get(&self.background_failures),
        }
    }
}
