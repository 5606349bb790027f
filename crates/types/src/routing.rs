//! Which participant holds an account.
//!
//! Accounts are spread over 4,096 slots by their key, and slots over shards: moving a slot later moves its accounts,
//! without renaming any of them.

use crate::AccountKey;

/// How many slots there are. Never changes: it is part of the data.
pub const SLOTS: u16 = 4_096;

/// A participant: one wallet shard, or one external service that takes part in transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ParticipantId(pub u16);

/// One of [`SLOTS`] slots of accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u16);

impl Slot {
    /// The slot of an account: the top bits of a Fibonacci hash of its folded key, so that keys with a constant part
    /// (such as time-ordered or node-bearing UUIDs) still spread.
    pub const fn of(account: AccountKey) -> Self {
        let (high, low) = account.halves();
        let mixed = (high ^ low.rotate_left(32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        Self((mixed >> (64 - SLOTS.trailing_zeros())) as u16)
    }

    /// The shard, of `shards` many, that holds this slot when slots are dealt out in equal runs.
    pub const fn shard_of(self, shards: u16) -> u16 {
        assert!(shards > 0 && shards <= SLOTS);
        ((self.0 as u32 * shards as u32) / SLOTS as u32) as u16
    }
}

/// A run of slots that one shard holds, both ends included. Its slots are written as `0-2047`, or `7` for a single one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SlotRange {
    /// The first slot.
    pub first: Slot,
    /// The last slot, no less than the first and below [`SLOTS`].
    pub last: Slot,
    /// Who holds them.
    pub shard: ParticipantId,
}

/// Why ranges of slots are none, or do not deal out every slot exactly once.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SlotsError {
    /// It cannot be read.
    #[error("'{0}' is not a run of slots such as 0-2047, within 0-4095")]
    NotARun(String),
    /// A slot has no shard.
    #[error("slot {0} is given to no shard")]
    Missing(u16),
    /// A slot has two.
    #[error("slot {0} is given twice")]
    Twice(u16),
}

impl SlotRange {
    /// Reads the slots of a range.
    pub fn parse(slots: &str, shard: ParticipantId) -> Result<Self, SlotsError> {
        let wrong = || SlotsError::NotARun(slots.to_owned());
        let number = |text: &str| -> Result<u16, SlotsError> {
            let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|number| is_number && *number < SLOTS).ok_or_else(wrong)
        };
        let (first, last) = slots.split_once('-').unwrap_or((slots, slots));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(wrong());
        }
        Ok(Self { first: Slot(first), last: Slot(last), shard })
    }

    /// Its slots, as [`SlotRange::parse`] reads them.
    pub fn slots(self) -> String {
        match (self.first.0, self.last.0) {
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("{first}-{last}"),
        }
    }

    /// Who holds each slot. The ranges may come in any order.
    pub fn deal(ranges: &[Self]) -> Result<Vec<ParticipantId>, SlotsError> {
        let mut sorted = ranges.to_vec();
        sorted.sort_unstable();
        let mut dealt = Vec::with_capacity(usize::from(SLOTS));
        for range in sorted {
            let next = dealt.len() as u16;
            match range.first.0 {
                first if first < next => return Err(SlotsError::Twice(first)),
                first if first > next => return Err(SlotsError::Missing(next)),
                first => dealt.extend((first..=range.last.0).map(|_| range.shard)),
            }
        }
        match dealt.len() as u16 {
            SLOTS => Ok(dealt),
            next => Err(SlotsError::Missing(next)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AccountId;

    fn range(slots: &str, shard: u16) -> SlotRange {
        SlotRange::parse(slots, ParticipantId(shard)).unwrap()
    }

    #[test]
    fn runs_of_slots_are_written_as_they_are_read() {
        for text in ["0-4095", "7", "0", "4095", "100-101"] {
            assert_eq!(range(text, 3).slots(), text);
        }
        for wrong in ["", "-", "1-", "-1", "2-1", "4096", "0-4096", "0-70000", "+1", "a", "1-2-3", " 1"] {
            let error = SlotRange::parse(wrong, ParticipantId(0)).unwrap_err();
            assert_eq!(error, SlotsError::NotARun(wrong.to_owned()));
        }
    }

    #[test]
    fn every_slot_is_dealt_exactly_once() {
        let dealt = SlotRange::deal(&[range("2048-4095", 1), range("7-2047", 0), range("0-6", 9)]).unwrap();
        assert_eq!(dealt.len(), usize::from(SLOTS));
        assert_eq!([dealt[6], dealt[7], dealt[2047], dealt[2048]].map(|shard| shard.0), [9, 0, 0, 1]);
        for (ranges, error) in [
            (vec![], SlotsError::Missing(0)),
            (vec![range("1-4095", 0)], SlotsError::Missing(0)),
            (vec![range("0-10", 0), range("12-4095", 0)], SlotsError::Missing(11)),
            (vec![range("0-4094", 0)], SlotsError::Missing(4095)),
            (vec![range("0-10", 0), range("10-4095", 1)], SlotsError::Twice(10)),
            (vec![range("0-4095", 0), range("0-4095", 0)], SlotsError::Twice(0)),
            (vec![range("0-4095", 0), range("5", 1)], SlotsError::Twice(5)),
        ] {
            assert_eq!(SlotRange::deal(&ranges), Err(error), "{ranges:?}");
        }
    }

    #[test]
    fn accounts_spread_evenly() {
        let mut counts = [0u32; 3];
        for number in 0..30_000 {
            let key = AccountId::new(&format!("account-{number}")).unwrap().key();
            counts[usize::from(Slot::of(key).shard_of(3))] += 1;
        }
        assert!(counts.iter().all(|&count| (9_500..10_500).contains(&count)), "{counts:?}");
    }

    #[test]
    fn every_slot_has_a_shard() {
        for shards in [1, 2, 3, 7, SLOTS] {
            assert_eq!(Slot(0).shard_of(shards), 0);
            assert_eq!(Slot(SLOTS - 1).shard_of(shards), shards - 1);
        }
    }
}
