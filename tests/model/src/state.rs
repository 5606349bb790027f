//! The whole system at one moment, and the steps that several parts take together.

use crate::canary::Canary;
use crate::config::Config;
use crate::coordinator::{Leader, Log, Phase};
use crate::messages::{Answer, Message, Reply, Request, Say};
use crate::network::Network;
use crate::participant::{Participant, Slot};
use crate::witness::Witness;
use crate::words::{EPOCHS_MAX, Epoch, SHARDS, Shard, Xid};

/// A command that a shard logged and that is not durable yet; and whether the shard refuses it for a reason of its own.
pub type Logged = (Request, bool);

/// Everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct State {
    /// The coordinator's durable log.
    pub log: Log,
    leaders: [Leader; EPOCHS_MAX as usize + 1],
    /// The shards, as of their durable logs.
    pub participants: [Participant; SHARDS],
    /// What each shard's log holds beyond that: lost when it crashes.
    pub journals: [Vec<Logged>; SHARDS],
    /// How often shards have crashed.
    pub shard_crashes: u8,
    /// What is under way.
    pub network: Network,
    /// What was seen.
    pub witness: Witness,
}

impl State {
    /// The leader of an epoch.
    pub fn leader(&self, epoch: Epoch) -> &Leader {
        &self.leaders[usize::from(epoch) - 1]
    }

    /// The leader of an epoch, to change it.
    pub fn leader_mut(&mut self, epoch: Epoch) -> &mut Leader {
        &mut self.leaders[usize::from(epoch) - 1]
    }

    /// The epochs whose leaders are alive.
    pub fn leading(&self) -> impl Iterator<Item = Epoch> {
        (1..=self.log.epoch).filter(|&epoch| self.leader(epoch).alive)
    }

    /// A shard.
    pub fn participant(&self, shard: Shard) -> &Participant {
        &self.participants[usize::from(shard)]
    }

    /// The next epoch is opened, durably, and its leader recovers from the log. What the one before had appended and was
    /// not durable is lost; if it still lives, it lives on with what it knew.
    pub fn lead(&mut self, config: &Config) {
        self.log.epoch += 1;
        let epoch = self.log.epoch;
        *self.leader_mut(epoch) = Leader::recovered(&self.log, config);
    }

    /// The leader dies, and with it everything that was not durable.
    pub fn crash(&mut self, epoch: Epoch) {
        *self.leader_mut(epoch) = Leader::default();
    }

    /// Whether a message of this branch left in this epoch, or may have left in an older one.
    fn sent(network: &Network, leader: Epoch, xid: Xid) -> impl Fn(Shard) -> bool {
        move |shard| {
            xid.epoch < leader
                || network.has(leader, shard, Say::Try(xid))
                || network.has(leader, shard, Say::TryAndConfirm(xid))
        }
    }

    /// The deadline of an undecided transaction passes, or an operator cancels it. A one-phase transaction that was sent
    /// is its participant's to decide.
    pub fn deadline(&mut self, epoch: Epoch, xid: Xid, config: &Config) {
        let sent = Self::sent(&self.network, epoch, xid);
        let may_be_implied = xid.epoch < epoch && config.implies();
        if may_be_implied && !config.breaks(Canary::DeadlineCancelsImplied) {
            self.leaders[usize::from(epoch) - 1].fence(xid);
        } else if !(config.one_phase && sent(0)) {
            self.leaders[usize::from(epoch) - 1].cancel(xid, config, sent);
        }
    }

    /// The next entry of an xid that a leader appended becomes durable.
    pub fn sync(&mut self, epoch: Epoch, xid: Xid, config: &Config) {
        let Some(durable) = self.leader_mut(epoch).synced(xid, config) else { return };
        let before = self.log.of(xid);
        self.witness.deposed_appended |= epoch < self.log.epoch;
        self.witness.decision_changed |=
            before.decision().is_some() && durable.decision() != before.decision();
        self.log.set(xid, durable);
    }

    /// Whether a reply would change anything at the leader. A deposed one cannot make anything durable; all that it can
    /// still do with a reply is to tell the caller of a transaction whose branches decide it.
    fn awaits(&self, to: Epoch, from: Shard, say: Say, config: &Config) -> bool {
        let may_act = to == self.log.epoch || !config.decides_by_log || config.breaks(Canary::DeposedAppends);
        may_act && self.leader(to).awaits(from, say)
    }

