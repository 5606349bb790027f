//! Everything that happens by chance, from one seed.

use escrow_journal::storage::SplitMix64;

use crate::time::Time;

/// A stream of choices.
pub(crate) struct Chance(SplitMix64);

impl Chance {
    /// The stream of this name: streams of different names are independent, so that one more choice here changes nothing
    /// there.
    pub(crate) fn new(seed: u64, name: u64) -> Self {
        let mut mixed = SplitMix64::new(seed ^ name.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        mixed.next_u64();
        Self(mixed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// From 0 to below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0.below(bound)
    }

    pub(crate) fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    pub(crate) fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }

    /// True so many times out of a thousand.
    pub(crate) fn permille(&mut self, permille: u64) -> bool {
        self.below(1_000) < permille
    }

    /// From the first to the second, both included.
    pub(crate) fn between(&mut self, least: Time, most: Time) -> Time {
        least + self.below(most - least + 1)
    }

    pub(crate) fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.index(all.len())]
    }
}
