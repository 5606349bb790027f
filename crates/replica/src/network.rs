//! How the replicas of a group reach each other: openraft's calls as messages over a [`Transport`].
//!
//! One call at a time for each purpose (entries, heartbeats, snapshots), each with a limit in time. A snapshot goes in chunks, read
//! from a file that the owner made of its newest checkpoint; the leader serves meanwhile.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use escrow_journal::storage::{Disk, DiskFile};
use escrow_proto::v1;
use escrow_proto::v1::call_request::Call;
use escrow_proto::v1::call_response::Answer;
use futures_util::future::BoxFuture;
use openraft::OptionalSend;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use tokio::sync::{mpsc, oneshot};

use crate::error::Malformed;
use crate::freshness::Lead;
use crate::group::OUTGOING;
use crate::machine::{Fed, Snapshot};
use crate::runtime;
use crate::types::{Address, GroupId, MemberId, Position, RaftSnapshot, Types, Vote};
use crate::wire;

/// Bytes of a snapshot in one message.
pub(crate) const CHUNK_BYTES: usize = 1 << 20;
/// How long a follower may take to make entries durable. Heartbeats are cut off earlier, by openraft.
const APPEND_WITHIN: Duration = Duration::from_secs(2);
/// How long a chunk may take.
const CHUNK_WITHIN: Duration = Duration::from_secs(10);
/// How long the last chunk may take: the follower makes all of it durable before it answers.
const INSTALL_WITHIN: Duration = Duration::from_secs(300);

/// Why a call was not answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallError {
    /// It did not reach the other; a pause is due.
    Unreachable(String),
    /// It may have reached the other.
    Failed(String),
}

/// Carries calls between replicas: gRPC, or a simulated network.
pub trait Transport: Send + Sync + 'static {
    /// Calls the replica at an endpoint; gives up after `within`.
    fn call(
        &self,
        endpoint: &str,
        request: v1::CallRequest,
        within: Duration,
    ) -> BoxFuture<'static, Result<v1::CallResponse, CallError>>;
}

/// Makes the connections of one replica to its peers.
#[derive(Clone)]
pub(crate) struct Peers {
    pub(crate) group: GroupId,
    pub(crate) me: MemberId,
    pub(crate) cluster_id: Arc<str>,
    pub(crate) transport: Arc<dyn Transport>,
    /// Where numbered processes listen now, whatever the group's log says of them.
    pub(crate) directory: Arc<BTreeMap<u32, String>>,
    pub(crate) disk: Arc<dyn Disk>,
    /// Where files for snapshots are made.
    pub(crate) snapshot_dir: Arc<PathBuf>,
    pub(crate) feed: mpsc::WeakUnboundedSender<Fed>,
    pub(crate) lead: Lead,
}

impl Peers {
    /// Where a member listens: where its process was said to be, or else where it was when it became a member.
    pub(crate) fn endpoint(&self, member: u64, address: &Address) -> String {
        self.directory.get(&MemberId::from_raw(member).number()).unwrap_or(&address.0).clone()
    }

    /// Calls another replica.
    pub(crate) async fn call(
        &self,
        to: u64,
        endpoint: &str,
        call: Call,
        within: Duration,
    ) -> Result<Answer, CallError> {
        let request = v1::CallRequest {
            group: Some(wire::group(self.group)),
            from: self.me.get(),
            to,
            cluster_id: self.cluster_id.to_string(),
            call: Some(call),
        };
        let response = self.transport.call(endpoint, request, within);
        let response = runtime::within(within, response).await;
        let response = response.ok_or_else(|| CallError::Failed("no answer in time".into()))??;
        response.answer.ok_or_else(|| CallError::Failed("an empty answer".into()))
    }

    /// Has the owner write its newest checkpoint to a file, one that includes an entry. `receiver` is only for the name of the file.
    ///
    /// The file is waited for in a task of its own: the owner may write it after whoever asked has gone, and then it goes with the
    /// answer that nobody takes.
    pub(crate) async fn export(&self, receiver: &str, includes: u64) -> Result<(Outgoing, Position), String> {
        let name = format!("{}-to-{receiver}-{}{OUTGOING}", self.group, runtime::random());
        let file = Outgoing { disk: Arc::clone(&self.disk), path: self.snapshot_dir.join(name) };
        let (done, written) = oneshot::channel();
        let feed = self.feed.upgrade().ok_or("the owner has ended")?;
        let export = Fed::Export { path: file.path.clone(), includes, done };
        feed.send(export).map_err(|_| "the owner has ended")?;
        let (told, exported) = oneshot::channel();
        runtime::spawn(async move {
            let written = written.await.unwrap_or_else(|_| Err("the owner has let go of it".to_owned()));
            drop(told.send(written.map(|position| (file, position))));
        });
        exported.await.unwrap_or_else(|_| Err("the replica has ended".to_owned()))
    }
}

/// The file of a snapshot for somebody else: removed when this is dropped, whether it was sent, or canceled, or never written.
pub(crate) struct Outgoing {
    disk: Arc<dyn Disk>,
    path: PathBuf,
}

