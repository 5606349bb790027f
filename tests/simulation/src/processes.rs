//! How processes go on: turns, writes, and what they put out.

use prost::Message as _;

use crate::disk::write_time;
use crate::external::External;
use crate::network::Way;
use crate::observe::Xid;
use crate::participant::FromSession;
use crate::time::MS;
use crate::trace::trace;
use crate::violation::{Step, Violation, check};
use crate::world::{Event, Node, World};
use escrow_coordinator::CoordinatorError;
use escrow_coordinator::stepped::Stepped;
use escrow_participant::ParticipantError;
use escrow_proto::v1;
use escrow_proto::v1::exchange_request::Message;
use escrow_tcc::machine::Decision;
use escrow_types::{Epoch, ParticipantId};

impl World {
    // The coordinator.

    pub(crate) fn coordinator_turn_due(&mut self) {
        if self.coordinator.server.is_some() && !self.coordinator.turn_due {
            self.coordinator.turn_due = true;
            let after = self.chance.below(MS / 2);
            self.at(after, Event::Turn(Node::Coordinator, self.coordinator.life));
        }
    }

    pub(crate) fn coordinator_turn(&mut self) -> Step {
        self.coordinator.turn_due = false;
        let Some(server) = &mut self.coordinator.server else { return Ok(()) };
        match server.turn() {
            Ok(()) => self.coordinator_puts_out(),
            Err(error) => self.coordinator_fails(&error),
        }
    }

    /// Messages, calls and answers leave; what was appended is going to be written.
    pub(crate) fn coordinator_puts_out(&mut self) -> Step {
        for shard in 0..self.shards() {
            while let Some(message) =
                self.coordinator.server.as_mut().and_then(|server| server.next_message(ParticipantId(shard)))
            {
                self.check_message(&message)?;
                if let Some(id) = self.current[usize::from(shard)] {
                    self.send(id, Way::ToShard, &message.encode_to_vec(), true);
                }
            }
        }
        while let Some(call) = self.coordinator.server.as_mut().and_then(Stepped::next_call) {
            External::check_call(&call.request, &self.facts)?;
            self.call_external(call);
        }
        self.answers_leave()?;
        let Some(server) = &self.coordinator.server else { return Ok(()) };
        let (life, has_work, is_settled) = (self.coordinator.life, server.has_work(), server.is_settled());
        if has_work {
            self.coordinator_turn_due();
        }
        if !is_settled && !self.coordinator.write_due {
            self.coordinator.write_due = true;
            let after = write_time(&self.faults, &mut self.chance);
            self.at(after, Event::Write(Node::Coordinator, life));
        }
        Ok(())
    }

