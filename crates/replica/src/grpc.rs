//! Replicas over gRPC: the service, and the transport of its callers.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use escrow_grpc::{Channel, Connector, Endpoint, KeepAlive};
use escrow_proto::v1;
use escrow_proto::v1::replica_service_client::ReplicaServiceClient;
use escrow_proto::v1::replica_service_server::{ReplicaService, ReplicaServiceServer};
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _};
use tonic::{Code, Request, Response, Status};

use crate::export::NotExported;
use crate::group::Replica;
use crate::membership::ChangeError;
use crate::network::{CallError, Transport};
use crate::service::{Replicas, Unanswered};
use crate::types::GroupId;

/// Entries and chunks are larger than gRPC's default allows.
pub const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// When a silent connection is given up.
const KEEP_ALIVE: KeepAlive = KeepAlive { silent: Duration::from_secs(2), answered: Duration::from_secs(2) };

/// Reaches replicas by gRPC.
pub struct Grpc {
    connector: Connector,
    channels: Mutex<HashMap<String, Channel>>,
}

impl Grpc {
    /// Connects when first used, and again when a connection is lost.
    pub fn new(connector: Connector) -> Self {
        Self { connector, channels: Mutex::default() }
    }

    fn channel(&self, endpoint: &str) -> Result<Channel, CallError> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(endpoint) {
            return Ok(channel.clone());
        }
        let parsed = Endpoint::parse(endpoint).map_err(|error| CallError::Unreachable(error.to_string()))?;
        let parsed = parsed.connect_within(Duration::from_secs(1)).keep_alive(KEEP_ALIVE);
        let channel = Channel::new(parsed, self.connector.clone());
        channels.insert(endpoint.to_owned(), channel.clone());
        Ok(channel)
    }
}

impl Transport for Grpc {
    fn call(
        &self,
        endpoint: &str,
        request: v1::CallRequest,
        within: Duration,
    ) -> BoxFuture<'static, Result<v1::CallResponse, CallError>> {
        let channel = self.channel(endpoint);
        Box::pin(async move {
            let mut client = ReplicaServiceClient::new(channel?)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX);
            let mut request = Request::new(request);
            request.set_timeout(within);
            match client.call(request).await {
                Ok(response) => Ok(response.into_inner()),
                Err(status) if status.code() == Code::Unavailable => {
                    Err(CallError::Unreachable(status.message().to_owned()))
                }
                Err(status) => Err(CallError::Failed(format!("{}: {}", status.code(), status.message()))),
            }
        })
    }
}

/// Tells how far the state of a group is applied here, and its digest.
pub type Digest = dyn Fn(GroupId) -> BoxFuture<'static, Option<(u64, String)>> + Send + Sync;

struct Service {
    replicas: Replicas,
    digest: Box<Digest>,
}

/// The service of the replicas of a process. `digest` asks the owner of a group.
pub fn service<F>(
    replicas: Replicas,
    digest: impl Fn(GroupId) -> F + Send + Sync + 'static,
) -> ReplicaServiceServer<impl ReplicaService>
where
    F: Future<Output = Option<(u64, String)>> + Send + 'static,
{
    let digest: Box<Digest> = Box::new(move |group| Box::pin(digest(group)));
    ReplicaServiceServer::new(Service { replicas, digest })
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

fn unanswered(error: &Unanswered) -> Status {
    let message = error.to_string();
    match error {
        Unanswered::Malformed(_) => Status::invalid_argument(message),
        Unanswered::NotHere(_) => Status::failed_precondition(message),
        Unanswered::Failed(_) => Status::internal(message),
    }
}

impl Service {
    async fn report(&self, replica: &Replica) -> v1::Replica {
        let mut report = replica.report();
        if let Some((applied, digest)) = (self.digest)(replica.group()).await {
            (report.applied, report.digest) = (applied, digest);
        }
        report
    }
}

#[tonic::async_trait]
impl ReplicaService for Service {
    async fn call(&self, request: Request<v1::CallRequest>) -> Result<Response<v1::CallResponse>, Status> {
        let answer = self.replicas.answer(request.into_inner()).await;
        answer.map(Response::new).map_err(|error| unanswered(&error))
    }

    async fn get_replicas(
        &self,
        _: Request<v1::GetReplicasRequest>,
    ) -> Result<Response<v1::GetReplicasResponse>, Status> {
        let mut replicas = Vec::new();
        for replica in self.replicas.iter() {
            replicas.push(self.report(replica).await);
        }
        Ok(Response::new(v1::GetReplicasResponse { replicas }))
    }

    async fn change_group(
        &self,
        request: Request<v1::ChangeGroupRequest>,
    ) -> Result<Response<v1::ChangeGroupResponse>, Status> {
        let request = request.into_inner();
        let replica = self.replicas.named(request.group).map_err(|error| unanswered(&error))?;
        let change = request.change.ok_or_else(|| Status::invalid_argument("no change is named"))?;
        match replica.change(change).await {
            Ok(()) => {
                let replica = Some(self.report(replica).await);
                Ok(Response::new(v1::ChangeGroupResponse { replica }))
            }
            Err(ChangeError::NotLeader(error)) => Err(escrow_service::not_leader(error.leader.as_deref())),
            Err(ChangeError::Refused(why)) => Err(Status::failed_precondition(why)),
        }
    }

    type ExportGroupStream = BoxStream<'static, Result<v1::ExportGroupResponse, Status>>;

    async fn export_group(
        &self,
        request: Request<v1::ExportGroupRequest>,
    ) -> Result<Response<Self::ExportGroupStream>, Status> {
        let replica = self.replicas.named(request.into_inner().group).map_err(|error| unanswered(&error))?;
        let exported = replica.export().await.map_err(|error| match error {
            NotExported::NotLeader(error) => escrow_service::not_leader(error.leader.as_deref()),
            NotExported::Failed(why) => Status::internal(why),
        })?;
        let lost = |error: std::io::Error| Status::internal(format!("the snapshot: {error}"));
        Ok(Response::new(exported.into_chunks().map_err(lost).boxed()))
    }
}
