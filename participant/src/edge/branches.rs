//! `ParticipantService`: the unary calls, one branch each, and the door to the stream.

use std::pin::Pin;
use std::sync::Arc;

use escrow_proto::v1 as proto;
use escrow_proto::v1::participant_service_server::ParticipantService;
use escrow_service::refusal;
use escrow_types::{Answer, Reason};
use escrow_wallet::{Answers, Command};
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::{Edge, convert, exchange, unknown};
use crate::ground;

/// The only answer to a command of one branch.
fn only(answers: &Answers) -> Result<Answer, Status> {
    let mut rows = answers.branches().into_iter().flat_map(escrow_wallet::BranchAnswers::iter);
    rows.next().map(|(_, answer)| answer).ok_or_else(unknown)
}

/// The answer as the wire has it: its number, and the reason of a rejection.
fn split(answer: Answer) -> (i32, i32, String) {
    match answer {
        Answer::Rejected(reason) => {
            (proto::Answer::Rejected as i32, i32::from(reason as u8), reason.to_string())
        }
        other => (i32::from(other.to_byte()), 0, String::new()),
    }
}

impl Edge {
    /// Serves only the cluster that it first served.
    pub(super) async fn check_cluster(&self, cluster_id: &str) -> Result<(), Status> {
        if cluster_id.is_empty() || self.identity.cluster_id().as_deref() == Some(cluster_id) {
            return Ok(());
        }
        let is_hex = cluster_id.len() == 32 && cluster_id.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_hex {
            return Err(super::invalid("cluster_id is not 32 hex digits"));
        }
        let (identity, cluster_id) = (Arc::clone(&self.identity), cluster_id.to_owned());
        let confirmed = ground::on(&self.background, move || identity.confirm_cluster(&cluster_id)).await;
        match confirmed {
            Some(Ok(Ok(()))) => Ok(()),
            Some(Ok(Err(served))) => Err(super::invalid(format!("this participant serves cluster {served}"))),
            Some(Err(error)) => Err(refusal(Reason::ParticipantUnavailable, error.to_string())),
            None => Err(unknown()),
        }
    }

    /// Logs a hello and says whether its epoch is open.
    pub(super) async fn greet(&self, request: &proto::HelloRequest) -> Result<proto::HelloResponse, Status> {
        let hello = convert::hello(request)?;
        let handle = self.shard(request.participant)?;
        self.check_cluster(&request.cluster_id).await?;
        let (partition, epoch) = (hello.partition.0, hello.epoch.0);
        match self.ask(handle, Command::Hello(hello)).await? {
            Answers::Hello { accepted, epoch: open } => {
                tracing::info!(shard = handle.shard(), partition, epoch, accepted, open = open.0, "hello");
                Ok(proto::HelloResponse { accepted, epoch: open.0 })
            }
            _ => Err(unknown()),
        }
    }
}

/// The service; streams outlive their call, so they need the edge for themselves.
pub(crate) struct Branches(pub(super) Arc<Edge>);

#[tonic::async_trait]
impl ParticipantService for Branches {
    async fn r#try(
        &self,
        request: Request<proto::TryRequest>,
    ) -> Result<Response<proto::TryResponse>, Status> {
        let request = request.into_inner();
        let handle = self.0.shard_named(&request.participant)?;
        let command = Command::Try(convert::try_request(&request)?);
        let (answer, reason, message) = split(only(&self.0.ask_if_room(handle, command).await?)?);
        Ok(Response::new(proto::TryResponse { answer, reason, message }))
    }

    async fn confirm(
        &self,
        request: Request<proto::ConfirmBranchRequest>,
    ) -> Result<Response<proto::ConfirmBranchResponse>, Status> {
        let request = request.into_inner();
        let handle = self.0.shard_named(&request.participant)?;
        let command = convert::confirm_request(request)?;
        let (answer, _, message) = split(only(&self.0.ask(handle, command).await?)?);
        Ok(Response::new(proto::ConfirmBranchResponse { answer, message }))
    }

    async fn cancel(
        &self,
        request: Request<proto::CancelBranchRequest>,
    ) -> Result<Response<proto::CancelBranchResponse>, Status> {
        let request = request.into_inner();
        let handle = self.0.shard_named(&request.participant)?;
        let command = convert::cancel_request(&request)?;
        let (answer, _, message) = split(only(&self.0.ask(handle, command).await?)?);
        Ok(Response::new(proto::CancelBranchResponse { answer, message }))
    }

    async fn hello(
        &self,
        request: Request<proto::HelloRequest>,
    ) -> Result<Response<proto::HelloResponse>, Status> {
        self.0.greet(request.get_ref()).await.map(Response::new)
    }

    type ExchangeStream = Pin<Box<dyn Stream<Item = Result<proto::ExchangeResponse, Status>> + Send>>;

    async fn exchange(
        &self,
        request: Request<Streaming<proto::ExchangeRequest>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        Ok(Response::new(exchange::open(Arc::clone(&self.0), request.into_inner())))
    }
}
