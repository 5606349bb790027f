//! The log of one group: a virtual log in the journal of the process, as openraft wants it.
//!
//! Every append, vote and truncation is one entry of the journal under the group's number, in the order in which openraft asked:
//! votes and entries are never reordered, and all groups of a process share its fsync (adaptive group commit: openraft is told by
//! a callback, and goes on meanwhile). Entries since the last checkpoint are also in memory; a follower that needs older ones
//! gets a snapshot.
//!
//! To ensure correctness:
//! - a vote is durable before [`RaftLogStorage::save_vote`] returns;
//! - what purging needs to outlive old segments ([`Base`](v1::log_record::Base)) is durable before they are given up;
//! - what is read back ([`Recovering`]) is what was appended, without what was truncated.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use escrow_invariants::{Canary, canary};
use escrow_journal::{Group, Index, Journal};
use escrow_proto::v1;
use escrow_proto::v1::log_record::Record;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};
use prost::Message as _;
use tokio::sync::oneshot;

use crate::error::{Malformed, ReplicaError};
use crate::machine::Committed;
use crate::types::{Entry, LogId, Payload, Types, Vote};
use crate::wire;

/// So much is read for one message to a follower, if an entry alone is not more.
const READ_BYTES_MAX: usize = 4 << 20;

/// What is known of the log, all of it in memory.
#[derive(Debug, Default)]
struct State {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    /// Those after `purged`, without gaps, each with its place in the journal.
    entries: VecDeque<(u64, Entry)>,
    /// The newest base in the journal.
    base: Option<Base>,
}

/// A record that has vote and purged place: once it is durable, nothing older is needed but the entries that it left.
#[derive(Debug, Clone, Copy)]
struct Base {
    at: u64,
    /// The first entry that was not purged then.
    first_entry_at: u64,
    /// Bytes that the journal had written then, since it was opened.
    bytes: u64,
}

impl State {
    /// The raft index of the first entry in memory, or of the one that would be.
    fn first(&self) -> u64 {
        self.entries
            .front()
            .map_or_else(|| self.purged.map_or(0, |purged| purged.index + 1), |(_, entry)| entry.log_id.index)
    }

    fn last(&self) -> Option<LogId> {
        self.entries.back().map_or(self.purged, |(_, entry)| Some(entry.log_id))
    }

    /// Puts an entry at its place; whatever was there and after it is void.
    fn put(&mut self, at: u64, entry: Entry) -> Result<(), Malformed> {
        let index = entry.log_id.index;
        let end = self.first() + self.entries.len() as u64;
        if self.entries.is_empty() {
            if self.purged.is_some_and(|purged| index <= purged.index) {
                return Ok(());
            }
        } else if index > end {
            return Err(Malformed("the group's log has a gap"));
        }
        self.truncate_from(index);
        self.entries.push_back((at, entry));
        Ok(())
    }

    fn truncate_from(&mut self, index: u64) {
        let keep = index.saturating_sub(self.first());
        self.entries.truncate(usize::try_from(keep).unwrap_or(usize::MAX));
    }

    fn purge(&mut self, upto: LogId) {
        while self.entries.front().is_some_and(|(_, entry)| entry.log_id.index <= upto.index) {
            self.entries.pop_front();
        }
        self.purged = self.purged.max(Some(upto));
    }

    fn get(&self, range: impl RangeBounds<u64>) -> impl Iterator<Item = &Entry> {
        let first = self.first();
        let from = match range.start_bound() {
            Bound::Included(&from) => from,
            Bound::Excluded(&before) => before + 1,
            Bound::Unbounded => 0,
        };
        let until = match range.end_bound() {
            Bound::Included(&last) => last.saturating_add(1),
            Bound::Excluded(&until) => until,
            Bound::Unbounded => u64::MAX,
        };
        let len = self.entries.len() as u64;
        let from = from.saturating_sub(first).min(len);
        let until = until.saturating_sub(first).clamp(from, len);
        self.entries.range(from as usize..until as usize).map(|(_, entry)| entry)
    }
}

