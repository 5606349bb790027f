//! `OperatorService`: look at transactions and act on them; the state of the servers.

use std::time::Duration;

use escrow_proto::v1;
use escrow_proto::v1::operator_service_server::OperatorService;
use escrow_proto::v1::shard_service_client::ShardServiceClient;
use escrow_service::refusal as refuse;
use escrow_tcc::driver::{Filter, LinkKind, LinkState, Refusal};
use escrow_types::{AccountId, Epoch, ParticipantId, Reason, Sequence};
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};

use super::form::{self, Named};
use super::show::phase_of;
use super::transaction::{Found, find};
use super::verify::Verification;
use super::watch::Watch;
use super::{Service, refusal};
use crate::links::Peer;
use crate::owner::Owner;

/// A shard that takes longer to tell its state is shown as not reached.
const STATUS_TIMEOUT: Duration = Duration::from_secs(1);

/// A filter, and the phases that ended transactions must have to be shown (empty: none are).
pub(super) struct Wanted {
    pub(super) filter: Filter,
    phases: Vec<v1::Phase>,
}

const ENDED: [v1::Phase; 2] = [v1::Phase::Confirmed, v1::Phase::Canceled];

impl Wanted {
    fn wants_ended(&self) -> bool {
        self.phases.iter().any(|phase| ENDED.contains(phase))
    }

    fn wants_unfinished(&self) -> bool {
        self.phases.is_empty() || self.phases.iter().any(|phase| !ENDED.contains(phase))
    }

    pub(super) fn matches(&self, transaction: &v1::Transaction) -> bool {
        self.wants(transaction.phase())
    }

    fn wants(&self, phase: v1::Phase) -> bool {
        self.phases.is_empty() || self.phases.contains(&phase)
    }
}

impl Service {
    pub(super) fn wanted(&self, filter: Option<v1::TransactionFilter>) -> Result<Wanted, Status> {
        let filter = filter.unwrap_or_default();
        let phases = filter.phases().filter(|phase| *phase != v1::Phase::Unspecified).collect();
        let participant = match filter.participant.as_str() {
            "" => None,
            name => {
                let mut all = self.config.participants.iter();
                let named = all.find(|it| it.name == name || it.id.to_string() == name);
                let unknown =
                    || refuse(Reason::UnknownParticipant, format!("no participant is named '{name}'"));
                Some(ParticipantId(named.ok_or_else(unknown)?.id))
            }
        };
        let account = match filter.account_id.as_str() {
            "" => None,
            id => Some(
                AccountId::new(id)
                    .map_err(|error| refuse(Reason::InvalidAccountId, error.to_string()))?
                    .key(),
            ),
        };
        let filter = Filter {
            in_doubt: filter.in_doubt,
            participant,
            older_than_ms: filter.older_than_ms,
            min_attempts: filter.min_attempts,
            account,
        };
        Ok(Wanted { filter, phases })
    }

    /// Finds a transaction and does something to it; answers how it stands then.
    async fn act(
        &self,
        id: String,
        act: impl FnOnce(&mut Owner, Epoch, Sequence) -> Result<(), Refusal> + Send + 'static,
    ) -> Result<v1::Transaction, Status> {
        let named = form::named(&id).map_err(form::status)?;
        let (reached, applied) = oneshot::channel();
        let acted = self.mailbox.ask_newest(move |owner| match find(owner, &named) {
            None => Err(not_found()),
            Some(Found::Ended(_)) => Err(Refusal {
                reason: Reason::AlreadyDecided,
                message: "the transaction has ended; its outcome cannot change".into(),
            }),
            Some(Found::Unfinished { epoch, sequence }) => {
                act(owner, epoch, sequence)?;
                owner.barrier(reached);
                Ok(())
            }
        });
        acted.await?.map_err(refusal)?;
        // What was done is durable before it is told.
        applied.await.map_err(|_| self.mailbox.unanswered())?;
        // It is done: a failure from here on must not look as if it were not.
        self.describe(&id).await.map_err(|_| self.mailbox.unanswered())
    }

