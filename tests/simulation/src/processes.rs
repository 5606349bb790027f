//! How processes go on: turns, writes, and what they put out.

use prost::Message as _;

use crate::coordinator::{BULK, CoordinatorProcess};
use crate::disk::write_time;
use crate::external::External;
use crate::network::Way;
use crate::observe::{Facts, Xid};
use crate::participant::{FromSession, ParticipantProcess};
use crate::time::{MS, Time};
use crate::trace::trace;
use crate::violation::{Step, Violation, check};
use crate::world::{Event, Node, World};
use escrow_coordinator::CoordinatorError;
use escrow_coordinator::stepped::Stepped;
use escrow_participant::ParticipantError;
use escrow_proto::v1;
use escrow_proto::v1::exchange_request::Message;
use escrow_replica::GroupId;
use escrow_tcc::machine::Decision;
use escrow_types::{Epoch, ParticipantId, dense};

/// The xids of columns, whether they are named one by one or by the first of them.
fn xids(epoch: u32, one_by_one: &[u64], first: u64, rows: usize) -> Step<Vec<Xid>> {
    let sequences = dense::of_message(one_by_one.to_vec(), first, rows);
    let sequences = sequences.ok_or_else(|| Violation::other("columns of unequal length".to_owned()))?;
    Ok(sequences.into_iter().map(|sequence| (Epoch(epoch), sequence)).collect())
}

fn ended_xids(columns: &v1::EndColumns) -> Step<Vec<Xid>> {
    let rows = if columns.sequence.is_empty() { columns.rows as usize } else { columns.sequence.len() };
    xids(columns.epoch, &columns.sequence, columns.first_sequence, rows)
}

impl World {
    // The coordinator.

    pub(crate) fn coordinator_turn_due(&mut self, at: usize) {
        let process = &mut self.coordinators[at];
        if process.server.is_some() && !process.turn_due {
            process.turn_due = true;
            let life = process.life;
            let after = self.chance.below(MS / 2);
            self.at(after, Event::Turn(Node::Coordinator(at), life));
        }
    }

    pub(crate) fn coordinator_turn(&mut self, at: usize) -> Step {
        let CoordinatorProcess { server, runtime, turn_due, .. } = &mut self.coordinators[at];
        *turn_due = false;
        let Some(server) = server else { return Ok(()) };
        match runtime.within(|| server.turn()) {
            Ok(()) => self.coordinator_puts_out(at),
            Err(error) => self.coordinator_fails(at, &error),
        }
    }

    /// Messages, calls and answers leave; what was appended is going to be written.
    pub(crate) fn coordinator_puts_out(&mut self, at: usize) -> Step {
        self.coordinator_applied(at)?;
        for shard in 0..self.shards() {
            while let Some(message) = self.coordinators[at]
                .server
                .as_mut()
                .and_then(|server| server.next_message(ParticipantId(shard)))
            {
                self.check_message(&message)?;
                if let Some(id) = self.links[at][usize::from(shard)].connection {
                    self.send(id, Way::ToShard, &message.encode_to_vec(), true);
                }
            }
        }
        while let Some(call) = self.coordinators[at].server.as_mut().and_then(Stepped::next_call) {
            External::check_call(&call.request, &self.facts)?;
            self.call_external(at, call);
        }
        self.answers_leave(at)?;
        self.coordinator_stands(at)?;
        self.rests(Node::Coordinator(at))
    }

    /// A coordinator leads since this turn, or does not any more: then its connections are gone.
    fn coordinator_stands(&mut self, at: usize) -> Step {
        let process = &mut self.coordinators[at];
        let Some(server) = &mut process.server else { return Ok(()) };
        let leads = server.serves();
        if leads == process.leads {
            return Ok(());
        }
        process.leads = leads;
        process.bulk = leads.map(|_| server.open_columns(BULK));
        trace!(self, "coordinator {at} leads in term {leads:?}");
        self.coordinator_is_gone(at);
        if leads.is_some() { self.coordinator_leads(at) } else { Ok(()) }
    }

