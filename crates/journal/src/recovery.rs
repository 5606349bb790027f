//! Opening a journal: what is there, is it whole, where does it end.
//!
//! The rules:
//! 1. Left-overs of interrupted operations (`*.tmp`, archived copies whose original is still live, files before the first
//!    index kept) are removed. Unknown files, other journals' files and unknown versions are refused.
//! 2. Live segments are walked from the one that holds the caller's `from` index: earlier ones are not needed for a
//!    restart and are checked when they are read.
//! 3. At the first place X where there is no valid next frame:
//!    - a later segment exists: every entry before that one was durable, so this is damage (or a missing segment);
//!    - a later frame, valid, bears `synced >= X`: X was durable once, so this is damage;
//!    - the caller relies on X (`from > X`): damage, too;
//!    - what follows is older than the segment: it is a recycled one, and this is its end. It is left as it is;
//!    - otherwise X was never reported durable: a torn tail. It is zeroed. (That stale frames are never taken for new
//!      ones, even if the zeros get lost, is ensured by the frames' `life`.)
//! 4. Frames that nothing proves to have been synced (the last batch) are written again and synced before they are
//!    reported durable: the page cache may show what the disk does not have.
//!
//! What cannot be told: damage in the very last batch looks like a torn tail, unless the caller relies on it.
//! Must never change a file before the whole journal was judged sound.

use crate::catalog::{Place, Segment, Shared};
use crate::error::{JournalError, Result};
use crate::frame::{Seed, find_proof, is_stale};
use crate::meta::Meta;
use crate::options::Options;
use crate::segment::{FileName, LOCK_NAME, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::spare;
use crate::storage::{Disk, DiskFile, LockGuard, SequentialRead};
use crate::types::Index;
use crate::walker::{Position, Walker};
use std::collections::BTreeSet;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const BUFFER_BYTES: usize = 256 * 1024;

/// What was found when the journal was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Random id of this journal, given at creation.
    pub journal_id: u128,
    /// True if the directory was empty.
    pub created: bool,
    /// First index that can be read: 1 unless history was deleted.
    pub first: Index,
    /// Last index; 0 if there is none. All up to here is durable now.
    pub last: Index,
    /// What had to be cut off, if anything.
    pub torn: Option<TornTail>,
}

/// A tail that was being written when the machine stopped. None of it had been reported durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The file.
    pub path: PathBuf,
    /// Where the tail began, in bytes.
    pub offset: u64,
    /// Index of the first entry lost.
    pub index: Index,
    /// How many bytes were zeroed.
    pub bytes: u64,
}

/// All that the log needs to go on.
pub(crate) struct Recovered {
    pub(crate) shared: Shared,
    pub(crate) lock: Box<dyn LockGuard>,
    pub(crate) active: Box<dyn DiskFile>,
    pub(crate) active_bytes: u64,
    pub(crate) position: Position,
    pub(crate) life: u32,
    pub(crate) opened: Opened,
}

pub(crate) fn recover(disk: Arc<dyn Disk>, options: Options, from: Index) -> Result<Recovered> {
    options.validate()?;
    let dir = &options.dir;
    disk.create_dir_all(dir).map_err(JournalError::io("create", dir))?;
    let lock_path = dir.join(LOCK_NAME);
    let lock = disk.lock(&lock_path).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => JournalError::Locked(dir.clone()),
        _ => JournalError::io("lock", &lock_path)(error),
    })?;

    let mut files = Files::list(&*disk, dir)?;
    let (meta, created) = match Meta::load(&*disk, dir)? {
        Some(meta) => (meta, false),
        None => (create(&*disk, &options, &mut files)?, true),
    };
    let segments = files.segments(&*disk, dir, &meta)?;
    let first = segments.first().map_or(meta.first_kept, |segment| segment.first);
    if from.get() < first {
        return Err(JournalError::Trimmed { index: from, first: Index(first) });
    }
    let walk = Walk { disk: &*disk, dir, journal_id: meta.journal_id, from };
    let (segments, tail) = walk.run(segments)?;
    files.clean(&*disk, dir)?;
    let torn = tail.repair()?;
    // Also makes a rename durable that was still on its way when the process died.
    disk.sync_dir(dir).map_err(JournalError::io("sync", dir))?;

    let life = disk.entropy().map_err(JournalError::io("name", dir))? as u32;
    let last = tail.position.index - 1;
    let opened =
        Opened { journal_id: meta.journal_id, created, first: Index(first), last: Index(last), torn };
    let (active, active_bytes, position) = (tail.file, tail.segment_bytes, tail.position);
    let shared = Shared::new(disk, options, meta.journal_id, meta.segment_bytes_at_creation, segments, last);
    Ok(Recovered { shared, lock, active, active_bytes, position, life, opened })
}

