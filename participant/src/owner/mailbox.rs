//! The bounded way to an owner: commands and reads, and the permits that bound them.

use std::sync::Arc;

use escrow_types::Millis;
use escrow_wallet::{Answers, Command, Wallet};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, mpsc, oneshot};

/// Permits are counted in units of so many bytes; every command costs at least one.
const UNIT_BYTES: usize = 1_024;

/// A command, and who is to be told. A reply that is dropped means: outcome unknown.
pub(crate) struct Submission {
    pub(crate) command: Command,
    pub(crate) reply: Box<dyn FnOnce(Answers) + Send>,
    /// Given back when the command is answered.
    _permit: OwnedSemaphorePermit,
}

/// A shard's state as reads see it.
pub(crate) struct View<'a> {
    pub(crate) wallet: &'a Wallet,
    pub(crate) applied: u64,
    pub(crate) checkpointed: u64,
    /// Unix milliseconds.
    pub(crate) now: Millis,
}

pub(super) enum Job {
    Command(Submission),
    Read(Box<dyn FnOnce(&View<'_>) + Send>),
}

/// Why a command was not taken. It was not logged and never will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The mailbox is full.
    Full,
    /// It does not fit into one entry of the log.
    TooLarge,
    /// The owner takes nothing any more.
    Closed,
}

/// Reaches the owner of one shard.
#[derive(Clone)]
pub(crate) struct Handle {
    shard: u16,
    jobs: mpsc::Sender<Job>,
    permits: Arc<Semaphore>,
    units_max: u32,
    command_bytes_max: usize,
}

impl Handle {
    pub(super) fn new(
        shard: u16,
        commands_max: usize,
        bytes_max: usize,
        payload_bytes_max: usize,
    ) -> (Self, mpsc::Receiver<Job>) {
        let (jobs, receiver) = mpsc::channel(commands_max);
        let units_max = u32::try_from(bytes_max / UNIT_BYTES).unwrap_or(u32::MAX).max(1);
        let permits = Arc::new(Semaphore::new(units_max as usize));
        // What is left of an entry beside its header, with room to spare.
        let command_bytes_max = payload_bytes_max.saturating_sub(64);
        (Self { shard, jobs, permits, units_max, command_bytes_max }, receiver)
    }

    pub(crate) const fn shard(&self) -> u16 {
        self.shard
    }

    fn units(&self, command: &Command) -> Result<u32, Refused> {
        let bytes = command.bytes_estimate();
        if bytes > self.command_bytes_max {
            return Err(Refused::TooLarge);
        }
        // A command above the whole bound passes alone.
        Ok(u32::try_from(bytes / UNIT_BYTES + 1).unwrap_or(u32::MAX).min(self.units_max))
    }

    /// Hands a command over, waiting while the mailbox is full. For what must never be refused, and for streams, whose
    /// peers wait with it.
    pub(crate) async fn submit(
        &self,
        command: Command,
        reply: impl FnOnce(Answers) + Send + 'static,
    ) -> Result<(), Refused> {
        let units = self.units(&command)?;
        let permit =
            Arc::clone(&self.permits).acquire_many_owned(units).await.map_err(|_| Refused::Closed)?;
        let submission = Submission { command, reply: Box::new(reply), _permit: permit };
        self.jobs.send(Job::Command(submission)).await.map_err(|_| Refused::Closed)
    }

    /// Hands a command over, or refuses it at once while the mailbox is full.
    pub(crate) fn try_submit(
        &self,
        command: Command,
        reply: impl FnOnce(Answers) + Send + 'static,
    ) -> Result<(), Refused> {
        let units = self.units(&command)?;
        let permit =
            Arc::clone(&self.permits).try_acquire_many_owned(units).map_err(|error| match error {
                TryAcquireError::NoPermits => Refused::Full,
                TryAcquireError::Closed => Refused::Closed,
            })?;
        let submission = Submission { command, reply: Box::new(reply), _permit: permit };
        self.jobs.try_send(Job::Command(submission)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Refused::Full,
            mpsc::error::TrySendError::Closed(_) => Refused::Closed,
        })
    }

    /// Asks the owner; the answer is of applied state.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&View<'_>) -> T + Send + 'static,
    ) -> Result<T, Refused> {
        let (sender, receiver) = oneshot::channel();
        let job = Job::Read(Box::new(move |view| {
            // Nobody waits for it any more: nothing to do.
            let _ = sender.send(read(view));
        }));
        self.jobs.send(job).await.map_err(|_| Refused::Closed)?;
        receiver.await.map_err(|_| Refused::Closed)
    }
}
