//! A segment file: its name and its header.
//!
//! ```text
//! offset  bytes  field (little endian)
//!      0      8  magic "ESCRWSEG"
//!      8      4  format version
//!     12      4  chain: CRC of the frame before the first one here
//!     16     16  journal id
//!     32      8  first index
//!     40      8  size of the file in bytes
//!     48      4  CRC-32C over the 48 bytes above
//!   4096         frames, then zeros, or what the file held before it was recycled
//! ```
//! The header has a block of its own, is durable before the file gets its name, and is never written again.
//! **Invariant:** a segment gets its name only after every entry before it is durable. So the name alone proves that
//! those entries existed.

use crate::error::{JournalError, Result};
use crate::options::{SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};
use crate::types::Index;
use std::path::Path;

/// Bytes in front of a segment's first frame.
pub const SEGMENT_HEADER_BYTES: u64 = 4096;

/// Indexes that an entry can have: each has one before it and one after it.
pub(crate) const INDEXES: std::ops::Range<u64> = 1..u64::MAX;

pub(crate) const FORMAT_VERSION: u32 = 1;
const MAGIC: &[u8; 8] = b"ESCRWSEG";
const CRC_AT: usize = 48;

/// What a segment's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) journal_id: u128,
    pub(crate) first: u64,
    pub(crate) chain: u32,
    pub(crate) segment_bytes: u64,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; SEGMENT_HEADER_BYTES as usize];
        bytes[0..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.chain.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.journal_id.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.first.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.segment_bytes.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..CRC_AT]);
        bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads and checks a header. `first` is what the file's name says.
    pub(crate) fn decode(bytes: &[u8], path: &Path, journal_id: u128, first: u64) -> Result<SegmentHeader> {
        let damaged = |reason| JournalError::Damaged {
            path: path.to_path_buf(),
            offset: 0,
            index: Index(first),
            reason,
        };
        if bytes.len() < SEGMENT_HEADER_BYTES as usize {
            return Err(damaged("the file is shorter than a segment header"));
        }
        if &bytes[0..8] != MAGIC {
            return Err(JournalError::WrongMagic(path.to_path_buf()));
        }
        let field = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let half = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let found = half(8);
        if found != FORMAT_VERSION {
            return Err(JournalError::UnknownVersion {
                path: path.to_path_buf(),
                found,
                supported: FORMAT_VERSION,
            });
        }
        if crc32c::crc32c(&bytes[..CRC_AT]) != half(CRC_AT) {
            return Err(damaged("the segment header's CRC is wrong"));
        }
        let found = u128::from_le_bytes(bytes[16..32].try_into().expect("sixteen bytes"));
        if found != journal_id {
            let path = path.to_path_buf();
            return Err(JournalError::ForeignJournal { path, expected: journal_id, found });
        }
        let header =
            SegmentHeader { journal_id, first: field(32), chain: half(12), segment_bytes: field(40) };
        if header.first != first {
            return Err(damaged("the segment header and the file name disagree on the first index"));
        }
        // What is read of a segment is bounded by its size.
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&header.segment_bytes) {
            return Err(damaged("the segment header says a size that no segment has"));
        }
        Ok(header)
    }
}

/// What a file in the journal directory is, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FileName {
    Meta,
    Lock,
    /// Left over by an interrupted operation.
    Temporary,
    Live(u64),
    Kept(u64, u64),
    Compressed(u64, u64),
}

pub(crate) const META_NAME: &str = "journal.meta";
pub(crate) const LOCK_NAME: &str = "journal.lock";

