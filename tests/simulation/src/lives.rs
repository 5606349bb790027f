//! How processes die and come back: what is left on the disk, what a start finds, and what must have survived.

use escrow_participant::stepped::MemoryView;
use escrow_types::Epoch;

use crate::disk::{flip, leave};
use crate::jobs::Job;
use crate::time::MS;
use crate::trace::trace;
use crate::violation::{Step, Violation, check};
use crate::world::{Event, Node, World};

impl World {
    pub(crate) fn life(&self, node: Node) -> u32 {
        match node {
            Node::Coordinator(at) => self.coordinators[at].life,
            Node::Participant(at) => self.participants[at].life,
        }
    }

    /// The process is dead, its disk is as it left it, and it will be started again.
    pub(crate) fn dies(&mut self, node: Node) {
        match node {
            Node::Coordinator(at) => {
                self.coordinators[at].drop_server();
                leave(&self.coordinators[at].disk, &self.faults, &mut self.chance);
                self.coordinator_is_gone(at);
            }
            Node::Participant(at) => {
                self.participants[at].drop_server();
                leave(&self.participants[at].disk, &self.faults, &mut self.chance);
                self.participant_is_gone(at);
            }
        }
        self.calls_fail(node);
        let down = if self.is_calm { 10 * MS } else { self.chance.between(MS, 400 * MS) };
        self.at(down, Event::Restart(node));
    }

    pub(crate) fn restart(&mut self, node: Node) -> Step {
        let is_up = match node {
            Node::Coordinator(at) => self.coordinators[at].server.is_some(),
            Node::Participant(at) => self.participants[at].server.is_some(),
        };
        if is_up {
            return Ok(());
        }
        trace!(self, "{node:?} is started again");
        match node {
            Node::Coordinator(at) => self.start_coordinator(at),
            Node::Participant(at) => self.start_participant(at),
        }
    }

    pub(crate) fn start_coordinator(&mut self, at: usize) -> Step {
        let node = Node::Coordinator(at);
        let dir = self.coordinators[at].data_dir().to_owned();
        let disk = self.coordinators[at].disk.clone();
        let flipped = if self.chance.permille(self.faults.flip_permille) {
            flip(&disk, &dir, true, &mut self.chance)
        } else {
            None
        };
        let cut = self.cuts_in_write();
        if let Some(operations) = cut {
            disk.power_off_after(operations);
        }
        let started = self.coordinators[at].start();
        if let Some(flipped) = &flipped {
            trace!(self, "a flipped bit in {}: {:?}", flipped.path.display(), started.as_ref().err());
            flipped.repair(&disk);
        }
        match started {
            Ok(()) if cut.is_none() => {}
            Ok(()) => {
                self.dies(node);
                return Ok(());
            }
            Err(error) => {
                return self.start_fails(node, &error, cut.is_some() || flipped.is_some());
            }
        }
        let server = self.coordinators[at].server.as_ref().expect("just started");
        self.coordinators[at].observer.check_survived(server.journal())?;
        self.observe_coordinator(at)?;
        let life = self.coordinators[at].life;
        self.at(20 * MS, Event::Tick(at, life));
        if self.replicas == 1 {
            self.coordinator_leads(at)?;
        }
        self.coordinator_puts_out(at)
    }

    /// A coordinator leads, with a complete view of the log.
    pub(crate) fn coordinator_leads(&mut self, at: usize) -> Step {
        self.check_remembered(at)?;
        if self.is_calm {
            self.resume();
        }
        let life = self.coordinators[at].life;
        for shard in 0..self.shards() {
            self.at(0, Event::Connect(at, shard, life));
        }
        Ok(())
    }

    pub(crate) fn start_participant(&mut self, at: usize) -> Step {
        let dir = self.participants[at].data_dir().to_owned();
        let disk = self.participants[at].disk.clone();
        if self.chance.permille(self.faults.view_lost_permille) {
            trace!(self, "participant {at} has lost its views");
            self.participants[at].views.values().for_each(MemoryView::lose);
        }
        let flipped = if self.chance.permille(self.faults.flip_permille) {
            flip(&disk, &dir, false, &mut self.chance)
        } else {
            None
        };
        let cut = self.cuts_in_write();
        if let Some(operations) = cut {
            disk.power_off_after(operations);
        }
        let started = self.participants[at].start();
        if let Some(flipped) = &flipped {
            trace!(self, "a flipped bit in {}: {:?}", flipped.path.display(), started.as_ref().err());
            flipped.repair(&disk);
        }
        match started {
            Ok(()) if cut.is_none() => {}
            Ok(()) => {
                self.dies(Node::Participant(at));
                return Ok(());
            }
            Err(error) => {
                return self.start_fails(Node::Participant(at), &error, cut.is_some() || flipped.is_some());
            }
        }
        let process = &self.participants[at];
        let server = process.server.as_ref().expect("just started");
        process.log.check_survived(server.journal())?;
        let life = process.life;
        self.observe_participant(at)?;
        self.rests(Node::Participant(at))?;
        if self.faults.checkpoint_every > 0 {
            let after = self.chance.below(2 * self.faults.checkpoint_every);
            self.at(after, Event::Checkpoint(at, life));
        }
        Ok(())
    }

    /// A start may fail only for the disk's sake; then it is tried again.
    fn start_fails(&mut self, node: Node, error: &dyn std::error::Error, excused: bool) -> Step {
        let full = error.to_string().contains("full") || self.is_disk_full(node);
        // The server saw by itself what was lost: that of which it had a checkpoint already.
        let is_lost = error.to_string().contains("relied upon");
        check!(AcknowledgedSurvives, excused || !is_lost, "{node:?} has lost the end of its log: {error}");
        if !excused && !full {
            return Err(Violation::other(format!("{node:?} does not start: {error}")));
        }
        self.dies(node);
        Ok(())
    }

    /// What callers were told is known after every restart, and to every new leader (invariant 9); but not what began in later
    /// terms to a leader that hears only now that it was elected once.
    fn check_remembered(&self, at: usize) -> Step {
        let server = self.coordinators[at].server.as_ref().expect("it leads");
        let term = server.serves();
        let is_later = |&(epoch, _): &(Epoch, u64)| term.is_some_and(|term| u64::from(epoch.0) > term);
        let is_of_the_future = |job: &Job| {
            let xids = self.xids_of(job);
            !xids.is_empty() && xids.iter().all(is_later)
        };
        let is_acknowledged = |job: &Job| job.reserved || job.told.is_some();
        for (number, job) in self.jobs.iter().enumerate().filter(|(_, job)| is_acknowledged(job)) {
            if is_of_the_future(job) {
                continue;
            }
            check!(
                AcknowledgedSurvives,
                server.knows(job.key()),
                "job {number} was acknowledged and is forgotten"
            );
        }
        Ok(())
    }
}
