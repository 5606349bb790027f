//! What becomes of segments that a restart no longer needs: kept, packed or deleted.
//!
//! On disk, in this order:
//! - Keep: rename, sync of the directory.
//! - Compress: packed copy (checked frame by frame while it is made) under a temporary name, sync, rename, sync of the
//!   directory; only then the original is retired.
//! - Delete: the new first index goes into `journal.meta` durably; only then files are retired.
//!
//! A retired file becomes a spare: it loses its name durably, and its blocks are written again. One that a reader may have open, or
//! that is one too many, is removed.
//!
//! So a crash leaves a segment live, or archived, or both (then the open removes the copy), and never neither. Never
//! touches the segment being written. Never deletes what a reader still has before it.

use crate::background::Turns;
use crate::catalog::{Place, Segment, Shared};
use crate::error::{JournalError, Result};
use crate::meta::Meta;
use crate::options::Archive;
use crate::segment::FileName;
use crate::spare::{Spare, SpareSlot};
use crate::stats::Counters;
use crate::storage::{SequentialRead, SequentialWrite, create_afresh};
use crate::types::Index;
use crate::walker::Walker;
use lz4_flex::frame::{BlockSize, FrameEncoder, FrameInfo};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;
use std::sync::PoisonError;

const BUFFER_BYTES: usize = 256 * 1024;

/// Archives or deletes the segments wholly at or before `up_to` (and durable). Returns the trimmed cursor.
///
/// Packing takes turns with rests while `hurries` says no.
pub(crate) fn trim(
    shared: &Shared,
    counters: &Counters,
    spares: &SpareSlot,
    up_to: Index,
    hurries: &dyn Fn() -> bool,
) -> Result<Index> {
    let _one_at_a_time = shared.trimming.lock().unwrap_or_else(PoisonError::into_inner);
    let up_to = up_to.get().min(shared.durable());
    if shared.options.archive == Archive::Delete {
        delete(shared, counters, spares, up_to)?;
    } else {
        // Each turn archives one live segment, so this ends.
        while let Some(segment) = oldest_live(shared, up_to) {
            if shared.options.archive == Archive::Keep {
                keep(shared, &segment)?;
            } else {
                compress(shared, spares, &segment, hurries)?;
            }
            counters.trimmed(1);
        }
    }
    Ok(shared.cursors().trimmed)
}

fn oldest_live(shared: &Shared, up_to: u64) -> Option<Segment> {
    let catalog = shared.catalog();
    let oldest = catalog.segments.iter().find(|segment| segment.place == Place::Live)?;
    oldest.last.is_some_and(|last| last <= up_to).then(|| oldest.clone())
}

fn set_place(shared: &Shared, first: u64, place: Place) {
    let mut catalog = shared.catalog();
    let segment = catalog.segments.iter_mut().find(|segment| segment.first == first);
    segment.expect("only a trim removes segments, and there is one at a time").place = place;
}

fn keep(shared: &Shared, segment: &Segment) -> Result<()> {
    let last = segment.last.expect("a complete segment");
    let from = shared.path(&segment.name());
    {
        // Under the catalog's lock, so that a reader never sees a name that is no longer there.
        let mut catalog = shared.catalog();
        shared
            .disk
            .rename(&from, &shared.path(&FileName::kept(segment.first, last)))
            .map_err(JournalError::io("rename", &from))?;
        let entry = catalog.segments.iter_mut().find(|entry| entry.first == segment.first);
        entry.expect("only a trim removes segments, and there is one at a time").place = Place::Kept;
    }
    sync_dir(shared)
}

fn compress(
    shared: &Shared,
    spares: &SpareSlot,
    segment: &Segment,
    hurries: &dyn Fn() -> bool,
) -> Result<()> {
    let last = segment.last.expect("a complete segment");
    let original = shared.path(&segment.name());
    let packed = shared.path(&FileName::compressed(segment.first, last));
    let temporary = shared.path("archive.tmp");

    let file = create_afresh(&*shared.disk, &temporary).map_err(JournalError::io("create", &temporary))?;
    let out = SequentialWrite::unread(&*file, 0);
    let mut out = Unhurried { out, unrested: 0, turns: Turns::new(), hurries };
    pack(shared, segment, &original, &mut out, &temporary)?;
    file.sync_data().map_err(JournalError::io("sync", &temporary))?;
    shared.disk.rename(&temporary, &packed).map_err(JournalError::io("rename", &temporary))?;
    sync_dir(shared)?;

    set_place(shared, segment.first, Place::Compressed);
    retire(shared, spares, segment)
}

