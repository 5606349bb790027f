//! Checkpoints: the owner hands a copy of its small state and the remembered rows to a thread, which writes them.
//!
//! Order on disk: the run, then the checkpoint that names it, then the log is trimmed. A crash between leaves a run that no
//! checkpoint names (removed at the next start) or a log that is longer than needed.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use escrow_journal::Index;
use escrow_journal::background::Pace;
use escrow_replica::Position;
use escrow_tcc::Machine;
use escrow_tcc::machine::Remembered;
use escrow_types::Millis;
use tokio::sync::{mpsc, oneshot};

use super::seat::Errand;
use super::{Owner, TICK};
use crate::error::CoordinatorError;
use crate::failpoint;
use crate::ground::Job;
use crate::store::{Checkpoint, IdempotencyWindow, Run, export, install};

/// Work beside the owner is done.
pub(crate) enum Done {
    /// A checkpoint was written, or not.
    Written {
        handed_over: Arc<Remembered>,
        result: io::Result<(u64, Option<Arc<Run>>)>,
        position: Option<Position>,
        /// Runs that ended before this are not part of it.
        oldest: Millis,
    },
    /// A file was made for a follower, or not: that is its business alone.
    Exported,
    /// A snapshot was installed, or not.
    Installed { result: io::Result<Checkpoint>, told: oneshot::Sender<Result<(), String>> },
}

/// Runs jobs beside the owner: [`on_a_thread`], unless a simulation chooses the moment.
pub(crate) type Background = Box<dyn Fn(Job) + Send>;

/// Runs a job on a thread of its own.
pub(crate) fn on_a_thread(job: Job) {
    let run = || {
        escrow_journal::background::step_back();
        job();
    };
    std::thread::Builder::new().name("checkpoint".into()).spawn(run).expect("a thread can be started");
}

/// When checkpoints are due, and whether one is being written.
pub(super) struct Checkpointing {
    /// The last index that a durable checkpoint includes.
    pub(super) checkpointed: u64,
    /// Another leader is in charge.
    pub(super) deposed: bool,
    background: Background,
    ticks_since_last: u64,
    bytes_at_last: u64,
    running: bool,
    done: mpsc::UnboundedSender<Done>,
    reports: Option<mpsc::UnboundedReceiver<Done>>,
}

impl Checkpointing {
    pub(super) fn new(checkpointed: u64, background: Background) -> Self {
        let (done, reports) = mpsc::unbounded_channel();
        Self {
            checkpointed,
            deposed: false,
            background,
            ticks_since_last: 0,
            bytes_at_last: 0,
            running: false,
            done,
            reports: Some(reports),
        }
    }

    /// Where it is told that a checkpoint was written. To be taken once.
    pub(super) fn reports(&mut self) -> mpsc::UnboundedReceiver<Done> {
        self.reports.take().expect("taken once, by whoever drives the owner")
    }

    pub(super) fn is_running(&self) -> bool {
        self.running
    }
}

/// So many remembered rows are kept in memory at most before a checkpoint hands them over. The index of as many is 16 MiB: it stays
/// in a large cache, and is emptied in a moment.
const ROWS_MAX: usize = 1 << 20;
/// The memory of more rows is not kept: once in a while there were many.
const ROWS_GIVEN_BACK_MAX: usize = 2 * ROWS_MAX;
/// A run is written by the time that this share of the next one is logged: the next must never wait for it.
const WRITTEN_BY: f64 = 0.5;
/// And within this: whoever waits for a checkpoint, such as a shutdown, should not notice.
const WRITTEN_WITHIN: Duration = Duration::from_secs(1);
/// More than are remembered at a time under load: those that make a checkpoint due, and those that are unfinished.
pub(crate) const ROWS_REMEMBERED_MAX: usize = ROWS_MAX + ROWS_MAX / 4;

impl Owner {
    /// The last index that a durable checkpoint includes.
    pub(crate) fn checkpointed(&self) -> u64 {
        self.checkpointing.checkpointed
    }

