//! The coordinator without sockets, threads and a clock of its own: the same recovery, owner, store, edge and messages, moved
//! one step at a time. For simulations, which choose what happens next.
//!
//! What is left out is what only carries: connections ([`crate::links`] beyond their first messages), the select loop of the
//! owner and its drain. An error of a step is the end of the process: drop it, crash or kill the disk, and start again.
//!
//! **Invariant:** nothing here decides or translates; every step is one call of what the server calls.

use std::collections::BTreeMap;
use std::sync::Arc;

use escrow_journal::storage::{Disk, LockGuard};
use escrow_journal::{Journal, Steps};
use escrow_proto::v1;
use escrow_proto::v1::coordinator_service_server::CoordinatorService;
use escrow_proto::v1::operator_service_server::OperatorService;
use escrow_proto::v1::transaction_service_server::TransactionService;
use escrow_proto::v1::transfer_service_server::TransferService;
use escrow_replica::{Committed, Replica, Replicas, Transport};
use escrow_tcc::Driver;
use escrow_tcc::driver::{Answered, Call, CallerId, RetryDelays, Wait};
use escrow_types::{Currency, Millis, ParticipantId, TransactionKey};
use tokio::sync::mpsc;

use crate::config::Config;
use crate::edge::Service;
use crate::error::CoordinatorError;
use crate::ground::Job;
use crate::links::{End, LinkSenders, UnaryCall, UnaryRequest, greeted, hello, with_sequences};
use crate::owner::{Done, Input, LinkEvent, Mailbox, Owner, Parts, Receivers, Seat, mailbox};
use crate::server::{Opened, Recovery};
use crate::unbound::settings;

/// A call to an external participant that is to be made.
#[derive(Debug)]
pub struct ExternalCall {
    /// Which one, as [`Stepped::called`] wants it back.
    pub call: Call,
    /// What to send.
    pub request: ExternalRequest,
}

/// See [`ExternalCall`].
#[derive(Debug)]
pub enum ExternalRequest {
    /// Reserve.
    Try(v1::TryRequest),
    /// Post.
    Confirm(v1::ConfirmBranchRequest),
    /// Release.
    Cancel(v1::CancelBranchRequest),
}

/// A coordinator that is moved by hand. See the module.
pub struct Stepped {
    owner: Owner,
    steps: Steps,
    mailbox: Mailbox,
    receivers: Receivers,
    inputs: Vec<Input>,
    service: Service,
    cluster_id: String,
    checkpoints: mpsc::UnboundedReceiver<Job>,
    checkpoint_reports: mpsc::UnboundedReceiver<Done>,
    connections: BTreeMap<ParticipantId, mpsc::UnboundedReceiver<v1::ExchangeRequest>>,
    replicas: Replicas,
    calls: crate::links::Calls,
    /// Released last.
    _lock: Box<dyn LockGuard>,
}

