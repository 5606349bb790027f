//! The bounded way to an owner: commands and reads, and the permits that bound them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use escrow_replica::Replica;
use escrow_types::Millis;
use escrow_wallet::{Answers, Command, Wallet};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, mpsc, watch};

use super::reads::{Read, asked};
use super::seat::Serving;

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
    Read(Box<dyn Read>),
    /// When an index is applied, if whoever asks still waits.
    ReadAt(u64, Box<dyn Read>),
}

/// Why a command was not taken. It was not logged and never will be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The mailbox is full.
    Full,
    /// It does not fit into one entry of the log.
    TooLarge,
    /// The owner takes nothing any more.
    Closed,
    /// Another replica leads the shard; its endpoint, if known.
    NotLeader(Option<String>),
    /// A read is to include what never was in this log.
    NoSuchPosition,
}

/// Reaches the owner of one shard.
#[derive(Clone)]
pub(crate) struct Handle {
    shard: u16,
    jobs: mpsc::Sender<Job>,
    permits: Arc<Semaphore>,
    units_max: u32,
    command_bytes_max: usize,
    /// Of a replica.
    group: Option<(Replica, watch::Receiver<Serving>)>,
    reached: Reached,
}

/// The entry that an owner has applied, or is applying: whatever it says now is included by it.
#[derive(Clone)]
pub(crate) struct Reached(Arc<AtomicU64>);

impl Reached {
    pub(super) fn new(index: u64) -> Self {
        Self(Arc::new(AtomicU64::new(index)))
    }

    pub(super) fn set(&self, index: u64) {
        self.0.store(index, Ordering::Release);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// How much may wait in a mailbox, at most.
pub(super) struct Limits {
    pub(super) commands: usize,
    pub(super) bytes: usize,
    /// Of an entry.
    pub(super) payload_bytes: usize,
}

/// What a read may lack: see the message of this name. Without any, nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReadBounds {
    pub(crate) age_max: Option<Duration>,
    /// 0: none.
    pub(crate) position: u64,
}

impl ReadBounds {
    /// Nothing may lack.
    const fn is_none(self) -> bool {
        self.age_max.is_none() && self.position == 0
    }
}

/// What a read has seen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    /// The last entry that was applied.
    pub(crate) applied: u64,
    /// Nothing older is lacking; `None`: not known.
    pub(crate) age: Option<Duration>,
}

impl Handle {
    pub(super) fn new(
        shard: u16,
        limits: &Limits,
        group: Option<(Replica, watch::Receiver<Serving>)>,
        reached: Reached,
    ) -> (Self, mpsc::Receiver<Job>) {
        let (jobs, receiver) = mpsc::channel(limits.commands);
        let units_max = u32::try_from(limits.bytes / UNIT_BYTES).unwrap_or(u32::MAX).max(1);
        let permits = Arc::new(Semaphore::new(units_max as usize));
        // What is left of an entry beside its header, with room to spare.
        let command_bytes_max = limits.payload_bytes.saturating_sub(64);
        (Self { shard, jobs, permits, units_max, command_bytes_max, group, reached }, receiver)
    }

    pub(crate) const fn shard(&self) -> u16 {
        self.shard
    }

    /// How far the owner is.
    pub(crate) const fn reached(&self) -> &Reached {
        &self.reached
    }

    /// Whether the shard has other replicas.
    pub(crate) const fn is_replica(&self) -> bool {
        self.group.is_some()
    }

    /// Whether the shard is served here.
    pub(crate) fn check_serving(&self) -> Result<(), Refused> {
        match &self.group {
            Some((_, serving)) => {
                let serving = serving.borrow();
                if serving.term.is_some() { Ok(()) } else { Err(Refused::NotLeader(serving.leader.clone())) }
            }
            None => Ok(()),
        }
    }

    /// Resolves when the shard is not served here any more, or in another term than now; never without replication.
    pub(crate) async fn served_until(&self) -> Refused {
        let Some((_, serving)) = &self.group else { return std::future::pending().await };
        let mut serving = serving.clone();
        let term = serving.borrow().term;
        let changed = serving.wait_for(|serving| serving.term.is_none() || serving.term != term).await;
        changed.map_or(Refused::Closed, |serving| Refused::NotLeader(serving.leader.clone()))
    }

    fn units(&self, command: &Command) -> Result<u32, Refused> {
        self.check_serving()?;
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

    /// Asks the owner; the answer includes everything that was acknowledged before, by whichever leader.
    pub(crate) async fn read_newest<T: Send + 'static>(
        &self,
        read: impl FnOnce(&View<'_>) -> T + Send + 'static,
    ) -> Result<T, Refused> {
        let Some((replica, _)) = &self.group else { return self.read(read).await };
        self.check_serving()?;
        let index = replica.read_index().await.map_err(|error| Refused::NotLeader(error.leader))?;
        self.read_at(index, read).await
    }

    /// Asks the owner, whether it leads or not, if it can keep the bounds, or soon; otherwise whoever leads is to be asked. Without
    /// bounds nothing may lack, which only a leader can say.
    pub(crate) async fn read_within<T: Send + 'static>(
        &self,
        bounds: ReadBounds,
        read: impl FnOnce(&View<'_>) -> T + Send + 'static,
    ) -> Result<(T, Seen), Refused> {
        /// A follower that lacks something has it by then, or is too far behind.
        const SOON: Duration = Duration::from_millis(250);
        let read = move |view: &View<'_>| (read(view), view.applied);
        let follows = || !bounds.is_none() && self.check_serving().is_err();
        let Some((replica, serving)) = self.group.as_ref().filter(|_| follows()) else {
            let (read, applied) = self.read_newest(read).await?;
            if applied < bounds.position {
                return Err(Refused::NoSuchPosition);
            }
            return Ok((read, Seen { applied, age: Some(Duration::ZERO) }));
        };
        let behind = || Refused::NotLeader(serving.borrow().leader.clone());
        let is_kept = |age: Duration| bounds.age_max.is_none_or(|max| age <= max);
        let known = replica.freshness().filter(|known| is_kept(known.age()));
        if bounds.age_max.is_some() && known.is_none() {
            return Err(behind());
        }
        let wanted = known.filter(|_| bounds.age_max.is_some()).map_or(0, |known| known.index);
        let reading = self.read_at(wanted.max(bounds.position), read);
        let (read, applied) = tokio::time::timeout(SOON, reading).await.map_err(|_| behind())??;
        let age = known.filter(|known| known.index <= applied).map(|known| known.age());
        if bounds.age_max.is_some() && !age.is_some_and(is_kept) {
            return Err(behind());
        }
        Ok((read, Seen { applied, age }))
    }

    /// Asks the owner when an index is applied.
    pub(crate) async fn read_at<T: Send + 'static>(
        &self,
        index: u64,
        read: impl FnOnce(&View<'_>) -> T + Send + 'static,
    ) -> Result<T, Refused> {
        let (read, answer) = asked(read);
        self.jobs.send(Job::ReadAt(index, read)).await.map_err(|_| Refused::Closed)?;
        answer.await.map_err(|_| self.check_serving().err().unwrap_or(Refused::Closed))
    }

    /// Asks the owner; the answer is of applied state, which a replica that does not lead may have later than others.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&View<'_>) -> T + Send + 'static,
    ) -> Result<T, Refused> {
        let (read, answer) = asked(read);
        self.jobs.send(Job::Read(read)).await.map_err(|_| Refused::Closed)?;
        answer.await.map_err(|_| Refused::Closed)
    }
}