impl Outgoing {
    pub(crate) fn open(&self) -> io::Result<Box<dyn DiskFile>> {
        self.disk.open(&self.path)
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        match self.disk.remove(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %self.path.display(), %error, "the file of a snapshot could not be removed");
            }
            _ => {}
        }
    }
}

impl RaftNetworkFactory<Types> for Peers {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &Address) -> Self::Network {
        let endpoint = self.endpoint(target, node);
        Peer { peers: self.clone(), target, endpoint, echo: None }
    }
}

/// The way to one member.
pub(crate) struct Peer {
    peers: Peers,
    target: u64,
    endpoint: String,
    /// When it answered last, by its own clock.
    echo: Option<v1::Moment>,
}

fn rpc(error: CallError) -> RPCError<Types> {
    match error {
        CallError::Unreachable(why) => RPCError::Unreachable(Unreachable::from_string(why)),
        CallError::Failed(why) => RPCError::Network(NetworkError::from_string(why)),
    }
}

fn malformed(error: Malformed) -> RPCError<Types> {
    RPCError::Network(NetworkError::new(&error))
}

const UNEXPECTED: Malformed = Malformed("the answer to another call");

impl Peer {
    async fn call(&self, call: Call, within: Duration) -> Result<Answer, RPCError<Types>> {
        self.peers.call(self.target, &self.endpoint, call, within).await.map_err(rpc)
    }

    async fn ask(
        &self,
        request: VoteRequest<Types>,
        rehearsal: bool,
        option: &RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let call = v1::VoteCall {
            vote: Some(wire::ballot(&request.vote)),
            last: request.last_log_id.map(wire::log_id),
            transfer: request.leadership_transfer,
            rehearsal,
        };
        match self.call(Call::Vote(call), option.soft_ttl()).await? {
            Answer::Vote(answer) => Ok(VoteResponse {
                vote: wire::wanted_vote(answer.vote).map_err(malformed)?,
                vote_granted: answer.granted,
                last_log_id: wire::to_place(answer.last).map_err(malformed)?,
            }),
            _ => Err(malformed(UNEXPECTED)),
        }
    }

    async fn send_file(
        &self,
        vote: Vote,
        file: &Outgoing,
        position: &Position,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        // The file is for this transfer alone: what is wrong with it is no reason to stop Raft.
        let lost = |error: io::Error| StreamingError::Network(NetworkError::new(&error));
        let file = file.open().map_err(lost)?;
        let size = file.size().map_err(lost)?;
        let mut offset = 0;
        loop {
            let mut chunk = vec![0; CHUNK_BYTES.min((size - offset) as usize)];
            file.read_exact_at(&mut chunk, offset).map_err(lost)?;
            let end = offset + chunk.len() as u64;
            let call = v1::SnapshotCall {
                vote: Some(wire::ballot(&vote)),
                position: Some(wire::position(position)),
                offset,
                chunk: Bytes::from(chunk),
                done: end == size,
            };
            let within = if end == size { INSTALL_WITHIN } else { CHUNK_WITHIN };
            let answer = self.peers.call(self.target, &self.endpoint, Call::Snapshot(call), within).await;
            let answer = answer.map_err(|error| match error {
                CallError::Unreachable(why) => StreamingError::Unreachable(Unreachable::from_string(why)),
                CallError::Failed(why) => StreamingError::Network(NetworkError::from_string(why)),
            })?;
            let Answer::Snapshot(answer) = answer else {
                return Err(StreamingError::Network(NetworkError::new(&UNEXPECTED)));
            };
            let newer = wire::wanted_vote(answer.vote)
                .map_err(|error| StreamingError::Network(NetworkError::new(&error)))?;
            if end == size || newer > vote {
                return Ok(SnapshotResponse::new(newer));
            }
            offset = end;
        }
    }
}

