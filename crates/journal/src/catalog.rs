//! Which segments there are, in order, and who is reading where. Shared by the log, the trimmer and the readers.
//!
//! **Invariant:** the segments are dense: each begins right after the one before it; archived ones precede live ones; the
//! last one is live and is the one being written.

use crate::cursors::Cursors;
use crate::frame::Seed;
use crate::options::Options;
use crate::segment::FileName;
use crate::storage::Disk;
use crate::types::Index;
use crate::walker::Position;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Where a reader can start inside a segment without reading all of it: about one per this many bytes.
const MARK_EVERY_BYTES: u64 = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Live,
    Kept,
    Compressed,
}

#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) first: u64,
    /// Last entry; `None` while it is being written.
    pub(crate) last: Option<u64>,
    pub(crate) place: Place,
    /// Known starts of frames, ascending. Only of live segments that this process wrote or walked.
    marks: Vec<Position>,
}

impl Segment {
    pub(crate) fn new(first: u64, last: Option<u64>, place: Place) -> Segment {
        Segment { first, last, place, marks: Vec::new() }
    }

    pub(crate) fn name(&self) -> String {
        match (self.place, self.last) {
            (Place::Live, _) => FileName::live(self.first),
            (Place::Kept, Some(last)) => FileName::kept(self.first, last),
            (Place::Compressed, Some(last)) => FileName::compressed(self.first, last),
            (_, None) => unreachable!("an archived segment is complete"),
        }
    }

    pub(crate) fn clone_without_marks(&self) -> Segment {
        Segment::new(self.first, self.last, self.place)
    }

    /// Remembers the start of a frame, if the last one remembered is far enough back.
    pub(crate) fn mark(&mut self, position: Position) {
        if self.marks.last().is_none_or(|mark| position.offset >= mark.offset + MARK_EVERY_BYTES) {
            self.marks.push(position);
        }
    }

    /// The last known start of a frame at or before `index`.
    pub(crate) fn mark_before(&self, index: u64) -> Option<Position> {
        let count = self.marks.partition_point(|mark| mark.index <= index);
        count.checked_sub(1).map(|at| self.marks[at])
    }
}

#[derive(Default)]
pub(crate) struct Catalog {
    pub(crate) segments: Vec<Segment>,
    /// Next entry of each reader, by reader number.
    readers: BTreeMap<u64, u64>,
    next_reader: u64,
}

impl Catalog {
    pub(crate) fn first_index(&self) -> u64 {
        self.segments.first().expect("there is always a segment").first
    }

    pub(crate) fn trimmed(&self) -> u64 {
        let live = self.segments.iter().find(|segment| segment.place == Place::Live);
        live.expect("the last segment is live").first - 1
    }

    pub(crate) fn segment_with(&self, index: u64) -> Option<&Segment> {
        let count = self.segments.partition_point(|segment| segment.first <= index);
        count.checked_sub(1).map(|at| &self.segments[at])
    }

    /// The segment being written is complete; the next one begins. An empty one is replaced.
    pub(crate) fn push_live(&mut self, first: u64) {
        let last = self.segments.last_mut().expect("there is always a segment");
        assert!(first >= last.first && last.place == Place::Live);
        if last.first == first {
            self.segments.pop();
        } else {
            last.last = Some(first - 1);
        }
        self.segments.push(Segment::new(first, None, Place::Live));
    }

    pub(crate) fn active_mut(&mut self) -> &mut Segment {
        self.segments.last_mut().expect("there is always a segment")
    }

    /// Registers a reader, which holds back deletions from `index` on. Returns its number.
    pub(crate) fn enter_reader(&mut self, index: u64) -> u64 {
        self.next_reader += 1;
        self.readers.insert(self.next_reader, index);
        self.next_reader
    }

    pub(crate) fn move_reader(&mut self, number: u64, index: u64) {
        self.readers.insert(number, index);
    }

    pub(crate) fn leave_reader(&mut self, number: u64) {
        self.readers.remove(&number);
    }

    /// First entry that some reader still needs.
    pub(crate) fn first_needed(&self) -> u64 {
        self.readers.values().copied().min().unwrap_or(u64::MAX)
    }
}

/// What the log, the trimmer and the readers of one journal share.
pub(crate) struct Shared {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) options: Options,
    pub(crate) journal_id: u128,
    pub(crate) segment_bytes_at_creation: u64,
    catalog: Mutex<Catalog>,
    appended: AtomicU64,
    written: AtomicU64,
    durable: AtomicU64,
    /// One trim at a time.
    pub(crate) trimming: Mutex<()>,
}

impl Shared {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        options: Options,
        journal_id: u128,
        segment_bytes_at_creation: u64,
        segments: Vec<Segment>,
        last: u64,
    ) -> Shared {
        let catalog = Catalog { segments, ..Catalog::default() };
        Shared {
            disk,
            options,
            journal_id,
            segment_bytes_at_creation,
            catalog: Mutex::new(catalog),
            appended: AtomicU64::new(last),
            written: AtomicU64::new(last),
            durable: AtomicU64::new(last),
            trimming: Mutex::new(()),
        }
    }

    pub(crate) fn seed(&self) -> Seed {
        Seed::of(self.journal_id)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.options.dir.join(name)
    }

    pub(crate) fn catalog(&self) -> MutexGuard<'_, Catalog> {
        self.catalog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A consistent snapshot: read from the hindmost cursor to the foremost, since all only grow.
    pub(crate) fn cursors(&self) -> Cursors {
        let trimmed = Index(self.catalog().trimmed());
        let durable = Index(self.durable.load(Ordering::Acquire));
        let written = Index(self.written.load(Ordering::Acquire));
        let appended = Index(self.appended.load(Ordering::Acquire));
        let cursors = Cursors { appended, written, durable, trimmed };
        cursors.assert_ordered();
        cursors
    }

    pub(crate) fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    pub(crate) fn appended(&self) -> u64 {
        self.appended.load(Ordering::Acquire)
    }

    pub(crate) fn set_appended(&self, index: u64) {
        self.appended.store(index, Ordering::Release);
    }

    pub(crate) fn set_written(&self, index: u64) {
        assert!(index <= self.appended(), "written beyond appended");
        let before = self.written.swap(index, Ordering::AcqRel);
        assert!(before <= index, "written moved back");
    }

    pub(crate) fn set_durable(&self, index: u64) {
        assert!(index <= self.written.load(Ordering::Acquire), "durable beyond written");
        let before = self.durable.swap(index, Ordering::AcqRel);
        assert!(before <= index, "durable moved back");
    }
}
