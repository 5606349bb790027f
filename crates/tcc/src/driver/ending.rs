//! What is durable causes: Trys that had to wait for Begin, the second phase, the end.

use escrow_invariants::{Invariant, hold};
use escrow_types::{Epoch, ParticipantId, Reason, Sequence};

use super::answers::decide_for;
use super::flight::{BranchState, Phase, Record};
use super::outbox::{Call, CallKind};
use super::{Decision, Driver, LinkKind, LinkState, Standing, Wait};
use crate::command::Finish;

impl Driver {
    /// Its Begin is durable: the machine knows the content, and what had to wait for that may leave.
    pub(super) fn begun(&mut self, sequence: Sequence) {
        let epoch = self.flights.epoch();
        let Some(flight) = self.flights.get_mut(epoch, sequence) else { return };
        flight.begun = true;
        let is_open = flight.phase == Phase::Trying || (flight.implied && flight.phase == Phase::Deciding);
        if is_open && flight.is_reserved_everywhere() {
            self.all_reserved(epoch, sequence);
            return;
        }
        if flight
            .branches
            .as_slice()
            .iter()
            .any(|branch| !branch.under_way && branch.state == BranchState::Trying)
        {
            self.send_open_branches(epoch, sequence, None);
        }
    }

    /// Its decision is durable: phase 2 goes out, and who waited for the decision is told.
    pub(super) fn decided(&mut self, epoch: Epoch, sequence: Sequence, decision: Decision) {
        let Some(flight) = self.flights.get_mut(epoch, sequence) else { return };
        if flight.record == Record::Logging {
            // It was made, and told, before.
            flight.record = Record::Complete;
            return;
        }
        hold!(
            Invariant::DecisionBeforePhaseTwo,
            flight.phase == Phase::Deciding,
            "{epoch:?} sequence {sequence} is {:?}",
            flight.phase
        );
        self.end_branches(epoch, sequence, decision);
    }

    /// Begin is durable, and so is every reservation: that is the decision. After a crash the branches are asked again, and say
    /// the same. (Parallel commit in CockroachDB is the same idea, with writes for reservations.)
    pub(super) fn implied(&mut self, epoch: Epoch, sequence: Sequence) {
        let Some(flight) = self.flights.get_mut(epoch, sequence) else { return };
        hold!(
            Invariant::DecisionBeforePhaseTwo,
            flight.implied && flight.is_reserved_everywhere(),
            "{epoch:?} sequence {sequence} is {:?}",
            flight.phase
        );
        flight.record = Record::Unlogged;
        self.unlogged += 1;
        self.end_branches(epoch, sequence, Decision::Confirm);
    }

    /// Logs a decision that the branches imply. Gives whether that was still to be done.
    pub(super) fn log_decision(&mut self, epoch: Epoch, sequence: Sequence) -> bool {
        let Some(flight) = self.flights.get_mut(epoch, sequence) else { return false };
        if !matches!(flight.record, Record::Unlogged | Record::Overdue) {
            return false;
        }
        flight.record = Record::Logging;
        self.unlogged -= 1;
        decide_for(&mut self.turn.decides, epoch).push(sequence, Decision::Confirm);
        true
    }

    /// The second phase begins.
    fn end_branches(&mut self, epoch: Epoch, sequence: Sequence, decision: Decision) {
        let Some(flight) = self.flights.get_mut(epoch, sequence) else { return };
        flight.phase = Phase::Ending(decision);
        let mut open = 0;
        for branch in flight.branches.as_mut_slice() {
            branch.state = match (decision, branch.state) {
                (Decision::Cancel(_), rejected @ BranchState::Rejected(_)) => rejected,
                // No message for it ever left: the participant cannot know it, and need not be asked.
                (Decision::Cancel(_), BranchState::Trying) if !branch.ever_sent => BranchState::Canceled,
                _ => {
                    open += 1;
                    BranchState::Ending
                }
            };
            branch.under_way = false;
        }
        flight.open_branches = open;
        self.troubles_end(epoch, sequence);
        self.answer_waiters(epoch, sequence, Standing::Decided(decision), false, |wait, _| {
            wait != Wait::Completed
        });
        // Their time may have come while the decision was being logged.
        self.next_deadline_ms = self.next_deadline_ms.min(self.first_answer_by(epoch, sequence));
        if open == 0 {
            self.finish(epoch, sequence, decision);
        } else {
            self.send_open_branches(epoch, sequence, None);
        }
    }

    /// An operator set or overrode the decision: every branch that has not ended is asked again.
    pub(super) fn forced(&mut self, epoch: Epoch, sequence: Sequence, decision: Decision) {
        let Some(flight) = self.flights.get_mut(epoch, sequence) else { return };
        if matches!(flight.record, Record::Unlogged | Record::Overdue) {
            self.unlogged -= 1;
        }
        flight.record = Record::Complete;
        flight.attention = false;
        flight.one_phase = false;
        flight.phase = Phase::Deciding;
        self.decided(epoch, sequence, decision);
    }

