//! `ShardService`: what tools ask of the shards of this process.

use std::pin::Pin;

use escrow_proto::v1 as proto;
use escrow_proto::v1::shard_service_server::ShardService;
use escrow_types::Xid;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Edge, convert, invalid, refused};
use crate::verify::verify;

/// Ids of overdrawn accounts in one answer; there should be none.
const OVERDRAWN_MAX: usize = 100;

#[tonic::async_trait]
impl ShardService for Edge {
    async fn get_shard_status(
        &self,
        _request: Request<proto::GetShardStatusRequest>,
    ) -> Result<Response<proto::GetShardStatusResponse>, Status> {
        let mut shards = Vec::with_capacity(self.shards.len());
        for handle in self.shards.values() {
            let participant = u32::from(handle.shard());
            let read = handle.read(|view| {
                let (accounts, reservations) =
                    (view.wallet.accounts_count(), view.wallet.reservations_held());
                (accounts as u64, reservations as u64, view.applied, view.checkpointed)
            });
            let (accounts, reservations, applied, checkpointed) = read.await.map_err(refused)?;
            // After the read, so that nothing in it is ahead of what is durable.
            let cursors = self.journal.cursors();
            let log = proto::LogCursors {
                appended: cursors.appended.get(),
                written: cursors.written.get(),
                durable: cursors.durable.get(),
                applied,
                checkpointed,
                trimmed: cursors.trimmed.get(),
            };
            shards.push(proto::ShardStatus { participant, log: Some(log), accounts, reservations });
        }
        let stats = self.journal.stats();
        Ok(Response::new(proto::GetShardStatusResponse {
            shards,
            pid: std::process::id(),
            uptime_ms: self.started.elapsed().as_millis() as u64,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            journal: Some(proto::JournalStats {
                entries: stats.entries,
                batches: stats.batches,
                bytes: stats.bytes,
                syncs: stats.syncs,
                sync_total_ns: stats.sync_total_ns,
            }),
        }))
    }

    async fn get_totals(
        &self,
        request: Request<proto::GetTotalsRequest>,
    ) -> Result<Response<proto::GetTotalsResponse>, Status> {
        let handle = self.shard(request.get_ref().participant)?;
        let read = handle.read_newest(|view| {
            let totals = view.wallet.totals().into_iter().map(|total| proto::CurrencyTotal {
                currency: total.currency.code().to_owned(),
                posted: total.posted.to_string(),
                reserved: total.reserved.to_string(),
                incoming: total.incoming.to_string(),
                balances: total.balances,
            });
            proto::GetTotalsResponse {
                totals: totals.collect(),
                reservations: view.wallet.reservations_held() as u64,
                overdrawn_account_ids: view.wallet.overdrawn(OVERDRAWN_MAX),
                applied_index: view.applied,
            }
        });
        read.await.map(Response::new).map_err(refused)
    }

    async fn list_reservations(
        &self,
        request: Request<proto::ListReservationsRequest>,
    ) -> Result<Response<proto::ListReservationsResponse>, Status> {
        let request = request.into_inner();
        let handle = self.shard(request.participant)?;
        let limit = convert::page_size(request.page_size)?;
        let after: Option<Xid> = if request.cursor.is_empty() {
            None
        } else {
            Some(request.cursor.parse().map_err(|_| invalid("not a cursor of ListReservations"))?)
        };
        let mut views = handle
            .read_newest(move |view| view.wallet.reservations(after, limit + 1))
            .await
            .map_err(refused)?;
        let more = views.len() > limit;
        views.truncate(limit);
        let next_cursor = views.last().filter(|_| more).map_or_else(String::new, |view| view.xid.to_string());
        let reservations = views.into_iter().map(|view| proto::Reservation {
            xid: view.xid.to_string(),
            deadline_ms: view.deadline_ms,
            legs: view.legs as u32,
        });
        let reservations = reservations.collect();
        Ok(Response::new(proto::ListReservationsResponse { reservations, next_cursor }))
    }

    type VerifyShardStream = Pin<Box<dyn Stream<Item = Result<proto::VerifyResponse, Status>> + Send>>;

    async fn verify_shard(
        &self,
        request: Request<proto::VerifyShardRequest>,
    ) -> Result<Response<Self::VerifyShardStream>, Status> {
        let handle = self.shard(request.get_ref().participant)?.clone();
        let (lines, receiver) = mpsc::channel(16);
        tokio::spawn(verify(handle, self.journal.clone(), self.checkpointer.clone(), lines));
        let lines = tokio_stream::StreamExt::map(ReceiverStream::new(receiver), Ok);
        Ok(Response::new(Box::pin(lines)))
    }
}
