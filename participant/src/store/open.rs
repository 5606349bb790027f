//! Opening a view that may be damaged: what cannot be read is moved aside, never deleted, and begun anew.
//!
//! sled can panic on damage, and in release builds a panic ends the process. So a file counts the attempts: when it is
//! found for the third time, opening has ended the process too often, and the view is moved aside unread.

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use escrow_journal::storage::OsDisk;

use super::draft::Unfinished;
use super::{Held, Store};
use crate::error::ParticipantError;

/// A kill while opening is no proof of damage; this many in a row are.
const ATTEMPTS_MAX: usize = 3;

pub(super) fn open(
    shard_dir: &Path,
    shard: u16,
    cluster_id: Option<&str>,
    cache_bytes: u64,
) -> Result<Opened, ParticipantError> {
    let path = shard_dir.join("sled");
    let marker = shard_dir.join("sled.opening");
    fs::create_dir_all(shard_dir).map_err(ParticipantError::file(shard_dir))?;
    let attempts = match fs::read(&marker) {
        Ok(content) => content.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(ParticipantError::file(marker)(error)),
    };
    if attempts >= ATTEMPTS_MAX {
        move_aside(shard_dir, &path, shard, "opening it ended the process three times")?;
    }
    // One byte an attempt. Not synced: it must survive a dead process, not a power loss.
    let attempts = if attempts >= ATTEMPTS_MAX { 1 } else { attempts + 1 };
    fs::write(&marker, "?".repeat(attempts)).map_err(ParticipantError::file(&marker))?;
    let opened = match try_open(shard_dir, &path, shard, cluster_id, cache_bytes)? {
        Ok(opened) => opened,
        Err(why) => {
            move_aside(shard_dir, &path, shard, &why)?;
            let failed = |why| ParticipantError::Store { shard, path: path.clone(), why };
            try_open(shard_dir, &path, shard, cluster_id, cache_bytes)?.map_err(failed)?
        }
    };
    fs::remove_file(&marker).map_err(ParticipantError::file(&marker))?;
    Ok(opened)
}

type Opened = (Store, Held);

/// The outer error is the operating system's, which moving aside would not cure; the inner one is damage.
fn try_open(
    shard_dir: &Path,
    path: &Path,
    shard: u16,
    cluster_id: Option<&str>,
    cache_bytes: u64,
) -> Result<Result<Opened, String>, ParticipantError> {
    remove_unfinished_snapshots(path)?;
    let config = sled::Config::new().path(path).cache_capacity(cache_bytes).flush_every_ms(None);
    let open_and_read = || {
        let tree = open_when_free(&config)?;
        let (dir, path, disk) = (shard_dir.to_owned(), path.to_owned(), OsDisk::shared());
        let store = Store { shard, dir, path, tree, disk, draft: None };
        let unfinished = store.finish_checkpoint();
        Ok(unfinished.map(|unfinished| match unfinished {
            Unfinished::None => store.read_checked(cluster_id).map(|held| (store, held)),
            Unfinished::Lost(why) => Err(why),
        }))
    };
    match catch_unwind(AssertUnwindSafe(open_and_read)) {
        Ok(Ok(Err(ParticipantError::Store { why, .. }))) => Ok(Err(why)),
        Ok(Ok(read)) => read,
        Ok(Err(sled::Error::Io(error))) if !is_damage(&error) => Err(ParticipantError::file(path)(error)),
        Ok(Err(error)) => Ok(Err(error.to_string())),
        Err(_) => Ok(Err("sled panicked".to_owned())),
    }
}

/// The directory is locked for this process, so nobody else has the view open: whoever holds sled's own lock is a thread of an
/// earlier sled in this very process (a test, or a server that was just stopped) that is still letting go.
fn open_when_free(config: &sled::Config) -> sled::Result<sled::Db> {
    const PATIENCE: Duration = Duration::from_secs(5);
    const PAUSE: Duration = Duration::from_millis(10);
    let deadline = Instant::now() + PATIENCE;
    loop {
        match config.open() {
            Err(sled::Error::Io(error)) if is_locked(&error) && Instant::now() < deadline => {
                std::thread::sleep(PAUSE);
            }
            opened => return opened,
        }
    }
}

