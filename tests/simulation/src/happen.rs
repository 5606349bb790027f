//! What each event does.

use crate::coordinator::CoordinatorProcess;
use crate::network::{Delivery, Way};
use crate::participant::ParticipantProcess;
use crate::time::MS;
use crate::trace::trace;
use crate::violation::Step;
use crate::world::{Event, Node, World};

impl World {
    pub(crate) fn happen(&mut self, event: Event) -> Step {
        let Some(event) = self.unless_held(event) else { return Ok(()) };
        match event {
            Event::Turn(Node::Coordinator(at), _) => self.coordinator_turn(at),
            Event::Turn(Node::Participant(at), _) => self.participant_turn(at),
            Event::Write(node, _) => self.write(node),
            Event::Tick(at, _) => self.tick(at),
            Event::Wake(node, _) => self.wake(node),
            Event::Background(node, _) => self.background(node),
            Event::Call(id) => self.call_arrives(id),
            Event::CallAnswered(id, answer) => self.call_answered(id, *answer),
            Event::Checkpoint(at, _) => self.participant_checkpoint(at),
            Event::Restart(node) => self.restart(node),
            Event::ToShard(id, bytes) => self.arrive_at_shard(id, &bytes),
            Event::ToCoordinator(id, bytes) => self.arrive_at_coordinator(id, &bytes),
            Event::ExternalServes(call) => self.external_serves(call),
            Event::Answer(id, result) => self.answer(id, *result),
            other => {
                self.happen_quietly(other);
                Ok(())
            }
        }
    }

    /// What cannot break anything by itself.
    fn happen_quietly(&mut self, event: Event) {
        match event {
            Event::Connect(at, shard, _) => self.connect(at, shard),
            Event::LostHere(id) => self.lost_here(id),
            Event::LostThere(id) => self.lost_there(id),
            Event::Ask(id) => self.ask(id),
            Event::ExternalAnswers(call, result) => self.external_answers(call, result),
            Event::NewJob => self.new_job(),
            Event::Caller(job) => self.caller(job),
            Event::Request(id, at) => self.request(id, at),
            other => self.fault(&other),
        }
    }

    /// The event, unless it belongs to a life that is over, or has to wait.
    fn unless_held(&mut self, event: Event) -> Option<Event> {
        let now = self.now();
        let (node, life) = match &event {
            Event::Turn(node, life)
            | Event::Write(node, life)
            | Event::Background(node, life)
            | Event::Wake(node, life) => (*node, Some(*life)),
            Event::Tick(at, life) | Event::Connect(at, _, life) => (Node::Coordinator(*at), Some(*life)),
            Event::Checkpoint(at, life) => (Node::Participant(*at), Some(*life)),
            Event::Request(_, at) => (Node::Coordinator(*at), None),
            Event::ExternalAnswers(call, _) => {
                (Node::Coordinator(self.external_calls[*call].coordinator), None)
            }
            Event::LostHere(id) | Event::ToCoordinator(id, _) => {
                (Node::Coordinator(self.network.connections.get(id)?.coordinator), None)
            }
            Event::ToShard(id, _) | Event::Ask(id) | Event::LostThere(id) => {
                (Node::Participant(self.network.connections.get(id)?.participant), None)
            }
            Event::Call(id) => (self.calls.get(id)?.to, None),
            Event::CallAnswered(id, _) => (self.calls.get(id)?.from, None),
            _ => return Some(event),
        };
        let (current, paused_until) = match node {
            Node::Coordinator(at) => (self.coordinators[at].life, self.coordinators[at].paused_until),
            Node::Participant(at) => (self.participants[at].life, self.participants[at].paused_until),
        };
        if life.is_some_and(|life| life != current) {
            return None;
        }
        if paused_until > now {
            self.at(paused_until - now, event);
            return None;
        }
        let (id, way) = match &event {
            Event::ToShard(id, _) => (*id, Way::ToShard),
            Event::ToCoordinator(id, _) => (*id, Way::ToCoordinator),
            _ => return Some(event),
        };
        match self.network.delivery(id, way, now) {
            Delivery::Now => Some(event),
            Delivery::Lost => None,
            Delivery::HeldUntil(until) => {
                self.at(until - now, event);
                None
            }
        }
    }

    fn tick(&mut self, at: usize) -> Step {
        let CoordinatorProcess { server, runtime, life, .. } = &mut self.coordinators[at];
        if let Some(server) = server {
            let life = *life;
            if let Err(error) = runtime.within(|| server.tick()) {
                return self.coordinator_fails(at, &error);
            }
            self.at(20 * MS, Event::Tick(at, life));
            self.coordinator_puts_out(at)?;
        }
        Ok(())
    }

    fn background(&mut self, node: Node) -> Step {
        let cut = self.cuts_in_write();
        let died = match node {
            Node::Coordinator(at) => {
                let CoordinatorProcess { server, runtime, disk, .. } = &mut self.coordinators[at];
                let Some(server) = server else { return Ok(()) };
                if let Some(operations) = cut {
                    disk.power_off_after(operations);
                }
                runtime.within(|| while server.keep() || server.checkpoint() {});
                cut.is_some()
            }
            Node::Participant(at) => {
                let disk = self.participants[at].disk.clone();
                let ParticipantProcess { server, runtime, .. } = &mut self.participants[at];
                let Some(server) = server else { return Ok(()) };
                if let Some(operations) = cut {
                    disk.power_off_after(operations);
                }
                while server.keep() {}
                let served = runtime.within(|| server.serve_views());
                if let (Err(error), None) = (served, cut) {
                    return self.participant_fails(at, &error);
                }
                cut.is_some()
            }
        };
        if died {
            trace!(self, "{node:?} dies in its background");
            self.dies(node);
            return Ok(());
        }
        self.turn_due(node);
        self.rests(node)
    }
}
