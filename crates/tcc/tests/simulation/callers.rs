//! Callers and operators: they ask, ask again, change their minds, and must never be told two things.

use escrow_tcc::driver::{CallerId, Standing, Wait, Waiter};
use escrow_types::Reason;

use crate::coordinator::Coordinator;
use crate::jobs::{Job, Then};
use crate::world::World;

impl World {
    pub(crate) fn waiter(&mut self, job: usize, other_content: bool) -> Waiter {
        let wait = match self.prng.below(3) {
            0 => Wait::Decided,
            1 => Wait::Completed,
            _ if self.jobs[job].is_two_step() => Wait::Reserved,
            _ => Wait::Decided,
        };
        self.next_tag += 1;
        self.tags.insert(self.next_tag, (job, other_content));
        Waiter { caller: CallerId(0), tag: self.next_tag, wait }
    }

    pub(crate) fn submit_new(&mut self) {
        if self.jobs.len() < 40 {
            let number = self.jobs.len() as u64;
            self.jobs.push(Job::new(number, &mut self.prng));
            self.submit(number as usize);
        }
    }

    pub(crate) fn ask_again(&mut self) {
        if self.jobs.is_empty() {
            return;
        }
        let job = self.prng.index(self.jobs.len());
        if self.jobs[job].told.is_some() && self.prng.one_in(4) {
            self.submit_other_content(job);
        } else {
            self.submit(job);
        }
    }

    pub(crate) fn submit(&mut self, index: usize) {
        let timeout_ms = if self.prng.one_in(4) { 1 + self.prng.below(300) } else { 0 };
        let waiter = self.waiter(index, false);
        let (job, shards) = (&self.jobs[index], self.shards.len());
        let Coordinator { driver, older, .. } = &mut self.coordinator;
        if let Some(request) = job.transfer(timeout_ms) {
            driver.submit_transfer(self.now, older, &request, waiter);
        }
        if let Some(request) = job.legs(shards, timeout_ms) {
            driver.submit_legs(self.now, older, request, waiter);
        }
    }

    pub(crate) fn submit_other_content(&mut self, index: usize) {
        let waiter = self.waiter(index, true);
        let (job, shards) = (&self.jobs[index], self.shards.len());
        let Coordinator { driver, older, .. } = &mut self.coordinator;
        if let Some(mut request) = job.transfer(0) {
            request.amount += 1;
            driver.submit_transfer(self.now, older, &request, waiter);
        }
        if let Some(mut request) = job.legs(shards, 0) {
            request.two_step = !request.two_step;
            driver.submit_legs(self.now, older, request, waiter);
        }
    }

    /// The caller of a two-step transaction that was told RESERVED does what it wants to do, again and again.
    pub(crate) fn end_a_hold(&mut self) {
        let held = |job: &Job| job.reserved && job.told.is_none() && job.then != Then::Nothing;
        let held: Vec<usize> = (0..self.jobs.len()).filter(|&job| held(&self.jobs[job])).collect();
        if held.is_empty() {
            return;
        }
        let index = held[self.prng.index(held.len())];
        let waiter = self.waiter(index, false);
        let job = &self.jobs[index];
        let Coordinator { driver, older, .. } = &mut self.coordinator;
        let row = driver.find(older, job.key).expect("what was told RESERVED is known");
        if row.outcome().is_some() {
            return;
        }
        // A refusal says: not yet, or already decided otherwise (the hold expired).
        let _ = match job.then {
            Then::Confirm => driver.confirm(row.epoch, row.sequence, None, waiter),
            Then::Half => driver.confirm(row.epoch, row.sequence, Some(job.half()), waiter),
            Then::Cancel | Then::Nothing => driver.cancel(row.epoch, row.sequence, waiter),
        };
    }

    pub(crate) fn operate(&mut self) {
        let driver = &mut self.coordinator.driver;
        let live: Vec<_> =
            driver.machine().live().iter().map(|(epoch, sequence, _)| (epoch, sequence)).collect();
        if live.is_empty() {
            return;
        }
        let (epoch, sequence) = live[self.prng.index(live.len())];
        let branches = driver.view(self.now, epoch, sequence).map_or(0, |view| view.branches.len());
        let _ = match self.prng.below(3) {
            0 => driver.operator_cancel(epoch, sequence),
            // Forcing a one-phase transaction guesses at what its participant did, and may contradict it.
            1 if branches > 1 => driver.force(epoch, sequence, self.prng.one_in(2), "simulated"),
            _ => driver.retry(epoch, sequence),
        };
    }

    pub(crate) fn told(&mut self, index: usize, other_content: bool, standing: Standing) {
        let job = &mut self.jobs[index];
        if other_content {
            assert_eq!(standing, Standing::Refused(Reason::TransactionIdReused), "invariant 6: {}", job.key);
            return;
        }
        match standing {
            Standing::Decided(decision) => {
                let first = *job.told.get_or_insert(decision);
                assert_eq!(first, decision, "invariant 4: {} was told both", job.key);
            }
            Standing::Reserved => {
                assert!(job.is_two_step());
                job.reserved = true;
            }
            Standing::Pending => {}
            Standing::Refused(Reason::ParticipantUnavailable) => {
                assert!(job.told.is_none() && !job.reserved, "{} is known", job.key);
            }
            Standing::Refused(reason) => panic!("{} was refused: {reason}", job.key),
        }
    }
}
