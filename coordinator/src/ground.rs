//! What a coordinator stands on: disk, clock, network, and where work beside the owner is done. A simulation has its own.

use std::sync::Arc;

use escrow_grpc::Connector;
use escrow_journal::storage::{Disk, OsDisk};
use escrow_journal::{Journal, JournalError, Steps};
use escrow_replica::Transport;
use escrow_replica::grpc::Grpc;
use escrow_tcc::driver::RetryDelays;
use escrow_types::Millis;

use crate::links::Delays;
use crate::owner::{now_ms, on_a_thread};

/// Tells the time, Unix milliseconds.
pub type Clock = Arc<dyn Fn() -> Millis + Send + Sync>;

/// A piece of work that blocks.
pub type Job = Box<dyn FnOnce() + Send>;

/// Runs jobs that block, beside the owner. One that is dropped is one that a crash cut off.
pub type Background = Arc<dyn Fn(Job) + Send + Sync>;

/// Sees to it that what is appended to a journal is written: threads, or a task that steps it.
pub type WriteJournal = Box<dyn FnOnce(&Journal, Steps) -> Result<(), JournalError> + Send>;

/// See the module.
pub struct Ground {
    /// Where the data directory is.
    pub disk: Arc<dyn Disk>,
    /// The one clock.
    pub clock: Clock,
    /// The pauses of phase 2.
    pub delays: Box<dyn RetryDelays + Send>,
    /// How participants are reached.
    pub connector: Connector,
    /// Who writes the log.
    pub journal: WriteJournal,
    /// Who writes checkpoints.
    pub background: Background,
    /// How other replicas are reached.
    pub transport: Arc<dyn Transport>,
}

impl Ground {
    /// The machine: files, the wall clock, TCP, threads.
    pub fn real() -> Self {
        Self {
            disk: OsDisk::shared(),
            clock: Arc::new(now_ms),
            delays: Box::new(Delays),
            connector: Connector::tcp(),
            journal: Box::new(Journal::start),
            background: Arc::new(on_a_thread),
            transport: Arc::new(Grpc::new(Connector::tcp())),
        }
    }
}
