//! `AccountService` for the accounts of this process.
//!
//! Where a process holds several shards, the metadata `escrow-participant` names the one that is meant; without it,
//! reads look at all of them, and an opening is refused.

use std::time::Duration;

use escrow_proto::v1 as proto;
use escrow_proto::v1::account_service_server::AccountService;
use escrow_service::refusal;
use escrow_types::{AccountKey, NoPosition, ParticipantId, ReadPosition, Reason};
use escrow_wallet::{Answers, Command, Opened, SetFrozen};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use super::convert::{self, account_id};
use super::{Edge, invalid, refused, unknown};
use crate::owner::{Handle, ReadBounds};

/// Accounts of one opening.
const OPEN_ROWS_MAX: usize = 10_000;

impl Edge {
    /// The named shard, or all.
    fn candidates(&self, metadata: &MetadataMap) -> Result<Vec<&Handle>, Status> {
        Ok(match self.shard_of_metadata(metadata)? {
            Some(handle) => vec![handle],
            None => self.shards.values().collect(),
        })
    }

    async fn account_on(&self, handle: &Handle, key: AccountKey) -> Result<Option<proto::Account>, Status> {
        let view = handle.read_newest(move |view| view.wallet.account(key)).await.map_err(refused)?;
        Ok(view.map(|view| convert::account(view, handle.shard())))
    }
}

/// The bounds of a read: how old what it sees may be, and what it must include, over all shards.
fn read_bounds(bounds: Option<&proto::ReadBounds>) -> Result<(Option<Duration>, ReadPosition), Status> {
    let Some(proto::ReadBounds { age_max_ms, position }) = bounds else { return Ok(Default::default()) };
    let position = position.parse().map_err(|error: NoPosition| invalid(error.to_string()))?;
    let age_max = (*age_max_ms > 0).then(|| Duration::from_millis(u64::from(*age_max_ms)));
    Ok((age_max, position))
}

fn not_found(id: &str) -> Status {
    refusal(Reason::AccountNotFound, format!("no account '{id}' here"))
}

#[tonic::async_trait]
impl AccountService for Edge {
    async fn open_accounts(
        &self,
        request: Request<proto::OpenAccountsRequest>,
    ) -> Result<Response<proto::OpenAccountsResponse>, Status> {
        let handle = self.shard_of_metadata(request.metadata())?;
        let handle = handle.ok_or_else(|| {
            let key = super::PARTICIPANT_METADATA;
            invalid(format!("this process holds several shards: name one by metadata {key}"))
        })?;
        let rows = &request.get_ref().accounts;
        if rows.len() > OPEN_ROWS_MAX {
            return Err(invalid(format!(
                "{} accounts; at most {OPEN_ROWS_MAX} are opened at once",
                rows.len()
            )));
        }
        let checked: Vec<_> = rows.iter().map(convert::open_account).collect();
        let good: Vec<_> = checked.iter().filter_map(|row| row.as_ref().ok()).cloned().collect();
        let mut opened = Vec::new().into_iter();
        if !good.is_empty() {
            match self.ask_if_room(handle, Command::OpenAccounts(good)).await? {
                Answers::Opened(results) => opened = results.into_iter(),
                _ => return Err(unknown()),
            }
        }
        let mut results = Vec::with_capacity(rows.len());
        for (row, checked) in rows.iter().zip(checked) {
            let (opened, reason) = match checked {
                Err(reason) => (false, i32::from(reason as u8)),
                Ok(_) => match opened.next().ok_or_else(unknown)? {
                    Opened::Opened => (true, 0),
                    Opened::Existed => (false, 0),
                    Opened::Differs => (false, proto::Reason::AccountExists as i32),
                },
            };
            results.push(proto::OpenAccountResult { account_id: row.account_id.clone(), opened, reason });
        }
        Ok(Response::new(proto::OpenAccountsResponse { results }))
    }

    async fn get_account(
        &self,
        request: Request<proto::GetAccountRequest>,
    ) -> Result<Response<proto::GetAccountResponse>, Status> {
        let id = &request.get_ref().account_id;
        let key = account_id(id)?.key();
        let (age_max, position) = read_bounds(request.get_ref().bounds.as_ref())?;
        for handle in self.candidates(request.metadata())? {
            let shard = ParticipantId(handle.shard());
            let bounds = ReadBounds { age_max, position: position.get(shard).unwrap_or(0) };
            let reading = handle.read_within(bounds, move |view| view.wallet.account(key));
            let (view, seen) = reading.await.map_err(refused)?;
            if let Some(view) = view {
                return Ok(Response::new(proto::GetAccountResponse {
                    account: Some(convert::account(view, shard.0)),
                    position: ReadPosition::of(shard, seen.applied).to_string(),
                    age_ms: seen.age.map(|age| age.as_micros().div_ceil(1_000) as u64),
                }));
            }
        }
        Err(not_found(id))
    }

    async fn list_accounts(
        &self,
        request: Request<proto::ListAccountsRequest>,
    ) -> Result<Response<proto::ListAccountsResponse>, Status> {
        let limit = convert::page_size(request.get_ref().page_size)?;
        let cursor = &request.get_ref().cursor;
        let (first, mut from) = if cursor.is_empty() {
            (0, 0)
        } else {
            let parts = cursor
                .split_once(':')
                .and_then(|(shard, place)| Some((shard.parse().ok()?, place.parse().ok()?)));
            parts.ok_or_else(|| invalid("not a cursor of ListAccounts"))?
        };
        let (mut accounts, mut next_cursor) = (Vec::new(), String::new());
        for handle in self.candidates(request.metadata())? {
            let shard = handle.shard();
            if shard < first {
                continue;
            }
            if accounts.len() == limit {
                next_cursor = format!("{shard}:0");
                break;
            }
            let (place, left) = (if shard == first { from } else { 0 }, limit - accounts.len());
            let (page, next) =
                handle.read_newest(move |view| view.wallet.accounts(place, left)).await.map_err(refused)?;
            accounts.extend(page.into_iter().map(|view| convert::account(view, shard)));
            if let Some(next) = next {
                next_cursor = format!("{shard}:{next}");
                break;
            }
            from = 0;
        }
        Ok(Response::new(proto::ListAccountsResponse { accounts, next_cursor }))
    }

    async fn set_frozen(
        &self,
        request: Request<proto::SetFrozenRequest>,
    ) -> Result<Response<proto::SetFrozenResponse>, Status> {
        let id = &request.get_ref().account_id;
        let key = account_id(id)?.key();
        for handle in self.candidates(request.metadata())? {
            // Only where it is, so that a freeze of nothing is not logged.
            if self.account_on(handle, key).await?.is_some() {
                let command = SetFrozen { account: key, frozen: request.get_ref().frozen };
                self.ask(handle, Command::SetFrozen(command)).await?;
                // It is done: a failure from here on must not look as if it were not.
                let account = self.account_on(handle, key).await.map_err(|_| unknown())?;
                return Ok(Response::new(proto::SetFrozenResponse { account }));
            }
        }
        Err(not_found(id))
    }
}
