//! A simulated disk: in memory, deterministic from a seed, and as unkind as a real one may be.
//!
//! It keeps for every file what the process sees, what is durable, and the writes in between. [`SimDisk::crash`] is a power
//! loss: each un-synced write survives wholly, in part (by 512-byte sectors), or not at all, in any order; so do
//! creations, renames and removals that no `sync_dir` followed. [`SimDisk::kill`] is the death of the process alone: what
//! was written stays visible, but is no more durable than before. After a failed sync the bytes in question may be on
//! disk or not, and no later sync changes that.
//!
//! Directories themselves are durable at once. Must never use time, threads or the real disk.

use super::prng::SplitMix64;
use super::{Disk, DiskFile, LockGuard};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// Smallest unit that a power loss leaves whole, in bytes.
pub const SECTOR_BYTES: usize = 512;

/// A simulated disk. Clones are handles of the same disk.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

type Inode = usize;

struct State {
    random: SplitMix64,
    inodes: Vec<Content>,
    names: BTreeMap<PathBuf, Inode>,
    names_durable: BTreeMap<PathBuf, Inode>,
    /// Directory operations since the last `sync_dir`, in order.
    unsynced_names: Vec<NameOperation>,
    dirs: BTreeSet<PathBuf>,
    locks: BTreeSet<PathBuf>,
    /// Goes up with every crash or kill: older handles are dead.
    life: u64,
    fail_next_write: bool,
    fail_next_sync: bool,
    /// How many more bytes files may grow by.
    free_bytes: u64,
    /// Operations that still succeed before the power goes.
    operations_left: Option<u64>,
    operations: u64,
    syncs: u64,
}

#[derive(Default)]
struct Content {
    seen: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<FileOperation>,
}

enum FileOperation {
    Write { offset: usize, bytes: Vec<u8> },
    SetLen(usize),
}

enum NameOperation {
    Link { path: PathBuf, inode: Inode },
    Rename { from: PathBuf, to: PathBuf, inode: Inode },
    Unlink { path: PathBuf },
}

impl SimDisk {
    /// An empty disk. Everything that happens by chance follows from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> SimDisk {
        let state = State {
            random: SplitMix64::new(seed),
            inodes: Vec::new(),
            names: BTreeMap::new(),
            names_durable: BTreeMap::new(),
            unsynced_names: Vec::new(),
            dirs: BTreeSet::new(),
            locks: BTreeSet::new(),
            life: 0,
            fail_next_write: false,
            fail_next_sync: false,
            free_bytes: u64::MAX,
            operations_left: None,
            operations: 0,
            syncs: 0,
        };
        SimDisk { state: Arc::new(Mutex::new(state)) }
    }

    /// The disk as a trait object, for `open` calls.
    #[must_use]
    pub fn shared(&self) -> Arc<dyn Disk> {
        Arc::new(self.clone())
    }

    /// Another disk with what is visible on this one, all of it durable, as a copy of the files would be. Nothing is locked there.
    #[must_use]
    pub fn copy(&self, seed: u64) -> SimDisk {
        let copy = SimDisk::new(seed);
        {
            let (from, mut to) = (self.lock_state(), copy.lock_state());
            for (path, &inode) in &from.names {
                let seen = from.inodes[inode].seen.clone();
                let inode = to.inodes.len();
                to.inodes.push(Content { durable: seen.clone(), seen, unsynced: Vec::new() });
                to.names.insert(path.clone(), inode);
            }
            to.names_durable = to.names.clone();
            to.dirs.clone_from(&from.dirs);
        }
        copy
    }

    /// Power loss, and power on again. All open handles and locks die; what was not synced survives by chance.
    pub fn crash(&self) {
        self.lock_state().crash();
    }

    /// The process dies, the machine lives: handles and locks die, all that was written stays visible, nothing more
    /// becomes durable.
    pub fn kill(&self) {
        self.lock_state().new_life();
    }

    /// After `operations` more changes (writes, syncs, creations, renames, removals) every one fails, as if the power
    /// had gone; until [`SimDisk::crash`] or [`SimDisk::kill`].
    pub fn power_off_after(&self, operations: u64) {
        self.lock_state().operations_left = Some(operations);
    }

    /// The next write fails; an arbitrary part of it may have happened.
    pub fn fail_next_write(&self) {
        self.lock_state().fail_next_write = true;
    }

    /// The next sync of a file fails. Later ones succeed, which means nothing for the bytes of the failed one.
    pub fn fail_next_sync(&self) {
        self.lock_state().fail_next_sync = true;
    }

    /// From now on files may grow by this many bytes in all; then the disk is full.
    pub fn set_free_bytes(&self, bytes: u64) {
        self.lock_state().free_bytes = bytes;
    }

    /// Flips one bit (0-7) of the byte at `offset`, also in the durable content. Panics if there is no such byte.
    pub fn flip_bit(&self, path: &Path, offset: u64, bit: u32) {
        let mut state = self.lock_state();
        let inode = *state.names.get(path).expect("flip_bit: the file exists");
        let content = &mut state.inodes[inode];
        content.seen[offset as usize] ^= 1 << bit;
        if let Some(byte) = content.durable.get_mut(offset as usize) {
            *byte ^= 1 << bit;
        }
    }

    /// How many changes and syncs there were so far: a place to cut with [`SimDisk::power_off_after`].
    pub fn operations(&self) -> u64 {
        self.lock_state().operations
    }

    /// How many successful file syncs there were so far.
    pub fn syncs(&self) -> u64 {
        self.lock_state().syncs
    }

    fn lock_state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn handle(&self, state: &State, inode: Inode) -> Box<dyn DiskFile> {
        Box::new(SimFile { disk: self.clone(), inode, life: state.life })
    }
}