/// The journal's files, sorted by kind.
#[derive(Default)]
struct Files {
    live: BTreeSet<u64>,
    archived: BTreeSet<(u64, u64, bool)>,
    /// To be removed.
    leftover: Vec<String>,
}

impl Files {
    fn list(disk: &dyn Disk, dir: &Path) -> Result<Files> {
        let mut files = Files::default();
        for name in disk.list(dir).map_err(JournalError::io("list", dir))? {
            match FileName::parse(&name) {
                Some(FileName::Meta | FileName::Lock) => {}
                Some(FileName::Temporary) => files.leftover.push(name),
                Some(FileName::Live(first)) => drop(files.live.insert(first)),
                Some(FileName::Kept(first, last)) => drop(files.archived.insert((first, last, false))),
                Some(FileName::Compressed(first, last)) => drop(files.archived.insert((first, last, true))),
                None => return Err(JournalError::ForeignFile(dir.join(name))),
            }
        }
        Ok(files)
    }

    /// The catalog: dense, from the first index kept. What is not in it joins the left-overs.
    fn segments(&mut self, disk: &dyn Disk, dir: &Path, meta: &Meta) -> Result<Vec<Segment>> {
        let mut segments: Vec<Segment> = Vec::new();
        for &(first, last, packed) in &self.archived {
            let place = if packed { Place::Compressed } else { Place::Kept };
            let segment = Segment::new(first, Some(last), place);
            if last < meta.first_kept || self.live.contains(&first) {
                self.leftover.push(segment.name());
            } else {
                segments.push(segment);
            }
        }
        let live: Vec<u64> = self.live.iter().copied().collect();
        for (at, &first) in live.iter().enumerate() {
            let next = live.get(at + 1).copied();
            if next.is_some_and(|next| next <= meta.first_kept) {
                self.leftover.push(FileName::live(first));
                continue;
            }
            segments.push(Segment::new(first, next.map(|next| next - 1), Place::Live));
        }
        let mut expected = meta.first_kept;
        for segment in &segments {
            if segment.first != expected {
                return Err(JournalError::MissingSegment {
                    dir: dir.to_path_buf(),
                    expected: Index(expected),
                });
            }
            // A foreign or unknown file is refused even where it is not walked.
            if segment.place == Place::Live {
                read_header(disk, dir, segment, meta.journal_id)?;
            }
            expected = segment.last.map_or(expected, |last| last + 1);
        }
        if live.is_empty() {
            return Err(JournalError::MissingSegment { dir: dir.to_path_buf(), expected: Index(expected) });
        }
        Ok(segments)
    }

    fn clean(&self, disk: &dyn Disk, dir: &Path) -> Result<()> {
        for name in &self.leftover {
            let path = dir.join(name);
            disk.remove(&path).map_err(JournalError::io("remove", &path))?;
        }
        Ok(())
    }
}

