//! The reservations that are held: branches and their legs, in two tables with free lists, so that a transfer
//! allocates nothing once the tables have grown to the work in flight.

use escrow_types::{Amount, Millis, Xid};

use crate::chunks::{CHUNK_ROWS, Chunks, rows_of};
use crate::slot::PLACES_MAX;

/// The end of a list.
const NONE: u32 = u32::MAX;
const CREDIT: u32 = 1 << 31;

/// Chunks have numbers below this: there are no more places.
const NUMBERS_MAX: u32 = PLACES_MAX / CHUNK_ROWS as u32;

/// One reserved branch; also a free place, which has no legs and whose `first_leg` names the next free one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Branch {
    pub(crate) xid: Xid,
    pub(crate) deadline_ms: Millis,
    first_leg: u32,
    pub(crate) legs: u8,
}

/// One leg of a reserved branch: 16 bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Leg {
    pub(crate) amount: Amount,
    row: u32,
    next: u32,
}

const _: () = assert!(size_of::<Leg>() == 16);

impl Leg {
    pub(crate) const fn new(row: u32, credit: bool, amount: Amount) -> Self {
        Self { amount, row: if credit { row | CREDIT } else { row }, next: NONE }
    }

    /// The balance.
    pub(crate) const fn row(&self) -> u32 {
        self.row & !CREDIT
    }

    pub(crate) const fn is_credit(&self) -> bool {
        self.row & CREDIT != 0
    }
}

/// All reserved branches of a shard.
#[derive(Debug, Clone)]
pub(crate) struct Branches {
    rows: Vec<Branch>,
    legs: Vec<Leg>,
    free_branch: u32,
    free_leg: u32,
    live: usize,
    pub(crate) chunks: Chunks<HeldCopy>,
    /// The numbers under which the view had the first chunks when it was read: it lacks those without branches.
    numbers: Vec<u32>,
}

/// A copy of the live branches of a chunk.
#[derive(Debug, Clone, Default)]
pub(crate) struct HeldCopy {
    pub(crate) branches: Vec<Branch>,
    /// Those of the branches, one after the other.
    pub(crate) legs: Vec<Leg>,
}

impl Default for Branches {
    fn default() -> Self {
        let (rows, legs, chunks, numbers) = (Vec::new(), Vec::new(), Chunks::default(), Vec::new());
        Self { rows, legs, free_branch: NONE, free_leg: NONE, live: 0, chunks, numbers }
    }
}

/// Legs that are not a branch yet, in order: see [`Branches::push_leg`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chain {
    first: u32,
    last: u32,
    count: u8,
}

impl Chain {
    pub(crate) const EMPTY: Chain = Chain { first: NONE, last: NONE, count: 0 };
}

impl Branches {
    /// Appends a leg to a chain.
    #[inline]
    pub(crate) fn push_leg(&mut self, chain: &mut Chain, leg: Leg) {
        let place = if self.free_leg == NONE {
            let place = u32::try_from(self.legs.len()).ok().filter(|&place| place != NONE);
            self.legs.push(leg);
            place.expect("legs in flight are bounded by memory long before")
        } else {
            let place = self.free_leg;
            self.free_leg = self.legs[place as usize].next;
            self.legs[place as usize] = leg;
            place
        };
        if chain.last == NONE {
            chain.first = place;
        } else {
            self.legs[chain.last as usize].next = place;
        }
        chain.last = place;
        chain.count += 1;
    }

    /// Makes a branch of a chain; gives its place.
    #[inline]
    pub(crate) fn insert(&mut self, xid: Xid, deadline_ms: Millis, chain: Chain) -> u32 {
        assert!(chain.count > 0, "a branch has legs");
        let branch = Branch { xid, deadline_ms, first_leg: chain.first, legs: chain.count };
        self.live += 1;
        if self.free_branch == NONE {
            let place = self.rows.len() as u32;
            assert!(place < PLACES_MAX, "the place of a branch has 31 bits");
            self.change(place);
            self.rows.push(branch);
            place
        } else {
            let place = self.free_branch;
            self.change(place);
            self.free_branch = self.rows[place as usize].first_leg;
            self.rows[place as usize] = branch;
            place
        }
    }

