//! How processes speak: connections are made, carry messages, and end; and the calls to the external participant.

use prost::Message as _;

use crate::network::{ConnectionId, Way, delay};
use crate::time::{MS, SECOND};
use crate::trace::trace;
use crate::violation::{Step, Violation};
use crate::world::{Event, World};
use escrow_coordinator::stepped::ExternalCall;
use escrow_proto::v1;
use escrow_types::ParticipantId;

/// A call to the external participant. It may arrive after its coordinator has died.
pub(crate) struct CallUnderWay {
    call: ExternalCall,
    life: u32,
    is_answered: bool,
}

impl World {
    /// The coordinator tries to reach a shard.
    pub(crate) fn connect(&mut self, shard: u16) {
        let (at, now) = (usize::from(shard), self.now());
        if self.current[at].is_some() {
            return;
        }
        let home = &self.participants[self.home[at]];
        if home.server.is_none() || home.paused_until > now || self.network.is_cut(shard, now) {
            self.not_reached(shard, "connection refused");
            return;
        }
        let there = home.life;
        let Some(server) = &self.coordinator.server else { return };
        let hello = server.hello(ParticipantId(shard));
        let id = self.network.connect(shard, self.coordinator.life, there);
        trace!(self, "connection {id} to shard {shard}: {hello:?}");
        self.current[at] = Some(id);
        self.send(id, Way::ToShard, &hello.encode_to_vec(), false);
        // If nobody greets back.
        self.at(2 * SECOND, Event::LostHere(id));
    }

    fn not_reached(&mut self, shard: u16, error: &str) {
        let (at, now) = (usize::from(shard), self.now());
        let since = *self.unreachable_since[at].get_or_insert(now);
        let next_in_ms = self.chance.between(10, 100);
        let Some(server) = &mut self.coordinator.server else { return };
        server.unreachable(ParticipantId(shard), error, next_in_ms, now - since >= SECOND);
        let life = self.coordinator.life;
        self.at(next_in_ms * MS, Event::Connect(shard, life));
        self.coordinator_turn_due();
    }

    /// A message leaves, and perhaps a copy of it.
    pub(crate) fn send(&mut self, id: ConnectionId, way: Way, bytes: &[u8], may_repeat: bool) {
        let now = self.now();
        if !self.network.connections.contains_key(&id) {
            return;
        }
        let is_first = !self.network.connections[&id].opened;
        let copies = if may_repeat && !is_first && self.chance.permille(self.faults.duplicate_permille) {
            2
        } else {
            1
        };
        for _ in 0..copies {
            let arrival = self.network.arrival(id, way, now, &self.faults, &mut self.chance);
            let event = match way {
                Way::ToShard => Event::ToShard(id, bytes.to_vec()),
                Way::ToCoordinator => Event::ToCoordinator(id, bytes.to_vec()),
            };
            self.at(arrival - now, event);
        }
    }

    pub(crate) fn arrive_at_shard(&mut self, id: ConnectionId, bytes: &[u8]) -> Step {
        let malformed = |error| Violation::other(format!("a message does not decode: {error}"));
        let message = v1::ExchangeRequest::decode(bytes).map_err(malformed)?;
        let connection = self.network.connections.get_mut(&id).expect("it was to be delivered");
        let at = self.home[usize::from(connection.shard)];
        let process = &mut self.participants[at];
        if process.life != connection.participant_life {
            return Ok(());
        }
        if !connection.opened {
            connection.opened = true;
            process.open_session(id);
            let after = self.chance.between(50 * MS, SECOND);
            self.at(after, Event::Ask(id));
        }
        trace!(self, "shard {} hears on {id}: {message:?}", self.network.connections[&id].shard);
        if let Some(session) = self.participants[at].sessions.get(&id) {
            // A session that has just ended hears nothing any more.
            let _ = session.inbox.send(Ok(message));
        }
        self.participant_turn_due(at);
        Ok(())
    }

    pub(crate) fn arrive_at_coordinator(&mut self, id: ConnectionId, bytes: &[u8]) -> Step {
        let malformed = |error| Violation::other(format!("a message does not decode: {error}"));
        let message = v1::ExchangeResponse::decode(bytes).map_err(malformed)?;
        let connection = self.network.connections.get_mut(&id).expect("it was to be delivered");
        let shard = connection.shard;
        if connection.coordinator_life != self.coordinator.life
            || self.current[usize::from(shard)] != Some(id)
        {
            return Ok(());
        }
        trace!(self, "the coordinator hears on {id}: {message:?}");
        let Some(server) = &mut self.coordinator.server else { return Ok(()) };
        if connection.greeted {
            server.receive(ParticipantId(shard), message);
        } else {
            connection.greeted = server.greeted(ParticipantId(shard), Some(message));
            self.unreachable_since[usize::from(shard)] = None;
        }
        self.coordinator_turn_due();
        Ok(())
    }

    /// The participant asks about what is past its deadline.
    pub(crate) fn ask(&mut self, id: ConnectionId) {
        let shard = self.network.connections[&id].shard;
        let at = self.home[usize::from(shard)];
        if let Some(session) = self.participants[at].sessions.get(&id) {
            let _ = session.ask.send(());
            self.participant_turn_due(at);
            let after = self.chance.between(50 * MS, SECOND);
            self.at(after, Event::Ask(id));
        }
    }

