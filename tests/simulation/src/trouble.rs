//! When faults happen, and what they do; and how they stop.

use crate::faults::Faults;
use crate::time::{MS, SECOND, Time};
use crate::trace::trace;
use crate::world::{Event, Node, World};

impl World {
    /// Every kind of fault of this seed begins its own series.
    pub(crate) fn begin_faults(&mut self, faults: &Faults) {
        let series = [
            (faults.disconnect_every, Event::Disconnect),
            (faults.partition_every, Event::Partition),
            (faults.kill_every, Event::Kill),
            (faults.pause_every, Event::Pause),
            (faults.clock_jump_every, Event::ClockJump),
            (faults.disk_full_every, Event::DiskFull),
            (faults.operator_every, Event::Operator),
            (faults.freeze_every, Event::Freeze(0, true)),
            (faults.lose_disk_every, Event::LoseDisk),
            (faults.change_every, Event::ChangeMembers),
        ];
        for (every, event) in series {
            self.next_fault(every, event);
        }
    }

    fn next_fault(&mut self, every: Time, event: Event) {
        if every > 0 && !self.is_calm {
            let after = self.chance.below(2 * every);
            self.at(after, event);
        }
    }

    fn any_node(&mut self) -> Node {
        // The coordinator as often as all participants together.
        if self.chance.one_in(2) {
            let leader = self.leader().filter(|_| self.chance.one_in(2));
            Node::Coordinator(leader.unwrap_or_else(|| self.chance.index(self.coordinators.len())))
        } else {
            Node::Participant(self.chance.index(self.participants.len()))
        }
    }

    /// How long a partition lasts at most; a group is given the time to choose another leader.
    fn longest(&self) -> Time {
        if self.replicas == 1 { 2 * SECOND } else { 5 * SECOND }
    }

    fn any_shard(&mut self) -> u16 {
        self.chance.below(u64::from(self.shards())) as u16
    }

    /// A fault happens, and the next of its kind is set.
    pub(crate) fn fault(&mut self, event: &Event) {
        if let Event::Calm = event {
            self.calm();
            return;
        }
        if let Event::Freeze(account, false) = event {
            self.freeze(*account, false);
            return;
        }
        if let Event::DiskRoom(node) = event {
            self.set_room(*node, u64::MAX);
            return;
        }
        if let Event::PutBack(group, node) = event {
            self.put_back(*group, *node);
            return;
        }
        if self.is_calm {
            return;
        }
        if let Event::Isolate(node, lasts) = event {
            self.isolate(*node, *lasts);
            return;
        }
        let faults = &self.faults;
        let every = match event {
            Event::Disconnect => faults.disconnect_every,
            Event::Partition => faults.partition_every,
            Event::Kill => faults.kill_every,
            Event::Pause => faults.pause_every,
            Event::ClockJump => faults.clock_jump_every,
            Event::DiskFull => faults.disk_full_every,
            Event::Operator => faults.operator_every,
            Event::LoseDisk => faults.lose_disk_every,
            Event::ChangeMembers => faults.change_every,
            _ => faults.freeze_every,
        };
        match event {
            Event::Disconnect => self.disconnect(),
            Event::Partition => self.partition(),
            Event::Kill => self.kill(),
            Event::Pause => self.pause(),
            Event::ClockJump => self.clock_jump(),
            Event::DiskFull => self.disk_full(),
            Event::Operator => self.operate(),
            Event::LoseDisk => self.lose_disk(),
            Event::ChangeMembers => self.change_members(),
            _ => {
                let account = 1 + self.chance.index(6);
                self.freeze(account, true);
                let after = self.chance.below(400 * MS);
                self.at(after, Event::Freeze(account, false));
            }
        }
        self.next_fault(every, event.clone());
    }

    fn disconnect(&mut self) {
        let (shard, now) = (self.any_shard(), self.now());
        let at = self.leader().unwrap_or(0);
        if let Some(id) = self.links[at][usize::from(shard)].connection {
            self.network.breaks(id, now, &mut self.chance);
            let after = 200 * MS + self.chance.below(200 * MS);
            self.at(after, Event::LostHere(id));
        }
    }