impl RaftNetworkV2<Types> for Peer {
    type SnapshotData = Snapshot;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        use v1::append_answer::Result as Outcome;
        let vouched = self.peers.lead.vouches();
        let echo = self.echo.filter(|_| vouched.is_some());
        let call = v1::AppendCall {
            vote: Some(wire::ballot(&request.vote)),
            previous: request.prev_log_id.map(wire::log_id),
            entries: request.entries.iter().map(wire::entry).collect(),
            committed: request.leader_commit.map(wire::log_id),
            echo,
            acknowledged: vouched.unwrap_or(0),
        };
        let answer = self.call(Call::Append(call), APPEND_WITHIN.max(option.soft_ttl())).await?;
        let Answer::Append(v1::AppendAnswer { result: Some(outcome), now }) = answer else {
            return Err(malformed(UNEXPECTED));
        };
        self.echo = now;
        Ok(match outcome {
            Outcome::Success(_) => AppendEntriesResponse::Success,
            Outcome::Partial(last) => {
                AppendEntriesResponse::PartialSuccess(Some(wire::to_log_id(last).map_err(malformed)?))
            }
            Outcome::Conflict(_) => AppendEntriesResponse::Conflict,
            Outcome::HigherVote(ballot) => {
                AppendEntriesResponse::HigherVote(wire::to_vote(ballot).map_err(malformed)?)
            }
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask(request, false, &option).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask(request, true, &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        _: RaftSnapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        use openraft_rt::{AsyncRuntime as _, Select2};
        let send = async {
            let receiver = MemberId::from_raw(self.target).to_string();
            let exported = self.peers.export(&receiver, 0).await;
            let (file, position) =
                exported.map_err(|why| StreamingError::Network(NetworkError::from_string(why)))?;
            self.send_file(vote, &file, &position).await
        };
        match runtime::Runtime::select2(Box::pin(send), Box::pin(cancel)).await {
            Select2::First(result) => result,
            Select2::Second(closed) => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let call = v1::TransferCall {
            from: Some(wire::ballot(request.from_leader())),
            last: request.last_log_id().copied().map(wire::log_id),
        };
        match self.call(Call::Transfer(call), option.soft_ttl()).await? {
            Answer::Transfer(answer) if answer.refused.is_empty() => Ok(Ok(())),
            Answer::Transfer(answer) => Err(RPCError::Network(NetworkError::from_string(answer.refused))),
            _ => Err(malformed(UNEXPECTED)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use escrow_journal::storage::OsDisk;
    use escrow_types::ParticipantId;
    use openraft::vote::{RaftLeaderId as _, RaftVote as _};
    use tokio::sync::mpsc::UnboundedReceiver;

    use super::*;
    use crate::types::{LeaderId, SnapshotMeta};

    /// Says that it was called, and never answers.
    struct Silent(mpsc::UnboundedSender<()>);

    impl Transport for Silent {
        fn call(
            &self,
            _: &str,
            _: v1::CallRequest,
            _: Duration,
        ) -> BoxFuture<'static, Result<v1::CallResponse, CallError>> {
            self.0.send(()).unwrap();
            Box::pin(std::future::pending())
        }
    }

    /// The way to a member that never answers, the calls to it, and what the owner is told.
    fn peer(dir: &Path) -> (Peer, UnboundedReceiver<()>, UnboundedReceiver<Fed>, mpsc::UnboundedSender<Fed>) {
        let (calls, called) = mpsc::unbounded_channel();
        let (feed, fed) = mpsc::unbounded_channel();
        let peers = Peers {
            group: GroupId::Shard(ParticipantId(0)),
            me: MemberId::first(1),
            cluster_id: "c".into(),
            transport: Arc::new(Silent(calls)),
            directory: Arc::default(),
            disk: OsDisk::shared(),
            snapshot_dir: Arc::new(dir.to_owned()),
            feed: feed.downgrade(),
            lead: Lead::default(),
        };
        let target = MemberId::first(2).get();
        (Peer { peers, target, endpoint: String::new(), echo: None }, called, fed, feed)
    }

    fn send(
        mut peer: Peer,
    ) -> (oneshot::Sender<()>, impl Future<Output = Result<SnapshotResponse<Types>, StreamingError<Types>>>)
    {
        let (cancel, canceled) = oneshot::channel();
        let cancel_sent = async move {
            canceled.await.unwrap();
            ReplicationClosed::new("no leader any more")
        };
        let vote = Vote::from_leader_id(LeaderId::new(1, 1), true);
        let snapshot = RaftSnapshot { meta: SnapshotMeta::default(), snapshot: Snapshot::Checkpoint };
        let option = RPCOption::new(Duration::from_secs(60));
        (cancel, async move { peer.full_snapshot(vote, snapshot, cancel_sent, option).await })
    }

    fn asked(fed: Option<Fed>) -> (PathBuf, oneshot::Sender<Result<Position, String>>) {
        match fed {
            Some(Fed::Export { path, done, .. }) => (path, done),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn the_file_of_a_snapshot_goes_when_sending_it_is_canceled() {
        let dir = tempfile::tempdir().unwrap();
        let (peer, mut called, mut fed, _feed) = peer(dir.path());
        let (cancel, sent) = send(peer);
        let sent = tokio::spawn(sent);
        let (path, done) = asked(fed.recv().await);
        std::fs::write(&path, "a checkpoint").unwrap();
        done.send(Ok(Position::default())).unwrap();
        called.recv().await.unwrap();
        assert!(path.exists(), "it is being sent");
        cancel.send(()).unwrap();
        assert!(matches!(sent.await.unwrap(), Err(StreamingError::Closed(_))));
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn the_file_of_a_snapshot_goes_when_it_is_written_after_sending_was_canceled() {
        let dir = tempfile::tempdir().unwrap();
        let (peer, mut called, mut fed, _feed) = peer(dir.path());
        let (cancel, sent) = send(peer);
        let sent = tokio::spawn(sent);
        let (path, done) = asked(fed.recv().await);
        cancel.send(()).unwrap();
        assert!(matches!(sent.await.unwrap(), Err(StreamingError::Closed(_))));
        std::fs::write(&path, "a checkpoint").unwrap();
        done.send(Ok(Position::default())).expect("somebody waits for it still");
        let gone = async {
            while path.exists() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), gone).await.expect("it goes");
        assert!(called.try_recv().is_err(), "it was not sent");
    }
}
