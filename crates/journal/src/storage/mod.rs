//! The only code that touches files, behind two small traits, so that a simulated disk can stand in.
//!
//! Contract of every implementation:
//! - A write is durable only after `sync_data` of its file returned `Ok`. Until then any 512-byte sector of it may or may
//!   not survive a power loss, in any order.
//! - Creating, renaming and removing a file is durable only after `sync_dir` of its directory returned `Ok`.
//! - After `sync_data` failed, nothing is known about the bytes written since the last success, and a later success says
//!   nothing about them.
//!
//! This module must never retry a sync, and never hide an error.

mod os;
mod prng;
pub mod sim;

pub use os::OsDisk;
pub use prng::SplitMix64;
pub use sim::SimDisk;

use std::io;
use std::ops::Deref;
use std::path::Path;

/// A place where files live.
pub trait Disk: Send + Sync + 'static {
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Creates a file for reading and writing; `AlreadyExists` if there is one.
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Renames within one directory, replacing what bore the new name. Atomic.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. Open handles stay readable.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Names of the entries of a directory, sorted. `NotFound` without the directory.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Creates a directory and its missing parents, durably.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// Makes creations, renames and removals in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Takes the exclusive advisory lock on `path` (created if missing), held until the guard is dropped or the process
    /// ends. `WouldBlock` while somebody else holds it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>>;

    /// 128 unpredictable bits (reproducible ones on a simulated disk).
    fn entropy(&self) -> io::Result<u128>;
}

/// An open file. All positions are byte offsets; there is no cursor, so handles can be shared.
pub trait DiskFile: Send + Sync {
    /// Reads up to `buffer.len()` bytes; fewer only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all bytes, growing the file if needed. Not durable before [`DiskFile::sync_data`].
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes written bytes durable, and the file's size.
    fn sync_data(&self) -> io::Result<()>;

    /// Says that bytes which are durable will not be read soon, so that the memory that holds a copy of them may serve again. Only
    /// advice: whoever reads them gets them.
    fn will_not_be_read(&self, offset: u64, bytes: u64);

    /// Size in bytes.
    fn size(&self) -> io::Result<u64>;

    /// Cuts or grows (with a hole) the file.
    fn set_len(&self, bytes: u64) -> io::Result<()>;

    /// Fills the file with `bytes` zeros from the start, really writing and syncing them, so that later writes change
    /// no metadata. Synced in steps, so that a busy neighbour on the same disk is not held up for long.
    fn allocate(&self, bytes: u64) -> io::Result<()> {
        const CHUNK_BYTES: u64 = 1 << 20;
        let zeros = vec![0; bytes.min(CHUNK_BYTES) as usize];
        let mut offset = 0;
        while offset < bytes {
            let chunk = (bytes - offset).min(CHUNK_BYTES);
            self.write_all_at(&zeros[..chunk as usize], offset)?;
            offset += chunk;
            if offset.is_multiple_of(SYNC_EVERY_BYTES) {
                self.sync_data()?;
            }
        }
        self.sync_data()
    }

    /// Fills `buffer`, or fails with `UnexpectedEof`.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if self.read_at(buffer, offset)? < buffer.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}

/// Releases a lock when dropped.
pub trait LockGuard: Send + Sync {}

/// Sequential reading of an open file, from an offset to an end.
pub(crate) struct SequentialRead {
    file: Box<dyn DiskFile>,
    offset: u64,
}

impl SequentialRead {
    pub(crate) fn new(file: Box<dyn DiskFile>, offset: u64) -> SequentialRead {
        SequentialRead { file, offset }
    }
}

impl io::Read for SequentialRead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}

/// Syncs of long writes come after so many bytes, so that a busy neighbour on the same disk is not held up for long.
const SYNC_EVERY_BYTES: u64 = 1 << 20;

/// The system lets go of whole pages only.
const PAGE_BYTES: u64 = 4_096;

/// Sequential writing of an open file. Synced in steps: a sync of much holds up those of a log on the same disk for as long as it
/// takes. The last one is up to the caller.
pub struct SequentialWrite<F> {
    file: F,
    offset: u64,
    unsynced: u64,
    /// Whether no memory is to be kept of it, and up to where none is.
    unread: Option<u64>,
}

impl<F: Deref<Target: DiskFile>> SequentialWrite<F> {
    /// Writes from an offset on.
    pub const fn new(file: F, offset: u64) -> Self {
        Self { file, offset, unsynced: 0, unread: None }
    }

    /// The same, of what nobody reads soon, such as an archive. What is synced in steps keeps no memory: on a machine that is itself
    /// virtual, memory that was never used before costs far more than the copy into it.
    pub const fn unread(file: F, offset: u64) -> Self {
        Self { file, offset, unsynced: 0, unread: Some(offset) }
    }