/// sled wraps the error of its lock, and keeps only the text.
fn is_locked(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.to_string().contains("could not acquire lock")
}

/// Whether an I/O error says something about the content rather than about the machine.
fn is_damage(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof
            | io::ErrorKind::InvalidData
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::NotFound
            | io::ErrorKind::Other
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::NotADirectory
    )
}

/// A process that died while sled wrote a snapshot leaves it under this name, and sled then refuses to open.
fn remove_unfinished_snapshots(path: &Path) -> Result<(), ParticipantError> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(());
        }
        Err(error) => return Err(ParticipantError::file(path)(error)),
    };
    for entry in entries {
        let entry = entry.map_err(ParticipantError::file(path))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            tracing::warn!(file = %entry.path().display(), "removing a snapshot that was never finished");
            fs::remove_file(entry.path()).map_err(ParticipantError::file(entry.path()))?;
        }
    }
    Ok(())
}

fn move_aside(shard_dir: &Path, path: &Path, shard: u16, why: &str) -> Result<PathBuf, ParticipantError> {
    let aside = (1..).map(|number| shard_dir.join(format!("sled.corrupt-{number}")));
    let aside = aside.into_iter().find(|aside| !aside.exists()).expect("numbers do not end");
    tracing::warn!(shard, why, moved_to = %aside.display(), "the view cannot be used and is rebuilt from the log");
    match fs::rename(path, &aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(ParticipantError::file(path)(error)),
        _ => Ok(aside),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Meta, View as _};

    fn filled(dir: &Path) {
        let (mut store, _) = open(dir, 0, None, 1 << 20).unwrap();
        let meta = Meta { shard: 0, applied: 5, cluster_id: None, position: Vec::new() };
        store.write(None, &meta).unwrap();
    }

    /// Trap: the first half shows that it is one, the second that it is dealt with.
    #[test]
    fn an_unfinished_snapshot_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path());
        let unfinished = dir.path().join("sled/snap.0000000000000ABC.generating");
        fs::write(&unfinished, "half").unwrap();
        assert!(sled::open(dir.path().join("sled")).is_err(), "sled itself refuses");
        let applied = open(dir.path(), 0, None, 1 << 20).unwrap().1.applied;
        assert_eq!(applied, 5);
        assert!(!unfinished.exists());
        assert!(!dir.path().join("sled.corrupt-1").exists());
    }

    #[test]
    fn damage_is_moved_aside() {
        let dir = tempfile::tempdir().unwrap();
        for number in 1..=2 {
            filled(dir.path());
            for name in ["db", "conf"] {
                let file = dir.path().join("sled").join(name);
                let mut bytes = fs::read(&file).unwrap();
                for byte in &mut bytes {
                    *byte ^= 0xA5;
                }
                fs::write(file, bytes).unwrap();
            }
            let applied = open(dir.path(), 0, None, 1 << 20).unwrap().1.applied;
            assert_eq!(applied, 0);
            assert!(dir.path().join(format!("sled.corrupt-{number}")).is_dir());
        }
    }

    #[test]
    fn opening_that_always_dies_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path());
        let marker = dir.path().join("sled.opening");
        fs::write(&marker, "??").unwrap();
        assert_eq!(open(dir.path(), 0, None, 1 << 20).unwrap().1.applied, 5, "two kills prove nothing");
        assert!(!marker.exists());
        fs::write(&marker, "???").unwrap();
        assert_eq!(open(dir.path(), 0, None, 1 << 20).unwrap().1.applied, 0);
        assert!(dir.path().join("sled.corrupt-1").is_dir());
        assert!(!marker.exists());
    }
}
