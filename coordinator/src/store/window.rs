//! The idempotency window: what is remembered of ended transactions that the machine has handed over.
//!
//! Rows go from the machine to `frozen` (in memory, being written) to a run on disk; runs leave, whole, when their newest
//! transaction is older than the window. Look-ups go newest first: a key that came again after the window is found as new.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use escrow_journal::storage::Disk;
use escrow_tcc::machine::{Older, Remembered, Row};
use escrow_types::{Millis, TransactionKey};

use super::Run;

/// See the module. Owned by the owner task; the checkpoint thread has its own handles of runs and frozen rows.
#[derive(Default)]
pub(crate) struct IdempotencyWindow {
    frozen: Vec<Arc<Remembered>>,
    runs: Vec<Arc<Run>>,
    /// No UUIDv7 in the runs is younger: new ones, nearly all that are looked up, need not ask each run.
    newest_v7_ms: Millis,
}

/// The directory of the runs.
pub(crate) fn dir(data_dir: &Path) -> PathBuf {
    data_dir.join("runs")
}

impl IdempotencyWindow {
    /// Opens the runs that a checkpoint names, and removes files that it does not name.
    pub(crate) fn open(disk: &Arc<dyn Disk>, data_dir: &Path, names: &[String]) -> io::Result<Self> {
        let dir = dir(data_dir);
        disk.create_dir_all(&dir)?;
        for stray in disk.list(&dir)?.iter().filter(|name| !names.contains(name)) {
            disk.remove(&dir.join(stray))?;
        }
        let runs = names.iter().map(|name| Run::open(disk, &dir, name).map(Arc::new));
        let mut window = Self::default();
        window.extend(runs.collect::<io::Result<Vec<_>>>()?);
        Ok(window)
    }

    /// Takes what the machine handed over; it answers from memory until its run is durable.
    pub(crate) fn freeze(&mut self, handed_over: Arc<Remembered>) {
        self.frozen.push(handed_over);
    }

    /// The frozen rows are on disk now, in this run (`None`: there were none).
    pub(crate) fn thaw(&mut self, handed_over: &Arc<Remembered>, run: Option<Arc<Run>>) {
        self.frozen.retain(|frozen| !Arc::ptr_eq(frozen, handed_over));
        self.extend(run);
    }

    fn extend(&mut self, runs: impl IntoIterator<Item = Arc<Run>>) {
        self.runs.extend(runs);
        self.newest_v7_ms = self.runs.iter().map(|run| run.newest_v7_ms()).max().unwrap_or(0);
    }

    /// The runs that are still within the window.
    pub(crate) fn runs_since(&self, oldest_ms: Millis) -> Vec<Arc<Run>> {
        self.runs.iter().filter(|run| run.newest_end_ms() >= oldest_ms).cloned().collect()
    }

    /// Forgets the runs that have left the window; returns them, to be removed from disk.
    pub(crate) fn drop_before(&mut self, oldest_ms: Millis) -> Vec<Arc<Run>> {
        let (keep, drop) =
            std::mem::take(&mut self.runs).into_iter().partition(|run| run.newest_end_ms() >= oldest_ms);
        self.runs = keep;
        drop
    }

    /// How many ended transactions are remembered here.
    pub(crate) fn len(&self) -> u64 {
        let frozen: u64 = self.frozen.iter().map(|frozen| frozen.rows().len() as u64).sum();
        frozen + self.runs.iter().map(|run| run.len()).sum::<u64>()
    }
}

impl Older for IdempotencyWindow {
    fn find(&self, key: TransactionKey) -> Option<Row> {
        let frozen = self.frozen.iter().rev().filter(|frozen| frozen.may_hold(key));
        let row = frozen.filter_map(|frozen| frozen.get(key)).find(|row| row.finished_ms != 0);
        if let Some(row) = row {
            return Some(*row);
        }
        if key.uuid_v7_millis().is_some_and(|born| born > self.newest_v7_ms) {
            return None;
        }
        self.runs.iter().rev().find_map(|run| match run.find(key) {
            Ok(row) => row,
            Err(error) => {
                // Executing a transaction twice is worse than stopping: the supervisor restarts, and recovery reads the log.
                panic!("the idempotency window cannot be read ({}): {error}", run.name())
            }
        })
    }
}