    /// Where whoever drives this owner hears of written checkpoints.
    pub(crate) fn checkpoint_reports(&mut self) -> mpsc::UnboundedReceiver<Done> {
        self.checkpointing.reports()
    }

    /// Called at every tick.
    pub(super) fn checkpoint_if_due(&mut self) {
        self.checkpointing.ticks_since_last += 1;
        let state = &self.checkpointing;
        let bytes = self.journal.stats().bytes.saturating_sub(state.bytes_at_last);
        let ticks_max = u128::from(self.config.checkpoint_interval_ms) / TICK.as_millis();
        let old = u128::from(state.ticks_since_last) >= ticks_max;
        // Those of unfinished transactions stay, however often they are handed over.
        let machine = self.driver.machine();
        let rows = machine.remembered().rows().len().saturating_sub(machine.live().len());
        if old || bytes >= self.config.checkpoint_bytes || rows >= ROWS_MAX {
            self.start_checkpoint();
        }
    }

    /// Starts a checkpoint unless one is being written or nothing has changed.
    pub(super) fn start_checkpoint(&mut self) {
        if self.checkpointing.running || self.applied == self.checkpointing.checkpointed {
            self.checkpointing.ticks_since_last = 0;
            return;
        }
        self.checkpointing.running = true;
        self.checkpointing.ticks_since_last = 0;
        let bytes = self.journal.stats().bytes;
        let pace = self.pace(bytes.saturating_sub(self.checkpointing.bytes_at_last));
        self.checkpointing.bytes_at_last = bytes;
        let handed_over = Arc::new(self.driver.machine_mut().hand_over());
        self.window.freeze(Arc::clone(&handed_over));
        let index = self.applied;
        let machine = self.driver.machine().to_checkpoint();
        let oldest = self.now().saturating_sub(self.config.idempotency_window_ms);
        let keep = self.window.runs_since(oldest);
        let (disk, data_dir) = (Arc::clone(&self.disk), self.data_dir.clone());
        let done = self.checkpointing.done.clone();
        let position = self.seat.as_ref().map(|seat| seat.position.clone());
        let encoded = position.as_ref().map_or_else(Vec::new, Position::encode);
        let write = move || {
            let write_all = || {
                let dir = crate::store::runs_dir(&data_dir);
                let name = format!("{index:020}.run");
                let run = if handed_over.finished().next().is_none() {
                    None
                } else {
                    Some(Arc::new(Run::write(&disk, &dir, &name, handed_over.finished(), &pace)?))
                };
                failpoint::die_at("coordinator::during_checkpoint");
                let runs = keep.iter().chain(&run).map(|run| run.name().to_owned()).collect();
                Checkpoint { index, machine, runs, position: encoded }.write(&*disk, &data_dir)?;
                Ok((index, run))
            };
            let result = write_all();
            // The owner may have stopped; the checkpoint is good all the same.
            let _ = done.send(Done::Written { handed_over, result, position, oldest });
        };
        (self.checkpointing.background)(Box::new(write));
    }

    /// The pace at which the run of a checkpoint that begins now is written. So many bytes were logged since the last one; the next is
    /// due after as many. By the log, not by the clock: a load that comes after a quiet minute does not give it a minute.
    fn pace(&self, bytes_between: u64) -> Pace {
        if self.shutting_down {
            return Pace::none();
        }
        let meter = self.journal.meter();
        let begun = meter();
        Pace::new(WRITTEN_WITHIN, move || {
            let logged = meter().saturating_sub(begun);
            logged as f64 / (WRITTEN_BY * bytes_between.max(1) as f64)
        })
    }

    pub(crate) fn checkpoint_done(&mut self, done: Done) -> Result<(), CoordinatorError> {
        self.checkpointing.running = false;
        match done {
            Done::Written { handed_over, result, position, oldest } => {
                self.checkpoint_written(handed_over, result, position, oldest)?;
            }
            Done::Exported => {}
            Done::Installed { result, told } => self.installed(result, told)?,
        }
        self.work_beside();
        Ok(())
    }

