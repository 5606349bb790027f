//! Answers of participants, and what they lead to: a decision, an end, or an alarm.

use escrow_invariants::{Canary, canary};
use escrow_types::{Answer, Epoch, Millis, ParticipantId, Reason, Sequence};

use super::flight::{BranchState, Flight, Phase};
use super::{CallKind, Decision, Driver, LinkState, Standing, Trouble, Wait, landed_key};
use crate::command::{Attention, Command, Decide, FinishImplied};

/// What people read of a branch that was answered so.
const WANTS_HELLO: &str = "the participant knows no hello of this epoch";

/// Decisions of one epoch in the making.
pub(super) fn decide_for(list: &mut Vec<Decide>, epoch: Epoch) -> &mut Decide {
    let at = list.iter().rposition(|decide| decide.epoch == epoch).unwrap_or_else(|| {
        list.push(Decide { epoch, ..Decide::default() });
        list.len() - 1
    });
    &mut list[at]
}

impl Driver {
    /// Answers to Trys, one byte each ([`Answer::to_byte`]). Rows that do not fit (late, duplicate, unknown) change nothing.
    pub fn tried(
        &mut self,
        now_ms: Millis,
        participant: ParticipantId,
        epoch: Epoch,
        sequences: &[Sequence],
        answers: &[u8],
    ) {
        self.heard(now_ms, participant);
        for (&sequence, &byte) in sequences.iter().zip(answers) {
            let answer = Answer::from_byte(byte).unwrap_or(Answer::Invalid);
            self.tried_one(participant, epoch, sequence, answer);
        }
    }

    fn tried_one(&mut self, participant: ParticipantId, epoch: Epoch, sequence: Sequence, answer: Answer) {
        let Some(flight) = self.flights.get_mut(epoch, sequence) else { return };
        if flight.phase != Phase::Trying || flight.one_phase {
            return;
        }
        let (may_be_decided, fencing) = (flight.may_be_decided(), flight.fencing);
        let Some(branch) = flight.branches.get_mut(participant) else { return };
        if branch.state != BranchState::Trying {
            return;
        }
        branch.under_way = false;
        match answer {
            Answer::Reserved => {
                branch.state = BranchState::Reserved;
                flight.open_branches -= 1;
                if flight.open_branches == 0 {
                    self.all_reserved(epoch, sequence);
                }
            }
            Answer::Rejected(reason) => {
                branch.state = BranchState::Rejected(reason);
                self.decide(epoch, sequence, Decision::Cancel(reason));
            }
            Answer::StaleEpoch => self.deposed = true,
            Answer::HelloRequired => self.try_again_later(participant, epoch, sequence, WANTS_HELLO),
            // It was not reserved, and never will be: no earlier leader can have told anybody that it is confirmed.
            Answer::TryAfterCancel | Answer::Canceled if may_be_decided => {
                let reason = fencing.unwrap_or(Reason::ParticipantRejected);
                self.decide(epoch, sequence, Decision::Cancel(reason));
            }
            // This says nothing about whether it was: somebody must look.
            Answer::Contradiction | Answer::Finished | Answer::Invalid | Answer::Confirmed
                if may_be_decided =>
            {
                branch.state = BranchState::Contradicted;
                self.alarm(epoch, sequence, participant);
            }
            // It may hold a reservation all the same (other content, say): Cancel goes to this branch too.
            Answer::TryAfterCancel
            | Answer::Contradiction
            | Answer::Finished
            | Answer::Invalid
            | Answer::Confirmed
            | Answer::Canceled => {
                self.decide(epoch, sequence, Decision::Cancel(Reason::ParticipantRejected));
            }
        }
    }

    pub(super) fn all_reserved(&mut self, epoch: Epoch, sequence: Sequence) {
        let Some(flight) = self.flights.get_mut(epoch, sequence) else { return };
        if flight.implied {
            // What the branches imply must survive a crash, and that of the coordinator needs Begin to be durable.
            if flight.begun || canary::is_on(Canary::ImpliedBeforeBeginIsDurable) {
                self.implied(epoch, sequence);
            } else {
                flight.phase = Phase::Deciding;
            }
        } else if !flight.two_step {
            self.decide(epoch, sequence, Decision::Confirm);
        } else if flight.confirm_wanted {
            self.decide_as_wanted(epoch, sequence);
        } else if flight.begun {
            // What the caller is told must survive a crash: only once Begin is durable.
            self.answer_waiters(epoch, sequence, Standing::Reserved, false, |wait, _| wait == Wait::Reserved);
        }
    }