    /// Invariant 5 on the wire, and the one-phase shortcut: what is not durable yet must not be spoken of.
    fn check_message(&self, message: &v1::ExchangeRequest) -> Step {
        let decision = |epoch: u32, sequence: u64| {
            let xid: Xid = (Epoch(epoch), sequence);
            (xid, self.facts.begun.get(&xid).map(|begun| begun.decision))
        };
        match &message.message {
            Some(Message::TryAndConfirm(columns)) => {
                for &sequence in &columns.sequence {
                    let (xid, begun) = decision(columns.epoch, sequence);
                    check!(
                        OneExecution,
                        begun.is_some(),
                        "TryAndConfirm of {xid:?} left before its Begin was durable"
                    );
                }
            }
            Some(Message::Confirm(columns)) => {
                for &sequence in &columns.sequence {
                    let (xid, decided) = decision(columns.epoch, sequence);
                    let ok = decided == Some(Some(Decision::Confirm));
                    check!(
                        DecisionBeforePhaseTwo,
                        ok,
                        "Confirm of {xid:?} left, its durable state is {decided:?}"
                    );
                }
            }
            Some(Message::Cancel(columns)) => {
                for &sequence in &columns.sequence {
                    let (xid, decided) = decision(columns.epoch, sequence);
                    // A question that comes late is about what has finished meanwhile: Cancel then changes nothing.
                    let finished = self.facts.begun.get(&xid).is_some_and(|begun| begun.finished);
                    let ok = finished || matches!(decided, None | Some(Some(Decision::Cancel(_))));
                    check!(
                        DecisionBeforePhaseTwo,
                        ok,
                        "Cancel of {xid:?} left, its durable state is {decided:?}"
                    );
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The server ended by itself.
    pub(crate) fn coordinator_fails(&mut self, error: &CoordinatorError) -> Step {
        trace!(self, "the coordinator ends: {error}");
        let log = matches!(error, CoordinatorError::Journal(_) | CoordinatorError::File { .. });
        if !log {
            return Err(Violation::other(format!("the coordinator ended: {error}")));
        }
        self.dies(Node::Coordinator);
        Ok(())
    }

    // Participants.

    pub(crate) fn participant_turn_due(&mut self, at: usize) {
        let process = &mut self.participants[at];
        if process.server.is_some() && !process.turn_due {
            process.turn_due = true;
            let life = process.life;
            let after = self.chance.below(MS / 2);
            self.at(after, Event::Turn(Node::Participant(at), life));
        }
    }

    pub(crate) fn participant_turn(&mut self, at: usize) -> Step {
        self.participants[at].turn_due = false;
        // What has arrived reaches the mailbox, then the owner.
        self.sessions_put_out(at);
        let Some(server) = &mut self.participants[at].server else { return Ok(()) };
        if let Err(error) = server.turn() {
            return self.participant_fails(at, &error);
        }
        self.sessions_put_out(at);
        let process = &mut self.participants[at];
        let server = process.server.as_ref().expect("it did not end");
        let (has_work, is_settled, life) = (server.has_work(), server.is_settled(), process.life);
        if has_work {
            self.participant_turn_due(at);
        }
        if !is_settled && !self.participants[at].write_due {
            self.participants[at].write_due = true;
            let after = write_time(&self.faults, &mut self.chance);
            self.at(after, Event::Write(Node::Participant(at), life));
        }
        Ok(())
    }

    fn sessions_put_out(&mut self, at: usize) {
        for (id, out) in self.participants[at].poll() {
            match out {
                FromSession::Message(message) => {
                    self.send(id, Way::ToCoordinator, &message.encode_to_vec(), true);
                }
                FromSession::Ended(status) => {
                    trace!(self, "participant {at} ends connection {id}: {status:?}");
                    self.participant_ends(id);
                }
            }
        }
    }

    fn participant_fails(&mut self, at: usize, error: &ParticipantError) -> Step {
        trace!(self, "participant {at} ends: {error}");
        let log = matches!(error, ParticipantError::Journal(_) | ParticipantError::LogFailed(_));
        if !log {
            return Err(Violation::other(format!("participant {at} ended: {error}")));
        }
        self.dies(Node::Participant(at));
        Ok(())
    }

    pub(crate) fn participant_checkpoint(&mut self, at: usize) -> Step {
        let Some(server) = &mut self.participants[at].server else { return Ok(()) };
        if let Err(error) = server.checkpoint() {
            return self.participant_fails(at, &error);
        }
        let life = self.participants[at].life;
        if self.faults.checkpoint_every > 0 {
            let after = self.chance.below(2 * self.faults.checkpoint_every);
            self.at(after, Event::Checkpoint(at, life));
        }
        self.at(MS, Event::Background(Node::Participant(at), life));
        Ok(())
    }

    // Disks.

    /// Whether the process dies in the middle of what it writes now, and after how many operations.
    pub(crate) fn cuts_in_write(&mut self) -> Option<u64> {
        let dies = self.faults.kill_every > 0
            && self.chance.permille(self.faults.in_write_permille / 20)
            && !self.is_calm;
        dies.then(|| self.chance.below(8))
    }

    pub(crate) fn write(&mut self, node: Node) -> Step {
        let cut = self.cuts_in_write();
        let fails = self.chance.permille(self.faults.sync_error_permille);
        let disk = match node {
            Node::Coordinator => &self.coordinator.disk,
            Node::Participant(at) => &self.participants[at].disk,
        };
        if let Some(operations) = cut {
            disk.power_off_after(operations);
        } else if fails {
            disk.fail_next_sync();
        }
        match node {
            Node::Coordinator => {
                self.coordinator.write_due = false;
                let Some(server) = &mut self.coordinator.server else { return Ok(()) };
                server.write();
                self.observe_coordinator()?;
            }
            Node::Participant(at) => {
                self.participants[at].write_due = false;
                let Some(server) = &mut self.participants[at].server else { return Ok(()) };
                server.write();
                self.observe_participant(at)?;
            }
        }
        if cut.is_some() {
            trace!(self, "{node:?} dies in a write");
            self.dies(node);
            return Ok(());
        }
        let life = self.life(node);
        if self.chance.one_in(4) {
            self.at(MS, Event::Background(node, life));
        }
        match node {
            Node::Coordinator => self.coordinator_turn_due(),
            Node::Participant(at) => self.participant_turn_due(at),
        }
        Ok(())
    }

    pub(crate) fn observe_coordinator(&mut self) -> Step {
        let Some(server) = &self.coordinator.server else { return Ok(()) };
        for entry in self.coordinator.observer.read_on(server.journal())? {
            self.facts.logged(&entry.payload)?;
        }
        Ok(())
    }

    pub(crate) fn observe_participant(&mut self, at: usize) -> Step {
        let process = &mut self.participants[at];
        let Some(server) = &process.server else { return Ok(()) };
        for entry in process.log.read_on(server.journal())? {
            let observer = process.observers.get_mut(&entry.group.0);
            let unknown = || Violation::other(format!("an entry of group {}", entry.group.0));
            observer.ok_or_else(unknown)?.logged(&entry.payload, &mut self.facts)?;
        }
        Ok(())
    }
}
