//! The owner of one shard: the only task that touches its wallet.
//!
//! ```text
//! mailbox ─ recv_many ─▶ one log entry ─▶ journal ─ durable ─▶ apply in order ─▶ answers
//!    ▲                       (kept decoded meanwhile)               │
//!    └── permits are given back with the answers ◀──────────────────┘
//! ```
//! No timers and no linger: an entry is what arrived since the last turn; the journal gathers entries while it writes. A small one
//! is written by the owner itself while there is nothing else to do.
//! Reads are answered from applied state. Where the shard is a replica, a group stands in the journal's place: see [`seat`].

mod checkpointing;
mod mailbox;
mod reads;
mod seat;

use std::collections::VecDeque;
use std::time::Duration;

use escrow_invariants::{Canary, canary};
use escrow_journal::{Group, Index, Journal, JournalFailure};
use escrow_types::Millis;
use escrow_wallet::{Entry, Wallet};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use crate::checkpoint::Checkpointer;
use crate::error::ParticipantError;
use crate::failpoint;
use checkpointing::{Checkpoint, Copying, Due, room, wait};
pub(crate) use mailbox::{Handle, Reached, ReadBounds, Refused, Submission, View};
use mailbox::{Job, Limits};
pub(crate) use seat::Seat;

/// Jobs taken in one turn.
const TURN_JOBS_MAX: usize = 4_096;

/// An entry is closed when it has grown to this size, if a single command does not make it larger.
const ENTRY_BYTES: usize = 8 << 20;

/// An entry of some hundred rows.
const HERE_BYTES_MAX: usize = 8 << 10;
/// A disk that takes so long for one is slow: reads and pings should not wait for it.
const HERE_MAX: Duration = Duration::from_millis(1);
/// So many entries go to the log's own thread then, before this one tries again.
const ELSEWHERE_AFTER_SLOW: u32 = 100;

/// The wall clock, Unix milliseconds. It reaches the wallet as data of an entry only.
pub(crate) fn now_ms() -> Millis {
    escrow_service::clock::now_ms()
}

/// How far the journal is durable, or how it failed.
#[derive(Debug, Clone)]
pub(crate) struct Progress {
    pub(crate) durable: u64,
    pub(crate) failure: Option<JournalFailure>,
}

impl Progress {
    /// Follows a journal that is durable up to `last`.
    pub(crate) fn of(journal: &Journal, last: u64) -> watch::Receiver<Self> {
        let (sender, progress) = watch::channel(Self { durable: last, failure: None });
        journal.on_durable(Box::new(move |outcome| {
            sender.send_modify(|progress| match outcome {
                Ok(index) => progress.durable = index.get(),
                Err(failure) => progress.failure = Some(failure),
            });
        }));
        progress
    }
}

/// Tells the time, Unix milliseconds. [`now_ms`], unless a simulation has a clock of its own.
pub(crate) type Clock = Box<dyn Fn() -> Millis + Send>;

/// What an owner needs to begin.
pub(crate) struct Start {
    pub(crate) shard: u16,
    /// Whether there is no other shard in this process.
    pub(crate) is_only: bool,
    pub(crate) clock: Clock,
    pub(crate) wallet: Wallet,
    /// All entries of the log up to here are applied.
    pub(crate) applied: u64,
    /// The view has them up to here.
    pub(crate) checkpointed: u64,
    pub(crate) journal: Journal,
    pub(crate) progress: watch::Receiver<Progress>,
    pub(crate) checkpointer: Checkpointer,
    pub(crate) checkpoint_interval: Duration,
    pub(crate) checkpoint_bytes: u64,
    /// Turns true when the owner is to finish what it has and end.
    pub(crate) stop: watch::Receiver<bool>,
    /// Its place in a group, if the shard is replicated.
    pub(crate) seat: Option<Seat>,
}

/// An entry that was appended, or proposed, and is not applied yet.
struct Pending {
    /// In the journal; without meaning for a replica.
    index: u64,
    time_ms: Millis,
    submissions: Vec<Submission>,
}

/// The task.
pub(crate) struct Owner {
    start: Start,
    jobs: mpsc::Receiver<Job>,
    /// An entry is closed before it outgrows this: [`ENTRY_BYTES`], or what fits into a smaller segment.
    entry_bytes_max: usize,
    pending: VecDeque<Pending>,
    /// So many entries go to the log's own thread, because the disk was slow.
    elsewhere: u32,
    /// When the next checkpoint is due by what was logged.
    due: Due,
    /// A checkpoint that has begun, and of which not everything was copied.
    copying: Option<Copying>,
    checkpoint_running: Option<Checkpoint>,
    seat: Option<Seat>,
    /// Reads that wait until an index is applied.
    reads: reads::Reads,
    /// The entry that is being applied: answers name it.
    reached: Reached,
    /// Snapshots that wait for a checkpoint.
    exports: Vec<seat::Export>,
}