    /// Compare-and-set on "undecided": the first decision wins. Whether it was this one.
    pub(super) fn decide(&mut self, epoch: Epoch, sequence: Sequence, decision: Decision) -> bool {
        let Some(flight) = self.flights.get_mut(epoch, sequence) else { return false };
        let is_override = canary::is_on(Canary::TimeoutOverridesDecision)
            && decision == Decision::Cancel(Reason::DeadlineExceeded);
        if flight.phase != Phase::Trying && !is_override {
            return false;
        }
        flight.phase = Phase::Deciding;
        flight.one_phase = false;
        decide_for(&mut self.turn.decides, epoch).push(sequence, decision);
        true
    }

    /// Answers to `TryAndConfirm`s.
    pub fn tried_and_confirmed(
        &mut self,
        now_ms: Millis,
        participant: ParticipantId,
        epoch: Epoch,
        sequences: &[Sequence],
        answers: &[u8],
    ) {
        self.heard(now_ms, participant);
        for (&sequence, &byte) in sequences.iter().zip(answers) {
            let answer = Answer::from_byte(byte).unwrap_or(Answer::Invalid);
            let Some(flight) = self.flights.get_mut(epoch, sequence) else { continue };
            if !flight.one_phase || flight.phase != Phase::Trying {
                continue;
            }
            let Some(branch) = flight.branches.get_mut(participant) else { continue };
            branch.under_way = false;
            let decision = match answer {
                Answer::Confirmed => Decision::Confirm,
                Answer::Rejected(reason) => Decision::Cancel(reason),
                Answer::TryAfterCancel | Answer::Canceled | Answer::Invalid => {
                    Decision::Cancel(Reason::ParticipantRejected)
                }
                Answer::StaleEpoch => {
                    self.deposed = true;
                    continue;
                }
                Answer::HelloRequired => {
                    self.try_again_later(participant, epoch, sequence, WANTS_HELLO);
                    continue;
                }
                Answer::Reserved | Answer::Finished | Answer::Contradiction => {
                    branch.state = BranchState::Contradicted;
                    self.alarm(epoch, sequence, participant);
                    continue;
                }
            };
            self.end_one_phase(epoch, sequence, decision);
        }
    }

    /// The participant's durable answer is the decision: a crash before it is logged asks again and hears the same.
    fn end_one_phase(&mut self, epoch: Epoch, sequence: Sequence, decision: Decision) {
        self.log_implied(epoch, sequence, decision);
        if decision != Decision::Confirm {
            self.landed.insert(landed_key(epoch, sequence), decision);
        }
        self.land(epoch, sequence, decision);
    }

    /// Every branch has ended, and the log does not say how.
    pub(super) fn log_implied(&mut self, epoch: Epoch, sequence: Sequence, decision: Decision) {
        let list = &mut self.turn.implied;
        let at = list.iter().rposition(|finish| finish.outcomes.epoch == epoch).unwrap_or_else(|| {
            list.push(FinishImplied { outcomes: Decide { epoch, ..Decide::default() } });
            list.len() - 1
        });
        list[at].outcomes.push(sequence, decision);
        self.turn.finish_rows += 1;
    }

    /// Answers to Confirms and Cancels.
    pub fn ended(
        &mut self,
        now_ms: Millis,
        participant: ParticipantId,
        kind: CallKind,
        epoch: Epoch,
        sequences: &[Sequence],
        answers: &[u8],
    ) {
        self.heard(now_ms, participant);
        for (&sequence, &byte) in sequences.iter().zip(answers) {
            let answer = Answer::from_byte(byte).unwrap_or(Answer::Invalid);
            self.ended_one(participant, kind, epoch, sequence, answer);
        }
    }

