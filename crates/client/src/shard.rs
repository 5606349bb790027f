//! `ShardService`: what a wallet shard tells tools. Asked at the participant's own endpoint, or at the one of its replicas that
//! leads.

use escrow_grpc::Channel;
use escrow_proto::v1 as proto;

use crate::call::{Budget, Subject, Whom, drive};
use crate::channel::{Pool, Route};
use crate::error::ClientError;
use crate::operator::Verification;
use crate::options::Options;

type Service = proto::shard_service_client::ShardServiceClient<Channel>;

/// The longest page of reservations.
const PAGE: u32 = 10_000;

/// A client of one participant process, or of its replicas.
#[derive(Debug, Clone)]
pub struct ShardClient {
    pub(crate) pool: Pool,
    pub(crate) options: Options,
}

impl ShardClient {
    /// Connects when first used. Replicas are named as for [`crate::Client::connect`]. Must be called within a tokio runtime.
    pub fn connect(endpoint: impl Into<String>, options: Options) -> Result<Self, ClientError> {
        Ok(Self { pool: Pool::new([endpoint.into()], &options)?, options })
    }

    fn service(&self, route: Route) -> Service {
        Service::new(self.pool.channel(route)).max_decoding_message_size(self.options.message_bytes_max)
    }

    async fn call<T, F>(&self, attempt: impl FnMut(Route) -> F) -> Result<T, ClientError>
    where
        F: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        drive(Subject::Idempotent, Budget::of(&self.options), &self.pool, Whom::Partition(0), attempt).await
    }

    /// The state of the shards that the process holds.
    pub async fn status(&self) -> Result<proto::GetShardStatusResponse, ClientError> {
        self.call(|route| {
            let mut service = self.service(route);
            async move { service.get_shard_status(proto::GetShardStatusRequest {}).await }
        })
        .await
    }

    /// Sums per currency of one shard.
    pub async fn totals(&self, participant: u32) -> Result<proto::GetTotalsResponse, ClientError> {
        self.call(|route| {
            let mut service = self.service(route);
            async move { service.get_totals(proto::GetTotalsRequest { participant }).await }
        })
        .await
    }

    /// Every reservation that one shard holds, oldest first. They change while they are listed.
    pub async fn reservations(&self, participant: u32) -> Result<Vec<proto::Reservation>, ClientError> {
        let mut all = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = self
                .call(|route| {
                    let mut service = self.service(route);
                    let cursor = cursor.clone();
                    let request = proto::ListReservationsRequest { participant, page_size: PAGE, cursor };
                    async move { service.list_reservations(request).await }
                })
                .await?;
            all.extend(page.reservations);
            if page.next_cursor.is_empty() {
                return Ok(all);
            }
            if page.next_cursor == cursor {
                return Err(ClientError::Malformed("a page of reservations that leads to itself".to_owned()));
            }
            cursor = page.next_cursor;
        }
    }

    /// Has one shard check that checkpoint + log, and the whole log, give its live state.
    pub async fn verify(&self, participant: u32) -> Result<Verification, ClientError> {
        let stream = self
            .call(|route| {
                let mut service = self.service(route);
                async move { service.verify_shard(proto::VerifyShardRequest { participant }).await }
            })
            .await?;
        Ok(Verification {
            stream,
            silence_max: self.options.deadline,
            endpoint: self.pool.endpoint(0).to_owned(),
        })
    }
}
