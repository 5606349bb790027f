//! The model as the checker runs it: which steps are possible, and what each does.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use stateright::{Model, Property};

use crate::canary::Canary;
use crate::config::Config;
use crate::coordinator::Phase;
use crate::messages::{Message, Request, Say};
use crate::participant::Slot;
use crate::properties;
use crate::state::State;
use crate::words::{Epoch, Shard, Transaction, Xid, shard_name};

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The next epoch opens.
    Lead,
    /// A leader dies.
    Crash(Epoch),
    /// A caller submits, or asks again under the same id.
    Submit(Epoch, Transaction),
    /// A leader tries a branch.
    Try(Request),
    /// An undecided transaction is canceled by its deadline.
    Deadline(Epoch, Xid),
    /// What a leader appended becomes durable.
    Sync(Epoch, Xid),
    /// A shard's question about an overdue reservation arrives.
    Asked(Epoch, Shard, Xid),
    /// A message arrives.
    Deliver(Message),
    /// A Try arrives that the shard refuses for a reason of its own.
    Refuse(Message),
    /// What a shard logged becomes durable.
    Store(Shard),
    /// A shard dies and is back.
    CrashShard(Shard),
    /// Only with a broken rule: a shard acts by its clock.
    Forget(Shard, Xid, Slot),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Lead => write!(f, "the next epoch opens; its leader recovers from the log"),
            Self::Crash(epoch) => write!(f, "leader {epoch} dies"),
            Self::Submit(epoch, transaction) => {
                let xid = Xid { epoch, transaction };
                write!(
                    f,
                    "a caller submits {} to leader {epoch}, which begins {xid}",
                    transaction_name(transaction)
                )
            }
            Self::Try(request) => write!(f, "sent: {}", Message::Request(request)),
            Self::Deadline(epoch, xid) => {
                let does = if xid.epoch < epoch { "fences" } else { "appends Decide(Cancel) of" };
                write!(f, "deadline: leader {epoch} {does} {xid}")
            }
            Self::Sync(epoch, xid) => write!(f, "durable: what leader {epoch} appended next of {xid}"),
            Self::Asked(epoch, shard, xid) => {
                write!(f, "{} asks leader {epoch} about {xid}; the answer is Cancel", shard_name(shard))
            }
            Self::Deliver(message) => write!(f, "arrives: {message}"),
            Self::Refuse(message) => write!(f, "arrives and is refused: {message}"),
            Self::Store(shard) => write!(f, "durable: what {} logged next", shard_name(shard)),
            Self::CrashShard(shard) => {
                write!(f, "{} dies and is back with what was durable", shard_name(shard))
            }
            Self::Forget(shard, xid, slot) => {
                write!(f, "{} by its clock: {xid} is {slot:?}", shard_name(shard))
            }
        }
    }
}

fn transaction_name(transaction: Transaction) -> char {
    char::from(b'T' + transaction)
}

/// A configuration, with what the checker has found so far.
#[derive(Debug)]
pub struct Escrow {
    /// The bound.
    pub config: Config,
    found: [AtomicBool; properties::ALL.len()],
}

impl Escrow {
    /// The model of a configuration.
    pub fn new(config: Config) -> Self {
        assert!((1..=crate::words::EPOCHS_MAX).contains(&config.epochs), "leaders: 1 to 3");
        assert!((1..=crate::words::TRANSACTIONS_MAX).contains(&config.transactions), "transactions: 1 or 2");
        Self { config, found: Default::default() }
    }

    /// Whether this is the first example of a property. The checker would record every later one too, at the cost of a
    /// path each; and the first that a breadth-first search meets is the shortest.
    pub(crate) fn is_first(&self, property: usize) -> bool {
        !self.found[property].swap(true, Ordering::Relaxed)
    }

    pub(crate) fn is_found(&self, property: usize) -> bool {
        self.found[property].load(Ordering::Relaxed)
    }

