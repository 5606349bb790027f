//! The synchronous core of the journal: encode, write, sync. No threads, so that a simulation can drive it step by step.
//!
//! On disk: frames go into the active segment at the next free place; a frame that does not fit begins a new segment
//! (a spare gets header and frames, is synced, and only then gets its name). To ensure correctness:
//! - everything before a new segment is durable before that segment gets its name;
//! - `durable` moves only after the sync that covers it;
//! - after the first failed write or sync, nothing is written any more.

use crate::catalog::Shared;
use crate::cursors::Cursors;
use crate::error::{JournalError, JournalFailure, Result};
use crate::frame::{FRAME_VERSION, FrameHeader, frame_bytes};
use crate::options::Options;
use crate::reader::Reader;
use crate::recovery::{Opened, Recovered, recover};
use crate::segment::{FileName, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::spare::SpareSlot;
use crate::stats::{Counters, Stats};
use crate::storage::{Disk, DiskFile, LockGuard};
use crate::trim;
use crate::types::{Group, Index};
use crate::walker::Position;
use escrow_invariants::{Canary, canary};
use std::sync::Arc;
use std::time::Instant;

/// A buffer that grew beyond this for one batch is given back after it.
const BUFFER_BYTES_KEPT: usize = 16 << 20;

/// An open journal, single-threaded: [`append`](Log::append) buffers, [`commit`](Log::commit) makes durable.
///
/// See [`Cursors`] for what is where. [`crate::Journal`] puts it behind a writer thread.
pub struct Log {
    pub(crate) shared: Arc<Shared>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) spares: Arc<SpareSlot>,
    active: Box<dyn DiskFile>,
    active_bytes: u64,
    /// Where the next frame goes; may be in a segment that does not exist yet.
    end: Position,
    /// Size of the segment that `end` is in.
    end_segment_bytes: u64,
    /// Encoded frames that are not written yet, and where they belong.
    buffer: Vec<u8>,
    runs: Vec<Run>,
    /// Random number of this open, in every frame.
    life: u32,
    failure: Option<JournalFailure>,
    /// Last field: released only after the files are closed.
    pub(crate) lock: Arc<dyn LockGuard>,
}

/// A stretch of the buffer that goes to one segment.
struct Run {
    buffer_from: usize,
    begin: Position,
    last: u64,
    /// The run begins a new segment.
    is_new_segment: bool,
}

impl Log {
    /// Opens or creates the journal in `options.dir`. `from` is the first index that the caller will read; it relies on
    /// all before it (1 if it relies on nothing). Blocks for reading the live segments from there on.
    ///
    /// To ensure correctness: whatever [`Log::commit`] reported durable before is there, or this fails and changes
    /// nothing. After `Ok` everything up to [`Opened::last`] is durable.
    pub fn open(disk: Arc<dyn Disk>, options: Options, from: Index) -> Result<(Log, Opened)> {
        let Recovered { shared, lock, active, active_bytes, position, life, opened } =
            recover(disk, options, from)?;
        let log = Log {
            shared: Arc::new(shared),
            counters: Arc::default(),
            spares: Arc::default(),
            active,
            active_bytes,
            end: position,
            end_segment_bytes: active_bytes,
            buffer: Vec::new(),
            runs: Vec::new(),
            life,
            failure: None,
            lock: Arc::from(lock),
        };
        log.shared.cursors().assert_ordered();
        Ok((log, opened))
    }

    /// Encodes one entry into the buffer and gives it the next index. No I/O. A copy of the payload is kept until the
    /// next [`Log::commit`]; the caller bounds how much it appends before that.
    pub fn append(&mut self, group: Group, payload: &[u8]) -> Result<Index> {
        let payload_crc = self.shared.seed().payload_crc(payload);
        self.append_prepared(group, payload, payload_crc)
    }

    /// [`Log::append`] with the payload's part of the CRC already computed.
    pub(crate) fn append_prepared(
        &mut self,
        group: Group,
        payload: &[u8],
        payload_crc: u32,
    ) -> Result<Index> {
        self.check_alive()?;
        let bytes_max = self.shared.options.payload_bytes_max();
        if payload.len() > bytes_max {
            return Err(JournalError::PayloadTooLarge { bytes: payload.len(), bytes_max });
        }
        let frame_bytes = frame_bytes(payload.len()) as u64;
        let is_new_segment = self.end.offset + frame_bytes > self.end_segment_bytes;
        if is_new_segment {
            self.end.offset = SEGMENT_HEADER_BYTES;
            self.end_segment_bytes = self.shared.options.segment_bytes;
        }
        if is_new_segment || self.runs.is_empty() {
            let buffer_from = self.buffer.len();
            self.runs.push(Run { buffer_from, begin: self.end, last: 0, is_new_segment });
        }
        let index = self.end.index;
        let header = FrameHeader {
            version: FRAME_VERSION,
            group,
            index,
            synced: self.shared.durable(),
            payload_bytes: payload.len() as u32,
            previous_crc: self.end.chain,
            life: self.life,
        };
        let chain = header.encode(payload, payload_crc, &mut self.buffer);
        self.end = Position { offset: self.end.offset + frame_bytes, index: index + 1, chain };
        assert!(self.end.offset <= self.end_segment_bytes, "a frame crosses the end of its segment");
        self.runs.last_mut().expect("pushed above").last = index;
        self.shared.set_appended(index);
        Ok(Index(index))
    }

