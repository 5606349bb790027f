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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AccountId;

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
