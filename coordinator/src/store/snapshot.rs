//! A snapshot of a partition as a file: the checkpoint, and the runs that it names. Made for a follower that is too far behind for the log.
//!
//! ```text
//! "ESCROWC1"  u64 length, checkpoint  { u64 length, run }*  u32 CRC-32C of all before
//! ```
//! Integers are little endian; runs are in the order in which the checkpoint names them. **Invariant:** a file that is cut, or altered, is
//! refused before anything of it is used; it is durable under its final name before anything is replaced.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use escrow_journal::storage::{Disk, DiskFile, SequentialWrite, durable_replace};

use super::{Checkpoint, Run, runs_dir};

const MAGIC: &[u8; 8] = b"ESCROWC1";
/// Copied in such pieces.
const PIECE_BYTES: usize = 1 << 20;

/// The final name of a snapshot that is being installed.
fn installing(data_dir: &Path) -> PathBuf {
    data_dir.join("installing.snapshot")
}

fn wrong(why: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("snapshot: {why}"))
}

/// Writes a file from its start, and sums it up.
struct Out<'a> {
    file: SequentialWrite<&'a dyn DiskFile>,
    crc: u32,
}

impl Out<'_> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        Ok(())
    }
}

/// Writes the newest checkpoint and its runs to a file; gives the position that they are of. Nobody may write checkpoints meanwhile. Blocks.
pub(crate) fn export(disk: &dyn Disk, data_dir: &Path, path: &Path) -> io::Result<Vec<u8>> {
    let checkpoint = Checkpoint::read(disk, data_dir).map_err(wrong)?;
    let checkpoint = checkpoint.ok_or_else(|| wrong("there is no checkpoint yet"))?;
    // Left by an attempt that broke off.
    let _ = disk.remove(path);
    let file = disk.create_new(path)?;
    let mut out = Out { file: SequentialWrite::new(&*file, 0), crc: 0 };
    out.put(MAGIC)?;
    let bytes = checkpoint.encode();
    out.put(&(bytes.len() as u64).to_le_bytes())?;
    out.put(&bytes)?;
    for name in &checkpoint.runs {
        let run = disk.open(&runs_dir(data_dir).join(name))?;
        let size = run.size()?;
        out.put(&size.to_le_bytes())?;
        copy(&*run, 0, size, &mut |piece| out.put(piece))?;
    }
    let Out { file: mut rest, crc } = out;
    rest.write_all(&crc.to_le_bytes())?;
    Ok(checkpoint.position)
}

fn copy(
    from: &dyn DiskFile,
    mut offset: u64,
    end: u64,
    put: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE_BYTES.min((end - offset) as usize)];
    while offset < end {
        let len = PIECE_BYTES.min((end - offset) as usize);
        from.read_exact_at(&mut piece[..len], offset)?;
        put(&piece[..len])?;
        offset += len as u64;
    }
    Ok(())
}

/// A file whose checksum is right.
struct Sound {
    file: Box<dyn DiskFile>,
    checkpoint: Checkpoint,
    /// Where the runs begin, and where they end.
    runs: (u64, u64),
}

fn open(disk: &dyn Disk, path: &Path) -> io::Result<Option<Sound>> {
    let file = match disk.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let end = file.size()?.checked_sub(4).ok_or_else(|| wrong("it is too short"))?;
    let mut crc = 0;
    copy(&*file, 0, end, &mut |piece| {
        crc = crc32c::crc32c_append(crc, piece);
        Ok(())
    })?;
    let mut found = [0; 4];
    file.read_exact_at(&mut found, end)?;
    if u32::from_le_bytes(found) != crc {
        return Err(wrong("its checksum is wrong"));
    }
    let mut magic = [0; 8];
    file.read_exact_at(&mut magic, 0)?;
    if magic != *MAGIC {
        return Err(wrong("it is none of a partition"));
    }
    let (from, to) = section(&*file, 8, end)?;
    let mut bytes = vec![0; (to - from) as usize];
    file.read_exact_at(&mut bytes, from)?;
    let checkpoint = Checkpoint::decode(&bytes).map_err(wrong)?;
    Ok(Some(Sound { file, checkpoint, runs: (to, end) }))
}

/// Where the section at an offset begins and ends.
fn section(file: &dyn DiskFile, offset: u64, end: u64) -> io::Result<(u64, u64)> {
    let mut len = [0; 8];
    file.read_exact_at(&mut len, offset)?;
    let from = offset + 8;
    let to = from.checked_add(u64::from_le_bytes(len)).filter(|&to| to <= end);
    Ok((from, to.ok_or_else(|| wrong("a section is longer than the file"))?))
}

/// What a snapshot is of that was being installed when the process ended, if there is one.
pub(crate) fn unfinished(disk: &dyn Disk, data_dir: &Path) -> io::Result<Option<(PathBuf, Vec<u8>)>> {
    let path = installing(data_dir);
    Ok(open(disk, &path)?.map(|sound| (path, sound.checkpoint.position)))
}

