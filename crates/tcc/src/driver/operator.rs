//! What operators do: cancel, force, give up, retry, pause. Each is refused where it does not fit.

use escrow_types::{Epoch, ParticipantId, Reason, Sequence};

use super::caller::{Refusal, refuse};
use super::flight::{Branch, BranchState, Phase};
use super::{Decision, Driver, LinkKind, LinkState};
use crate::command::{Command, Force, GiveUp};

const GIVEN_UP: &str = "it is being given up: look again in a moment";

impl Driver {
    /// An operator cancels a transaction that is undecided.
    pub fn operator_cancel(&mut self, epoch: Epoch, sequence: Sequence) -> Result<(), Refusal> {
        let Some(flight) = self.flights.get(epoch, sequence) else {
            return refuse(Reason::AlreadyDecided, "it has ended");
        };
        if flight.one_phase && flight.is_sent() {
            return refuse(
                Reason::AlreadyDecided,
                "its only participant decides it in one step; wait for the participant, or force it",
            );
        }
        if flight.may_be_decided() {
            // By the word of a branch that was not reserved, if there is one.
            self.fence(epoch, sequence, Reason::CanceledByOperator);
            return Ok(());
        }
        if self.decide(epoch, sequence, Decision::Cancel(Reason::CanceledByOperator)) {
            return Ok(());
        }
        refuse(Reason::AlreadyDecided, "the decision is made and cannot change")
    }

    /// An operator sets a decision, or overrides one after a contradiction. Checked against what the participants are
    /// known to hold.
    pub fn force(
        &mut self,
        epoch: Epoch,
        sequence: Sequence,
        confirm: bool,
        why: &str,
    ) -> Result<(), Refusal> {
        let Some(flight) = self.flights.get_mut(epoch, sequence) else {
            return refuse(Reason::AlreadyDecided, "it has ended");
        };
        if !flight.begun || flight.phase == Phase::Deciding {
            return refuse(Reason::NotInDoubt, "it is being worked on: look again in a moment");
        }
        if flight.given_up {
            return refuse(Reason::NotInDoubt, GIVEN_UP);
        }
        let mut states = flight.branches.as_slice().iter().map(|branch| (branch.participant, branch.state));
        match flight.phase {
            Phase::Trying if confirm => {
                if let Some((participant, state)) = states.find(|(_, state)| *state != BranchState::Reserved)
                {
                    let message = format!("participant {} holds no reservation ({state:?})", participant.0);
                    return refuse(Reason::NotReserved, message);
                }
            }
            Phase::Trying if flight.may_be_decided() => {
                let waits = |branch: &&Branch| branch.state == BranchState::Trying;
                let mut waiting = flight.branches.as_slice().iter().filter(waits);
                let can_answer = |id| self.links.get(id).is_some_and(|link| link.state != LinkState::Down);
                if let Some(branch) = waiting.find(|branch| can_answer(branch.participant)) {
                    let message = format!(
                        "it may have been confirmed before a change of leader: participant {} is being asked. Force it only if that cannot be reached",
                        branch.participant.0
                    );
                    return refuse(Reason::NotInDoubt, message);
                }
            }
            Phase::Ending(_) if !flight.attention => {
                return refuse(
                    Reason::NotInDoubt,
                    "it is decided and no participant contradicts: the decision stands and is retried for ever",
                );
            }
            Phase::Ending(_) => {
                let opposite = if confirm { BranchState::Canceled } else { BranchState::Confirmed };
                if let Some((participant, _)) = states.find(|(_, state)| *state == opposite) {
                    let message = format!("participant {} has already ended the other way", participant.0);
                    return refuse(Reason::AlreadyDecided, message);
                }
            }
            Phase::Trying | Phase::Deciding => {}
        }
        flight.phase = Phase::Deciding;
        let decision = if confirm { Decision::Confirm } else { Decision::Cancel(Reason::Forced) };
        self.turn.marks.push(Command::Force(Force { epoch, sequence, decision, reason: why.into() }));
        Ok(())
    }

    /// An operator ends a decided transaction without the word of all its participants.
    pub fn give_up(&mut self, epoch: Epoch, sequence: Sequence, why: &str) -> Result<(), Refusal> {
        let Some(flight) = self.flights.get_mut(epoch, sequence) else {
            return refuse(Reason::AlreadyDecided, "it has ended");
        };
        match flight.phase {
            Phase::Ending(_) if flight.given_up => refuse(Reason::NotInDoubt, GIVEN_UP),
            Phase::Ending(_) => {
                // Nothing else may end it before that is durable.
                flight.given_up = true;
                self.log_decision(epoch, sequence);
                self.turn.marks.push(Command::GiveUp(GiveUp { epoch, sequence, reason: why.into() }));
                Ok(())
            }
            _ => refuse(Reason::NotInDoubt, "it is undecided: cancel it, or force a decision first"),
        }
    }

    /// An operator pauses or resumes new work. Logged even if it changes nothing: what is being logged may.
    pub fn set_paused(&mut self, paused: bool) {
        self.turn.marks.push(Command::SetPaused(paused));
    }

    /// Asks every branch that has not answered again, now.
    pub fn retry(&mut self, epoch: Epoch, sequence: Sequence) -> Result<(), Refusal> {
        let Some(flight) = self.flights.get_mut(epoch, sequence) else {
            return refuse(Reason::AlreadyDecided, "it has ended: there is nothing to retry");
        };
        if flight.given_up {
            return refuse(Reason::NotInDoubt, GIVEN_UP);
        }
        if !flight.begun {
            return Ok(());
        }
        let again = if flight.phase == Phase::Trying { BranchState::Trying } else { BranchState::Ending };
        for branch in flight.branches.as_mut_slice() {
            // A call under way to an external participant answers by itself; a second one at the same time helps nobody.
            let is_stream = self.links.kind(branch.participant) == Some(LinkKind::Stream);
            if is_stream && !self.outbox.holds(branch.participant, epoch, sequence) {
                branch.under_way = false;
            }
            self.outbox.await_confirms(branch.participant);
            if branch.state == BranchState::Contradicted {
                branch.state = again;
                branch.under_way = false;
            }
        }
        let (first, last) = ((epoch, sequence, ParticipantId(0)), (epoch, sequence, ParticipantId(u16::MAX)));
        for (_, trouble) in self.troubles.range_mut(first..=last) {
            trouble.next_attempt_ms = 0;
        }
        self.send_open_branches(epoch, sequence, None);
        Ok(())
    }
}