impl State {
    fn new_life(&mut self) {
        self.life += 1;
        self.locks.clear();
        self.operations_left = None;
        self.fail_next_write = false;
        self.fail_next_sync = false;
    }

    fn crash(&mut self) {
        self.new_life();
        let survival = Survival::pick(&mut self.random);
        for operation in std::mem::take(&mut self.unsynced_names) {
            if survival.of_one(&mut self.random) {
                operation.apply(&mut self.names_durable);
            }
        }
        self.names = self.names_durable.clone();
        for content in &mut self.inodes {
            content.settle(survival, &mut self.random);
            content.seen.clone_from(&content.durable);
        }
    }

    /// Counts one change; fails once the power is off.
    fn change(&mut self) -> io::Result<()> {
        if let Some(left) = &mut self.operations_left {
            *left = left.checked_sub(1).ok_or_else(|| io::Error::other("simulated power loss"))?;
        }
        self.operations += 1;
        Ok(())
    }

    fn file(&mut self, inode: Inode, life: u64) -> io::Result<&mut Content> {
        if life == self.life {
            Ok(&mut self.inodes[inode])
        } else {
            Err(io::Error::other("handle of a process that died"))
        }
    }
}

/// How kind one crash is.
#[derive(Clone, Copy)]
enum Survival {
    Nothing,
    Everything,
    Some { eighths: u64 },
}

impl Survival {
    fn pick(random: &mut SplitMix64) -> Survival {
        match random.below(8) {
            0 => Survival::Nothing,
            1 => Survival::Everything,
            n => Survival::Some { eighths: n },
        }
    }

    fn of_one(self, random: &mut SplitMix64) -> bool {
        match self {
            Survival::Nothing => false,
            Survival::Everything => true,
            Survival::Some { eighths } => random.chance(eighths, 8),
        }
    }
}

