//! The gRPC services: check the form of a request, hand it to the owner, translate its answers.
//!
//! **Invariant:** nothing is decided here; a request that is refused here has no effect and left no trace.

mod account;
mod columns;
mod form;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod operator;
mod outcome;
mod show;
mod stream;
mod transaction;
mod transfer;
mod verify;
mod watch;

pub(crate) use verify::check_replay;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use escrow_proto::v1;
use escrow_replica::{Replicas, grpc};
use escrow_tcc::driver::{Answered, CallerId, Standing};
use escrow_tcc::machine::Decision;
use escrow_tcc::routing::Routing;
use escrow_types::{Epoch, ParticipantId, Partition, ReadPosition, Reason, Sequence, Xid};
use tonic::Status;

use crate::config::Config;
use crate::links::Peer;
use crate::owner::{Mailbox, Owner};

/// What all services share.
pub(crate) struct Edge {
    pub(crate) mailbox: Mailbox,
    pub(crate) config: Arc<Config>,
    pub(crate) routing: Routing,
    pub(crate) peers: Vec<Peer>,
    pub(crate) journal: escrow_journal::Journal,
    pub(crate) started: Instant,
    /// What recovery found unfinished.
    pub(crate) unfinished_at_start: u64,
    next_caller: AtomicU32,
    pub(crate) replicas: Replicas,
}

/// A service over the shared edge. One type implements all of them.
#[derive(Clone)]
pub(crate) struct Service(Arc<Edge>);

impl std::ops::Deref for Service {
    type Target = Edge;
    fn deref(&self) -> &Edge {
        &self.0
    }
}

impl Service {
    pub(crate) fn new(
        mailbox: Mailbox,
        config: Arc<Config>,
        routing: Routing,
        peers: Vec<Peer>,
        journal: escrow_journal::Journal,
        unfinished_at_start: u64,
        replicas: Replicas,
    ) -> Self {
        Self(Arc::new(Edge {
            mailbox,
            config,
            routing,
            peers,
            journal,
            started: Instant::now(),
            unfinished_at_start,
            next_caller: AtomicU32::new(1),
            replicas,
        }))
    }

    /// The service of which there are many calls.
    pub(crate) fn transfers(&self) -> v1::transfer_service_server::TransferServiceServer<Self> {
        let max = self.config.message_bytes_max;
        v1::transfer_service_server::TransferServiceServer::new(self.clone())
            .max_decoding_message_size(max)
            .max_encoding_message_size(max)
    }

    /// All other services, to be served.
    pub(crate) fn routes(&self) -> tonic::service::Routes {
        let max = self.config.message_bytes_max;
        macro_rules! service {
            ($server:path) => {{
                use $server as Server;
                Server::new(self.clone()).max_decoding_message_size(max).max_encoding_message_size(max)
            }};
        }
        let mut routes = tonic::service::RoutesBuilder::default();
        routes
            .add_service(service!(v1::transaction_service_server::TransactionServiceServer))
            .add_service(service!(v1::account_service_server::AccountServiceServer))
            .add_service(service!(v1::operator_service_server::OperatorServiceServer))
            .add_service(service!(v1::coordinator_service_server::CoordinatorServiceServer));
        if !self.replicas.is_empty() {
            let service = self.clone();
            let digest = move |_| service.clone().digest();
            routes.add_service(grpc::service(self.replicas.clone(), digest));
        }
        routes.routes()
    }

    /// How far the state of this replica is applied, and its digest.
    async fn digest(self) -> Option<(u64, String)> {
        let digest = |owner: &mut Owner| (owner.applied, owner.driver.machine().digest().to_string());
        self.mailbox.ask_here(digest).await.ok()
    }

    fn xid(&self, epoch: Epoch, sequence: Sequence) -> String {
        Xid::new(Partition(self.config.partition), epoch, sequence).to_string()
    }

    fn new_caller(&self) -> CallerId {
        CallerId(self.next_caller.fetch_add(1, Ordering::Relaxed))
    }

    fn peer(&self, participant: ParticipantId) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.config.id == participant.0)
    }

    /// A read with this shows what these shards have acknowledged up to now; empty if nothing was heard of one of them yet.
    fn position(&self, shards: impl IntoIterator<Item = Option<ParticipantId>>) -> String {
        let term = self.mailbox.term();
        let place = |shard: Option<ParticipantId>| Some((shard?, self.peer(shard?)?.position(term?)?));
        let places: Option<ReadPosition> = shards.into_iter().map(place).collect();
        places.map_or_else(String::new, |places| places.to_string())
    }

    fn participant_name(&self, participant: ParticipantId) -> String {
        let config = self.config.participants.iter().find(|config| config.id == participant.0);
        config.map_or_else(|| participant.0.to_string(), |config| config.name.clone())
    }
}

/// State and reason of an answer, as the wire has them.
fn wire_state(answered: &Answered) -> (v1::TransactionState, Option<Reason>) {
    match answered.standing {
        Standing::Pending => (v1::TransactionState::Pending, None),
        Standing::Reserved => (v1::TransactionState::Reserved, None),
        Standing::Decided(Decision::Confirm) => (v1::TransactionState::Confirmed, None),
        Standing::Decided(Decision::Cancel(reason)) => (v1::TransactionState::Canceled, Some(reason)),
        Standing::Refused(reason) => (v1::TransactionState::Refused, Some(reason)),
    }
}

/// The number of a reason on the wire; 0 for none.
fn wire_reason(reason: Option<Reason>) -> i32 {
    reason.map_or(0, |reason| i32::from(reason as u8))
}

/// The error of a unary call whose request was refused.
fn refused(reason: Reason) -> Status {
    escrow_service::refusal(reason, form::explain(reason))
}

/// The error of a verb that does not fit.
fn refusal(refusal: escrow_tcc::driver::Refusal) -> Status {
    escrow_service::refusal(refusal.reason, refusal.message)
}