/// Replaces checkpoint and runs by those of a snapshot, and takes it away. After a crash on the way it is done again at the next start.
/// Blocks.
pub(crate) fn install(
    disk: &dyn Disk,
    data_dir: &Path,
    path: &Path,
    position: &[u8],
) -> io::Result<Checkpoint> {
    let sound = open(disk, path)?.ok_or_else(|| wrong("it is gone"))?;
    if sound.checkpoint.position != position {
        return Err(wrong("it is of another place in the log than its sender said"));
    }
    // Only what is sound gets the name that is looked for at a start.
    let name = installing(data_dir);
    if name != path {
        disk.rename(path, &name)?;
        disk.sync_dir(data_dir)?;
    }
    sound.unpack_runs(disk, data_dir)?;
    sound.checkpoint.write(disk, data_dir)?;
    disk.remove(&name)?;
    disk.sync_dir(data_dir)?;
    Ok(sound.checkpoint)
}

impl Sound {
    fn unpack_runs(&self, disk: &dyn Disk, data_dir: &Path) -> io::Result<()> {
        disk.create_dir_all(&runs_dir(data_dir))?;
        for (run, (from, to)) in self.checkpoint.runs.iter().zip(self.sections()?) {
            let mut bytes = vec![0; (to - from) as usize];
            self.file.read_exact_at(&mut bytes, from)?;
            durable_replace(disk, &runs_dir(data_dir).join(run), &bytes)?;
        }
        Ok(())
    }

    /// Where the runs are.
    fn sections(&self) -> io::Result<Vec<(u64, u64)>> {
        let (mut offset, end) = self.runs;
        let mut sections = Vec::new();
        for run in &self.checkpoint.runs {
            if run.contains(['/', '\\']) || run.starts_with('.') {
                return Err(wrong(format!("'{run}' is not the name of a run")));
            }
            let (from, to) = section(&*self.file, offset, end)?;
            sections.push((from, to));
            offset = to;
        }
        if offset == end { Ok(sections) } else { Err(wrong("it is longer than what it holds")) }
    }
}

/// The checkpoint of a snapshot that is sound, with all of its runs: they were copied as they were, and might have been damaged before.
/// Nothing is changed. Blocks.
pub(crate) fn read(disk: &dyn Disk, path: &Path) -> io::Result<Checkpoint> {
    let sound = open(disk, path)?.ok_or_else(|| wrong("it is not there"))?;
    for (run, (from, to)) in sound.checkpoint.runs.iter().zip(sound.sections()?) {
        Run::check(&*sound.file, from, to - from).map_err(|error| wrong(format!("{run}: {error}")))?;
    }
    Ok(sound.checkpoint)
}

/// Puts the runs of a snapshot in a directory, and a checkpoint that was made of its own. Blocks.
pub(crate) fn unpack(
    disk: &dyn Disk,
    data_dir: &Path,
    path: &Path,
    change: impl FnOnce(Checkpoint) -> io::Result<Checkpoint>,
) -> io::Result<Checkpoint> {
    let sound = open(disk, path)?.ok_or_else(|| wrong("it is not there"))?;
    sound.unpack_runs(disk, data_dir)?;
    let checkpoint = change(sound.checkpoint)?;
    checkpoint.write(disk, data_dir)?;
    Ok(checkpoint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use escrow_journal::storage::OsDisk;

    #[test]
    fn a_snapshot_gives_checkpoint_and_runs() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let disk = OsDisk::shared();
        let file = to.path().join("incoming.snapshot");
        assert!(export(&*disk, from.path(), &file).is_err(), "there is nothing yet");
        std::fs::create_dir(runs_dir(from.path())).unwrap();
        for (name, bytes) in [("1.run", vec![1; 3_000_000]), ("2.run", vec![2; 5])] {
            std::fs::write(runs_dir(from.path()).join(name), bytes).unwrap();
        }
        let runs = vec!["1.run".into(), "2.run".into()];
        let checkpoint = Checkpoint { index: 7, machine: vec![3; 9], runs, position: vec![4, 5] };
        checkpoint.write(&*disk, from.path()).unwrap();
        assert_eq!(export(&*disk, from.path(), &file).unwrap(), [4, 5]);

        let whole = std::fs::read(&file).unwrap();
        let mut altered = whole.clone();
        altered[2_000_000] ^= 1;
        for bad in [&altered[..], &whole[..whole.len() - 1], &[]] {
            std::fs::write(&file, bad).unwrap();
            assert!(install(&*disk, to.path(), &file, &[4, 5]).is_err());
        }
        std::fs::write(&file, &whole).unwrap();
        assert!(install(&*disk, to.path(), &file, &[4]).is_err(), "of another place");
        assert!(unfinished(&*disk, to.path()).unwrap().is_none(), "nothing bad is kept");
        // What was being installed is found again, and installed.
        std::fs::rename(&file, installing(to.path())).unwrap();
        let (path, position) = unfinished(&*disk, to.path()).unwrap().unwrap();
        assert_eq!(install(&*disk, to.path(), &path, &position).unwrap(), checkpoint);
        assert_eq!(std::fs::read(runs_dir(to.path()).join("1.run")).unwrap(), vec![1; 3_000_000]);
        assert_eq!(Checkpoint::read(&*disk, to.path()).unwrap(), Some(checkpoint));
        assert!(unfinished(&*disk, to.path()).unwrap().is_none());
    }
}
