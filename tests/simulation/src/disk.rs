//! What disks do to a process: slow writes, failed syncs, full disks, flipped bits, and what a dead process leaves behind.

use std::path::{Path, PathBuf};

use escrow_journal::storage::{Disk, SimDisk, read_all};

use crate::chance::Chance;
use crate::faults::Faults;
use crate::time::Time;

/// A bit that was flipped while the process was down.
#[derive(Debug, Clone)]
pub(crate) struct Flip {
    pub(crate) path: PathBuf,
    offset: u64,
    bit: u32,
    flipped: u8,
}

/// How long the next write takes.
pub(crate) fn write_time(faults: &Faults, chance: &mut Chance) -> Time {
    30 + chance.below(faults.sync_max)
}

/// The process is dead: the power goes, or only the process.
pub(crate) fn leave(disk: &SimDisk, faults: &Faults, chance: &mut Chance) -> bool {
    let power_loss = chance.permille(faults.power_loss_permille);
    if power_loss {
        disk.crash();
    } else {
        disk.kill();
    }
    power_loss
}

/// Flips a bit in a file that recovery may read: anywhere in older segments, checkpoints and runs; in the segment being written
/// only behind what was ever written, since damage in its last frames cannot be told from a torn write.
pub(crate) fn flip(disk: &SimDisk, dir: &Path, with_checkpoints: bool, chance: &mut Chance) -> Option<Flip> {
    let list = |dir: &Path| disk.list(dir).unwrap_or_default();
    let journal = dir.join("journal");
    let mut segments: Vec<_> = list(&journal)
        .into_iter()
        .filter(|name| Path::new(name).extension().is_some_and(|it| it == "seg"))
        .collect();
    let active = segments.pop();
    if let Some(active) = active.filter(|_| segments.is_empty() || chance.one_in(4)) {
        return flip_behind_the_end(disk, journal.join(active), chance);
    }
    let mut files: Vec<PathBuf> = segments.iter().map(|name| journal.join(name)).collect();
    if with_checkpoints {
        let runs = dir.join("runs");
        files.extend(list(&runs).iter().map(|name| runs.join(name)));
        files.extend(list(dir).iter().filter(|name| *name == "checkpoint").map(|name| dir.join(name)));
    }
    if files.is_empty() {
        return None;
    }
    let path = files[chance.index(files.len())].clone();
    // A run that a crash cut off may be empty.
    let size = disk.open(&path).ok()?.size().ok().filter(|size| *size > 0)?;
    let offset = chance.below(size);
    flip_at(disk, path, offset, chance)
}

fn flip_at(disk: &SimDisk, path: PathBuf, offset: u64, chance: &mut Chance) -> Option<Flip> {
    let bit = chance.below(8) as u32;
    disk.flip_bit(&path, offset, bit);
    let flipped = byte_at(disk, &path, offset)?;
    Some(Flip { path, offset, bit, flipped })
}

/// In the zeros that wait to be written, well after whatever is there: the last frame may end with zeros of its own.
fn flip_behind_the_end(disk: &SimDisk, path: PathBuf, chance: &mut Chance) -> Option<Flip> {
    const WELL_AFTER: u64 = 4_096;
    let content = read_all(disk, &path).ok()??;
    let end = content.iter().rposition(|&byte| byte != 0)? as u64 + WELL_AFTER;
    let room = (content.len() as u64).checked_sub(end).filter(|room| *room > 0)?;
    let offset = end + chance.below(room);
    flip_at(disk, path, offset, chance)
}

fn byte_at(disk: &SimDisk, path: &Path, offset: u64) -> Option<u8> {
    let mut byte = [0];
    let read = disk.open(path).ok()?.read_at(&mut byte, offset).ok()?;
    (read == 1).then_some(byte[0])
}

impl Flip {
    /// Repairs it, unless the byte has been written since or the file is gone.
    pub(crate) fn repair(&self, disk: &SimDisk) {
        if byte_at(disk, &self.path, self.offset) == Some(self.flipped) {
            disk.flip_bit(&self.path, self.offset, self.bit);
        }
    }
}
