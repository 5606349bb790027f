//! The hash of 128-bit keys, for tables whose order nobody sees. The same on every run.
//!
//! Callers choose keys: some count in the low half, some in the high one. Both halves reach every bit of the hash
//! (tables use its lowest and its highest bits), or such callers would make every look-up a scan.

use std::hash::{BuildHasherDefault, Hasher};

const MULTIPLIERS: [u64; 2] = [0x9E37_79B9_7F4A_7C15, 0xD6E8_FEB8_6659_FD93];

const fn fold(a: u64, b: u64) -> u64 {
    let product = (a as u128).wrapping_mul(b as u128);
    (product as u64) ^ ((product >> 64) as u64)
}

/// Spreads a key over 64 bits.
pub(crate) const fn spread(key: u128) -> u64 {
    let low = fold(key as u64 ^ 0x243F_6A88_85A3_08D3, MULTIPLIERS[0]);
    fold(low ^ (key >> 64) as u64, MULTIPLIERS[1])
}

/// A hasher for keys that are one `u128`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct KeyHasher(u64);

/// A map by a key that is one `u128`.
pub(crate) type KeyMap<K, V> = hashbrown::HashMap<K, V, BuildHasherDefault<KeyHasher>>;

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = spread((u128::from(self.0) << 64) | u128::from(byte));
        }
    }

    fn write_u128(&mut self, value: u128) {
        self.0 = spread(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys that differ in a few bits only, wherever those are, once all fell into one bucket of a table.
    #[test]
    fn keys_that_count_anywhere_spread_over_buckets_and_tags() {
        for shift in 0..116 {
            let (mut buckets, mut tags, mut places) = (vec![0u32; 4_096], vec![0u32; 128], vec![0u32; 4_096]);
            for number in 0..4_096u128 {
                let hash = spread((number << shift) | (0b11 << 62));
                buckets[hash as usize % 4_096] += 1;
                tags[(hash >> 57) as usize] += 1;
                places[(hash >> 52) as usize] += 1;
            }
            let fullest = (buckets.iter().max().unwrap(), tags.iter().max().unwrap());
            assert!(*fullest.0 <= 16 && *fullest.1 <= 96, "shift {shift}: {fullest:?}");
            assert!(places.iter().all(|&count| count <= 16), "shift {shift}: {:?}", places.iter().max());
        }
    }
}