    fn leader_actions(&self, state: &State, epoch: Epoch, actions: &mut Vec<Action>) {
        let (config, leader) = (&self.config, state.leader(epoch));
        let appends = epoch == state.log.epoch || config.breaks(Canary::DeposedAppends);
        actions.push(Action::Crash(epoch));
        for transaction in 0..config.transactions {
            if !leader.knows(epoch, transaction, config) {
                actions.push(Action::Submit(epoch, transaction));
            }
        }
        for xid in Xid::before(epoch + 1).filter(|xid| xid.transaction < config.transactions) {
            let phase = leader.phase(xid);
            for shard in config.branches().iter() {
                if let Some(say) = leader.tries(xid, shard, config) {
                    actions.push(Action::Try(Request { from: epoch, to: shard, say }));
                }
                // It may have asked while it still held what it holds no more.
                let slot = state.participant(shard).slot(xid);
                let may_ask =
                    matches!(slot, Slot::Reserved | Slot::Confirmed | Slot::Canceled | Slot::Finished);
                if may_ask
                    && !config.breaks(Canary::NoHelloNoQuestions)
                    && leader.is_asked(epoch, xid).is_some()
                {
                    actions.push(Action::Asked(epoch, shard, xid));
                }
            }
            // What a deposed leader appends is lost, and what it decides leads nowhere.
            if appends {
                if matches!(phase, Phase::Trying { .. }) {
                    actions.push(Action::Deadline(epoch, xid));
                }
                if leader.clone().synced(xid, config).is_some() {
                    actions.push(Action::Sync(epoch, xid));
                }
            }
        }
    }

    fn shard_actions(&self, state: &State, shard: Shard, actions: &mut Vec<Action>) {
        let journal = &state.journals[usize::from(shard)];
        if !journal.is_empty() {
            actions.push(Action::Store(shard));
        }
        // If everything is durable a crash changes nothing, but what a broken rule did not log.
        let loses = !journal.is_empty() || self.config.breaks(Canary::HelloNotLogged);
        if loses && state.shard_crashes < self.config.shard_crashes {
            actions.push(Action::CrashShard(shard));
        }
        for xid in Xid::all() {
            let slot = state.participant(shard).slot(xid);
            if self.config.breaks(Canary::ExpiresByItself) && slot == Slot::Reserved {
                actions.push(Action::Forget(shard, xid, Slot::Canceled));
            }
            if self.config.breaks(Canary::FenceDroppedByAge) && slot.is_fence() && slot != Slot::Finished {
                actions.push(Action::Forget(shard, xid, Slot::Unseen));
            }
        }
    }
}

impl Model for Escrow {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::default()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let (config, epoch) = (&self.config, state.log.epoch);
        if epoch < config.epochs && (epoch == 0 || config.deposed || !state.leader(epoch).alive) {
            actions.push(Action::Lead);
        }
        for epoch in state.leading() {
            self.leader_actions(state, epoch, actions);
        }
        for shard in config.branches().iter() {
            self.shard_actions(state, shard, actions);
        }
        for message in state.network.iter() {
            let Message::Request(request) = message else {
                actions.push(Action::Deliver(*message));
                continue;
            };
            let journal = &state.journals[usize::from(request.to)];
            if config.journal_max > 0 && journal.len() >= usize::from(config.journal_max) {
                continue;
            }
            actions.push(Action::Deliver(*message));
            let slot = request.say.xid().map(|xid| state.participant(request.to).slot(xid));
            let is_new =
                matches!(request.say, Say::Try(_) | Say::TryAndConfirm(_)) && slot == Some(Slot::Unseen);
            if config.refusals && is_new {
                actions.push(Action::Refuse(*message));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let (config, mut state) = (&self.config, last.clone());
        match action {
            Action::Lead => state.lead(config),
            Action::Crash(epoch) => state.crash(epoch),
            Action::Submit(epoch, transaction) => state.leader_mut(epoch).begin(Xid { epoch, transaction }),
            Action::Try(request) => state.network.send(Message::Request(request)),
            Action::Deadline(epoch, xid) => state.deadline(epoch, xid, config),
            Action::Sync(epoch, xid) => state.sync(epoch, xid, config),
            Action::Asked(epoch, shard, xid) => {
                let say = state.leader(epoch).is_asked(epoch, xid)?;
                state.network.send(Message::Request(Request { from: epoch, to: shard, say }));
            }
            Action::Deliver(message) => state.deliver(&message, false, config),
            Action::Refuse(message) => state.deliver(&message, true, config),
            Action::Store(shard) => state.store(shard, config),
            Action::CrashShard(shard) => state.crash_shard(shard, config),
            Action::Forget(shard, xid, slot) => state.participants[usize::from(shard)].forgets(xid, slot),
        }
        state.settle_down(config);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::of(&self.config)
    }
}
