//! `p` + u16 partition → u32 epoch, u64 watermark, then each straggler: u32 epoch, u64 sequence, u8 slot.

use escrow_types::codec::{Malformed, Put as _, Take};
use escrow_types::{Epoch, Partition, Sequence};

use super::Key;
use crate::slot::Slot;

pub(super) const LETTER: u8 = b'p';

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PartitionRecord {
    pub(super) partition: Partition,
    pub(super) epoch: Epoch,
    pub(super) base: Sequence,
    /// Epoch, sequence, slot byte.
    pub(super) stragglers: Vec<(Epoch, Sequence, u8)>,
}

impl PartitionRecord {
    pub(super) fn key(&self) -> Vec<u8> {
        [&[LETTER][..], &self.partition.0.to_be_bytes()].concat()
    }

    pub(super) fn value(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(12 + self.stragglers.len() * 13);
        out.put_u32(self.epoch.0);
        out.put_u64(self.base);
        for &(epoch, sequence, slot) in &self.stragglers {
            out.put_u32(epoch.0);
            out.put_u64(sequence);
            out.put_u8(slot);
        }
        out
    }

    pub(super) fn decode(key: &[u8], value: &[u8]) -> Result<Self, Malformed> {
        let (mut key, mut take) = (Key::new(key), Take::new(value));
        let partition = Partition(key.u16()?);
        key.finish()?;
        let (epoch, base) = (Epoch(take.u32()?), take.u64()?);
        let mut stragglers = Vec::new();
        while take.remaining() > 0 {
            let (epoch, sequence, slot) = (Epoch(take.u32()?), take.u64()?, take.u8()?);
            if Slot::from_byte(slot).is_none() {
                return Err(Malformed("a straggler whose slot has no such state"));
            }
            stragglers.push((epoch, sequence, slot));
        }
        Ok(Self { partition, epoch, base, stragglers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes() {
        let mut record =
            PartitionRecord { partition: Partition(1), epoch: Epoch(2), base: 3, stragglers: vec![] };
        assert_eq!(record.key(), b"p\x00\x01");
        super::super::check_record(&record, &record.key(), &record.value(), &[], PartitionRecord::decode);
        record.stragglers = vec![(Epoch(1), u64::MAX, 0xFF)];
        let value = record.value();
        assert_eq!(PartitionRecord::decode(&record.key()[1..], &value), Ok(record.clone()));
        record.stragglers[0].2 = 9;
        assert!(PartitionRecord::decode(&record.key()[1..], &record.value()).is_err());
    }
}
