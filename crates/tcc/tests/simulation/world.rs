//! Everything together, one step at a time, all of it from one seed.

use std::collections::BTreeMap;

use escrow_tcc::driver::{LinkState, Send, TryColumns};
use escrow_tcc::machine::{Decision, Older as _};
use escrow_types::{AccountId, AccountKey, Currency, Epoch, ParticipantId, Partition};
use escrow_wallet::{
    Answers, Command, EndBatch, Hello, OpenAccount, Overdraft, Partial, Sender, TryBatch, Watermark,
};

use crate::checks::Checks;
use crate::coordinator::{Coordinator, routing};
use crate::jobs::{ACCOUNTS, Job};
use crate::network::{Connection, Network, Reply};
use crate::prng::Prng;
use crate::shard::{Effect, Shard};

const PARTITION: Partition = Partition(0);

pub(crate) struct World {
    pub(crate) prng: Prng,
    pub(crate) now: u64,
    pub(crate) coordinator: Coordinator,
    pub(crate) shards: Vec<Shard>,
    pub(crate) network: Network,
    /// The connection to each shard, if there is one.
    pub(crate) current: Vec<Option<Connection>>,
    pub(crate) jobs: Vec<Job>,
    /// Which job a request belongs to, and whether it asked for other content under the same id.
    pub(crate) tags: BTreeMap<u64, (usize, bool)>,
    pub(crate) next_tag: u64,
    pub(crate) checks: Checks,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut prng = Prng(seed);
        let count = 2 + prng.index(2);
        let now = 1_000_000;
        let mut shards: Vec<Shard> = (0..count).map(|_| Shard::default()).collect();
        let routing = routing(count);
        for (index, id) in ACCOUNTS[..7].iter().enumerate() {
            let id = AccountId::new(id).expect("a good id");
            let shard = routing.of(id.key()).expect("there are shards").0;
            let overdraft = if index == 0 { Overdraft::Unlimited } else { Overdraft::Forbidden };
            let mut bytes = Vec::new();
            Command::OpenAccounts(vec![OpenAccount { id, currency: Currency::USD, overdraft }])
                .encode(&mut bytes);
            shards[usize::from(shard)].receive(0, bytes);
        }
        for shard in &mut shards {
            shard.append(now);
            shard.sync();
        }
        let mut world = Self {
            prng,
            now,
            coordinator: Coordinator::new(count, now),
            shards,
            network: Network::default(),
            current: vec![None; count],
            jobs: Vec::new(),
            tags: BTreeMap::new(),
            next_tag: 0,
            checks: Checks::default(),
        };
        for shard in 0..count {
            world.connect(shard);
        }
        world
    }

    /// Steps with faults, then steps without until all is over. How many faults, how slow the coordinator's disk is and how
    /// often it speaks of watermarks differ from seed to seed: some bugs need a lot of one thing and little of another.
    pub(crate) fn run(&mut self, steps: u32) {
        let faults = self.prng.below(4);
        let slowness = [1, 1, 5][self.prng.index(3)];
        let watermarks = [0, 1, 10][self.prng.index(3)];
        for _ in 0..steps {
            self.step(faults, slowness);
            if self.prng.below(100) < watermarks {
                self.coordinator.driver.send_watermark();
            }
            self.take_outputs();
        }
        self.drain();
        self.check_the_end();
    }

    fn step(&mut self, faults: u64, slowness: u64) {
        match self.prng.below(100) {
            0..8 => self.submit_new(),
            8..13 => self.ask_again(),
            13..18 => self.end_a_hold(),
            18..38 if !self.prng.one_in(slowness) => {}
            18..28 => self.append(),
            28..38 => self.coordinator.sync(),
            38..53 => self.deliver(),
            53..66 => self.deliver_back(),
            66..74 => {
                let shard = self.any_shard();
                self.shards[shard].append(self.now);
            }
            74..82 => {
                let shard = self.any_shard();
                self.sync_shard(shard);
            }
            82..89 => self.pass(),
            89..92 => {
                let shard = self.any_shard();
                if self.current[shard].is_none() {
                    self.connect(shard);
                }
            }
            92..94 => self.ask_overdue(),
            94 => self.checkpoint(),
            95 => self.operate(),
            _ if self.prng.below(4) < faults => self.fault(),
            _ => {}
        }
    }

    fn fault(&mut self) {
        let shard = self.any_shard();
        match self.prng.below(8) {
            0 => self.crash_coordinator(),
            1 | 2 => self.crash_shard(shard),
            3 => {
                if let Some(connection) = self.current[shard] {
                    self.network.duplicate(connection);
                }
            }
            _ => self.disconnect(shard),
        }
    }

    fn any_shard(&mut self) -> usize {
        self.prng.index(self.shards.len())
    }

    fn pass(&mut self) {
        self.now += if self.prng.one_in(10) { self.prng.below(800) } else { self.prng.below(30) };
        self.coordinator.driver.tick(self.now);
    }

    // The coordinator.

    fn append(&mut self) {
        let lazy_too = self.prng.one_in(4);
        if let Some(entry) = self.coordinator.append(self.now, lazy_too) {
            self.checks.appended(self.coordinator.driver.machine().epoch(), &entry);
        }
    }

    fn take_outputs(&mut self) {
        let outputs = self.coordinator.driver.take_outputs();
        assert!(!outputs.deposed && outputs.calls.is_empty());
        for (participant, send) in outputs.sends {
            let shard = usize::from(participant.0);
            self.check_send(&send);
            if let Some(connection) = self.current[shard] {
                let epoch = self.coordinator.driver.machine().epoch();
                self.network.send(connection, &command(epoch, send));
            }
        }
        for answer in outputs.answers {
            let (job, other_content) = self.tags[&answer.tag];
            self.told(job, other_content, answer.standing);
        }
    }

    /// Invariant 5, and one-phase after Begin: the machine knows durable entries only.
    fn check_send(&self, send: &Send) {
        let live = self.coordinator.driver.machine().live();
        match send {
            Send::TryAndConfirm(columns) => {
                for &sequence in &columns.sequences {
                    assert!(live.get(columns.epoch, sequence).is_some(), "one-phase before Begin is durable");
                }
            }
            Send::Confirm(columns) => {
                for &sequence in &columns.sequences {
                    let decision = live.get(columns.epoch, sequence).and_then(|live| live.decision);
                    assert_eq!(decision, Some(Decision::Confirm), "invariant 5: sequence {sequence}");
                }
            }
            Send::Cancel(columns) => {
                for &sequence in &columns.sequences {
                    let decision = live.get(columns.epoch, sequence).map(|live| live.decision);
                    let canceled = matches!(decision, None | Some(Some(Decision::Cancel(_))));
                    assert!(canceled, "invariant 5: sequence {sequence} is {decision:?}");
                }
            }
            Send::Try(_) | Send::Watermark { .. } => {}
        }
    }

    fn crash_coordinator(&mut self) {
        for shard in 0..self.shards.len() {
            if let Some(connection) = self.current[shard].take() {
                self.network.reset(connection, &mut self.prng);
            }
        }
        self.coordinator.crash(self.now, &mut self.prng);
        for job in self.jobs.iter().filter(|job| job.reserved || job.told.is_some()) {
            let Coordinator { driver, older, .. } = &self.coordinator;
            assert!(driver.find(older, job.key).is_some(), "invariant 9: {} was acknowledged", job.key);
        }
    }

    fn checkpoint(&mut self) {
        if self.prng.one_in(2) {
            self.coordinator.checkpoint();
        } else {
            let shard = self.any_shard();
            self.shards[shard].checkpoint();
        }
    }

    // Connections.

    fn connect(&mut self, shard: usize) {
        let connection = self.network.connect(shard);
        self.current[shard] = Some(connection);
        let driver = &self.coordinator.driver;
        let unfinished = driver.unfinished_for(ParticipantId(shard as u16));
        let hello = Hello { partition: PARTITION, epoch: driver.machine().epoch(), unfinished };
        self.network.send(connection, &Command::Hello(hello));
    }

    fn disconnect(&mut self, shard: usize) {
        if let Some(connection) = self.current[shard].take() {
            self.network.reset(connection, &mut self.prng);
            let state = if self.prng.one_in(4) { LinkState::Down } else { LinkState::Waiting };
            self.coordinator.driver.set_link(self.now, ParticipantId(shard as u16), state);
        }
    }

    fn deliver(&mut self) {
        if let Some((shard, connection, bytes)) = self.network.deliver(&mut self.prng) {
            self.shards[shard].receive(connection, bytes);
        }
    }

    fn deliver_back(&mut self) {
        let Some((shard, connection, reply)) = self.network.deliver_back(&mut self.prng) else { return };
        if self.current[shard] != Some(connection) {
            return;
        }
        let (driver, id) = (&mut self.coordinator.driver, ParticipantId(shard as u16));
        let (command, answers) = match reply {
            Reply::Overdue(xids) => return driver.asked(id, &xids),
            Reply::Answers(command, answers) => (command, answers),
        };
        if let Answers::Hello { accepted, .. } = answers {
            assert!(accepted, "there is one coordinator");
            return driver.set_link(self.now, id, LinkState::Ready);
        }
        let Some(branches) = answers.branches() else { return };
        let (epoch, sequences, bytes) = (branches.epoch, &branches.sequences, &branches.bytes);
        match command {
            Command::Try(_) => driver.tried(self.now, id, epoch, sequences, bytes),
            Command::TryAndConfirm(_) => driver.tried_and_confirmed(self.now, id, epoch, sequences, bytes),
            Command::Confirm(_) => {
                driver.ended(self.now, id, escrow_tcc::driver::CallKind::Confirm, epoch, sequences, bytes);
            }
            Command::Cancel(_) => {
                driver.ended(self.now, id, escrow_tcc::driver::CallKind::Cancel, epoch, sequences, bytes);
            }
            _ => {}
        }
    }

    // Shards.

    fn sync_shard(&mut self, shard: usize) {
        for effect in self.shards[shard].sync() {
            self.checks.effect(shard, &effect);
            let Effect { connection, command, answers } = effect;
            self.network.reply(connection, Reply::Answers(command, answers));
        }
    }

    fn crash_shard(&mut self, shard: usize) {
        for connection in self.network.of(shard) {
            self.network.reset(connection, &mut self.prng);
        }
        if self.current[shard].take().is_some() {
            self.coordinator.driver.set_link(self.now, ParticipantId(shard as u16), LinkState::Waiting);
        }
        for effect in self.shards[shard].crash(&mut self.prng) {
            self.checks.effect(shard, &effect);
        }
    }

    fn ask_overdue(&mut self) {
        let shard = self.any_shard();
        let overdue = self.shards[shard].wallet.overdue(PARTITION, self.now, None, 100);
        if let Some(connection) = self.current[shard].filter(|_| !overdue.is_empty()) {
            let xids = overdue.iter().map(|view| (view.xid.epoch, view.xid.sequence)).collect();
            self.network.reply(connection, Reply::Overdue(xids));
        }
    }

    // The end.

    /// No more faults, no more requests: everything ends within a bounded number of rounds (invariant 8).
    fn drain(&mut self) {
        for round in 0..400 {
            for shard in 0..self.shards.len() {
                if self.current[shard].is_none() {
                    self.connect(shard);
                }
            }
            for _ in 0..50 {
                self.deliver();
                self.deliver_back();
                self.take_outputs();
            }
            for shard in 0..self.shards.len() {
                self.shards[shard].append(self.now);
                self.sync_shard(shard);
            }
            self.append();
            self.coordinator.sync();
            self.take_outputs();
            self.now += 50;
            self.coordinator.driver.tick(self.now);
            let held: usize = self.shards.iter().map(|shard| shard.wallet.reservations_held()).sum();
            let idle = self.shards.iter().all(Shard::is_idle);
            if round > 20
                && held == 0
                && idle
                && self.coordinator.driver.is_quiet()
                && self.coordinator.is_synced()
            {
                return;
            }
        }
        let held: Vec<_> = self.shards.iter().map(|shard| shard.wallet.reservations(None, 9)).collect();
        panic!("invariant 8: {} in flight, held {held:?}", self.coordinator.driver.in_flight());
    }

    fn check_the_end(&mut self) {
        self.checks.at_the_end();
        self.coordinator.check_replay();
        let mut posted: BTreeMap<AccountKey, i128> = BTreeMap::new();
        for shard in &self.shards {
            shard.check_replay();
            for view in shard.wallet.accounts(0, usize::MAX).0 {
                let key = AccountId::new(&view.id).expect("a good id").key();
                posted.insert(key, i128::from(view.balances[0].posted));
            }
        }
        posted.retain(|_, &mut posted| posted != 0);
        self.checks.posted.retain(|_, &mut posted| posted != 0);
        assert_eq!(posted, self.checks.posted, "balances are what the confirmed branches add up to");
        for job in &self.jobs {
            let Coordinator { driver, older, .. } = &self.coordinator;
            let Some(row) =
                driver.machine().remembered().get(job.key).copied().or_else(|| older.find(job.key))
            else {
                assert!(job.told.is_none() && !job.reserved, "invariant 9: {} is forgotten", job.key);
                continue;
            };
            let outcome = row.outcome().expect("all have ended");
            if let Some(told) = job.told {
                assert_eq!(outcome.decision, told, "invariant 4: {}", job.key);
            }
            let xid = (row.epoch, row.sequence);
            assert!(!outcome.mark.forced || self.checks.forced.contains(&xid), "{xid:?} was never forced");
            let participants = self.checks.begun[&xid].1.participants();
            let posted =
                participants.iter().all(|id| self.checks.confirmed.contains(&(xid, usize::from(id.0))));
            assert_eq!(
                posted,
                outcome.decision == Decision::Confirm,
                "invariant 3: {xid:?} ended {outcome:?}"
            );
        }
    }
}

