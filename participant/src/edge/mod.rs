//! The gRPC services, and what they share. Everything here runs on its own tasks and reaches the wallets by way of
//! their owners only.

mod accounts;
mod branches;
mod convert;
mod exchange;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod shard;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use escrow_journal::Journal;
use escrow_proto::v1::account_service_server::AccountServiceServer;
use escrow_proto::v1::participant_service_server::ParticipantServiceServer;
use escrow_proto::v1::shard_service_server::ShardServiceServer;
use escrow_replica::{GroupId, Replicas, grpc};
use escrow_service::refusal;
use escrow_types::{Partition, Reason};
use escrow_wallet::{Answers, Command};
use tokio::sync::{oneshot, watch};
use tonic::metadata::MetadataMap;
use tonic::service::Routes;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::checkpoint::Checkpointer;
use crate::config::Config;
use crate::ground::Background;
use crate::identity::Identity;
use crate::owner::{Handle, Refused};

/// The metadata key by which a call of `AccountService` names a shard, where a process holds several.
pub use escrow_proto::PARTICIPANT_METADATA;
pub(crate) use exchange::open_stepped;

/// What all services share.
pub(crate) struct Edge {
    shards: BTreeMap<u16, Handle>,
    identity: Arc<Identity>,
    journal: Journal,
    checkpointer: Checkpointer,
    /// Turns true when streams are to end.
    stop: watch::Receiver<bool>,
    stream_answers_max: usize,
    outcome_interval: Duration,
    outcome_rows_max: usize,
    started: Instant,
    pub(crate) background: Background,
    pub(crate) replicas: Replicas,
}

/// What [`Edge::new`] needs.
pub(crate) struct Parts {
    pub(crate) shards: BTreeMap<u16, Handle>,
    pub(crate) identity: Arc<Identity>,
    pub(crate) journal: Journal,
    pub(crate) checkpointer: Checkpointer,
    /// Turns true when streams are to end.
    pub(crate) stop: watch::Receiver<bool>,
    pub(crate) background: Background,
    pub(crate) replicas: Replicas,
}

/// The services with their limits.
pub(crate) fn routes(edge: &Arc<Edge>, message_bytes_max: usize) -> Routes {
    let edge = || Arc::clone(edge);
    let participant = ParticipantServiceServer::new(branches::Branches(edge()))
        .max_decoding_message_size(message_bytes_max)
        .max_encoding_message_size(usize::MAX);
    let accounts = AccountServiceServer::from_arc(edge()).max_decoding_message_size(message_bytes_max);
    let shard = ShardServiceServer::from_arc(edge()).max_decoding_message_size(message_bytes_max);
    let routes = Routes::new(participant).add_service(accounts).add_service(shard);
    let replicas = edge();
    if replicas.replicas.is_empty() {
        return routes;
    }
    let digest = move |group| digest(Arc::clone(&replicas), group);
    routes.add_service(grpc::service(edge().replicas.clone(), digest))
}

/// The state of a shard that is a replica: how far it is applied, and its digest.
async fn digest(edge: Arc<Edge>, group: GroupId) -> Option<(u64, String)> {
    let GroupId::Shard(shard) = group else { return None };
    let handle = edge.shards.get(&shard.0)?;
    handle.read(|view| (view.applied, view.wallet.digest().to_string())).await.ok()
}

/// The unary service, without a server.
pub(crate) fn unary(edge: Arc<Edge>) -> branches::Branches {
    branches::Branches(edge)
}

impl Edge {
    pub(crate) fn new(config: &Config, parts: Parts) -> Self {
        let Parts { shards, identity, journal, checkpointer, stop, background, replicas } = parts;
        Self {
            shards,
            identity,
            journal,
            checkpointer,
            stop,
            stream_answers_max: config.stream_answers_max,
            outcome_interval: Duration::from_millis(config.outcome_interval_ms),
            outcome_rows_max: config.outcome_rows_max,
            started: Instant::now(),
            background,
            replicas,
        }
    }

