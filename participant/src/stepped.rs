//! The participant without sockets, threads, sled and a clock of its own: the same recovery, owners, edge and messages, moved
//! one step at a time. For simulations, which choose what happens next.
//!
//! What is left out is what only carries or waits: connections, the select loop of an owner, and sled, in whose place stands
//! [`MemoryView`]. An error of a step is the end of the process: drop it, crash or kill the disk, and start again.
//!
//! **Invariant:** nothing here decides or translates; every step is one call of what the server calls.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use escrow_journal::storage::{Disk, LockGuard};
use escrow_journal::{Index, Journal, Steps};
use escrow_proto::v1;
use escrow_proto::v1::account_service_server::AccountService;
use escrow_proto::v1::participant_service_server::ParticipantService;
use escrow_replica::{Committed, Replica, Replicas, Transport};
use escrow_types::{Digest, Millis};
use escrow_wallet::Wallet;
use tokio::sync::{mpsc, watch};
use tokio_stream::Stream;
use tonic::Status;

use crate::checkpoint::{Checkpointer, Checkpoints};
use crate::config::Config;
use crate::edge::{self, Edge, Parts};
use crate::error::ParticipantError;
use crate::ground::Views;
use crate::owner::{Owner, Progress, Seat, Start};
use crate::recovery::{Recovered, Recovery, replay};
use crate::replicated::Rebuilt;
pub use crate::store::MemoryView;
use crate::store::View as _;
use crate::unbound::{open_on, settings};

/// One stream of a coordinator. Its future and its responses need no runtime: they move when turns have been made.
pub struct Exchange {
    /// What the coordinator sends. Dropping it ends the stream.
    pub inbox: mpsc::UnboundedSender<Result<v1::ExchangeRequest, Status>>,
    /// At each of these the participant asks about reservations past their deadline.
    pub ask: mpsc::UnboundedSender<()>,
    /// Serves the stream when it is polled.
    pub served: Pin<Box<dyn Future<Output = Result<(), Status>> + Send>>,
    /// What goes back to the coordinator.
    pub responses: Pin<Box<dyn Stream<Item = Result<v1::ExchangeResponse, Status>> + Send>>,
}

/// A participant that is moved by hand. See the module.
pub struct Stepped {
    owners: BTreeMap<u16, Owner>,
    views: BTreeMap<u16, MemoryView>,
    edge: Arc<Edge>,
    journal: Journal,
    steps: Steps,
    checkpoints: Checkpoints,
    _streams: watch::Sender<bool>,
    _stop: watch::Sender<bool>,
    /// Released last.
    _lock: Box<dyn LockGuard>,
}

impl Stepped {
    /// Recovers from the disk and the views, as [`crate::Server::bind`] does. Serves the cluster of this id. The configuration is
    /// not checked: segments may be smaller than a server allows, if entries are. With replication, `transport` reaches the other
    /// replicas, and everything is to be called where [`escrow_replica::runtime`] finds an executor.
    pub fn start(
        config: &Config,
        disk: &Arc<dyn Disk>,
        views: BTreeMap<u16, MemoryView>,
        cluster_id: &str,
        clock: impl Fn() -> Millis + Clone + Send + 'static,
        transport: Option<&Arc<dyn Transport>>,
    ) -> Result<Self, ParticipantError> {
        let (lock, identity, recovered) = open_on(config, disk, &Views::Memory(views.clone()))?;
        let confirmed = identity.confirm_cluster(cluster_id)?;
        confirmed.map_err(|served| ParticipantError::Config(format!("it serves cluster {served}")))?;
        let Recovered { journal, steps, shards, last } = recovered;
        let progress = Progress::of(&journal, last);
        let ((streams, streams_stopped), (stop, stopped)) = (watch::channel(false), watch::channel(false));
        let (mut open, mut ready) = (BTreeMap::new(), Vec::new());
        let mut replicas = Vec::new();
        for (number, shard) in shards {
            let applied = shard.applied;
            let seat = match (shard.replica, transport) {
                (Some(Recovery { log, position, checkpointed }), Some(transport)) => {
                    let settings = settings(config, &identity, number, transport, disk);
                    let (replica, feed) =
                        Replica::start_at_once(settings, log, position.clone(), checkpointed)?;
                    replicas.push(replica.clone());
                    Some(Seat::new(replica, feed, position))
                }
                _ => None,
            };
            open.insert(number, (shard.view, shard.checkpointed));
            ready.push((number, shard.wallet, (shard.checkpointed, applied, shard.bytes_replayed), seat));
        }
        let (checkpointer, checkpoints) =
            Checkpointer::stepped(open, journal.clone(), Arc::clone(disk), Arc::clone(&identity));
        let (mut owners, mut handles) = (BTreeMap::new(), BTreeMap::new());
        let is_only = ready.len() == 1;
        for (shard, wallet, (checkpointed, applied, bytes_replayed), seat) in ready {
            let start = Start {
                shard,
                is_only,
                clock: Box::new(clock.clone()),
                wallet,
                applied,
                checkpointed,
                seat,
                journal: journal.clone(),
                progress: progress.clone(),
                checkpointer: checkpointer.clone(),
                checkpoint_interval: Duration::from_millis(config.checkpoint_interval_ms),
                checkpoint_bytes: config.checkpoint_bytes,
                stop: stopped.clone(),
            };
            let (owner, handle) =
                Owner::new(start, config.mailbox_commands_max, config.mailbox_bytes_max, bytes_replayed);
            owners.insert(shard, owner);
            handles.insert(shard, handle);
        }
        let parts = Parts {
            shards: handles,
            identity,
            journal: journal.clone(),
            checkpointer,
            stop: streams_stopped,
            background: Arc::new(|job| job()),
            replicas: Replicas::new(replicas),
        };
        let edge = Edge::new(config, parts);
        let edge = Arc::new(edge);
        Ok(Self {
            owners,
            views,
            edge,
            journal,
            steps,
            checkpoints,
            _streams: streams,
            _stop: stop,
            _lock: lock,
        })
    }