fn command(sender: Epoch, send: Send) -> Command {
    let sender = Sender::new(PARTITION, sender);
    let tries = |columns: TryColumns| {
        let halves = columns.account_high.iter().zip(&columns.account_low);
        let accounts = halves.map(|(&high, &low)| AccountKey::from_halves(high, low).0).collect();
        let kinds = columns.kinds.as_chunks::<2>().0.iter().map(|&kind| u16::from_le_bytes(kind)).collect();
        let TryColumns { epoch, deadline_ms, sequences, amounts, .. } = columns;
        TryBatch::new(sender, epoch, deadline_ms, sequences, accounts, amounts, kinds).expect("equal columns")
    };
    match send {
        Send::Try(columns) => Command::Try(tries(columns)),
        Send::TryAndConfirm(columns) => Command::TryAndConfirm(tries(columns)),
        Send::Confirm(columns) => {
            let (legs, amounts) = (columns.partial_legs, columns.partial_amounts);
            let partial = (!legs.is_empty()).then_some(Partial { legs, amounts });
            let batch = EndBatch::with_partial(sender, columns.epoch, columns.sequences, partial);
            Command::Confirm(batch.expect("equal columns"))
        }
        Send::Cancel(columns) => {
            Command::Cancel(EndBatch::new(sender, columns.epoch, columns.sequences).expect("not too many"))
        }
        Send::Watermark { epoch, below, except } => {
            Command::Watermark(Watermark { sender, epoch, below, except })
        }
    }
}