/// Makes a spare of the file of a live segment that is archived or to be forgotten, or removes it.
fn retire(shared: &Shared, spares: &SpareSlot, segment: &Segment) -> Result<()> {
    let last = segment.last.expect("a complete segment");
    let path = shared.path(&FileName::live(segment.first));
    let file = shared.disk.open(&path).map_err(JournalError::io("open", &path))?;
    let segment_bytes = file.size().map_err(JournalError::io("read", &path))?;
    // Whoever opens it from now on takes the archived one: only those who came before may have this file.
    let is_read = shared.catalog().first_needed() <= last;
    if is_read || !spares.has_room(segment_bytes) || segment_bytes != shared.options.segment_bytes {
        shared.disk.remove(&path).map_err(JournalError::io("remove", &path))?;
        return sync_dir(shared);
    }
    let spare = shared.path(&format!("recycled-{}.tmp", segment.first));
    shared.disk.rename(&path, &spare).map_err(JournalError::io("rename", &path))?;
    sync_dir(shared)?;
    spares.recycle(Spare { path: spare, file, segment_bytes });
    Ok(())
}

/// Copies header and frames of a segment, packed; fails if a frame is not what it was.
fn pack(shared: &Shared, segment: &Segment, from: &Path, to: &mut dyn Write, to_path: &Path) -> Result<()> {
    let last = segment.last.expect("a complete segment");
    let file = shared.disk.open(from).map_err(JournalError::io("open", from))?;
    let source = BufReader::with_capacity(BUFFER_BYTES, SequentialRead::new(file, 0));
    // No checksum of the whole: every frame in it has one of its own, and whoever reads it checks them.
    let settings = FrameInfo::new().block_size(BlockSize::Max256KB);
    let packer = FrameEncoder::with_frame_info(settings, BufWriter::with_capacity(BUFFER_BYTES, to));
    let tee = Tee { source, copy: packer };
    let (mut walker, _) = Walker::from_header(tee, from, shared.journal_id, segment.first)?;
    while walker.position().index <= last {
        if walker.step()?.is_none() {
            let position = walker.position();
            return Err(JournalError::Damaged {
                path: from.to_path_buf(),
                offset: position.offset,
                index: Index(position.index),
                reason: "a frame that was durable is not valid; the segment was left as it is",
            });
        }
    }
    let mut buffered = walker
        .into_source()
        .copy
        .finish()
        .map_err(|error| JournalError::io("write", to_path)(io::Error::other(error)))?;
    buffered.flush().map_err(JournalError::io("write", to_path))
}

fn delete(shared: &Shared, counters: &Counters, spares: &SpareSlot, up_to: u64) -> Result<()> {
    let (victims, first_kept) = {
        let mut catalog = shared.catalog();
        let limit = up_to.min(catalog.first_needed() - 1);
        let count = catalog
            .segments
            .iter()
            .take_while(|segment| segment.last.is_some_and(|last| last <= limit))
            .count();
        let victims: Vec<Segment> = catalog.segments.drain(..count).collect();
        (victims, catalog.first_index())
    };
    if victims.is_empty() {
        return Ok(());
    }
    let meta = Meta {
        journal_id: shared.journal_id,
        segment_bytes_at_creation: shared.segment_bytes_at_creation,
        first_kept,
    };
    meta.store(&*shared.disk, &shared.options.dir)?;
    for segment in &victims {
        if segment.place == Place::Live {
            retire(shared, spares, segment)?;
        } else {
            let path = shared.path(&segment.name());
            shared.disk.remove(&path).map_err(JournalError::io("remove", &path))?;
        }
    }
    counters.trimmed(victims.len() as u64);
    sync_dir(shared)
}

fn sync_dir(shared: &Shared) -> Result<()> {
    let dir = &shared.options.dir;
    shared.disk.sync_dir(dir).map_err(JournalError::io("sync", dir))
}

/// Writes with rests, so that a log on the same disk has its half of it.
struct Unhurried<'a, W> {
    out: W,
    unrested: usize,
    turns: Turns,
    hurries: &'a dyn Fn() -> bool,
}

impl<W: Write> Write for Unhurried<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        /// So much is written between rests.
        const PIECE_BYTES: usize = 1 << 20;
        let count = self.out.write(bytes)?;
        self.unrested += count;
        if self.unrested >= PIECE_BYTES {
            self.unrested = 0;
            self.turns.done((self.hurries)());
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Copies what is read through it.
struct Tee<R, W> {
    source: R,
    copy: W,
}

impl<R: Read, W: Write> Read for Tee<R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.copy.write_all(&buffer[..count])?;
        Ok(count)
    }
}