    /// Writes everything buffered, with one write and one sync (per segment), and returns the last durable index. With
    /// an empty buffer: no I/O. An error is final, also for entries of the batch that did become durable.
    pub fn commit(&mut self) -> Result<Index> {
        self.check_alive()?;
        if self.runs.is_empty() {
            return Ok(Index(self.shared.durable()));
        }
        let entries = self.end.index - 1 - self.shared.durable();
        let result = self.write_runs();
        if let Err(cause) = result {
            let failure = JournalFailure { durable: Index(self.shared.durable()), cause: Arc::new(cause) };
            self.failure = Some(failure.clone());
            return Err(JournalError::Failed(failure));
        }
        self.counters.batch(entries);
        self.runs.clear();
        if self.buffer.capacity() > BUFFER_BYTES_KEPT {
            self.buffer = Vec::new();
        } else {
            self.buffer.clear();
        }
        let cursors = self.cursors();
        assert_eq!(cursors.appended, cursors.durable, "a commit leaves nothing behind");
        Ok(cursors.durable)
    }

    fn write_runs(&mut self) -> Result<()> {
        for at in 0..self.runs.len() {
            let run = &self.runs[at];
            let buffer_to = self.runs.get(at + 1).map_or(self.buffer.len(), |next| next.buffer_from);
            let frames = &self.buffer[run.buffer_from..buffer_to];
            let (begin, last) = (run.begin, run.last);
            assert_eq!(
                begin.index,
                self.shared.durable() + 1,
                "frames are written in order, each batch after the last"
            );
            if run.is_new_segment {
                let (file, segment_bytes) = self.begin_segment(begin, frames, last)?;
                self.active = file;
                self.active_bytes = segment_bytes;
            } else {
                assert!(begin.offset + frames.len() as u64 <= self.active_bytes);
                let path = || self.shared.path(&self.shared.catalog().active_mut().name());
                self.active
                    .write_all_at(frames, begin.offset)
                    .map_err(|error| JournalError::io("write", &path())(error))?;
                self.shared.set_written(last);
                self.counters.write(frames.len() as u64);
                let started = Instant::now();
                if !canary::is_on(Canary::AcknowledgeBeforeSync) {
                    self.active.sync_data().map_err(|error| JournalError::io("sync", &path())(error))?;
                }
                self.counters.sync(started.elapsed());
            }
            self.shared.set_durable(last);
            self.shared.catalog().active_mut().mark(begin);
        }
        Ok(())
    }

    /// Turns a spare into the next segment, with its first frames.
    fn begin_segment(&self, begin: Position, frames: &[u8], last: u64) -> Result<(Box<dyn DiskFile>, u64)> {
        let Shared { disk, options, .. } = &*self.shared;
        let spare = self.spares.take(&**disk, options)?;
        let header = SegmentHeader {
            journal_id: self.shared.journal_id,
            first: begin.index,
            chain: begin.chain,
            segment_bytes: spare.segment_bytes,
        };
        spare.file.write_all_at(&header.encode(), 0).map_err(JournalError::io("write", &spare.path))?;
        spare
            .file
            .write_all_at(frames, SEGMENT_HEADER_BYTES)
            .map_err(JournalError::io("write", &spare.path))?;
        self.shared.set_written(last);
        self.counters.write(frames.len() as u64);
        let started = Instant::now();
        spare.file.sync_data().map_err(JournalError::io("sync", &spare.path))?;
        let path = self.shared.path(&FileName::live(begin.index));
        disk.rename(&spare.path, &path).map_err(JournalError::io("rename", &spare.path))?;
        disk.sync_dir(&options.dir).map_err(JournalError::io("sync", &options.dir))?;
        self.counters.sync(started.elapsed());
        self.counters.segment();
        self.shared.catalog().push_live(begin.index);
        Ok((spare.file, spare.segment_bytes))
    }

    fn check_alive(&self) -> Result<()> {
        match &self.failure {
            None => Ok(()),
            Some(failure) => Err(JournalError::Failed(failure.clone())),
        }
    }

    /// The durable entries from `from` on; none if `from` is not durable yet. `Trimmed` if it was deleted.
    pub fn read_from(&self, from: Index) -> Result<Reader> {
        Reader::new(&self.shared, from)
    }

    /// Archives or deletes the segments that end at or before `up_to`; returns the trimmed cursor. A failure leaves the
    /// log usable; the next trim goes on where this one stopped.
    pub fn trim(&mut self, up_to: Index) -> Result<Index> {
        // Whoever calls this waits for it.
        trim::trim(&self.shared, &self.counters, &self.spares, up_to, &|| true)
    }

    /// How far the log has come.
    pub fn cursors(&self) -> Cursors {
        self.shared.cursors()
    }

    /// First index that can be read: 1 unless history was deleted.
    pub fn first_index(&self) -> Index {
        Index(self.shared.catalog().first_index())
    }

    /// Counters since the log was opened.
    pub fn stats(&self) -> Stats {
        self.counters.snapshot()
    }
}
