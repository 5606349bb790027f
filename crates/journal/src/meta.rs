//! `journal.meta`: the journal's identity. Replaced durably as a whole.
//!
//! ```text
//! offset  bytes  field (little endian)
//!      0      8  magic "ESCRWJRN"
//!      8      4  format version
//!     12      4  zero
//!     16     16  journal id
//!     32      8  segment size at creation, in bytes
//!     40      8  first index still kept: everything before it may be gone
//!     48      4  CRC-32C over the 48 bytes above
//! ```
//! Written once at creation (after the first segment is durable), and before each deletion of history.

use crate::error::{JournalError, Result};
use crate::segment::{FORMAT_VERSION, INDEXES, META_NAME};
use crate::storage::{Disk, durable_replace, read_all};
use crate::types::Index;
use std::path::Path;

const MAGIC: &[u8; 8] = b"ESCRWJRN";
const CRC_AT: usize = 48;
const META_BYTES: usize = 52;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) journal_id: u128,
    pub(crate) segment_bytes_at_creation: u64,
    pub(crate) first_kept: u64,
}

impl Meta {
    pub(crate) fn store(&self, disk: &dyn Disk, dir: &Path) -> Result<()> {
        let path = dir.join(META_NAME);
        durable_replace(disk, &path, &self.encode()).map_err(JournalError::io("replace", &path))
    }

    pub(crate) fn load(disk: &dyn Disk, dir: &Path) -> Result<Option<Meta>> {
        let path = dir.join(META_NAME);
        match read_all(disk, &path).map_err(JournalError::io("read", &path))? {
            None => Ok(None),
            Some(bytes) => Meta::decode(&bytes, &path).map(Some),
        }
    }

    fn encode(&self) -> [u8; META_BYTES] {
        let mut bytes = [0; META_BYTES];
        bytes[0..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.journal_id.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.segment_bytes_at_creation.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.first_kept.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8], path: &Path) -> Result<Meta> {
        let damaged = |reason| JournalError::Damaged {
            path: path.to_path_buf(),
            offset: 0,
            index: Index::ZERO,
            reason,
        };
        let field = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let half = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        if bytes.len() < 12 || &bytes[..8] != MAGIC {
            return Err(JournalError::WrongMagic(path.to_path_buf()));
        }
        let found = half(8);
        if found != FORMAT_VERSION {
            return Err(JournalError::UnknownVersion {
                path: path.to_path_buf(),
                found,
                supported: FORMAT_VERSION,
            });
        }
        if bytes.len() != META_BYTES || crc32c::crc32c(&bytes[..CRC_AT]) != half(CRC_AT) {
            return Err(damaged("the CRC of journal.meta is wrong"));
        }
        let journal_id = u128::from_le_bytes(bytes[16..32].try_into().expect("sixteen bytes"));
        let meta = Meta { journal_id, segment_bytes_at_creation: field(32), first_kept: field(40) };
        if INDEXES.contains(&meta.first_kept) {
            Ok(meta)
        } else {
            Err(damaged("no entry has the first index kept"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_and_every_flipped_bit_is_refused() {
        let meta = Meta { journal_id: 77 << 80, segment_bytes_at_creation: 8192, first_kept: 12 };
        let bytes = meta.encode();
        assert_eq!(Meta::decode(&bytes, Path::new("m")).unwrap(), meta);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Meta::decode(&damaged, Path::new("m")).is_err(), "bit {bit}");
        }
        for first_kept in [0, u64::MAX] {
            let meta = Meta { first_kept, ..meta };
            assert!(
                Meta::decode(&meta.encode(), Path::new("m")).is_err(),
                "no entry has the index {first_kept}"
            );
        }
        assert!(Meta::decode(&bytes[..51], Path::new("m")).is_err());
        assert!(Meta::decode(b"", Path::new("m")).is_err());
    }
}
