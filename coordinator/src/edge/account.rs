//! `AccountService`: routed to the shards that hold the accounts.

use std::time::Duration;

use escrow_grpc::Channel;
use escrow_proto::v1;
use escrow_proto::v1::account_service_client::AccountServiceClient;
use escrow_proto::v1::account_service_server::AccountService;
use escrow_service::refusal;
use escrow_types::{AccountId, NoPosition, ParticipantId, ReadPosition, Reason};
use tonic::{Code, Request, Response, Status};

use super::{Service, form};
use crate::config::ParticipantKind;
use crate::links::Peer;

/// A call may open so many accounts.
const OPEN_MAX: usize = 10_000;
/// A shard that takes longer is told as unavailable; opening again is safe.
const SHARD_TIMEOUT: Duration = Duration::from_secs(10);

/// A shard's error as the caller should see it: what the shard says of the request is passed on, and what the transport says
/// is an unavailable shard.
fn pass_on(peer: &Peer, status: Status) -> Status {
    let unavailable = |why: &str| {
        let message = format!("participant {} cannot be reached: {why}", peer.config.name);
        refusal(Reason::ParticipantUnavailable, message)
    };
    match (escrow_service::reason_of(&status), status.code()) {
        // The caller would take it for ours, and ask another coordinator.
        (Some(Reason::NotLeader), _) => unavailable("none of its replicas leads"),
        (None, Code::Unavailable | Code::Unknown | Code::DeadlineExceeded | Code::Cancelled) => {
            unavailable(status.message())
        }
        _ => status,
    }
}

/// Which replica of a shard is asked.
#[derive(Clone, Copy)]
enum Whom {
    Leader,
    Any,
}

impl Whom {
    /// For a read of one shard: a follower can only keep bounds of which one is of this shard.
    fn of(bounds: Option<&v1::ReadBounds>, shard: ParticipantId) -> Result<Self, Status> {
        let Some(bounds) = bounds else { return Ok(Self::Leader) };
        let position: ReadPosition = bounds.position.parse().map_err(|error: NoPosition| {
            refusal(Reason::InvalidArgument, format!("bounds.position: {error}"))
        })?;
        let is_bound = bounds.age_max_ms > 0 || position.get(shard).is_some();
        Ok(if is_bound { Self::Any } else { Self::Leader })
    }
}

/// A request to one shard: one process may hold several, and this metadata says which is meant.
fn shard_request<T>(peer: &Peer, message: T, within: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(within);
    request.metadata_mut().insert(escrow_proto::PARTICIPANT_METADATA, peer.config.id.into());
    request
}

impl Service {
    /// Asks a shard, or the one of its replicas that leads. All that is asked of accounts may be asked twice.
    async fn ask_shard<M: Clone, T, F>(
        &self,
        peer: &Peer,
        message: M,
        call: impl Fn(AccountServiceClient<Channel>, Request<M>) -> F,
    ) -> Result<T, Status>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.ask_replicas(peer, Whom::Leader, message, call).await
    }

    async fn ask_replicas<M: Clone, T, F>(
        &self,
        peer: &Peer,
        whom: Whom,
        message: M,
        call: impl Fn(AccountServiceClient<Channel>, Request<M>) -> F,
    ) -> Result<T, Status>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let max = self.config.message_bytes_max;
        let attempt = |channel, within| {
            let client = AccountServiceClient::new(channel)
                .max_decoding_message_size(max)
                .max_encoding_message_size(max);
            call(client, shard_request(peer, message.clone(), within))
        };
        let response = match whom {
            Whom::Leader => peer.ask(SHARD_TIMEOUT, attempt).await,
            Whom::Any => peer.ask_any(SHARD_TIMEOUT, attempt).await,
        };
        response.map(Response::into_inner).map_err(|status| pass_on(peer, status))
    }

    fn shard_of(&self, account: &AccountId) -> Result<&Peer, Status> {
        let shard: Option<ParticipantId> = self.routing.of(account.key());
        let peer = shard.and_then(|shard| self.peer(shard));
        peer.ok_or_else(|| refusal(Reason::UnknownParticipant, "no wallet shard is configured"))
    }

    fn shards(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter().filter(|peer| peer.config.kind == ParticipantKind::Stream)
    }

    /// One shard's part of a request to open accounts; `rows` say where its results belong.
    async fn open_on(
        &self,
        peer: &Peer,
        rows: Vec<(usize, v1::OpenAccount)>,
    ) -> Result<Vec<(usize, v1::OpenAccountResult)>, Status> {
        let (places, accounts): (Vec<usize>, Vec<v1::OpenAccount>) = rows.into_iter().unzip();
        let request = v1::OpenAccountsRequest { accounts };
        let call = |mut client: AccountServiceClient<Channel>, request| async move {
            client.open_accounts(request).await
        };
        let response = self.ask_shard(peer, request, call).await?;
        Ok(places.into_iter().zip(response.results).collect())
    }
}

