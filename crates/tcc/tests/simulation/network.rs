//! Connections between the coordinator and the shards. Each keeps its order; between them there is none.
//!
//! A connection that broke may still deliver what was on its way to the shard, at any later time, in part, and twice: so do
//! buffers, proxies and retransmissions. What was on its way to the coordinator is lost.

use std::collections::{BTreeMap, VecDeque};

use escrow_types::Epoch;
use escrow_wallet::{Answers, Command};

use crate::prng::Prng;

/// The number of a connection; numbers are never used again.
pub(crate) type Connection = u64;

/// What travels back.
pub(crate) enum Reply {
    Answers(Command, Answers),
    /// Reservations past their deadline: what became of them?
    Overdue(Vec<(Epoch, u64)>),
}

#[derive(Default)]
struct Line {
    shard: usize,
    open: bool,
    there: VecDeque<Vec<u8>>,
    back: VecDeque<Reply>,
}

#[derive(Default)]
pub(crate) struct Network {
    lines: BTreeMap<Connection, Line>,
    count: u64,
}

impl Network {
    pub(crate) fn connect(&mut self, shard: usize) -> Connection {
        self.count += 1;
        self.lines.insert(self.count, Line { shard, open: true, ..Line::default() });
        self.count
    }

    pub(crate) fn send(&mut self, connection: Connection, command: &Command) {
        let mut bytes = Vec::new();
        command.encode(&mut bytes);
        self.lines.get_mut(&connection).expect("only on open connections").there.push_back(bytes);
    }

    pub(crate) fn reply(&mut self, connection: Connection, reply: Reply) {
        if let Some(line) = self.lines.get_mut(&connection).filter(|line| line.open) {
            line.back.push_back(reply);
        }
    }

    /// The connection breaks. A part of what was on its way stays in some buffer, perhaps twice.
    pub(crate) fn reset(&mut self, connection: Connection, prng: &mut Prng) {
        let Some(mut line) = self.lines.remove(&connection) else { return };
        let kept = prng.index(line.there.len() + 1);
        line.there.truncate(kept);
        line.back.clear();
        line.open = false;
        if prng.one_in(3) {
            let copy =
                Line { shard: line.shard, open: false, there: line.there.clone(), back: VecDeque::new() };
            self.count += 1;
            self.lines.insert(self.count, copy);
        }
        self.lines.insert(connection, line);
    }

    /// A copy of what is on its way goes astray and arrives some time.
    pub(crate) fn duplicate(&mut self, connection: Connection) {
        let Some(line) = self.lines.get(&connection) else { return };
        let copy = Line { shard: line.shard, open: false, there: line.there.clone(), back: VecDeque::new() };
        self.count += 1;
        self.lines.insert(self.count, copy);
    }

    /// The next message to a shard, of any connection.
    pub(crate) fn deliver(&mut self, prng: &mut Prng) -> Option<(usize, Connection, Vec<u8>)> {
        self.lines.retain(|_, line| line.open || !line.there.is_empty());
        let full: Vec<Connection> =
            self.lines.iter().filter(|(_, line)| !line.there.is_empty()).map(|(&id, _)| id).collect();
        let &connection = full.get(prng.index(full.len().max(1)))?;
        let line = self.lines.get_mut(&connection)?;
        Some((line.shard, connection, line.there.pop_front()?))
    }

    /// The next reply on an open connection.
    pub(crate) fn deliver_back(&mut self, prng: &mut Prng) -> Option<(usize, Connection, Reply)> {
        let full: Vec<Connection> =
            self.lines.iter().filter(|(_, line)| !line.back.is_empty()).map(|(&id, _)| id).collect();
        let &connection = full.get(prng.index(full.len().max(1)))?;
        let line = self.lines.get_mut(&connection)?;
        Some((line.shard, connection, line.back.pop_front()?))
    }

    /// The shard behind a connection died.
    pub(crate) fn of(&self, shard: usize) -> Vec<Connection> {
        self.lines.iter().filter(|(_, line)| line.shard == shard && line.open).map(|(&id, _)| id).collect()
    }
}