/// Bytes that an entry takes, more or less.
fn size(entry: &Entry) -> usize {
    const OVERHEAD: usize = 128;
    match &entry.payload {
        Payload::Normal(commands) => commands.bytes.len() + OVERHEAD,
        _ => OVERHEAD,
    }
}

/// Builds the log of a group from the records of the journal, in their order.
#[derive(Debug, Default)]
pub struct Recovering {
    state: State,
}

impl Recovering {
    /// Takes the next record of this group; `at` is its place in the journal. Records that an older checkpoint has made superfluous
    /// may be missing at the beginning.
    pub fn record(&mut self, at: Index, payload: Vec<u8>) -> Result<(), ReplicaError> {
        self.record_and_tell(at, payload, &mut |_| {})
    }

    /// As [`Recovering::record`], and tells of every entry that goes because a checkpoint includes it: they were committed.
    pub fn record_and_tell(
        &mut self,
        at: Index,
        payload: Vec<u8>,
        tell: &mut dyn FnMut(Committed),
    ) -> Result<(), ReplicaError> {
        let wrong = |why: String| ReplicaError::Record { index: at.get(), why };
        let record = v1::LogRecord::decode(Bytes::from(payload)).map_err(|error| wrong(error.to_string()))?;
        self.apply(at.get(), record, tell).map_err(|why| wrong(why.to_string()))
    }

    fn apply(
        &mut self,
        at: u64,
        record: v1::LogRecord,
        tell: &mut dyn FnMut(Committed),
    ) -> Result<(), Malformed> {
        let state = &mut self.state;
        match record.record.ok_or(Malformed("an empty record"))? {
            Record::Append(append) => {
                state.put(at, wire::to_entry(append.entry.ok_or(Malformed("no entry"))?)?)?;
                state.committed = state.committed.max(wire::to_place(append.committed)?);
            }
            Record::Vote(ballot) => {
                state.vote = Some(wire::to_vote(ballot)?);
            }
            Record::Truncate(truncate) => {
                state.truncate_from(wire::to_place(truncate.last)?.map_or(0, |last| last.index + 1));
            }
            Record::Base(base) => {
                if let Some(vote) = base.vote {
                    state.vote = Some(wire::to_vote(vote)?);
                }
                if let Some(purged) = wire::to_place(base.purged)? {
                    state.get(..=purged.index).cloned().for_each(|entry| tell(entry.into()));
                    state.purge(purged);
                }
                state.committed = state.committed.max(wire::to_place(base.committed)?);
                let first_entry_at = state.entries.front().map_or(at, |(at, _)| *at);
                state.base = Some(Base { at, first_entry_at, bytes: 0 });
            }
        }
        Ok(())
    }

    /// Checks what the records gave.
    fn finish(mut self) -> Result<State, ReplicaError> {
        let state = &mut self.state;
        if let (Some(purged), Some((at, first))) = (state.purged, state.entries.front())
            && first.log_id.index != purged.index + 1
        {
            let why = format!("the group's log goes on at {} after {}", first.log_id.index, purged.index);
            return Err(ReplicaError::Record { index: *at, why });
        }
        // What was known to be committed may have been more than what reached the disk.
        state.committed = state.committed.min(state.last());
        Ok(self.state)
    }

    /// The entries in the log, up to an index as the house counts: committed if a state that includes that index is.
    pub fn entries_to(&self, last: u64) -> impl Iterator<Item = Committed> {
        self.state.get(..last).cloned().map(Committed::from)
    }

    /// The last entry that a checkpoint made superfluous; 0 if there is none.
    pub fn purged(&self) -> u64 {
        self.state.purged.map_or(0, |purged| purged.index + 1)
    }
}

/// Whoever waits for the journal.
enum Waiter {
    Flush(IOFlushed<Types>),
    Vote(oneshot::Sender<io::Result<()>>),
}

impl Waiter {
    fn tell(self, result: io::Result<()>) {
        match self {
            Self::Flush(flushed) => flushed.io_completed(result),
            // Raft may have been shut down meanwhile.
            Self::Vote(done) => drop(done.send(result)),
        }
    }
}

/// Those who wait, in the order of the journal.
#[derive(Default)]
struct Waiters(Mutex<VecDeque<(u64, Waiter)>>);

