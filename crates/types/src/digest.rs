//! An order-independent digest of a state: the wrapping sum of a 128-bit hash of every element.
//!
//! Two states are equal when they hold the same elements, in whatever order a table keeps them; adding and removing
//! an element costs the same as hashing it. The idea is that of incremental multiset hashing (Clarke et al., 2003),
//! here with a fast mixing function: it finds faults, it does not resist an adversary.

use std::fmt;

/// The digest of a set of elements. `Default` is that of the empty set.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Digest(pub u128);

const MULTIPLIERS: [u64; 2] = [0x9E37_79B9_7F4A_7C15, 0xD6E8_FEB8_6659_FD93];

const fn fold(a: u64, b: u64) -> u64 {
    let product = (a as u128).wrapping_mul(b as u128);
    (product as u64) ^ ((product >> 64) as u64)
}

impl Digest {
    /// The hash of one element, given as words. The first word should name the kind of element.
    #[inline]
    pub fn of(words: &[u64]) -> Self {
        let (mut low, mut high) = (0x243F_6A88_85A3_08D3_u64, 0x1319_8A2E_0370_7344_u64);
        for &word in words {
            low = fold(low ^ word, MULTIPLIERS[0]).wrapping_add(high);
            high = fold(high.rotate_left(23) ^ word, MULTIPLIERS[1]) ^ low;
        }
        low = fold(low ^ words.len() as u64, MULTIPLIERS[1]);
        high = fold(high ^ low, MULTIPLIERS[0]);
        Self((u128::from(high) << 64) | u128::from(low))
    }

    /// The hash of an element that is a string, under a kind.
    pub fn of_text(kind: u64, text: &str) -> Self {
        let mut words = vec![kind];
        words.extend(text.as_bytes().chunks(8).map(|chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_le_bytes(word)
        }));
        words.push(text.len() as u64);
        Self::of(&words)
    }

    /// Adds an element.
    pub fn add(&mut self, element: Digest) {
        self.0 = self.0.wrapping_add(element.0);
    }

    /// Takes an element out again.
    pub fn remove(&mut self, element: Digest) {
        self.0 = self.0.wrapping_sub(element.0);
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_does_not_matter_and_content_does() {
        let (a, b) = (Digest::of(&[1, 2]), Digest::of(&[2, 1]));
        assert_ne!(a, b);
        let (mut ab, mut ba) = (Digest::default(), Digest::default());
        ab.add(a);
        ab.add(b);
        ba.add(b);
        ba.add(a);
        assert_eq!(ab, ba);
        ab.remove(b);
        assert_eq!(ab, a);
    }

    #[test]
    fn one_bit_changes_many() {
        for bit in 0..64 {
            let difference = Digest::of(&[7, 0]).0 ^ Digest::of(&[7, 1 << bit]).0;
            assert!(difference.count_ones() > 32, "bit {bit}: {}", difference.count_ones());
        }
    }

    #[test]
    fn lengths_are_told_apart() {
        assert_ne!(Digest::of(&[]), Digest::of(&[0]));
        assert_ne!(Digest::of_text(1, "a"), Digest::of_text(1, "a\0"));
    }
}
