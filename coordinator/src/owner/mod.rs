//! The owner: the one task that owns the coordinator's state. No locks.
//!
//! A turn: take what the log has made durable, apply it, take what has arrived, up to a bound, append what must be logged as one
//! entry, and let out what may leave. While an entry is being written, the next turn gathers. No timer is on a path for whose end somebody waits; a slow tick only serves deadlines, retries, watermarks and quiet moments.
//!
//! To ensure correctness:
//! - Entries are applied in the order in which they were appended, and only when durable.
//! - What [`Driver`] puts out may leave at once; nothing else may.
//! - A failed log ends the task: nothing is acknowledged any more, callers find out by asking again.

mod callers;
mod checkpointing;
mod mailbox;
mod seat;
mod stages;
mod turn;

pub(crate) use callers::CallerSink;
pub(crate) use checkpointing::{Background, Done, ROWS_REMEMBERED_MAX, on_a_thread};
pub(crate) use mailbox::{Input, Legs, LinkEvent, Mailbox, Receivers, Transfer, mailbox, stopped};
pub(crate) use seat::{Seat, Serving};

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use escrow_invariants::{Canary, canary};
use escrow_journal::storage::Disk;
use escrow_journal::{Group, Index, Journal, JournalError};
use escrow_tcc::{Driver, Entry};
use escrow_types::Millis;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::config::Config;
use crate::error::CoordinatorError;
use crate::links::LinkSenders;
use crate::store::IdempotencyWindow;
use callers::Callers;
use checkpointing::Checkpointing;
use stages::Stages;

/// The group of the coordinator's entries in the journal.
pub(crate) const GROUP: Group = Group(0);

/// How often deadlines, retries and watermarks are looked at.
const TICK: Duration = Duration::from_millis(20);
/// Confirms for whose end nobody waits rest so long at most, unless there is something else for their participant: a caller that goes
/// on once it knows the decision then costs each shard one message and one sync for two phases
/// (docs/decisions/0024-confirms-that-nobody-waits-for.md).
const REST_MAX: Duration = Duration::from_millis(1);
/// So many bytes may wait to be written; beyond, no new work is taken until the disk has caught up.
const PENDING_BYTES_MAX: u64 = 128 << 20;
/// The log has nothing to write when it is closed: whoever needs longer hangs.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Now, in Unix milliseconds: the one clock of the coordinator.
pub(crate) fn now_ms() -> Millis {
    escrow_service::clock::now_ms()
}

/// Tells the time, Unix milliseconds. [`now_ms`], unless a simulation has a clock of its own.
pub(crate) type Clock = Box<dyn Fn() -> Millis + Send>;

/// The owner's state. See the module.
pub(crate) struct Owner {
    pub(crate) config: Arc<Config>,
    clock: Clock,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) data_dir: PathBuf,
    pub(crate) driver: Driver,
    pub(crate) window: IdempotencyWindow,
    pub(crate) journal: Journal,
    pub(crate) links: LinkSenders,
    /// Appended, not yet applied.
    pending: VecDeque<(Index, Entry)>,
    /// The last entry that is applied.
    pub(crate) applied: u64,
    callers: Callers,
    checkpointing: Checkpointing,
    shutting_down: bool,
    watermark_sent: (u64, usize),
    ticks: u64,
    stages: Stages,
    /// Who waits until everything up to an index is applied.
    barriers: Vec<(u64, oneshot::Sender<()>)>,
    /// Its place in a group, if the partition is replicated.
    seat: Option<Seat>,
}

/// What [`Owner::new`] needs.
pub(crate) struct Parts {
    pub(crate) config: Arc<Config>,
    pub(crate) clock: Clock,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) driver: Driver,
    pub(crate) window: IdempotencyWindow,
    pub(crate) journal: Journal,
    pub(crate) links: LinkSenders,
    pub(crate) applied: u64,
    pub(crate) checkpointed: u64,
    /// Where checkpoints are written.
    pub(crate) background: Background,
    /// Its place in a group, if the partition is replicated.
    pub(crate) seat: Option<Seat>,
}

