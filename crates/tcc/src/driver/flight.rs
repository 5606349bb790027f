//! One unfinished transaction as the leader sees it: phase, branches, who waits.

use escrow_invariants::{Canary, canary};
use escrow_types::{Millis, ParticipantId, Reason};

use super::links::{LinkKind, Links};
use super::{Decision, Waiter};
use crate::machine::Live;

/// How far a transaction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Begun; Trys are out, or (two-step) all reserved.
    Trying,
    /// The decision is made and being logged, or waits for its Begin to be: nothing else may decide.
    Deciding,
    /// The decision is durable, or implied by what is; Confirms or Cancels are out.
    Ending(Decision),
}

/// What the log says of the decision, once it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Record {
    /// As much as it must: the decision is there, or there is none yet.
    Complete,
    /// The branches imply it. If they end soon, the log will say that they did, and need not say this before.
    Unlogged,
    /// It was so for a while.
    Overdue,
    /// It is being logged, although the branches imply it.
    Logging,
}

/// What is known of one branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BranchState {
    /// No answer to Try yet.
    Trying,
    /// Reserved.
    Reserved,
    /// The participant refused.
    Rejected(Reason),
    /// No answer to Confirm or Cancel yet.
    Ending,
    /// Posted.
    Confirmed,
    /// Released, or never reserved.
    Canceled,
    /// The participant contradicted the decision.
    Contradicted,
}

/// One branch. Six bytes, so that two fit beside each other in a flight.
#[derive(Debug, Clone, Copy)]
pub(super) struct Branch {
    pub(super) participant: ParticipantId,
    pub(super) state: BranchState,
    /// Whether any message for it ever left in this epoch; if not, the participant cannot know it.
    pub(super) ever_sent: bool,
    /// Whether a message is out on the present connection (or a call under way).
    pub(super) under_way: bool,
}

impl Branch {
    const fn new(participant: ParticipantId) -> Self {
        Self { participant, state: BranchState::Trying, ever_sent: false, under_way: false }
    }
}

/// The branches; nearly always one or two.
#[derive(Debug, Clone)]
pub(super) enum Branches {
    One([Branch; 1]),
    Two([Branch; 2]),
    /// Twice boxed, so that a flight is no larger than a line of the cache.
    Many(Box<Box<[Branch]>>),
}

const _: () = assert!(size_of::<Option<Flight>>() <= 64, "a flight is no larger than a line of the cache");

impl Branches {
    #[inline]
    fn of(participants: &[ParticipantId]) -> Self {
        match *participants {
            [one] => Self::One([Branch::new(one)]),
            [one, two] => Self::Two([Branch::new(one), Branch::new(two)]),
            ref many => Self::Many(Box::new(many.iter().map(|&id| Branch::new(id)).collect())),
        }
    }

