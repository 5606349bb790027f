//! The writer and its inbox. The only caller of `Log::append` and `Log::commit` of a running journal.
//!
//! The inbox's mutex is held for a push or a swap, never during I/O or a callback. Two queues take turns: one gathers
//! while the other is written. Must never drop an entry silently: it becomes durable, or the failure is told.

use crate::error::{JournalError, JournalFailure, Result};
use crate::journal::DurableCallback;
use crate::keeper::Requests;
use crate::log::Log;
use crate::types::{Group, Index};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::{self, JoinHandle};
use std::time::Instant;

/// Payload buffers kept for reuse, and the largest one worth keeping in bytes.
const RECYCLED_MAX: usize = 64;
const RECYCLED_BYTES_MAX: usize = 1 << 20;

struct Pending {
    group: Group,
    payload: Vec<u8>,
    payload_crc: u32,
}

/// Where appends wait for the writer.
pub(crate) struct Inbox {
    queue: Mutex<Queue>,
    /// Wakes the writer.
    arrived: Condvar,
    progress: Mutex<Progress>,
    /// Wakes those who wait for progress.
    progressed: Condvar,
    callbacks: Mutex<Arc<Vec<SharedCallback>>>,
    bytes_pending: AtomicU64,
}

type SharedCallback = Arc<DurableCallback>;

struct Queue {
    entries: Vec<Pending>,
    next: u64,
    is_writer_idle: bool,
    /// Whoever steps the writer, while it is idle.
    stepper: Option<Waker>,
    is_closing: bool,
    failure: Option<JournalFailure>,
    recycled: Vec<Vec<u8>>,
}

