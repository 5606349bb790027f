//! A real fsync of everything that sled wrote.
//!
//! sled's `flush` calls `sync_file_range`, which neither flushes the disk's cache nor makes new files and sizes durable.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// Syncs all files and directories under a directory; gives the files. A file that goes away meanwhile is sled's own
/// clean-up of what it does not need any more.
pub(super) fn sync_all(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut synced = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(&dir)? {
            let (path, kind) = {
                let entry = entry?;
                (entry.path(), entry.file_type()?)
            };
            if kind.is_dir() {
                left.push(path);
                continue;
            }
            match File::open(&path).and_then(|file| file.sync_all()) {
                Ok(()) => synced.push(path),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        File::open(&dir)?.sync_all()?;
    }
    Ok(synced)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reaches_every_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("blobs/deep")).unwrap();
        for name in ["db", "snap.1", "blobs/1", "blobs/deep/2"] {
            std::fs::write(dir.path().join(name), "x").unwrap();
        }
        assert_eq!(sync_all(dir.path()).unwrap().len(), 4);
        assert!(sync_all(&dir.path().join("nowhere")).is_err());
    }
}