impl Content {
    /// What of the un-synced operations reaches the disk.
    fn settle(&mut self, survival: Survival, random: &mut SplitMix64) {
        for operation in std::mem::take(&mut self.unsynced) {
            match operation {
                FileOperation::SetLen(len) => {
                    if survival.of_one(random) {
                        self.durable.resize(len, 0);
                    }
                }
                FileOperation::Write { offset, bytes } => {
                    // Half of the writes survive or perish as one, the others sector by sector.
                    let whole = random.chance(1, 2).then(|| survival.of_one(random));
                    let mut from = 0;
                    while from < bytes.len() {
                        let sector_left = SECTOR_BYTES - (offset + from) % SECTOR_BYTES;
                        let to = bytes.len().min(from + sector_left);
                        if whole.unwrap_or_else(|| survival.of_one(random)) {
                            put(&mut self.durable, offset + from, &bytes[from..to]);
                        }
                        from = to;
                    }
                }
            }
        }
    }

    fn sync(&mut self) {
        for operation in std::mem::take(&mut self.unsynced) {
            match operation {
                FileOperation::SetLen(len) => self.durable.resize(len, 0),
                FileOperation::Write { offset, bytes } => put(&mut self.durable, offset, &bytes),
            }
        }
    }
}

fn put(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(bytes);
}

impl NameOperation {
    fn apply(&self, names: &mut BTreeMap<PathBuf, Inode>) {
        match self {
            NameOperation::Link { path, inode } => {
                names.insert(path.clone(), *inode);
            }
            NameOperation::Rename { from, to, inode } => {
                if names.get(from) == Some(inode) {
                    names.remove(from);
                }
                names.insert(to.clone(), *inode);
            }
            NameOperation::Unlink { path } => {
                names.remove(path);
            }
        }
    }

    fn dir(&self) -> &Path {
        match self {
            NameOperation::Link { path, .. } | NameOperation::Unlink { path } => super::parent(path),
            NameOperation::Rename { to, .. } => super::parent(to),
        }
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let state = self.lock_state();
        let inode = *state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.handle(&state, inode))
    }

    fn create_new(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.lock_state();
        if !state.dirs.contains(super::parent(path)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.change()?;
        let inode = state.inodes.len();
        state.inodes.push(Content::default());
        state.names.insert(path.to_path_buf(), inode);
        state.unsynced_names.push(NameOperation::Link { path: path.to_path_buf(), inode });
        Ok(self.handle(&state, inode))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.lock_state();
        let inode = *state.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        state.change()?;
        let operation = NameOperation::Rename { from: from.to_path_buf(), to: to.to_path_buf(), inode };
        operation.apply(&mut state.names);
        state.unsynced_names.push(operation);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock_state();
        let inode = *state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        state.change()?;
        let freed = state.inodes[inode].seen.len() as u64;
        state.free_bytes = state.free_bytes.saturating_add(freed);
        state.names.remove(path);
        state.unsynced_names.push(NameOperation::Unlink { path: path.to_path_buf() });
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.lock_state();
        if !state.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let files = state.names.keys().filter(|path| super::parent(path) == dir);
        let dirs = state.dirs.iter().filter(|path| path.parent() == Some(dir));
        let mut names: Vec<String> = files
            .chain(dirs)
            .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
            .collect();
        names.sort();
        Ok(names)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.lock_state();
        state.dirs.extend(dir.ancestors().map(Path::to_path_buf));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.lock_state();
        state.change()?;
        let (synced, left): (Vec<_>, Vec<_>) = std::mem::take(&mut state.unsynced_names)
            .into_iter()
            .partition(|operation| operation.dir() == dir);
        for operation in synced {
            operation.apply(&mut state.names_durable);
        }
        state.unsynced_names = left;
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>> {
        let mut state = self.lock_state();
        if !state.locks.insert(path.to_path_buf()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(SimLock { disk: self.clone(), path: path.to_path_buf(), life: state.life }))
    }

    fn entropy(&self) -> io::Result<u128> {
        let mut state = self.lock_state();
        Ok(u128::from(state.random.next_u64()) << 64 | u128::from(state.random.next_u64()))
    }
}

struct SimLock {
    disk: SimDisk,
    path: PathBuf,
    life: u64,
}

impl LockGuard for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.disk.lock_state();
        if state.life == self.life {
            state.locks.remove(&self.path);
        }
    }
}

