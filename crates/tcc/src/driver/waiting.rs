//! Callers who wait for a transaction, each until its own time.

use escrow_types::{Epoch, Millis, Sequence};

use super::flight::Phase;
use super::{Answered, Driver, Standing, Wait, Waiter};

/// A caller beyond the first of a transaction, and until when it waits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waiting {
    pub(super) waiter: Waiter,
    pub(super) answer_by_ms: Millis,
}

impl Driver {
    pub(super) fn answer(
        &mut self,
        waiter: Waiter,
        epoch: Epoch,
        sequence: Sequence,
        standing: Standing,
        completed: bool,
    ) {
        let Waiter { caller, tag, .. } = waiter;
        self.answers.push(Answered { caller, tag, epoch, sequence, standing, completed });
    }

    /// Answers those waiters of a transaction that `wants` selects, by what they wait for and until when.
    pub(super) fn answer_waiters(
        &mut self,
        epoch: Epoch,
        sequence: Sequence,
        standing: Standing,
        completed: bool,
        wants: impl Fn(Wait, Millis) -> bool,
    ) {
        let Some(flight) = self.flights.get_mut(epoch, sequence) else { return };
        let answers = &mut self.answers;
        let mut answer = |Waiter { caller, tag, .. }| {
            answers.push(Answered { caller, tag, epoch, sequence, standing, completed });
        };
        let first_by_ms = flight.answer_by_ms;
        if let Some(waiter) = flight.waiter.take_if(|waiter| wants(waiter.wait, first_by_ms)) {
            answer(waiter);
        }
        if flight.has_more_waiters {
            let waiters = self.more_waiters.get_mut(&(epoch, sequence)).expect("the flag says so");
            for told in waiters.extract_if(.., |waiting| wants(waiting.waiter.wait, waiting.answer_by_ms)) {
                answer(told.waiter);
            }
            if waiters.is_empty() {
                self.more_waiters.remove(&(epoch, sequence));
                flight.has_more_waiters = false;
            }
        }
    }

    /// The earliest time at which a waiter of a transaction is to be answered, whatever it waits for.
    pub(super) fn first_answer_by(&self, epoch: Epoch, sequence: Sequence) -> Millis {
        let Some(flight) = self.flights.get(epoch, sequence) else { return Millis::MAX };
        let first = if flight.waiter.is_some() { flight.answer_by_ms } else { Millis::MAX };
        if !flight.has_more_waiters {
            return first;
        }
        let more = self.more_waiters.get(&(epoch, sequence)).into_iter().flatten();
        more.map(|waiting| waiting.answer_by_ms).fold(first, Millis::min)
    }

    /// Lets a caller wait, at most until a time.
    pub(super) fn add_waiter(
        &mut self,
        epoch: Epoch,
        sequence: Sequence,
        waiter: Waiter,
        answer_by_ms: Millis,
    ) {
        let flight = self.flights.get_mut(epoch, sequence).expect("only on unfinished transactions");
        if matches!(flight.phase, Phase::Ending(_)) {
            flight
                .branches
                .as_slice()
                .iter()
                .for_each(|branch| self.outbox.await_confirms(branch.participant));
        }
        if flight.waiter.is_none() {
            flight.waiter = Some(waiter);
            flight.answer_by_ms = answer_by_ms;
        } else {
            flight.has_more_waiters = true;
            self.more_waiters.entry((epoch, sequence)).or_default().push(Waiting { waiter, answer_by_ms });
        }
        self.next_deadline_ms = self.next_deadline_ms.min(answer_by_ms);
    }

    /// Until when a caller waits who named no time.
    pub(super) fn default_answer_by(&self) -> Millis {
        self.now_ms + self.config.default_timeout_ms
    }

    /// Answers at once what can be answered of an unfinished transaction; else lets the caller wait with the others.
    pub(super) fn answer_or_wait(
        &mut self,
        epoch: Epoch,
        sequence: Sequence,
        waiter: Waiter,
        answer_by_ms: Millis,
    ) {
        let Some(flight) = self.flights.get(epoch, sequence) else {
            let decision = self.landed(epoch, sequence);
            let standing = decision.map_or(Standing::Pending, Standing::Decided);
            self.answer(waiter, epoch, sequence, standing, decision.is_some());
            return;
        };
        match (flight.phase, waiter.wait) {
            (Phase::Ending(decision), Wait::Decided | Wait::Reserved) => {
                self.answer(waiter, epoch, sequence, Standing::Decided(decision), false);
            }
            (Phase::Trying, Wait::Reserved) if flight.is_held() => {
                self.answer(waiter, epoch, sequence, Standing::Reserved, false);
            }
            _ => self.add_waiter(epoch, sequence, waiter, answer_by_ms),
        }
    }

    /// Lets a caller wait for an unfinished transaction, or answers at once.
    pub fn wait_for(&mut self, epoch: Epoch, sequence: Sequence, waiter: Waiter) {
        self.answer_or_wait(epoch, sequence, waiter, self.default_answer_by());
    }
}