impl Owner {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { config, clock, disk, driver, window, journal, links, applied, .. } = parts;
        Self {
            data_dir: config.data_dir.clone(),
            clock,
            checkpointing: Checkpointing::new(parts.checkpointed, parts.background),
            callers: Callers::default(),
            pending: VecDeque::new(),
            shutting_down: false,
            watermark_sent: (0, 0),
            ticks: 0,
            stages: Stages::default(),
            barriers: Vec::new(),
            seat: parts.seat,
            config,
            disk,
            driver,
            window,
            journal,
            links,
            applied,
        }
    }

    /// Now, Unix milliseconds.
    pub(crate) fn now(&self) -> Millis {
        (self.clock)()
    }

    /// Serves until `stop`, then finishes what it can within `drain`, writes a last checkpoint and returns.
    pub(crate) async fn run(
        mut self,
        mut receivers: Receivers,
        mut stop: oneshot::Receiver<Duration>,
    ) -> Result<(), CoordinatorError> {
        let durable = Arc::new(Notify::new());
        let notify = Arc::clone(&durable);
        self.journal.on_durable(Box::new(move |_| notify.notify_one()));
        let mut checkpoints_done = self.checkpoint_reports();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut drain_until: Option<tokio::time::Instant> = None;
        // One timer for the owner's life, set when something begins to rest.
        let (mut rest, mut rests) = (std::pin::pin!(tokio::time::sleep(REST_MAX)), false);

        let mut inputs = Vec::with_capacity(1_024);
        loop {
            let takes_work = self.journal.bytes_pending() < PENDING_BYTES_MAX;
            tokio::select! {
                () = durable.notified() => {}
                event = seat::next(self.seat.as_mut()) => self.take(event)?,
                Some(event) = receivers.events.recv() => inputs.push(event),
                Some(request) = receivers.requests.recv(), if takes_work => inputs.push(request),
                Some(done) = checkpoints_done.recv() => self.checkpoint_done(done)?,
                _ = tick.tick() => self.tick()?,
                () = rest.as_mut(), if rests => {
                    self.let_out(true)?;
                    // What rests after this turn is given its own time.
                    rests = false;
                }
                Ok(drain) = &mut stop, if drain_until.is_none() => {
                    self.shutting_down = true;
                    drain_until = Some(tokio::time::Instant::now() + drain);
                }
            }
            let is_full = receivers.drain(&mut inputs, takes_work);
            self.turn(&mut inputs)?;
            if is_full {
                // The tasks of connections are on this thread too: what this turn has put out leaves before the next begins.
                tokio::task::yield_now().await;
            }
            let rested = std::mem::replace(&mut rests, self.driver.rests());
            if rests && !rested {
                rest.as_mut().reset(tokio::time::Instant::now() + REST_MAX);
            }
            if let Some(until) = drain_until {
                let idle = self.pending.is_empty() && self.driver.is_drained();
                if idle || tokio::time::Instant::now() >= until {
                    break;
                }
            }
        }
        self.last_words(&durable, &mut checkpoints_done).await
    }

    /// One turn.
    pub(crate) fn turn(&mut self, inputs: &mut Vec<Input>) -> Result<(), CoordinatorError> {
        self.stages.turn_begins();
        self.apply_durable()?;
        let (mut at, mut rest) = (0, inputs.drain(..));
        loop {
            self.look_ahead(at, rest.as_slice());
            let Some(input) = rest.next() else { break };
            at += 1;
            self.handle(input);
        }
        self.end_turn(false)
    }

    /// Tells when everything that is logged up to the end of this turn is durable and applied.
    pub(crate) fn barrier(&mut self, reached: oneshot::Sender<()>) {
        // Given its index at the end of the turn.
        self.barriers.push((u64::MAX, reached));
    }

    /// Logs what must be logged and lets out what may leave.
    fn end_turn(&mut self, flush_lazy: bool) -> Result<(), CoordinatorError> {
        let now = self.now();
        let entry = if flush_lazy { self.driver.flush_lazy(now) } else { self.driver.take_entry(now) };
        // Trys leave before Begin is even written, at the same time as it is.
        self.let_out(flush_lazy)?;
        if let Some(entry) = entry {
            self.stages.logged(self.driver.machine().epoch(), &entry);
            self.append(entry)?;
        }
        if self.barriers.iter().any(|(index, _)| *index == u64::MAX) {
            let appended = self.pending.back().map_or(self.settled(), |(index, _)| index.get());
            self.barriers
                .iter_mut()
                .filter(|(index, _)| *index == u64::MAX)
                .for_each(|barrier| barrier.0 = appended);
            self.apply_durable()?;
        }
        Ok(())
    }

    fn append(&mut self, entry: Entry) -> Result<(), CoordinatorError> {
        if turn::is_lost_to_a_failpoint(&entry) {
            return Ok(());
        }
        if self.seat.is_some() {
            if let Some(term) = self.serving_term() {
                self.propose(term, entry);
            }
            return Ok(());
        }
        let mut payload = self.journal.buffer();
        entry.encode_into(&mut payload);
        let index = self.journal.append(GROUP, payload)?;
        if canary::is_on(Canary::ConfirmBeforeDecisionIsDurable) {
            self.driver.applied(&entry);
            self.applied = index.get();
            return self.let_out(true);
        }
        self.pending.push_back((index, entry));
        Ok(())
    }

    /// Applies every pending entry that is durable.
    fn apply_durable(&mut self) -> Result<(), CoordinatorError> {
        if self.seat.is_some() {
            // The group says what is committed; of the journal only its failure matters here.
            self.journal.check()?;
            self.reach_barriers();
            return Ok(());
        }
        let durable = self.journal.durable();
        while self.pending.front().is_some_and(|(index, _)| *index <= durable) {
            let (index, entry) = self.pending.pop_front().expect("just seen");
            turn::die_before_applied(&entry);
            self.stages.durable(&entry);
            self.driver.applied(&entry);
            self.applied = index.get();
        }
        self.reach_barriers();
        // A failed log tells all that wait; here it ends the server.
        if !self.pending.is_empty() && durable < self.journal.appended() {
            self.journal.check()?;
        }
        Ok(())
    }

    fn reach_barriers(&mut self) {
        if !self.barriers.is_empty() {
            let settled = self.settled();
            for (_, reached) in self.barriers.extract_if(.., |(index, _)| *index <= settled) {
                // Whoever waited may have gone.
                let _ = reached.send(());
            }
        }
    }

    /// Ends cleanly: every end that is known is logged, and a checkpoint makes the next start quick.
    async fn last_words(
        mut self,
        durable: &Notify,
        checkpoints_done: &mut mpsc::UnboundedReceiver<Done>,
    ) -> Result<(), CoordinatorError> {
        // Another leads by now, or nobody can.
        self.step_down();
        self.end_turn(true)?;
        self.apply_durable()?;
        while !self.pending.is_empty() {
            durable.notified().await;
            self.apply_durable()?;
        }
        self.let_out(true)?;
        // One may be running; the last must see everything.
        for _ in 0..2 {
            if self.checkpointing.is_running() {
                let done = checkpoints_done.recv().await.expect("the owner holds a sender");
                self.checkpoint_done(done)?;
            }
            self.start_checkpoint();
        }
        if self.checkpointing.is_running() {
            let done = checkpoints_done.recv().await.expect("the owner holds a sender");
            self.checkpoint_done(done)?;
        }
        let unfinished = self.driver.in_flight();
        tracing::info!(unfinished, applied = self.applied, "stopped");
        // All is written: what is waited for is the end of those who write.
        match tokio::time::timeout(CLOSE_TIMEOUT, self.journal.closed()).await {
            Ok(()) => Ok(self.journal.close()?),
            Err(_) => Err(JournalError::CloseTimedOut { durable: self.journal.durable() }.into()),
        }
    }
}