    /// The shard with this participant id.
    fn shard(&self, participant: u32) -> Result<&Handle, Status> {
        let id = u16::try_from(participant).ok();
        id.and_then(|id| self.shards.get(&id)).ok_or_else(|| self.not_held(&participant.to_string()))
    }

    /// The shard that a coordinator calls by this name: its id; or any name, where there is only one shard.
    fn shard_named(&self, name: &str) -> Result<&Handle, Status> {
        match (name.parse::<u32>(), self.only_shard()) {
            (Ok(id), _) => self.shard(id),
            (Err(_), Some(handle)) => Ok(handle),
            (Err(_), None) => Err(self.not_held(name)),
        }
    }

    fn only_shard(&self) -> Option<&Handle> {
        if self.shards.len() == 1 { self.shards.values().next() } else { None }
    }

    /// The shard that a call names in its metadata, if it does.
    fn shard_of_metadata(&self, metadata: &MetadataMap) -> Result<Option<&Handle>, Status> {
        let Some(value) = metadata.get(PARTICIPANT_METADATA) else { return Ok(self.only_shard()) };
        let text = value.to_str().unwrap_or_default();
        let id = text.parse().map_err(|_| {
            refusal(
                Reason::InvalidArgument,
                format!("metadata {PARTICIPANT_METADATA} is not a participant id"),
            )
        })?;
        self.shard(id).map(Some)
    }

    fn not_held(&self, participant: &str) -> Status {
        let held: Vec<_> = self.shards.keys().collect();
        let message = format!("this process does not hold participant '{participant}', but {held:?}");
        let details = ErrorDetails::with_error_info(
            Reason::UnknownParticipant.code(),
            escrow_proto::ERROR_DOMAIN,
            std::collections::HashMap::new(),
        );
        Status::with_error_details(Code::NotFound, message, details)
    }

    /// Logs a command that must not be refused for lack of room, and waits for its answers.
    async fn ask(&self, handle: &Handle, command: Command) -> Result<Answers, Status> {
        let (sender, receiver) = oneshot::channel();
        handle.submit(command, |answers| drop(sender.send(answers))).await.map_err(refused)?;
        receiver.await.map_err(|_| unanswered(handle))
    }

    /// Logs a command that is new work, unless there is no room, and waits for its answers.
    async fn ask_if_room(&self, handle: &Handle, command: Command) -> Result<Answers, Status> {
        let (sender, receiver) = oneshot::channel();
        handle.try_submit(command, |answers| drop(sender.send(answers))).map_err(refused)?;
        receiver.await.map_err(|_| unanswered(handle))
    }
}

/// The owner let go of a command: it may be carried out, by whoever leads now.
fn unanswered(handle: &Handle) -> Status {
    match handle.check_serving() {
        Err(Refused::NotLeader(leader)) => {
            let message = "the replica stopped leading its shard before the answer was known";
            escrow_service::unknown_outcome(message, leader.as_deref())
        }
        _ => unknown(),
    }
}

fn refused(refused: Refused) -> Status {
    match refused {
        Refused::Full => refusal(Reason::Overloaded, "the shard has as much unanswered work as it takes"),
        Refused::TooLarge => {
            refusal(Reason::MessageTooLarge, "the message does not fit into one entry of the log")
        }
        Refused::Closed => refusal(Reason::ShuttingDown, "the shard is shutting down"),
        Refused::NotLeader(leader) => escrow_service::not_leader(leader.as_deref()),
        Refused::NoSuchPosition => invalid(
            "position: the shard's log never was so long; it is of another cluster, or from before a restore",
        ),
    }
}

/// The owner went away with the command.
fn unknown() -> Status {
    refusal(Reason::OutcomeUnknown, "the shard ended before the answer was durable")
}

fn invalid(message: impl Into<String>) -> Status {
    refusal(Reason::InvalidArgument, message)
}

fn partition(number: u32) -> Result<Partition, Status> {
    u16::try_from(number).map(Partition).map_err(|_| invalid(format!("partition {number} is above 65535")))
}
