//! The coordinator: its log, and its leaders, one an epoch.
//!
//! The log is what is durable. A leader's phase of an xid says what it knows and also what it has appended that is not
//! durable yet ([`Leader::synced`] makes that durable, step by step); when it dies or is deposed, that suffix is lost.
//! The suffixes of different xids become durable in any order here: more crash states than the one log of a real
//! coordinator has, never fewer.
//!
//! A leader must never send a phase-2 message, or tell a caller, before the decision is durable, or implied: Begin is durable and
//! every branch has said that it is reserved, which it says only when that is durable.

use crate::canary::Canary;
use crate::config::Config;
use crate::messages::{Answer, Reply, Request, Say};
use crate::words::{Decision, Epoch, Shard, ShardSet, Transaction, XIDS, Xid, XidSet};

/// What the log has of an xid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Durable {
    /// Nothing: if its epoch is over, it never began.
    #[default]
    Nothing,
    /// `Begin`.
    Begun,
    /// `Decide`.
    Decided(Decision),
    /// `Finish`.
    Finished(Decision),
}

impl Durable {
    /// The decision, once it is made.
    pub fn decision(self) -> Option<Decision> {
        match self {
            Self::Decided(decision) | Self::Finished(decision) => Some(decision),
            Self::Nothing | Self::Begun => None,
        }
    }
}

/// The durable log of the coordinator.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Log {
    /// The newest `OpenEpoch`. Durable before any message bears it.
    pub epoch: Epoch,
    entries: [Durable; XIDS],
}

impl Log {
    /// What it has of an xid.
    pub fn of(&self, xid: Xid) -> Durable {
        self.entries[xid.index()]
    }

    /// An entry becomes durable.
    pub fn set(&mut self, xid: Xid, durable: Durable) {
        self.entries[xid.index()] = durable;
    }
}

/// How far an xid is, as a leader sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Phase {
    /// Not begun.
    #[default]
    Unknown,
    /// Trys are out. `begun`: `Begin` is durable. `reserved`: who said so.
    Trying {
        /// `Begin` is durable.
        begun: bool,
        /// Who said `RESERVED`.
        reserved: ShardSet,
        /// It was left over and its time is up: whoever has not reserved is fenced.
        fencing: bool,
    },
    /// `Decide` is appended, or all is reserved and `Begin` not durable yet. Nothing else may decide.
    Deciding {
        /// `Begin` is durable.
        begun: bool,
        /// The decision that is not durable yet.
        decision: Decision,
        /// Whom it will be sent to.
        open: ShardSet,
    },
    /// The decision is durable, or implied; phase 2 is out.
    Ending {
        /// The decision.
        decision: Decision,
        /// Who has not acknowledged it.
        open: ShardSet,
        /// `Decide` is durable; else it may be logged still, or never.
        logged: bool,
    },
    /// All have acknowledged; `Finish` is appended.
    Landed(Decision),
    /// `Finish` is durable.
    Finished(Decision),
}

/// The leader of one epoch.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Leader {
    /// It runs. A dead one has forgotten everything.
    pub alive: bool,
    phases: [Phase; XIDS],
}

impl Leader {
    /// Recovery: what the log says, and nothing else.
    pub fn recovered(log: &Log, config: &Config) -> Self {
        let mut leader = Self { alive: true, ..Self::default() };
        for xid in Xid::all() {
            let open = config.branches();
            leader.phases[xid.index()] = match log.of(xid) {
                Durable::Nothing => Phase::Unknown,
                Durable::Begun => Phase::Trying { begun: true, reserved: ShardSet::NONE, fencing: false },
                Durable::Decided(_) if config.breaks(Canary::RecoveryForgetsDecided) => Phase::Unknown,
                Durable::Decided(_) if config.breaks(Canary::RecoveryDecidesAgain) => {
                    Phase::Trying { begun: true, reserved: ShardSet::NONE, fencing: false }
                }
                Durable::Decided(decision) => Phase::Ending { decision, open, logged: true },
                Durable::Finished(decision) => Phase::Finished(decision),
            };
        }
        leader
    }

    /// How far an xid is.
    pub fn phase(&self, xid: Xid) -> Phase {
        self.phases[xid.index()]
    }

    /// What a caller who asks is told: only what cannot change any more.
    pub fn word(&self, xid: Xid, config: &Config) -> Option<Decision> {
        match self.phase(xid) {
            Phase::Ending { decision, .. } | Phase::Landed(decision) | Phase::Finished(decision) => {
                Some(decision)
            }
            Phase::Deciding { decision, .. } if config.breaks(Canary::ToldBeforeDurable) => Some(decision),
            Phase::Unknown | Phase::Trying { .. } | Phase::Deciding { .. } => None,
        }
    }

