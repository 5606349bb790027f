//! A small file system of its own, that can be filled. Mounting one needs the right to (root, usually).
//!
//! Undone when dropped, and by a hook when the program panics, also where a panic aborts. After a SIGKILL of the program it stays
//! until somebody unmounts it; `mount` shows it as `escrow-chaos`.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, Once};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// What fills it.
const BALLAST: &str = "ballast";
/// Written at once.
const CHUNK: usize = 256 << 10;

/// Every mount of this program that is not undone yet.
static MOUNTED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A mounted file system.
#[derive(Debug)]
pub(super) struct SmallDisk {
    path: PathBuf,
}

/// Tries to mount, and undoes it.
pub(super) fn can_mount() -> Result<(), String> {
    let dir = tempfile::tempdir().map_err(|error| format!("no temporary directory: {error}"))?;
    SmallDisk::mount(dir.path(), 1)
        .map(drop)
        .map_err(|error| format!("a small file system cannot be mounted here ({error}); it needs root"))
}

impl SmallDisk {
    /// Mounts one of so many MiB on a directory, that is made when missing.
    pub(super) fn mount(path: &Path, mib: u32) -> io::Result<Self> {
        undo_on_panic();
        fs::create_dir_all(path)?;
        let options = CString::new(format!("size={mib}m,mode=0700")).expect("a number has no NUL");
        mount("escrow-chaos", path, "tmpfs", MountFlags::NODEV | MountFlags::NOSUID, options.as_c_str())?;
        MOUNTED.lock().expect("nothing panics while it is held").push(path.to_owned());
        Ok(Self { path: path.to_owned() })
    }

    /// Fills whatever room there is now.
    pub(super) fn fill(&self) -> io::Result<()> {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(self.path.join(BALLAST))?;
        for length in [CHUNK, 4_096, 1] {
            let bytes = vec![0xEE; length];
            loop {
                match file.write(&bytes) {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::StorageFull => break,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Makes room again.
    pub(super) fn clear(&self) -> io::Result<()> {
        match fs::remove_file(self.path.join(BALLAST)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

impl SmallDisk {
    /// Undoes the mount, if that is not done yet.
    pub(super) fn unmount(&self) {
        let mut mounted = MOUNTED.lock().expect("nothing panics while it is held");
        if let Some(at) = mounted.iter().position(|path| *path == self.path) {
            undo(&self.path);
            mounted.swap_remove(at);
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        self.unmount();
    }
}

fn undo(path: &Path) {
    if let Err(error) = unmount(path, UnmountFlags::DETACH) {
        tracing::error!(path = %path.display(), %error, "a small file system stays mounted");
    }
}

/// A panic may abort, and then nothing is dropped: the hook comes first.
fn undo_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            // Not waited for: who panicked may hold it.
            if let Ok(mounted) = MOUNTED.try_lock() {
                mounted.iter().for_each(|path| undo(path));
            }
            before(panic);
        }));
    });
}

/// Copies a directory with all that is in it, but for ballast.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else if entry.file_name() != BALLAST {
            io::copy(&mut File::open(entry.path())?, &mut File::create(target)?)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_disk_is_full_and_has_room_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let Ok(disk) = SmallDisk::mount(&path, 2) else {
            // Not root: there is nothing to test.
            return;
        };
        disk.fill().unwrap();
        let error = fs::write(path.join("file"), [0; 4_096]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        disk.clear().unwrap();
        fs::write(path.join("file"), [0; 4_096]).unwrap();
        copy(&path, &dir.path().join("kept")).unwrap();
        drop(disk);
        assert!(!path.join("file").exists(), "it is not mounted any more");
        assert!(dir.path().join("kept/file").exists());
    }
}