    pub(super) fn as_slice(&self) -> &[Branch] {
        match self {
            Self::One(branches) => branches,
            Self::Two(branches) => branches,
            Self::Many(branches) => branches,
        }
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [Branch] {
        match self {
            Self::One(branches) => branches,
            Self::Two(branches) => branches,
            Self::Many(branches) => branches,
        }
    }

    pub(super) fn get_mut(&mut self, participant: ParticipantId) -> Option<&mut Branch> {
        self.as_mut_slice().iter_mut().find(|branch| branch.participant == participant)
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Flight {
    pub(super) phase: Phase,
    /// Its Begin is durable and applied: the machine knows its content.
    pub(super) begun: bool,
    pub(super) two_step: bool,
    /// A single branch, ended by `TryAndConfirm`.
    pub(super) one_phase: bool,
    /// Once Begin and every reservation are durable the decision is Confirm: nothing need be logged for that, and nobody may
    /// decide otherwise who does not know that one of them is not.
    pub(super) implied: bool,
    pub(super) record: Record,
    /// Undecided after a crash and out of time: branches are fenced instead of tried, and if one was not reserved it is
    /// canceled for this reason.
    pub(super) fencing: Option<Reason>,
    /// It was unfinished when this leader started.
    pub(super) left_over: bool,
    pub(super) attention: bool,
    /// An operator gave it up: nothing else may end it until that is durable.
    pub(super) given_up: bool,
    pub(super) has_more_waiters: bool,
    /// The caller of a two-step transaction asked for Confirm before all branches were reserved again after a crash.
    pub(super) confirm_wanted: bool,
    /// Branches that have not answered in the present phase.
    pub(super) open_branches: u16,
    pub(super) branches: Branches,
    /// The first who waits.
    pub(super) waiter: Option<Waiter>,
    /// Undecided at this time: canceled.
    pub(super) deadline_ms: Millis,
    /// If `waiter` still waits at this time it is told how far it is.
    pub(super) answer_by_ms: Millis,
}

impl Flight {
    /// Of nobody yet: it is put in its place like this, and filled in there, field by field. Filled in elsewhere and moved, it would be
    /// read 16 bytes at a time just after it was written in smaller pieces, and such a read waits until all writes before it have
    /// reached the cache.
    pub(super) const BLANK: Self = Self {
        phase: Phase::Trying,
        begun: false,
        two_step: false,
        one_phase: false,
        implied: false,
        record: Record::Complete,
        fencing: None,
        left_over: false,
        attention: false,
        given_up: false,
        has_more_waiters: false,
        confirm_wanted: false,
        open_branches: 0,
        branches: Branches::One([Branch::new(ParticipantId(0))]),
        waiter: None,
        deadline_ms: 0,
        answer_by_ms: 0,
    };

    /// Gives it its branches, of which none has answered.
    #[inline]
    pub(super) fn set_branches(&mut self, participants: &[ParticipantId], links: &Links) {
        self.open_branches = participants.len() as u16;
        self.branches = Branches::of(participants);
        self.set_shape(links);
    }

    /// As it is right after a crash: nothing is known of its branches but what the log says.
    pub(super) fn recovered(live: &Live, links: &Links) -> Self {
        let (deadline_ms, answer_by_ms) = (live.deadline_ms, live.deadline_ms);
        let mut flight = Self { deadline_ms, answer_by_ms, ..Self::BLANK };
        flight.begun = true;
        flight.left_over = true;
        flight.attention = live.attention;
        flight.two_step = live.content.is_two_step();
        flight.set_branches(&live.content.participants(), links);
        for branch in flight.branches.as_mut_slice() {
            // An earlier leader may have sent anything.
            branch.ever_sent = true;
            if live.decision.is_some() {
                branch.state = BranchState::Ending;
            }
        }
        if let Some(decision) = live.decision {
            flight.phase = Phase::Ending(decision);
        }
        flight
    }

    /// Which shortcuts it takes, from its branches and whether its caller decides.
    fn set_shape(&mut self, links: &Links) {
        let branches = self.branches.as_slice();
        self.one_phase = is_one_phase(branches, self.two_step, links);
        // An external participant promises less, and one that is no longer configured may have been a wallet shard.
        let is_external = |branch: &Branch| links.kind(branch.participant) == Some(LinkKind::Unary);
        self.implied = !self.two_step && !self.one_phase && !branches.iter().any(is_external);
    }

    /// Undecided here, but an earlier leader may have seen every branch reserved and told the caller: only a branch that was
    /// not reserved can say that it did not.
    pub(super) fn may_be_decided(&self) -> bool {
        self.left_over
            && self.implied
            && self.phase == Phase::Trying
            && !canary::is_on(Canary::DeadlineCancelsWhatMayBeDecided)
    }

    /// No branch has still to answer its Try, and none refused.
    pub(super) fn is_reserved_everywhere(&self) -> bool {
        self.open_branches == 0
            && self.branches.as_slice().iter().all(|branch| branch.state == BranchState::Reserved)
    }

    pub(super) fn is_all_reserved(&self) -> bool {
        self.phase == Phase::Trying && self.open_branches == 0
    }

    /// Two-step: all branches are reserved, and Begin is durable, so that a crash leaves it so.
    pub(super) fn is_held(&self) -> bool {
        self.two_step && self.begun && self.is_all_reserved()
    }

    /// Whether any participant may know it.
    pub(super) fn is_sent(&self) -> bool {
        self.branches.as_slice().iter().any(|branch| branch.ever_sent)
    }
}

/// A single branch on a wallet shard needs no second phase, unless the caller decides. One on a participant that is no
/// longer configured may have been sent so, and then only that participant can tell how it ended.
fn is_one_phase(branches: &[Branch], two_step: bool, links: &Links) -> bool {
    match branches {
        [only] => !two_step && links.kind(only.participant) != Some(LinkKind::Unary),
        _ => false,
    }
}
