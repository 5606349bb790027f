//! Callers and operators: they ask, ask again, hear nothing, change their minds, and must never be told two things.
//!
//! To a caller an outcome is one of three: confirmed, canceled, or unknown, and unknown stays unknown until it asks again.

use escrow_proto::v1;
use escrow_tcc::driver::Standing;
use escrow_tcc::machine::Decision;
use escrow_types::{Epoch, Reason, Xid};
use tonic::{Code, Status};

use crate::coordinator::{BULK, Call, Reply};
use crate::jobs::{ACCOUNTS, Job, Plan, columns, decision};
use crate::network::delay;
use crate::time::{MS, Time};
use crate::trace::trace;
use crate::violation::{Step, Violation, check};
use crate::world::{Event, World};

/// A call under way.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    /// Whose, if it is a caller's.
    pub(crate) job: Option<usize>,
    pub(crate) other_content: bool,
    /// When it was made, its caller had been told of the outcome, or of the reservation. An answer that was made before that
    /// may come after it.
    knew: bool,
    /// The outcome, and the decision was in the log.
    knew_end: bool,
    pub(crate) call: Call,
}

impl World {
    /// A new job, while there are to be more.
    pub(crate) fn new_job(&mut self) {
        if self.jobs.len() < self.faults.jobs && !self.is_calm {
            let number = self.jobs.len();
            let job = Job::new(number, self.faults.hot, self.faults.external, &mut self.chance);
            self.jobs.push(job);
            self.at(0, Event::Caller(number));
            let next = self.chance.below(2 * self.faults.job_every);
            self.at(next, Event::NewJob);
        }
    }

    /// A caller acts: asks for the first time or again.
    pub(crate) fn caller(&mut self, number: usize) {
        let job = &self.jobs[number];
        // Who knows asks to be shown it, or whether something else can be had under the same id.
        let is_told = job.told.is_some();
        let other_content = is_told && (self.replicas == 1 || self.chance.one_in(2));
        let call = match (is_told, other_content) {
            (true, true) => job.other_content(),
            (true, false) => job.look_up(),
            _ => job.next_call(&mut self.chance),
        };
        if matches!(job.plan, Plan::Bulk { .. }) && job.told.is_none() && self.chance.one_in(2) {
            self.bulk(number);
        } else {
            self.attempt(Some(number), other_content, call);
        }
        self.jobs[number].attempts += 1;
        // Once told, it asks a few times more: it must always hear the same.
        let is_told = self.jobs[number].told.is_some();
        // While two believe that they lead, one of them might answer out of its past.
        let is_split = is_told && !self.is_calm && self.believers().len() > 1;
        if !is_told || is_split || self.chance.one_in(3) {
            let patience = match (self.is_calm, is_split) {
                (true, _) => 300 * MS,
                (false, true) => self.chance.between(5 * MS, 60 * MS),
                (false, false) => self.chance.between(5 * MS, 600 * MS),
            };
            self.at(patience, Event::Caller(number));
        }
    }

    fn attempt(&mut self, job: Option<usize>, other_content: bool, call: Call) {
        self.next_attempt += 1;
        let id = self.next_attempt;
        trace!(self, "call {id} of job {job:?}: {call:?}");
        let knew = job.is_some_and(|number| self.jobs[number].told.is_some() || self.jobs[number].reserved);
        // A caller may know before the coordinator's log does: by the word of the only participant, or by what the branches imply.
        let is_logged = |xid: &(Epoch, u64)| {
            let begun = &self.facts.begun[xid];
            begun.decision.is_some() && !begun.implied
        };
        let knew_end = job
            .map(|number| &self.jobs[number])
            .is_some_and(|job| job.told.is_some() && self.xids_of(job).iter().any(is_logged));
        self.attempts.insert(id, Attempt { job, other_content, knew, knew_end, call });
        if !self.loses() {
            let delay = self.delay();
            let to = self.whom_to_ask(knew);
            self.at(delay, Event::Request(id, to));
        }
    }

    /// The replicas of the coordinator that take themselves for its leader.
    fn believers(&self) -> Vec<usize> {
        (0..self.replicas).filter(|&at| self.coordinators[at].leads.is_some()).collect()
    }