    /// Takes a chain apart again.
    pub(crate) fn drop_chain(&mut self, chain: Chain) {
        if chain.count > 0 {
            self.legs[chain.last as usize].next = self.free_leg;
            self.free_leg = chain.first;
        }
    }

    /// Frees a branch whose legs were dealt with.
    #[inline]
    pub(crate) fn remove(&mut self, place: u32) {
        self.change(place);
        let branch = self.rows[place as usize];
        assert!(branch.legs > 0, "only a live branch ends");
        let mut last = branch.first_leg;
        while self.legs[last as usize].next != NONE {
            last = self.legs[last as usize].next;
        }
        self.legs[last as usize].next = self.free_leg;
        self.free_leg = branch.first_leg;
        self.rows[place as usize].legs = 0;
        self.rows[place as usize].first_leg = self.free_branch;
        self.free_branch = place;
        self.live -= 1;
    }

    #[inline]
    pub(crate) fn get(&self, place: u32) -> &Branch {
        let branch = &self.rows[place as usize];
        assert!(branch.legs > 0, "a slot names a live branch");
        branch
    }

    pub(crate) fn legs_count(&self, place: u32) -> usize {
        usize::from(self.get(place).legs)
    }

    /// The legs of a branch, in the order of its Try.
    #[inline]
    pub(crate) fn legs(&self, place: u32) -> impl Iterator<Item = Leg> + '_ {
        chain(&self.legs, self.get(place).first_leg)
    }

    /// The legs of a chain.
    pub(crate) fn chain_legs(&self, of: Chain) -> impl Iterator<Item = Leg> + '_ {
        chain(&self.legs, of.first)
    }

    /// How many are held.
    pub(crate) const fn live(&self) -> usize {
        self.live
    }

    /// The places of all live branches, in no meaningful order.
    pub(crate) fn places(&self) -> impl Iterator<Item = u32> + '_ {
        self.rows.iter().enumerate().filter(|(_, branch)| branch.legs > 0).map(|(place, _)| place as u32)
    }

    /// To be called before a branch is put in a place or taken from it: it is part of the next checkpoint.
    #[inline]
    fn change(&mut self, place: u32) {
        let Self { rows, legs, chunks, .. } = self;
        chunks.change(place, |chunk| copy(rows, legs, chunk));
    }

    /// Copies of what changed, by chunk: see [`Chunks::step`].
    pub(crate) fn copy_changes(&mut self, chunks_max: usize) -> Vec<(u32, HeldCopy)> {
        let Self { rows, legs, chunks, .. } = self;
        let mut copies = chunks.step(chunks_max, |chunk| copy(rows, legs, chunk));
        for (chunk, _) in &mut copies {
            *chunk = self.number(*chunk);
        }
        copies
    }

    /// The number of a chunk in the view: of those that were read, theirs; of later ones, the lowest that are not taken.
    fn number(&self, chunk: u32) -> u32 {
        let Some(later) = (chunk as usize).checked_sub(self.numbers.len()) else {
            return self.numbers[chunk as usize];
        };
        let (mut low, mut high) = (0, self.numbers.len());
        while low < high {
            let middle = low.midpoint(high);
            // So many numbers below this one are not taken.
            if self.numbers[middle] as usize - middle > later {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        (later + low) as u32
    }

    /// While a view is read: the branches of a chunk follow, in a chunk of this table that is still empty. Says no to
    /// numbers that do not rise, or are too large.
    #[must_use]
    pub(crate) fn restore_chunk(&mut self, number: u32) -> bool {
        let rises = self.numbers.last().is_none_or(|&last| number > last);
        if !rises || number >= NUMBERS_MAX {
            return false;
        }
        self.end_chunk();
        self.numbers.push(number);
        true
    }

    /// While a view is read: makes a branch of a chain, after those that are there.
    pub(crate) fn restore(&mut self, xid: Xid, deadline_ms: Millis, chain: Chain) -> u32 {
        let place = self.rows.len() as u32;
        assert!(place < self.numbers.len() as u32 * CHUNK_ROWS as u32, "a chunk has a limit");
        self.rows.push(Branch { xid, deadline_ms, first_leg: chain.first, legs: chain.count });
        self.live += 1;
        place
    }

    /// While a view is read: what the last chunk has no branches for is free.
    pub(crate) fn end_chunk(&mut self) {
        let end = self.numbers.len() * CHUNK_ROWS;
        for place in self.rows.len()..end {
            let free = Branch { xid: Xid::default(), deadline_ms: 0, first_leg: self.free_branch, legs: 0 };
            self.rows.push(free);
            self.free_branch = place as u32;
        }
    }
}

fn chain(legs: &[Leg], first: u32) -> impl Iterator<Item = Leg> + '_ {
    let mut next = first;
    std::iter::from_fn(move || {
        let leg = *legs.get(next as usize)?;
        next = leg.next;
        Some(leg)
    })
}

