//! Connections between the coordinator and the shards: messages take time, links are cut in one direction or both, and each
//! side notices the end of a connection in its own time.
//!
//! A connection is a stream: what it delivers comes in order, unless the seed draws `reorder`, which no TCP does and the protocol
//! bears all the same. Messages of a connection that the coordinator has lost may still reach the participant: late words of a
//! deposed leader.

use std::collections::BTreeMap;

use crate::chance::Chance;
use crate::faults::Faults;
use crate::time::{MS, Time};

/// Number of a connection.
pub(crate) type ConnectionId = u64;

/// Which way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    ToShard,
    ToCoordinator,
}

/// One connection for one shard.
pub(crate) struct Connection {
    pub(crate) shard: u16,
    /// The processes that it joins.
    pub(crate) coordinator: usize,
    pub(crate) participant: usize,
    /// Lives of the processes that it joins.
    pub(crate) coordinator_life: u32,
    pub(crate) participant_life: u32,
    /// The coordinator holds its end.
    pub(crate) open_here: bool,
    /// The participant holds its end.
    pub(crate) open_there: bool,
    /// The first message has arrived there.
    pub(crate) opened: bool,
    /// The answer to it has arrived here.
    pub(crate) greeted: bool,
    /// What arrives later than this is lost.
    ends: Time,
    last_arrival: [Time; 2],
}

impl Connection {
    /// Whether it is broken, though a side may not have noticed.
    pub(crate) fn is_ending(&self, now: Time) -> bool {
        now > self.ends
    }
}

/// The network. See the module.
#[derive(Default)]
pub(crate) struct Network {
    pub(crate) connections: BTreeMap<ConnectionId, Connection>,
    next: ConnectionId,
    /// By shard: until when messages to it, and from it, are held.
    cut: BTreeMap<u16, [Time; 2]>,
}

impl Network {
    /// Joins two processes, each given with its life.
    pub(crate) fn connect(
        &mut self,
        shard: u16,
        (coordinator, coordinator_life): (usize, u32),
        (participant, participant_life): (usize, u32),
    ) -> ConnectionId {
        self.next += 1;
        let connection = Connection {
            shard,
            coordinator,
            participant,
            coordinator_life,
            participant_life,
            open_here: true,
            open_there: true,
            opened: false,
            greeted: false,
            ends: Time::MAX,
            last_arrival: [0; 2],
        };
        self.connections.insert(self.next, connection);
        self.next
    }

    /// When a message that leaves now arrives.
    pub(crate) fn arrival(
        &mut self,
        id: ConnectionId,
        way: Way,
        now: Time,
        faults: &Faults,
        chance: &mut Chance,
    ) -> Time {
        let connection = self.connections.get_mut(&id).expect("messages leave on known connections");
        let last = &mut connection.last_arrival[way as usize];
        let arrival = (now + delay(faults, chance)).max(*last + 1);
        // Where messages overtake each other, the first of a stream is still the first.
        if *last == 0 || !faults.reorder {
            *last = arrival;
        }
        arrival
    }

    /// Whether a message that arrives now is delivered, lost, or held until later.
    pub(crate) fn delivery(&self, id: ConnectionId, way: Way, now: Time) -> Delivery {
        let Some(connection) = self.connections.get(&id) else { return Delivery::Lost };
        let open = if way == Way::ToShard { connection.open_there } else { connection.open_here };
        if !open || now > connection.ends {
            return Delivery::Lost;
        }
        let held = self.cut.get(&connection.shard).map_or(0, |until| until[way as usize]);
        if held > now { Delivery::HeldUntil(held) } else { Delivery::Now }
    }

    /// The connection breaks: what is under way arrives only for a moment yet.
    pub(crate) fn breaks(&mut self, id: ConnectionId, now: Time, chance: &mut Chance) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.ends = connection.ends.min(now + chance.below(200 * MS));
        }
    }

    /// Cuts the link to a shard, one way or both.
    pub(crate) fn cut(&mut self, shard: u16, ways: [bool; 2], until: Time) {
        let held = self.cut.entry(shard).or_default();
        for way in 0..2 {
            if ways[way] {
                held[way] = held[way].max(until);
            }
        }
    }

    pub(crate) fn is_cut(&self, shard: u16, now: Time) -> bool {
        self.cut.get(&shard).is_some_and(|until| until.iter().any(|&until| until > now))
    }

    pub(crate) fn heal(&mut self) {
        self.cut.clear();
    }

    /// Forgets connections that nobody holds any more.
    pub(crate) fn sweep(&mut self) {
        self.connections.retain(|_, connection| connection.open_here || connection.open_there);
    }
}

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    Now,
    Lost,
    HeldUntil(Time),
}

/// How long a message takes.
pub(crate) fn delay(faults: &Faults, chance: &mut Chance) -> Time {
    let delay = 20 + chance.below(faults.delay_max);
    if chance.permille(faults.slow_permille) { delay * chance.between(10, 100) } else { delay }
}