impl Waiters {
    fn release(&self, durable: u64) {
        loop {
            // Told outside of the lock: who is told may append at once.
            let waiter = {
                let mut waiters = lock(&self.0);
                match waiters.front() {
                    Some((at, _)) if *at <= durable => waiters.pop_front(),
                    _ => None,
                }
            };
            let Some((_, waiter)) = waiter else { return };
            waiter.tell(Ok(()));
        }
    }

    fn fail(&self, why: &str) {
        for (_, waiter) in std::mem::take(&mut *lock(&self.0)) {
            waiter.tell(Err(io::Error::other(why.to_owned())));
        }
    }
}

struct Shared {
    group: Group,
    journal: Journal,
    trim: Arc<Trim>,
    state: Mutex<State>,
    waiters: Arc<Waiters>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How much of a journal its groups still need; the rest is trimmed.
#[derive(Debug, Default)]
pub struct Trim(Mutex<Vec<(u16, u64)>>);

impl Trim {
    /// For these groups, none of which has given up anything yet.
    pub fn of(groups: impl IntoIterator<Item = Group>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(groups.into_iter().map(|group| (group.0, 0)).collect())))
    }

    fn needs(&self, journal: &Journal, group: Group, from: u64) {
        let mut needs = lock(&self.0);
        if let Some(slot) = needs.iter_mut().find(|(number, _)| *number == group.0) {
            slot.1 = slot.1.max(from);
        }
        let first = needs.iter().map(|(_, from)| *from).min().unwrap_or(0);
        if first > 1 {
            journal.trim(Index(first - 1));
        }
    }
}

/// The log of one group. Clones are handles of the same log.
#[derive(Clone)]
pub struct GroupLog(Arc<Shared>);

impl GroupLog {
    /// Goes on with what was recovered. The journal is shared with the other groups of the process.
    pub fn new(
        group: Group,
        journal: Journal,
        trim: Arc<Trim>,
        recovered: Recovering,
    ) -> Result<Self, ReplicaError> {
        let waiters = Arc::new(Waiters::default());
        let told = Arc::clone(&waiters);
        journal.on_durable(Box::new(move |outcome| match outcome {
            Ok(durable) => told.release(durable.get()),
            Err(failure) => told.fail(&failure.to_string()),
        }));
        let state = Mutex::new(recovered.finish()?);
        Ok(Self(Arc::new(Shared { group, journal, trim, state, waiters })))
    }

    /// Whether anything was ever written: an entry or a vote.
    pub fn is_pristine(&self) -> bool {
        let state = lock(&self.0.state);
        state.vote.is_none() && state.last().is_none()
    }

    /// The term of the newest vote; the last entry that is known to be committed; and every entry after `index`, as the house counts.
    pub(crate) fn after(&self, index: u64) -> (u64, u64, Vec<Committed>) {
        let state = lock(&self.0.state);
        let term = state.vote.as_ref().map_or(0, |vote| wire::ballot(vote).term);
        let committed = state.committed.max(state.purged).map_or(0, |id| id.index + 1);
        (term, committed, state.get(index..).cloned().map(Committed::from).collect())
    }

    /// Up to where entries may go that a checkpoint includes, if `bytes` of the newest ones are kept for followers that are a little
    /// behind; as Raft counts.
    pub(crate) fn superfluous(&self, checkpointed: LogId, bytes: usize) -> Option<u64> {
        let state = lock(&self.0.state);
        // In a journal that others fill, a small log is old, too.
        let bytes = if self.is_older(&state, bytes) { 0 } else { bytes };
        let mut kept = 0;
        let mut newest = state.entries.iter().rev();
        let first_kept = newest.find(|(_, entry)| {
            kept += size(entry);
            kept > bytes
        });
        let upto = first_kept.map(|(_, entry)| entry.log_id.index)?;
        Some(upto.min(checkpointed.index)).filter(|&upto| upto >= state.first())
    }

    /// Whether an entry is in it: then all before it are those of whoever says so, too (Raft's log matching).
    pub(crate) fn has(&self, id: LogId) -> bool {
        lock(&self.0.state).get(id.index..=id.index).any(|entry| entry.log_id == id)
    }

