//! The server: opens the data directory, runs the owners, serves until told to stop, and ends in order.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use escrow_journal::Journal;
use escrow_journal::storage::{Disk, LockGuard, OsDisk};
use escrow_service::Limits;
use escrow_wallet::Wallet;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::checkpoint::Checkpointer;
use crate::config::Config;
use crate::edge::{self, Edge};
use crate::error::ParticipantError;
use crate::identity::Identity;
use crate::owner::{Owner, Progress, Start, now_ms};
use crate::recovery::{Recovered, recover};
use crate::store::{Store, View};

/// The first failure that ends the process, if any.
type Fatal = Option<ParticipantError>;

/// A participant that has recovered and listens.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    edge: Arc<Edge>,
    limits: Limits,
    journal: Journal,
    checkpointer: Checkpointer,
    owners: Vec<JoinHandle<()>>,
    fatal: watch::Receiver<Fatal>,
    stop_streams: watch::Sender<bool>,
    stop_owners: watch::Sender<bool>,
    /// Released last.
    lock: Box<dyn LockGuard>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Server {
    /// Locks and opens the data directory, recovers, and binds the listener. Calls are answered once it runs.
    pub async fn bind(config: Config) -> Result<Self, ParticipantError> {
        let config = config.validated()?;
        // A port in use is told before a recovery that may take long.
        drop(escrow_service::bind(config.listen).await?);
        let dir = config.data_dir.clone();
        let blocking = config.clone();
        let opened = tokio::task::spawn_blocking(move || open(&blocking));
        let (lock, identity, recovered) = opened.await.map_err(|_| ParticipantError::Ended("recovery"))??;
        let listener = escrow_service::bind(config.listen).await?;
        let address = listener.local_addr().map_err(ParticipantError::file("the listener"))?;
        let server = Self::start(&config, listener, address, lock, identity, recovered)?;
        tracing::info!(%address, data_dir = %dir.display(), shards = ?config.shards, "participant ready");
        Ok(server)
    }

    fn start(
        config: &Config,
        listener: TcpListener,
        address: SocketAddr,
        lock: Box<dyn LockGuard>,
        identity: Arc<Identity>,
        recovered: Recovered,
    ) -> Result<Self, ParticipantError> {
        let Recovered { journal, steps, shards, last } = recovered;
        journal.start(steps)?;
        let progress = Progress::of(&journal, last);
        let (stop_streams, streams_stopped) = watch::channel(false);
        let (stop_owners, owners_stopped) = watch::channel(false);
        let (fatal_sender, fatal) = watch::channel(None);
        let fatal_sender = Arc::new(fatal_sender);
        let (mut views, mut wallets) = (BTreeMap::new(), Vec::new());
        for (number, shard) in shards {
            wallets.push((number, shard.wallet, shard.checkpointed, shard.bytes_replayed));
            views.insert(number, (shard.view, shard.checkpointed));
        }
        let checkpointer = Checkpointer::start(views, journal.clone(), Arc::clone(&identity))?;
        let (mut owners, mut handles) = (Vec::new(), BTreeMap::new());
        for (shard, wallet, checkpointed, bytes_replayed) in wallets {
            let start = Start {
                shard,
                clock: Box::new(now_ms),
                wallet,
                applied: last,
                checkpointed,
                journal: journal.clone(),
                progress: progress.clone(),
                checkpointer: checkpointer.clone(),
                checkpoint_interval: Duration::from_millis(config.checkpoint_interval_ms),
                checkpoint_bytes: config.checkpoint_bytes,
                stop: owners_stopped.clone(),
            };
            let (owner, handle) =
                Owner::new(start, config.mailbox_commands_max, config.mailbox_bytes_max, bytes_replayed);
            handles.insert(shard, handle);
            owners.push(tokio::spawn(supervise(tokio::spawn(owner.run()), Arc::clone(&fatal_sender))));
        }
        let limits = Limits {
            message_bytes_max: config.message_bytes_max,
            drain: Duration::from_millis(config.drain_ms),
            ..Limits::default()
        };
        let edge =
            Edge::new(config, handles, identity, journal.clone(), checkpointer.clone(), streams_stopped);
        let edge = Arc::new(edge);
        Ok(Self {
            listener,
            address,
            edge,
            limits,
            journal,
            checkpointer,
            owners,
            fatal,
            stop_streams,
            stop_owners,
            lock,
        })
    }

    /// Where it listens; tells the port that port 0 became.
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` resolves, then ends: streams first, then open calls for a bounded time, then a last
    /// checkpoint, then the log. An error means that the process must end; what was acknowledged is durable.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), ParticipantError> {
        let (mut fatal, stop_streams) = (self.fatal.clone(), self.stop_streams);
        let told = async move {
            tokio::select! {
                () = shutdown => {}
                // Its senders outlive this: an error cannot come before the owners have ended.
                _ = fatal.wait_for(Option::is_some) => {}
            }
            stop_streams.send_replace(true);
        };
        let routes = edge::routes(&self.edge, self.limits.message_bytes_max);
        let served = escrow_service::serve(self.listener, routes, self.limits, told).await;
        self.stop_owners.send_replace(true);
        for owner in self.owners {
            // The supervisor does not panic.
            let _ = owner.await;
        }
        let (checkpointer, journal) = (self.checkpointer, self.journal);
        let closing = tokio::task::spawn_blocking(move || {
            checkpointer.end();
            journal.close()
        });
        let closed = closing.await.map_err(|_| ParticipantError::Ended("closing the log"))?;
        drop(self.lock);
        if let Some(error) = self.fatal.borrow().clone() {
            return Err(error);
        }
        served.map_err(|error| ParticipantError::Transport(error.to_string()))?;
        closed?;
        tracing::info!("participant ended");
        Ok(())
    }
}

pub(crate) type Opened = (Box<dyn LockGuard>, Arc<Identity>, Recovered);

fn open(config: &Config) -> Result<Opened, ParticipantError> {
    open_on(config, &OsDisk::shared(), |identity, shard| {
        let dir = config.data_dir.join(format!("shard-{shard}"));
        let cluster_id = identity.cluster_id();
        let (store, wallet, applied) =
            Store::open(&dir, shard, cluster_id.as_deref(), config.sled_cache_bytes)?;
        Ok((Box::new(store), wallet, applied))
    })
}

/// Locks a data directory and recovers what is in it. Blocks.
pub(crate) fn open_on(
    config: &Config,
    disk: &Arc<dyn Disk>,
    open_view: impl Fn(&Identity, u16) -> Result<(Box<dyn View>, Wallet, u64), ParticipantError>,
) -> Result<Opened, ParticipantError> {
    let dir = &config.data_dir;
    disk.create_dir_all(dir).map_err(ParticipantError::file(dir))?;
    let lock = disk.lock(&dir.join("lock")).map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => ParticipantError::InUse(dir.clone()),
        _ => ParticipantError::file(dir)(error),
    })?;
    let identity = Arc::new(Identity::open(Arc::clone(disk), dir, &config.shards)?);
    let recovered = recover(config, Arc::clone(disk), &identity, &|shard| open_view(&identity, shard))?;
    Ok((lock, identity, recovered))
}

/// Tells everybody when an owner ends before its time: without it the shard is dead.
async fn supervise(owner: JoinHandle<Result<(), ParticipantError>>, fatal: Arc<watch::Sender<Fatal>>) {
    let error = match owner.await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error,
        Err(_) => ParticipantError::Ended("the owner of a shard"),
    };
    tracing::error!(%error, "the participant cannot go on");
    fatal.send_modify(|fatal| {
        fatal.get_or_insert(error);
    });
}