struct Progress {
    durable: u64,
    waiters: u32,
    is_done: bool,
    /// Woken when it is done.
    wakers: Vec<Waker>,
    failure: Option<JournalFailure>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inbox {
    pub(crate) fn new(last: Index) -> Inbox {
        Inbox {
            queue: Mutex::new(Queue {
                entries: Vec::new(),
                next: last.get() + 1,
                is_writer_idle: false,
                stepper: None,
                is_closing: false,
                failure: None,
                recycled: Vec::new(),
            }),
            arrived: Condvar::new(),
            progress: Mutex::new(Progress {
                durable: last.get(),
                waiters: 0,
                is_done: false,
                wakers: Vec::new(),
                failure: None,
            }),
            progressed: Condvar::new(),
            callbacks: Mutex::default(),
            bytes_pending: AtomicU64::new(0),
        }
    }

    /// Queues an entry, and wakes the writer if it waits for one.
    pub(crate) fn push(&self, group: Group, payload: Vec<u8>, payload_crc: u32) -> Result<Index> {
        self.push_for(group, payload, payload_crc, false).map(|(index, _)| index)
    }

    /// As [`Inbox::push`]; `for_here` it wakes nobody if the writer waits and there is nothing else: then whoever calls this has to
    /// write, and is told so.
    fn push_for(
        &self,
        group: Group,
        payload: Vec<u8>,
        payload_crc: u32,
        for_here: bool,
    ) -> Result<(Index, bool)> {
        let mut queue = lock(&self.queue);
        if let Some(failure) = &queue.failure {
            return Err(JournalError::Failed(failure.clone()));
        }
        if queue.is_closing {
            return Err(JournalError::Closed);
        }
        let index = queue.next;
        queue.next += 1;
        self.bytes_pending.fetch_add(payload.len() as u64, Ordering::Relaxed);
        let is_for_here = for_here && queue.entries.is_empty() && queue.is_writer_idle;
        queue.entries.push(Pending { group, payload, payload_crc });
        if !is_for_here && std::mem::take(&mut queue.is_writer_idle) {
            self.wake_writer(queue);
        }
        Ok((Index(index), is_for_here))
    }

    pub(crate) fn buffer(&self) -> Vec<u8> {
        lock(&self.queue).recycled.pop().unwrap_or_default()
    }

    pub(crate) fn appended(&self) -> Index {
        Index(lock(&self.queue).next - 1)
    }

    pub(crate) fn bytes_pending(&self) -> u64 {
        self.bytes_pending.load(Ordering::Relaxed)
    }

    pub(crate) fn failure(&self) -> Option<JournalFailure> {
        lock(&self.progress).failure.clone()
    }

    pub(crate) fn register(&self, callback: DurableCallback) {
        let mut callbacks = lock(&self.callbacks);
        // Under the lock: the writer sets the failure before it takes the list, so nobody is missed or told twice.
        if let Some(failure) = self.failure() {
            drop(callbacks);
            callback(Err(failure));
            return;
        }
        let mut list: Vec<SharedCallback> = callbacks.iter().cloned().collect();
        list.push(Arc::new(callback));
        *callbacks = Arc::new(list);
    }

    pub(crate) fn wait_durable(&self, index: Index) -> Result<()> {
        let mut progress = lock(&self.progress);
        progress.waiters += 1;
        let result = loop {
            if progress.durable >= index.get() {
                break Ok(());
            }
            if let Some(failure) = &progress.failure {
                break Err(JournalError::Failed(failure.clone()));
            }
            if progress.is_done {
                break Err(JournalError::Closed);
            }
            progress = self.progressed.wait(progress).unwrap_or_else(PoisonError::into_inner);
        };
        progress.waiters -= 1;
        result
    }

    pub(crate) fn close(&self) {
        let mut queue = lock(&self.queue);
        queue.is_closing = true;
        self.wake_writer(queue);
    }

    /// Outside of the lock, so that the writer does not wake to find it held.
    fn wake_writer(&self, mut queue: MutexGuard<'_, Queue>) {
        let stepper = queue.stepper.take();
        drop(queue);
        self.arrived.notify_one();
        if let Some(stepper) = stepper {
            stepper.wake();
        }
    }

    /// For whoever steps the writer: ready with true when there is something to write, with false when there never will be.
    pub(crate) fn poll_arrived(&self, context: &Context<'_>) -> Poll<bool> {
        let mut queue = lock(&self.queue);
        if !queue.entries.is_empty() {
            return Poll::Ready(true);
        }
        if queue.is_closing || queue.failure.is_some() {
            return Poll::Ready(false);
        }
        queue.is_writer_idle = true;
        queue.stepper = Some(context.waker().clone());
        Poll::Pending
    }

    /// Ready when the writer has ended.
    pub(crate) fn poll_done(&self, context: &Context<'_>) -> Poll<()> {
        let mut progress = lock(&self.progress);
        if progress.is_done {
            return Poll::Ready(());
        }
        if !progress.wakers.iter().any(|known| known.will_wake(context.waker())) {
            progress.wakers.push(context.waker().clone());
        }
        Poll::Pending
    }

    /// False if the writer did not end in time.
    pub(crate) fn wait_done(&self, deadline: Instant) -> bool {
        let mut progress = lock(&self.progress);
        progress.waiters += 1;
        while !progress.is_done {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            progress = self.progressed.wait_timeout(progress, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        progress.waiters -= 1;
        progress.is_done
    }

    /// Waits for entries; false when there will be none: closed and empty, or failed.
    fn wait_arrived(&self) -> bool {
        let mut queue = lock(&self.queue);
        loop {
            if !queue.entries.is_empty() {
                return true;
            }
            if queue.is_closing || queue.failure.is_some() {
                return false;
            }
            queue.is_writer_idle = true;
            queue = self.arrived.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.is_writer_idle = false;
        }
    }

    /// Swaps the queue for an empty one; false when there is nothing to take.
    fn take_now(&self, batch: &mut Vec<Pending>) -> bool {
        debug_assert!(batch.is_empty());
        std::mem::swap(&mut lock(&self.queue).entries, batch);
        !batch.is_empty()
    }

    fn publish(&self, durable: Index, batch: &mut Vec<Pending>) {
        let bytes = batch.iter().map(|pending| pending.payload.len() as u64).sum();
        self.bytes_pending.fetch_sub(bytes, Ordering::Relaxed);
        {
            let mut progress = lock(&self.progress);
            assert!(progress.durable < durable.get(), "each batch moves the durable index");
            progress.durable = durable.get();
            if progress.waiters > 0 {
                self.progressed.notify_all();
            }
        }
        self.call_back(&Ok(durable));
        self.recycle(batch);
    }

    fn recycle(&self, batch: &mut Vec<Pending>) {
        let mut spare: Vec<Vec<u8>> = Vec::new();
        {
            let mut queue = lock(&self.queue);
            for pending in batch.drain(..) {
                let mut payload = pending.payload;
                if queue.recycled.len() < RECYCLED_MAX
                    && (1..=RECYCLED_BYTES_MAX).contains(&payload.capacity())
                {
                    payload.clear();
                    queue.recycled.push(payload);
                } else {
                    spare.push(payload);
                }
            }
        }
        // Freed here, outside the lock.
        drop(spare);
    }

    /// Final: refuses what comes, tells everybody who waits.
    fn fail(&self, failure: &JournalFailure) {
        {
            let mut queue = lock(&self.queue);
            queue.failure = Some(failure.clone());
            queue.entries.clear();
            // Its thread may not know: it ends now.
            self.wake_writer(queue);
        }
        lock(&self.progress).failure = Some(failure.clone());
        self.progressed.notify_all();
        self.call_back(&Err(failure.clone()));
    }

    fn call_back(&self, outcome: &Result<Index, JournalFailure>) {
        let callbacks = Arc::clone(&lock(&self.callbacks));
        for callback in callbacks.iter() {
            callback(outcome.clone());
        }
    }
}

/// Says that the writer ended, however it ended.
struct DoneOnDrop {
    inbox: Arc<Inbox>,
    durable: Index,
}

impl Drop for DoneOnDrop {
    fn drop(&mut self) {
        if thread::panicking() && self.inbox.failure().is_none() {
            let cause = Arc::new(JournalError::WriterPanicked);
            self.inbox.fail(&JournalFailure { durable: self.durable, cause });
        }
        let mut progress = lock(&self.inbox.progress);
        progress.is_done = true;
        let wakers = std::mem::take(&mut progress.wakers);
        drop(progress);
        self.inbox.progressed.notify_all();
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// Writes one batch after the other, on a thread or step by step.
pub(crate) struct Writer {
    log: Log,
    requests: Arc<Requests>,
    batch: Vec<Pending>,
    segments: u64,
    /// Declared after the log, so dropped after it: "done" means that the directory is free again.
    done: DoneOnDrop,
}

impl Writer {
    pub(crate) fn new(log: Log, inbox: Arc<Inbox>, requests: Arc<Requests>) -> Writer {
        let durable = log.cursors().durable;
        Writer { log, requests, batch: Vec::new(), segments: 0, done: DoneOnDrop { inbox, durable } }
    }

    /// See [`Inbox::poll_arrived`].
    pub(crate) fn poll_arrived(&self, context: &Context<'_>) -> Poll<bool> {
        self.done.inbox.poll_arrived(context)
    }

    /// Writes what has arrived, if anything; whether there was something. After a failure there is nothing any more.
    pub(crate) fn step(&mut self) -> bool {
        let is_taken = self.done.inbox.take_now(&mut self.batch);
        is_taken && self.write()
    }

    /// Makes the batch durable and tells everybody; false if that failed, which is final.
    fn write(&mut self) -> bool {
        match self.make_durable() {
            Ok(durable) => {
                self.done.durable = durable;
                self.done.inbox.publish(durable, &mut self.batch);
            }
            Err(error) => {
                let failure = match error {
                    JournalError::Failed(failure) => failure,
                    error => JournalFailure { durable: self.done.durable, cause: Arc::new(error) },
                };
                self.done.inbox.fail(&failure);
                self.batch.clear();
                return false;
            }
        }
        let segments = self.log.stats().segments;
        if segments != self.segments {
            self.segments = segments;
            self.requests.want_spare();
        }
        true
    }

    fn make_durable(&mut self) -> Result<Index> {
        for pending in &self.batch {
            self.log.append_prepared(pending.group, &pending.payload, pending.payload_crc)?;
        }
        self.log.commit()
    }
}

/// A writer that has a thread, and that whoever appends may use while the thread has nothing to do. Empty once the thread has
/// ended, or somebody panicked who used it.
#[derive(Clone)]
pub(crate) struct SharedWriter(Arc<Mutex<Option<Writer>>>);

impl SharedWriter {
    /// Appends and writes on this thread, unless the writer is at work: it takes the entry then.
    pub(crate) fn append_here(
        &self,
        inbox: &Inbox,
        group: Group,
        payload: Vec<u8>,
        payload_crc: u32,
    ) -> Result<Index> {
        // Poisoned: whoever panicked in there is about to say so.
        let Ok(mut here) = self.0.try_lock() else { return inbox.push(group, payload, payload_crc) };
        let (index, is_for_here) = inbox.push_for(group, payload, payload_crc, here.is_some())?;
        if is_for_here {
            // A failure is told as always.
            step(&mut here);
        }
        Ok(index)
    }

    /// What the thread does.
    fn run(&self, inbox: &Inbox) {
        while inbox.wait_arrived() {
            // Somebody may have written what had arrived.
            if !step(&mut lock(&self.0)) {
                return;
            }
        }
    }
}

/// Writes what has arrived, if anything; false if there is no writer any more. It is taken out for as long as it writes: if that
/// panics it is dropped, which tells everybody, and nobody goes on with what it left half done.
fn step(here: &mut Option<Writer>) -> bool {
    let Some(mut writer) = here.take() else { return false };
    writer.step();
    *here = Some(writer);
    true
}

/// The end of the thread is the end of its writer.
struct EndOnDrop(SharedWriter);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        drop(lock(&self.0.0).take());
    }
}

pub(crate) fn start(writer: Writer) -> Result<(SharedWriter, JoinHandle<()>)> {
    let dir = writer.log.shared.options.dir.clone();
    let inbox = Arc::clone(&writer.done.inbox);
    let shared = SharedWriter(Arc::new(Mutex::new(Some(writer))));
    let end = EndOnDrop(shared.clone());
    let run = move || end.0.run(&inbox);
    let thread = thread::Builder::new().name("journal-writer".into()).spawn(run);
    Ok((shared, thread.map_err(JournalError::io("start a thread for", &dir))?))
}