    /// One transaction, unfinished or remembered.
    async fn describe(&self, id: &str) -> Result<v1::Transaction, Status> {
        let named = form::named(id).map_err(form::status)?;
        let given_id = match named {
            Named::Id(_) => Some(id.to_owned()),
            Named::Xid(_) => None,
        };
        let service = self.clone();
        let transaction = self.mailbox.ask_newest(move |owner| match find(owner, &named)? {
            Found::Ended(row) => {
                let mut transaction = service.show_ended(&row);
                if let Some(id) = given_id {
                    transaction.transaction_id = id;
                }
                Some(transaction)
            }
            Found::Unfinished { epoch, sequence } => service.show_unfinished(owner, epoch, sequence),
        });
        let mut transaction = transaction.await?.ok_or_else(|| refusal(not_found()))?;
        transaction.timeline = timeline(&transaction);
        Ok(transaction)
    }

    async fn shard_status(&self, peer: &Peer) -> Option<v1::GetShardStatusResponse> {
        let attempt = |channel, within| async move {
            let mut request = Request::new(v1::GetShardStatusRequest {});
            request.set_timeout(within);
            ShardServiceClient::new(channel).get_shard_status(request).await
        };
        peer.ask(STATUS_TIMEOUT, attempt).await.ok().map(Response::into_inner)
    }

    async fn participant_status(&self, peer: &Peer) -> Result<v1::ParticipantStatus, Status> {
        let id = ParticipantId(peer.config.id);
        let link = self.mailbox.ask(move |owner| owner.driver.links().get(id).cloned()).await?;
        let link = link.expect("every configured participant has a link");
        let mut status = v1::ParticipantStatus {
            id: u32::from(peer.config.id),
            name: peer.config.name.clone(),
            endpoint: peer.config.endpoint.clone(),
            ready: link.state == LinkState::Ready && !link.stalled,
            kind: if link.kind == LinkKind::Stream { "stream".into() } else { "unary".into() },
            last_error: if link.state == LinkState::Ready {
                String::new()
            } else {
                link.last_error.to_string()
            },
            failed_attempts: link.attempts,
            next_attempt_ms: link.next_attempt_ms,
            waiting: link.open as u64,
            ..v1::ParticipantStatus::default()
        };
        let process = if link.kind == LinkKind::Stream { self.shard_status(peer).await } else { None };
        if let Some(process) = process {
            if let Some(shard) = process.shards.iter().find(|shard| shard.participant == status.id) {
                status.log = shard.log;
                status.accounts = shard.accounts;
                status.reservations = shard.reservations;
            }
            status.journal = process.journal;
            status.pid = process.pid;
            status.uptime_ms = process.uptime_ms;
        }
        Ok(status)
    }
}

fn not_found() -> Refusal {
    Refusal {
        reason: Reason::TransactionNotFound,
        message: form::explain(Reason::TransactionNotFound).into(),
    }
}

fn timeline(transaction: &v1::Transaction) -> Vec<v1::TimelineEvent> {
    let mut events = Vec::new();
    let mut event = |at_ms: u64, what: String| {
        if at_ms != 0 {
            events.push(v1::TimelineEvent { at_ms, what });
        }
    };
    event(transaction.begun_at_ms, "begun".into());
    let decision = match transaction.phase() {
        v1::Phase::Confirming | v1::Phase::Confirmed => "Confirm",
        v1::Phase::Canceling | v1::Phase::Canceled => "Cancel",
        _ => "made",
    };
    let verb = if transaction.forced { "forced" } else { "decided" };
    event(transaction.decided_at_ms, format!("{verb}: {decision}"));
    for branch in &transaction.branches {
        if branch.attempts > 0 {
            let (attempts, participant, error) = (branch.attempts, &branch.participant, &branch.last_error);
            event(branch.last_attempt_ms, format!("attempt {attempts} on {participant} failed: {error}"));
        }
    }
    event(transaction.finished_at_ms, "finished".into());
    events.sort_by_key(|event| event.at_ms);
    events
}

pub(super) fn position(cursor: &str) -> Result<Option<(Epoch, Sequence)>, Status> {
    if cursor.is_empty() {
        return Ok(None);
    }
    let parse = || {
        let (epoch, sequence) = cursor.split_once('-')?;
        Some((Epoch(epoch.parse().ok()?), sequence.parse().ok()?))
    };
    parse().map(Some).ok_or_else(|| refuse(Reason::InvalidArgument, "cursor: not one that this server gave"))
}

fn needs_why(reason: &str) -> Result<(), Status> {
    if reason.trim().is_empty() {
        return Err(refuse(Reason::InvalidArgument, "reason: required, for the audit record"));
    }
    if reason.len() > 1_024 {
        return Err(refuse(Reason::InvalidArgument, "reason: at most 1,024 bytes"));
    }
    Ok(())
}

