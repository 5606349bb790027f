//! The state machine as openraft sees it: committed entries are handed to the owner, who applies them.
//!
//! openraft hears "applied" when the owner has been told, not when it has applied: whoever reads asks the owner for the index.
//! Snapshots are the owner's checkpoints; a file is only made of one when a follower needs it.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{OptionalSend, RaftSnapshotBuilder};
use tokio::sync::{mpsc, oneshot};

use crate::freshness::Lead;
use crate::types::{Entry, LogId, Payload, Position, RaftSnapshot, SnapshotMeta, StoredMembership, Types};

/// What a group tells the owner of its state machine, in order.
#[derive(Debug)]
pub enum Fed {
    /// Committed: to be applied, exactly so and in this order.
    Committed(Committed),
    /// A follower needs a snapshot, or a backup is made: write the newest checkpoint to a file, and say where in the log it is.
    Export {
        /// Where to.
        path: PathBuf,
        /// The checkpoint must include this entry: if it does not, another one is due first. 0 for a follower, which gets what is
        /// missing as entries.
        includes: u64,
        /// Told when it is done.
        done: oneshot::Sender<Result<Position, String>>,
    },
    /// The state is to be that of a snapshot, durably, whatever it was.
    Install {
        /// Where in the log it is.
        position: Position,
        /// The file; the owner may move it.
        path: PathBuf,
        /// Told when it is done.
        done: oneshot::Sender<Result<(), String>>,
    },
    /// Raft has stopped, and will not start again: the process must end.
    Stopped(String),
}

impl Fed {
    /// Bytes that whoever takes it has to deal with at once.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Committed(entry) => entry.commands.as_ref().map_or(0, Bytes::len),
            _ => 0,
        }
    }
}

/// A committed entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    pub(crate) id: LogId,
    /// `None`: an entry of Raft's own, or a void one, without effect on the state machine.
    pub commands: Option<Bytes>,
    /// Of the commands.
    pub(crate) sequence: u64,
    pub(crate) membership: Option<StoredMembership>,
}

impl Committed {
    /// Its place in the log; the first is 1.
    pub fn index(&self) -> u64 {
        self.id.index + 1
    }

    /// The term of the leader that appended it.
    pub fn term(&self) -> u64 {
        self.id.leader_id.term
    }
}

impl From<Entry> for Committed {
    fn from(entry: Entry) -> Self {
        let raw = Self { id: entry.log_id, commands: None, sequence: 0, membership: None };
        match entry.payload {
            Payload::Blank => raw,
            Payload::Normal(commands) => {
                Self { commands: Some(commands.bytes), sequence: commands.sequence, ..raw }
            }
            Payload::Membership(change) => {
                let membership = Some(StoredMembership::new(Some(entry.log_id), change));
                Self { membership, ..raw }
            }
        }
    }
}

impl Position {
    /// Moves on by one entry, the next one. Commands that are void are taken out of it: see [`Commands`](crate::types::Commands).
    pub fn advance(&mut self, entry: &mut Committed) {
        assert_eq!(entry.index(), self.index() + 1, "entries are applied without gaps, in order");
        if entry.commands.is_some() {
            let (term, last) = self.sequence;
            let expected = if entry.term() == term { last + 1 } else { 1 };
            if entry.sequence == expected {
                self.sequence = (entry.term(), expected);
            } else {
                entry.commands = None;
            }
        }
        self.move_to(entry);
    }

    /// Moves on by an entry that came as [`Fed::Committed`].
    pub fn follow(&mut self, entry: &Committed) {
        assert_eq!(entry.index(), self.index() + 1, "entries are applied without gaps, in order");
        if entry.commands.is_some() {
            self.sequence = (entry.term(), entry.sequence);
        }
        self.move_to(entry);
    }

    fn move_to(&mut self, entry: &Committed) {
        self.last = Some(entry.id);
        if let Some(membership) = &entry.membership {
            self.membership = membership.clone();
        }
    }

    pub(crate) fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.last, last_membership: self.membership.clone() }
    }
}

/// The data of a snapshot.
#[derive(Debug)]
pub enum Snapshot {
    /// The newest checkpoint; a file is made when it is sent.
    Checkpoint,
    /// It has come from the leader.
    File {
        /// The file.
        path: PathBuf,
        /// Where it is of.
        position: Position,
    },
}

/// See the module.
pub struct Machine {
    feed: mpsc::UnboundedSender<Fed>,
    fed: Position,
    checkpointed: Arc<Mutex<Position>>,
    lead: Lead,
}

impl Machine {
    pub(crate) fn new(
        feed: mpsc::UnboundedSender<Fed>,
        position: Position,
        checkpointed: Arc<Mutex<Position>>,
        lead: Lead,
    ) -> Self {
        lead.tell(position.index(), position.term());
        Self { feed, fed: position, checkpointed, lead }
    }

    fn tell(&self, fed: Fed) -> io::Result<()> {
        self.feed.send(fed).map_err(|_| io::Error::other("the owner has ended"))
    }

    fn newest(&self) -> Option<RaftSnapshot> {
        let position = self.checkpointed.lock().unwrap_or_else(PoisonError::into_inner);
        position.last.map(|_| RaftSnapshot { meta: position.meta(), snapshot: Snapshot::Checkpoint })
    }
}

/// Says which checkpoint is the newest; there is nothing to build.
#[derive(Debug)]
pub struct Builder(Option<SnapshotMeta>);

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = Snapshot;

    async fn build_snapshot(&mut self) -> Result<RaftSnapshot, io::Error> {
        let meta = self.0.take().ok_or_else(|| io::Error::other("there is no checkpoint yet"))?;
        Ok(RaftSnapshot { meta, snapshot: Snapshot::Checkpoint })
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = Snapshot;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.fed.last, self.fed.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let mut committed = Committed::from(entry);
            self.fed.advance(&mut committed);
            // Before the owner can tell anybody.
            self.lead.tell(committed.index(), committed.term());
            self.tell(Fed::Committed(committed))?;
            if let Some(responder) = responder {
                responder.send(());
            }
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<Self::SnapshotBuilder> {
        self.newest().map(|newest| Builder(Some(newest.meta)))
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        Builder(self.newest().map(|newest| newest.meta))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Self::SnapshotData,
    ) -> Result<(), io::Error> {
        let Snapshot::File { path, position } = snapshot else {
            // A start: the state is the checkpoint already.
            return Ok(());
        };
        assert_eq!(meta, &position.meta(), "a snapshot is of one place");
        let (done, installed) = oneshot::channel();
        self.tell(Fed::Install { position: position.clone(), path, done })?;
        let gone = |_| io::Error::other("the owner has ended");
        installed.await.map_err(gone)?.map_err(io::Error::other)?;
        *self.checkpointed.lock().unwrap_or_else(PoisonError::into_inner) = position.clone();
        self.lead.tell(position.index(), position.term());
        self.fed = position;
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<RaftSnapshot>, io::Error> {
        Ok(self.newest())
    }
}
