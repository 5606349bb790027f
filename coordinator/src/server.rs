//! Starting and stopping: recovery is the only way to start.
//!
//! [`Server::bind`]: lock the directory, load the newest checkpoint, replay the log after it, open a new epoch (durably), and
//! listen. [`Server::run`]: drive every unfinished transaction, serve, and stop when told.

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use escrow_journal::storage::{Disk, LockGuard, OsDisk};
use escrow_journal::{Index, Journal, Options};
use escrow_tcc::driver::LinkKind;
use escrow_tcc::routing::Routing;
use escrow_tcc::{Driver, Entry, Machine};
use escrow_types::{ParticipantId, Partition};
use tokio::net::TcpListener;

use crate::config::{Archive, Config, ParticipantKind};
use crate::edge::Service;
use crate::error::CoordinatorError;
use crate::links::{Delays, LinkSenders, Peer, endpoint};
use crate::owner::{GROUP, Owner, Parts, mailbox, now_ms};
use crate::store::{Checkpoint, IdempotencyWindow, Identity};

/// A coordinator that has recovered and listens, but does not serve yet.
pub struct Server {
    config: Arc<Config>,
    listener: TcpListener,
    local_addr: SocketAddr,
    disk: Arc<dyn Disk>,
    identity: Identity,
    driver: Driver,
    window: IdempotencyWindow,
    journal: Journal,
    applied: u64,
    checkpointed: u64,
    _lock: Box<dyn LockGuard>,
}

/// What recovery found.
struct Recovered {
    machine: Machine,
    window: IdempotencyWindow,
    journal: Journal,
    applied: u64,
    checkpointed: u64,
}

impl Server {
    /// Recovers and listens. On an error nothing was changed but what recovery itself repairs.
    pub async fn bind(config: Config) -> Result<Self, CoordinatorError> {
        let config = config.validated()?;
        let listener = escrow_service::bind(config.listen).await?;
        let local_addr = listener
            .local_addr()
            .map_err(|source| escrow_service::ListenError::Io { address: config.listen, source })?;
        let disk = OsDisk::shared();
        let dir = config.data_dir.clone();
        let file_error = |source| CoordinatorError::File { path: dir.clone(), source };
        disk.create_dir_all(&dir).map_err(file_error)?;
        let lock = disk.lock(&dir.join("lock")).map_err(|error| match error.kind() {
            std::io::ErrorKind::WouldBlock => CoordinatorError::InUse(dir.clone()),
            _ => file_error(error),
        })?;
        let identity = Identity::open(&*disk, &dir, config.partition, config.cluster_id.as_deref())?;
        let recovered = recover(&disk, &config)?;
        let Recovered { machine, window, journal, applied, checkpointed } = recovered;
        let mut driver = new_driver(&config, machine);
        let applied = open_epoch(&mut driver, &journal, applied)?;
        Ok(Self {
            config: Arc::new(config),
            listener,
            local_addr,
            disk,
            identity,
            driver,
            window,
            journal,
            applied,
            checkpointed,
            _lock: lock,
        })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Serves until `shutdown` resolves, then refuses new work, lets running transactions end within the drain time, writes a
    /// checkpoint and returns. What has not ended goes on at the next start.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), CoordinatorError> {
        let (mailbox, receivers) = mailbox();
        let mut peers = Vec::new();
        for config in &self.config.participants {
            let channel = endpoint(&config.endpoint)?.connect_lazy();
            peers.push(Peer { config: config.clone(), channel });
        }
        let links = LinkSenders::new(&peers, self.config.partition, &mailbox);
        let routing = self.driver.routing().clone();
        let service = Service::new(
            mailbox.clone(),
            Arc::clone(&self.config),
            routing,
            peers.clone(),
            self.journal.clone(),
        );
        let drain = Duration::from_millis(self.config.drain_ms);
        let owner = Owner::new(Parts {
            config: Arc::clone(&self.config),
            disk: self.disk,
            driver: self.driver,
            window: self.window,
            journal: self.journal,
            links,
            applied: self.applied,
            checkpointed: self.checkpointed,
        });
        let (stop_owner, stopped) = tokio::sync::oneshot::channel();
        let mut owner = tokio::spawn(owner.run(receivers, stopped));
        let tasks: Vec<_> = peers
            .iter()
            .filter(|peer| peer.config.kind == ParticipantKind::Stream)
            .map(|peer| crate::links::start(peer, self.config.partition, &self.identity.cluster_id, &mailbox))
            .collect();
        tracing::info!(address = %self.local_addr, partition = self.config.partition, "listening");

        let limits = escrow_service::Limits {
            message_bytes_max: self.config.message_bytes_max,
            // The owner has drained before connections are closed: what is left are callers who read nothing.
            drain: drain.min(Duration::from_secs(1)),
            ..escrow_service::Limits::default()
        };
        // The owner refuses new work and drains while its answers can still leave; then connections are closed.
        let (begin, begun) = tokio::sync::oneshot::channel::<()>();
        let (close, closed) = tokio::sync::oneshot::channel::<()>();
        let begun = async { drop(begun.await) };
        let closed = async { drop(closed.await) };
        let serving = escrow_service::serve_until(self.listener, service.routes(), limits, begun, closed);
        tokio::pin!(serving, shutdown);
        let result = tokio::select! {
            () = &mut shutdown => {
                let _ = begin.send(());
                let _ = stop_owner.send(drain);
                let result = tokio::select! {
                    result = &mut owner => joined(result),
                    served = &mut serving => return served.map_err(CoordinatorError::from),
                };
                let _ = close.send(());
                result.and(serving.await.map_err(CoordinatorError::from))
            }
            result = &mut owner => joined(result),
            served = &mut serving => served.map_err(CoordinatorError::from),
        };
        for task in tasks {
            task.abort();
        }
        result
    }
}