#[tonic::async_trait]
impl OperatorService for Service {
    async fn list_transactions(
        &self,
        request: Request<v1::ListTransactionsRequest>,
    ) -> Result<Response<v1::ListTransactionsResponse>, Status> {
        let request = request.into_inner();
        let wanted = self.wanted(request.filter)?;
        let after = position(&request.cursor)?;
        let page = if request.page_size == 0 { 100 } else { request.page_size.min(1_000) } as usize;
        let service = self.clone();
        let transactions = self.mailbox.ask_newest(move |owner| {
            let mut transactions: Vec<v1::Transaction> = Vec::new();
            if wanted.wants_unfinished() {
                let views = owner.driver.select(owner.now(), &wanted.filter, after);
                let shown = views.map(|view| service.show(&view)).filter(|shown| wanted.matches(shown));
                transactions.extend(shown.take(page));
            }
            // Ended ones after the unfinished, newest first, and without paging: only what is in memory.
            if wanted.wants_ended() && after.is_none() && transactions.len() < page {
                let rows = owner.driver.machine().remembered().rows().iter().rev();
                let ended = rows.filter(|row| row.outcome().is_some()).map(|row| service.show_ended(row));
                let room = page - transactions.len();
                transactions.extend(ended.filter(|shown| wanted.matches(shown)).take(room));
            }
            transactions
        });
        let transactions = transactions.await?;
        let full = transactions.len() == page;
        let last = transactions.last().filter(|last| full && last.finished_at_ms == 0);
        let next_cursor = last.and_then(|last| last.xid.split_once('-')).map(|(_, cursor)| cursor.to_owned());
        let next_cursor = next_cursor.unwrap_or_default();
        Ok(Response::new(v1::ListTransactionsResponse { transactions, next_cursor }))
    }

    async fn count_transactions(
        &self,
        request: Request<v1::CountTransactionsRequest>,
    ) -> Result<Response<v1::CountTransactionsResponse>, Status> {
        let wanted = self.wanted(request.into_inner().filter)?;
        let service = self.clone();
        let counted = self.mailbox.ask_newest(move |owner| {
            let (mut count, mut oldest_age_ms) = (0, 0);
            let now = owner.now();
            for view in owner.driver.select(now, &wanted.filter, None) {
                if wanted.wants(phase_of(&view)) {
                    count += 1;
                    oldest_age_ms = oldest_age_ms.max(now.saturating_sub(view.live.begun_ms));
                }
            }
            if wanted.wants_ended() {
                let rows = owner.driver.machine().remembered().finished();
                count += rows.filter(|row| wanted.matches(&service.show_ended(row))).count() as u64;
            }
            v1::CountTransactionsResponse { count, oldest_age_ms }
        });
        Ok(Response::new(counted.await?))
    }

    async fn describe_transaction(
        &self,
        request: Request<v1::DescribeTransactionRequest>,
    ) -> Result<Response<v1::DescribeTransactionResponse>, Status> {
        let transaction = Some(self.describe(&request.into_inner().id).await?);
        Ok(Response::new(v1::DescribeTransactionResponse { transaction }))
    }

    type WatchTransactionsStream = Watch;

    async fn watch_transactions(
        &self,
        request: Request<v1::WatchTransactionsRequest>,
    ) -> Result<Response<Self::WatchTransactionsStream>, Status> {
        let wanted = self.wanted(request.into_inner().filter)?;
        Ok(Response::new(self.watch(wanted)))
    }

    async fn retry_transaction(
        &self,
        request: Request<v1::RetryTransactionRequest>,
    ) -> Result<Response<v1::RetryTransactionResponse>, Status> {
        let id = request.into_inner().id;
        tracing::info!(target: "audit", id, "operator: retry");
        let act = |owner: &mut Owner, epoch, sequence| owner.driver.retry(epoch, sequence);
        let transaction = Some(self.act(id, act).await?);
        Ok(Response::new(v1::RetryTransactionResponse { transaction }))
    }

    async fn cancel_transaction(
        &self,
        request: Request<v1::CancelTransactionRequest>,
    ) -> Result<Response<v1::CancelTransactionResponse>, Status> {
        let v1::CancelTransactionRequest { id, reason } = request.into_inner();
        needs_why(&reason)?;
        tracing::info!(target: "audit", id, reason, "operator: cancel");
        let act = |owner: &mut Owner, epoch, sequence| owner.driver.operator_cancel(epoch, sequence);
        let transaction = Some(self.act(id, act).await?);
        Ok(Response::new(v1::CancelTransactionResponse { transaction }))
    }

