//! How long work waits for a group's log: a server that takes everything that has arrived, needs a fixed time for the write and
//! a little for each row, and gathers the next batch meanwhile. That is how owners and journals work.
//!
//! Arrivals are Poisson. Real callers are burstier, so these waits are the least to expect.

use crate::random::Random;

/// One log. Times in seconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Log {
    /// Of a write, whatever is in it: sync, and the way to a majority.
    pub(crate) write: f64,
    /// Of each row.
    pub(crate) row: f64,
    /// Rows in a batch at most.
    pub(crate) batch_max: usize,
}

impl Log {
    /// Rows a second that keep it busy to this share, if batches may grow.
    pub(crate) fn arrivals(&self, utilisation: f64) -> f64 {
        utilisation / self.row
    }

    /// The mean time of a batch when batches may grow: in it as many rows arrive as the next one has, so T = write + row × rate × T.
    pub(crate) fn cycle(&self, utilisation: f64) -> f64 {
        self.write / (1.0 - utilisation)
    }

    /// The mean time of a row from its arrival until it is durable: the rest of the batch under way, and its own.
    #[cfg(test)]
    fn mean(&self, utilisation: f64) -> f64 {
        1.5 * self.cycle(utilisation)
    }

    /// How long each of so many rows took, from arrival until durable; sorted. The first tenth is left out: the queue was empty.
    pub(crate) fn run(&self, arrivals: f64, rows: usize, random: &mut Random) -> Vec<f64> {
        let mut arrived = Vec::with_capacity(rows);
        let mut at = 0.0;
        for _ in 0..rows {
            at += random.exponential(1.0 / arrivals);
            arrived.push(at);
        }
        let mut took = Vec::with_capacity(rows);
        let (mut free, mut next) = (0.0_f64, 0);
        while next < rows {
            let start = free.max(arrived[next]);
            let waiting = arrived[next..].iter().take(self.batch_max).take_while(|at| **at <= start).count();
            free = start + self.write + self.row * waiting as f64;
            took.extend(arrived[next..next + waiting].iter().map(|at| free - at));
            next += waiting;
        }
        let mut took = took.split_off(rows / 10);
        took.sort_by(f64::total_cmp);
        took
    }
}

/// The mean wait of an M/D/1 queue (Pollaczek and Khinchine): one row at a time, each of the same length.
#[cfg(test)]
fn wait_one_by_one(service: f64, utilisation: f64) -> f64 {
    utilisation * service / (2.0 * (1.0 - utilisation))
}

/// Of sorted values.
pub(crate) fn percentile(sorted: &[f64], share: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * share) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean(values: &[f64]) -> f64 {
        values.iter().sum::<f64>() / values.len() as f64
    }

    fn is_near(found: f64, expected: f64, share: f64) {
        assert!((found - expected).abs() < expected * share, "{found}, expected {expected}");
    }

    #[test]
    fn one_by_one_it_is_an_m_d_1_queue() {
        let log = Log { write: 0.001, row: 0.0, batch_max: 1 };
        for utilisation in [0.3, 0.5, 0.7, 0.9] {
            let took = log.run(utilisation / log.write, 2_000_000, &mut Random::new(7));
            is_near(mean(&took) - log.write, wait_one_by_one(log.write, utilisation), 0.03);
        }
    }

    #[test]
    fn batches_that_grow_take_as_long_as_calculated() {
        let log = Log { write: 0.000_5, row: 0.000_002, batch_max: usize::MAX };
        for utilisation in [0.5, 0.7, 0.9] {
            let took = log.run(log.arrivals(utilisation), 2_000_000, &mut Random::new(7));
            is_near(mean(&took), log.mean(utilisation), 0.03);
        }
    }

    #[test]
    fn with_batches_nothing_waits_as_long_as_without() {
        // The same write for each row alone: more than 2,000 a second would wait for ever.
        let log = Log { write: 0.000_5, row: 0.000_002, batch_max: usize::MAX };
        let took = log.run(200_000.0, 500_000, &mut Random::new(7));
        assert!(percentile(&took, 0.999) < 0.003, "{}", percentile(&took, 0.999));
    }

    #[test]
    fn one_seed_is_one_run() {
        let log = Log { write: 0.001, row: 0.000_01, batch_max: usize::MAX };
        let run = |seed| log.run(50_000.0, 1_000, &mut Random::new(seed));
        assert_eq!(run(3), run(3));
        assert_ne!(run(3), run(4));
    }
}
