//! Which participant holds which account: slots dealt out over the wallet shards, in equal runs or as it is told.

use std::sync::Arc;

use escrow_types::routing::SlotsError;
use escrow_types::{AccountKey, ParticipantId, Slot, SlotRange};

/// The wallet shards, and which slots each holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routing {
    shards: Vec<ParticipantId>,
    /// The shard of every slot; `None`: equal runs, in the order of the shards.
    dealt: Option<Arc<[ParticipantId]>>,
}

impl Routing {
    /// Slots in equal runs over `shards`, in the order of their ids. At most [`escrow_types::routing::SLOTS`].
    pub fn new(mut shards: Vec<ParticipantId>) -> Self {
        shards.sort_unstable();
        shards.dedup();
        assert!(shards.len() <= usize::from(escrow_types::routing::SLOTS), "no more shards than slots");
        Self { shards, dealt: None }
    }

    /// Slots as `ranges` say, which must name each exactly once.
    pub fn of_ranges(ranges: &[SlotRange]) -> Result<Self, SlotsError> {
        let dealt = SlotRange::deal(ranges)?;
        Ok(Self { dealt: Some(dealt.into()), ..Self::new(ranges.iter().map(|range| range.shard).collect()) })
    }

    /// The wallet shard of an account; `None` when there are no shards.
    pub fn of(&self, account: AccountKey) -> Option<ParticipantId> {
        match (self.shards.as_slice(), &self.dealt) {
            ([], _) => None,
            ([only], _) => Some(*only),
            (_, Some(dealt)) => Some(dealt[usize::from(Slot::of(account).0)]),
            (shards, None) => Some(shards[usize::from(Slot::of(account).shard_of(shards.len() as u16))]),
        }
    }

    /// The wallet shards.
    pub fn shards(&self) -> &[ParticipantId] {
        &self.shards
    }
}

#[cfg(test)]
mod tests {
    use escrow_types::AccountId;

    use super::*;

    fn keys() -> impl Iterator<Item = AccountKey> {
        (0..2_000).map(|number| AccountId::new(&format!("account-{number}")).unwrap().key())
    }

    fn range(slots: &str, shard: u16) -> SlotRange {
        SlotRange::parse(slots, ParticipantId(shard)).unwrap()
    }

    #[test]
    fn equal_runs_are_the_same_told_or_not() {
        let equal = Routing::new(vec![ParticipantId(1), ParticipantId(0)]);
        let told = Routing::of_ranges(&[range("0-2047", 0), range("2048-4095", 1)]).unwrap();
        assert_eq!(told.shards(), equal.shards());
        assert!(keys().all(|key| told.of(key) == equal.of(key)));
    }

    #[test]
    fn accounts_are_where_their_slot_is_told_to_be() {
        let told = Routing::of_ranges(&[range("0-99", 7), range("100-4095", 3)]).unwrap();
        assert_eq!(told.shards(), [ParticipantId(3), ParticipantId(7)]);
        for key in keys() {
            let expect = if Slot::of(key).0 < 100 { 7 } else { 3 };
            assert_eq!(told.of(key), Some(ParticipantId(expect)));
        }
        assert!(keys().any(|key| told.of(key) == Some(ParticipantId(7))), "both are met");
        assert_eq!(Routing::of_ranges(&[range("0-99", 7)]), Err(SlotsError::Missing(100)));
    }
}