#[tonic::async_trait]
impl AccountService for Service {
    async fn open_accounts(
        &self,
        request: Request<v1::OpenAccountsRequest>,
    ) -> Result<Response<v1::OpenAccountsResponse>, Status> {
        let accounts = request.into_inner().accounts;
        if accounts.len() > OPEN_MAX {
            return Err(refusal(Reason::MessageTooLarge, format!("accounts: at most {OPEN_MAX} a call")));
        }
        let mut results: Vec<v1::OpenAccountResult> = Vec::with_capacity(accounts.len());
        let mut by_shard: Vec<(&Peer, Vec<(usize, v1::OpenAccount)>)> = Vec::new();
        for (at, account) in accounts.into_iter().enumerate() {
            let account_id = account.account_id.clone();
            let mut result = v1::OpenAccountResult { account_id, opened: false, reason: 0 };
            match form::account_id("account_id", &account.account_id) {
                Err((reason, _)) => result.reason = i32::from(reason as u8),
                Ok(id) => {
                    let peer = self.shard_of(&id)?;
                    match by_shard.iter_mut().find(|(shard, _)| shard.config.id == peer.config.id) {
                        Some((_, rows)) => rows.push((at, account)),
                        None => by_shard.push((peer, vec![(at, account)])),
                    }
                }
            }
            results.push(result);
        }
        for (peer, rows) in by_shard {
            for (at, result) in self.open_on(peer, rows).await? {
                results[at] = result;
            }
        }
        Ok(Response::new(v1::OpenAccountsResponse { results }))
    }

    async fn get_account(
        &self,
        request: Request<v1::GetAccountRequest>,
    ) -> Result<Response<v1::GetAccountResponse>, Status> {
        let request = request.into_inner();
        let id = form::account_id("account_id", &request.account_id).map_err(form::status)?;
        let peer = self.shard_of(&id)?;
        let whom = Whom::of(request.bounds.as_ref(), ParticipantId(peer.config.id))?;
        let call = |mut client: AccountServiceClient<Channel>, request| async move {
            client.get_account(request).await
        };
        let mut response = self.ask_replicas(peer, whom, request, call).await?;
        if let Some(account) = &mut response.account {
            account.participant.clone_from(&peer.config.name);
        }
        Ok(Response::new(response))
    }

    /// Shard after shard, in the order of their ids; the cursor is the shard's id and the shard's own cursor.
    async fn list_accounts(
        &self,
        request: Request<v1::ListAccountsRequest>,
    ) -> Result<Response<v1::ListAccountsResponse>, Status> {
        let request = request.into_inner();
        let wrong_cursor = || refusal(Reason::InvalidArgument, "cursor: not one that this server gave");
        let mut shards: Vec<&Peer> = self.shards().collect();
        shards.sort_by_key(|peer| peer.config.id);
        let (mut at, mut cursor) = match request.cursor.split_once(':') {
            None if request.cursor.is_empty() => (0, String::new()),
            None => return Err(wrong_cursor()),
            Some((shard, cursor)) => {
                let shard: u16 = shard.parse().map_err(|_| wrong_cursor())?;
                let at = shards.iter().position(|peer| peer.config.id == shard).ok_or_else(wrong_cursor)?;
                (at, cursor.to_owned())
            }
        };
        let page_size = if request.page_size == 0 { 100 } else { request.page_size.min(10_000) };
        let mut accounts = Vec::new();
        while let Some(peer) = shards.get(at) {
            let wanted = page_size - accounts.len() as u32;
            if wanted == 0 {
                break;
            }
            let page = v1::ListAccountsRequest { page_size: wanted, cursor };
            let call = |mut client: AccountServiceClient<Channel>, request| async move {
                client.list_accounts(request).await
            };
            let response = self.ask_shard(peer, page, call).await?;
            let name = &peer.config.name;
            accounts.extend(response.accounts.into_iter().map(|mut account| {
                account.participant.clone_from(name);
                account
            }));
            cursor = response.next_cursor;
            if cursor.is_empty() {
                at += 1;
            }
        }
        let next_cursor =
            shards.get(at).map(|peer| format!("{}:{cursor}", peer.config.id)).unwrap_or_default();
        Ok(Response::new(v1::ListAccountsResponse { accounts, next_cursor }))
    }

    async fn set_frozen(
        &self,
        request: Request<v1::SetFrozenRequest>,
    ) -> Result<Response<v1::SetFrozenResponse>, Status> {
        let request = request.into_inner();
        let id = form::account_id("account_id", &request.account_id).map_err(form::status)?;
        let peer = self.shard_of(&id)?;
        let call = |mut client: AccountServiceClient<Channel>, request| async move {
            client.set_frozen(request).await
        };
        let mut response = self.ask_shard(peer, request, call).await?;
        if let Some(account) = &mut response.account {
            account.participant.clone_from(&peer.config.name);
        }
        Ok(Response::new(response))
    }
}
