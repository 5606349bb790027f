//! What is true, as the durable logs say: an observer reads every entry as soon as it is durable, and holds it against the
//! invariants. It believes no server's memory and no message.
//!
//! **Invariant:** nothing here changes what the servers do.

mod coordinator;
mod group;
mod log;
mod participant;

pub(crate) use group::GroupObserver;
pub(crate) use log::LogObserver;
pub(crate) use participant::ShardObserver;

use std::collections::BTreeMap;

use escrow_tcc::content::{Content, Direction};
use escrow_tcc::machine::Decision;
use escrow_types::{AccountKey, Amount, Epoch, ParticipantId, Sequence, TransactionKey};

use crate::violation::{Step, check};

/// A transaction of the one coordinator partition.
pub(crate) type Xid = (Epoch, Sequence);

/// What became of a branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Branch {
    /// Funds are held.
    Held,
    Confirmed,
    /// Released, or refused, or fenced.
    Canceled,
}

/// A transaction whose Begin is durable.
#[derive(Debug, Clone)]
pub(crate) struct Begun {
    pub(crate) key: TransactionKey,
    pub(crate) content: Content,
    pub(crate) decision: Option<Decision>,
    /// The decision is what Begin and the reservations say; the log may still say the same.
    pub(crate) implied: bool,
    pub(crate) finished: bool,
    pub(crate) forced: bool,
    pub(crate) given_up: bool,
}

/// Everything that is durable somewhere.
#[derive(Default)]
pub(crate) struct Facts {
    pub(crate) epoch: Epoch,
    pub(crate) begun: BTreeMap<Xid, Begun>,
    /// By transaction and participant.
    pub(crate) branches: BTreeMap<(Xid, u16), Branch>,
    /// What confirmed branches add up to.
    pub(crate) posted: BTreeMap<AccountKey, i128>,
    pub(crate) executed: BTreeMap<TransactionKey, Xid>,
    /// The external participant, if there is one: decisions that concern it are always logged.
    pub(crate) external: Option<u16>,
}

impl Facts {
    pub(crate) fn branch(&self, xid: Xid, participant: u16) -> Option<Branch> {
        self.branches.get(&(xid, participant)).copied()
    }

    /// A branch was posted, with these amounts instead of its own if there are any.
    pub(crate) fn confirm(&mut self, xid: Xid, participant: u16, partial: Option<&[Amount]>) -> Step {
        let before = self.branches.insert((xid, participant), Branch::Confirmed);
        if before == Some(Branch::Confirmed) {
            return Ok(());
        }
        check!(
            Atomic,
            before != Some(Branch::Canceled),
            "{xid:?} on {participant}: canceled, then confirmed"
        );
        let begun = self.begun.get(&xid);
        check!(
            OneExecution,
            begun.is_some(),
            "{xid:?} on {participant}: posted, but its Begin is not durable"
        );
        let content = &begun.expect("just checked").content;
        let legs = content.legs().into_iter().filter(|leg| leg.participant.0 == participant);
        for (at, leg) in legs.enumerate() {
            let amount = i128::from(partial.map_or(leg.amount, |amounts| amounts[at]));
            let change = if leg.direction == Direction::Debit { -amount } else { amount };
            *self.posted.entry(leg.account).or_default() += change;
        }
        Ok(())
    }

    /// The transaction is confirmed; nothing else under its id may be.
    fn executed(&mut self, xid: Xid) -> Step {
        let key = self.begun[&xid].key;
        let first = *self.executed.entry(key).or_insert(xid);
        check!(OneExecution, first == xid, "{key} was executed as {first:?} and as {xid:?}");
        Ok(())
    }

    /// Whether what is durable implies that it is confirmed, though no decision was logged: Begin, and every reservation. Not
    /// where the caller decides, nor where an external participant takes part.
    pub(crate) fn is_implied(&self, xid: Xid) -> bool {
        let Some(begun) = self.begun.get(&xid) else { return false };
        let participants = begun.content.participants();
        let holds = |id: &ParticipantId| {
            Some(id.0) != self.external
                && matches!(self.branch(xid, id.0), Some(Branch::Held | Branch::Confirmed))
        };
        !begun.content.is_two_step() && participants.len() > 1 && participants.iter().all(holds)
    }

    /// Whether a leader of before may have told that it is confirmed, without a word of the log. (For all that one knows: not
    /// every branch needs to be reserved.)
    pub(crate) fn may_be_implied(&self, xid: Xid) -> bool {
        let Some(begun) = self.begun.get(&xid) else { return false };
        let participants = begun.content.participants();
        xid.0 < self.epoch
            && !begun.content.is_two_step()
            && participants.len() > 1
            && !participants.iter().any(|id| Some(id.0) == self.external)
    }

    /// The transaction is confirmed, without a word of the log: from now on nothing else may be.
    pub(crate) fn imply(&mut self, xid: Xid) -> Step {
        if self.begun.get(&xid).is_some_and(|begun| begun.decision.is_none()) && self.is_implied(xid) {
            self.set_decision(xid, Decision::Confirm)?;
            self.begun(xid)?.implied = true;
        }
        Ok(())
    }

    /// What a caller is told must be durable: the decision, or what implies it; for a transaction of a single branch its
    /// participant's word.
    pub(crate) fn check_told(&mut self, xid: Xid, told: Decision) -> Step {
        if matches!(told, Decision::Confirm) {
            self.imply(xid)?;
        }
        let begun = self.begun.get(&xid);
        check!(
            DecisionStands,
            begun.is_some(),
            "a caller was told {told:?} of {xid:?}, whose Begin is not durable"
        );
        let begun = begun.expect("just checked");
        let participants = begun.content.participants();
        let truth = match (begun.decision, participants.as_slice()) {
            (Some(decision), _) => Some(matches!(decision, Decision::Confirm)),
            (None, [one]) => match self.branch(xid, one.0) {
                Some(Branch::Confirmed) => Some(true),
                Some(Branch::Canceled) => Some(false),
                _ => None,
            },
            (None, _) => None,
        };
        let told_confirmed = matches!(told, Decision::Confirm);
        check!(
            DecisionStands,
            truth == Some(told_confirmed),
            "a caller was told {told:?} of {xid:?}, but {begun:?}"
        );
        Ok(())
    }

    /// Once nothing is unfinished: every transaction is confirmed everywhere or nowhere, and money is conserved.
    pub(crate) fn check_the_end(&self) -> Step {
        for (xid, begun) in &self.begun {
            check!(ReservationsEnd, begun.finished, "{xid:?} never finished: {begun:?}");
            if begun.given_up {
                continue;
            }
            let participants = begun.content.participants();
            let states: Vec<_> = participants.iter().map(|id| self.branch(*xid, id.0)).collect();
            let confirmed = states.iter().filter(|state| **state == Some(Branch::Confirmed)).count();
            let wanted = if begun.decision == Some(Decision::Confirm) { states.len() } else { 0 };
            check!(
                Atomic,
                confirmed == wanted,
                "{xid:?} ended {:?}, its branches {states:?}",
                begun.decision
            );
        }
        if let Some((branch, _)) = self.branches.iter().find(|(_, state)| **state == Branch::Held) {
            check!(ReservationsEnd, false, "a reservation outlives its transaction: {branch:?}");
        }
        let sum: i128 = self.posted.values().sum();
        check!(Conservation, sum == 0, "posted over all accounts: {sum}");
        Ok(())
    }
}
