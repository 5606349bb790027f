//! What a participant stands on: disk, views, clock, and where blocking work is done. A simulation has its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;

use escrow_grpc::Connector;
use escrow_journal::storage::{Disk, OsDisk};
use escrow_journal::{Journal, JournalError, Steps};
use escrow_replica::Transport;
use escrow_replica::grpc::Grpc;
use escrow_types::Millis;
use tokio::sync::oneshot;

pub use crate::checkpoint::Checkpoints;
use crate::config::Config;
use crate::error::ParticipantError;
use crate::identity::Identity;
use crate::owner::now_ms;
use crate::store::{Held, MemoryView, Store, View};

/// Tells the time, Unix milliseconds.
pub type Clock = Arc<dyn Fn() -> Millis + Send + Sync>;

/// A piece of work that blocks.
pub type Job = Box<dyn FnOnce() + Send>;

/// Runs jobs that block, beside everything else. One that is dropped is one that a crash cut off.
pub type Background = Arc<dyn Fn(Job) + Send + Sync>;

/// Sees to it that what is appended to a journal is written: threads, or a task that steps it.
pub type WriteJournal = Box<dyn FnOnce(&Journal, Steps) -> Result<(), JournalError> + Send>;

/// Sees to it that checkpoints are written; gives the thread that does it, if there is one.
pub type WriteCheckpoints =
    Box<dyn FnOnce(Checkpoints) -> Result<Option<JoinHandle<()>>, ParticipantError> + Send>;

/// Where shards keep their state between checkpoints.
pub enum Views {
    /// In sled, in the data directory.
    Sled,
    /// In memory; one for each shard.
    Memory(BTreeMap<u16, MemoryView>),
}

/// See the module.
pub struct Ground {
    /// Where the data directory is.
    pub disk: Arc<dyn Disk>,
    /// Where the views are.
    pub views: Views,
    /// The one clock.
    pub clock: Clock,
    /// Who writes the log.
    pub journal: WriteJournal,
    /// Who writes checkpoints.
    pub checkpoints: WriteCheckpoints,
    /// Who does everything else that blocks.
    pub background: Background,
    /// How other replicas are reached.
    pub transport: Arc<dyn Transport>,
}

impl Ground {
    /// The machine: files, sled, the wall clock, threads.
    pub fn real() -> Self {
        Self {
            disk: OsDisk::shared(),
            views: Views::Sled,
            clock: Arc::new(now_ms),
            journal: Box::new(Journal::start),
            checkpoints: Box::new(|checkpoints| checkpoints.on_a_thread().map(Some)),
            background: Arc::new(|job| drop(tokio::task::spawn_blocking(job))),
            transport: Arc::new(Grpc::new(Connector::tcp())),
        }
    }
}

impl Views {
    /// Opens the view of a shard: it, and what it holds. Blocks.
    pub(crate) fn open(
        &self,
        config: &Config,
        identity: &Identity,
        shard: u16,
    ) -> Result<(Box<dyn View>, Held), ParticipantError> {
        match self {
            Self::Sled => {
                let dir = config.data_dir.join(format!("shard-{shard}"));
                let cluster_id = identity.cluster_id();
                let (store, held) = Store::open(&dir, shard, cluster_id.as_deref(), config.sled_cache_bytes)?;
                Ok((Box::new(store), held))
            }
            Self::Memory(views) => {
                let view = views.get(&shard).expect("a view for each shard").clone();
                let held = view.read()?;
                Ok((Box::new(view), held))
            }
        }
    }
}

/// Does something that blocks in the background; `None` if it was cut off, or panicked.
pub(crate) async fn on<T: Send + 'static>(
    background: &Background,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (done, result) = oneshot::channel();
    // Whoever waits may have gone; the work is done all the same.
    background(Box::new(move || drop(done.send(work()))));
    result.await.ok()
}