    fn ended_one(
        &mut self,
        participant: ParticipantId,
        kind: CallKind,
        epoch: Epoch,
        sequence: Sequence,
        answer: Answer,
    ) {
        let Some(flight) = self.flights.get_mut(epoch, sequence) else { return };
        let Phase::Ending(decision) = flight.phase else { return };
        let asked = if decision == Decision::Confirm { CallKind::Confirm } else { CallKind::Cancel };
        let Some(branch) = flight.branches.get_mut(participant) else { return };
        // An operator may have overridden the decision since this was asked.
        if asked != kind || branch.state != BranchState::Ending || flight.given_up {
            return;
        }
        branch.under_way = false;
        branch.state = match (answer, asked) {
            (Answer::Confirmed | Answer::Finished, CallKind::Confirm) => BranchState::Confirmed,
            (Answer::Canceled | Answer::Finished, CallKind::Cancel) => BranchState::Canceled,
            (Answer::StaleEpoch, _) => {
                self.deposed = true;
                return;
            }
            (Answer::HelloRequired, _) => {
                self.try_again_later(participant, epoch, sequence, WANTS_HELLO);
                return;
            }
            _ => {
                branch.state = BranchState::Contradicted;
                self.alarm(epoch, sequence, participant);
                return;
            }
        };
        flight.open_branches -= 1;
        if flight.open_branches == 0 {
            self.finish(epoch, sequence, decision);
        }
    }

    fn alarm(&mut self, epoch: Epoch, sequence: Sequence, participant: ParticipantId) {
        let flight = self.flights.get_mut(epoch, sequence).expect("just seen");
        if !flight.attention {
            flight.attention = true;
            // Who looks at it after a crash is to see what was decided.
            self.log_decision(epoch, sequence);
            self.turn.marks.push(Command::Attention(Attention { epoch, sequence, participant }));
        }
    }

    /// A unary call to an external participant got no answer: it is tried again after a growing pause.
    pub fn call_failed(
        &mut self,
        now_ms: Millis,
        participant: ParticipantId,
        kind: CallKind,
        epoch: Epoch,
        sequence: Sequence,
        error: &str,
    ) {
        self.hear_time(now_ms);
        self.link_failed(now_ms, participant, error, 0);
        let Some(flight) = self.flights.get(epoch, sequence) else { return };
        if flight.expected_call(participant) != Some(kind) {
            return;
        }
        self.try_again_later(participant, epoch, sequence, error);
    }

    fn try_again_later(&mut self, participant: ParticipantId, epoch: Epoch, sequence: Sequence, error: &str) {
        let now_ms = self.now_ms;
        let flight = self.flights.get_mut(epoch, sequence).expect("just seen");
        if let Some(branch) = flight.branches.get_mut(participant) {
            branch.under_way = false;
        }
        let trouble = self.troubles.entry((epoch, sequence, participant)).or_insert(Trouble {
            attempts: 0,
            last_error: "".into(),
            last_attempt_ms: 0,
            next_attempt_ms: 0,
        });
        trouble.attempts += 1;
        trouble.last_error = error.into();
        trouble.last_attempt_ms = now_ms;
        trouble.next_attempt_ms = now_ms + self.delays.delay_ms(trouble.attempts);
    }

    fn heard(&mut self, now_ms: Millis, participant: ParticipantId) {
        self.hear_time(now_ms);
        if let Some(link) = self.links.get_mut(participant) {
            link.last_answer_ms = now_ms;
            link.asked_ms = 0;
            link.stalled = false;
            if link.kind == super::LinkKind::Unary {
                link.state = LinkState::Ready;
                link.attempts = 0;
                link.next_attempt_ms = 0;
            }
        }
    }
}

impl Flight {
    /// Which call a branch waits for, if any.
    pub(super) fn expected_call(&self, participant: ParticipantId) -> Option<CallKind> {
        let branch = self.branches.as_slice().iter().find(|branch| branch.participant == participant)?;
        match (self.phase, branch.state) {
            (Phase::Trying, BranchState::Trying) => Some(CallKind::Try),
            (Phase::Ending(Decision::Confirm), BranchState::Ending) => Some(CallKind::Confirm),
            (Phase::Ending(Decision::Cancel(_)), BranchState::Ending) => Some(CallKind::Cancel),
            _ => None,
        }
    }
}
