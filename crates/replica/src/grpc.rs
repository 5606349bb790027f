//! Replicas over gRPC: the service, and the transport of its callers.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use escrow_proto::v1;
use escrow_proto::v1::replica_service_client::ReplicaServiceClient;
use escrow_service::Connector;
use futures_util::future::BoxFuture;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

use crate::network::{CallError, Transport};
use crate::service::{Replicas, Unanswered};

/// Entries and chunks are larger than gRPC's default allows.
pub const MESSAGE_BYTES_MAX: usize = 256 << 20;

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
        let builder = Endpoint::from_shared(endpoint.to_owned())
            .map_err(|error| CallError::Unreachable(format!("'{endpoint}': {error}")))?
            .connect_timeout(Duration::from_secs(1))
            .tcp_nodelay(true)
            .initial_stream_window_size(16 << 20)
            .initial_connection_window_size(64 << 20)
            .http2_keep_alive_interval(Duration::from_secs(2))
            .keep_alive_timeout(Duration::from_secs(2))
            .keep_alive_while_idle(true);
        let channel = self.connector.connect(&builder);
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

/// The status of a call that was not answered.
pub fn status(error: &Unanswered) -> Status {
    let message = error.to_string();
    match error {
        Unanswered::Malformed(_) => Status::invalid_argument(message),
        Unanswered::NotHere(_) => Status::failed_precondition(message),
        Unanswered::Failed(_) => Status::internal(message),
    }
}

/// Answers a call of another replica, for the gRPC service of a server.
pub async fn answer(
    replicas: &Replicas,
    request: Request<v1::CallRequest>,
) -> Result<Response<v1::CallResponse>, Status> {
    replicas.answer(request.into_inner()).await.map(Response::new).map_err(|error| status(&error))
}
