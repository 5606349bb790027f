//! One coordinator: a [`Driver`] over a log, with checkpoints, that dies and comes back.

use std::collections::BTreeMap;

use escrow_tcc::driver::{Config, LinkKind, RetryDelays};
use escrow_tcc::machine::{Older, Row};
use escrow_tcc::routing::Routing;
use escrow_tcc::{Driver, Entry, Machine};
use escrow_types::{ParticipantId, TransactionKey};

use crate::disk::Disk;
use crate::prng::Prng;

/// Rows that left the memory at a checkpoint.
#[derive(Default, Clone)]
pub(crate) struct Runs(BTreeMap<TransactionKey, Row>);

impl Older for Runs {
    fn find(&self, key: TransactionKey) -> Option<Row> {
        self.0.get(&key).copied()
    }
}

struct Delays;

impl RetryDelays for Delays {
    fn delay_ms(&mut self, attempt: u32) -> u64 {
        20 << attempt.min(4)
    }
}

pub(crate) struct Coordinator {
    pub(crate) driver: Driver,
    pub(crate) older: Runs,
    shards: usize,
    disk: Disk,
    applied: usize,
    /// The last checkpoint, and how many entries it covers.
    checkpoint: (Vec<u8>, usize),
}

pub(crate) fn config() -> Config {
    Config { default_timeout_ms: 1_000, default_hold_ms: 3_000, stalled_after_ms: 500, ..Config::default() }
}

impl Coordinator {
    pub(crate) fn new(shards: usize, now: u64) -> Self {
        let disk = Disk::default();
        let driver = driver(shards, Machine::new());
        let checkpoint = (Machine::new().to_checkpoint(), 0);
        let mut this = Self { driver, older: Runs::default(), shards, disk, applied: 0, checkpoint };
        this.open(now);
        this
    }

    fn open(&mut self, now: u64) {
        let entry = Entry { time_ms: now, commands: vec![self.driver.open_epoch()] };
        self.disk.append(entry.encode());
        self.sync();
        self.driver.recover();
    }

    /// Appends this turn's entry, and gives it to whoever checks it.
    pub(crate) fn append(&mut self, now: u64, lazy_too: bool) -> Option<Entry> {
        let entry = if lazy_too { self.driver.flush_lazy(now) } else { self.driver.take_entry(now) }?;
        self.disk.append(entry.encode());
        Some(entry)
    }

    pub(crate) fn sync(&mut self) {
        self.disk.sync();
        for bytes in &self.disk.durable()[self.applied..] {
            self.driver.applied(&Entry::decode(bytes).expect("as it was encoded"));
        }
        self.applied = self.disk.durable().len();
    }

    pub(crate) fn checkpoint(&mut self) {
        let rows = self.driver.machine_mut().hand_over();
        self.older.0.extend(rows.finished().map(|row| (row.key, *row)));
        self.checkpoint = (self.driver.machine().to_checkpoint(), self.applied);
    }

    /// The process dies and comes back from its checkpoint and log.
    pub(crate) fn crash(&mut self, now: u64, prng: &mut Prng) {
        self.check_replay();
        self.disk.crash(prng);
        self.applied = self.disk.durable().len();
        let machine = self.rebuilt();
        self.driver = driver(self.shards, machine);
        self.check_replay();
        self.open(now);
    }

    fn rebuilt(&self) -> Machine {
        let (bytes, from) = &self.checkpoint;
        let mut machine = Machine::from_checkpoint(bytes).expect("as it was written");
        for bytes in &self.disk.durable()[*from..self.applied] {
            machine.apply_entry(&Entry::decode(bytes).expect("as it was encoded"));
        }
        machine
    }

    /// Invariant 10: checkpoint and log, and the log alone, give the live state.
    pub(crate) fn check_replay(&self) {
        let mut alone = Machine::forgetful();
        for bytes in &self.disk.durable()[..self.applied] {
            alone.apply_entry(&Entry::decode(bytes).expect("as it was encoded"));
        }
        let live = self.driver.machine().digest();
        assert_eq!(alone.digest(), live, "invariant 10: the log alone");
        assert_eq!(self.rebuilt().digest(), live, "invariant 10: checkpoint and log");
    }

    pub(crate) fn is_synced(&self) -> bool {
        self.applied == self.disk.appended()
    }
}

pub(crate) fn routing(shards: usize) -> Routing {
    Routing::new((0..shards as u16).map(ParticipantId).collect())
}

fn driver(shards: usize, machine: Machine) -> Driver {
    let links = (0..shards as u16).map(|id| (ParticipantId(id), LinkKind::Stream)).collect();
    Driver::new(config(), routing(shards), links, machine, Box::new(Delays))
}
