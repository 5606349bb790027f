//! Starting and stopping: recovery is the only way to start.
//!
//! [`Server::bind`]: lock the directory, load the newest checkpoint, replay the log after it, open a new epoch (durably), and
//! listen. [`Server::run`]: drive every unfinished transaction, serve, and stop when told; see [`crate::unbound`].

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use escrow_journal::storage::{Disk, LockGuard};
use escrow_journal::{Index, Journal, Options, Steps};
use escrow_replica::{GroupLog, Position};
use escrow_service::progress::Progress;
use escrow_tcc::driver::{LinkKind, RetryDelays};
use escrow_tcc::{Driver, Entry, Machine};
use escrow_types::{Millis, ParticipantId, Partition};
use tokio::net::TcpListener;

use crate::config::{Archive, Config, ParticipantKind};
use crate::error::CoordinatorError;
use crate::ground::Ground;
use crate::owner::GROUP;
use crate::replicated;
use crate::store::{Checkpoint, IdempotencyWindow, Identity};
use crate::unbound::Unbound;

/// A coordinator that has recovered and listens, but does not serve yet.
pub struct Server {
    listener: TcpListener,
    local_addr: SocketAddr,
    unbound: Unbound,
}

/// A data directory that is open and recovered, with an epoch of its own.
pub(crate) struct Opened {
    pub(crate) config: Arc<Config>,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) identity: Identity,
    pub(crate) driver: Driver,
    pub(crate) window: IdempotencyWindow,
    pub(crate) journal: Journal,
    /// Whoever runs the coordinator starts threads with it, or steps it.
    pub(crate) steps: Option<Steps>,
    pub(crate) applied: u64,
    pub(crate) checkpointed: u64,
    /// If the partition is replicated.
    pub(crate) replica: Option<Recovery>,
    pub(crate) lock: Box<dyn LockGuard>,
}

/// What recovery found.
pub(crate) struct Recovered {
    pub(crate) machine: Machine,
    pub(crate) window: IdempotencyWindow,
    pub(crate) journal: Journal,
    pub(crate) steps: Steps,
    pub(crate) applied: u64,
    pub(crate) checkpointed: u64,
    pub(crate) replica: Option<Recovery>,
}

/// What a replica goes on with.
pub(crate) struct Recovery {
    pub(crate) log: GroupLog,
    /// Where the machine is in it.
    pub(crate) position: Position,
    /// Where the checkpoint is.
    pub(crate) checkpointed: Position,
    /// The journal's id: it must be the one of before.
    pub(crate) journal_id: u128,
}

impl Opened {
    /// Locks the directory, recovers, and makes a new epoch durable. Blocks.
    pub(crate) fn open(
        config: Config,
        disk: Arc<dyn Disk>,
        delays: Box<dyn RetryDelays + Send>,
        clock: impl Fn() -> Millis,
    ) -> Result<Self, CoordinatorError> {
        let dir = config.data_dir.clone();
        let file_error = |source| CoordinatorError::File { path: dir.clone(), source };
        disk.create_dir_all(&dir).map_err(file_error)?;
        let lock = disk.lock(&dir.join("lock")).map_err(|error| match error.kind() {
            std::io::ErrorKind::WouldBlock => CoordinatorError::InUse(dir.clone()),
            _ => file_error(error),
        })?;
        let replication = config.replication.as_ref();
        let mut identity =
            Identity::open(&*disk, &dir, config.partition, config.cluster_id.as_deref(), replication)?;
        let Recovered { machine, window, journal, mut steps, applied, checkpointed, replica } =
            if config.replication.is_some() {
                replicated::recover(&disk, &config)?
            } else {
                recover(&disk, &config)?
            };
        if let Some(replica) = &replica {
            identity.confirm_journal(&*disk, &dir, replica.journal_id)?;
        }
        let mut driver = new_driver(&config, machine, delays);
        driver.machine_mut().make_room(crate::owner::ROWS_REMEMBERED_MAX);
        // A replica opens an epoch when it leads.
        let applied = match replica {
            None => open_epoch(&mut driver, &journal, &mut steps, applied, clock())?,
            Some(_) => applied,
        };
        let (config, steps) = (Arc::new(config), Some(steps));
        Ok(Self {
            config,
            disk,
            identity,
            driver,
            window,
            journal,
            steps,
            applied,
            checkpointed,
            replica,
            lock,
        })
    }
}

