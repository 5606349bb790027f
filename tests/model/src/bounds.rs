//! The configurations that are run, and how many states each of them has.

use clap::ValueEnum;

use crate::config::Config;

/// How much to check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Bound {
    /// Seconds.
    Small,
    /// What every change is checked with: a minute or two.
    Ci,
    /// By hand: a quarter of an hour and some gigabytes.
    Large,
}

/// A configuration, and how many states it has. The number is exact: a change of the model that changes it is seen, and
/// a search that ended early is not taken for a complete one.
#[derive(Debug, Clone, Copy)]
pub struct Counted {
    /// What is run.
    pub config: Config,
    /// How many different states there are.
    pub states: usize,
}

impl Bound {
    /// The configurations.
    pub fn configs(self) -> Vec<Counted> {
        let small = Config::SMALL;
        let one_phase = Config { name: "one-phase", one_phase: true, ..small };
        let shard_crash = Config { name: "shard-crash", shard_crashes: 1, journal_max: 1, ..small };
        let by_log = Config { name: "by-log", decides_by_log: true, ..small };
        let three = Config { name: "three-leaders", epochs: 3, ..small };
        let two = Config { name: "two-transactions", transactions: 2, epochs: 1, ..small };
        let two_crash =
            Config { name: "two-transactions-crash", epochs: 2, deposed: false, refusals: false, ..two };
        let configs = match self {
            Self::Small => vec![
                (small, 58_680),
                (by_log, 31_386),
                (Config { name: "one-phase-kept", forget_spent: false, ..one_phase }, 963),
                (two, 88_355),
            ],
            Self::Ci => vec![
                (Config { name: "small-kept", forget_spent: false, ..small }, 749_933),
                (by_log, 31_386),
                (Config { name: "three-leaders-dead", deposed: false, refusals: false, ..three }, 101_546),
                (Config { name: "three-leaders-by-log", decides_by_log: true, ..three }, 1_614_201),
                (
                    Config {
                        name: "one-phase-three-leaders-kept",
                        epochs: 3,
                        forget_spent: false,
                        ..one_phase
                    },
                    21_331,
                ),
                (shard_crash, 1_305_725),
                (two, 88_355),
                (
                    Config { name: "two-transactions-crash-by-log", decides_by_log: true, ..two_crash },
                    1_399_208,
                ),
            ],
            Self::Large => vec![
                (three, 5_670_278),
                (two_crash, 4_254_400),
                (
                    Config {
                        name: "shard-crash-two-logged-by-log",
                        journal_max: 2,
                        decides_by_log: true,
                        ..shard_crash
                    },
                    15_359_213,
                ),
                (
                    Config {
                        name: "two-transactions-crash-refusals-by-log",
                        refusals: true,
                        decides_by_log: true,
                        ..two_crash
                    },
                    2_710_541,
                ),
            ],
        };
        configs.into_iter().map(|(config, states)| Counted { config, states }).collect()
    }
}
