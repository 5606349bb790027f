//! `f` + u16 partition, u64 chunk → a byte a slot: what was seen in the open epoch from its watermark on.
//!
//! A chunk has the slots of the sequences from `chunk * CHUNK_SLOTS`; those below the watermark are `Unseen`. Chunks
//! that fall below the watermark are deleted.

use escrow_types::Partition;
use escrow_types::codec::Malformed;

use super::Key;
use crate::slot::Slot;

pub(super) const LETTER: u8 = b'f';

/// Sequences of one record.
pub(super) const CHUNK_SLOTS: u64 = 8_192;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FencesRecord {
    pub(super) partition: Partition,
    pub(super) chunk: u64,
    pub(super) slots: Vec<u8>,
}

/// The key, which is also what is deleted.
pub(super) fn key(partition: Partition, chunk: u64) -> Vec<u8> {
    [&[LETTER][..], &partition.0.to_be_bytes(), &chunk.to_be_bytes()].concat()
}

impl FencesRecord {
    pub(super) fn decode(key: &[u8], value: &[u8]) -> Result<Self, Malformed> {
        let mut key = Key::new(key);
        let (partition, chunk) = (Partition(key.u16()?), key.u64()?);
        key.finish()?;
        if value.is_empty() || value.len() as u64 > CHUNK_SLOTS || chunk > u64::MAX / CHUNK_SLOTS {
            return Err(Malformed("a fence record of a wrong size"));
        }
        if value.iter().any(|&byte| Slot::from_byte(byte).is_none()) {
            return Err(Malformed("a fence whose slot has no such state"));
        }
        Ok(Self { partition, chunk, slots: value.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes() {
        let record = FencesRecord { partition: Partition(1), chunk: 2, slots: vec![0, 1, 2, 3, 0x41, 0xFF] };
        let key = key(record.partition, record.chunk);
        assert_eq!(key, b"f\x00\x01\x00\x00\x00\x00\x00\x00\x00\x02");
        assert_eq!(FencesRecord::decode(&key[1..], &record.slots), Ok(record));
        assert!(FencesRecord::decode(&key[1..], &[]).is_err());
        assert!(FencesRecord::decode(&key[1..], &[9]).is_err());
        assert!(FencesRecord::decode(&key[2..], &[1]).is_err());
        assert!(FencesRecord::decode(&key[1..], &[0; 8_193]).is_err());
    }
}