impl Owner {
    /// An owner, and the handle by which others reach it. `bytes_replayed` counts towards the next checkpoint.
    pub(crate) fn new(
        mut start: Start,
        commands_max: usize,
        bytes_max: usize,
        bytes_replayed: u64,
    ) -> (Self, Handle) {
        let seat = start.seat.take();
        // A group wraps an entry once more.
        let wrapping = if seat.is_some() { 1_024 } else { 0 };
        let payload_bytes_max = start.journal.payload_bytes_max() - wrapping;
        let group = seat.as_ref().map(|seat| (seat.replica.clone(), seat.serving()));
        let reached = Reached::new(start.applied);
        let limits = Limits { commands: commands_max, bytes: bytes_max, payload_bytes: payload_bytes_max };
        // The log of a group is kept in memory until a checkpoint.
        let due = Due::new(start.checkpoint_bytes, bytes_replayed, seat.is_none());
        let (handle, jobs) = Handle::new(start.shard, &limits, group, reached.clone());
        let owner = Self {
            seat,
            reads: reads::Reads::default(),
            reached,
            exports: Vec::new(),
            start,
            jobs,
            entry_bytes_max: ENTRY_BYTES.min(payload_bytes_max),
            pending: VecDeque::new(),
            elsewhere: 0,
            due,
            copying: None,
            checkpoint_running: None,
        };
        (owner, handle)
    }

    /// Runs until it is told to stop, or nobody can reach it any more; then finishes what it has, with a last checkpoint.
    pub(crate) async fn run(mut self) -> Result<(), ParticipantError> {
        let mut jobs = Vec::with_capacity(TURN_JOBS_MAX);
        let (mut open, mut stopping) = (true, false);
        // One timer for the owner's life, so that turns do not set any.
        let mut checkpoint_due = std::pin::pin!(sleep(self.start.checkpoint_interval));
        while open || !self.pending.is_empty() {
            let mut is_due = false;
            tokio::select! {
                biased;
                changed = self.start.progress.changed() => {
                    changed.map_err(|_| ParticipantError::Ended("the journal"))?;
                    self.apply_durable()?;
                }
                event = seat::next(self.seat.as_mut()) => self.take(event)?,
                count = self.jobs.recv_many(&mut jobs, TURN_JOBS_MAX), if open => {
                    open = count > 0;
                    self.turn(&mut jobs)?;
                }
                () = stopped(&mut self.start.stop), if !stopping => {
                    stopping = true;
                    self.jobs.close();
                    // Whoever still waits was given the time to hear from another leader.
                    self.step_down();
                }
                done = wait(&mut self.checkpoint_running) => self.checkpointed(done)?,
                () = checkpoint_due.as_mut(), if !self.is_checkpointing() => is_due = true,
                room = room(self.copying.as_ref()) => self.copy(room),
            }
            // Also when there is always something else to do.
            self.try_copy();
            is_due |= self.due.is_due();
            if is_due && self.start_checkpoint() {
                checkpoint_due.as_mut().reset(Instant::now() + self.start.checkpoint_interval);
            }
        }
        self.end_checkpoint().await?;
        self.start_checkpoint();
        self.end_checkpoint().await
    }

    /// Logs the commands of a turn; answers its reads.
    fn turn(&mut self, jobs: &mut Vec<Job>) -> Result<(), ParticipantError> {
        let time_ms = (self.start.clock)();
        let mut payload = Vec::new();
        let mut submissions = Vec::new();
        for job in jobs.drain(..) {
            match job {
                Job::Read(read) => read.answer(&self.view()),
                Job::ReadAt(index, read) if index <= self.start.applied => read.answer(&self.view()),
                Job::ReadAt(index, read) => self.reads.push(index, read),
                Job::Command(submission) => {
                    if !submissions.is_empty()
                        && payload.len() + submission.command.bytes_estimate() > self.entry_bytes_max
                    {
                        self.append(time_ms, std::mem::take(&mut payload), std::mem::take(&mut submissions))?;
                    }
                    if submissions.is_empty() {
                        payload = self.start.journal.buffer();
                        Entry::begin(time_ms, &mut payload);
                    }
                    submission.command.encode(&mut payload);
                    submissions.push(submission);
                }
            }
        }
        if submissions.is_empty() { Ok(()) } else { self.append(time_ms, payload, submissions) }
    }

    fn append(
        &mut self,
        time_ms: Millis,
        payload: Vec<u8>,
        submissions: Vec<Submission>,
    ) -> Result<(), ParticipantError> {
        for submission in &submissions {
            failpoint::before_durable(&submission.command);
        }
        if self.seat.is_some() {
            // Without an answer if this replica does not lead: somebody else is asked then.
            if self.propose(payload) {
                if canary::is_on(Canary::AppliedBeforeCommitted) {
                    self.apply(Pending { index: 0, time_ms, submissions });
                    self.pending.push_back(Pending { index: 0, time_ms, submissions: Vec::new() });
                    return Ok(());
                }
                self.pending.push_back(Pending { index: 0, time_ms, submissions });
            }
            return Ok(());
        }
        self.due.logged(payload.len() as u64);
        let index = self.log(payload)?;
        if canary::is_on(Canary::AnswerBeforeDurable) {
            for submission in submissions {
                (submission.reply)(self.start.wallet.apply(time_ms, &submission.command));
            }
            return Ok(());
        }
        self.pending.push_back(Pending { index: index.get(), time_ms, submissions });
        Ok(())
    }

