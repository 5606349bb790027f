//! Which participant holds which account: slots dealt out in equal runs over the wallet shards.

use escrow_types::{AccountKey, ParticipantId, Slot};

/// The wallet shards, in the order in which slots are dealt to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routing {
    shards: Vec<ParticipantId>,
}

impl Routing {
    /// `shards` in the order of their ids. At most [`escrow_types::routing::SLOTS`].
    pub fn new(mut shards: Vec<ParticipantId>) -> Self {
        shards.sort_unstable();
        shards.dedup();
        assert!(shards.len() <= usize::from(escrow_types::routing::SLOTS), "no more shards than slots");
        Self { shards }
    }

    /// The wallet shard of an account; `None` when there are no shards.
    pub fn of(&self, account: AccountKey) -> Option<ParticipantId> {
        match self.shards.as_slice() {
            [] => None,
            [only] => Some(*only),
            shards => Some(shards[usize::from(Slot::of(account).shard_of(shards.len() as u16))]),
        }
    }

    /// The wallet shards.
    pub fn shards(&self) -> &[ParticipantId] {
        &self.shards
    }
}
