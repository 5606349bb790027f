//! Chooses the two accounts of each transfer: on different shards for a given share, evenly or with favourites.

use std::sync::Arc;

use clap::ValueEnum;

use super::rng::Rng;

/// How often each account is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Skew {
    /// All alike
    #[default]
    Uniform,
    /// By Zipf's law with exponent 0.99: a few accounts take part in most transfers
    Zipf,
    /// One account, on the first of the shards, is in every transfer: it pays and is paid in turn
    Hot,
}

/// The account of [`Skew::Hot`].
const HOT: Choice = (0, 0);

const ZIPF_EXPONENT: f64 = 0.99;

/// Chooses accounts by their number; accounts of a shard are numbered within it.
#[derive(Debug, Clone)]
pub(super) struct Chooser {
    rng: Rng,
    /// Out of 2^32.
    cross: u64,
    /// How to choose within each shard.
    tables: Arc<[Table]>,
    /// Whether one account is in every transfer.
    is_hot: bool,
    /// Whether the hot account paid last: it does in turn, so that its funds never run out.
    pays: bool,
}

/// An account: its shard's position, and its number there.
pub(super) type Choice = (usize, usize);

impl Chooser {
    /// For shards with so many accounts each (at least two, which the caller has seen to).
    pub(super) fn new(counts: &[usize], cross_percent: u8, skew: Skew, seed: u64) -> Self {
        let cross_percent = if counts.len() < 2 { 0 } else { cross_percent.min(100) };
        let tables = counts.iter().map(|&count| Table::new(count, skew)).collect();
        let cross = (u64::from(cross_percent) << 32) / 100;
        Self { rng: Rng::new(seed), cross, tables, is_hot: skew == Skew::Hot, pays: false }
    }

    /// The same choices by another seed; the tables are shared.
    pub(super) fn with_seed(&self, seed: u64) -> Self {
        Self { rng: Rng::new(seed), ..self.clone() }
    }

    /// Who pays, who is paid; never the same account.
    #[inline]
    pub(super) fn next(&mut self) -> (Choice, Choice) {
        if self.is_hot {
            return self.next_hot();
        }
        let shards = self.tables.len() as u32;
        let from_shard = self.rng.below(shards) as usize;
        let from = self.tables[from_shard].draw(&mut self.rng);
        if self.rng.next() >> 32 < self.cross {
            let step = 1 + self.rng.below(shards - 1) as usize;
            let to_shard = (from_shard + step) % self.tables.len();
            let to = self.tables[to_shard].draw(&mut self.rng);
            return ((from_shard, from), (to_shard, to));
        }
        let table = &self.tables[from_shard];
        let mut to = table.draw(&mut self.rng);
        if to == from {
            to = (from + 1) % table.len();
        }
        ((from_shard, from), (from_shard, to))
    }
}

impl Chooser {
    /// The hot account and another, all others alike.
    fn next_hot(&mut self) -> (Choice, Choice) {
        let other = if self.rng.next() >> 32 < self.cross {
            let shard = 1 + self.rng.below(self.tables.len() as u32 - 1) as usize;
            (shard, self.tables[shard].draw(&mut self.rng))
        } else {
            (HOT.0, 1 + self.rng.below(self.tables[HOT.0].count - 1) as usize)
        };
        self.pays = !self.pays;
        if self.pays { (HOT, other) } else { (other, HOT) }
    }
}

/// Draws numbers by weight in constant time (Walker's alias method); with equal weights there is no table.
#[derive(Debug, Clone)]
struct Table {
    count: u32,
    /// For each number: below which 32-bit draw it stays, and what it becomes otherwise.
    aliases: Vec<(u32, u32)>,
}

impl Table {
    fn new(count: usize, skew: Skew) -> Self {
        let aliases = match skew {
            Skew::Uniform | Skew::Hot => Vec::new(),
            Skew::Zipf => aliases((1..=count).map(|rank| (rank as f64).powf(-ZIPF_EXPONENT)).collect()),
        };
        Self { count: count as u32, aliases }
    }

    const fn len(&self) -> usize {
        self.count as usize
    }

    #[inline]
    fn draw(&self, rng: &mut Rng) -> usize {
        let number = rng.below(self.count);
        match self.aliases.get(number as usize) {
            Some(&(stays_below, otherwise)) if (rng.next() >> 32) as u32 >= stays_below => otherwise as usize,
            _ => number as usize,
        }
    }
}

/// The alias table of some weights.
#[allow(clippy::cast_sign_loss)] // weights are positive
fn aliases(mut weights: Vec<f64>) -> Vec<(u32, u32)> {
    let count = weights.len();
    let mean = weights.iter().sum::<f64>() / count as f64;
    let mut table = vec![(u32::MAX, 0); count];
    let (mut small, mut large): (Vec<usize>, Vec<usize>) =
        (0..count).partition(|&number| weights[number] < mean);
    while let (Some(&poor), Some(&rich)) = (small.last(), large.last()) {
        small.pop();
        table[poor] = ((weights[poor] / mean * f64::from(u32::MAX)) as u32, rich as u32);
        weights[rich] -= mean - weights[poor];
        if weights[rich] < mean {
            large.pop();
            small.push(rich);
        }
    }
    // What is left is the mean, but for rounding.
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crossing(percent: u8, shards: &[usize]) -> usize {
        let mut chooser = Chooser::new(shards, percent, Skew::Uniform, 7);
        (0..10_000)
            .filter(|_| {
                let (from, to) = chooser.next();
                assert_ne!(from, to);
                assert!(from.1 < shards[from.0] && to.1 < shards[to.0]);
                from.0 != to.0
            })
            .count()
    }

    #[test]
    fn the_share_between_shards_is_as_asked() {
        assert_eq!(crossing(100, &[10, 20, 30]), 10_000);
        assert_eq!(crossing(0, &[10, 20, 30]), 0);
        assert!((2_300..2_700).contains(&crossing(25, &[10, 20, 30])));
        assert_eq!(crossing(100, &[10]), 0, "there is no other shard");
    }

    #[test]
    fn the_hot_account_is_in_every_transfer_and_pays_in_turn() {
        let shards = [3, 4, 5];
        let mut chooser = Chooser::new(&shards, 40, Skew::Hot, 7);
        let (mut balance, mut crossing) = (0i64, 0);
        for _ in 0..10_000 {
            let (from, to) = chooser.next();
            assert_ne!(from, to);
            assert!(from.1 < shards[from.0] && to.1 < shards[to.0]);
            assert_eq!(usize::from(from == HOT) + usize::from(to == HOT), 1);
            balance += if from == HOT { -1 } else { 1 };
            assert!((-1..=0).contains(&balance), "its funds stay: {balance}");
            crossing += usize::from(from.0 != to.0);
        }
        assert!((3_700..4_300).contains(&crossing), "{crossing}");
        let mut alone = Chooser::new(&[2], 100, Skew::Hot, 7);
        assert!((0..10).all(|_| alone.next().0.0 == 0), "there is no other shard");
    }

    #[test]
    fn favourites_follow_zipf() {
        let table = Table::new(1_000, Skew::Zipf);
        let mut rng = Rng::new(3);
        let mut counts = vec![0u32; 1_000];
        for _ in 0..100_000 {
            counts[table.draw(&mut rng)] += 1;
        }
        let ratio = f64::from(counts[0]) / f64::from(counts[9]);
        assert!((8.0..12.0).contains(&ratio), "first to tenth: {ratio}");
    }
}