/// A new journal: its first segment, then its meta. Until the meta is durable the journal does not exist.
fn create(disk: &dyn Disk, options: &Options, files: &mut Files) -> Result<Meta> {
    let dir = &options.dir;
    let first_path = dir.join(FileName::live(1));
    let is_interrupted_creation = files.archived.is_empty()
        && match files.live.iter().collect::<Vec<_>>()[..] {
            [] => true,
            [&1] => {
                let file = disk.open(&first_path).map_err(JournalError::io("open", &first_path))?;
                used_bytes(&*file, SEGMENT_HEADER_BYTES).map_err(JournalError::io("read", &first_path))? == 0
            }
            _ => false,
        };
    if !is_interrupted_creation {
        return Err(JournalError::MissingMeta(dir.clone()));
    }
    let journal_id = disk.entropy().map_err(JournalError::io("name", dir))?;
    let meta = Meta { journal_id, segment_bytes_at_creation: options.segment_bytes, first_kept: 1 };
    let header = SegmentHeader {
        journal_id,
        first: 1,
        chain: Seed::of(journal_id).0,
        segment_bytes: options.segment_bytes,
    };
    let spare = spare::prepare(disk, options, 0)?;
    spare.file.write_all_at(&header.encode(), 0).map_err(JournalError::io("write", &spare.path))?;
    spare.file.sync_data().map_err(JournalError::io("sync", &spare.path))?;
    disk.rename(&spare.path, &first_path).map_err(JournalError::io("rename", &spare.path))?;
    disk.sync_dir(dir).map_err(JournalError::io("sync", dir))?;
    meta.store(disk, dir)?;
    *files = Files::list(disk, dir)?;
    Ok(meta)
}

fn read_header(disk: &dyn Disk, dir: &Path, segment: &Segment, journal_id: u128) -> Result<()> {
    let path = dir.join(segment.name());
    let file = disk.open(&path).map_err(JournalError::io("open", &path))?;
    let mut bytes = vec![0; SEGMENT_HEADER_BYTES as usize];
    let count = file.read_at(&mut bytes, 0).map_err(JournalError::io("read", &path))?;
    let header = SegmentHeader::decode(&bytes[..count], &path, journal_id, segment.first)?;
    let size = file.size().map_err(JournalError::io("read", &path))?;
    if size != header.segment_bytes {
        let reason = "the file is not as long as its header says";
        return Err(JournalError::Damaged { path, offset: size, index: Index(segment.first), reason });
    }
    Ok(())
}

struct Walk<'a> {
    disk: &'a dyn Disk,
    dir: &'a Path,
    journal_id: u128,
    from: Index,
}