impl Stepped {
    /// Recovers from the disk and opens a new epoch, as [`crate::Server::bind`] does. The configuration is not checked: segments may
    /// be smaller than a server allows, if entries are. With replication, `transport` reaches the other replicas, and everything is to be
    /// called where [`escrow_replica::runtime`] finds an executor.
    pub fn start(
        config: Config,
        disk: Arc<dyn Disk>,
        clock: impl Fn() -> Millis + Send + 'static,
        delays: Box<dyn RetryDelays + Send>,
        transport: Option<Arc<dyn Transport>>,
    ) -> Result<Self, CoordinatorError> {
        let mut opened = Opened::open(config, disk, delays, &clock)?;
        let seat = match (opened.replica.take(), transport) {
            (Some(Recovery { log, position, checkpointed, .. }), Some(transport)) => {
                let settings = settings(&opened, transport);
                let (replica, feed) = Replica::start_at_once(settings, log, position.clone(), checkpointed)?;
                Some(Seat::new(replica, feed, position))
            }
            _ => None,
        };
        let led = seat.as_ref().map(|seat| (seat.replica().clone(), seat.serving()));
        let Opened {
            config,
            disk,
            identity,
            driver,
            window,
            journal,
            steps,
            applied,
            checkpointed,
            lock,
            ..
        } = opened;
        let (mut mailbox, receivers) = mailbox();
        if let Some((replica, serving)) = &led {
            mailbox = mailbox.of_group(replica.clone(), serving.clone());
        }
        let replicas = Replicas::new(led.into_iter().map(|(replica, _)| replica));
        let (links, calls) = LinkSenders::new(&config);
        let (routing, unfinished) = (driver.routing().clone(), driver.machine().live().len() as u64);
        let service = Service::new(
            mailbox.clone(),
            Arc::clone(&config),
            routing,
            Vec::new(),
            journal.clone(),
            unfinished,
            replicas.clone(),
        );
        let (jobs, checkpoints) = mpsc::unbounded_channel();
        let mut owner = Owner::new(Parts {
            config,
            clock: Box::new(clock),
            disk,
            driver,
            window,
            journal,
            links,
            applied,
            checkpointed,
            // A job that nobody takes any more is one that a crash cut off.
            background: Box::new(move |job| drop(jobs.send(job))),
            seat,
        });
        let checkpoint_reports = owner.checkpoint_reports();
        Ok(Self {
            owner,
            steps: steps.expect("just opened"),
            mailbox,
            receivers,
            inputs: Vec::new(),
            service,
            cluster_id: identity.cluster_id,
            checkpoints,
            checkpoint_reports,
            connections: BTreeMap::new(),
            replicas,
            calls,
            _lock: lock,
        })
    }

    /// The gRPC services, to be called without gRPC. Their futures need no runtime: they end when turns have been made.
    pub fn service(
        &self,
    ) -> impl TransferService + TransactionService + OperatorService + CoordinatorService + Clone + use<>
    {
        self.service.clone()
    }

    /// The rules and their state, to be looked at.
    pub fn driver(&self) -> &Driver {
        &self.owner.driver
    }

    /// Whether anything is remembered under an id, in memory or on disk.
    pub fn knows(&self, key: TransactionKey) -> bool {
        self.owner.driver.find(&self.owner.window, key).is_some()
    }

    /// The last entry of the log that is applied.
    pub fn applied(&self) -> u64 {
        self.owner.applied
    }

    /// The last entry that a durable checkpoint includes.
    pub fn checkpointed(&self) -> u64 {
        self.owner.checkpointed()
    }

    /// Whether something waits for a turn.
    pub fn has_work(&self) -> bool {
        !self.receivers.is_empty() || !self.checkpoint_reports.is_empty() || self.owner.has_durable()
    }

    /// Whether everything that was appended is applied.
    pub fn is_settled(&self) -> bool {
        self.owner.is_settled()
    }

    /// Takes what has arrived and what has become durable, logs, and lets out what may leave.
    pub fn turn(&mut self) -> Result<(), CoordinatorError> {
        while let Ok(done) = self.checkpoint_reports.try_recv() {
            self.owner.checkpoint_done(done)?;
        }
        self.owner.take_all()?;
        self.receivers.drain(&mut self.inputs, true);
        self.owner.turn(&mut self.inputs)
    }

    /// What is due by time alone: deadlines, retries, watermarks, lazy entries, checkpoints.
    pub fn tick(&mut self) -> Result<(), CoordinatorError> {
        self.owner.tick()
    }

    /// Writes and syncs what the owner has appended. Whether there was anything.
    pub fn write(&mut self) -> bool {
        self.steps.write()
    }

    /// Does one thing of the journal's background. Whether there was anything.
    pub fn keep(&mut self) -> bool {
        self.steps.keep()
    }

    /// Writes a checkpoint that is due. Whether there was one.
    pub fn checkpoint(&mut self) -> bool {
        self.checkpoints.try_recv().map(|job| job()).is_ok()
    }

    /// Whether somebody waits for [`Stepped::checkpoint`].
    pub fn has_jobs(&self) -> bool {
        !self.checkpoints.is_empty()
    }

    /// The first message of a new connection to a wallet shard.
    pub fn hello(&self, participant: ParticipantId) -> v1::ExchangeRequest {
        hello(&self.owner, participant, &self.cluster_id)
    }

