//! The checkpoint thread: the only one that writes views. Owners hand it copies of what changed, part by part, and go on.
//!
//! At most [`PARTS_MAX`] parts of a checkpoint wait for the thread: an owner copies no faster than they are written.
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
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::error::ParticipantError;
use crate::ground::WriteCheckpoints;
use crate::identity::Identity;
use crate::snapshot;
use crate::store::{Held, Meta, View, Written};

/// What a checkpoint made durable, or the final failure.
pub(crate) type Done = Result<Checkpointed, ParticipantError>;

/// A checkpoint that is durable.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Checkpointed {
    /// The index that it includes.
    pub(crate) applied: u64,
    /// Of records that it wrote.
    pub(crate) bytes: u64,
}

/// Hears of a file that was made, and the position that it is of.
pub(crate) type TellExported = Box<dyn FnOnce(Result<Vec<u8>, ParticipantError>) + Send>;

/// Parts of one checkpoint that wait for the thread.
const PARTS_MAX: usize = 4;

/// That one more part may be handed over.
pub(crate) type Room = OwnedSemaphorePermit;

enum Work {
    Begin {
        shard: u16,
        applied: u64,
        position: Vec<u8>,
    },
    Add {
        shard: u16,
        changes: Changes,
        /// Given back when it is written.
        room: Option<Room>,
    },
    Commit {
        shard: u16,
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

/// A checkpoint that is being handed over. One that is dropped is forgotten when the next one begins.
pub(crate) struct Writing {
    shard: u16,
    work: Sender<Work>,
    room: Arc<Semaphore>,
}

impl Writing {
    /// Whether there is room for one more part now.
    pub(crate) fn has_room(&self) -> bool {
        self.room.available_permits() > 0
    }

    /// Waits until one more part may be handed over. Safe to cancel.
    pub(crate) async fn room(&self) -> Room {
        let room = Arc::clone(&self.room).acquire_owned().await;
        room.expect("nobody closes it")
    }

    /// Room for one more part, if there is any now.
    pub(crate) fn try_room(&self) -> Option<Room> {
        Arc::clone(&self.room).try_acquire_owned().ok()
    }

    /// Hands a part over; the first one needs no room.
    pub(crate) fn add(&self, changes: Changes, room: Option<Room>) {
        // If the thread is gone, whoever commits is told.
        let _ = self.work.send(Work::Add { shard: self.shard, changes, room });
    }

    /// All parts were handed over. A receiver that fails means that the thread is gone.
    pub(crate) fn commit(self) -> oneshot::Receiver<Done> {
        let (done, receiver) = oneshot::channel();
        // If the thread is gone, `done` is dropped with the message and the receiver says so.
        let _ = self.work.send(Work::Commit { shard: self.shard, done });
        receiver
    }
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
        let begun = BTreeMap::new();
        let checkpoints =
            Checkpoints { queue, views, journal, disk, identity, holds: Arc::clone(&holds), begun };
        (Self { work, holds, thread: Arc::default() }, checkpoints)
    }

    /// Begins a checkpoint of a shard, that leads to an index.
    pub(crate) fn begin(&self, shard: u16, applied: u64, position: Vec<u8>) -> Writing {
        // If the thread is gone, whoever commits is told.
        let _ = self.work.send(Work::Begin { shard, applied, position });
        Writing { shard, work: self.work.clone(), room: Arc::new(Semaphore::new(PARTS_MAX)) }
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
    /// Checkpoints of which parts may still come.
    begun: BTreeMap<u16, Begun>,
}

/// A checkpoint that was begun.
struct Begun {
    applied: u64,
    is_replica: bool,
    started: Instant,
    /// Told when it is committed.
    failed: Option<ParticipantError>,
}

impl Checkpoints {
    /// Writes them on a thread of its own until the participant ends.
    pub(crate) fn on_a_thread(mut self) -> Result<JoinHandle<()>, ParticipantError> {
        let run = move || {
            escrow_journal::background::step_back();
            while self.queue.blocking_recv().is_some_and(|work| self.serve(work)) {}
        };
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
            Work::Begin { shard, applied, position } => self.begin(shard, applied, position),
            Work::Add { shard, changes, room } => {
                self.add(shard, &changes);
                drop(room);
            }
            Work::Commit { shard, done } => {
                let result = self.commit(shard);
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
        // What was begun is of the state that is replaced; its owner has given it up.
        self.begun.remove(&shard);
        let held = crate::replicated::install(&*self.disk, path, shard, cluster_id, position, &mut **view)?;
        *checkpointed = held.applied;
        Ok(held)
    }

    fn begin(&mut self, shard: u16, applied: u64, position: Vec<u8>) {
        let (is_replica, started) = (!position.is_empty(), Instant::now());
        let meta = Meta { shard, applied, cluster_id: self.identity.cluster_id(), position };
        let (view, _) = self.views.get_mut(&shard).expect("owners name their own shards");
        let failed = view.begin(&meta).err();
        self.begun.insert(shard, Begun { applied, is_replica, started, failed });
    }

    fn add(&mut self, shard: u16, changes: &Changes) {
        let begun = self.begun.get_mut(&shard).expect("a part follows the beginning");
        if begun.failed.is_none() {
            let (view, _) = self.views.get_mut(&shard).expect("owners name their own shards");
            begun.failed = view.add(changes).err();
        }
    }

    fn commit(&mut self, shard: u16) -> Done {
        let begun = self.begun.remove(&shard).expect("what is committed was begun");
        let Begun { applied, is_replica, started, failed } = begun;
        failed.map_or(Ok(()), Err)?;
        let (view, checkpointed) = self.views.get_mut(&shard).expect("owners name their own shards");
        assert!(applied >= *checkpointed, "checkpoints go forwards");
        let written = view.commit()?;
        *checkpointed = applied;
        let Written { records, bytes, files_synced } = written;
        let took_ms = started.elapsed().as_millis() as u64;
        tracing::info!(shard, applied, records, bytes, files_synced, took_ms, "checkpoint written");
        // A group's log gives up by itself what it does not need.
        if !is_replica && self.holds.load(Ordering::SeqCst) == 0 {
            let oldest = self.views.values().map(|(_, checkpointed)| *checkpointed).min().unwrap_or(0);
            self.journal.trim(Index(oldest));
        }
        Ok(Checkpointed { applied, bytes })
    }
}
