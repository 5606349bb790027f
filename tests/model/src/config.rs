//! The bound of a run: how many leaders, transactions, crashes; and which rule is broken on purpose.

use crate::canary::Canary;
use crate::words::ShardSet;

/// One configuration. See docs/model.md for those that are run, and their results.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// For people.
    pub name: &'static str,
    /// Leaders, one after the other: 3 means two changes of leader.
    pub epochs: u8,
    /// Callers' transactions, competing for funds that suffice for one at a time.
    pub transactions: u8,
    /// A leader may live on when the next one leads, and still send.
    pub deposed: bool,
    /// Every transaction has a single branch, on A.
    pub one_phase: bool,
    /// A Confirm is always logged before it leaves, as it is where callers decide or external participants take part; else
    /// durable reservations imply it.
    pub decides_by_log: bool,
    /// Shards may refuse a Try for reasons of their own (an account that does not exist, say).
    pub refusals: bool,
    /// How often shards may crash.
    pub shard_crashes: u8,
    /// How many commands a shard's log may hold that are not durable. With 0 a command becomes durable in the step that
    /// logs it, which is the same to everyone else: before it is durable nothing of it is seen.
    pub journal_max: u8,
    /// Messages that can change nothing any more leave the network, so that states differ in what matters only.
    pub forget_spent: bool,
    /// The rule that is broken.
    pub canary: Option<Canary>,
}

impl Config {
    /// The smallest that has all rules: two leaders, one transaction.
    pub const SMALL: Self = Self {
        name: "small",
        epochs: 2,
        transactions: 1,
        deposed: true,
        one_phase: false,
        decides_by_log: false,
        refusals: true,
        shard_crashes: 0,
        journal_max: 0,
        forget_spent: true,
        canary: None,
    };

    /// With a rule broken.
    #[must_use]
    pub const fn breaking(self, canary: Canary) -> Self {
        Self { canary: Some(canary), forget_spent: canary.is_of_coordinator(), ..self }
    }

    /// Whether this rule is broken.
    pub fn breaks(&self, canary: Canary) -> bool {
        self.canary == Some(canary)
    }

    /// Whether reservations on several shards decide.
    pub const fn implies(&self) -> bool {
        !self.one_phase && !self.decides_by_log
    }

    /// The participants of every transaction.
    pub fn branches(&self) -> ShardSet {
        if self.one_phase { ShardSet::A } else { ShardSet::BOTH }
    }
}