    /// Invariant 5 on the wire, and the one-phase shortcut: what is not durable yet must not be spoken of.
    fn check_message(&mut self, message: &v1::ExchangeRequest) -> Step {
        let facts = &mut self.facts;
        let decision = |facts: &Facts, xid: Xid| facts.begun.get(&xid).map(|begun| begun.decision);
        match &message.message {
            Some(Message::TryAndConfirm(columns)) => {
                let rows = columns.amount.len();
                for xid in xids(columns.epoch, &columns.sequence, columns.first_sequence, rows)? {
                    check!(
                        OneExecution,
                        facts.begun.contains_key(&xid),
                        "TryAndConfirm of {xid:?} left before its Begin was durable"
                    );
                }
            }
            Some(Message::Confirm(columns)) => {
                for xid in ended_xids(columns)? {
                    // It says that the branches have decided: nothing else may from now on.
                    facts.imply(xid)?;
                    let decided = decision(facts, xid);
                    let ok = decided == Some(Some(Decision::Confirm));
                    check!(
                        DecisionBeforePhaseTwo,
                        ok,
                        "Confirm of {xid:?} left, its durable state is {decided:?}"
                    );
                }
            }
            Some(Message::Cancel(columns)) => {
                for xid in ended_xids(columns)? {
                    let decided = decision(facts, xid);
                    // A question that comes late is about what has finished meanwhile: Cancel then changes nothing.
                    let finished = facts.begun.get(&xid).is_some_and(|begun| begun.finished);
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
    pub(crate) fn coordinator_fails(&mut self, at: usize, error: &CoordinatorError) -> Step {
        trace!(self, "coordinator {at} ends: {error}");
        let log = matches!(error, CoordinatorError::Journal(_) | CoordinatorError::File { .. });
        if !log {
            return Err(Violation::other(format!("coordinator {at} ended: {error}")));
        }
        self.dies(Node::Coordinator(at));
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
        let ParticipantProcess { server, runtime, .. } = &mut self.participants[at];
        let Some(server) = server else { return Ok(()) };
        if let Err(error) = runtime.within(|| server.turn()) {
            return self.participant_fails(at, &error);
        }
        self.participant_applied(at)?;
        self.sessions_put_out(at);
        self.rests(Node::Participant(at))
    }

    /// After whatever a process did: its replicas go on, their calls leave, and what it has to do next gets its time.
    pub(crate) fn rests(&mut self, node: Node) -> Step {
        self.replicas_go_on(node)?;
        let (has_work, has_jobs, is_settled, life, write_due) = match node {
            Node::Coordinator(at) => {
                let process = &mut self.coordinators[at];
                let Some(server) = &process.server else { return Ok(()) };
                let is_settled =
                    server.is_settled() && server.journal().durable() == server.journal().appended();
                (server.has_work(), server.has_jobs(), is_settled, process.life, &mut process.write_due)
            }
            Node::Participant(at) => {
                let process = &mut self.participants[at];
                let Some(server) = &process.server else { return Ok(()) };
                let is_settled =
                    server.is_settled() && server.journal().durable() == server.journal().appended();
                (server.has_work(), server.has_jobs(), is_settled, process.life, &mut process.write_due)
            }
        };
        let writes = !is_settled && !std::mem::replace(write_due, true);
        if has_work {
            self.turn_due(node);
        }
        if has_jobs {
            let after = write_time(&self.faults, &mut self.chance);
            self.at(after, Event::Background(node, life));
        }
        if writes {
            let after = write_time(&self.faults, &mut self.chance);
            self.at(after, Event::Write(node, life));
        }
        Ok(())
    }

    pub(crate) fn turn_due(&mut self, node: Node) {
        match node {
            Node::Coordinator(at) => self.coordinator_turn_due(at),
            Node::Participant(at) => self.participant_turn_due(at),
        }
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

    pub(crate) fn participant_fails(&mut self, at: usize, error: &ParticipantError) -> Step {
        trace!(self, "participant {at} ends: {error}");
        let log = matches!(error, ParticipantError::Journal(_) | ParticipantError::LogFailed(_));
        if !log {
            return Err(Violation::other(format!("participant {at} ended: {error}")));
        }
        self.dies(Node::Participant(at));
        Ok(())
    }

    pub(crate) fn participant_checkpoint(&mut self, at: usize) -> Step {
        let ParticipantProcess { server, runtime, .. } = &mut self.participants[at];
        let Some(server) = server else { return Ok(()) };
        if let Err(error) = runtime.within(|| server.checkpoint()) {
            return self.participant_fails(at, &error);
        }
        self.rests(Node::Participant(at))?;
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
            Node::Coordinator(at) => &self.coordinators[at].disk,
            Node::Participant(at) => &self.participants[at].disk,
        };
        if let Some(operations) = cut {
            disk.power_off_after(operations);
        } else if fails {
            disk.fail_next_sync();
        }
        match node {
            Node::Coordinator(at) => {
                let CoordinatorProcess { server, runtime, write_due, .. } = &mut self.coordinators[at];
                *write_due = false;
                let Some(server) = server else { return Ok(()) };
                runtime.within(|| server.write());
                self.observe_coordinator(at)?;
            }
            Node::Participant(at) => {
                let ParticipantProcess { server, runtime, write_due, .. } = &mut self.participants[at];
                *write_due = false;
                let Some(server) = server else { return Ok(()) };
                runtime.within(|| server.write());
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
        self.turn_due(node);
        self.rests(node)
    }

    pub(crate) fn observe_coordinator(&mut self, at: usize) -> Step {
        let process = &mut self.coordinators[at];
        let Some(server) = &process.server else { return Ok(()) };
        for entry in process.observer.read_on(server.journal())? {
            if self.replicas > 1 {
                self.groups.coordinator.durable(at, &entry.payload)?;
            } else {
                self.facts.logged(&entry.payload)?;
            }
        }
        Ok(())
    }

    /// What a replica has applied is what its group agreed on; whoever is first says it.
    fn coordinator_applied(&mut self, at: usize) -> Step {
        let Some(server) = &mut self.coordinators[at].server else { return Ok(()) };
        for entry in server.take_applied() {
            if let Some(commands) = self.groups.coordinator.applied(at, &entry)? {
                self.facts.logged(&commands)?;
            }
        }
        Ok(())
    }

    fn participant_applied(&mut self, at: usize) -> Step {
        let (first, replicas) = (at - at % self.replicas, self.replicas);
        for shard in self.participants[at].shards.clone() {
            let Some(server) = &mut self.participants[at].server else { return Ok(()) };
            for entry in server.take_applied(shard) {
                let group = &mut self.groups.shards[usize::from(shard)];
                if let Some(commands) = group.applied(at % replicas, &entry)? {
                    // One observer for all replicas: with the first.
                    let observer = self.participants[first].observers.get_mut(&shard);
                    observer.expect("all have the same shards").logged(&commands, &mut self.facts)?;
                }
            }
            self.check_freshness(at, shard)?;
        }
        Ok(())
    }

    /// How old a replica says its state to be at most is true: nothing older was served by anybody and is lacking.
    fn check_freshness(&mut self, at: usize, shard: u16) -> Step {
        let now = self.time.now();
        let ParticipantProcess { server, runtime, .. } = &self.participants[at];
        let Some(server) = server else { return Ok(()) };
        let Some(replica) = server.replicas().get(GroupId::Shard(ParticipantId(shard))) else {
            return Ok(());
        };
        let group = &mut self.groups.shards[usize::from(shard)];
        if server.serves(shard).is_some() {
            group.served(now, server.applied(shard));
        }
        let known = runtime.within(|| replica.freshness().map(|known| (known.index, known.age())));
        let Some((index, age)) = known else { return Ok(()) };
        self.ages += 1;
        group.vouched(at % self.replicas, index, now.saturating_sub(age.as_micros() as Time))
    }

    pub(crate) fn observe_participant(&mut self, at: usize) -> Step {
        let process = &mut self.participants[at];
        let Some(server) = &process.server else { return Ok(()) };
        for entry in process.log.read_on(server.journal())? {
            if self.replicas > 1 {
                let group = &mut self.groups.shards[usize::from(entry.group.0)];
                group.durable(at % self.replicas, &entry.payload)?;
                continue;
            }
            let observer = process.observers.get_mut(&entry.group.0);
            let unknown = || Violation::other(format!("an entry of group {}", entry.group.0));
            observer.ok_or_else(unknown)?.logged(&entry.payload, &mut self.facts)?;
        }
        Ok(())
    }
}
