//! Transactions as operators see them.

use escrow_proto::v1;
use escrow_tcc::content::{Content, Direction, Leg};
use escrow_tcc::driver::{BranchState, BranchView, Phase, View};
use escrow_tcc::machine::{Decision, Live, Row};
use escrow_types::{Epoch, ParticipantId, Reason, Sequence};

use super::{Service, wire_reason};
use crate::owner::Owner;

impl Service {
    /// An unfinished transaction.
    pub(super) fn show(&self, view: &View<'_>) -> v1::Transaction {
        let live = view.live;
        let reason = match live.decision {
            Some(Decision::Cancel(reason)) => Some(reason),
            _ => None,
        };
        let legs = named_legs(live);
        v1::Transaction {
            transaction_id: live.transaction_id(),
            xid: self.xid(view.epoch, view.sequence),
            phase: phase_of(view).into(),
            reason: wire_reason(reason),
            in_doubt: view.in_doubt,
            two_step: live.content.is_two_step(),
            begun_at_ms: live.begun_ms,
            deadline_ms: live.deadline_ms,
            decided_at_ms: live.decided_ms,
            finished_at_ms: 0,
            branches: view.branches.iter().map(|branch| self.show_branch(branch, &legs)).collect(),
            timeline: Vec::new(),
            forced: live.forced,
            mixed: false,
        }
    }

    /// A transaction whose end is not logged yet: driven still, or acknowledged by every branch a moment ago.
    pub(super) fn show_unfinished(
        &self,
        owner: &Owner,
        epoch: Epoch,
        sequence: Sequence,
    ) -> Option<v1::Transaction> {
        if let Some(view) = owner.driver.view(owner.now(), epoch, sequence) {
            return Some(self.show(&view));
        }
        let live = owner.driver.machine().live().get(epoch, sequence)?;
        let (phase, reason) = ended_phase(owner.driver.outcome(epoch, sequence)?);
        Some(v1::Transaction {
            transaction_id: live.transaction_id(),
            xid: self.xid(epoch, sequence),
            phase: phase.into(),
            reason: wire_reason(reason),
            two_step: live.content.is_two_step(),
            begun_at_ms: live.begun_ms,
            deadline_ms: live.deadline_ms,
            decided_at_ms: live.decided_ms,
            finished_at_ms: owner.now(),
            forced: live.forced,
            ..v1::Transaction::default()
        })
    }

    /// A transaction that has ended: only what is remembered for idempotency.
    pub(super) fn show_ended(&self, row: &Row) -> v1::Transaction {
        let outcome = row.outcome().expect("only rows of ended transactions");
        let (phase, reason) = ended_phase(outcome.decision);
        v1::Transaction {
            transaction_id: row.key.to_string(),
            xid: self.xid(row.epoch, row.sequence),
            phase: phase.into(),
            reason: wire_reason(reason),
            finished_at_ms: row.finished_ms,
            forced: outcome.mark.forced,
            mixed: outcome.mark.mixed,
            ..v1::Transaction::default()
        }
    }

    fn show_branch(&self, branch: &BranchView, legs: &[Leg]) -> v1::Branch {
        let (state, reason): (v1::BranchState, Option<Reason>) = match branch.state {
            BranchState::Trying => (v1::BranchState::Trying, None),
            BranchState::Reserved => (v1::BranchState::Reserved, None),
            BranchState::Rejected(reason) => (v1::BranchState::Rejected, Some(reason)),
            BranchState::Ending => (v1::BranchState::Ending, None),
            BranchState::Confirmed => (v1::BranchState::Confirmed, None),
            BranchState::Canceled => (v1::BranchState::Canceled, None),
            BranchState::Contradicted => (v1::BranchState::Contradicted, None),
        };
        v1::Branch {
            participant: self.participant_name(branch.participant),
            state: state.into(),
            legs: wire_legs(legs, branch.participant),
            attempts: branch.attempts,
            last_error: branch.last_error.to_string(),
            last_attempt_ms: branch.last_attempt_ms,
            next_attempt_ms: branch.next_attempt_ms,
            reason: wire_reason(reason),
        }
    }
}

/// Where an unfinished transaction stands.
pub(super) fn phase_of(view: &View<'_>) -> v1::Phase {
    match view.phase {
        _ if view.live.attention => v1::Phase::NeedsAttention,
        Phase::Trying | Phase::Deciding if view.is_reserved => v1::Phase::Reserved,
        Phase::Trying | Phase::Deciding => v1::Phase::Trying,
        Phase::Ending(Decision::Confirm) => v1::Phase::Confirming,
        Phase::Ending(Decision::Cancel(_)) => v1::Phase::Canceling,
    }
}

fn ended_phase(decision: Decision) -> (v1::Phase, Option<Reason>) {
    match decision {
        Decision::Confirm => (v1::Phase::Confirmed, None),
        Decision::Cancel(reason) => (v1::Phase::Canceled, Some(reason)),
    }
}

/// The legs, with the accounts' ids as text where they are known.
fn named_legs(live: &Live) -> Vec<Leg> {
    let mut legs = live.content.legs();
    if let (Content::Transfer(_), Some(names), [from, to]) = (&live.content, &live.names, legs.as_mut_slice())
    {
        from.account_id.clone_from(&names.from);
        to.account_id.clone_from(&names.to);
    }
    legs
}

fn wire_legs(legs: &[Leg], participant: ParticipantId) -> Vec<v1::Leg> {
    let text = |leg: &Leg| leg.account_id.as_deref().map_or_else(|| leg.account.to_string(), str::to_owned);
    let wire = |leg: &Leg| v1::Leg {
        account_id: text(leg),
        direction: match leg.direction {
            Direction::Debit => v1::Direction::Debit.into(),
            Direction::Credit => v1::Direction::Credit.into(),
        },
        amount: leg.amount,
        currency: leg.currency.code().into(),
        participant: String::new(),
    };
    legs.iter().filter(|leg| leg.participant == participant).map(wire).collect()
}