    async fn force_transaction(
        &self,
        request: Request<v1::ForceTransactionRequest>,
    ) -> Result<Response<v1::ForceTransactionResponse>, Status> {
        let request = request.into_inner();
        needs_why(&request.reason)?;
        let confirm = match request.decision() {
            v1::Decision::Confirm => true,
            v1::Decision::Cancel => false,
            v1::Decision::Unspecified => {
                return Err(refuse(Reason::InvalidArgument, "decision: CONFIRM or CANCEL is needed"));
            }
        };
        let (id, reason) = (request.id, request.reason);
        tracing::warn!(target: "audit", id, reason, confirm, "operator: force");
        let act =
            move |owner: &mut Owner, epoch, sequence| owner.driver.force(epoch, sequence, confirm, &reason);
        let transaction = Some(self.act(id, act).await?);
        Ok(Response::new(v1::ForceTransactionResponse { transaction }))
    }

    async fn give_up_transaction(
        &self,
        request: Request<v1::GiveUpTransactionRequest>,
    ) -> Result<Response<v1::GiveUpTransactionResponse>, Status> {
        let v1::GiveUpTransactionRequest { id, reason } = request.into_inner();
        needs_why(&reason)?;
        tracing::warn!(target: "audit", id, reason, "operator: give up");
        let act = move |owner: &mut Owner, epoch, sequence| owner.driver.give_up(epoch, sequence, &reason);
        let transaction = Some(self.act(id, act).await?);
        Ok(Response::new(v1::GiveUpTransactionResponse { transaction }))
    }

    async fn set_paused(
        &self,
        request: Request<v1::SetPausedRequest>,
    ) -> Result<Response<v1::SetPausedResponse>, Status> {
        let v1::SetPausedRequest { paused, reason } = request.into_inner();
        needs_why(&reason)?;
        tracing::warn!(target: "audit", paused, reason, "operator: pause");
        let (reached, applied) = oneshot::channel();
        let pause = move |owner: &mut Owner| {
            owner.driver.set_paused(paused);
            owner.barrier(reached);
        };
        self.mailbox.ask(pause).await?;
        // Only then does every later transaction meet it, also after a crash.
        applied.await.map_err(|_| crate::owner::stopped())?;
        Ok(Response::new(v1::SetPausedResponse { paused }))
    }

    async fn get_status(
        &self,
        _request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        let uptime_ms = self.started.elapsed().as_millis() as u64;
        let partition = u32::from(self.config.partition);
        let unfinished_at_start = self.unfinished_at_start;
        let coordinator = self.mailbox.ask(move |owner| {
            let now = owner.now();
            let (mut in_doubt, mut oldest, mut needs_attention) = (0, 0, 0);
            let filter = Filter { in_doubt: true, ..Filter::default() };
            for view in owner.driver.select(now, &filter, None) {
                in_doubt += 1;
                oldest = oldest.max(now.saturating_sub(view.live.begun_ms));
                needs_attention += u64::from(view.live.attention);
            }
            let machine = owner.driver.machine();
            v1::CoordinatorStatus {
                partition,
                epoch: machine.epoch().0,
                log: Some(owner.log_cursors()),
                unfinished: machine.live().len() as u64,
                in_doubt,
                oldest_in_doubt_age_ms: oldest,
                needs_attention,
                paused: machine.is_paused(),
                remembered: machine.remembered().rows().len() as u64 + owner.window.len(),
                pid: std::process::id(),
                uptime_ms,
                version: env!("CARGO_PKG_VERSION").into(),
                unfinished_at_start,
                journal: Some(owner.journal_stats()),
                stages: Some(owner.stages()),
            }
        });
        let coordinator = Some(coordinator.await?);
        let mut participants = Vec::new();
        for peer in &self.peers {
            participants.push(self.participant_status(peer).await?);
        }
        Ok(Response::new(v1::GetStatusResponse { coordinator, participants }))
    }

    type VerifyStream = Verification;

    async fn verify(
        &self,
        _request: Request<v1::VerifyRequest>,
    ) -> Result<Response<Self::VerifyStream>, Status> {
        Ok(Response::new(self.start_verification().await?))
    }
}
