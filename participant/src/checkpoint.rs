//! The checkpoint thread: the only one that writes views. Owners hand it copies of what changed and go on.
//!
//! After each write the log is trimmed up to what every shard's view has, unless a verification holds that back.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use escrow_journal::{Index, Journal};
use escrow_wallet::{Changes, Wallet};
use tokio::sync::mpsc::{
    UnboundedReceiver as Receiver, UnboundedSender as Sender, unbounded_channel as channel,
};
use tokio::sync::oneshot;

use crate::error::ParticipantError;
use crate::ground::WriteCheckpoints;
use crate::identity::Identity;
use crate::store::{Meta, View};

/// The index that a checkpoint made durable, or the final failure.
pub(crate) type Done = Result<u64, ParticipantError>;

enum Work {
    Write { shard: u16, changes: Option<Changes>, applied: u64, done: oneshot::Sender<Done> },
    Read { shard: u16, done: oneshot::Sender<Result<(Wallet, u64), ParticipantError>> },
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
        identity: Arc<Identity>,
        write: WriteCheckpoints,
    ) -> Result<Self, ParticipantError> {
        let (this, work) = Self::stepped(views, journal, identity);
        *this.thread.lock().expect("nothing panics while it is held") = write(work)?;
        Ok(this)
    }

    /// Without a thread: nothing is written until the work is stepped.
    pub(crate) fn stepped(
        views: BTreeMap<u16, (Box<dyn View>, u64)>,
        journal: Journal,
        identity: Arc<Identity>,
    ) -> (Self, Checkpoints) {
        let (work, queue) = channel();
        let holds = Arc::new(AtomicUsize::new(0));
        let checkpoints = Checkpoints { queue, views, journal, identity, holds: Arc::clone(&holds) };
        (Self { work, holds, thread: Arc::default() }, checkpoints)
    }

    /// Queues a checkpoint. A receiver that fails means that the thread is gone.
    pub(crate) fn write(
        &self,
        shard: u16,
        changes: Option<Changes>,
        applied: u64,
    ) -> oneshot::Receiver<Done> {
        let (done, receiver) = oneshot::channel();
        // If the thread is gone, `done` is dropped with the message and the receiver says so.
        let _ = self.work.send(Work::Write { shard, changes, applied, done });
        receiver
    }

    /// Reads the view of a shard as it is: the wallet, and the index that it is of.
    pub(crate) async fn read(&self, shard: u16) -> Result<(Wallet, u64), ParticipantError> {
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

    fn serve(&mut self, work: Work) -> bool {
        match work {
            Work::Write { shard, changes, applied, done } => {
                let result = self.write(shard, changes.as_ref(), applied);
                // An owner that is gone does not need it.
                let _ = done.send(result);
            }
            Work::Read { shard, done } => {
                let (view, _) = self.views.get(&shard).expect("owners name their own shards");
                let _ = done.send(view.read());
            }
            Work::End => return false,
        }
        true
    }

    fn write(&mut self, shard: u16, changes: Option<&Changes>, applied: u64) -> Done {
        let started = Instant::now();
        let cluster_id = self.identity.cluster_id();
        let (view, checkpointed) = self.views.get_mut(&shard).expect("owners name their own shards");
        let written = view.write(changes, &Meta { shard, applied, cluster_id })?;
        assert!(applied >= *checkpointed, "checkpoints go forwards");
        *checkpointed = applied;
        let (records, files_synced) = (written.records, written.files_synced);
        let took_ms = started.elapsed().as_millis() as u64;
        tracing::info!(shard, applied, records, files_synced, took_ms, "checkpoint written");
        if self.holds.load(Ordering::SeqCst) == 0 {
            let oldest = self.views.values().map(|(_, checkpointed)| *checkpointed).min().unwrap_or(0);
            self.journal.trim(Index(oldest));
        }
        Ok(applied)
    }
}