struct SimFile {
    disk: SimDisk,
    inode: Inode,
    life: u64,
}

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.lock_state();
        let content = &state.file(self.inode, self.life)?.seen;
        let rest = content.get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.lock_state();
        let offset = offset as usize;
        let old_len = state.file(self.inode, self.life)?.seen.len();
        state.change()?;
        let growth = (offset + bytes.len()).saturating_sub(old_len) as u64;
        let mut written = bytes.len();
        let mut result = Ok(());
        if growth > state.free_bytes {
            written -= (growth - state.free_bytes).min(written as u64) as usize;
            result = Err(io::ErrorKind::StorageFull.into());
        } else if std::mem::take(&mut state.fail_next_write) {
            written = state.random.below(bytes.len() as u64 + 1) as usize;
            result = Err(io::Error::other("injected write error"));
        }
        let grown = (offset + written).saturating_sub(old_len) as u64;
        if written > 0 {
            if state.free_bytes != u64::MAX {
                state.free_bytes -= grown;
            }
            let content = &mut state.inodes[self.inode];
            put(&mut content.seen, offset, &bytes[..written]);
            content.unsynced.push(FileOperation::Write { offset, bytes: bytes[..written].to_vec() });
        }
        result
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.lock_state();
        state.file(self.inode, self.life)?;
        state.change()?;
        if std::mem::take(&mut state.fail_next_sync) {
            let State { random, inodes, .. } = &mut *state;
            let survival = Survival::pick(random);
            inodes[self.inode].settle(survival, random);
            return Err(io::Error::other("injected sync error"));
        }
        state.inodes[self.inode].sync();
        state.syncs += 1;
        Ok(())
    }

    /// A simulated disk has no memory beside it.
    fn will_not_be_read(&self, _: u64, _: u64) {}

    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.lock_state().file(self.inode, self.life)?.seen.len() as u64)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.disk.lock_state();
        state.file(self.inode, self.life)?;
        state.change()?;
        let content = &mut state.inodes[self.inode];
        content.seen.resize(bytes as usize, 0);
        content.unsynced.push(FileOperation::SetLen(bytes as usize));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{durable_replace, read_all};
    use super::*;

    fn disk(seed: u64) -> SimDisk {
        let disk = SimDisk::new(seed);
        disk.create_dir_all(Path::new("d")).unwrap();
        disk
    }

    fn synced_file(disk: &SimDisk, bytes: &[u8]) -> Box<dyn DiskFile> {
        let file = disk.create_new(Path::new("d/f")).unwrap();
        file.write_all_at(bytes, 0).unwrap();
        file.sync_data().unwrap();
        disk.sync_dir(Path::new("d")).unwrap();
        file
    }

    fn after_crash(disk: &SimDisk) -> Vec<u8> {
        disk.crash();
        read_all(disk, Path::new("d/f")).unwrap().unwrap()
    }

    #[test]
    fn synced_bytes_survive_and_every_mix_of_unsynced_sectors_occurs() {
        let mut seen = BTreeSet::new();
        for seed in 0..400 {
            let disk = disk(seed);
            let file = synced_file(&disk, &[1; 3 * SECTOR_BYTES]);
            file.write_all_at(&[2; 3 * SECTOR_BYTES], 0).unwrap();
            let bytes = after_crash(&disk);
            assert!(bytes.chunks(SECTOR_BYTES).all(|sector| sector.iter().all(|&b| b == sector[0])));
            seen.insert([bytes[0], bytes[SECTOR_BYTES], bytes[2 * SECTOR_BYTES]]);
        }
        assert_eq!(seen.len(), 8, "all combinations of old and new sectors: {seen:?}");
    }

    #[test]
    fn a_later_write_may_survive_an_earlier_one() {
        let outcomes: BTreeSet<[bool; 2]> = (0..200)
            .map(|seed| {
                let disk = disk(seed);
                let file = synced_file(&disk, &[0; 2 * SECTOR_BYTES]);
                file.write_all_at(&[1], 0).unwrap();
                file.write_all_at(&[1], SECTOR_BYTES as u64).unwrap();
                let bytes = after_crash(&disk);
                [bytes[0] == 1, bytes[SECTOR_BYTES] == 1]
            })
            .collect();
        assert!(outcomes.contains(&[false, true]) && outcomes.len() == 4, "{outcomes:?}");
    }

    #[test]
    fn a_kill_keeps_what_was_written_but_does_not_make_it_durable() {
        let lost = (0..50).any(|seed| {
            let disk = disk(seed);
            let file = synced_file(&disk, b"old");
            file.write_all_at(b"new", 0).unwrap();
            disk.kill();
            assert!(file.write_all_at(b"zzz", 0).is_err(), "a dead process writes no more");
            assert_eq!(read_all(&disk, Path::new("d/f")).unwrap().unwrap(), b"new");
            after_crash(&disk) == b"old"
        });
        assert!(lost);
    }

    #[test]
    fn a_sync_after_a_failed_one_proves_nothing() {
        let lost = (0..50).any(|seed| {
            let disk = disk(seed);
            let file = synced_file(&disk, b"old");
            file.write_all_at(b"new", 0).unwrap();
            disk.fail_next_sync();
            assert!(file.sync_data().is_err());
            file.sync_data().unwrap();
            after_crash(&disk) == b"old"
        });
        assert!(lost);
    }

    #[test]
    fn a_name_is_durable_only_after_its_directory_was_synced() {
        let lost = (0..50).any(|seed| {
            let disk = disk(seed);
            let file = disk.create_new(Path::new("d/f")).unwrap();
            file.write_all_at(b"x", 0).unwrap();
            file.sync_data().unwrap();
            disk.crash();
            disk.open(Path::new("d/f")).is_err()
        });
        assert!(lost);
    }

    #[test]
    fn a_durable_replace_cut_anywhere_leaves_the_old_or_the_new_file() {
        for cut in 0..6 {
            for seed in 0..50 {
                let disk = disk(seed);
                let path = Path::new("d/f");
                durable_replace(&disk, path, &[1; 2000]).unwrap();
                disk.power_off_after(cut);
                let done = durable_replace(&disk, path, &[2; 1500]).is_ok();
                disk.crash();
                let bytes = read_all(&disk, path).unwrap().unwrap();
                assert!(bytes == [2; 1500] || (!done && bytes == [1; 2000]), "cut {cut}, seed {seed}");
            }
        }
    }

    #[test]
    fn a_full_disk_writes_what_fits_and_says_so() {
        let disk = disk(1);
        let file = synced_file(&disk, b"12345");
        disk.set_free_bytes(2);
        assert_eq!(file.write_all_at(b"abcdefgh", 0).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(file.size().unwrap(), 7);
        file.write_all_at(b"overwriting needs no room", 0).unwrap_err();
        file.write_all_at(b"1234567", 0).unwrap();
    }

    #[test]
    fn a_copy_is_durable_and_goes_its_own_way() {
        let disk = disk(1);
        let file = disk.create_new(Path::new("d/f")).unwrap();
        file.write_all_at(b"one", 0).unwrap();
        let copy = disk.copy(2);
        file.write_all_at(b"two", 0).unwrap();
        assert_eq!(after_crash(&copy), b"one");
        assert_eq!(read_all(&disk, Path::new("d/f")).unwrap().unwrap(), b"two");
    }

    #[test]
    fn one_seed_gives_identical_disks() {
        let run = |seed| {
            let disk = disk(seed);
            let file = synced_file(&disk, &[0; 5000]);
            for n in 0..20 {
                file.write_all_at(&[n; 700], u64::from(n) * 200).unwrap();
            }
            after_crash(&disk)
        };
        assert_eq!(run(5), run(5));
        assert_ne!(run(5), run(6));
    }
}