    /// The answer to the hello has arrived: the connection is ready, or lost, or the coordinator is deposed. Whether it is ready.
    pub fn greeted(&mut self, participant: ParticipantId, answer: Option<v1::ExchangeResponse>) -> bool {
        let event = match greeted(participant, answer) {
            Ok(()) => {
                let (sender, receiver) = mpsc::unbounded_channel();
                self.connections.insert(participant, receiver);
                LinkEvent::Ready(sender)
            }
            Err(End::Deposed) => LinkEvent::Deposed,
            Err(End::Lost(error)) => LinkEvent::Lost(error),
        };
        let is_ready = matches!(event, LinkEvent::Ready(_));
        self.mailbox.event(Input::Link(participant, event));
        is_ready
    }

    /// A message of a wallet shard has arrived.
    pub fn receive(&mut self, participant: ParticipantId, response: v1::ExchangeResponse) {
        if let Some(message) = response.message {
            let message = with_sequences(message).expect("a shard names as many sequences as answers");
            self.mailbox.event(Input::Answers(participant, message));
        }
    }

    /// The connection of a wallet shard has ended.
    pub fn lost(&mut self, participant: ParticipantId, error: &str) {
        self.connections.remove(&participant);
        self.mailbox.event(Input::Link(participant, LinkEvent::Lost(error.to_owned())));
    }

    /// An attempt to connect has failed.
    pub fn unreachable(
        &mut self,
        participant: ParticipantId,
        error: &str,
        next_in_ms: Millis,
        breaker_open: bool,
    ) {
        let event = LinkEvent::Failed { error: error.to_owned(), next_in_ms, breaker_open };
        self.mailbox.event(Input::Link(participant, event));
    }

    /// The next message that is to go to a wallet shard.
    pub fn next_message(&mut self, participant: ParticipantId) -> Option<v1::ExchangeRequest> {
        self.connections.get_mut(&participant)?.try_recv().ok()
    }

    /// The next call that is to go to an external participant.
    pub fn next_call(&mut self) -> Option<ExternalCall> {
        let UnaryCall { call, request } =
            self.calls.iter_mut().find_map(|(_, queue)| queue.try_recv().ok())?;
        let request = match request {
            UnaryRequest::Try(request) => ExternalRequest::Try(request),
            UnaryRequest::Confirm(request) => ExternalRequest::Confirm(request),
            UnaryRequest::Cancel(request) => ExternalRequest::Cancel(request),
        };
        Some(ExternalCall { call, request })
    }

    /// A call has been answered (the number of the answer), or has failed.
    pub fn called(&mut self, call: Call, result: Result<u8, String>) {
        let Call { participant, kind, epoch, sequence } = call;
        self.mailbox.event(Input::Called(participant, kind, epoch, sequence, result));
    }

    /// Opens a stream of columns; its answers come out of the receiver.
    pub fn open_columns(&mut self, caller: CallerId) -> mpsc::UnboundedReceiver<Vec<Answered>> {
        let (sink, answers) = mpsc::unbounded_channel();
        self.mailbox.event(Input::Register(caller, sink));
        answers
    }

    /// Rows of transfers arrive on a stream of columns; they are well-formed.
    pub fn columns(
        &mut self,
        caller: CallerId,
        currency: Currency,
        wait: Wait,
        columns: v1::TransferColumnsRequest,
    ) {
        self.mailbox.event(Input::Columns(caller, currency, wait, Box::new(columns)));
    }

    /// What answers other replicas.
    pub fn replicas(&self) -> &Replicas {
        &self.replicas
    }

    /// The term in which this replica leads, with a complete view of the log.
    pub fn serves(&self) -> Option<u64> {
        self.owner.serving_term()
    }

    /// What a replica has applied since this was called last.
    pub fn take_applied(&mut self) -> Vec<Committed> {
        self.owner.take_applied()
    }

    /// The log, to be read beside the server.
    pub fn journal(&self) -> &Journal {
        &self.owner.journal
    }

    /// Invariant 10: checkpoint and log, and the log alone, give the live state. Says what differs.
    pub fn check_replay(&self) -> Result<(), String> {
        crate::edge::check_replay(&self.owner)
    }
}
