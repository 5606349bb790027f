//! The coordinator's process: its disk, its clock, the server while it lives, and the calls that it has open.

use std::collections::BTreeMap;
use std::path::PathBuf;

use escrow_coordinator::stepped::Stepped;
use escrow_coordinator::{Archive, Config, CoordinatorError, ParticipantConfig, ParticipantKind};
use escrow_journal::storage::SimDisk;
use escrow_proto::v1;
use escrow_proto::v1::operator_service_server::OperatorService as _;
use escrow_proto::v1::transaction_service_server::TransactionService as _;
use escrow_proto::v1::transfer_service_server::TransferService as _;
use escrow_tcc::driver::{Answered, CallerId, RetryDelays};
use tokio::sync::mpsc;
use tonic::{Request, Status};

use crate::chance::Chance;
use crate::observe::LogObserver;
use crate::replicas::{Replica, Runtime};
use crate::task::Task;
use crate::time::{Time, TrueTime, WallClock};

/// The cluster that all belong to.
pub(crate) const CLUSTER: &str = "00112233445566778899aabbccddeeff";
/// The name of the external participant.
pub(crate) const EXTERNAL: &str = "bank-x";
/// The stream of columns that bulk callers share.
pub(crate) const BULK: CallerId = CallerId(7);

/// A call of a caller or an operator.
#[derive(Debug, Clone)]
pub(crate) enum Call {
    Transfer(v1::TransferRequest),
    Execute(v1::ExecuteRequest),
    Reserve(v1::ReserveRequest),
    Confirm(v1::ConfirmRequest),
    Cancel(v1::CancelRequest),
    Get(String),
    OperatorRetry(String),
    OperatorCancel(String),
    OperatorForce(String, bool),
    SetPaused(bool),
}

/// What a call gives that matters here.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) state: v1::TransactionState,
    pub(crate) reason: i32,
    pub(crate) xid: String,
}

/// Delays of retries: as in production, without the jitter.
struct Delays;

impl RetryDelays for Delays {
    fn delay_ms(&mut self, attempt: u32) -> u64 {
        (50_u64 << attempt.saturating_sub(1).min(16)).min(10_000)
    }
}

/// See the module.
pub(crate) struct CoordinatorProcess {
    pub(crate) server: Option<Stepped>,
    pub(crate) life: u32,
    pub(crate) disk: SimDisk,
    pub(crate) clock: WallClock,
    pub(crate) observer: LogObserver,
    pub(crate) paused_until: Time,
    pub(crate) turn_due: bool,
    pub(crate) write_due: bool,
    /// Calls that are open, by attempt.
    pub(crate) calls: BTreeMap<u64, Task<Result<Reply, Status>>>,
    pub(crate) bulk: Option<mpsc::UnboundedReceiver<Vec<Answered>>>,
    pub(crate) runtime: Runtime,
    /// The term in which it was seen to lead.
    pub(crate) leads: Option<u64>,
    config: Config,
}

impl CoordinatorProcess {
    pub(crate) fn new(
        replica: Replica,
        shards: u16,
        external: bool,
        archive: Archive,
        time: &TrueTime,
        chance: &mut Chance,
    ) -> Self {
        let stream = |id: u16| ParticipantConfig {
            id,
            name: id.to_string(),
            endpoint: format!("http://shard-{id}"),
            kind: ParticipantKind::Stream,
        };
        let mut participants: Vec<_> = (0..shards).map(stream).collect();
        if external {
            let endpoint = "http://external".to_owned();
            let kind = ParticipantKind::Unary;
            participants.push(ParticipantConfig { id: shards, name: EXTERNAL.to_owned(), endpoint, kind });
        }
        let config = Config {
            data_dir: PathBuf::from("coordinator"),
            replication: replica.replication("coordinator"),
            cluster_id: Some(CLUSTER.to_owned()),
            participants,
            in_doubt_after_ms: 1_000,
            in_flight_max: chance.one_of(&[8, 1_000]),
            default_timeout_ms: 1_000,
            default_hold_ms: 3_000,
            checkpoint_interval_ms: chance.one_of(&[60, 300, 2_000]),
            segment_bytes: chance.one_of(&[16 << 10, 64 << 10]),
            archive,
            ..Config::default()
        };
        Self {
            server: None,
            life: 0,
            disk: SimDisk::new(chance.next()),
            clock: WallClock::new(time),
            observer: LogObserver::default(),
            paused_until: 0,
            turn_due: false,
            write_due: false,
            calls: BTreeMap::new(),
            bulk: None,
            runtime: Runtime::new(time, chance.next()),
            leads: None,
            config,
        }
    }

