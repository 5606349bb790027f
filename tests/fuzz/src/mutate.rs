//! New inputs from old ones. Deterministic: the same seed gives the same inputs, so that a failure of the short run is one
//! on every machine.
//!
//! Knows nothing of formats. What it does is what breaks decoders: lengths and counts at their limits, columns that
//! no longer agree, pieces of one input in another.

use escrow_journal::storage::SplitMix64;

/// Inputs do not grow beyond this many bytes.
const BYTES_MAX: usize = 64 << 10;
/// At most this many changes at once.
const CHANGES_MAX: u64 = 4;
/// Numbers at which decoders break.
const NUMBERS: [u64; 14] = [
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    (1 << 24) - 1,
    1 << 24,
    0x7FFF_FFFF,
    0xFFFF_FFFF,
    i64::MAX as u64,
    u64::MAX,
];

/// Makes inputs.
#[derive(Debug)]
pub struct Mutator {
    random: SplitMix64,
}

impl Mutator {
    /// The same seed makes the same inputs.
    pub const fn new(seed: u64) -> Self {
        Self { random: SplitMix64::new(seed) }
    }

    /// An input: one of the corpus with some changes, or now and then nothing but noise.
    pub fn next(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        if corpus.is_empty() || self.random.chance(1, 32) {
            return self.noise();
        }
        let mut input = self.pick(corpus).clone();
        for _ in 0..=self.random.below(CHANGES_MAX) {
            self.change(&mut input, corpus);
        }
        input.truncate(BYTES_MAX);
        input
    }

    fn pick<'a>(&mut self, corpus: &'a [Vec<u8>]) -> &'a Vec<u8> {
        &corpus[self.random.below(corpus.len() as u64) as usize]
    }

    fn noise(&mut self) -> Vec<u8> {
        let bytes = self.random.below(64);
        (0..bytes).map(|_| self.random.next_u64() as u8).collect()
    }

    /// A place in the input, which is not empty.
    fn at(&mut self, input: &[u8]) -> usize {
        self.random.below(input.len() as u64) as usize
    }

    fn range(&mut self, input: &[u8]) -> std::ops::Range<usize> {
        let (one, other) = (self.at(input), self.at(input) + 1);
        one.min(other)..one.max(other)
    }

    fn change(&mut self, input: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        if input.is_empty() {
            *input = self.noise();
            return;
        }
        match self.random.below(9) {
            0 => {
                let at = self.at(input);
                input[at] ^= 1 << self.random.below(8);
            }
            1 => {
                let at = self.at(input);
                input[at] = self.random.next_u64() as u8;
            }
            2 | 3 => self.number(input),
            4 => {
                let at = self.at(input);
                input.truncate(at);
            }
            5 => {
                let range = self.range(input);
                input.drain(range);
            }
            6 => {
                let piece = input[self.range(input)].to_vec();
                let at = self.at(input);
                input.splice(at..at, piece);
            }
            7 => {
                let at = self.at(input);
                let noise = self.noise();
                input.splice(at..at, noise);
            }
            _ => {
                let other = self.pick(corpus).clone();
                if !other.is_empty() {
                    let piece = other[self.range(&other)].to_vec();
                    let at = self.at(input);
                    input.truncate(at);
                    input.extend(piece);
                }
            }
        }
    }

    /// Writes a number that breaks decoders, or one near what is there, in 1, 2, 4 or 8 bytes.
    fn number(&mut self, input: &mut [u8]) {
        let width = (1_usize << self.random.below(4)).min(input.len());
        let at = self.random.below((input.len() - width + 1) as u64) as usize;
        let mut bytes = [0; 8];
        bytes[..width].copy_from_slice(&input[at..at + width]);
        let near = u64::from_le_bytes(bytes).wrapping_add(self.random.below(33)).wrapping_sub(16);
        let number = match self.random.below(NUMBERS.len() as u64 * 2) {
            choice if choice < NUMBERS.len() as u64 => NUMBERS[choice as usize],
            _ => near,
        };
        input[at..at + width].copy_from_slice(&number.to_le_bytes()[..width]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_makes_one_run() {
        let corpus = [b"some input".to_vec(), b"another one".to_vec(), vec![]];
        let run = |seed| {
            let mut mutator = Mutator::new(seed);
            (0..1_000).map(|_| mutator.next(&corpus)).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
        assert!(run(1).iter().any(|input| input.starts_with(b"some")));
    }
}