impl Server {
    /// Recovers and listens. On an error nothing was changed but what recovery itself repairs.
    pub async fn bind(config: Config) -> Result<Self, CoordinatorError> {
        let config = config.validated()?;
        let listener = escrow_service::bind(config.listen).await?;
        let local_addr = listener
            .local_addr()
            .map_err(|source| escrow_service::ListenError::Io { address: config.listen, source })?;
        let unbound = Unbound::open(config, Ground::real()).await?;
        Ok(Self { listener, local_addr, unbound })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Serves until `shutdown` resolves, then refuses new work, lets running transactions end within the drain time, writes a
    /// checkpoint and returns. What has not ended goes on at the next start.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), CoordinatorError> {
        tracing::info!(address = %self.local_addr, "listening");
        self.unbound.run(self.listener, shutdown).await
    }
}

/// Loads the newest checkpoint and replays the log after it.
fn recover(disk: &Arc<dyn Disk>, config: &Config) -> Result<Recovered, CoordinatorError> {
    let started = Instant::now();
    let (checkpoint, mut machine, window) = restore(disk, config)?;
    let checkpoint_index = checkpoint.index;
    let (journal, steps, opened) =
        Journal::open_stepped(Arc::clone(disk), journal_options(config), Index(checkpoint_index + 1))?;
    if let Some(torn) = &opened.torn {
        tracing::info!(
            bytes = torn.bytes,
            index = torn.index.get(),
            "the log ended in a torn write, cut off"
        );
    }
    let mut applied = checkpoint_index;
    let mut progress = Progress::new("replay of the log", opened.last.get());
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
            progress.note(index, entry.payload.len());
        }
    }
    progress.end();
    tracing::info!(
        checkpoint = checkpoint_index,
        applied,
        unfinished = machine.live().len(),
        ms = started.elapsed().as_millis() as u64,
        "recovered"
    );
    let (checkpointed, replica) = (checkpoint_index, None);
    Ok(Recovered { machine, window, journal, steps, applied, checkpointed, replica })
}

/// The newest checkpoint that can be used, and the state that it holds; an empty one if there is none.
pub(crate) fn restore(
    disk: &Arc<dyn Disk>,
    config: &Config,
) -> Result<(Checkpoint, Machine, IdempotencyWindow), CoordinatorError> {
    let dir = &config.data_dir;
    let checkpoint = match Checkpoint::read(&**disk, dir) {
        Ok(checkpoint) => checkpoint.unwrap_or_default(),
        Err(why) => {
            set_checkpoint_aside(&**disk, dir, &why)?;
            Checkpoint::default()
        }
    };
    match load(disk, config, &checkpoint) {
        Ok((machine, window)) => Ok((checkpoint, machine, window)),
        Err(why) => {
            set_checkpoint_aside(&**disk, dir, &why)?;
            let window = IdempotencyWindow::open(disk, dir, &[])
                .map_err(|source| CoordinatorError::File { path: dir.join("runs"), source })?;
            Ok((Checkpoint::default(), Machine::new(), window))
        }
    }
}

pub(crate) fn journal_options(config: &Config) -> Options {
    let archive = match config.archive {
        Archive::Keep => escrow_journal::Archive::Keep,
        Archive::Compress => escrow_journal::Archive::Compress,
        Archive::Delete => escrow_journal::Archive::Delete,
    };
    Options { segment_bytes: config.segment_bytes, archive, ..Options::new(config.data_dir.join("journal")) }
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

fn new_driver(config: &Config, machine: Machine, delays: Box<dyn RetryDelays + Send>) -> Driver {
    let kind = |kind| if kind == ParticipantKind::Stream { LinkKind::Stream } else { LinkKind::Unary };
    let participants: Vec<(ParticipantId, LinkKind)> = config
        .participants
        .iter()
        .map(|participant| (ParticipantId(participant.id), kind(participant.kind)))
        .collect();
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
    Driver::new(
        limits,
        config.routing().expect("the configuration was checked"),
        participants,
        machine,
        delays,
    )
}

/// The new epoch is durable before any message bears it.
fn open_epoch(
    driver: &mut Driver,
    journal: &Journal,
    steps: &mut Steps,
    applied: u64,
    now: Millis,
) -> Result<u64, CoordinatorError> {
    let entry = Entry { time_ms: now, commands: vec![driver.open_epoch()] };
    let index = journal.append(GROUP, entry.encode())?;
    steps.write();
    journal.check()?;
    assert!(index.get() == applied + 1 && journal.durable() == index, "the log has no other writer");
    driver.applied(&entry);
    driver.recover();
    Ok(index.get())
}