    /// Whether a caller's transaction is known: then it is answered as before and not begun again.
    pub fn knows(&self, own: Epoch, transaction: Transaction, config: &Config) -> bool {
        let first = if config.breaks(Canary::RetryGetsNewXid) { own } else { 1 };
        (first..=own).any(|epoch| self.phase(Xid { epoch, transaction }) != Phase::Unknown)
    }

    /// Appends `Begin`; nobody waits for it.
    pub fn begin(&mut self, xid: Xid) {
        self.phases[xid.index()] = Phase::Trying { begun: false, reserved: ShardSet::NONE, fencing: false };
    }

    /// What it may send to try a branch.
    pub fn tries(&self, xid: Xid, shard: Shard, config: &Config) -> Option<Say> {
        match self.phase(xid) {
            // No later decision protects a one-phase transaction: its Begin is durable first.
            Phase::Trying { begun, .. } if config.one_phase => {
                (begun || config.breaks(Canary::TryAndConfirmBeforeBegin)).then_some(Say::TryAndConfirm(xid))
            }
            Phase::Trying { reserved, fencing, .. } => {
                let say = if fencing { Say::Fence(xid) } else { Say::Try(xid) };
                (!reserved.has(shard)).then_some(say)
            }
            _ => None,
        }
    }

    /// What it owes to a shard, and sends until it has its effect: hello, phase 2, watermark.
    pub fn owes(&self, own: Epoch, to: Shard, config: &Config, mut send: impl FnMut(Request)) {
        let mut say = |say| send(Request { from: own, to, say });
        if !(config.breaks(Canary::NoHello) || config.breaks(Canary::NoHelloNoQuestions)) {
            say(Say::Hello(self.unfinished(own, config)));
        }
        for xid in Xid::before(own + 1) {
            match self.phase(xid) {
                Phase::Ending { decision, open, .. } if open.has(to) => say(end(xid, decision)),
                Phase::Deciding { decision, open, .. }
                    if config.breaks(Canary::PhaseTwoBeforeDurable) && open.has(to) =>
                {
                    say(end(xid, decision));
                }
                Phase::Finished(_) => say(Say::Watermark(xid)),
                Phase::Landed(_) if config.breaks(Canary::WatermarkBeforeFinish) => say(Say::Watermark(xid)),
                Phase::Trying { begun: true, .. } | Phase::Ending { .. }
                    if config.breaks(Canary::WatermarkPassesUnfinished) =>
                {
                    say(Say::Watermark(xid));
                }
                _ => {}
            }
        }
    }

    /// What a hello names: older xids that have not finished.
    fn unfinished(&self, own: Epoch, config: &Config) -> XidSet {
        let unfinished = |xid: &Xid| !matches!(self.phase(*xid), Phase::Unknown | Phase::Finished(_));
        Xid::before(own).filter(|xid| unfinished(xid) && !config.breaks(Canary::HelloNamesNothing)).collect()
    }

    /// A shard asks about a reservation past its deadline. Of what the leader has unfinished, the answer is what it owes
    /// anyway, or nothing; what it does not know never began: Cancel. What has finished is answered so too, and that
    /// changes nothing.
    pub fn is_asked(&self, own: Epoch, xid: Xid) -> Option<Say> {
        let unknown = match self.phase(xid) {
            Phase::Unknown => xid.epoch < own,
            Phase::Finished(_) => true,
            _ => false,
        };
        unknown.then_some(Say::Cancel(xid))
    }

    /// Whether a reply to this would change anything.
    pub fn awaits(&self, from: Shard, say: Say) -> bool {
        let Some(xid) = say.xid().filter(|_| self.alive) else { return false };
        match (self.phase(xid), say) {
            (Phase::Trying { reserved, .. }, Say::Try(_) | Say::Fence(_)) => !reserved.has(from),
            (Phase::Trying { .. }, Say::TryAndConfirm(_)) => true,
            (Phase::Ending { decision, open, .. }, asked) => asked == end(xid, decision) && open.has(from),
            _ => false,
        }
    }