    /// Mostly the coordinator that leads; now and then one that does not, or not any more. Who knows an outcome asks the one that
    /// has believed for longest that it leads: it must not answer out of its past.
    fn whom_to_ask(&mut self, knew: bool) -> usize {
        if self.replicas == 1 {
            return 0;
        }
        let believers = self.believers();
        match self.leader() {
            Some(leader) if self.is_calm => leader,
            Some(leader) if knew => {
                let oldest = believers.iter().min_by_key(|&&at| self.coordinators[at].leads);
                oldest.copied().unwrap_or(leader)
            }
            _ if self.chance.one_in(8) || believers.is_empty() => self.chance.index(self.replicas),
            // One that was deposed may not know it yet.
            _ => believers[self.chance.index(believers.len())],
        }
    }

    /// A request that was sent, or an answer, is lost.
    pub(crate) fn loses(&mut self) -> bool {
        self.chance.permille(self.faults.lose_permille)
    }

    pub(crate) fn delay(&mut self) -> Time {
        delay(&self.faults, &mut self.chance)
    }

    /// A call arrives at the coordinator.
    pub(crate) fn request(&mut self, id: u64, at: usize) {
        let Some(attempt) = self.attempts.get(&id) else { return };
        self.coordinators[at].call(id, attempt.call.clone());
        self.coordinator_turn_due(at);
    }

    fn bulk(&mut self, number: usize) {
        let at = self.whom_to_ask(false);
        let Some(server) = &mut self.coordinators[at].server else { return };
        for message in columns(&[(number, &self.jobs[number])]) {
            let usd = escrow_types::Currency::USD;
            server.columns(BULK, usd, escrow_tcc::driver::Wait::Decided, message);
        }
        self.coordinator_turn_due(at);
    }

    /// Answers that the coordinator has put out leave.
    pub(crate) fn answers_leave(&mut self, at: usize) -> Step {
        while let Some(batch) = self.coordinators[at].bulk.as_mut().and_then(|bulk| bulk.try_recv().ok()) {
            for answered in batch {
                let number = answered.tag as usize;
                trace!(self, "bulk answer to job {number}: {:?}", answered.standing);
                let standing = answered.standing;
                if let Standing::Decided(decision) = standing {
                    self.facts.check_told((answered.epoch, answered.sequence), decision)?;
                }
                if !self.loses() {
                    self.told_standing(number, standing)?;
                }
            }
        }
        for (id, result) in self.coordinators[at].answered() {
            trace!(self, "answer to call {id}: {}", describe(&result));
            if let Ok(reply) = &result {
                self.check_reply(id, reply)?;
            }
            if !self.loses() {
                let delay = self.delay();
                self.at(delay, Event::Answer(id, Box::new(result)));
            }
        }
        Ok(())
    }

    /// What leaves as an answer is durable, whether or not it arrives.
    fn check_reply(&mut self, id: u64, reply: &Reply) -> Step {
        let is_callers = self.attempts.get(&id).is_some_and(|attempt| attempt.job.is_some());
        let Some(decision) = decision(reply.state, reply.reason).filter(|_| is_callers) else {
            return Ok(());
        };
        let xid: Xid =
            reply.xid.parse().map_err(|_| Violation::other(format!("an answer without xid: {reply:?}")))?;
        self.facts.check_told((xid.epoch, xid.sequence), decision)
    }

    /// An answer arrives at its caller.
    pub(crate) fn answer(&mut self, id: u64, result: Result<Reply, Status>) -> Step {
        let Some(attempt) = self.attempts.remove(&id) else { return Ok(()) };
        let Some(number) = attempt.job else { return Ok(()) };
        match result {
            Ok(reply) => {
                check!(
                    OneExecution,
                    !attempt.other_content,
                    "job {number}: other content was taken: {reply:?}"
                );
                if let Some(decision) = decision(reply.state, reply.reason) {
                    return self.told_decision(number, decision);
                }
                if reply.state == v1::TransactionState::Reserved {
                    self.jobs[number].reserved = true;
                }
                let known = self.jobs[number].told;
                check!(DecisionStands, !attempt.knew_end, "job {number} was told {known:?}, then {reply:?}");
                Ok(())
            }
            Err(status) => Self::refused(number, &attempt, &status),
        }
    }

    fn told_standing(&mut self, number: usize, standing: Standing) -> Step {
        match standing {
            Standing::Decided(decision) => self.told_decision(number, decision),
            Standing::Reserved => Err(Violation::other(format!("job {number}: RESERVED for a transfer"))),
            Standing::Pending => Ok(()),
            // It may have been refused before its caller heard of it in another way.
            Standing::Refused(reason) => Self::refused_because(number, false, false, Some(reason)),
        }
    }

