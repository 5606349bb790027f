//! What other replicas and operators ask of the replicas of this process.
//!
//! **Invariant:** a call that is meant for another member, group or cluster changes nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, PoisonError};

use escrow_proto::v1;
use escrow_proto::v1::call_request::Call;
use escrow_proto::v1::call_response::Answer;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest};
use tokio::sync::oneshot;

use crate::error::Malformed;
use crate::group::{INCOMING, Incoming, Replica, Snapshots};
use crate::machine::Snapshot;
use crate::runtime;
use crate::types::{Entry, GroupId, Position, RaftSnapshot, Vote};
use crate::wire;

/// The CRC-32C of bytes that end with their own CRC-32C, little endian: so every file of a snapshot ends.
const SOUND: u32 = 0x4867_4BC7;
/// A file is synced on the way, so that its end is not held up by all of it.
const SYNC_EVERY_BYTES: u64 = 8 << 20;

/// Why a call was not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// It cannot be what it is meant to be.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// It is for somebody else.
    #[error("{0}")]
    NotHere(String),
    /// The replica has stopped, or cannot do it.
    #[error("{0}")]
    Failed(String),
}

fn failed(error: impl std::fmt::Display) -> Unanswered {
    Unanswered::Failed(error.to_string())
}

/// The replicas of one process, at most one of each group.
#[derive(Clone, Default)]
pub struct Replicas(Arc<BTreeMap<GroupId, Replica>>);

impl Replicas {
    /// Of these.
    pub fn new(replicas: impl IntoIterator<Item = Replica>) -> Self {
        Self(Arc::new(replicas.into_iter().map(|replica| (replica.group(), replica)).collect()))
    }

    /// Whether there are none: nothing here is replicated.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, by group.
    pub fn iter(&self) -> impl Iterator<Item = &Replica> {
        self.0.values()
    }

    /// The replica of a group.
    pub fn get(&self, group: GroupId) -> Option<&Replica> {
        self.0.get(&group)
    }

    /// The replica that an operator means.
    pub fn named(&self, group: Option<v1::GroupName>) -> Result<&Replica, Unanswered> {
        let group = wire::to_group(group)?;
        self.get(group).ok_or_else(|| Unanswered::NotHere(format!("no replica of {group} is here")))
    }

    /// Answers a call of another replica.
    pub async fn answer(&self, request: v1::CallRequest) -> Result<v1::CallResponse, Unanswered> {
        let replica = self.named(request.group)?;
        let inner = &replica.0;
        if *request.cluster_id != *inner.peers.cluster_id {
            return Err(Unanswered::NotHere("this is another cluster".into()));
        }
        let call = request.call.ok_or(Malformed("an empty call"))?;
        if request.to != inner.me.id.get() && !matches!(call, Call::Join(_)) {
            return Err(Unanswered::NotHere(format!("this is member {}", inner.me.id)));
        }
        let answer = match call {
            Call::Append(call) => Answer::Append(replica.append(call).await?),
            Call::Vote(call) => Answer::Vote(replica.vote(call).await?),
            Call::Snapshot(call) => Answer::Snapshot(replica.receive(call).await?),
            Call::Transfer(call) => Answer::Transfer(replica.take_over(call).await?),
            Call::Join(call) => {
                let member = wire::to_member(call.member.ok_or(Malformed("no member"))?);
                Answer::Join(replica.admit(&member).await)
            }
        };
        Ok(v1::CallResponse { answer: Some(answer) })
    }
}

impl Replica {
    async fn append(&self, call: v1::AppendCall) -> Result<v1::AppendAnswer, Unanswered> {
        use v1::append_answer::Result as Outcome;
        let entries: Vec<Entry> = call.entries.into_iter().map(wire::to_entry).collect::<Result<_, _>>()?;
        let previous = wire::to_place(call.previous)?;
        let next = previous.map_or(0, |id| id.index + 1);
        if (next..).zip(&entries).any(|(index, entry)| entry.log_id.index != index) {
            return Err(Malformed("entries with a gap").into());
        }
        let vote = wire::wanted_vote(call.vote)?;
        let request = AppendEntriesRequest {
            vote,
            prev_log_id: previous,
            entries,
            leader_commit: wire::to_place(call.committed)?,
        };
        let outcome = match self.0.raft.append_entries(request).await.map_err(failed)? {
            AppendEntriesResponse::Success => Outcome::Success(true),
            AppendEntriesResponse::PartialSuccess(last) => {
                last.map_or(Outcome::Conflict(true), |last| Outcome::Partial(wire::log_id(last)))
            }
            AppendEntriesResponse::Conflict => Outcome::Conflict(true),
            AppendEntriesResponse::HigherVote(vote) => Outcome::HigherVote(wire::ballot(&vote)),
        };
        if !matches!(outcome, Outcome::HigherVote(_)) {
            self.0.lead.give_up(wire::ballot(&vote).term.saturating_sub(1));
            if let Some(echo) = call.echo {
                self.0.heard.vouched(echo, call.acknowledged);
            }
        }
        Ok(v1::AppendAnswer { result: Some(outcome), now: Some(self.0.heard.now()) })
    }

