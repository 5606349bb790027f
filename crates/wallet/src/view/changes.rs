//! What changed since the last checkpoint: copied by the owner, in steps; encoded by whoever writes it.

use std::collections::VecDeque;

use escrow_types::{Epoch, Millis, Partition, Sequence};

use super::fences::{self, CHUNK_SLOTS};
use super::meta::MetaRecord;
use super::partition::PartitionRecord;
use super::{account, balance, reservation};
use crate::accounts::Account;
use crate::balances::Balance;
use crate::branches::HeldCopy;
use crate::partition::PartitionState;
use crate::slot::Slot;
use crate::wallet::Wallet;

/// A key, and its new value or `None` if it is deleted.
pub type Record = (Vec<u8>, Option<Vec<u8>>);

/// A copy of what changed, or of a part of it. All parts of a checkpoint are to be written as one, or none of them; a
/// copy that is dropped is lost, and only a checkpoint of the whole state makes up for it.
#[derive(Debug)]
#[must_use = "what was taken is not given again"]
pub struct Changes {
    /// In the first part.
    time_ms: Option<Millis>,
    partitions: Vec<PartitionCopy>,
    accounts: Vec<(u32, Vec<Account>)>,
    balances: Vec<(u32, Vec<Balance>)>,
    reserved: Vec<(u32, HeldCopy)>,
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

    /// A checkpoint begins, of the state as it is now: gives its first part, with clocks and fences. The others follow by
    /// [`Wallet::copy_changes`], and commands may be applied between them. Costs a copy of the windows that changed, and
    /// a byte for each chunk of the tables. The checkpoint before must have been copied.
    pub fn begin_changes(&mut self) -> Changes {
        self.ledger.accounts.chunks.begin();
        self.ledger.balances.chunks.begin();
        self.ledger.branches.chunks.begin();
        let dirty = self.partitions.iter_mut().filter(|(_, state)| state.dirty);
        Changes {
            time_ms: Some(self.time_ms),
            partitions: dirty.map(|(&partition, state)| PartitionCopy::take(partition, state)).collect(),
            accounts: Vec::new(),
            balances: Vec::new(),
            reserved: Vec::new(),
        }
    }

    /// The next part of the checkpoint that has begun, with at least so many chunks of 64 rows if there are that many;
    /// `None` if it was the last. Commands that were applied meanwhile may have made it larger: each copies what it is
    /// the first to change.
    pub fn copy_changes(&mut self, chunks: usize) -> Option<Changes> {
        if self.ledger.is_copied() {
            return None;
        }
        let mut left = chunks;
        let accounts = self.ledger.accounts.copy_changes(left);
        left = left.saturating_sub(accounts.len());
        let balances = self.ledger.balances.copy_changes(left);
        left = left.saturating_sub(balances.len());
        let reserved = self.ledger.branches.copy_changes(left);
        Some(Changes { time_ms: None, partitions: Vec::new(), accounts, balances, reserved })
    }

    /// A checkpoint in one go: both of the above, for a state that is at rest.
    pub fn take_changes(&mut self) -> Changes {
        let mut all = self.begin_changes();
        while let Some(part) = self.copy_changes(usize::MAX) {
            all.accounts.extend(part.accounts);
            all.balances.extend(part.balances);
            all.reserved.extend(part.reserved);
        }
        all
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
            slots: copy_of(&state.window),
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

/// Two copies of memory, however long the window.
fn copy_of(window: &VecDeque<Slot>) -> Vec<Slot> {
    let (front, back) = window.as_slices();
    [front, back].concat()
}

impl Changes {
    /// Keys and values to put and to delete, each key at most once in a checkpoint.
    pub fn records(&self) -> impl Iterator<Item = Record> + '_ {
        let meta = self.time_ms.map(|time_ms| (MetaRecord::key(), Some(MetaRecord { time_ms }.value())));
        let accounts =
            self.accounts.iter().map(|(chunk, rows)| (account::key(*chunk), Some(account::value(rows))));
        let balances =
            self.balances.iter().map(|(chunk, rows)| (balance::key(*chunk), Some(balance::value(rows))));
        let partitions =
            self.partitions.iter().flat_map(|copy| std::iter::once(copy.record()).chain(copy.chunks()));
        let reserved =
            self.reserved.iter().map(|(chunk, copy)| (reservation::key(*chunk), reservation::value(copy)));
        meta.into_iter().chain(accounts).chain(balances).chain(partitions).chain(reserved)
    }
}
