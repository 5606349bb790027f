//! One wallet shard: a mailbox, a log, a [`Wallet`], and a store that its checkpoints go to.

use std::collections::{BTreeMap, VecDeque};

use escrow_types::{Answer, Epoch, Partition, Sequence};
use escrow_wallet::{Answers, Command, Entry, Wallet};

use crate::disk::Disk;
use crate::network::Connection;
use crate::prng::Prng;

/// What applying one command gave, for whoever checks it.
pub(crate) struct Effect {
    pub(crate) connection: Connection,
    pub(crate) command: Command,
    pub(crate) answers: Answers,
}

#[derive(Default)]
pub(crate) struct Shard {
    pub(crate) wallet: Wallet,
    disk: Disk,
    mailbox: Vec<(Connection, Vec<u8>)>,
    /// Whose commands the entries hold that are not applied.
    senders: VecDeque<Vec<Connection>>,
    applied: usize,
    /// The last checkpoint, and how many entries it covers.
    store: BTreeMap<Vec<u8>, Vec<u8>>,
    checkpointed: usize,
}

impl Shard {
    pub(crate) fn receive(&mut self, connection: Connection, command: Vec<u8>) {
        self.mailbox.push((connection, command));
    }

    /// One entry of what is in the mailbox.
    pub(crate) fn append(&mut self, now: u64) {
        if self.mailbox.is_empty() {
            return;
        }
        let mut bytes = Vec::new();
        Entry::begin(now, &mut bytes);
        let mut senders = Vec::new();
        for (connection, command) in self.mailbox.drain(..) {
            bytes.extend(command);
            senders.push(connection);
        }
        self.senders.push_back(senders);
        self.disk.append(bytes);
    }

    /// What was appended is durable, and applied.
    pub(crate) fn sync(&mut self) -> Vec<Effect> {
        self.disk.sync();
        let mut effects = Vec::new();
        for bytes in &self.disk.durable()[self.applied..] {
            let entry = Entry::decode(bytes).expect("as it was encoded");
            let senders = self.senders.pop_front().expect("one list an entry");
            for (command, connection) in entry.commands.into_iter().zip(senders) {
                let stale =
                    sender_epoch(&command).is_some_and(|epoch| Some(epoch) < self.wallet.epoch(Partition(0)));
                let before = stale.then(|| self.wallet.digest());
                let answers = self.wallet.apply(entry.time_ms, &command);
                if let Some(before) = before {
                    assert_eq!(
                        self.wallet.digest(),
                        before,
                        "invariant 11: a deposed epoch changed something"
                    );
                }
                effects.push(Effect { connection, command, answers });
            }
        }
        self.applied = self.disk.durable().len();
        assert!(self.wallet.overdrawn(1).is_empty(), "invariant 2");
        effects
    }

    pub(crate) fn checkpoint(&mut self) {
        for (key, value) in self.wallet.take_changes().records() {
            match value {
                Some(value) => self.store.insert(key, value),
                None => self.store.remove(&key),
            };
        }
        self.checkpointed = self.applied;
    }

    /// The process dies and comes back: from its checkpoint and log, which must be the same as from the whole log. Gives
    /// the effects of entries that were durable but not applied: nobody hears their answers.
    pub(crate) fn crash(&mut self, prng: &mut Prng) -> Vec<Effect> {
        self.mailbox.clear();
        let before = (self.applied, self.wallet.digest());
        self.disk.crash(prng);
        self.senders.truncate(self.disk.appended() - self.applied);
        self.wallet = self.rebuilt(self.applied);
        assert_eq!(self.wallet.digest(), before.1, "invariant 10: checkpoint and log");
        self.sync()
    }

    fn rebuilt(&self, entries: usize) -> Wallet {
        let mut wallet = Wallet::from_view(&self.store).expect("as it was written");
        for bytes in &self.disk.durable()[self.checkpointed..entries] {
            let entry = Entry::decode(bytes).expect("as it was encoded");
            for command in &entry.commands {
                wallet.apply(entry.time_ms, command);
            }
        }
        wallet
    }

    /// Invariant 10: checkpoint and log, and the log alone, give the live state.
    pub(crate) fn check_replay(&self) {
        let mut alone = Wallet::default();
        for bytes in &self.disk.durable()[..self.applied] {
            let entry = Entry::decode(bytes).expect("as it was encoded");
            for command in &entry.commands {
                alone.apply(entry.time_ms, command);
            }
        }
        assert_eq!(alone.digest(), self.wallet.digest(), "invariant 10: the log alone");
        assert_eq!(
            self.rebuilt(self.applied).digest(),
            self.wallet.digest(),
            "invariant 10: checkpoint and log"
        );
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.mailbox.is_empty() && self.senders.is_empty()
    }
}

fn sender_epoch(command: &Command) -> Option<Epoch> {
    match command {
        Command::Try(batch) | Command::TryAndConfirm(batch) => Some(batch.sender.epoch),
        Command::Confirm(batch) | Command::Cancel(batch) => Some(batch.sender.epoch),
        Command::Watermark(watermark) => Some(watermark.sender.epoch),
        Command::Hello(hello) => Some(hello.epoch),
        Command::OpenAccounts(_) | Command::SetFrozen(_) => None,
    }
}

/// The rows of an answer to branches.
pub(crate) fn rows(answers: &Answers) -> Vec<(Epoch, Sequence, Answer)> {
    let branches = answers.branches();
    branches
        .into_iter()
        .flat_map(|rows| rows.iter().map(|(sequence, answer)| (rows.epoch, sequence, answer)))
        .collect()
}
