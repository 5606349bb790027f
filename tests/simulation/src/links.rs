//! How processes speak: connections are made, carry messages, and end; and the calls to the external participant.

use prost::Message as _;

use crate::coordinator::CoordinatorProcess;
use crate::network::{Connection, ConnectionId, Way, delay};
use crate::participant::ParticipantProcess;
use crate::time::{MS, SECOND, Time};
use crate::trace::trace;
use crate::violation::{Step, Violation};
use crate::world::{Event, World};
use escrow_coordinator::stepped::ExternalCall;
use escrow_proto::v1;
use escrow_types::ParticipantId;

/// A call to the external participant. It may arrive after its coordinator has died.
pub(crate) struct CallUnderWay {
    call: ExternalCall,
    pub(crate) coordinator: usize,
    life: u32,
    is_answered: bool,
}

/// The way of a coordinator to a shard.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Link {
    /// The connection that it has, greeted or not.
    pub(crate) connection: Option<ConnectionId>,
    /// Since when none could be made.
    unreachable_since: Option<Time>,
    /// Which replica is tried next.
    aim: usize,
}

impl World {
    fn link(&mut self, at: usize, shard: u16) -> &mut Link {
        &mut self.links[at][usize::from(shard)]
    }

    /// A coordinator tries to reach a shard.
    pub(crate) fn connect(&mut self, at: usize, shard: u16) {
        let now = self.now();
        let leads = self.replicas == 1 || self.coordinators[at].leads.is_some();
        if !leads || self.link(at, shard).connection.is_some() {
            return;
        }
        let to = self.home[usize::from(shard)] + self.link(at, shard).aim % self.replicas;
        let home = &self.participants[to];
        if home.server.is_none() || home.paused_until > now || self.network.is_cut(shard, now) {
            self.not_reached(at, shard, "connection refused");
            return;
        }
        let (there, here) = (home.life, self.coordinators[at].life);
        let CoordinatorProcess { server, runtime, .. } = &mut self.coordinators[at];
        let Some(server) = server else { return };
        let hello = runtime.within(|| server.hello(ParticipantId(shard)));
        let id = self.network.connect(shard, (at, here), (to, there));
        trace!(self, "connection {id} of {at} to shard {shard} at {to}: {hello:?}");
        self.link(at, shard).connection = Some(id);
        self.send(id, Way::ToShard, &hello.encode_to_vec(), false);
        // If nobody greets back.
        self.at(2 * SECOND, Event::LostHere(id));
    }

    fn not_reached(&mut self, at: usize, shard: u16, error: &str) {
        let now = self.now();
        let next_in_ms = self.chance.between(10, 100);
        let link = self.link(at, shard);
        link.aim += 1;
        let since = *link.unreachable_since.get_or_insert(now);
        let life = self.coordinators[at].life;
        let Some(server) = &mut self.coordinators[at].server else { return };
        server.unreachable(ParticipantId(shard), error, next_in_ms, now - since >= SECOND);
        self.at(next_in_ms * MS, Event::Connect(at, shard, life));
        self.coordinator_turn_due(at);
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
        let at = connection.participant;
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
        let (at, shard) = (connection.coordinator, connection.shard);
        if connection.coordinator_life != self.coordinators[at].life
            || self.links[at][usize::from(shard)].connection != Some(id)
        {
            return Ok(());
        }
        trace!(self, "coordinator {at} hears on {id}: {message:?}");
        let Some(server) = &mut self.coordinators[at].server else { return Ok(()) };
        if connection.greeted {
            server.receive(ParticipantId(shard), message);
        } else {
            connection.greeted = server.greeted(ParticipantId(shard), Some(message));
            self.link(at, shard).unreachable_since = None;
        }
        self.coordinator_turn_due(at);
        Ok(())
    }

    /// The participant asks about what is past its deadline.
    pub(crate) fn ask(&mut self, id: ConnectionId) {
        let at = self.network.connections[&id].participant;
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
        let (at, shard, greeted) = (connection.coordinator, connection.shard, connection.greeted);
        let is_mine = connection.coordinator_life == self.coordinators[at].life;
        if !is_mine || self.links[at][usize::from(shard)].connection != Some(id) {
            return;
        }
        // The timer of the greeting, on a connection that is well.
        if greeted && !connection.is_ending(now) && !self.network.is_cut(shard, now) {
            return;
        }
        trace!(self, "connection {id} of {at} to shard {shard} is lost");
        self.network.connections.get_mut(&id).expect("just seen").open_here = false;
        self.link(at, shard).connection = None;
        self.network.breaks(id, now, &mut self.chance);
        let noticed = self.chance.below(2 * SECOND);
        self.at(noticed, Event::LostThere(id));
        if greeted {
            if let Some(server) = &mut self.coordinators[at].server {
                server.lost(ParticipantId(shard), "the connection was lost");
            }
            self.link(at, shard).aim += 1;
            let (after, life) = (self.chance.below(50 * MS), self.coordinators[at].life);
            self.at(after, Event::Connect(at, shard, life));
        } else {
            self.not_reached(at, shard, "no answer to hello");
        }
        self.coordinator_turn_due(at);
    }

    /// The participant notices that a connection has ended.
    pub(crate) fn lost_there(&mut self, id: ConnectionId) {
        if let Some(connection) = self.network.connections.get_mut(&id) {
            connection.open_there = false;
            let ParticipantProcess { runtime, sessions, .. } = &mut self.participants[connection.participant];
            runtime.within(|| sessions.remove(&id));
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

    /// The ends of a coordinator are gone at once; what it has sent may still arrive.
    pub(crate) fn coordinator_is_gone(&mut self, at: usize) {
        let now = self.now();
        let is_its = |it: &Connection| it.coordinator == at && it.open_here;
        let ids: Vec<_> =
            self.network.connections.iter().filter(|(_, it)| is_its(it)).map(|(id, _)| *id).collect();
        for id in ids {
            self.network.connections.get_mut(&id).expect("just listed").open_here = false;
            self.network.breaks(id, now, &mut self.chance);
            let after = self.chance.below(2 * SECOND);
            self.at(after, Event::LostThere(id));
        }
        self.links[at].fill(Link::default());
        self.network.sweep();
    }

    /// The participant's ends are gone; the coordinator notices sooner or later.
    pub(crate) fn participant_is_gone(&mut self, at: usize) {
        let now = self.now();
        let is_its = |it: &Connection| it.participant == at;
        let ids: Vec<_> =
            self.network.connections.iter().filter(|(_, it)| is_its(it)).map(|(id, _)| *id).collect();
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

    pub(crate) fn call_external(&mut self, coordinator: usize, call: ExternalCall) {
        const TIMEOUT: u64 = 300 * MS;
        trace!(self, "external call {}: {:?}", self.external_calls.len(), call.request);
        let at = self.external_calls.len();
        let life = self.coordinators[coordinator].life;
        self.external_calls.push(CallUnderWay { call, coordinator, life, is_answered: false });
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
        let coordinator = under_way.coordinator;
        let is_over = under_way.life != self.coordinators[coordinator].life;
        if std::mem::replace(&mut under_way.is_answered, true) || is_over {
            return;
        }
        if let Some(server) = &mut self.coordinators[coordinator].server {
            server.called(under_way.call.call, result);
            self.coordinator_turn_due(coordinator);
        }
    }
}
