//! What a shard remembers of one coordinator partition: its open epoch, and the slots of its branches.
//!
//! ```text
//! open epoch:     0 ........ base ............................
//!                 finished  |  window: a slot each, 4 bytes
//!                 but for the stragglers below `base`
//! older epochs:   finished, but for the stragglers
//! ```
//! Stragglers are xids that the coordinator named as not finished. What is finished stays finished: a later list that
//! names it again (a leader that lost the lazily logged end of it) does not bring it back.

use std::collections::{BTreeMap, VecDeque};

use escrow_types::{Epoch, Sequence};

use crate::slot::Slot;

/// The widest window, in slots: sequences further ahead of the watermark are refused as invalid.
pub const WINDOW_SLOTS_MAX: usize = 1 << 24;

/// One coordinator partition.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct PartitionState {
    /// The newest epoch that said hello; 0 before the first.
    pub(crate) epoch: Epoch,
    /// The watermark of the open epoch.
    pub(crate) base: Sequence,
    pub(crate) window: VecDeque<Slot>,
    pub(crate) stragglers: BTreeMap<(Epoch, Sequence), Slot>,
    /// Changed since the last checkpoint.
    pub(crate) dirty: bool,
    /// The chunks of the window that the last checkpoint has: first and last.
    pub(crate) chunks_in_view: Option<(u64, u64)>,
}

/// Where the slot of an xid is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Window(usize),
    Straggler,
    /// It has finished; there is no slot.
    Finished,
    /// Too far ahead of the watermark; there is no slot.
    Beyond,
}

impl PartitionState {
    #[inline]
    pub(crate) fn place(&self, epoch: Epoch, sequence: Sequence) -> Place {
        if epoch == self.epoch
            && let Some(ahead) = sequence.checked_sub(self.base)
        {
            return if ahead < WINDOW_SLOTS_MAX as u64 {
                Place::Window(ahead as usize)
            } else {
                Place::Beyond
            };
        }
        if self.stragglers.contains_key(&(epoch, sequence)) { Place::Straggler } else { Place::Finished }
    }

    /// The slot of an xid, `Unseen` where the window has not grown to yet; `None` where there is no slot.
    pub(crate) fn slot(&self, epoch: Epoch, sequence: Sequence) -> Option<Slot> {
        match self.place(epoch, sequence) {
            Place::Window(at) => Some(self.window.get(at).copied().unwrap_or(Slot::UNSEEN)),
            Place::Straggler => self.stragglers.get(&(epoch, sequence)).copied(),
            Place::Finished | Place::Beyond => None,
        }
    }

    #[inline]
    pub(crate) fn set(&mut self, place: Place, epoch: Epoch, sequence: Sequence, slot: Slot) {
        self.dirty = true;
        match place {
            Place::Window(at) => {
                if at >= self.window.len() {
                    self.window.resize(at + 1, Slot::UNSEEN);
                }
                self.window[at] = slot;
            }
            Place::Straggler => {
                self.stragglers.insert((epoch, sequence), slot);
            }
            Place::Finished | Place::Beyond => unreachable!("only what has a slot is set"),
        }
    }

    /// Opens a newer epoch; of the older ones only `unfinished` keep slots. Gives the places of the orphans.
    #[must_use]
    pub(crate) fn open(&mut self, epoch: Epoch, unfinished: &[(Epoch, Sequence)]) -> Vec<u32> {
        let mut kept = BTreeMap::new();
        for &(older, sequence) in unfinished.iter().filter(|xid| xid.0 < epoch) {
            // An epoch that never said hello here is not closed yet, so its xids may still come.
            let slot =
                if older > self.epoch { Some(Slot::UNSEEN) } else { self.slot_or_unseen(older, sequence) };
            if let Some(slot) = slot {
                kept.insert((older, sequence), slot);
            }
        }
        let orphans = self
            .reserved()
            .filter(|&(epoch, sequence, _)| !kept.contains_key(&(epoch, sequence)))
            .map(|(_, _, branch)| branch)
            .collect();
        let chunks_in_view = self.chunks_in_view;
        *self = Self { epoch, stragglers: kept, dirty: true, chunks_in_view, ..Self::default() };
        orphans
    }