fn copy(rows: &[Branch], legs: &[Leg], chunk: u32) -> HeldCopy {
    let mut copy = HeldCopy::default();
    for branch in rows[rows_of(chunk, rows.len())].iter().filter(|branch| branch.legs > 0) {
        copy.branches.push(*branch);
        copy.legs.extend(chain(legs, branch.first_leg));
    }
    copy
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insert(branches: &mut Branches, sequence: u64, legs: u32) -> u32 {
        let mut chain = Chain::EMPTY;
        for row in 0..legs {
            branches.push_leg(&mut chain, Leg::new(row, row % 2 == 1, u64::from(row) + sequence));
        }
        branches.insert(Xid { sequence, ..Xid::default() }, 0, chain)
    }

    #[test]
    fn places_are_used_again() {
        let mut branches = Branches::default();
        let first = insert(&mut branches, 10, 3);
        let second = insert(&mut branches, 20, 1);
        let amounts =
            |branches: &Branches, place| branches.legs(place).map(|leg| leg.amount).collect::<Vec<_>>();
        assert_eq!(amounts(&branches, first), [10, 11, 12]);
        branches.remove(first);
        let third = insert(&mut branches, 30, 2);
        assert_eq!(third, first);
        assert_eq!(amounts(&branches, third), [30, 31]);
        assert_eq!(amounts(&branches, second), [20]);
        assert_eq!(branches.live(), 2);
        insert(&mut branches, 40, 1);
        assert_eq!((branches.rows.len(), branches.legs.len()), (3, 4), "nothing grew but for the new branch");
    }

    #[test]
    fn chunks_that_were_read_keep_their_numbers_and_later_ones_take_the_gaps() {
        let mut branches = Branches::default();
        for number in [1, 2, 5] {
            assert!(branches.restore_chunk(number));
        }
        assert!(
            !branches.restore_chunk(5) && !branches.restore_chunk(4) && !branches.restore_chunk(NUMBERS_MAX)
        );
        let numbers: Vec<u32> = (0..8).map(|chunk| branches.number(chunk)).collect();
        assert_eq!(numbers, [1, 2, 5, 0, 3, 4, 6, 7]);
    }

    #[test]
    fn a_copy_has_what_was_held_when_the_checkpoint_began() {
        let mut branches = Branches::default();
        let sequences = |copies: Vec<(u32, HeldCopy)>| -> Vec<(u32, Vec<u64>)> {
            let of = |copy: HeldCopy| copy.branches.iter().map(|branch| branch.xid.sequence).collect();
            copies.into_iter().map(|(chunk, copy)| (chunk, of(copy))).collect()
        };
        let places: Vec<u32> = (0..65).map(|sequence| insert(&mut branches, sequence, 1)).collect();
        branches.chunks.begin();
        branches.remove(places[64]);
        insert(&mut branches, 100, 2);
        let all: Vec<u64> = (0..64).collect();
        assert_eq!(sequences(branches.copy_changes(9)), [(1, vec![64]), (0, all)]);
        branches.chunks.begin();
        assert_eq!(sequences(branches.copy_changes(9)), [(1, vec![100])]);
    }
}
