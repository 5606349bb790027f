//! An observer who sees everything and has no influence: what must be remembered to judge the invariants, and is in no
//! process of the system.

use crate::coordinator::{Durable, Log};
use crate::messages::{Answer, Request, Say};
use crate::participant::{Participant, Slot};
use crate::words::{Decision, Epoch, SHARDS, TRANSACTIONS_MAX, Transaction, XidSet};

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Witness {
    /// Per shard: what it canceled before it had ever seen it.
    pub empty_canceled: [XidSet; SHARDS],
    /// Per shard: the newest leader whose hello it took.
    pub greeted: [Epoch; SHARDS],
    told: [(bool, bool); TRANSACTIONS_MAX as usize],
    /// A durable decision was replaced by another.
    pub decision_changed: bool,
    /// An entry of a deposed leader became durable.
    pub deposed_appended: bool,
    /// A participant's answer was a breach of contract.
    pub breach: bool,
    /// A Try was refused for funds that an orphan of an older epoch held.
    pub refused_for_orphan: bool,
}

impl Witness {
    /// A caller was told this. Callers are told as early as they can be; whoever is told later is told the same or not.
    pub fn told(&mut self, transaction: Transaction, decision: Decision) {
        let (confirmed, canceled) = &mut self.told[usize::from(transaction)];
        match decision {
            Decision::Confirm => *confirmed = true,
            Decision::Cancel => *canceled = true,
        }
    }

    /// Everything that callers were told of a transaction.
    pub fn words(&self, transaction: Transaction) -> impl Iterator<Item = Decision> {
        let (confirmed, canceled) = self.told[usize::from(transaction)];
        [confirmed.then_some(Decision::Confirm), canceled.then_some(Decision::Cancel)].into_iter().flatten()
    }

    /// A shard took a request and answered.
    pub fn answered(&mut self, request: Request, before: &Participant, answer: Option<Answer>, log: &Log) {
        if let Say::Hello(_) = request.say {
            let greeted = &mut self.greeted[usize::from(request.to)];
            *greeted = request.from.max(*greeted);
        }
        let (Some(xid), Some(answer)) = (request.say.xid(), answer) else { return };
        match (request.say, answer) {
            (Say::Cancel(_), Answer::Canceled) | (Say::Fence(_), Answer::TryAfterCancel)
                if before.slot(xid) == Slot::Unseen =>
            {
                self.empty_canceled[usize::from(request.to)].add(xid);
            }
            // The answer to a question that came late is a Cancel that changes nothing.
            (Say::Cancel(_), Answer::Contradiction) => {
                self.breach |= !matches!(log.of(xid), Durable::Finished(_));
            }
            (Say::Confirm(_), Answer::Contradiction) => self.breach = true,
            (Say::Try(_) | Say::TryAndConfirm(_), Answer::Rejected) if before.slot(xid) == Slot::Unseen => {
                let orphan = before
                    .holder(request.to, xid)
                    .filter(|holder| holder.epoch < request.from && log.of(*holder) == Durable::Nothing);
                self.refused_for_orphan |= orphan.is_some();
            }
            _ => {}
        }
    }
}
