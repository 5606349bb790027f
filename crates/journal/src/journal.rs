//! The handle that servers use: appends from any thread, one writer thread, two background threads.
//!
//! ```text
//!  owners            writer thread                           background threads
//!  append ── queue ─▶ encode ─ write ─ fdatasync ─ publish    one: spare segments
//!            (grows while the last batch is written)  └─▶ callbacks   other: trims
//! ```
//! A batch is what arrived during the last write: no timers, no linger. Must never do I/O on the caller's thread, except
//! in `open`, in readers, and in [`Journal::append_here`], which says so. The queue is not bounded here: owners bound themselves by [`Journal::bytes_pending`], since
//! only they know what may be refused.

use crate::catalog::Shared;
use crate::cursors::Cursors;
use crate::error::{JournalError, JournalFailure, Result};
use crate::keeper::{self, Keeper, Requests};
use crate::log::Log;
use crate::options::Options;
use crate::reader::Reader;
use crate::recovery::Opened;
use crate::stats::{Counters, Stats};
use crate::storage::Disk;
use crate::types::{Group, Index};
use crate::writer::{self, Inbox, SharedWriter, Writer};
use std::future::poll_fn;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Poll, ready};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Told after each batch, on the thread that wrote it (the writer's, or that of whoever called [`Journal::append_here`]), how far the journal is durable (never backwards), or once that it failed.
/// Must be quick and must not block: the next batch waits for it.
pub type DurableCallback = Box<dyn Fn(Result<Index, JournalFailure>) + Send + Sync>;

/// A journal with its writer. Clones are handles of the same journal; when the last one is dropped, what is queued is
/// still written, in the background. [`Journal::close`] waits for it.
///
/// A callback that holds a handle keeps the journal open.
#[derive(Clone)]
pub struct Journal {
    core: Arc<Core>,
}

struct Core {
    shared: Arc<Shared>,
    counters: Arc<Counters>,
    inbox: Arc<Inbox>,
    requests: Arc<Requests>,
    /// Once it has a thread.
    writer: OnceLock<SharedWriter>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    close_timeout: Duration,
}

impl Journal {
    /// Opens or creates the journal, see [`Log::open`], and starts its threads.
    pub fn open(disk: Arc<dyn Disk>, options: Options, from: Index) -> Result<(Journal, Opened)> {
        let (journal, steps, opened) = Journal::open_stepped(disk, options, from)?;
        journal.start(steps)?;
        Ok((journal, opened))
    }

    /// Starts the three threads of a journal that was opened without.
    pub fn start(&self, steps: Steps) -> Result<()> {
        let Steps { writer, keeper } = steps;
        let [spares, trims] = keeper::start(keeper)?;
        self.core.requests.want_spare();
        let (shared, writer) = writer::start(writer)?;
        let _ = self.core.writer.set(shared);
        self.core.threads.lock().unwrap_or_else(PoisonError::into_inner).extend([writer, spares, trims]);
        Ok(())
    }

    /// Opens or creates the journal without threads: nothing is written until [`Steps`] is told to. For recovery, and for
    /// simulations, which choose the moment of every write; whoever waits (`wait_durable`, `wait_trimmed`, `close`) without
    /// stepping waits in vain.
    pub fn open_stepped(
        disk: Arc<dyn Disk>,
        options: Options,
        from: Index,
    ) -> Result<(Journal, Steps, Opened)> {
        let close_timeout = options.close_timeout;
        let (log, opened) = Log::open(disk, options, from)?;
        let (shared, counters) = (Arc::clone(&log.shared), Arc::clone(&log.counters));
        let (inbox, requests) = (Arc::new(Inbox::new(opened.last)), Arc::new(Requests::default()));
        let keeper = Keeper::new(&log, &requests);
        let writer = Writer::new(log, Arc::clone(&inbox), Arc::clone(&requests));
        let core = Core {
            shared,
            counters,
            inbox,
            requests,
            writer: OnceLock::new(),
            threads: Mutex::default(),
            close_timeout,
        };
        Ok((Journal { core: Arc::new(core) }, Steps { writer, keeper }, opened))
    }

    /// Queues one entry and gives it its index at once. Does not wait; durability is told by the callbacks. Fails with
    /// `PayloadTooLarge` (nothing happened), `Failed` or `Closed`.
    pub fn append(&self, group: Group, payload: Vec<u8>) -> Result<Index> {
        let payload_crc = self.checked(&payload)?;
        self.core.inbox.push(group, payload, payload_crc)
    }

    /// As [`Journal::append`], but if nothing else was appended and the writer waits, the entry is written and synced on this thread, and the callbacks
    /// are called on it before this returns: two changes of threads less, for whoever has nothing better to do meanwhile.
    pub fn append_here(&self, group: Group, payload: Vec<u8>) -> Result<Index> {
        let payload_crc = self.checked(&payload)?;
        match self.core.writer.get() {
            Some(writer) => writer.append_here(&self.core.inbox, group, payload, payload_crc),
            None => self.core.inbox.push(group, payload, payload_crc),
        }
    }

    /// The checksum of a payload that is not too large.
    fn checked(&self, payload: &[u8]) -> Result<u32> {
        let bytes_max = self.core.shared.options.payload_bytes_max();
        if payload.len() > bytes_max {
            return Err(JournalError::PayloadTooLarge { bytes: payload.len(), bytes_max });
        }
        Ok(self.core.shared.seed().payload_crc(payload))
    }

    /// An empty buffer for the next payload, recycled from an earlier one if there is one.
    #[must_use]
    pub fn buffer(&self) -> Vec<u8> {
        self.core.inbox.buffer()
    }

    /// Registers a callback; several are called in the order of registration. A callback that comes after the failure is
    /// told at once, on this thread.
    pub fn on_durable(&self, callback: DurableCallback) {
        self.core.inbox.register(callback);
    }

    /// Waits until `index` is durable. For tools and tests; servers use callbacks.
    pub fn wait_durable(&self, index: Index) -> Result<()> {
        self.core.inbox.wait_durable(index)
    }

    /// The failure that ended this journal, if one did. Final: open it anew.
    pub fn check(&self) -> Result<()> {
        self.core.inbox.failure().map_or(Ok(()), |failure| Err(JournalError::Failed(failure)))
    }

    /// Last durable index.
    pub fn durable(&self) -> Index {
        Index(self.core.shared.durable())
    }

    /// Last index given out.
    pub fn appended(&self) -> Index {
        self.core.inbox.appended()
    }

    /// Payload bytes appended and not yet durable.
    pub fn bytes_pending(&self) -> u64 {
        self.core.inbox.bytes_pending()
    }

    /// Asks the background thread to archive or delete the segments that end at or before `up_to`. Does not wait;
    /// see [`Journal::wait_trimmed`]. Failures are counted in [`Stats::background_failures`].
    pub fn trim(&self, up_to: Index) {
        self.core.requests.trim(up_to);
    }

    /// Waits until the background thread has nothing to do; returns the trimmed cursor, or the last trim's error.
    pub fn wait_trimmed(&self) -> Result<Index> {
        self.core.requests.wait_idle()?;
        Ok(self.core.shared.cursors().trimmed)
    }

    /// The entries from `from` on that are durable now; see [`Log::read_from`]. Runs beside the writer.
    pub fn read_from(&self, from: Index) -> Result<Reader> {
        Reader::new(&self.core.shared, from)
    }

    /// First index that can be read: 1 unless history was deleted.
    pub fn first_index(&self) -> Index {
        Index(self.core.shared.catalog().first_index())
    }

    /// Largest payload that fits, in bytes.
    pub fn payload_bytes_max(&self) -> usize {
        self.core.shared.options.payload_bytes_max()
    }

    /// How far the journal has come.
    pub fn cursors(&self) -> Cursors {
        let mut cursors = self.core.shared.cursors();
        cursors.appended = self.core.inbox.appended();
        cursors.assert_ordered();
        cursors
    }

    /// Counters since the journal was opened.
    pub fn stats(&self) -> Stats {
        self.core.counters.snapshot()
    }

    /// Tells how many bytes were written since the journal was opened, as [`Stats::bytes`] does. Does not keep it open.
    pub fn meter(&self) -> impl Fn() -> u64 + Send + use<> {
        let counters = Arc::clone(&self.core.counters);
        move || counters.snapshot().bytes
    }

    /// Refuses further appends, and waits until what is queued is written and the directory is released. Needs no runtime;
    /// never blocks. Whoever calls [`Journal::close`] after it does not wait.
    pub async fn closed(&self) {
        self.core.inbox.close();
        poll_fn(|context| self.core.inbox.poll_done(context)).await;
        self.core.requests.close();
        poll_fn(|context| self.core.requests.poll_done(context)).await;
    }

    /// Refuses further appends, writes what is queued, ends its threads and releases the directory. Waits at most
    /// `Options::close_timeout`. Closing twice is fine. Must not be called from a callback.
    pub fn close(&self) -> Result<()> {
        let deadline = Instant::now() + self.core.close_timeout;
        self.core.inbox.close();
        let is_writer_done = self.core.inbox.wait_done(deadline);
        self.core.requests.close();
        let is_keeper_done = is_writer_done && self.core.requests.wait_done(deadline);
        if !is_keeper_done {
            return Err(JournalError::CloseTimedOut { durable: self.durable() });
        }
        let threads = std::mem::take(&mut *self.core.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // A panic has been reported as a failure already.
            let _ = thread.join();
        }
        self.check()
    }
}

/// What the threads of a journal do, one step at a time. Dropping it is the end of both: what is still queued is lost, as
/// when the process dies.
pub struct Steps {
    writer: Writer,
    keeper: Keeper,
}

impl Steps {
    /// Waits until there is something to write or to keep: true. False when the journal was closed, or has failed, and
    /// nothing is left to write: drop it then. Needs no runtime.
    pub async fn wanted(&self) -> bool {
        poll_fn(|context| {
            let keep = self.keeper.poll_wanted(context);
            match self.writer.poll_arrived(context) {
                Poll::Ready(arrived) => Poll::Ready(arrived),
                Poll::Pending => {
                    ready!(keep);
                    Poll::Ready(true)
                }
            }
        })
        .await
    }

    /// Writes and syncs what has been appended since the last step, and tells the callbacks. Whether there was anything.
    pub fn write(&mut self) -> bool {
        self.writer.step()
    }

    /// Prepares a spare segment or trims, if asked for. Whether there was anything to do.
    pub fn keep(&mut self) -> bool {
        self.keeper.step()
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.inbox.close();
        self.requests.close();
    }
}
