//! Where rows are, by the hash of their key: open addressing, eight bytes a slot.
//!
//! A general table keeps its marks and its values in two places, so that a key that is not there and is then inserted costs two
//! cache misses, in a table of megabytes that is looked at once a transaction. Here both are one word, eight of them to a cache
//! line: what was looked at ahead is inserted without a miss. Nothing is ever removed, but all at once.
//!
//! Must never decide that two keys are equal: it only says where to look, and the caller compares.

/// The position of a row.
pub(super) type Position = u32;

/// No more than this share of the slots is used, in eighths: linear probing gets long beyond.
const FULL_EIGHTHS: usize = 5;
const SLOTS_MIN: usize = 64;

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct KeyIndex {
    /// The upper half of the hash above the position plus one; 0 is free. A power of two of them, or none at all.
    slots: Vec<u64>,
    used: usize,
}

const fn slot_of(hash: u64, position: Position) -> u64 {
    (hash & !0xFFFF_FFFF) | (position as u64 + 1)
}

impl KeyIndex {
    /// Empty, with room for so many rows.
    pub(super) fn with_capacity(rows: usize) -> Self {
        if rows == 0 {
            return Self::default();
        }
        let slots = (rows * 8).div_ceil(FULL_EIGHTHS).next_power_of_two().max(SLOTS_MIN);
        Self { slots: vec![0; slots], used: 0 }
    }

    /// The slots in which a hash may be, in order, up to and with the first free one.
    #[inline]
    fn probe(&self, hash: u64) -> impl Iterator<Item = usize> + use<> {
        let mask = self.slots.len().wrapping_sub(1);
        (0..self.slots.len()).map(move |step| (hash as usize).wrapping_add(step) & mask)
    }

    /// The slot of the row that `is` accepts (`Ok`), or the free one where it would be; `None` where there is no slot at all.
    #[inline]
    fn slot(&self, hash: u64, is: impl Fn(Position) -> bool) -> Option<Result<usize, usize>> {
        for at in self.probe(hash) {
            let slot = self.slots[at];
            if slot == 0 {
                return Some(Err(at));
            }
            let position = (slot as u32).wrapping_sub(1);
            if slot == slot_of(hash, position) && is(position) {
                return Some(Ok(at));
            }
        }
        None
    }

    /// The position of the row with this hash that `is` accepts.
    #[inline]
    pub(super) fn find(&self, hash: u64, is: impl Fn(Position) -> bool) -> Option<Position> {
        let at = self.slot(hash, is)?.ok()?;
        Some((self.slots[at] as u32) - 1)
    }

    /// Puts a row in. It takes the place of the one that `is_same` accepts, if there is one. `hash_of` tells the hashes of all rows
    /// that are in, for when the table grows.
    #[inline]
    pub(super) fn insert(
        &mut self,
        hash: u64,
        position: Position,
        is_same: impl Fn(Position) -> bool,
        hash_of: impl Fn(Position) -> u64,
    ) {
        if self.used * 8 >= self.slots.len() * FULL_EIGHTHS {
            self.grow(hash_of);
        }
        match self.slot(hash, is_same).expect("there are free slots") {
            Ok(at) => self.slots[at] = slot_of(hash, position),
            Err(at) => {
                self.slots[at] = slot_of(hash, position);
                self.used += 1;
            }
        }
    }

    /// Forgets everything; the room stays.
    pub(super) fn clear(&mut self) {
        self.slots.fill(0);
        self.used = 0;
    }

    #[cold]
    fn grow(&mut self, hash_of: impl Fn(Position) -> u64) {
        let mut larger = Self::with_capacity(self.used.max(1) * 2);
        let positions = self.slots.iter().filter(|&&slot| slot != 0).map(|&slot| (slot as u32) - 1);
        for position in positions {
            let hash = hash_of(position);
            let free = larger.probe(hash).find(|&at| larger.slots[at] == 0).expect("there are free slots");
            larger.slots[free] = slot_of(hash, position);
        }
        larger.used = self.used;
        *self = larger;
    }

    /// Only for speed: this hash is looked for next. Many at once cost hardly more than one.
    #[inline]
    pub(super) fn look_ahead(&self, hash: u64) {
        if let Some(at) = self.probe(hash).next() {
            std::hint::black_box(self.slots[at]);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// Few different hashes: every slot is fought for, and equal tags are common.
    fn hash(key: u64) -> u64 {
        (key % 7) << 40 | (key % 5)
    }

    #[test]
    fn it_answers_as_a_map_does_whatever_collides() {
        let mut index = KeyIndex::default();
        let mut expected: HashMap<u64, Position> = HashMap::new();
        let mut keys: Vec<u64> = Vec::new();
        for number in 0..2_000u64 {
            // Every third key comes again.
            let key = if number % 3 == 2 { number / 2 } else { number };
            let position = keys.len() as Position;
            keys.push(key);
            let of = |at: Position| keys[at as usize];
            index.insert(hash(key), position, |at| of(at) == key, |at| hash(of(at)));
            expected.insert(key, position);
        }
        for key in 0..3_000 {
            let found = index.find(hash(key), |at| keys[at as usize] == key);
            assert_eq!(found, expected.get(&key).copied(), "key {key}");
        }
        assert_eq!(index.used, expected.len());
    }

    #[test]
    fn an_empty_index_has_nothing_and_takes_no_memory() {
        let index = KeyIndex::with_capacity(0);
        assert_eq!((index.find(5, |_| true), index.slots.capacity()), (None, 0));
        index.look_ahead(5);
    }

    #[test]
    fn a_cleared_index_is_empty_and_keeps_its_room() {
        let mut index = KeyIndex::with_capacity(100);
        let slots = index.slots.len();
        for round in 0..3 {
            for row in 0..100 {
                assert_eq!(index.find(u64::from(row), |at| at == row), None, "round {round}");
                index.insert(u64::from(row), row, |at| at == row, u64::from);
            }
            index.clear();
        }
        assert_eq!((index.slots.len(), index.used), (slots, 0));
    }

    #[test]
    fn what_room_was_made_for_fits_without_growing() {
        for rows in [1, 63, 64, 1_000] {
            let mut index = KeyIndex::with_capacity(rows);
            let slots = index.slots.len();
            for row in 0..rows as Position {
                index.insert(u64::from(row) << 33, row, |_| false, |_| unreachable!("it does not grow"));
            }
            assert_eq!(index.slots.len(), slots, "{rows}");
        }
    }

    #[test]
    fn it_grows_by_doubling() {
        let (mut index, mut sizes) = (KeyIndex::default(), Vec::new());
        for row in 0..10_000 {
            index.insert(u64::from(row) << 33, row, |_| false, |row| u64::from(row) << 33);
            if sizes.last() != Some(&index.slots.len()) {
                sizes.push(index.slots.len());
            }
        }
        assert_eq!(sizes, [64, 128, 256, 512, 1_024, 2_048, 4_096, 8_192, 16_384]);
    }
}