impl Owner {
    /// Whether entries that are durable, or committed, wait to be applied.
    pub(crate) fn has_durable(&self) -> bool {
        if self.seat.is_some() {
            return self.is_fed();
        }
        let durable = self.journal.durable();
        self.pending.front().is_some_and(|(index, _)| *index <= durable)
    }

    /// Whether everything that was appended is applied.
    pub(crate) fn is_settled(&self) -> bool {
        self.pending.is_empty()
    }

    /// How long transfers took so far from one point of their way to the next.
    pub(crate) fn stages(&self) -> escrow_proto::v1::Stages {
        self.stages.report()
    }

    /// What the journal has done.
    pub(crate) fn journal_stats(&self) -> escrow_proto::v1::JournalStats {
        let stats = self.journal.stats();
        escrow_proto::v1::JournalStats {
            entries: stats.entries,
            batches: stats.batches,
            bytes: stats.bytes,
            syncs: stats.syncs,
            sync_total_ns: stats.sync_total_ns,
        }
    }

    /// How far the log is.
    pub(crate) fn log_cursors(&self) -> escrow_proto::v1::LogCursors {
        let cursors = self.journal.cursors();
        escrow_proto::v1::LogCursors {
            appended: cursors.appended.get(),
            written: cursors.written.get(),
            durable: cursors.durable.get(),
            applied: self.applied,
            checkpointed: self.checkpointed(),
            trimmed: cursors.trimmed.get(),
        }
    }
}
