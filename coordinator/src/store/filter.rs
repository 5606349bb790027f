//! A split-block Bloom filter over transaction keys (Putze, Sanders, Singler 2007; as in Parquet): one cache line a look-up.
//!
//! At 12 bits a key about one look-up in 300 of an absent key says "maybe". Never says "no" of a present key.

use escrow_types::TransactionKey;

const WORDS: usize = 8;
const KEYS_PER_BLOCK: usize = 21;
const SALTS: [u32; WORDS] =
    [0x47b6_137b, 0x4497_4d91, 0x8824_ad5b, 0xa2b7_289d, 0x7054_95c7, 0x2df1_424b, 0x9efc_4947, 0x5c6b_fb31];

/// The filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filter {
    blocks: Vec<[u32; WORDS]>,
}

fn hash(key: TransactionKey) -> u64 {
    let (high, low) = key.halves();
    let mixed = (high.rotate_left(31) ^ low).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    (mixed ^ (mixed >> 32)).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

fn mask(hash: u64) -> [u32; WORDS] {
    SALTS.map(|salt| 1 << ((hash as u32).wrapping_mul(salt) >> 27))
}

impl Filter {
    /// An empty filter with room for so many keys.
    pub(crate) fn with_room_for(keys: usize) -> Self {
        Self { blocks: vec![[0; WORDS]; keys / KEYS_PER_BLOCK + 1] }
    }

    fn block(&self, hash: u64) -> usize {
        ((u128::from(hash) * self.blocks.len() as u128) >> 64) as usize
    }

    /// Adds a key.
    pub(crate) fn insert(&mut self, key: TransactionKey) {
        let hash = hash(key);
        let at = self.block(hash);
        for (word, bit) in self.blocks[at].iter_mut().zip(mask(hash)) {
            *word |= bit;
        }
    }

    /// Whether the key may have been added.
    pub(crate) fn may_hold(&self, key: TransactionKey) -> bool {
        let hash = hash(key);
        self.blocks[self.block(hash)].iter().zip(mask(hash)).all(|(word, bit)| word & bit != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u64) -> TransactionKey {
        // As of UUIDv7s made in one millisecond: only the low bits differ.
        TransactionKey(0x0198_c0de_0000_7abc_8000_0000_0000_0000 | u128::from(number))
    }

    #[test]
    fn present_keys_are_never_denied_and_absent_ones_nearly_always() {
        let mut filter = Filter::with_room_for(20_000);
        for number in 0..20_000 {
            filter.insert(key(number));
        }
        assert!((0..20_000).all(|number| filter.may_hold(key(number))));
        let wrong = (20_000..120_000).filter(|&number| filter.may_hold(key(number))).count();
        assert!(wrong < 1_000, "{wrong} of 100,000 absent keys");
    }
}