    /// A coordinator connects.
    pub fn open_exchange(&self) -> Exchange {
        edge::open_stepped(Arc::clone(&self.edge))
    }

    /// The unary service, to be called without gRPC. Its futures need no runtime: they end when turns have been made.
    pub fn service(&self) -> impl ParticipantService + use<> {
        edge::unary(Arc::clone(&self.edge))
    }

    /// The accounts, likewise.
    pub fn accounts(&self) -> Arc<impl AccountService + use<>> {
        Arc::clone(&self.edge)
    }

    /// Applies what has become durable, and logs what has arrived, shard by shard.
    pub fn turn(&mut self) -> Result<(), ParticipantError> {
        self.owners.values_mut().try_for_each(Owner::step)
    }

    /// Whether something waits for a turn.
    pub fn has_work(&self) -> bool {
        self.owners.values().any(Owner::has_work)
    }

    /// Whether everything that was appended is applied.
    pub fn is_settled(&self) -> bool {
        self.owners.values().all(Owner::is_settled)
    }

    /// Writes and syncs what the owners have appended. Whether there was anything.
    pub fn write(&mut self) -> bool {
        self.steps.write()
    }

    /// Does one thing of the journal's background. Whether there was anything.
    pub fn keep(&mut self) -> bool {
        self.steps.keep()
    }

    /// Begins to write the views as far as the shards are; turns copy what is to be written, and go on meanwhile.
    pub fn checkpoint(&mut self) -> Result<(), ParticipantError> {
        self.owners.values_mut().for_each(Owner::step_checkpoint);
        self.serve_views()
    }

    /// Whether somebody waits for what the checkpoint thread would do: [`Stepped::serve_views`].
    pub fn has_jobs(&self) -> bool {
        self.checkpoints.has_work()
    }

    /// Does what the checkpoint thread would: snapshots are written and installed.
    pub fn serve_views(&mut self) -> Result<(), ParticipantError> {
        while self.checkpoints.step() {}
        self.owners.values_mut().try_for_each(Owner::note_checkpoint)
    }

    /// The state of a shard.
    pub fn wallet(&self, shard: u16) -> &Wallet {
        self.owners.get(&shard).expect("a shard of this participant").wallet()
    }

    /// What answers other replicas.
    pub fn replicas(&self) -> &Replicas {
        &self.edge.replicas
    }

    /// Whether a shard is served here, and in which term if it is replicated.
    pub fn serves(&self, shard: u16) -> Option<u64> {
        self.owners.get(&shard).expect("a shard of this participant").serves()
    }

    /// The last entry of its group, or of the journal, that a shard has applied.
    pub fn applied(&self, shard: u16) -> u64 {
        self.owners.get(&shard).expect("a shard of this participant").applied()
    }

    /// What a replicated shard has applied since this was called last.
    pub fn take_applied(&mut self, shard: u16) -> Vec<Committed> {
        self.owners.get_mut(&shard).expect("a shard of this participant").take_applied()
    }

    /// The log, to be read beside the server.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Invariant 10: view and log, and the log alone if it is all there, give the live state. Says what differs.
    pub fn check_replay(&self, shard: u16) -> Result<(), String> {
        let owner = self.owners.get(&shard).expect("a shard of this participant");
        let (live, until) = (owner.wallet().digest(), owner.applied());
        if owner.serves().is_some() || !self.edge.replicas.is_empty() {
            return self.check_replica(shard, live, until);
        }
        let view = self.views[&shard].read().map_err(|error| error.to_string())?;
        let view = (view.wallet, view.applied);
        let whole = (self.journal.first_index() == Index::FIRST).then(|| (Wallet::default(), 0));
        for (mut wallet, from) in std::iter::once(view).chain(whole) {
            let reader = self.journal.read_from(Index(from + 1)).map_err(|error| error.to_string())?;
            replay(&mut wallet, reader, shard, until, |_| true).map_err(|error| error.to_string())?;
            let rebuilt = wallet.digest();
            if rebuilt != live {
                return Err(format!("rebuilt from entry {from} to {until}: {rebuilt}, live {live}"));
            }
        }
        Ok(())
    }

    fn check_replica(&self, shard: u16, live: Digest, until: u64) -> Result<(), String> {
        let view = self.views[&shard].read().map_err(|error| error.to_string())?;
        let mut rebuilt = Rebuilt::from(view).map_err(|error| error.to_string())?;
        let from = rebuilt.position.index();
        rebuilt.read(&self.journal, shard, until)?;
        let found = rebuilt.wallet.digest();
        if found == live {
            return Ok(());
        }
        Err(format!("rebuilt from entry {from} of the group to {until}: {found}, live {live}"))
    }
}
