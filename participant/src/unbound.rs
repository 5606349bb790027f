//! A participant that has recovered, on whatever ground and network it is put: [`crate::Server`] puts it on TCP, files and
//! threads.
//!
//! **Invariant:** nothing here knows sockets, sled or threads; [`Ground`] and [`Incoming`] do.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use escrow_journal::storage::{Disk, LockGuard};
use escrow_journal::{Journal, JournalError};
use escrow_replica::{GroupId, Replica, Replicas, Settings, Transport};
use escrow_service::{Incoming, Limits};
use escrow_types::ParticipantId;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::checkpoint::Checkpointer;
use crate::config::Config;
use crate::edge::{self, Edge, Parts};
use crate::error::ParticipantError;
use crate::ground::{self, Ground, Views};
use crate::identity::Identity;
use crate::owner::{Owner, Progress, Seat, Start};
use crate::recovery::{Recovered, Recovery, recover};

/// The first failure that ends the process, if any.
type Fatal = Option<ParticipantError>;

/// The log has nothing to write when it is closed: whoever needs longer hangs.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(30);

/// Another replica takes over at once, or cannot.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(3);

/// A participant that has recovered and runs, but is reached by nobody yet.
pub struct Unbound {
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

/// A data directory that is open and recovered.
pub(crate) struct Opened {
    config: Config,
    ground: Ground,
    lock: Box<dyn LockGuard>,
    identity: Arc<Identity>,
    recovered: Recovered,
}

impl Opened {
    /// Locks a data directory and recovers what is in it. Blocks.
    pub(crate) fn open(config: Config, ground: Ground) -> Result<Self, ParticipantError> {
        let (lock, identity, recovered) = open_on(&config, &ground.disk, &ground.views)?;
        Ok(Self { config, ground, lock, identity, recovered })
    }

