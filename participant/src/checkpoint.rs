//! The checkpoint thread: the only one that writes views. Owners hand it copies of what changed and go on.
//!
//! After each write the log is trimmed up to what every shard's view has, unless a verification holds that back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use escrow_journal::storage::Disk;
use escrow_journal::{Index, Journal};
use escrow_wallet::Changes;
use tokio::sync::mpsc::{
    UnboundedReceiver as Receiver, UnboundedSender as Sender, unbounded_channel as channel,
};
use tokio::sync::oneshot;

use crate::error::ParticipantError;
use crate::ground::WriteCheckpoints;
use crate::identity::Identity;
use crate::snapshot;
use crate::store::{Held, Meta, View};

/// The index that a checkpoint made durable, or the final failure.
pub(crate) type Done = Result<u64, ParticipantError>;

/// Hears of a file that was made, and the position that it is of.
pub(crate) type TellExported = Box<dyn FnOnce(Result<Vec<u8>, ParticipantError>) + Send>;

enum Work {
    Write {
        shard: u16,
        changes: Option<Changes>,
        applied: u64,
        position: Vec<u8>,
        done: oneshot::Sender<Done>,
    },
    Read {
        shard: u16,
        done: oneshot::Sender<Result<Held, ParticipantError>>,
    },
    Export {
        shard: u16,
        path: PathBuf,
        tell: TellExported,
    },
    Install {
        shard: u16,
        path: PathBuf,
        position: Vec<u8>,
        done: oneshot::Sender<Result<Held, ParticipantError>>,
    },
    End,
}

/// Reaches the checkpoint thread. Clones reach the same one.
#[derive(Clone)]
pub(crate) struct Checkpointer {
    work: Sender<Work>,
    holds: Arc<AtomicUsize>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

/// While it lives, nothing is trimmed.
pub(crate) struct TrimHold(Arc<AtomicUsize>);

impl Drop for TrimHold {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Checkpointer {
    /// Hands the work to whoever writes. `views` are open, each with the index that it has.
    pub(crate) fn start(
        views: BTreeMap<u16, (Box<dyn View>, u64)>,
        journal: Journal,
        disk: Arc<dyn Disk>,
        identity: Arc<Identity>,
        write: WriteCheckpoints,
    ) -> Result<Self, ParticipantError> {
        let (this, work) = Self::stepped(views, journal, disk, identity);
        *this.thread.lock().expect("nothing panics while it is held") = write(work)?;
        Ok(this)
    }

    /// Without a thread: nothing is written until the work is stepped.
    pub(crate) fn stepped(
        views: BTreeMap<u16, (Box<dyn View>, u64)>,
        journal: Journal,
        disk: Arc<dyn Disk>,
        identity: Arc<Identity>,
    ) -> (Self, Checkpoints) {
        let (work, queue) = channel();
        let holds = Arc::new(AtomicUsize::new(0));
        let checkpoints = Checkpoints { queue, views, journal, disk, identity, holds: Arc::clone(&holds) };
        (Self { work, holds, thread: Arc::default() }, checkpoints)
    }

    /// Queues a checkpoint. A receiver that fails means that the thread is gone.
    pub(crate) fn write(
        &self,
        shard: u16,
        changes: Option<Changes>,
        applied: u64,
        position: Vec<u8>,
    ) -> oneshot::Receiver<Done> {
        let (done, receiver) = oneshot::channel();
        // If the thread is gone, `done` is dropped with the message and the receiver says so.
        let _ = self.work.send(Work::Write { shard, changes, applied, position, done });
        receiver
    }

    /// Writes the view of a shard to a file; tells the position that it is of, on the checkpoint thread.
    pub(crate) fn export(&self, shard: u16, path: PathBuf, tell: TellExported) {
        let _ = self.work.send(Work::Export { shard, path, tell });
    }

    /// Replaces the view of a shard by a snapshot, which is taken away then; gives what it holds.
    pub(crate) fn install(
        &self,
        shard: u16,
        path: PathBuf,
        position: Vec<u8>,
    ) -> oneshot::Receiver<Result<Held, ParticipantError>> {
        let (done, receiver) = oneshot::channel();
        let _ = self.work.send(Work::Install { shard, path, position, done });
        receiver
    }

    /// Reads the view of a shard as it is.
    pub(crate) async fn read(&self, shard: u16) -> Result<Held, ParticipantError> {
        let (done, receiver) = oneshot::channel();
        let _ = self.work.send(Work::Read { shard, done });
        receiver.await.unwrap_or(Err(ParticipantError::Ended("the checkpoint thread")))
    }

