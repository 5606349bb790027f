//! The real disk: the operating system's files.
//!
//! Must never add caching, retries or threads of its own.

use super::{Disk, DiskFile, LockGuard};
use rustix::fs::{Advice, FlockOperation};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The operating system's file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsDisk;

impl OsDisk {
    /// The real disk, ready for [`crate::Log::open`] and [`crate::Journal::open`].
    pub fn shared() -> std::sync::Arc<dyn Disk> {
        std::sync::Arc::new(OsDisk)
    }
}

impl Disk for OsDisk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(OpenOptions::new().read(true).write(true).open(path)?))
    }

    fn create_new(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(OpenOptions::new().read(true).write(true).create_new(true).open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        if dir.is_dir() {
            return Ok(());
        }
        let parent = super::parent(dir);
        self.create_dir_all(parent)?;
        match fs::create_dir(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        self.sync_dir(parent)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(OsLock { _file: file }))
    }

    fn entropy(&self) -> io::Result<u128> {
        let mut bytes = [0; 16];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        Ok(u128::from_le_bytes(bytes))
    }
}

/// The lock goes with the descriptor.
struct OsLock {
    _file: File,
}

impl LockGuard for OsLock {}

impl DiskFile for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match FileExt::read_at(self, &mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        // Straight to fdatasync: the standard library would call it again after EINTR, and no sync is ever retried.
        Ok(rustix::fs::fdatasync(self)?)
    }

    fn will_not_be_read(&self, offset: u64, bytes: u64) {
        // To the system no bytes are all bytes from there on.
        if let Some(bytes) = NonZeroU64::new(bytes) {
            // A file system that does not know the advice keeps the copy.
            let _ = rustix::fs::fadvise(self, offset, Some(bytes), Advice::DontNeed);
        }
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        File::set_len(self, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{durable_replace, read_all};
    use super::*;

    #[test]
    fn a_replaced_file_reads_back_whole_and_leaves_no_temporary() {
        let dir = tempfile::tempdir().unwrap();
        let nested = dir.path().join("a/b");
        OsDisk.create_dir_all(&nested).unwrap();
        let path = nested.join("state");
        assert_eq!(read_all(&OsDisk, &path).unwrap(), None);
        durable_replace(&OsDisk, &path, b"one").unwrap();
        durable_replace(&OsDisk, &path, b"two!").unwrap();
        assert_eq!(read_all(&OsDisk, &path).unwrap().unwrap(), b"two!");
        assert_eq!(OsDisk.list(&nested).unwrap(), ["state"]);
    }

    #[test]
    fn a_lock_is_exclusive_until_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = OsDisk.lock(&path).unwrap();
        assert_eq!(OsDisk.lock(&path).map(drop).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(held);
        OsDisk.lock(&path).unwrap();
    }

    #[test]
    fn allocating_really_fills_with_zeros() {
        let dir = tempfile::tempdir().unwrap();
        let file = OsDisk.create_new(&dir.path().join("f")).unwrap();
        file.allocate((1 << 20) + 4096).unwrap();
        assert_eq!(file.size().unwrap(), (1 << 20) + 4096);
        assert!(OsDisk.create_new(&dir.path().join("f")).is_err());
    }
}