    fn is_older(&self, state: &State, bytes_kept: usize) -> bool {
        let written = self.0.journal.stats().bytes;
        written.saturating_sub(state.base.map_or(0, |base| base.bytes)) > 4 * bytes_kept as u64
    }

    /// Whether the journal has gone on for long since it had a base of this group: old segments are kept for it.
    pub(crate) fn is_old(&self, bytes_kept: usize) -> bool {
        self.is_older(&lock(&self.0.state), bytes_kept)
    }

    /// Writes a new base, and gives up what the last one has made superfluous, if that is durable.
    pub(crate) fn rebase(&self) -> io::Result<()> {
        let mut state = lock(&self.0.state);
        if let Some(Base { at, first_entry_at, .. }) = state.base
            && at <= self.0.journal.durable().get()
        {
            self.0.trim.needs(&self.0.journal, self.0.group, at.min(first_entry_at));
        }
        let base = v1::log_record::Base {
            vote: state.vote.as_ref().map(wire::ballot),
            purged: state.purged.map(wire::log_id),
            committed: state.committed.map(wire::log_id),
        };
        let at = self.write(Record::Base(base))?;
        let first_entry_at = state.entries.front().map_or(at, |(at, _)| *at);
        state.base = Some(Base { at, first_entry_at, bytes: self.0.journal.stats().bytes });
        Ok(())
    }

    fn write(&self, record: Record) -> io::Result<u64> {
        let mut payload = self.0.journal.buffer();
        let record = v1::LogRecord { record: Some(record) };
        record.encode(&mut payload).expect("a vector grows as needed");
        Ok(self.0.journal.append(self.0.group, payload).map_err(io::Error::other)?.get())
    }

    /// Tells a waiter when the journal is durable up to `at`.
    fn wait(&self, at: u64, waiter: Waiter) {
        lock(&self.0.waiters.0).push_back((at, waiter));
        // It may have become durable before anybody waited; and a failure tells only those who wait already.
        self.0.waiters.release(self.0.journal.durable().get());
        if let Err(error) = self.0.journal.check() {
            self.0.waiters.fail(&error.to_string());
        }
    }
}

impl RaftLogReader<Types> for GroupLog {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        Ok(lock(&self.0.state).get(range).cloned().collect())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(lock(&self.0.state).vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        let state = lock(&self.0.state);
        let mut bytes = 0;
        let mut entries = Vec::new();
        for entry in state.get(start..end) {
            bytes += size(entry);
            if bytes > READ_BYTES_MAX && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        Ok(entries)
    }
}

impl RaftLogStorage<Types> for GroupLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let state = lock(&self.0.state);
        Ok(LogState { last_purged_log_id: state.purged, last_log_id: state.last() })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let (done, saved) = oneshot::channel();
        let at = {
            let mut state = lock(&self.0.state);
            state.vote = Some(*vote);
            if canary::is_on(Canary::VoteNotPersisted) {
                return Ok(());
            }
            self.write(Record::Vote(wire::ballot(vote)))?
        };
        self.wait(at, Waiter::Vote(done));
        saved.await.map_err(|_| io::Error::other("the journal is closed"))?
    }

    /// Written with the next entry: a write of its own would cost an fsync for what a restart can do without.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        lock(&self.0.state).committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(lock(&self.0.state).committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut last = self.0.journal.durable().get();
        {
            let mut state = lock(&self.0.state);
            let committed = state.committed.map(wire::log_id);
            for entry in entries {
                let message = Some(wire::entry(&entry));
                last = self.write(Record::Append(v1::log_record::Append { entry: message, committed }))?;
                state.put(last, entry).map_err(io::Error::other)?;
            }
        }
        self.wait(last, Waiter::Flush(callback));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let mut state = lock(&self.0.state);
        self.write(Record::Truncate(v1::log_record::Truncate { last: last.map(wire::log_id) }))?;
        state.truncate_from(last.map_or(0, |last| last.index + 1));
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        lock(&self.0.state).purge(upto);
        self.rebase()
    }
}

#[cfg(test)]
mod tests;