    /// As [`PartitionState::slot`], for xids that someone names: a sequence beyond the window may come too.
    fn slot_or_unseen(&self, epoch: Epoch, sequence: Sequence) -> Option<Slot> {
        match self.place(epoch, sequence) {
            Place::Beyond => Some(Slot::UNSEEN),
            _ => self.slot(epoch, sequence),
        }
    }

    /// Moves the watermark of `epoch`. Gives the places of the orphans.
    #[must_use]
    pub(crate) fn advance(&mut self, epoch: Epoch, below: Sequence, except: &[Sequence]) -> Vec<u32> {
        if epoch > self.epoch || (epoch == self.epoch && below < self.base) {
            return Vec::new();
        }
        self.dirty = true;
        let mut kept = BTreeMap::new();
        for &sequence in except.iter().filter(|&&sequence| epoch < self.epoch || sequence < below) {
            if let Some(slot) = self.slot_or_unseen(epoch, sequence) {
                kept.insert((epoch, sequence), slot);
            }
        }
        let mut orphans = Vec::new();
        let mut finish = |sequence: Sequence, slot: Slot| {
            if let Some(branch) = slot.reserved()
                && !kept.contains_key(&(epoch, sequence))
            {
                orphans.push(branch);
            }
        };
        self.stragglers.retain(|&(of, sequence), slot| {
            if of == epoch {
                finish(sequence, *slot);
            }
            of != epoch
        });
        if epoch == self.epoch {
            let passed = usize::try_from(below - self.base).unwrap_or(usize::MAX).min(self.window.len());
            for (ahead, slot) in self.window.drain(..passed).enumerate() {
                finish(self.base + ahead as u64, slot);
            }
            self.base = below;
        }
        self.stragglers.append(&mut kept);
        orphans
    }