    /// Keeps the log as it is for as long as the hold lives.
    pub(crate) fn hold_trimming(&self) -> TrimHold {
        self.holds.fetch_add(1, Ordering::SeqCst);
        TrimHold(Arc::clone(&self.holds))
    }

    /// Ends the thread after what is queued, and closes the views. Blocks.
    pub(crate) fn end(&self) {
        let _ = self.work.send(Work::End);
        let thread = self.thread.lock().expect("nothing panics while it is held").take();
        if let Some(thread) = thread {
            // A panic of the thread was told to the owners by the channels that it dropped.
            let _ = thread.join();
        }
    }
}

/// What the thread does.
pub struct Checkpoints {
    queue: Receiver<Work>,
    views: BTreeMap<u16, (Box<dyn View>, u64)>,
    journal: Journal,
    disk: Arc<dyn Disk>,
    identity: Arc<Identity>,
    holds: Arc<AtomicUsize>,
}

impl Checkpoints {
    /// Writes them on a thread of its own until the participant ends.
    pub(crate) fn on_a_thread(mut self) -> Result<JoinHandle<()>, ParticipantError> {
        let run = move || while self.queue.blocking_recv().is_some_and(|work| self.serve(work)) {};
        let thread = std::thread::Builder::new().name("checkpoint".into()).spawn(run);
        thread.map_err(ParticipantError::file("the checkpoint thread"))
    }

    /// Writes the next one: for a task in the place of the thread. False when the participant ends.
    pub async fn write_next(&mut self) -> bool {
        let work = self.queue.recv().await;
        work.is_some_and(|work| self.serve(work))
    }

    /// Does one piece of work, if there is one; whether there was.
    pub(crate) fn step(&mut self) -> bool {
        self.queue.try_recv().is_ok_and(|work| self.serve(work))
    }

    /// Whether there is work.
    pub(crate) fn has_work(&self) -> bool {
        !self.queue.is_empty()
    }

    fn serve(&mut self, work: Work) -> bool {
        match work {
            Work::Write { shard, changes, applied, position, done } => {
                let result = self.write(shard, changes.as_ref(), applied, position);
                // An owner that is gone does not need it.
                let _ = done.send(result);
            }
            Work::Read { shard, done } => {
                let (view, _) = self.views.get(&shard).expect("owners name their own shards");
                let _ = done.send(view.read());
            }
            Work::Export { shard, path, tell } => tell(self.export(shard, &path)),
            Work::Install { shard, path, position, done } => {
                let _ = done.send(self.install(shard, &path, position));
            }
            Work::End => return false,
        }
        true
    }

    fn export(&self, shard: u16, path: &Path) -> Result<Vec<u8>, ParticipantError> {
        let (view, _) = self.views.get(&shard).expect("owners name their own shards");
        let meta = view.meta()?;
        snapshot::write(&*self.disk, path, &**view, &meta)?;
        Ok(meta.position)
    }

    fn install(&mut self, shard: u16, path: &Path, position: Vec<u8>) -> Result<Held, ParticipantError> {
        let cluster_id = self.identity.cluster_id();
        let (view, checkpointed) = self.views.get_mut(&shard).expect("owners name their own shards");
        let held = crate::replicated::install(&*self.disk, path, shard, cluster_id, position, &**view)?;
        *checkpointed = held.applied;
        Ok(held)
    }

    fn write(&mut self, shard: u16, changes: Option<&Changes>, applied: u64, position: Vec<u8>) -> Done {
        let is_replica = !position.is_empty();
        let started = Instant::now();
        let cluster_id = self.identity.cluster_id();
        let (view, checkpointed) = self.views.get_mut(&shard).expect("owners name their own shards");
        assert!(applied >= *checkpointed, "checkpoints go forwards");
        let written = view.write(changes, &Meta { shard, applied, cluster_id, position })?;
        *checkpointed = applied;
        let (records, files_synced) = (written.records, written.files_synced);
        let took_ms = started.elapsed().as_millis() as u64;
        tracing::info!(shard, applied, records, files_synced, took_ms, "checkpoint written");
        // A group's log gives up by itself what it does not need.
        if !is_replica && self.holds.load(Ordering::SeqCst) == 0 {
            let oldest = self.views.values().map(|(_, checkpointed)| *checkpointed).min().unwrap_or(0);
            self.journal.trim(Index(oldest));
        }
        Ok(applied)
    }
}