impl Walk<'_> {
    /// Checks the live segments from the one with `from` on. Returns the catalog with marks, and the tail.
    fn run(&self, mut segments: Vec<Segment>) -> Result<(Vec<Segment>, Tail)> {
        let first_live = segments.iter().position(|segment| segment.place == Place::Live);
        let first_live = first_live.expect("there is a live segment");
        let holds_from =
            segments.partition_point(|segment| segment.first <= self.from.get()).saturating_sub(1);
        let mut chain = None;
        let mut tail = None;
        for segment in &mut segments[first_live.max(holds_from)..] {
            let end = self.walk(segment, chain)?;
            chain = Some(end.position.chain);
            tail = Some(end);
        }
        Ok((segments, tail.expect("at least the last segment is walked")))
    }

    fn walk(&self, segment: &mut Segment, chain: Option<u32>) -> Result<Tail> {
        let path = self.dir.join(segment.name());
        let open = || self.disk.open(&path).map_err(JournalError::io("open", &path));
        let source = BufReader::with_capacity(BUFFER_BYTES, SequentialRead::new(open()?, 0));
        let (mut walker, header) = Walker::from_header(source, &path, self.journal_id, segment.first)?;
        let damaged = |position: Position, reason| JournalError::Damaged {
            path: path.clone(),
            offset: position.offset,
            index: Index(position.index),
            reason,
        };
        if chain.is_some_and(|chain| chain != header.chain) {
            return Err(damaged(walker.position(), "the segment does not continue the one before it"));
        }
        let mut batch_offset = walker.position().offset;
        while segment.last.is_none_or(|last| walker.position().index <= last) {
            let position = walker.position();
            let Some(frame) = walker.step()? else { break };
            segment.mark(position);
            if frame.synced + 1 == frame.index {
                batch_offset = position.offset;
            }
        }
        let position = walker.position();
        let file = open()?;
        let segment_bytes = header.segment_bytes;
        if segment.last.is_some_and(|last| position.index > last) {
            return Ok(Tail { file, path, position, segment_bytes, batch_offset, used: 0 });
        }
        let mut used = used_bytes(&*file, position.offset).map_err(JournalError::io("read", &path))?;
        let mut is_proven = false;
        if used > 0 {
            // All of it: the last frame may well end with zeros.
            let mut rest = vec![0; (segment_bytes - position.offset) as usize];
            file.read_exact_at(&mut rest, position.offset).map_err(JournalError::io("read", &path))?;
            let seed = Seed::of(self.journal_id);
            is_proven = find_proof(&rest, position.index, seed).is_some();
            if !is_proven && is_stale(&rest, position.index, segment.first, seed) {
                used = 0;
            }
        }
        let relied_upon = position.index < self.from.get();
        match (segment.last, used) {
            (Some(_), 0) => {
                let expected = Index(position.index);
                Err(JournalError::MissingSegment { dir: self.dir.to_path_buf(), expected })
            }
            (Some(_), _) => Err(damaged(
                position,
                "the frame is not valid, but a later segment proves that it was durable",
            )),
            (None, _) if is_proven => {
                Err(damaged(position, "the frame is not valid, but a later frame proves that it was durable"))
            }
            (None, 0) if relied_upon => {
                Err(JournalError::BehindCheckpoint { from: self.from, last: Index(position.index - 1) })
            }
            (None, _) if relied_upon => {
                Err(damaged(position, "the frame is not valid, but the caller relies on it"))
            }
            (None, _) => Ok(Tail { file, path, position, segment_bytes, batch_offset, used }),
        }
    }
}

/// Where the valid frames of a segment end.
struct Tail {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    position: Position,
    segment_bytes: u64,
    /// Start of the last batch: nothing proves that it is synced.
    batch_offset: u64,
    /// Bytes after the end up to the last one that is not zero.
    used: u64,
}

impl Tail {
    /// Writes the last batch again, zeroes what follows it, and syncs.
    fn repair(&self) -> Result<Option<TornTail>> {
        let end = self.position.offset;
        let mut bytes = vec![0; (end - self.batch_offset + self.used) as usize];
        let valid = &mut bytes[..(end - self.batch_offset) as usize];
        self.file.read_exact_at(valid, self.batch_offset).map_err(JournalError::io("read", &self.path))?;
        if !bytes.is_empty() {
            self.file
                .write_all_at(&bytes, self.batch_offset)
                .map_err(JournalError::io("write", &self.path))?;
            self.file.sync_data().map_err(JournalError::io("sync", &self.path))?;
        }
        Ok((self.used > 0).then(|| TornTail {
            path: self.path.clone(),
            offset: end,
            index: Index(self.position.index),
            bytes: self.used,
        }))
    }
}

/// How many bytes from `offset` on there are up to the last one that is not zero.
fn used_bytes(file: &dyn DiskFile, offset: u64) -> io::Result<u64> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let zeros = vec![0; BUFFER_BYTES];
    let (mut at, mut used) = (offset, 0);
    loop {
        let count = file.read_at(&mut buffer, at)?;
        if count == 0 {
            return Ok(used);
        }
        if buffer[..count] == zeros[..count] {
            // The common case, at memory speed.
        } else if let Some(last) = buffer[..count].iter().rposition(|&byte| byte != 0) {
            used = at - offset + last as u64 + 1;
        }
        at += count as u64;
    }
}
