//! `r` + u32 chunk → each reserved branch of it: u16 partition, u32 epoch, u64 sequence, u64 deadline, u8 number of legs,
//! then each leg: u32 row with bit 31 for a credit, u64 amount.
//!
//! A chunk is a part of the table of branches, with up to [`CHUNK_ROWS`] of them in no meaningful order; without any it
//! is deleted.

use escrow_types::codec::{Malformed, Put as _, Take};
use escrow_types::{Amount, Epoch, Millis, Partition, Xid};

use super::{Key, check_count};
use crate::branches::HeldCopy;
use crate::command::LEGS_MAX;

pub(super) const LETTER: u8 = b'r';
const CREDIT: u32 = 1 << 31;

/// The key, which is also what is deleted.
pub(super) fn key(chunk: u32) -> Vec<u8> {
    [&[LETTER][..], &chunk.to_be_bytes()].concat()
}

/// `None`: nothing is held in it.
pub(super) fn value(copy: &HeldCopy) -> Option<Vec<u8>> {
    if copy.branches.is_empty() {
        return None;
    }
    let mut out = Vec::with_capacity(copy.branches.len() * 23 + copy.legs.len() * 12);
    let mut legs = copy.legs.iter();
    for branch in &copy.branches {
        out.put_u16(branch.xid.partition.0);
        out.put_u32(branch.xid.epoch.0);
        out.put_u64(branch.xid.sequence);
        out.put_u64(branch.deadline_ms);
        out.put_u8(branch.legs);
        for leg in legs.by_ref().take(branch.legs.into()) {
            out.put_u32(if leg.is_credit() { leg.row() | CREDIT } else { leg.row() });
            out.put_u64(leg.amount);
        }
    }
    Some(out)
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ReservationsRecord {
    pub(super) chunk: u32,
    pub(super) reservations: Vec<ReservationRecord>,
}

/// One branch of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ReservationRecord {
    pub(super) xid: Xid,
    pub(super) deadline_ms: Millis,
    /// Row, credit, amount.
    pub(super) legs: Vec<(u32, bool, Amount)>,
}

impl ReservationsRecord {
    pub(super) fn decode(key: &[u8], value: &[u8]) -> Result<Self, Malformed> {
        let (mut key, mut take) = (Key::new(key), Take::new(value));
        let chunk = key.u32()?;
        key.finish()?;
        let mut reservations = Vec::new();
        while take.remaining() > 0 {
            let xid = Xid::new(Partition(take.u16()?), Epoch(take.u32()?), take.u64()?);
            let (deadline_ms, count) = (take.u64()?, take.u8()?);
            if count == 0 || usize::from(count) > LEGS_MAX {
                return Err(Malformed("a reservation record without legs, or with too many"));
            }
            let mut legs = Vec::new();
            for _ in 0..count {
                let row = take.u32()?;
                legs.push((row & !CREDIT, row & CREDIT != 0, take.u64()?));
            }
            reservations.push(ReservationRecord { xid, deadline_ms, legs });
        }
        check_count(reservations.len())?;
        Ok(Self { chunk, reservations })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::branches::{Branches, Chain, Leg};

    fn copy(branches: usize, legs: usize) -> HeldCopy {
        let mut table = Branches::default();
        for _ in 0..branches {
            let mut chain = Chain::EMPTY;
            for _ in 0..legs {
                table.push_leg(&mut chain, Leg::new(5, true, u64::MAX));
            }
            table.insert(Xid::new(Partition(1), Epoch(2), 3), 4, chain);
        }
        table.chunks.begin();
        let copies = table.copy_changes(9);
        let mut all = HeldCopy::default();
        for (_, copy) in copies {
            all.branches.extend(copy.branches);
            all.legs.extend(copy.legs);
        }
        all
    }

    #[test]
    fn bytes() {
        let xid = Xid::new(Partition(1), Epoch(2), 3);
        let record = ReservationRecord { xid, deadline_ms: 4, legs: vec![(5, true, u64::MAX)] };
        let record = ReservationsRecord { chunk: 7, reservations: vec![record; 2] };
        assert_eq!(key(7), b"r\x00\x00\x00\x07");
        let whole = value(&copy(2, 1)).unwrap();
        super::super::check_record(&record, &key(7), &whole, &[35], ReservationsRecord::decode);
        for (branches, legs) in [(65, 1), (1, LEGS_MAX + 1)] {
            assert!(
                ReservationsRecord::decode(&key(7)[1..], &value(&copy(branches, legs)).unwrap()).is_err()
            );
        }
        assert_eq!(value(&copy(0, 0)), None);
    }
}