    async fn vote(&self, call: v1::VoteCall) -> Result<v1::VoteAnswer, Unanswered> {
        let mut request = VoteRequest::new(wire::wanted_vote(call.vote)?, wire::to_place(call.last)?);
        request.leadership_transfer = call.transfer;
        if !call.transfer && runtime::Instant::of_now() < self.0.votes_from {
            let metrics = self.0.raft.metrics();
            let metrics = metrics.borrow_watched();
            return Ok(v1::VoteAnswer {
                vote: Some(wire::ballot(&metrics.vote)),
                granted: false,
                last: None,
            });
        }
        let term = wire::ballot(&request.vote).term;
        let answer = if call.rehearsal {
            self.0.raft.pre_vote(request).await
        } else {
            self.0.raft.vote(request).await
        };
        let answer = answer.map_err(failed)?;
        if answer.vote_granted && !call.rehearsal {
            // Before the candidate hears of it.
            self.0.lead.give_up(term.saturating_sub(1));
        }
        Ok(v1::VoteAnswer {
            vote: Some(wire::ballot(&answer.vote)),
            granted: answer.vote_granted,
            last: answer.last_log_id.map(wire::log_id),
        })
    }

    async fn take_over(&self, call: v1::TransferCall) -> Result<v1::TransferAnswer, Unanswered> {
        let from = wire::wanted_vote(call.from)?;
        let last = wire::to_place(call.last)?;
        let request = TransferLeaderRequest::new(from, self.0.me.id.get(), last);
        let answer = self.0.raft.handle_transfer_leader(request).await.map_err(failed)?;
        let refused = answer.err().map_or_else(String::new, |error| error.to_string());
        Ok(v1::TransferAnswer { refused })
    }

    /// Takes a chunk of a snapshot; installs it when it was the last.
    async fn receive(&self, call: v1::SnapshotCall) -> Result<v1::SnapshotAnswer, Unanswered> {
        let vote = wire::wanted_vote(call.vote)?;
        let position = wire::to_position(call.position.unwrap_or_default())?;
        let (is_done, offset) = (call.done, call.offset);
        let mut incoming = self.incoming(offset, &position)?;
        incoming.file.write_all_at(&call.chunk, offset).map_err(failed)?;
        let bytes = call.chunk.len() as u64;
        incoming.bytes += bytes;
        incoming.unsynced += bytes;
        incoming.crc = crc32c::crc32c_append(incoming.crc, &call.chunk);
        if is_done && incoming.crc != SOUND {
            return Err(failed("the snapshot does not end with its checksum"));
        }
        if is_done || incoming.unsynced >= SYNC_EVERY_BYTES {
            incoming.unsynced = 0;
            let file = Arc::clone(&incoming.file);
            let synced = runtime::blocking(move || file.sync_data()).await;
            synced.ok_or_else(|| failed("the sync was cut off"))?.map_err(failed)?;
        }
        if !is_done {
            self.snapshots().incoming = Some(incoming);
            return Ok(v1::SnapshotAnswer { vote: Some(self.ballot(vote)) });
        }
        self.install(incoming, vote).await
    }

    /// The snapshot that a chunk belongs to, taken out until the chunk is dealt with.
    fn incoming(&self, offset: u64, position: &Position) -> Result<Incoming, Unanswered> {
        let mut snapshots = self.snapshots();
        if snapshots.is_installing {
            return Err(failed("a snapshot is being installed"));
        }
        if offset > 0 {
            let is_next = |it: &Incoming| it.position == *position && it.bytes == offset;
            let incoming = snapshots.incoming.take().filter(is_next);
            return incoming.ok_or_else(|| failed("not the chunk that is next: begin again"));
        }
        snapshots.count += 1;
        let path = self.0.peers.snapshot_dir.join(format!("{}-{}{INCOMING}", self.0.group, snapshots.count));
        let file = Arc::from(self.0.peers.disk.create_new(&path).map_err(failed)?);
        if let Some(old) = snapshots.incoming.take() {
            self.discard(&old);
        }
        Ok(Incoming { path, file, position: position.clone(), bytes: 0, crc: 0, unsynced: 0 })
    }

    fn discard(&self, incoming: &Incoming) {
        // It only takes room.
        let _ = self.0.peers.disk.remove(&incoming.path);
    }

    fn snapshots(&self) -> MutexGuard<'_, Snapshots> {
        self.0.snapshots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Installs a snapshot that is whole, in a task of its own: it goes on when whoever sent it has given up waiting, and no other is taken
    /// meanwhile.
    async fn install(&self, incoming: Incoming, vote: Vote) -> Result<v1::SnapshotAnswer, Unanswered> {
        let mine = self.0.raft.metrics().borrow_watched().vote;
        if vote == mine && incoming.position.last.is_some_and(|last| self.0.log.has(last)) {
            // The leader did not know how far this log goes. openraft would count its writes backwards, and its assertions stop it.
            self.discard(&incoming);
            return Ok(v1::SnapshotAnswer { vote: Some(wire::ballot(&mine)) });
        }
        self.0.peers.disk.sync_dir(&self.0.peers.snapshot_dir).map_err(failed)?;
        self.snapshots().is_installing = true;
        let (replica, (told, installed)) = (self.clone(), oneshot::channel());
        runtime::spawn(async move {
            let Incoming { path, position, .. } = incoming;
            let meta = position.meta();
            let snapshot = RaftSnapshot { meta, snapshot: Snapshot::File { path, position } };
            let result = replica.0.raft.install_full_snapshot(vote, snapshot).await;
            replica.snapshots().is_installing = false;
            let answer = result.map(|answer| v1::SnapshotAnswer { vote: Some(wire::ballot(&answer.vote)) });
            // The sender may have given up.
            let _ = told.send(answer.map_err(failed));
        });
        installed.await.map_err(|_| failed("the replica has ended"))?
    }

    /// The newest vote that it knows: the sender stops when that is newer than its own.
    fn ballot(&self, sender: Vote) -> v1::Ballot {
        let mine = self.0.raft.metrics().borrow_watched().vote;
        wire::ballot(if mine > sender { &mine } else { &sender })
    }
}