    /// The file. Not everything is synced.
    pub fn into_file(self) -> F {
        self.file
    }
}

impl<F: Deref<Target: DiskFile>> io::Write for SequentialWrite<F> {
    /// Takes all bytes, or fails. A failure is final: what was written is then not known.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all_at(bytes, self.offset).map_err(never_again)?;
        self.offset += bytes.len() as u64;
        self.unsynced += bytes.len() as u64;
        if self.unsynced >= SYNC_EVERY_BYTES {
            self.file.sync_data().map_err(never_again)?;
            if let Some(from) = &mut self.unread {
                // The page that this step ended in is written again by the next.
                let (begin, end) = (*from / PAGE_BYTES * PAGE_BYTES, self.offset / PAGE_BYTES * PAGE_BYTES);
                self.file.will_not_be_read(begin, end - begin);
                *from = end;
            }
            self.unsynced = 0;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `write_all` of the standard library takes this kind of error to mean that nothing was done, and writes the bytes again.
fn never_again(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::Interrupted { io::Error::other(error) } else { error }
}

/// Replaces the file at `path` by one with these bytes, or creates it: after a crash at any instant it is wholly the old
/// or wholly the new one, and after `Ok` the new one. Uses `<path>.tmp`; one caller at a time per path.
pub fn durable_replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    durable_replace_with(disk, path, |file| file.write_all_at(bytes, 0))
}

/// As [`durable_replace`], with a file that is written piece by piece.
pub fn durable_replace_with(
    disk: &dyn Disk,
    path: &Path,
    write: impl FnOnce(&dyn DiskFile) -> io::Result<()>,
) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    let temporary = Path::new(&name);
    let file = create_afresh(disk, temporary)?;
    write(&*file)?;
    file.sync_data()?;
    disk.rename(temporary, path)?;
    disk.sync_dir(parent(path))
}

/// The whole content of a file; `None` if there is none. The counterpart of [`durable_replace`].
pub fn read_all(disk: &dyn Disk, path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match disk.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = vec![0; file.size()? as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(Some(bytes))
}

/// Creates a file for writing, replacing a left-over of an interrupted operation.
pub(crate) fn create_afresh(disk: &dyn Disk, path: &Path) -> io::Result<Box<dyn DiskFile>> {
    match disk.create_new(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            disk.remove(path)?;
            disk.create_new(path)
        }
        result => result,
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::sync::Mutex;
    use std::sync::atomic::AtomicU64;
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    /// Counts what is asked of it; its first sync may be interrupted.
    #[derive(Default)]
    struct Counted {
        written: AtomicU64,
        syncs: AtomicU64,
        /// From where on and how many bytes will not be read.
        unread: Mutex<Vec<(u64, u64)>>,
        is_interrupted: bool,
    }

    impl DiskFile for Counted {
        fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
            Ok(0)
        }
        fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
            assert_eq!(
                offset,
                100 + self.written.fetch_add(bytes.len() as u64, Relaxed),
                "one after the other"
            );
            Ok(())
        }
        fn sync_data(&self) -> io::Result<()> {
            let is_first = self.syncs.fetch_add(1, Relaxed) == 0;
            if self.is_interrupted && is_first { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
        }
        fn will_not_be_read(&self, offset: u64, bytes: u64) {
            self.unread.lock().unwrap().push((offset, bytes));
        }
        fn size(&self) -> io::Result<u64> {
            Ok(0)
        }
        fn set_len(&self, _: u64) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn long_writes_are_synced_in_steps() {
        let file = Counted::default();
        let mut out = SequentialWrite::new(&file, 100);
        for _ in 0..10 {
            out.write_all(&vec![7; 300 << 10]).unwrap();
        }
        assert_eq!((file.written.load(Relaxed), file.syncs.load(Relaxed)), (3_000 << 10, 2));
        assert!(file.unread.lock().unwrap().is_empty());
    }

    #[test]
    fn of_what_is_unread_no_page_of_a_step_is_kept() {
        let file = Counted::default();
        let mut out = SequentialWrite::unread(&file, 100);
        for _ in 0..10 {
            out.write_all(&vec![7; 300 << 10]).unwrap();
        }
        let step = 1_200 << 10;
        assert_eq!(*file.unread.lock().unwrap(), [(0, step), (step, step)], "by whole pages");
    }

    /// It once was, by `write_all` of the standard library: the bytes were then there twice.
    #[test]
    fn a_sync_that_is_interrupted_is_not_tried_again() {
        let file = Counted { is_interrupted: true, ..Counted::default() };
        let mut out = SequentialWrite::new(&file, 100);
        assert!(out.write_all(&vec![7; 2 << 20]).is_err());
        assert_eq!((file.written.load(Relaxed), file.syncs.load(Relaxed)), (2 << 20, 1));
    }
}