    /// A reply that is awaited. `sent` says whether anything for this branch ever left in this epoch, or may have left in
    /// an older one. False: the answer is a breach of contract, and somebody must look.
    #[must_use]
    pub fn hears(&mut self, reply: &Reply, config: &Config, sent: impl Fn(Shard) -> bool) -> bool {
        let Some(xid) = reply.say.xid() else { return true };
        let mut breach = false;
        let phase = match (self.phase(xid), reply.say, reply.answer) {
            // The participant's durable answer is the decision.
            (_, Say::TryAndConfirm(_), Answer::Confirmed) => Phase::Landed(Decision::Confirm),
            (_, Say::TryAndConfirm(_), Answer::Rejected | Answer::TryAfterCancel | Answer::Canceled) => {
                Phase::Landed(Decision::Cancel)
            }
            (Phase::Trying { begun, reserved, fencing }, Say::Try(_) | Say::Fence(_), Answer::Reserved) => {
                let (reserved, decision) = (reserved.with(reply.from), Decision::Confirm);
                let is_implied = begun || config.breaks(Canary::ImpliedBeforeBegin);
                if reserved != config.branches() {
                    Phase::Trying { begun, reserved, fencing }
                } else if config.decides_by_log || !is_implied {
                    Phase::Deciding { begun, decision, open: reserved }
                } else {
                    Phase::Ending { decision, open: reserved, logged: false }
                }
            }
            (Phase::Trying { .. }, Say::Try(_) | Say::Fence(_), Answer::Rejected) => {
                // A branch that rejected holds nothing and is not asked again.
                return self.cancel(xid, config, |shard| shard != reply.from && sent(shard));
            }
            (Phase::Trying { .. }, Say::Try(_) | Say::Fence(_), _) => return self.cancel(xid, config, sent),
            (Phase::Ending { decision, open, logged }, say, answer) if is_done(say, answer) => {
                match open.without(reply.from) {
                    ShardSet::NONE => Phase::Landed(decision),
                    open => Phase::Ending { decision, open, logged },
                }
            }
            (phase, ..) => {
                breach = true;
                phase
            }
        };
        self.phases[xid.index()] = phase;
        !breach
    }

    /// The deadline of what an older leader began, or an operator. That leader may have seen all branches reserved: only one that
    /// was not can say that it did not.
    pub fn fence(&mut self, xid: Xid) {
        if let Phase::Trying { begun, reserved, .. } = self.phase(xid) {
            self.phases[xid.index()] = Phase::Trying { begun, reserved, fencing: true };
        }
    }

    /// Appends `Decide(Cancel)` if nothing is decided: a rejection, the deadline, or an operator. A branch for which
    /// nothing was ever sent cannot know it and is not asked.
    pub fn cancel(&mut self, xid: Xid, config: &Config, sent: impl Fn(Shard) -> bool) -> bool {
        if let Phase::Trying { begun, reserved, .. } = self.phase(xid) {
            let concerned = config.branches().iter().filter(|&shard| reserved.has(shard) || sent(shard));
            let open = concerned.fold(ShardSet::NONE, ShardSet::with);
            self.phases[xid.index()] = Phase::Deciding { begun, decision: Decision::Cancel, open };
        }
        true
    }

    /// The next entry of this xid that is appended and not durable becomes so. Gives what the log then has.
    pub fn synced(&mut self, xid: Xid, config: &Config) -> Option<Durable> {
        let (phase, durable) = match self.phase(xid) {
            Phase::Trying { begun: false, reserved, fencing } => {
                (Phase::Trying { begun: true, reserved, fencing }, Durable::Begun)
            }
            Phase::Deciding { begun: false, decision: Decision::Confirm, open } if !config.decides_by_log => {
                (Phase::Ending { decision: Decision::Confirm, open, logged: false }, Durable::Begun)
            }
            Phase::Deciding { begun: false, decision, open } => {
                (Phase::Deciding { begun: true, decision, open }, Durable::Begun)
            }
            Phase::Deciding { begun: true, decision, open } => {
                let phase = if open == ShardSet::NONE {
                    Phase::Landed(decision)
                } else {
                    Phase::Ending { decision, open, logged: true }
                };
                (phase, Durable::Decided(decision))
            }
            Phase::Ending { decision, .. } if config.breaks(Canary::FinishWithoutAnswers) => {
                (Phase::Finished(decision), Durable::Finished(decision))
            }
            Phase::Ending { decision, open, logged: false } => {
                (Phase::Ending { decision, open, logged: true }, Durable::Decided(decision))
            }
            Phase::Landed(decision) => (Phase::Finished(decision), Durable::Finished(decision)),
            _ => return None,
        };
        self.phases[xid.index()] = phase;
        Some(durable)
    }
}

fn end(xid: Xid, decision: Decision) -> Say {
    match decision {
        Decision::Confirm => Say::Confirm(xid),
        Decision::Cancel => Say::Cancel(xid),
    }
}

/// Whether this acknowledges that. A branch that has finished has done so with its own word.
fn is_done(say: Say, answer: Answer) -> bool {
    matches!(
        (say, answer),
        (Say::Confirm(_), Answer::Confirmed | Answer::Finished)
            | (Say::Cancel(_), Answer::Canceled | Answer::Finished)
    )
}
