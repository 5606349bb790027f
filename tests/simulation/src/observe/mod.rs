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
use escrow_types::{AccountKey, Amount, Epoch, Sequence, TransactionKey};

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
    executed: BTreeMap<TransactionKey, Xid>,
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

    /// What a caller is told must be durable: the decision, or for a transaction of a single branch its participant's word.
    pub(crate) fn check_told(&self, xid: Xid, told: Decision) -> Step {
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