    fn checkpoint_written(
        &mut self,
        handed_over: Arc<Remembered>,
        result: io::Result<(u64, Option<Arc<Run>>)>,
        position: Option<Position>,
        oldest: Millis,
    ) -> Result<(), CoordinatorError> {
        let file_error = |source| CoordinatorError::File { path: self.data_dir.join("checkpoint"), source };
        let (index, run) = result.map_err(file_error)?;
        self.window.thaw(&handed_over, run);
        if let Ok(handed_over) = Arc::try_unwrap(handed_over)
            && handed_over.rows().len() <= ROWS_GIVEN_BACK_MAX
        {
            self.driver.machine_mut().give_back(handed_over);
        }
        // No checkpoint names them any more; what cannot be removed now is removed at the next start.
        for run in self.window.drop_before(oldest) {
            let _ = self.disk.remove(&crate::store::runs_dir(&self.data_dir).join(run.name()));
        }
        self.checkpointing.checkpointed = index;
        match (&self.seat, position) {
            (Some(seat), Some(position)) => seat.replica().checkpointed(position),
            _ => self.journal.trim(Index(index)),
        }
        tracing::debug!(index, "checkpoint written");
        Ok(())
    }

    /// Does what waits for the checkpoint's files: only one job has them at a time.
    pub(super) fn work_beside(&mut self) {
        if self.checkpointing.running {
            return;
        }
        let (applied, checkpointed) = (self.applied, self.checkpointing.checkpointed);
        let Some(seat) = self.seat.as_mut() else { return };
        let Some(next) = seat.errands.iter().position(|errand| errand.includes() <= checkpointed) else {
            if seat.errands.iter().any(|errand| errand.includes() <= applied) {
                // It is looked at again when that is written.
                self.start_checkpoint();
            }
            return;
        };
        let errand = seat.errands.remove(next).expect("just seen");
        self.checkpointing.running = true;
        let (disk, data_dir) = (Arc::clone(&self.disk), self.data_dir.clone());
        let done = self.checkpointing.done.clone();
        let job: Job = match errand {
            Errand::Export { path, told, .. } => Box::new(move || {
                let exported = export(&*disk, &data_dir, &path).map_err(|error| error.to_string());
                let position = exported
                    .and_then(|position| Position::decode(&position).map_err(|error| error.to_string()));
                // The follower may have gone meanwhile, and the owner.
                let _ = told.send(position);
                let _ = done.send(Done::Exported);
            }),
            Errand::Install { path, position, told } => Box::new(move || {
                let result = install(&*disk, &data_dir, &path, &position.encode());
                let _ = done.send(Done::Installed { result, told });
            }),
        };
        (self.checkpointing.background)(job);
    }

    /// The state is that of a snapshot now.
    fn installed(
        &mut self,
        result: io::Result<Checkpoint>,
        told: oneshot::Sender<Result<(), String>>,
    ) -> Result<(), CoordinatorError> {
        let path = self.data_dir.join("installing.snapshot");
        let wrong =
            |why: String| CoordinatorError::File { path: path.clone(), source: io::Error::other(why) };
        let checkpoint = result.map_err(|source| CoordinatorError::File { path: path.clone(), source })?;
        let machine =
            Machine::from_checkpoint(&checkpoint.machine).map_err(|error| wrong(error.to_string()))?;
        let window = IdempotencyWindow::open(&self.disk, &self.data_dir, &checkpoint.runs);
        let position = Position::decode(&checkpoint.position).map_err(|error| wrong(error.to_string()))?;
        self.window = window.map_err(|error| wrong(error.to_string()))?;
        self.driver.replace(machine);
        (self.applied, self.checkpointing.checkpointed) = (checkpoint.index, checkpoint.index);
        self.seat.as_mut().expect("only a replica installs").position = position;
        tracing::info!(index = checkpoint.index, "snapshot installed");
        // Raft may have been shut down meanwhile.
        let _ = told.send(Ok(()));
        Ok(())
    }
}
