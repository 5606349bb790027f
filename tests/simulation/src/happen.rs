//! What each event does.

use crate::network::{Delivery, Way};
use crate::time::MS;
use crate::trace::trace;
use crate::violation::Step;
use crate::world::{Event, Node, World};

impl World {
    pub(crate) fn happen(&mut self, event: Event) -> Step {
        let Some(event) = self.unless_held(event) else { return Ok(()) };
        match event {
            Event::Turn(Node::Coordinator, _) => self.coordinator_turn(),
            Event::Turn(Node::Participant(at), _) => self.participant_turn(at),
            Event::Write(node, _) => self.write(node),
            Event::Tick(_) => self.tick(),
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
            Event::Background(node, _) => self.background(node),
            Event::Connect(shard, _) => self.connect(shard),
            Event::LostHere(id) => self.lost_here(id),
            Event::LostThere(id) => self.lost_there(id),
            Event::Ask(id) => self.ask(id),
            Event::ExternalAnswers(call, result) => self.external_answers(call, result),
            Event::NewJob => self.new_job(),
            Event::Caller(job) => self.caller(job),
            Event::Request(id) => self.request(id),
            other => self.fault(&other),
        }
    }

    /// The event, unless it belongs to a life that is over, or has to wait.
    fn unless_held(&mut self, event: Event) -> Option<Event> {
        let now = self.now();
        let (node, life) = match &event {
            Event::Turn(node, life) | Event::Write(node, life) | Event::Background(node, life) => {
                (*node, Some(*life))
            }
            Event::Tick(life) | Event::Connect(_, life) => (Node::Coordinator, Some(*life)),
            Event::Checkpoint(at, life) => (Node::Participant(*at), Some(*life)),
            Event::Request(_)
            | Event::ExternalAnswers(..)
            | Event::LostHere(_)
            | Event::ToCoordinator(..) => (Node::Coordinator, None),
            Event::ToShard(id, _) | Event::Ask(id) | Event::LostThere(id) => {
                let shard = self.network.connections.get(id)?.shard;
                (Node::Participant(self.home[usize::from(shard)]), None)
            }
            _ => return Some(event),
        };
        let (current, paused_until) = match node {
            Node::Coordinator => (self.coordinator.life, self.coordinator.paused_until),
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

    fn tick(&mut self) -> Step {
        if let Some(server) = &mut self.coordinator.server {
            if let Err(error) = server.tick() {
                return self.coordinator_fails(&error);
            }
            self.at(20 * MS, Event::Tick(self.coordinator.life));
            self.coordinator_puts_out()?;
        }
        Ok(())
    }

    fn background(&mut self, node: Node) {
        let cut = self.cuts_in_write();
        let died = match node {
            Node::Coordinator => {
                let disk = self.coordinator.disk.clone();
                let Some(server) = &mut self.coordinator.server else { return };
                if let Some(operations) = cut {
                    disk.power_off_after(operations);
                }
                while server.keep() || server.checkpoint() {}
                cut.is_some()
            }
            Node::Participant(at) => {
                let disk = self.participants[at].disk.clone();
                let Some(server) = &mut self.participants[at].server else { return };
                if let Some(operations) = cut {
                    disk.power_off_after(operations);
                }
                while server.keep() {}
                cut.is_some()
            }
        };
        if died {
            trace!(self, "{node:?} dies in its background");
            self.dies(node);
        } else if node == Node::Coordinator {
            self.coordinator_turn_due();
        }
    }
}