    fn partition(&mut self) {
        const KEEP_ALIVE: Time = SECOND;
        let (shard, now) = (self.any_shard(), self.now());
        let lasts = self.chance.between(10 * MS, self.longest());
        let ways = self.chance.one_of(&[[true, true], [true, false], [false, true]]);
        trace!(self, "shard {shard} is cut off for {} ms, to and from: {ways:?}", lasts / MS);
        self.network.cut(shard, ways, now + lasts);
        for at in 0..self.coordinators.len() {
            let connection = self.links[at][usize::from(shard)].connection;
            if let Some(id) = connection.filter(|_| lasts > KEEP_ALIVE) {
                self.at(KEEP_ALIVE, Event::LostHere(id));
            }
        }
        if self.replicas > 1 {
            // A leader that is cut off is what hurts.
            let leader = self.leader().filter(|_| self.chance.one_in(3));
            let node = leader.map_or_else(|| self.any_node(), Node::Coordinator);
            self.isolate(node, lasts);
        }
    }

    fn isolate(&mut self, node: Node, lasts: Time) {
        trace!(self, "{node:?} reaches no other replica for {} ms", lasts / MS);
        let (place, now) = (self.place(node), self.now());
        self.isolated[place] = now + lasts;
    }

    fn kill(&mut self) {
        let nodes = match self.chance.below(10) {
            0 => self.nodes(),
            _ => vec![self.any_node()],
        };
        for node in nodes {
            let is_up = match node {
                Node::Coordinator(at) => self.coordinators[at].server.is_some(),
                Node::Participant(at) => self.participants[at].server.is_some(),
            };
            if is_up {
                trace!(self, "{node:?} is killed");
                self.dies(node);
            }
        }
    }

    fn pause(&mut self) {
        let (node, now) = (self.any_node(), self.now());
        let until = now + self.chance.between(MS, self.longest() - SECOND / 2);
        trace!(self, "{node:?} pauses for {} ms", (until - now) / MS);
        match node {
            Node::Coordinator(at) => self.coordinators[at].paused_until = until,
            Node::Participant(at) => self.participants[at].paused_until = until,
        }
    }

    fn clock_jump(&mut self) {
        let most = self.faults.clock_jump_max_ms;
        let ms = self.chance.below(2 * most + 1).cast_signed() - most.cast_signed();
        let node = self.any_node();
        trace!(self, "the clock of {node:?} jumps by {ms} ms");
        let clock = match node {
            Node::Coordinator(at) => &self.coordinators[at].clock,
            Node::Participant(at) => &self.participants[at].clock,
        };
        // Never further off than the seed allows, so that it is known how long everything may take.
        clock.correct();
        clock.jump(ms);
    }

    fn disk_full(&mut self) {
        let node = self.any_node();
        trace!(self, "the disk of {node:?} is full");
        // Enough for some entries, not for a segment.
        let room = self.chance.below(20_000);
        self.set_room(node, room);
        let after = self.chance.between(10 * MS, 500 * MS);
        self.at(after, Event::DiskRoom(node));
    }

    fn set_room(&mut self, node: Node, bytes: u64) {
        match node {
            Node::Coordinator(at) => self.coordinators[at].disk.set_free_bytes(bytes),
            Node::Participant(at) => self.participants[at].disk.set_free_bytes(bytes),
        }
        let place = self.place(node);
        self.full[place] = bytes != u64::MAX;
    }

    pub(crate) fn is_disk_full(&self, node: Node) -> bool {
        self.full[self.place(node)]
    }

    /// Faults stop. Whatever is down is on its way up again; everybody may work.
    fn calm(&mut self) {
        trace!(self, "faults stop");
        self.is_calm = true;
        self.network.heal();
        self.faults = Faults {
            delay_max: self.faults.delay_max.min(5 * MS),
            slow_permille: 0,
            reorder: false,
            duplicate_permille: 0,
            lose_permille: 0,
            sync_max: MS,
            sync_error_permille: 0,
            flip_permille: 0,
            view_lost_permille: 0,
            ..self.faults.clone()
        };
        for node in self.nodes() {
            self.set_room(node, u64::MAX);
        }
        self.isolated.fill(0);
        for coordinator in &mut self.coordinators {
            coordinator.clock.correct();
            coordinator.paused_until = 0;
        }
        for participant in &mut self.participants {
            participant.clock.correct();
            participant.paused_until = 0;
        }
        for account in 1..7 {
            self.freeze(account, false);
        }
        self.resume();
        self.look_after_members();
    }
}
