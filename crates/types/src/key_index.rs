//! Where rows are, by the hash of their key: open addressing, eight bytes a slot.
//!
//! A general table keeps its marks and its values in two places, so that a key that is not there and is then inserted costs two
//! cache misses, in a table of megabytes that is looked at once a transaction. Here both are one word, eight of them to a cache
//! line: what was looked at ahead is inserted without a miss. Nothing is ever removed, but all at once. The highest bits of a
//! hash say where it belongs, and are kept: a table that grows goes through its own slots in order, and reads no row.
//!
//! Must never decide that two keys are equal: it only says where to look, and the caller compares.

/// The position of a row.
type Position = u32;

/// No more than this share of the slots is used, in eighths: linear probing gets long beyond.
const FULL_EIGHTHS: usize = 5;
const SLOTS_MIN: usize = 64;

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct KeyIndex {
    /// The upper half of the hash above the position plus one; 0 is free. A power of two of them, up to 2^32, or none at all.
    slots: Vec<u64>,
    used: usize,
    /// The place of a hash is what is left when it is shifted by so much.
    shift: u32,
}

const fn slot_of(hash: u64, position: Position) -> u64 {
    (hash & !0xFFFF_FFFF) | (position as u64 + 1)
}

impl KeyIndex {
    /// Empty, with room for so many rows.
    pub fn with_capacity(rows: usize) -> Self {
        if rows == 0 {
            return Self::default();
        }
        let slots = (rows * 8).div_ceil(FULL_EIGHTHS).next_power_of_two().max(SLOTS_MIN);
        assert!(slots as u64 <= 1 << 32, "a slot keeps 32 bits of a hash, which say where it belongs");
        Self { slots: vec![0; slots], used: 0, shift: u64::BITS - slots.ilog2() }
    }

    /// The slots in which a hash may be, in order. Only its upper half counts.
    #[inline]
    fn probe(&self, hash: u64) -> impl Iterator<Item = usize> + use<> {
        let mask = self.slots.len().wrapping_sub(1);
        let first = hash.unbounded_shr(self.shift) as usize;
        (0..self.slots.len()).map(move |step| first.wrapping_add(step) & mask)
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
    pub fn find(&self, hash: u64, is: impl Fn(Position) -> bool) -> Option<Position> {
        let at = self.slot(hash, is)?.ok()?;
        Some((self.slots[at] as u32) - 1)
    }

    /// Puts a row in. It takes the place of the one that `is_same` accepts, if there is one.
    #[inline]
    pub fn insert(&mut self, hash: u64, position: Position, is_same: impl Fn(Position) -> bool) {
        if self.used * 8 >= self.slots.len() * FULL_EIGHTHS {
            self.grow();
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
    pub fn clear(&mut self) {
        self.slots.fill(0);
        self.used = 0;
    }

    #[cold]
    fn grow(&mut self) {
        let mut larger = Self::with_capacity(self.used.max(1) * 2);
        for &slot in self.slots.iter().filter(|&&slot| slot != 0) {
            let free = larger.probe(slot).find(|&at| larger.slots[at] == 0).expect("there are free slots");
            larger.slots[free] = slot;
        }
        larger.used = self.used;
        *self = larger;
    }

    /// Only for speed: this hash is looked for next. Many at once cost hardly more than one.
    #[inline]
    pub fn look_ahead(&self, hash: u64) {
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
        // Some belong at the end of the table, and go on at its beginning.
        (key % 7 + 9) << 60 | (key % 5) << 32
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
            index.insert(hash(key), position, |at| of(at) == key);
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
                index.insert(u64::from(row), row, |at| at == row);
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
                index.insert(u64::from(row) << 33, row, |_| false);
            }
            assert_eq!(index.slots.len(), slots, "{rows}");
        }
    }

    #[test]
    fn it_grows_by_doubling() {
        let (mut index, mut sizes) = (KeyIndex::default(), Vec::new());
        for row in 0..10_000 {
            index.insert(u64::from(row).rotate_right(10), row, |_| false);
            if sizes.last() != Some(&index.slots.len()) {
                sizes.push(index.slots.len());
            }
        }
        assert_eq!(sizes, [64, 128, 256, 512, 1_024, 2_048, 4_096, 8_192, 16_384]);
        for row in 0..10_000 {
            assert_eq!(index.find(u64::from(row).rotate_right(10), |at| at == row), Some(row));
        }
    }
}