    /// Starts the log, the checkpoints, the replicas and the owners.
    pub(crate) async fn start(self) -> Result<Unbound, ParticipantError> {
        let Self { config, ground, lock, identity, recovered } = self;
        let Ground {
            disk,
            clock,
            journal: write_journal,
            checkpoints: write_checkpoints,
            background,
            transport,
            ..
        } = ground;
        let Recovered { journal, steps, shards, last } = recovered;
        write_journal(&journal, steps)?;
        let progress = Progress::of(&journal, last);
        let (stop_streams, streams_stopped) = watch::channel(false);
        let (stop_owners, owners_stopped) = watch::channel(false);
        let (fatal_sender, fatal) = watch::channel(None);
        let fatal_sender = Arc::new(fatal_sender);
        let (mut views, mut wallets) = (BTreeMap::new(), Vec::new());
        for (number, shard) in shards {
            views.insert(number, (shard.view, shard.checkpointed));
            wallets.push((
                number,
                shard.wallet,
                (shard.checkpointed, shard.applied, shard.bytes_replayed),
                shard.replica,
            ));
        }
        let checkpointer = Checkpointer::start(
            views,
            journal.clone(),
            Arc::clone(&disk),
            Arc::clone(&identity),
            write_checkpoints,
        )?;
        let (mut owners, mut handles, mut replicas) = (Vec::new(), BTreeMap::new(), Vec::new());
        let is_only = wallets.len() == 1;
        for (shard, wallet, (checkpointed, applied, bytes_replayed), replica) in wallets {
            let seat = match replica {
                Some(Recovery { log, position, checkpointed }) => {
                    let settings = settings(&config, &identity, shard, &transport, &disk);
                    let start = Replica::start(settings, log, position.clone(), checkpointed);
                    let (replica, feed) = start.await?;
                    replicas.push(replica.clone());
                    Some(Seat::new(replica, feed, position))
                }
                None => None,
            };
            let start = Start {
                shard,
                is_only,
                clock: {
                    let clock = Arc::clone(&clock);
                    Box::new(move || clock())
                },
                wallet,
                applied,
                checkpointed,
                seat,
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
        let parts = Parts {
            shards: handles,
            identity,
            journal: journal.clone(),
            checkpointer: checkpointer.clone(),
            stop: streams_stopped,
            background,
            replicas: Replicas::new(replicas),
        };
        let edge = Edge::new(&config, parts);
        let edge = Arc::new(edge);
        Ok(Unbound { edge, limits, journal, checkpointer, owners, fatal, stop_streams, stop_owners, lock })
    }
}

/// What the replica of a shard is.
pub(crate) fn settings(
    config: &Config,
    identity: &Identity,
    shard: u16,
    transport: &Arc<dyn Transport>,
    disk: &Arc<dyn Disk>,
) -> Settings {
    let membership = identity.replica().expect("the directory is that of a replica");
    let replication = config.replication.as_ref().expect("checked with the identity");
    Settings {
        group: GroupId::Shard(ParticipantId(shard)),
        me: replication.me(membership.life),
        members: replication.members(membership.life),
        is_new: membership.life == 0,
        cluster_id: config.cluster_id.clone().expect("checked with the configuration"),
        times: replication.times(),
        transport: Arc::clone(transport),
        disk: Arc::clone(disk),
        snapshot_dir: crate::replicated::shard_dir(config, shard),
        bytes_kept: replication.bytes_kept,
    }
}

impl Unbound {
    /// Locks and opens the data directory, recovers, and starts the owners. Blocks; must be called within a tokio runtime.
    pub async fn open(config: Config, ground: Ground) -> Result<Self, ParticipantError> {
        Opened::open(config.validated()?, ground)?.start().await
    }

    /// Serves until `shutdown` resolves, then ends: streams first, then open calls for a bounded time, then a last
    /// checkpoint, then the log. An error means that the process must end; what was acknowledged is durable.
    pub async fn run(
        self,
        incoming: impl Incoming,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), ParticipantError> {
        let (mut fatal, stop_streams) = (self.fatal.clone(), self.stop_streams);
        let replicas = self.edge.replicas.clone();
        let told = async move {
            tokio::select! {
                // Who leads a group lets another lead first: its callers hardly notice.
                () = async { shutdown.await; hand_over(&replicas).await } => {}
                // Its senders outlive this: an error cannot come before the owners have ended.
                _ = fatal.wait_for(Option::is_some) => {}
            }
            stop_streams.send_replace(true);
        };
        let routes = edge::routes(&self.edge, self.limits.message_bytes_max);
        let served = escrow_service::serve(incoming, routes, self.limits, told).await;
        self.stop_owners.send_replace(true);
        for owner in self.owners {
            // The supervisor does not panic.
            let _ = owner.await;
        }
        for replica in self.edge.replicas.iter() {
            replica.stop().await;
        }
        let (checkpointer, journal, background) = (self.checkpointer, self.journal, &self.edge.background);
        let ended = ground::on(background, move || checkpointer.end()).await;
        ended.ok_or(ParticipantError::Ended("closing the views"))?;
        let closed = match tokio::time::timeout(CLOSE_TIMEOUT, journal.closed()).await {
            Ok(()) => journal.close(),
            Err(_) => Err(JournalError::CloseTimedOut { durable: journal.durable() }),
        };
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

/// What a data directory holds: it is locked while the first lives.
pub(crate) type Found = (Box<dyn LockGuard>, Arc<Identity>, Recovered);

/// Locks a data directory and recovers what is in it. Blocks.
pub(crate) fn open_on(
    config: &Config,
    disk: &Arc<dyn Disk>,
    views: &Views,
) -> Result<Found, ParticipantError> {
    let dir = &config.data_dir;
    disk.create_dir_all(dir).map_err(ParticipantError::file(dir))?;
    let lock = disk.lock(&dir.join("lock")).map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => ParticipantError::InUse(dir.clone()),
        _ => ParticipantError::file(dir)(error),
    })?;
    let identity =
        Arc::new(Identity::open(Arc::clone(disk), dir, &config.shards, config.replication.as_ref())?);
    if let Some(cluster_id) = &config.cluster_id {
        let served = identity.confirm_cluster(cluster_id)?;
        served.map_err(|served| ParticipantError::Foreign {
            path: dir.clone(),
            why: format!("it serves cluster {served}"),
        })?;
    }
    let open_view = |shard| views.open(config, &identity, shard);
    let recovered = recover(config, Arc::clone(disk), &identity, &open_view)?;
    Ok((lock, identity, recovered))
}

/// Lets others lead what is led here.
async fn hand_over(replicas: &Replicas) {
    for replica in replicas.iter() {
        if !replica.hand_over(HAND_OVER_TIMEOUT).await {
            tracing::warn!(group = %replica.group(), "nobody took over leadership in time");
        }
    }
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