    /// The coordinator notices that a connection has ended, or was never answered.
    pub(crate) fn lost_here(&mut self, id: ConnectionId) {
        let Some(connection) = self.network.connections.get_mut(&id) else { return };
        let now = self.time.now();
        let (shard, greeted) = (connection.shard, connection.greeted);
        let is_mine = connection.coordinator_life == self.coordinator.life;
        if !is_mine || self.current[usize::from(shard)] != Some(id) {
            return;
        }
        // The timer of the greeting, on a connection that is well.
        if greeted && !connection.is_ending(now) && !self.network.is_cut(shard, now) {
            return;
        }
        trace!(self, "connection {id} to shard {shard} is lost");
        self.network.connections.get_mut(&id).expect("just seen").open_here = false;
        self.current[usize::from(shard)] = None;
        self.network.breaks(id, now, &mut self.chance);
        let noticed = self.chance.below(2 * SECOND);
        self.at(noticed, Event::LostThere(id));
        if greeted {
            if let Some(server) = &mut self.coordinator.server {
                server.lost(ParticipantId(shard), "the connection was lost");
            }
            let (after, life) = (self.chance.below(50 * MS), self.coordinator.life);
            self.at(after, Event::Connect(shard, life));
        } else {
            self.not_reached(shard, "no answer to hello");
        }
        self.coordinator_turn_due();
    }

    /// The participant notices that a connection has ended.
    pub(crate) fn lost_there(&mut self, id: ConnectionId) {
        if let Some(connection) = self.network.connections.get_mut(&id) {
            connection.open_there = false;
            let at = self.home[usize::from(connection.shard)];
            self.participants[at].sessions.remove(&id);
        }
        self.network.sweep();
    }

    /// The participant ended a stream by itself.
    pub(crate) fn participant_ends(&mut self, id: ConnectionId) {
        let now = self.now();
        if let Some(connection) = self.network.connections.get_mut(&id) {
            connection.open_there = false;
        }
        self.network.breaks(id, now, &mut self.chance);
        let after = self.chance.below(20 * MS);
        self.at(200 * MS + after, Event::LostHere(id));
    }

    /// The coordinator's ends are gone at once; what it has sent may still arrive.
    pub(crate) fn coordinator_is_gone(&mut self) {
        let now = self.now();
        let ids: Vec<_> =
            self.network.connections.iter().filter(|(_, it)| it.open_here).map(|(id, _)| *id).collect();
        for id in ids {
            self.network.connections.get_mut(&id).expect("just listed").open_here = false;
            self.network.breaks(id, now, &mut self.chance);
            let after = self.chance.below(2 * SECOND);
            self.at(after, Event::LostThere(id));
        }
        self.current.fill(None);
        self.unreachable_since.fill(None);
        self.network.sweep();
    }

    /// The participant's ends are gone; the coordinator notices sooner or later.
    pub(crate) fn participant_is_gone(&mut self, at: usize) {
        let now = self.now();
        let of = |world: &World, shard: u16| world.home[usize::from(shard)] == at;
        let ids: Vec<_> =
            self.network.connections.iter().filter(|(_, it)| of(self, it.shard)).map(|(id, _)| *id).collect();
        for id in ids {
            self.network.connections.get_mut(&id).expect("just listed").open_there = false;
            self.network.breaks(id, now, &mut self.chance);
            // Refused at once, or noticed by the keep-alive.
            let after = if self.chance.one_in(4) {
                self.chance.between(SECOND / 2, 3 * SECOND)
            } else {
                self.chance.below(20 * MS)
            };
            self.at(200 * MS + after, Event::LostHere(id));
        }
        self.network.sweep();
    }

    // The external participant.

    pub(crate) fn call_external(&mut self, call: ExternalCall) {
        const TIMEOUT: u64 = 300 * MS;
        trace!(self, "external call {}: {:?}", self.external_calls.len(), call.request);
        let at = self.external_calls.len();
        let life = self.coordinator.life;
        self.external_calls.push(CallUnderWay { call, life, is_answered: false });
        let copies =
            u64::from(!self.loses()) + u64::from(self.chance.permille(self.faults.duplicate_permille));
        for _ in 0..copies {
            let after = delay(&self.faults, &mut self.chance);
            self.at(after, Event::ExternalServes(at));
        }
        self.at(TIMEOUT, Event::ExternalAnswers(at, Err("no answer in time".to_owned())));
    }

    pub(crate) fn external_serves(&mut self, at: usize) -> Step {
        let Some(external) = &self.external else { return Ok(()) };
        let request = &self.external_calls[at].call.request;
        let answer = external.serve(request, &mut self.facts, &mut self.chance)?;
        if !self.loses() {
            let after = delay(&self.faults, &mut self.chance);
            self.at(after, Event::ExternalAnswers(at, Ok(answer)));
        }
        Ok(())
    }

    /// The first answer, or the timeout, counts.
    pub(crate) fn external_answers(&mut self, at: usize, result: Result<u8, String>) {
        let under_way = &mut self.external_calls[at];
        if std::mem::replace(&mut under_way.is_answered, true) || under_way.life != self.coordinator.life {
            return;
        }
        if let Some(server) = &mut self.coordinator.server {
            server.called(under_way.call.call, result);
            self.coordinator_turn_due();
        }
    }
}