    /// The reserved branches, oldest first: epoch, sequence, place.
    pub(crate) fn reserved(&self) -> impl Iterator<Item = (Epoch, Sequence, u32)> + '_ {
        self.reserved_after(None)
    }

    /// The reserved branches after an xid, oldest first: epoch, sequence, place.
    pub(crate) fn reserved_after(
        &self,
        after: Option<(Epoch, Sequence)>,
    ) -> impl Iterator<Item = (Epoch, Sequence, u32)> + '_ {
        use std::ops::Bound::{Excluded, Unbounded};
        let stragglers = self.stragglers.range((after.map_or(Unbounded, Excluded), Unbounded));
        // Every straggler is before the window: of an older epoch, or below `base`.
        let start = match after {
            Some((epoch, sequence)) if epoch == self.epoch && sequence >= self.base => {
                usize::try_from(sequence - self.base)
                    .unwrap_or(usize::MAX)
                    .saturating_add(1)
                    .min(self.window.len())
            }
            Some((epoch, _)) if epoch > self.epoch => self.window.len(),
            _ => 0,
        };
        let stragglers = stragglers.map(|(&(epoch, sequence), &slot)| (epoch, sequence, slot));
        // Not a range of sequences zipped on: the last sequence of all has no next.
        let sequence = move |at: usize| self.base + (start + at) as u64;
        let window = self.window.range(start..).enumerate();
        stragglers
            .chain(window.map(move |(at, &slot)| (self.epoch, sequence(at), slot)))
            .filter_map(|(epoch, sequence, slot)| slot.reserved().map(|branch| (epoch, sequence, branch)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slot::State;

    const CONFIRMED: Slot = Slot::of(State::Confirmed);

    fn partition() -> PartitionState {
        let mut partition = PartitionState::default();
        assert!(partition.open(Epoch(2), &[]).is_empty());
        for sequence in 0..4 {
            let slot = Slot::of(State::Reserved(sequence as u32));
            partition.set(partition.place(Epoch(2), sequence), Epoch(2), sequence, slot);
        }
        partition
    }

    #[test]
    fn a_watermark_finishes_what_it_does_not_except() {
        let mut partition = partition();
        assert_eq!(partition.advance(Epoch(2), 3, &[1, 3]), [0, 2]);
        assert_eq!(partition.place(Epoch(2), 0), Place::Finished);
        assert_eq!(partition.slot(Epoch(2), 1), Some(Slot::of(State::Reserved(1))));
        assert_eq!(partition.place(Epoch(2), 3), Place::Window(0));
        assert_eq!(partition.advance(Epoch(2), 3, &[0]), [1], "what finished does not come back");
        assert_eq!(partition.place(Epoch(2), 0), Place::Finished);
    }

    #[test]
    fn a_watermark_that_goes_backwards_changes_nothing() {
        let mut partition = partition();
        assert_eq!(partition.advance(Epoch(2), 3, &[1]), [0, 2]);
        let before = partition.clone();
        assert!(partition.advance(Epoch(2), 2, &[]).is_empty());
        assert!(partition.advance(Epoch(3), 9, &[]).is_empty());
        assert_eq!(partition, before);
    }

    #[test]
    fn a_watermark_far_ahead_keeps_unseen_exceptions() {
        let mut partition = partition();
        assert_eq!(partition.advance(Epoch(2), u64::MAX, &[1 << 40]), [0, 1, 2, 3]);
        assert_eq!(partition.slot(Epoch(2), 1 << 40), Some(Slot::UNSEEN));
        assert_eq!(partition.place(Epoch(2), u64::MAX), Place::Window(0));
    }

    #[test]
    fn an_older_epoch_has_stragglers_only() {
        let mut partition = partition();
        partition.set(partition.place(Epoch(2), 1), Epoch(2), 1, CONFIRMED);
        assert_eq!(partition.open(Epoch(3), &[(Epoch(2), 1), (Epoch(2), 3), (Epoch(2), 99)]), [0, 2]);
        assert_eq!(partition.slot(Epoch(2), 1), Some(CONFIRMED));
        assert_eq!(partition.slot(Epoch(2), 99), Some(Slot::UNSEEN));
        assert_eq!(partition.place(Epoch(2), 0), Place::Finished);
        assert_eq!(partition.advance(Epoch(2), 0, &[99, 0]), [3], "below says nothing about an older epoch");
        assert_eq!(partition.place(Epoch(2), 0), Place::Finished);
        assert_eq!(partition.place(Epoch(2), 99), Place::Straggler);
    }

    #[test]
    fn a_hello_does_not_bring_back_what_finished() {
        let mut partition = partition();
        assert_eq!(partition.advance(Epoch(2), 2, &[]), [0, 1]);
        assert_eq!(partition.open(Epoch(5), &[(Epoch(2), 0), (Epoch(2), 2), (Epoch(4), 7)]), [3]);
        assert_eq!(partition.place(Epoch(2), 0), Place::Finished);
        assert_eq!(partition.place(Epoch(2), 2), Place::Straggler);
        assert_eq!(
            partition.slot(Epoch(4), 7),
            Some(Slot::UNSEEN),
            "epoch 4 never said hello: not closed yet"
        );
    }

    #[test]
    fn reservations_page_in_order() {
        let mut partition = partition();
        assert!(partition.open(Epoch(3), &[(Epoch(2), 1), (Epoch(2), 3)]).len() == 2);
        for sequence in [2, 5] {
            let slot = Slot::of(State::Reserved(9));
            partition.set(partition.place(Epoch(3), sequence), Epoch(3), sequence, slot);
        }
        let all: Vec<_> = partition.reserved().map(|(epoch, sequence, _)| (epoch, sequence)).collect();
        assert_eq!(all, [(Epoch(2), 1), (Epoch(2), 3), (Epoch(3), 2), (Epoch(3), 5)]);
        for (at, &after) in all.iter().enumerate() {
            let rest: Vec<_> = partition.reserved_after(Some(after)).map(|row| (row.0, row.1)).collect();
            assert_eq!(rest, all[at + 1..]);
        }
        assert_eq!(partition.reserved_after(Some((Epoch(4), 0))).count(), 0);
    }
}
