//! The keeper, the background thread: prepares the next segment and trims old ones, so that the writer never does.
//!
//! A failure here is not final for the journal: it is counted, and the job is done again at the next request. Must never
//! touch the segment being written.

use crate::catalog::Shared;
use crate::error::{JournalError, Result};
use crate::log::Log;
use crate::spare::SpareSlot;
use crate::stats::Counters;
use crate::storage::LockGuard;
use crate::trim;
use crate::types::Index;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::{self, JoinHandle};
use std::time::Instant;

/// What the background thread is asked for. Requests of the same kind merge, so this is bounded.
#[derive(Default)]
pub(crate) struct Requests {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    wants_spare: bool,
    trim_to: Option<Index>,
    is_busy: bool,
    is_closing: bool,
    is_done: bool,
    trim_error: Option<JournalError>,
    /// Whoever steps the keeper, or waits until it is done.
    wakers: Vec<Waker>,
}

enum Job {
    Spare,
    Trim(Index),
}

impl Requests {
    pub(crate) fn want_spare(&self) {
        let mut state = self.lock();
        state.wants_spare = true;
        self.tell(state);
    }

    pub(crate) fn trim(&self, up_to: Index) {
        let mut state = self.lock();
        state.trim_to = state.trim_to.max(Some(up_to));
        self.tell(state);
    }

    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.is_closing = true;
        self.tell(state);
    }

    /// Wakes everybody who waits for a change.
    fn tell(&self, mut state: MutexGuard<'_, State>) {
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        self.changed.notify_all();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// For whoever steps the keeper: ready when there is something to do.
    fn poll_wanted(&self, context: &Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.wants_spare || state.trim_to.is_some() {
            return Poll::Ready(());
        }
        state.wake_later(context.waker());
        Poll::Pending
    }

    /// Ready when the keeper has ended.
    pub(crate) fn poll_done(&self, context: &Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.is_done {
            return Poll::Ready(());
        }
        state.wake_later(context.waker());
        Poll::Pending
    }

    /// Waits until every request so far was served; the error of the last trim, if it failed.
    pub(crate) fn wait_idle(&self) -> Result<()> {
        let mut state = self.lock();
        while !state.is_done && (state.is_busy || state.wants_spare || state.trim_to.is_some()) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.trim_error.clone().map_or(Ok(()), Err)
    }

    /// False if the thread did not end in time.
    pub(crate) fn wait_done(&self, deadline: Instant) -> bool {
        let mut state = self.lock();
        while !state.is_done {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.is_done
    }

    /// Waits for the next job. `None` when closing, whatever was still asked for.
    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if state.is_closing {
                return None;
            }
            if let Some(job) = state.take() {
                return Some(job);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn finished(&self, trim_outcome: Option<Result<()>>) {
        let mut state = self.lock();
        state.is_busy = false;
        if let Some(outcome) = trim_outcome {
            state.trim_error = outcome.err();
        }
        self.tell(state);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wake_later(&mut self, waker: &Waker) {
        if !self.wakers.iter().any(|known| known.will_wake(waker)) {
            self.wakers.push(waker.clone());
        }
    }

    /// The next job, if there is one; spares first.
    fn take(&mut self) -> Option<Job> {
        let job =
            if std::mem::take(&mut self.wants_spare) { Job::Spare } else { Job::Trim(self.trim_to.take()?) };
        self.is_busy = true;
        Some(job)
    }
}

/// Says that the keeper ended, however it ended.
struct DoneOnDrop(Arc<Requests>);

impl Drop for DoneOnDrop {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.is_done = true;
        state.is_busy = false;
        self.0.tell(state);
    }
}

/// Serves requests, on a thread or step by step.
pub(crate) struct Keeper {
    shared: Arc<Shared>,
    counters: Arc<Counters>,
    spares: Arc<SpareSlot>,
    requests: Arc<Requests>,
    _done: DoneOnDrop,
    /// The directory stays locked until the keeper is through, too.
    _lock: Arc<dyn LockGuard>,
}

impl Keeper {
    pub(crate) fn new(log: &Log, requests: Arc<Requests>) -> Keeper {
        Keeper {
            shared: Arc::clone(&log.shared),
            counters: Arc::clone(&log.counters),
            spares: Arc::clone(&log.spares),
            _done: DoneOnDrop(Arc::clone(&requests)),
            requests,
            _lock: Arc::clone(&log.lock),
        }
    }

    /// See [`Requests::poll_wanted`].
    pub(crate) fn poll_wanted(&self, context: &Context<'_>) -> Poll<()> {
        self.requests.poll_wanted(context)
    }

    /// Serves one request, if there is one; whether there was.
    pub(crate) fn step(&mut self) -> bool {
        let job = self.requests.lock().take();
        job.map(|job| self.serve(&job)).is_some()
    }

    fn serve(&mut self, job: &Job) {
        let Keeper { shared, counters, spares, requests, .. } = self;
        let (outcome, is_trim) = match job {
            Job::Spare => (spares.fill(&*shared.disk, &shared.options), false),
            Job::Trim(up_to) => (trim::trim(shared, counters, spares, *up_to).map(drop), true),
        };
        if outcome.is_err() {
            counters.background_failure();
        }
        requests.finished(is_trim.then_some(outcome));
    }
}

pub(crate) fn start(mut keeper: Keeper) -> Result<JoinHandle<()>> {
    let dir = keeper.shared.options.dir.clone();
    thread::Builder::new()
        .name("journal-keeper".into())
        .spawn(move || {
            while let Some(job) = keeper.requests.next() {
                keeper.serve(&job);
            }
        })
        .map_err(JournalError::io("start a thread for", &dir))
}