    pub(super) fn given_up(&mut self, epoch: Epoch, sequence: Sequence) {
        let Some(Phase::Ending(decision)) = self.flights.get(epoch, sequence).map(|flight| flight.phase)
        else {
            return;
        };
        self.land(epoch, sequence, decision);
    }

    /// Every branch has acknowledged. Logged lazily; who waited is told now.
    pub(super) fn finish(&mut self, epoch: Epoch, sequence: Sequence, decision: Decision) {
        let record = self.flights.get(epoch, sequence).map(|flight| flight.record);
        if let Some(Record::Unlogged | Record::Overdue) = record {
            self.log_implied(epoch, sequence, decision);
        } else {
            let list = &mut self.turn.finishes;
            let at = list.iter().rposition(|finish| finish.epoch == epoch).unwrap_or_else(|| {
                list.push(Finish { epoch, sequences: Vec::new() });
                list.len() - 1
            });
            list[at].sequences.push(sequence);
            self.turn.finish_rows += 1;
        }
        self.land(epoch, sequence, decision);
    }

    /// The flight is over: answers whoever waits and forgets it.
    pub(super) fn land(&mut self, epoch: Epoch, sequence: Sequence, decision: Decision) {
        self.answer_waiters(epoch, sequence, Standing::Decided(decision), true, |_, _| true);
        let Self { flights, links, unlogged, .. } = self;
        flights.end(epoch, sequence, |flight| {
            links.count(flight, -1);
            *unlogged -= usize::from(matches!(flight.record, Record::Unlogged | Record::Overdue));
        });
        self.troubles_end(epoch, sequence);
    }

    pub(super) fn troubles_end(&mut self, epoch: Epoch, sequence: Sequence) {
        if self.troubles.is_empty() {
            return;
        }
        let (first, last) = ((epoch, sequence, ParticipantId(0)), (epoch, sequence, ParticipantId(u16::MAX)));
        let ended: Vec<_> = self.troubles.range(first..=last).map(|(&key, _)| key).collect();
        for key in ended {
            self.troubles.remove(&key);
        }
    }

    /// Sends what the branches of a transaction wait for: all of them, or those of one participant. A Try needs its content, so it
    /// is sent here only once its Begin is applied.
    pub(super) fn send_open_branches(
        &mut self,
        epoch: Epoch,
        sequence: Sequence,
        only: Option<ParticipantId>,
    ) {
        let Some(flight) = self.flights.get_mut(epoch, sequence) else { return };
        let deadline_ms = flight.deadline_ms;
        if flight.given_up {
            return;
        }
        // To end a branch takes no content, unless it may be confirmed in part, and content is in other lines of the cache.
        let needs_content = flight.two_step || !matches!(flight.phase, Phase::Ending(_));
        let live = if needs_content { self.machine.live().get(epoch, sequence) } else { None };
        if needs_content && live.is_none() {
            return;
        }
        if flight.may_be_decided() && flight.fencing.is_none() && deadline_ms <= self.now_ms {
            // Its time was up before its participants could be reached.
            flight.fencing = Some(Reason::DeadlineExceeded);
        }
        // In the second phase: whoever waited for the decision only was told, and does not wait any more.
        let is_awaited = flight.waiter.is_some() || flight.has_more_waiters;
        for branch in flight.branches.as_mut_slice() {
            let participant = branch.participant;
            if only.is_some_and(|only| only != participant) || branch.under_way {
                continue;
            }
            let Some(link) = self.links.get(participant) else { continue };
            let kind = match (flight.phase, branch.state) {
                (Phase::Trying, BranchState::Trying) => CallKind::Try,
                (Phase::Ending(Decision::Confirm), BranchState::Ending) => CallKind::Confirm,
                (Phase::Ending(Decision::Cancel(_)), BranchState::Ending) => CallKind::Cancel,
                _ => continue,
            };
            if link.kind == LinkKind::Unary {
                branch.under_way = true;
                branch.ever_sent = true;
                self.calls.push(Call { participant, epoch, sequence, kind });
                continue;
            }
            if link.state != LinkState::Ready {
                continue;
            }
            branch.under_way = true;
            branch.ever_sent = true;
            match kind {
                CallKind::Try if flight.fencing.is_some() => self.outbox.fence(participant, epoch, sequence),
                CallKind::Try => {
                    let columns = if flight.one_phase {
                        self.outbox.one_phase(participant, epoch, deadline_ms)
                    } else {
                        self.outbox.tries(participant, epoch, deadline_ms)
                    };
                    let content = &live.expect("found where it is tried").content;
                    content.for_each_leg_of(participant, |account, amount, kind| {
                        columns.push(sequence, account, amount, kind);
                    });
                }
                CallKind::Confirm => match live.and_then(|live| live.content.partial_of(participant)) {
                    Some(amounts) => self.outbox.confirm_partly(participant, epoch, sequence, amounts),
                    None => self.outbox.confirm(participant, epoch, sequence, is_awaited),
                },
                CallKind::Cancel => self.outbox.cancel(participant, epoch, sequence),
            }
        }
    }
}