impl FileName {
    pub(crate) fn parse(name: &str) -> Option<FileName> {
        match name {
            META_NAME => return Some(FileName::Meta),
            LOCK_NAME => return Some(FileName::Lock),
            _ => {}
        }
        let (stem, extension) = name.rsplit_once('.')?;
        match extension {
            "tmp" => Some(FileName::Temporary),
            "seg" => Some(FileName::Live(digits(stem)?)),
            "kept" | "lz4" => {
                let (first, last) = stem.split_once('-')?;
                let (first, last) = (digits(first)?, digits(last)?);
                if last < first {
                    return None;
                }
                Some(if extension == "kept" {
                    FileName::Kept(first, last)
                } else {
                    FileName::Compressed(first, last)
                })
            }
            _ => None,
        }
    }

    pub(crate) fn live(first: u64) -> String {
        format!("{first:020}.seg")
    }

    pub(crate) fn kept(first: u64, last: u64) -> String {
        format!("{first:020}-{last:020}.kept")
    }

    pub(crate) fn compressed(first: u64, last: u64) -> String {
        format!("{first:020}-{last:020}.lz4")
    }
}

fn digits(text: &str) -> Option<u64> {
    (text.len() == 20 && text.bytes().all(|b| b.is_ascii_digit()))
        .then(|| text.parse().ok())
        .flatten()
        .filter(|n| INDEXES.contains(n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_strangers_are_none() {
        assert_eq!(FileName::parse(&FileName::live(7)), Some(FileName::Live(7)));
        assert_eq!(FileName::parse(&FileName::kept(7, 9)), Some(FileName::Kept(7, 9)));
        assert_eq!(FileName::parse(&FileName::compressed(7, 7)), Some(FileName::Compressed(7, 7)));
        for stranger in
            ["7.seg", "notes.txt", "00000000000000000000.seg", "-.kept", "seg", "0000000000000000000x.seg"]
        {
            assert_eq!(FileName::parse(stranger), None, "{stranger}");
        }
        assert_eq!(FileName::parse(&FileName::kept(9, 7)), None, "ends before it starts");
        assert_eq!(FileName::parse(&FileName::live(u64::MAX)), None, "nothing could follow");
        assert_eq!(FileName::parse(&FileName::kept(7, u64::MAX)), None, "nothing could follow");
    }

    #[test]
    fn every_flipped_header_bit_is_refused() {
        let header = SegmentHeader { journal_id: 1 << 100, first: 7, chain: 9, segment_bytes: 8192 };
        let bytes = header.encode();
        let path = Path::new("x.seg");
        assert_eq!(SegmentHeader::decode(&bytes, path, 1 << 100, 7).unwrap(), header);
        for bit in 0..(CRC_AT + 4) * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&damaged, path, 1 << 100, 7).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn sizes_that_no_segment_has_are_refused_with_a_right_checksum_too() {
        for segment_bytes in [0, SEGMENT_BYTES_MIN - 1, SEGMENT_BYTES_MAX + 1, u64::MAX] {
            let header = SegmentHeader { journal_id: 3, first: 7, chain: 9, segment_bytes };
            let decoded = SegmentHeader::decode(&header.encode(), Path::new("x.seg"), 3, 7);
            assert!(matches!(decoded, Err(JournalError::Damaged { .. })), "{segment_bytes}");
        }
    }

    #[test]
    fn another_journal_another_version_and_another_name_are_told_apart() {
        let header = SegmentHeader { journal_id: 3, first: 7, chain: 9, segment_bytes: 8192 };
        let mut bytes = header.encode();
        let path = Path::new("x.seg");
        assert!(matches!(
            SegmentHeader::decode(&bytes, path, 4, 7),
            Err(JournalError::ForeignJournal { expected: 4, found: 3, .. })
        ));
        assert!(matches!(SegmentHeader::decode(&bytes, path, 3, 8), Err(JournalError::Damaged { .. })));
        bytes[8] = 2;
        assert!(matches!(
            SegmentHeader::decode(&bytes, path, 3, 7),
            Err(JournalError::UnknownVersion { found: 2, supported: 1, .. })
        ));
        bytes[0] = 0;
        assert!(matches!(SegmentHeader::decode(&bytes, path, 3, 7), Err(JournalError::WrongMagic(_))));
    }
}
