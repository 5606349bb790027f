//! `r` + u16 partition, u32 epoch, u64 sequence → u64 deadline, then each leg: u32 row with bit 31 for a credit,
//! u64 amount. Deleted when the branch ends.

use escrow_types::codec::{Malformed, Put as _, Take};
use escrow_types::{Amount, Epoch, Millis, Partition, Xid};

use super::Key;
use crate::command::LEGS_MAX;

pub(super) const LETTER: u8 = b'r';
const CREDIT: u32 = 1 << 31;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ReservationRecord {
    pub(super) xid: Xid,
    pub(super) deadline_ms: Millis,
    /// Row, credit, amount.
    pub(super) legs: Vec<(u32, bool, Amount)>,
}

/// The key, which is also what is deleted.
pub(super) fn key(xid: Xid) -> Vec<u8> {
    let (partition, epoch) = (xid.partition.0.to_be_bytes(), xid.epoch.0.to_be_bytes());
    [&[LETTER][..], &partition, &epoch, &xid.sequence.to_be_bytes()].concat()
}

impl ReservationRecord {
    pub(super) fn value(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(8 + self.legs.len() * 12);
        out.put_u64(self.deadline_ms);
        for &(row, credit, amount) in &self.legs {
            out.put_u32(if credit { row | CREDIT } else { row });
            out.put_u64(amount);
        }
        out
    }

    pub(super) fn decode(key: &[u8], value: &[u8]) -> Result<Self, Malformed> {
        let (mut key, mut take) = (Key::new(key), Take::new(value));
        let xid = Xid::new(Partition(key.u16()?), Epoch(key.u32()?), key.u64()?);
        key.finish()?;
        let deadline_ms = take.u64()?;
        let mut legs = Vec::new();
        while take.remaining() > 0 {
            let row = take.u32()?;
            legs.push((row & !CREDIT, row & CREDIT != 0, take.u64()?));
        }
        if legs.is_empty() || legs.len() > LEGS_MAX {
            return Err(Malformed("a reservation record without legs, or with too many"));
        }
        Ok(Self { xid, deadline_ms, legs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes() {
        let xid = Xid::new(Partition(1), Epoch(2), 3);
        let record = ReservationRecord { xid, deadline_ms: 4, legs: vec![(5, true, u64::MAX)] };
        assert_eq!(key(xid), b"r\x00\x01\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x03");
        super::super::check_record(&record, &key(xid), &record.value(), ReservationRecord::decode);
        let many = ReservationRecord { legs: vec![(5, false, 1); LEGS_MAX + 1], ..record };
        assert!(ReservationRecord::decode(&key(xid)[1..], &many.value()).is_err());
    }
}
