//! What time alone causes: deadlines, answers to callers who have waited long enough, retries, stalled participants.

use escrow_invariants::{Canary, canary};
use escrow_types::{Epoch, Millis, ParticipantId, Reason, Sequence};

use super::flight::{BranchState, Phase, Record};
use super::{Decision, Driver, LinkKind, LinkState, Standing};

/// How many flights are looked at for passed deadlines in a millisecond at most, on average: a few per cent of the time.
const LOOKS_PER_MS: usize = 20_000;

/// A decision that its branches imply is logged when they have not all ended after this time to twice this time. Until then a
/// crash leaves it to be asked for: right, but no answer while one of them is away.
const LOG_IMPLIED_MS: Millis = 250;

impl Driver {
    /// Does what is due. To be called every few milliseconds; costs next to nothing when nothing is due.
    pub fn tick(&mut self, now_ms: Millis) {
        self.hear_time(now_ms);
        if now_ms >= self.next_deadline_ms && now_ms >= self.next_pass_ms {
            self.pass_deadlines(now_ms);
            self.next_pass_ms = now_ms + (self.flights.len() / LOOKS_PER_MS) as Millis;
        }
        self.log_overdue(now_ms);
        self.retry_calls(now_ms);
        self.find_stalled(now_ms);
        for link in self.links.iter_mut() {
            if link.kind == LinkKind::Unary && link.state == LinkState::Down && now_ms >= link.next_attempt_ms
            {
                // Half open: the next transaction finds out.
                link.state = LinkState::Waiting;
            }
        }
    }

    /// The earliest time at which [`Driver::tick`] has something to do, for a shell that sleeps.
    pub fn next_wake_ms(&self) -> Millis {
        let retry = self.troubles.values().map(|trouble| trouble.next_attempt_ms).filter(|&at| at != 0).min();
        let log = if self.unlogged > 0 { self.next_log_ms } else { Millis::MAX };
        self.next_deadline_ms.max(self.next_pass_ms).min(retry.unwrap_or(Millis::MAX)).min(log)
    }

    fn log_overdue(&mut self, now_ms: Millis) {
        if self.unlogged == 0 || now_ms < self.next_log_ms {
            return;
        }
        self.next_log_ms = now_ms + LOG_IMPLIED_MS.max((self.flights.len() / LOOKS_PER_MS) as Millis);
        let mut overdue = Vec::new();
        for (epoch, sequence, flight) in self.flights.iter_mut() {
            match flight.record {
                Record::Unlogged => flight.record = Record::Overdue,
                Record::Overdue => overdue.push((epoch, sequence)),
                Record::Complete | Record::Logging => {}
            }
        }
        for (epoch, sequence) in overdue {
            self.log_decision(epoch, sequence);
        }
    }

    /// It was left over, and its time is up: what is not reserved by now never will be. What its branches say then decides.
    pub(super) fn fence(&mut self, epoch: Epoch, sequence: Sequence, reason: Reason) {
        let Some(flight) = self.flights.get_mut(epoch, sequence) else { return };
        if flight.fencing.is_some() {
            return;
        }
        flight.fencing = Some(reason);
        for branch in flight.branches.as_mut_slice() {
            // A Try that is out may still be answered; whichever comes first counts.
            branch.under_way = false;
        }
        self.send_open_branches(epoch, sequence, None);
    }

    /// A connection may stand while the process behind it does nothing (stopped, swapping, a half-open connection).
    fn find_stalled(&mut self, now_ms: Millis) {
        let limit = self.config.stalled_after_ms;
        let is_late = |link: &&super::Link| {
            let connected = link.kind == LinkKind::Stream && link.state == LinkState::Ready;
            connected && link.asked_ms != 0 && now_ms.saturating_sub(link.asked_ms) > limit
        };
        let late: Vec<ParticipantId> = self.links.iter().filter(is_late).map(|link| link.id).collect();
        for participant in late {
            let waiting = self.is_waiting_for(participant);
            let link = self.links.get_mut(participant).expect("just listed");
            link.stalled = waiting;
            if !waiting {
                link.asked_ms = 0;
            }
        }
    }