    fn told_decision(&mut self, number: usize, decision: Decision) -> Step {
        let job = &mut self.jobs[number];
        let first = *job.told.get_or_insert(decision);
        // The reason of a Cancel is told as well, and stays what it was.
        check!(DecisionStands, first == decision, "job {number} was told {first:?}, then {decision:?}");
        Ok(())
    }

    fn refused(number: usize, attempt: &Attempt, status: &Status) -> Step {
        let reason = escrow_service::reason_of(status);
        let asked_end = matches!(attempt.call, Call::Confirm(_) | Call::Cancel(_));
        match (&attempt.call, reason) {
            // The coordinator went away.
            (_, None) if status.code() == Code::Unavailable => Ok(()),
            // Too late, or decided otherwise: a look-up will tell.
            (_, Some(Reason::AlreadyDecided | Reason::NotReserved)) if asked_end => Ok(()),
            (Call::Get(_) | Call::Confirm(_) | Call::Cancel(_), Some(Reason::TransactionNotFound)) => {
                check!(AcknowledgedSurvives, !attempt.knew, "job {number} was acknowledged and is not found");
                Ok(())
            }
            _ => Self::refused_because(number, attempt.other_content, attempt.knew, reason),
        }
    }

    fn refused_because(number: usize, other_content: bool, knew: bool, reason: Option<Reason>) -> Step {
        match reason {
            Some(Reason::TransactionIdReused) if other_content => Ok(()),
            // Asked again elsewhere.
            Some(Reason::OutcomeUnknown | Reason::NotLeader) => Ok(()),
            Some(
                Reason::Overloaded | Reason::ParticipantUnavailable | Reason::Paused | Reason::ShuttingDown,
            ) => {
                check!(
                    AcknowledgedSurvives,
                    !knew,
                    "job {number} was acknowledged, and then refused as new: {reason:?}"
                );
                Ok(())
            }
            _ => Err(Violation::other(format!("job {number} was refused: {reason:?}"))),
        }
    }

    // Operators.

    /// An operator meddles with an unfinished transaction.
    pub(crate) fn operate(&mut self) {
        let Some(at) = self.leader() else { return };
        let server = self.coordinators[at].server.as_ref().expect("it leads");
        let live = server.driver().machine().live();
        let all: Vec<_> = live
            .iter()
            .map(|(epoch, sequence, live)| {
                (epoch, sequence, live.content.participants().len(), live.decision.is_none())
            })
            .collect();
        if all.is_empty() {
            return;
        }
        let (epoch, sequence, branches, undecided) = all[self.chance.index(all.len())];
        let xid = Xid::new(escrow_types::Partition(0), epoch, sequence).to_string();
        let call = match self.chance.below(4) {
            0 => Call::OperatorCancel(xid),
            // Forcing a one-phase transaction, or one that was left over, guesses at what its participants did, and may
            // contradict it.
            1 if branches > 1 && undecided && !self.facts.may_be_implied((epoch, sequence)) => {
                Call::OperatorForce(xid, self.chance.one_in(2))
            }
            2 => {
                self.is_paused_by_operator = !self.is_paused_by_operator;
                Call::SetPaused(self.is_paused_by_operator)
            }
            _ => Call::OperatorRetry(xid),
        };
        self.attempt(None, false, call);
    }

    /// New work is let in again, whoever stopped it.
    pub(crate) fn resume(&mut self) {
        // What operators have asked for and has not arrived yet is forgotten: it would arrive after this.
        self.attempts.retain(|_, attempt| attempt.job.is_some());
        self.attempt(None, false, Call::SetPaused(false));
    }

    /// An account is frozen or let go.
    pub(crate) fn freeze(&mut self, account: usize, frozen: bool) {
        let name = ACCOUNTS[account].to_owned();
        trace!(self, "{name} frozen: {frozen}");
        for at in 0..self.participants.len() {
            self.participants[at].set_frozen(name.clone(), frozen);
            self.participant_turn_due(at);
        }
    }

    /// The xid under which a job is known, if it began.
    pub(crate) fn xids_of(&self, job: &Job) -> Vec<(Epoch, u64)> {
        let of = self.facts.begun.iter().filter(|(_, begun)| begun.key == job.key());
        of.map(|(xid, _)| *xid).collect()
    }
}

fn describe(result: &Result<Reply, Status>) -> String {
    match result {
        Ok(reply) => format!("{:?} {}", reply.state, reply.xid),
        Err(status) => format!("{:?}: {}", status.code(), status.message()),
    }
}
