//! Checkpoints: the owner hands a copy of its small state and the remembered rows to a thread, which writes them.
//!
//! Order on disk: the run, then the checkpoint that names it, then the log is trimmed. A crash between leaves a run that no
//! checkpoint names (removed at the next start) or a log that is longer than needed.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use escrow_journal::Index;
use escrow_tcc::machine::Remembered;
use tokio::sync::mpsc;

use super::{Owner, now_ms};
use crate::error::CoordinatorError;
use crate::failpoint;
use crate::store::{Checkpoint, Run};

/// A checkpoint was written, or not.
pub(super) struct Done {
    handed_over: Arc<Remembered>,
    result: io::Result<(u64, Option<Arc<Run>>)>,
}

/// When checkpoints are due, and whether one is being written.
pub(super) struct Checkpointing {
    /// The last index that a durable checkpoint includes.
    pub(super) checkpointed: u64,
    /// Another leader is in charge.
    pub(super) deposed: bool,
    last: Instant,
    bytes_at_last: u64,
    running: bool,
    report: Option<mpsc::UnboundedSender<Done>>,
}

impl Checkpointing {
    pub(super) fn new(checkpointed: u64) -> Self {
        Self {
            checkpointed,
            deposed: false,
            last: Instant::now(),
            bytes_at_last: 0,
            running: false,
            report: None,
        }
    }

    pub(super) fn report_to(&mut self, report: mpsc::UnboundedSender<Done>) {
        self.report = Some(report);
    }

    pub(super) fn is_running(&self) -> bool {
        self.running
    }
}

/// So many remembered rows are kept in memory at most before a checkpoint hands them over.
const ROWS_MAX: usize = 4_000_000;

impl Owner {
    /// The last index that a durable checkpoint includes.
    pub(crate) fn checkpointed(&self) -> u64 {
        self.checkpointing.checkpointed
    }

    pub(super) fn checkpoint_if_due(&mut self) {
        let state = &self.checkpointing;
        let bytes = self.journal.stats().bytes.saturating_sub(state.bytes_at_last);
        let old = state.last.elapsed().as_millis() >= u128::from(self.config.checkpoint_interval_ms);
        let rows = self.driver.machine().remembered().rows().len();
        if old || bytes >= self.config.checkpoint_bytes || rows >= ROWS_MAX {
            self.start_checkpoint();
        }
    }

    /// Starts a checkpoint unless one is being written or nothing has changed.
    pub(super) fn start_checkpoint(&mut self) {
        if self.checkpointing.running || self.applied == self.checkpointing.checkpointed {
            self.checkpointing.last = Instant::now();
            return;
        }
        self.checkpointing.running = true;
        self.checkpointing.last = Instant::now();
        self.checkpointing.bytes_at_last = self.journal.stats().bytes;
        let handed_over = Arc::new(self.driver.machine_mut().hand_over());
        self.window.freeze(Arc::clone(&handed_over));
        let index = self.applied;
        let machine = self.driver.machine().to_checkpoint();
        let oldest = now_ms().saturating_sub(self.config.idempotency_window_ms);
        let keep = self.window.runs_since(oldest);
        let (disk, data_dir) = (Arc::clone(&self.disk), self.data_dir.clone());
        let report = self.checkpointing.report.clone().expect("set before the first turn");
        let write = move || {
            let write_all = || {
                let rows: Vec<_> = handed_over.finished().copied().collect();
                let dir = crate::store::runs_dir(&data_dir);
                let name = format!("{index:020}.run");
                let run = if rows.is_empty() {
                    None
                } else {
                    Some(Arc::new(Run::write(&disk, &dir, &name, rows)?))
                };
                failpoint::die_at("coordinator::during_checkpoint");
                let runs = keep.iter().chain(&run).map(|run| run.name().to_owned()).collect();
                Checkpoint { index, machine, runs }.write(&*disk, &data_dir)?;
                Ok((index, run))
            };
            let result = write_all();
            // The owner may have stopped; the checkpoint is good all the same.
            let _ = report.send(Done { handed_over, result });
        };
        std::thread::Builder::new().name("checkpoint".into()).spawn(write).expect("a thread can be started");
    }

    pub(super) fn checkpoint_done(&mut self, done: Done) -> Result<(), CoordinatorError> {
        self.checkpointing.running = false;
        let file_error = |source| CoordinatorError::File { path: self.data_dir.join("checkpoint"), source };
        let (index, run) = done.result.map_err(file_error)?;
        self.window.thaw(&done.handed_over, run);
        let oldest = now_ms().saturating_sub(self.config.idempotency_window_ms);
        // No checkpoint names them any more; what cannot be removed now is removed at the next start.
        for run in self.window.drop_before(oldest) {
            let _ = self.disk.remove(&crate::store::runs_dir(&self.data_dir).join(run.name()));
        }
        self.checkpointing.checkpointed = index;
        self.journal.trim(Index(index));
        tracing::debug!(index, "checkpoint written");
        Ok(())
    }
}