    fn pass_deadlines(&mut self, now_ms: Millis) {
        let mut next = Millis::MAX;
        let mut overdue = Vec::new();
        for (epoch, sequence, flight) in self.flights.iter() {
            let mut due = Millis::MAX;
            if flight.phase == Phase::Trying
                && flight.fencing.is_none()
                && !(flight.one_phase && flight.is_sent())
            {
                due = flight.deadline_ms;
            }
            if flight.has_more_waiters {
                due = due.min(self.first_answer_by(epoch, sequence));
            } else if flight.waiter.is_some() {
                due = due.min(flight.answer_by_ms);
            }
            if due <= now_ms {
                overdue.push((epoch, sequence));
            } else {
                next = next.min(due);
            }
        }
        self.next_deadline_ms = next;
        for (epoch, sequence) in overdue {
            self.pass_deadline(now_ms, epoch, sequence);
            let Some(flight) = self.flights.get(epoch, sequence) else { continue };
            if flight.phase != Phase::Deciding {
                // Whoever else waits, and the deadline itself.
                let deadline = if flight.phase == Phase::Trying { flight.deadline_ms } else { Millis::MAX };
                let deadline = if deadline <= now_ms { Millis::MAX } else { deadline };
                let due = self.first_answer_by(epoch, sequence).min(deadline);
                self.next_deadline_ms = self.next_deadline_ms.min(due);
            }
        }
    }

    fn pass_deadline(&mut self, now_ms: Millis, epoch: Epoch, sequence: Sequence) {
        let flight = self.flights.get(epoch, sequence).expect("just seen");
        let standing = match flight.phase {
            // The participant decides a one-phase transaction, once it was sent: its answer must be awaited.
            Phase::Trying if flight.one_phase && flight.is_sent() => Standing::Pending,
            Phase::Trying if flight.fencing.is_some() => Standing::Pending,
            Phase::Trying if flight.deadline_ms <= now_ms && flight.may_be_decided() => {
                self.fence(epoch, sequence, Reason::DeadlineExceeded);
                Standing::Pending
            }
            Phase::Trying if flight.deadline_ms <= now_ms => {
                self.decide(epoch, sequence, Decision::Cancel(Reason::DeadlineExceeded));
                return;
            }
            // A two-step transaction: the caller is told where it stands, the hold goes on.
            Phase::Trying if flight.is_held() => Standing::Reserved,
            Phase::Trying => Standing::Pending,
            Phase::Deciding if canary::is_on(Canary::TimeoutOverridesDecision) => {
                self.decide(epoch, sequence, Decision::Cancel(Reason::DeadlineExceeded));
                return;
            }
            // Being logged: the answer is a moment away.
            Phase::Deciding => return,
            Phase::Ending(decision) => Standing::Decided(decision),
        };
        self.answer_waiters(epoch, sequence, standing, false, |_, answer_by_ms| answer_by_ms <= now_ms);
    }

    fn retry_calls(&mut self, now_ms: Millis) {
        if self.troubles.is_empty() {
            return;
        }
        let due: Vec<_> = self
            .troubles
            .iter()
            .filter(|(_, trouble)| trouble.next_attempt_ms != 0 && trouble.next_attempt_ms <= now_ms)
            .map(|(&key, _)| key)
            .collect();
        for (epoch, sequence, participant) in due {
            if let Some(trouble) = self.troubles.get_mut(&(epoch, sequence, participant)) {
                trouble.next_attempt_ms = 0;
            }
            self.send_open_branches(epoch, sequence, Some(participant));
        }
    }

    /// Whether any branch of a participant waits for an answer.
    fn is_waiting_for(&self, participant: ParticipantId) -> bool {
        let waits = |state: BranchState| matches!(state, BranchState::Trying | BranchState::Ending);
        self.flights.iter().any(|(_, _, flight)| {
            let mut branches = flight.branches.as_slice().iter();
            branches
                .any(|branch| branch.participant == participant && branch.under_way && waits(branch.state))
        })
    }
}
