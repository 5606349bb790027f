//! The next segment, prepared ahead of need: a file of full size under a temporary name, whose blocks are allocated.
//!
//! Best is a segment that has been archived: its blocks are there, and what it holds is stale frames, which no recovery takes for
//! new ones (their indexes are lower, and their chain is another). Without one a file is filled with zeros, which costs as much as
//! writing the log once more. Whoever comes first makes it: the background thread normally, the writer itself if it runs out.
//! Never two at once. Left-over spares are removed on open, not reused.

use crate::error::{JournalError, Result};
use crate::options::Options;
use crate::storage::{Disk, DiskFile, create_afresh};
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

pub(crate) struct Spare {
    pub(crate) path: PathBuf,
    pub(crate) file: Box<dyn DiskFile>,
    pub(crate) segment_bytes: u64,
}

/// Archived segments that wait to be used again, in bytes; beyond, they are removed. About as many as a checkpoint of a busy process
/// archives.
const RECYCLED_BYTES_MAX: u64 = 512 << 20;

/// Makes a zero-filled file, synced but without a durable name.
pub(crate) fn prepare(disk: &dyn Disk, options: &Options, number: u64) -> Result<Spare> {
    let path = options.dir.join(format!("spare-{number}.tmp"));
    let file = create_afresh(disk, &path).map_err(JournalError::io("create", &path))?;
    file.allocate(options.segment_bytes).map_err(JournalError::io("zero-fill", &path))?;
    Ok(Spare { path, file, segment_bytes: options.segment_bytes })
}

/// Room for one spare that was made, and for archived segments.
#[derive(Default)]
pub(crate) struct SpareSlot {
    state: Mutex<SlotState>,
    changed: Condvar,
}

#[derive(Default)]
struct SlotState {
    ready: Option<Spare>,
    recycled: Vec<Spare>,
    preparing: bool,
    prepared: u64,
}

impl SpareSlot {
    /// Takes the spare; waits for one in preparation, or makes one here.
    pub(crate) fn take(&self, disk: &dyn Disk, options: &Options) -> Result<Spare> {
        let mut state = self.lock();
        loop {
            if let Some(spare) = state.take() {
                return Ok(spare);
            }
            if !state.preparing {
                state.prepared += 1;
                let number = state.prepared;
                drop(state);
                return prepare(disk, options, number);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Whether an archived segment would be kept for reuse.
    pub(crate) fn has_room(&self, segment_bytes: u64) -> bool {
        let state = self.lock();
        let bytes: u64 = state.recycled.iter().map(|spare| spare.segment_bytes).sum();
        bytes + segment_bytes <= RECYCLED_BYTES_MAX
    }

    /// Keeps an archived segment for reuse. Its old name must be gone durably: else a power loss could bring the name back, with what
    /// is written from now on behind it.
    pub(crate) fn recycle(&self, spare: Spare) {
        self.lock().recycled.push(spare);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, SlotState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a spare if there is none. A failure is not final: the writer will try for itself, and fail then.
    pub(crate) fn fill(&self, disk: &dyn Disk, options: &Options) -> Result<()> {
        let mut state = self.lock();
        if state.ready.is_some() || !state.recycled.is_empty() || state.preparing {
            return Ok(());
        }
        state.preparing = true;
        state.prepared += 1;
        let number = state.prepared;
        drop(state);
        let result = prepare(disk, options, number);
        let mut state = self.lock();
        state.preparing = false;
        let outcome = result.map(|spare| state.ready = Some(spare));
        drop(state);
        self.changed.notify_all();
        outcome
    }
}

impl SlotState {
    fn take(&mut self) -> Option<Spare> {
        self.recycled.pop().or_else(|| self.ready.take())
    }
}
