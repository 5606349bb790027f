//! The checkpoint file: the machine's state as of one index of the log, and the runs that belong to it.
//!
//! Layout: magic, version, index, machine bytes, names of the runs, in version 2 (of replicas) the position in the group's log, CRC-32C of all before. Replaced as a whole. A missing or
//! damaged checkpoint only costs a longer replay, never data.

use std::io;
use std::path::{Path, PathBuf};

use escrow_journal::storage::{Disk, durable_replace, read_all};
use escrow_types::codec::{Malformed, Put as _, Take};

const MAGIC: u64 = u64::from_le_bytes(*b"escrowCK");
const VERSION: u32 = 1;
/// With a position.
const VERSION_OF_REPLICAS: u32 = 2;

/// What a checkpoint holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Checkpoint {
    /// The last entry of the log that it includes.
    pub(crate) index: u64,
    /// [`escrow_tcc::Machine::to_checkpoint`].
    pub(crate) machine: Vec<u8>,
    /// Files in `runs/`, oldest first.
    pub(crate) runs: Vec<String>,
    /// Of a replica: where it is in its group's log. Empty without replication.
    pub(crate) position: Vec<u8>,
}

pub(crate) fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("checkpoint")
}

impl Checkpoint {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.machine.len() + 256);
        out.put_u64(MAGIC);
        let is_replica = !self.position.is_empty();
        out.put_u32(if is_replica { VERSION_OF_REPLICAS } else { VERSION });
        out.put_u64(self.index);
        out.put_bytes(&self.machine);
        out.put_u32(self.runs.len() as u32);
        for run in &self.runs {
            out.put_bytes(run.as_bytes());
        }
        if is_replica {
            out.put_bytes(&self.position);
        }
        let crc = crc32c::crc32c(&out);
        out.put_u32(crc);
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (body, crc) = bytes.split_last_chunk::<4>().ok_or(Malformed("too short"))?;
        if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
            return Err(Malformed("checksum"));
        }
        let mut take = Take::new(body);
        if take.u64()? != MAGIC {
            return Err(Malformed("not a checkpoint"));
        }
        let version = take.u32()?;
        if !matches!(version, VERSION | VERSION_OF_REPLICAS) {
            return Err(Malformed("unknown version"));
        }
        let (index, machine) = (take.u64()?, take.bytes()?.to_vec());
        let mut checkpoint = Self { index, machine, ..Self::default() };
        for _ in 0..take.u32()? {
            checkpoint.runs.push(take.text()?.to_owned());
        }
        if version == VERSION_OF_REPLICAS {
            checkpoint.position = take.bytes()?.to_vec();
        }
        take.finish()?;
        Ok(checkpoint)
    }

    /// Writes it durably in place of the last one.
    pub(crate) fn write(&self, disk: &dyn Disk, data_dir: &Path) -> io::Result<()> {
        durable_replace(disk, &path(data_dir), &self.encode())
    }

    /// Reads it. `Ok(None)`: there is none. `Err`: it is damaged, with what is wrong; the caller replays the whole log.
    pub(crate) fn read(disk: &dyn Disk, data_dir: &Path) -> Result<Option<Self>, String> {
        match read_all(disk, &path(data_dir)) {
            Ok(None) => Ok(None),
            Ok(Some(bytes)) => Self::decode(&bytes).map(Some).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_damage_is_noticed() {
        for position in [vec![], vec![9, 8]] {
            let runs = vec!["a".into(), "b".into()];
            let checkpoint = Checkpoint { index: 7, machine: vec![1, 2, 3], runs, position };
            let bytes = checkpoint.encode();
            assert_eq!(Checkpoint::decode(&bytes), Ok(checkpoint));
            for at in 0..bytes.len() {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1;
                assert!(Checkpoint::decode(&damaged).is_err(), "bit flipped at {at}");
                assert!(Checkpoint::decode(&bytes[..at]).is_err(), "cut at {at}");
            }
        }
    }
}
