//! A participant's process: its disk, its clock, one or more shards, the server while it lives, and its open streams.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use escrow_journal::storage::SimDisk;
use escrow_participant::stepped::{MemoryView, Stepped};
use escrow_participant::{Archive, Config, PARTICIPANT_METADATA, ParticipantError};
use escrow_proto::v1;
use escrow_proto::v1::account_service_server::AccountService as _;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tonic::{Request, Status};

use crate::chance::Chance;
use crate::coordinator::CLUSTER;
use crate::network::ConnectionId;
use crate::observe::{LogObserver, ShardObserver};
use crate::replicas::{Replica, Runtime};
use crate::task::Task;
use crate::time::{Time, TrueTime, WallClock};

/// One stream of the coordinator, as the participant has it.
pub(crate) struct Session {
    pub(crate) inbox: mpsc::UnboundedSender<Result<v1::ExchangeRequest, Status>>,
    pub(crate) ask: mpsc::UnboundedSender<()>,
    served: Task<Result<(), Status>>,
    responses: Pin<Box<dyn Stream<Item = Result<v1::ExchangeResponse, Status>> + Send>>,
}

/// What comes out of a session.
pub(crate) enum FromSession {
    Message(v1::ExchangeResponse),
    /// The participant ended the stream.
    Ended(Option<Status>),
}

/// See the module.
pub(crate) struct ParticipantProcess {
    pub(crate) server: Option<Stepped>,
    pub(crate) life: u32,
    pub(crate) disk: SimDisk,
    pub(crate) clock: WallClock,
    pub(crate) shards: Vec<u16>,
    pub(crate) views: BTreeMap<u16, MemoryView>,
    pub(crate) log: LogObserver,
    pub(crate) observers: BTreeMap<u16, ShardObserver>,
    pub(crate) paused_until: Time,
    pub(crate) turn_due: bool,
    pub(crate) write_due: bool,
    pub(crate) sessions: BTreeMap<ConnectionId, Session>,
    pub(crate) runtime: Runtime,
    /// By shard: the term in which it was seen to be served here.
    pub(crate) leads: BTreeMap<u16, u64>,
    /// Calls about accounts.
    accounts: Vec<Task<()>>,
    config: Config,
}

impl ParticipantProcess {
    pub(crate) fn new(
        number: usize,
        replica: Replica,
        shards: Vec<u16>,
        archive: Archive,
        time: &TrueTime,
        chance: &mut Chance,
    ) -> Self {
        let config = Config {
            data_dir: PathBuf::from(format!("participant-{number}")),
            replication: replica.replication("participant"),
            cluster_id: Some(CLUSTER.to_owned()),
            shards: shards.clone(),
            segment_bytes: chance.one_of(&[16 << 10, 64 << 10]),
            archive,
            outcome_rows_max: chance.one_of(&[2, 100]),
            stream_answers_max: chance.one_of(&[4, 1_000]),
            ..Config::default()
        };
        let views = shards.iter().map(|&shard| (shard, MemoryView::new(shard))).collect();
        let observers = shards.iter().map(|&shard| (shard, ShardObserver::new(shard))).collect();
        Self {
            server: None,
            life: 0,
            disk: SimDisk::new(chance.next()),
            clock: WallClock::new(time),
            shards,
            views,
            log: LogObserver::default(),
            observers,
            paused_until: 0,
            turn_due: false,
            write_due: false,
            sessions: BTreeMap::new(),
            accounts: Vec::new(),
            runtime: Runtime::new(time, chance.next()),
            leads: BTreeMap::new(),
            config,
        }
    }

    /// Starts the server from what is on the disk and in the views.
    pub(crate) fn start(&mut self) -> Result<(), ParticipantError> {
        let clock = self.clock.clone();
        let disk = self.disk.shared();
        let transport = self.runtime.transport();
        let start = || {
            let views = self.views.clone();
            Stepped::start(&self.config, &disk, views, CLUSTER, move || clock.now_ms(), Some(&transport))
        };
        let mut server = self.runtime.within(start)?;
        for &shard in &self.shards {
            server.take_applied(shard);
        }
        self.life += 1;
        self.leads.clear();
        self.server = Some(server);
        (self.turn_due, self.write_due, self.paused_until) = (false, false, 0);
        Ok(())
    }

    /// The process is gone, with everything that it had in memory.
    pub(crate) fn drop_server(&mut self) {
        let (server, sessions) = (self.server.take(), std::mem::take(&mut self.sessions));
        self.runtime.within(|| drop((server, sessions)));
        self.accounts.clear();
        self.runtime.clear();
        self.leads.clear();
        self.life += 1;
    }

    /// Its disk is gone; the next start finds another, and is not that of a founder.
    pub(crate) fn gets_an_empty_disk(&mut self, seed: u64) {
        self.disk = SimDisk::new(seed);
        self.views.values().for_each(MemoryView::lose);
        self.log = LogObserver::default();
        self.config.replication.as_mut().expect("only replicas may lose their disks").found = false;
    }

    pub(crate) fn data_dir(&self) -> &std::path::Path {
        &self.config.data_dir
    }

    /// A coordinator connects.
    pub(crate) fn open_session(&mut self, id: ConnectionId) {
        let Some(server) = &self.server else { return };
        let exchange = server.open_exchange();
        let served = Task::boxed(exchange.served);
        let session =
            Session { inbox: exchange.inbox, ask: exchange.ask, served, responses: exchange.responses };
        self.sessions.insert(id, session);
    }

    /// Lets streams and calls go on, and takes what they put out.
    pub(crate) fn poll(&mut self) -> Vec<(ConnectionId, FromSession)> {
        let mut out = Vec::new();
        let Self { runtime, accounts, sessions, .. } = self;
        runtime.within(|| {
            accounts.retain_mut(|task| task.poll().is_none());
            sessions.retain(|&id, session| {
                let ended = session.served.poll();
                let mut context = Context::from_waker(Waker::noop());
                while let Poll::Ready(Some(Ok(message))) = session.responses.as_mut().poll_next(&mut context)
                {
                    out.push((id, FromSession::Message(message)));
                }
                match ended {
                    None => true,
                    Some(result) => {
                        out.push((id, FromSession::Ended(result.err())));
                        false
                    }
                }
            });
        });
        out
    }

    /// Opens accounts on a shard.
    pub(crate) fn open_accounts(&mut self, shard: u16, accounts: Vec<v1::OpenAccount>) {
        let Some(server) = &self.server else { return };
        let service = server.accounts();
        let mut request = Request::new(v1::OpenAccountsRequest { accounts });
        let value = shard.to_string().parse().expect("digits");
        request.metadata_mut().insert(PARTICIPANT_METADATA, value);
        self.accounts.push(Task::new(async move { drop(service.open_accounts(request).await) }));
    }

    /// Freezes an account, or lets it go again.
    pub(crate) fn set_frozen(&mut self, account_id: String, frozen: bool) {
        let Some(server) = &self.server else { return };
        let service = server.accounts();
        let request = Request::new(v1::SetFrozenRequest { account_id, frozen });
        self.accounts.push(Task::new(async move { drop(service.set_frozen(request).await) }));
    }
}
