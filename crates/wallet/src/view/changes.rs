//! What changed since the last checkpoint: copied by the owner, encoded by whoever writes it.

use escrow_types::{Epoch, Millis, Partition, Sequence, Xid};

use super::account::AccountRecord;
use super::balance::BalanceRecord;
use super::fences::{self, CHUNK_SLOTS};
use super::meta::MetaRecord;
use super::partition::PartitionRecord;
use super::reservation::{self, ReservationRecord};
use crate::accounts::Account;
use crate::balances::Balance;
use crate::branches::Leg;
use crate::partition::PartitionState;
use crate::slot::Slot;
use crate::wallet::Wallet;

/// A key, and its new value or `None` if it is deleted.
pub type Record = (Vec<u8>, Option<Vec<u8>>);

/// A copy of what changed. To be written as one atomic batch, or not at all; a copy that is dropped is lost, and only
/// a checkpoint of the whole state makes up for it.
#[derive(Debug)]
#[must_use = "what was taken is not given again"]
pub struct Changes {
    time_ms: Millis,
    accounts: Vec<(u32, Account)>,
    balances: Vec<(u32, Balance)>,
    partitions: Vec<PartitionCopy>,
    ended: Vec<Xid>,
    reserved: Vec<(Xid, Millis, Vec<Leg>)>,
}

#[derive(Debug)]
struct PartitionCopy {
    partition: Partition,
    epoch: Epoch,
    base: Sequence,
    stragglers: Vec<(Epoch, Sequence, u8)>,
    /// The whole window.
    slots: Vec<Slot>,
    chunks: Option<(u64, u64)>,
    chunks_before: Option<(u64, u64)>,
}

impl Wallet {
    /// Whether anything changed since the last [`Wallet::take_changes`].
    pub fn has_changes(&self) -> bool {
        self.ledger.has_changes() || self.partitions.values().any(|state| state.dirty)
    }

    /// Copies what changed since the last time, and begins anew. Costs a copy of the rows that changed, of the windows
    /// that changed, and a pass over the reservations that are held.
    pub fn take_changes(&mut self) -> Changes {
        let (ended, new) = self.ledger.branches.take_dirty();
        let branches = &self.ledger.branches;
        let reserved = new.into_iter().map(|place| {
            let branch = branches.get(place);
            (branch.xid, branch.deadline_ms, branches.legs(place).collect())
        });
        Changes {
            time_ms: self.time_ms,
            reserved: reserved.collect(),
            ended,
            accounts: self.ledger.accounts.take_dirty(),
            balances: self.ledger.balances.take_dirty(),
            partitions: self
                .partitions
                .iter_mut()
                .filter(|(_, state)| state.dirty)
                .map(|(&partition, state)| PartitionCopy::take(partition, state))
                .collect(),
        }
    }
}

impl PartitionCopy {
    fn take(partition: Partition, state: &mut PartitionState) -> Self {
        let chunks = (!state.window.is_empty()).then(|| {
            let last = state.base + (state.window.len() - 1) as u64;
            (state.base / CHUNK_SLOTS, last / CHUNK_SLOTS)
        });
        state.dirty = false;
        Self {
            partition,
            epoch: state.epoch,
            base: state.base,
            stragglers: state
                .stragglers
                .iter()
                .map(|(&(epoch, sequence), slot)| (epoch, sequence, slot.to_byte()))
                .collect(),
            slots: state.window.iter().copied().collect(),
            chunks,
            chunks_before: std::mem::replace(&mut state.chunks_in_view, chunks),
        }
    }

    fn record(&self) -> Record {
        let stragglers = self.stragglers.clone();
        let record =
            PartitionRecord { partition: self.partition, epoch: self.epoch, base: self.base, stragglers };
        (record.key(), Some(record.value()))
    }

    /// The chunks as they are now, and the deletion of those that are no more.
    fn chunks(&self) -> impl Iterator<Item = Record> + '_ {
        let within = |range: Option<(u64, u64)>, chunk| {
            range.is_some_and(|(first, last)| (first..=last).contains(&chunk))
        };
        let each = |range: Option<(u64, u64)>| range.into_iter().flat_map(|(first, last)| first..=last);
        let gone = each(self.chunks_before).filter(move |&chunk| !within(self.chunks, chunk));
        let deletions = gone.map(|chunk| (fences::key(self.partition, chunk), None));
        deletions.chain(
            each(self.chunks).map(|chunk| (fences::key(self.partition, chunk), Some(self.chunk(chunk)))),
        )
    }

    fn chunk(&self, chunk: u64) -> Vec<u8> {
        let first = chunk * CHUNK_SLOTS;
        let below = usize::try_from(self.base.saturating_sub(first)).expect("less than a chunk");
        let skipped = usize::try_from(first.saturating_sub(self.base)).expect("within the window");
        let slots = self.slots[skipped..].iter().take(CHUNK_SLOTS as usize - below);
        let mut bytes = vec![Slot::UNSEEN.to_byte(); below];
        bytes.extend(slots.map(|slot| slot.to_byte()));
        bytes
    }
}

impl Changes {
    /// Keys and values to put and to delete, each key at most once.
    pub fn records(&self) -> impl Iterator<Item = Record> + '_ {
        let meta = std::iter::once((MetaRecord::key(), Some(MetaRecord { time_ms: self.time_ms }.value())));
        let accounts = self.accounts.iter().map(|(place, account)| {
            let record = AccountRecord { place: *place, id: account.id.clone(), frozen: account.frozen };
            (record.key(), Some(record.value()))
        });
        let balances = self.balances.iter().map(|(row, balance)| {
            let record = BalanceRecord {
                row: *row,
                account: balance.account,
                currency: balance.currency,
                overdraft: balance.overdraft(),
                posted: balance.posted,
                reserved: balance.reserved,
                incoming: balance.incoming,
            };
            (record.key(), Some(record.value()))
        });
        let partitions =
            self.partitions.iter().flat_map(|copy| std::iter::once(copy.record()).chain(copy.chunks()));
        let ended = self.ended.iter().map(|&xid| (reservation::key(xid), None));
        let reserved = self.reserved.iter().map(|(xid, deadline_ms, legs)| {
            let legs = legs.iter().map(|leg| (leg.row(), leg.is_credit(), leg.amount)).collect();
            let record = ReservationRecord { xid: *xid, deadline_ms: *deadline_ms, legs };
            (reservation::key(*xid), Some(record.value()))
        });
        meta.chain(accounts).chain(balances).chain(partitions).chain(ended).chain(reserved)
    }
}