fn joined(
    result: Result<Result<(), CoordinatorError>, tokio::task::JoinError>,
) -> Result<(), CoordinatorError> {
    match result {
        Ok(result) => result,
        // A broken invariant: it must not be survived.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Loads the newest checkpoint and replays the log after it.
fn recover(disk: &Arc<dyn Disk>, config: &Config) -> Result<Recovered, CoordinatorError> {
    let started = Instant::now();
    let dir = &config.data_dir;
    let checkpoint = match Checkpoint::read(&**disk, dir) {
        Ok(checkpoint) => checkpoint.unwrap_or_default(),
        Err(why) => {
            set_checkpoint_aside(&**disk, dir, &why)?;
            Checkpoint::default()
        }
    };
    let loaded = load(disk, config, &checkpoint);
    let (checkpoint_index, mut machine, window) = match loaded {
        Ok((machine, window)) => (checkpoint.index, machine, window),
        Err(why) => {
            set_checkpoint_aside(&**disk, dir, &why)?;
            let window = IdempotencyWindow::open(disk, dir, &[])
                .map_err(|source| CoordinatorError::File { path: dir.join("runs"), source })?;
            (0, Machine::new(), window)
        }
    };
    let options = Options {
        segment_bytes: config.segment_bytes,
        archive: match config.archive {
            Archive::Keep => escrow_journal::Archive::Keep,
            Archive::Compress => escrow_journal::Archive::Compress,
            Archive::Delete => escrow_journal::Archive::Delete,
        },
        ..Options::new(dir.join("journal"))
    };
    let (journal, opened) = Journal::open(Arc::clone(disk), options, Index(checkpoint_index + 1))?;
    if let Some(torn) = &opened.torn {
        tracing::info!(
            bytes = torn.bytes,
            index = torn.index.get(),
            "the log ended in a torn write, cut off"
        );
    }
    let mut applied = checkpoint_index;
    let mut told = Instant::now();
    if opened.last.get() > checkpoint_index {
        for entry in journal.read_from(Index(checkpoint_index + 1))? {
            let entry = entry?;
            let index = entry.index.get();
            if entry.group != GROUP {
                let why = format!("it belongs to group {}, not to a coordinator", entry.group.0);
                return Err(CoordinatorError::Entry { index, why });
            }
            let decoded = Entry::decode(&entry.payload)
                .map_err(|error| CoordinatorError::Entry { index, why: error.to_string() })?;
            machine.apply_entry(&decoded);
            applied = index;
            if told.elapsed() >= Duration::from_secs(2) {
                told = Instant::now();
                tracing::info!(index, last = opened.last.get(), "replaying the log");
            }
        }
    }
    tracing::info!(
        checkpoint = checkpoint_index,
        applied,
        unfinished = machine.live().len(),
        ms = started.elapsed().as_millis() as u64,
        "recovered"
    );
    Ok(Recovered { machine, window, journal, applied, checkpointed: checkpoint_index })
}

/// A checkpoint that cannot be used is kept for whoever wants to know why, under another name.
fn set_checkpoint_aside(disk: &dyn Disk, dir: &Path, why: &str) -> Result<(), CoordinatorError> {
    let (from, to) = (dir.join("checkpoint"), dir.join("checkpoint.corrupt"));
    tracing::warn!(why, kept = %to.display(), "the checkpoint cannot be used; the whole log is replayed");
    let aside = disk.rename(&from, &to).and_then(|()| disk.sync_dir(dir));
    aside.map_err(|source| CoordinatorError::File { path: from, source })
}

fn load(
    disk: &Arc<dyn Disk>,
    config: &Config,
    checkpoint: &Checkpoint,
) -> Result<(Machine, IdempotencyWindow), String> {
    let machine = match checkpoint.index {
        0 => Machine::new(),
        _ => Machine::from_checkpoint(&checkpoint.machine).map_err(|error| error.to_string())?,
    };
    let window = IdempotencyWindow::open(disk, &config.data_dir, &checkpoint.runs);
    Ok((machine, window.map_err(|error| format!("runs: {error}"))?))
}

fn new_driver(config: &Config, machine: Machine) -> Driver {
    let kind = |kind| if kind == ParticipantKind::Stream { LinkKind::Stream } else { LinkKind::Unary };
    let participants: Vec<(ParticipantId, LinkKind)> = config
        .participants
        .iter()
        .map(|participant| (ParticipantId(participant.id), kind(participant.kind)))
        .collect();
    let shards =
        participants.iter().filter(|(_, kind)| *kind == LinkKind::Stream).map(|&(id, _)| id).collect();
    let limits = escrow_tcc::driver::Config {
        partition: Partition(config.partition),
        in_flight_max: config.in_flight_max,
        per_participant_max: (config.in_flight_max / 4 * 3).max(1),
        default_timeout_ms: config.default_timeout_ms,
        default_hold_ms: config.default_hold_ms,
        idempotency_window_ms: config.idempotency_window_ms,
        in_doubt_after_ms: config.in_doubt_after_ms,
        ..escrow_tcc::driver::Config::default()
    };
    Driver::new(limits, Routing::new(shards), participants, machine, Box::new(Delays))
}

/// The new epoch is durable before any message bears it.
fn open_epoch(driver: &mut Driver, journal: &Journal, applied: u64) -> Result<u64, CoordinatorError> {
    let entry = Entry { time_ms: now_ms(), commands: vec![driver.open_epoch()] };
    let index = journal.append(GROUP, entry.encode())?;
    journal.wait_durable(index)?;
    assert_eq!(index.get(), applied + 1, "the log has no other writer");
    driver.applied(&entry);
    driver.recover();
    Ok(index.get())
}
