//! The reservations that are held: branches and their legs, in two tables with free lists, so that a transfer
//! allocates nothing once the tables have grown to the work in flight.

use escrow_types::{Amount, Millis, Xid};

use crate::slot::PLACES_MAX;

/// The end of a list.
const NONE: u32 = u32::MAX;
const CREDIT: u32 = 1 << 31;

/// One reserved branch; also a free place, which has no legs and whose `first_leg` names the next free one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Branch {
    pub(crate) xid: Xid,
    pub(crate) deadline_ms: Millis,
    first_leg: u32,
    legs: u8,
    /// Whether the last checkpoint has it, so that its end must be written too.
    pub(crate) in_view: bool,
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
    /// Ended since the last checkpoint, and part of it.
    ended: Vec<Xid>,
    /// Some live branch may not be part of the last checkpoint.
    has_new: bool,
}

impl Default for Branches {
    fn default() -> Self {
        let (rows, legs, ended) = (Vec::new(), Vec::new(), Vec::new());
        Self { rows, legs, free_branch: NONE, free_leg: NONE, live: 0, ended, has_new: false }
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
        let branch = Branch { xid, deadline_ms, first_leg: chain.first, legs: chain.count, in_view: false };
        self.live += 1;
        self.has_new = true;
        if self.free_branch == NONE {
            let place = self.rows.len() as u32;
            assert!(place < PLACES_MAX, "the place of a branch has 31 bits");
            self.rows.push(branch);
            place
        } else {
            let place = self.free_branch;
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
        let branch = self.rows[place as usize];
        assert!(branch.legs > 0, "only a live branch ends");
        let mut last = branch.first_leg;
        while self.legs[last as usize].next != NONE {
            last = self.legs[last as usize].next;
        }
        self.legs[last as usize].next = self.free_leg;
        self.free_leg = branch.first_leg;
        if branch.in_view {
            self.ended.push(branch.xid);
        }
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
        self.chain(self.get(place).first_leg)
    }

    /// The legs of a chain.
    pub(crate) fn chain_legs(&self, chain: Chain) -> impl Iterator<Item = Leg> + '_ {
        self.chain(chain.first)
    }

    #[inline]
    fn chain(&self, first: u32) -> impl Iterator<Item = Leg> + '_ {
        let mut next = first;
        std::iter::from_fn(move || {
            let leg = *self.legs.get(next as usize)?;
            next = leg.next;
            Some(leg)
        })
    }

    /// How many are held.
    pub(crate) const fn live(&self) -> usize {
        self.live
    }

    /// The places of all live branches, in no meaningful order.
    pub(crate) fn places(&self) -> impl Iterator<Item = u32> + '_ {
        self.rows.iter().enumerate().filter(|(_, branch)| branch.legs > 0).map(|(place, _)| place as u32)
    }

    pub(crate) fn has_changes(&self) -> bool {
        !self.ended.is_empty() || self.has_new
    }

    /// The branches that ended since the last checkpoint, and the places of those that it does not have.
    pub(crate) fn take_dirty(&mut self) -> (Vec<Xid>, Vec<u32>) {
        let mut new = Vec::new();
        if self.has_new {
            for (place, branch) in self.rows.iter_mut().enumerate() {
                if branch.legs > 0 && !branch.in_view {
                    branch.in_view = true;
                    new.push(place as u32);
                }
            }
            self.has_new = false;
        }
        (std::mem::take(&mut self.ended), new)
    }
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
    fn only_the_ends_of_written_branches_are_written() {
        let mut branches = Branches::default();
        let (first, second) = (insert(&mut branches, 1, 1), insert(&mut branches, 2, 1));
        branches.remove(second);
        assert_eq!(branches.take_dirty(), (vec![], vec![first]));
        assert!(!branches.has_changes());
        branches.remove(first);
        assert_eq!(branches.take_dirty().0, [Xid { sequence: 1, ..Xid::default() }]);
    }
}