    /// Appends an entry: written on this thread if there is nothing else to do and it is small, because to wake another thread for it,
    /// and this one by it, takes half as long as a sync (docs/decisions/0025-a-small-entry-is-written-here.md).
    fn log(&mut self, payload: Vec<u8>) -> Result<Index, ParticipantError> {
        let (journal, group) = (&self.start.journal, Group(self.start.shard));
        // Shards of one process share its log, and their entries a sync.
        let is_alone = self.start.is_only && self.pending.is_empty() && self.jobs.is_empty();
        if !is_alone || payload.len() > HERE_BYTES_MAX || self.elsewhere > 0 {
            self.elsewhere = self.elsewhere.saturating_sub(1);
            return Ok(journal.append(group, payload)?);
        }
        let begun = std::time::Instant::now();
        let index = journal.append_here(group, payload)?;
        if begun.elapsed() > HERE_MAX {
            self.elsewhere = ELSEWHERE_AFTER_SLOW;
        }
        Ok(index)
    }

    /// Applies what is durable, in order, and lets the answers go.
    fn apply_durable(&mut self) -> Result<(), ParticipantError> {
        let progress = self.start.progress.borrow_and_update().clone();
        if self.seat.is_some() {
            // A group says what is committed; of the journal only its failure matters here.
            return progress.failure.map_or(Ok(()), |failure| Err(failure.into()));
        }
        while self.pending.front().is_some_and(|entry| entry.index <= progress.durable) {
            let entry = self.pending.pop_front().expect("just seen");
            self.reached.set(entry.index);
            self.apply(entry);
        }
        assert!(progress.durable >= self.start.applied, "the durable index never goes backwards");
        self.start.applied = progress.durable;
        progress.failure.map_or(Ok(()), |failure| Err(failure.into()))
    }

    /// Applies an entry of this owner's own, and lets the answers go.
    fn apply(&mut self, entry: Pending) {
        for submission in entry.submissions {
            let answers = self.start.wallet.apply(entry.time_ms, &submission.command);
            failpoint::after_durable(&submission.command);
            (submission.reply)(answers);
        }
    }

    fn view(&self) -> View<'_> {
        let Start { wallet, applied, checkpointed, clock, .. } = &self.start;
        View { wallet, applied: *applied, checkpointed: *checkpointed, now: clock() }
    }
}

/// The steps of the owner, one by one: what [`Owner::run`] does, without its waiting. For simulations.
impl Owner {
    /// Applies what is durable, logs what has arrived, and copies a part of a checkpoint.
    pub(crate) fn step(&mut self) -> Result<(), ParticipantError> {
        self.apply_durable()?;
        self.take_all()?;
        let mut jobs = Vec::new();
        while let Ok(job) = self.jobs.try_recv() {
            jobs.push(job);
        }
        self.turn(&mut jobs)?;
        self.try_copy();
        Ok(())
    }

    /// Begins a checkpoint, unless one is being copied or written. Its parts are copied by [`Owner::step`].
    pub(crate) fn step_checkpoint(&mut self) {
        self.start_checkpoint();
    }

    /// Takes note of a checkpoint that was written, if one was.
    pub(crate) fn note_checkpoint(&mut self) -> Result<(), ParticipantError> {
        let done = self.checkpoint_running.as_mut().and_then(|running| running.done.try_recv().ok());
        done.map_or(Ok(()), |done| self.checkpointed(Some(done)))
    }

    /// Whether anything has arrived, or is durable and not applied, or can be copied.
    pub(crate) fn has_work(&self) -> bool {
        let durable = self.start.progress.borrow().durable;
        let is_durable =
            || self.seat.is_none() && self.pending.front().is_some_and(|entry| entry.index <= durable);
        let can_copy = || self.copying.as_ref().is_some_and(|copying| copying.writing.has_room());
        !self.jobs.is_empty() || self.is_fed() || is_durable() || can_copy()
    }

    /// Whether everything that was appended is applied.
    pub(crate) fn is_settled(&self) -> bool {
        self.pending.is_empty()
    }

    /// The state.
    pub(crate) fn wallet(&self) -> &Wallet {
        &self.start.wallet
    }

    /// The last entry of the log that is applied.
    pub(crate) fn applied(&self) -> u64 {
        self.start.applied
    }
}

/// Waits until it is time to stop.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that whoever could say stop is gone, which also means stop.
    let _ = stop.wait_for(|&stop| stop).await;
}