    /// A message arrives. `refuse`: the shard has a reason of its own to refuse it.
    pub fn deliver(&mut self, message: &Message, refuse: bool, config: &Config) {
        match message {
            Message::Reply(reply) => {
                if !self.awaits(reply.to, reply.from, reply.say, config) {
                    return;
                }
                if let Some(xid) = reply.say.xid() {
                    let sent = Self::sent(&self.network, reply.to, xid);
                    let leader = &mut self.leaders[usize::from(reply.to) - 1];
                    self.witness.breach |= !leader.hears(reply, config, sent);
                }
            }
            Message::Request(request) if config.journal_max == 0 => {
                self.apply(*request, refuse, true, config);
            }
            Message::Request(request) => {
                self.journals[usize::from(request.to)].push((*request, refuse));
                if config.breaks(Canary::AnswerBeforeDurable) {
                    let mut ahead = self.clone();
                    for (request, refuse) in std::mem::take(&mut ahead.journals[usize::from(request.to)]) {
                        ahead.apply(request, refuse, true, config);
                    }
                    self.network = ahead.network;
                }
            }
        }
    }

    /// The oldest command of a shard's log that is not durable becomes so.
    pub fn store(&mut self, shard: Shard, config: &Config) {
        let (request, refuse) = self.journals[usize::from(shard)].remove(0);
        self.apply(request, refuse, !config.breaks(Canary::AnswerBeforeDurable), config);
    }

    /// A shard dies and is back with what was durable.
    pub fn crash_shard(&mut self, shard: Shard, config: &Config) {
        self.journals[usize::from(shard)].clear();
        self.shard_crashes += 1;
        if config.breaks(Canary::HelloNotLogged) {
            self.participants[usize::from(shard)].epoch = 0;
        }
    }

    /// A command of a shard is durable: it is applied, and only then answered.
    fn apply(&mut self, request: Request, refuse: bool, answer_it: bool, config: &Config) {
        let participant = &mut self.participants[usize::from(request.to)];
        let before = participant.clone();
        let answer = participant.takes(request, refuse, config);
        self.witness.answered(request, &before, answer, &self.log);
        let travels = |answer: &Answer| !matches!(answer, Answer::StaleEpoch | Answer::HelloRequired);
        if let Some(answer) = answer.filter(travels).filter(|_| answer_it)
            && self.awaits(request.from, request.to, request.say, config)
        {
            let reply = Reply { from: request.to, to: request.from, say: request.say, answer };
            self.network.send(Message::Reply(reply));
        }
    }

    /// After every step: leaders send what they owe, callers are told what is certain, and what can have no effect any
    /// more is forgotten.
    pub fn settle_down(&mut self, config: &Config) {
        for epoch in 1..=self.log.epoch {
            let leader = &self.leaders[usize::from(epoch) - 1];
            if !leader.alive {
                continue;
            }
            for shard in config.branches().iter() {
                leader.owes(epoch, shard, config, |request| {
                    if !config.forget_spent || !Self::is_spent(&self.participants, leader, request) {
                        self.network.send(Message::Request(request));
                    }
                });
            }
            for xid in Xid::before(epoch + 1) {
                if let Some(decision) = leader.word(xid, config) {
                    self.witness.told(xid.transaction, decision);
                }
            }
        }
        if config.forget_spent {
            let mut network = std::mem::take(&mut self.network);
            network.retain(|message| match message {
                Message::Request(request) => {
                    !Self::is_spent(&self.participants, self.leader(request.from), *request)
                }
                Message::Reply(reply) => self.awaits(reply.to, reply.from, reply.say, config),
            });
            self.network = network;
        }
    }

    /// Whether a request can have no effect any more, now or later, at the shard or by its reply. That fences and epochs
    /// stand as this takes for granted is what properties 7 and 11 check, of every message that there could be.
    fn is_spent(participants: &[Participant; SHARDS], leader: &Leader, request: Request) -> bool {
        let participant = &participants[usize::from(request.to)];
        if participant.epoch != request.from {
            return participant.epoch > request.from;
        }
        match request.say {
            Say::Hello(_) => true,
            Say::Watermark(xid) => participant.slot(xid) == Slot::Finished,
            say => {
                let fenced = say.xid().is_none_or(|xid| participant.slot(xid).is_fence());
                // A Try of what is reserved has had its effect; Confirm and Cancel have theirs still to come.
                let tried = matches!(say, Say::Try(xid) | Say::TryAndConfirm(xid) | Say::Fence(xid)
                    if participant.slot(xid) != Slot::Unseen);
                (fenced || tried) && !leader.awaits(request.to, say)
            }
        }
    }

    /// Whether every transaction that began has finished, and no shard holds a reservation.
    pub fn is_over(&self, config: &Config) -> bool {
        let leader = self.leader(self.log.epoch);
        let finished = |xid: Xid| matches!(leader.phase(xid), Phase::Unknown | Phase::Finished(_));
        let held = |shard: Shard| Xid::all().any(|xid| self.participant(shard).slot(xid) == Slot::Reserved);
        Xid::all().all(finished) && !config.branches().iter().any(held)
    }
}