    /// Starts the server from what is on the disk.
    pub(crate) fn start(&mut self) -> Result<(), CoordinatorError> {
        let clock = self.clock.clone();
        let (config, disk) = (self.config.clone(), self.disk.shared());
        let transport = Some(self.runtime.transport());
        let start = || Stepped::start(config, disk, move || clock.now_ms(), Box::new(Delays), transport);
        let mut server = self.runtime.within(start)?;
        self.life += 1;
        server.take_applied();
        self.bulk = self.config.replication.is_none().then(|| server.open_columns(BULK));
        self.leads = None;
        self.server = Some(server);
        (self.turn_due, self.write_due, self.paused_until) = (false, false, 0);
        Ok(())
    }

    /// The process is gone, with everything that it had in memory.
    pub(crate) fn drop_server(&mut self) {
        let server = self.server.take();
        self.runtime.within(|| drop(server));
        self.calls.clear();
        self.runtime.clear();
        self.bulk = None;
        self.leads = None;
        self.life += 1;
    }

    /// Its disk is gone; the next start finds another, and is not that of a founder.
    pub(crate) fn gets_an_empty_disk(&mut self, seed: u64) {
        self.disk = SimDisk::new(seed);
        self.observer = LogObserver::default();
        self.config.replication.as_mut().expect("only replicas may lose their disks").found = false;
    }

    pub(crate) fn data_dir(&self) -> &std::path::Path {
        &self.config.data_dir
    }

    /// A call arrives.
    pub(crate) fn call(&mut self, attempt: u64, call: Call) {
        let Some(server) = &self.server else { return };
        let service = server.service();
        let task = Task::new(async move {
            match call {
                Call::Transfer(request) => service.transfer(Request::new(request)).await.map(|response| {
                    let response = response.into_inner();
                    reply(response.state(), response.reason, response.xid)
                }),
                Call::Execute(request) => service.execute(Request::new(request)).await.map(|response| {
                    let response = response.into_inner();
                    reply(response.state(), response.reason, response.xid)
                }),
                Call::Reserve(request) => service.reserve(Request::new(request)).await.map(|response| {
                    let response = response.into_inner();
                    reply(response.state(), response.reason, response.xid)
                }),
                Call::Confirm(request) => service.confirm(Request::new(request)).await.map(|response| {
                    let response = response.into_inner();
                    reply(response.state(), response.reason, response.xid)
                }),
                Call::Cancel(request) => service.cancel(Request::new(request)).await.map(|response| {
                    let response = response.into_inner();
                    reply(response.state(), response.reason, response.xid)
                }),
                Call::Get(id) => {
                    let request = Request::new(v1::GetTransactionRequest { id });
                    service.get_transaction(request).await.map(|response| {
                        let response = response.into_inner();
                        reply(response.state(), response.reason, response.xid)
                    })
                }
                Call::OperatorRetry(id) => {
                    let request = Request::new(v1::RetryTransactionRequest { id });
                    service.retry_transaction(request).await.map(|_| done())
                }
                Call::OperatorCancel(id) => {
                    let request = v1::CancelTransactionRequest { id, reason: "simulated".into() };
                    service.cancel_transaction(Request::new(request)).await.map(|_| done())
                }
                Call::OperatorForce(id, confirm) => {
                    let decision = if confirm { v1::Decision::Confirm } else { v1::Decision::Cancel };
                    let decision = decision.into();
                    let request = v1::ForceTransactionRequest { id, decision, reason: "simulated".into() };
                    service.force_transaction(Request::new(request)).await.map(|_| done())
                }
                Call::SetPaused(paused) => {
                    let request = v1::SetPausedRequest { paused, reason: "simulated".into() };
                    service.set_paused(Request::new(request)).await.map(|_| done())
                }
            }
        });
        self.calls.insert(attempt, task);
    }

    /// Calls that have got their answer.
    pub(crate) fn answered(&mut self) -> Vec<(u64, Result<Reply, Status>)> {
        let mut answered = Vec::new();
        let Self { runtime, calls, .. } = self;
        runtime.within(|| {
            calls.retain(|&attempt, task| match task.poll() {
                None => true,
                Some(result) => {
                    answered.push((attempt, result));
                    false
                }
            });
        });
        answered
    }
}

fn reply(state: v1::TransactionState, reason: i32, xid: String) -> Reply {
    Reply { state, reason, xid }
}

fn done() -> Reply {
    reply(v1::TransactionState::Unspecified, 0, String::new())
}
