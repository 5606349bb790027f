//! The keeper: prepares the next segment and trims old ones, so that the writer never does.
//!
//! Each of the two has a thread. Packing a segment takes a tenth of a second of processor time that somebody else wants, and can
//! wait, so that thread steps back; the writer must never wait for the next segment, so the other does not.
//!
//! A failure here is not final for the journal: it is counted, and the job is done again at the next request. Must never
//! touch the segment being written.

use crate::background::step_back;
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

/// What the keeper is asked for. Requests of the same kind merge, so this is bounded.
#[derive(Default)]
pub(crate) struct Requests {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    wants_spare: bool,
    trim_to: Option<Index>,
    /// Jobs that are being done.
    busy: u32,
    is_closing: bool,
    /// Keepers that have not ended.
    keepers: u32,
    trim_error: Option<JournalError>,
    /// Whoever steps the keeper, or waits until it is done.
    wakers: Vec<Waker>,
}

enum Job {
    Spare,
    Trim(Index),
}

/// What a keeper does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Duty {
    Spares,
    Trims,
    /// Spares first.
    Both,
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
        if state.keepers == 0 {
            return Poll::Ready(());
        }
        state.wake_later(context.waker());
        Poll::Pending
    }

    /// Whether somebody waits for the trim that is under way: the next is asked for already, or the end.
    fn hurries(&self) -> bool {
        let state = self.lock();
        state.is_closing || state.trim_to.is_some()
    }

    /// Waits until every request so far was served; the error of the last trim, if it failed.
    pub(crate) fn wait_idle(&self) -> Result<()> {
        let mut state = self.lock();
        while state.keepers > 0 && (state.busy > 0 || state.wants_spare || state.trim_to.is_some()) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.trim_error.clone().map_or(Ok(()), Err)
    }

    /// False if the threads did not end in time.
    pub(crate) fn wait_done(&self, deadline: Instant) -> bool {
        let mut state = self.lock();
        while state.keepers > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.keepers == 0
    }

    /// Waits for the next job of a duty. `None` when closing, whatever was still asked for.
    fn next(&self, duty: Duty) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if state.is_closing {
                return None;
            }
            if let Some(job) = state.take(duty) {
                return Some(job);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn finished(&self, trim_outcome: Option<Result<()>>) {
        let mut state = self.lock();
        state.busy -= 1;
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

    /// The next job of a duty, if there is one.
    fn take(&mut self, duty: Duty) -> Option<Job> {
        let job = if duty != Duty::Trims && std::mem::take(&mut self.wants_spare) {
            Job::Spare
        } else if duty != Duty::Spares {
            Job::Trim(self.trim_to.take()?)
        } else {
            return None;
        };
        self.busy += 1;
        Some(job)
    }
}

/// Says that a keeper ended, however it ended.
struct DoneOnDrop {
    requests: Arc<Requests>,
    is_busy: bool,
}

impl DoneOnDrop {
    fn new(requests: &Arc<Requests>) -> Self {
        requests.lock().keepers += 1;
        Self { requests: Arc::clone(requests), is_busy: false }
    }
}

impl Drop for DoneOnDrop {
    fn drop(&mut self) {
        let mut state = self.requests.lock();
        state.keepers -= 1;
        state.busy -= u32::from(self.is_busy);
        self.requests.tell(state);
    }
}

/// Serves requests, on a thread or step by step.
pub(crate) struct Keeper {
    shared: Arc<Shared>,
    counters: Arc<Counters>,
    spares: Arc<SpareSlot>,
    duty: Duty,
    /// The directory stays locked until the keeper is through, too.
    lock: Arc<dyn LockGuard>,
    /// Declared last, so dropped last: "done" means that the directory is free again.
    done: DoneOnDrop,
}

impl Keeper {
    pub(crate) fn new(log: &Log, requests: &Arc<Requests>) -> Keeper {
        Keeper {
            shared: Arc::clone(&log.shared),
            counters: Arc::clone(&log.counters),
            spares: Arc::clone(&log.spares),
            duty: Duty::Both,
            lock: Arc::clone(&log.lock),
            done: DoneOnDrop::new(requests),
        }
    }

    /// Two that share the work.
    fn split(self) -> [Keeper; 2] {
        let trims = Keeper {
            shared: Arc::clone(&self.shared),
            counters: Arc::clone(&self.counters),
            spares: Arc::clone(&self.spares),
            duty: Duty::Trims,
            lock: Arc::clone(&self.lock),
            done: DoneOnDrop::new(&self.done.requests),
        };
        [Keeper { duty: Duty::Spares, ..self }, trims]
    }

    /// See [`Requests::poll_wanted`].
    pub(crate) fn poll_wanted(&self, context: &Context<'_>) -> Poll<()> {
        self.done.requests.poll_wanted(context)
    }

    /// Serves one request, if there is one; whether there was.
    pub(crate) fn step(&mut self) -> bool {
        let job = self.done.requests.lock().take(self.duty);
        job.map(|job| self.serve(&job)).is_some()
    }

    fn run(mut self) {
        if self.duty == Duty::Trims {
            step_back();
        }
        while let Some(job) = self.done.requests.next(self.duty) {
            self.serve(&job);
        }
    }

    fn serve(&mut self, job: &Job) {
        self.done.is_busy = true;
        let Keeper { shared, counters, spares, done, .. } = self;
        let hurries = || done.requests.hurries();
        let (outcome, is_trim) = match job {
            Job::Spare => (spares.fill(&*shared.disk, &shared.options), false),
            Job::Trim(up_to) => (trim::trim(shared, counters, spares, *up_to, &hurries).map(drop), true),
        };
        if outcome.is_err() {
            counters.background_failure();
        }
        self.done.is_busy = false;
        self.done.requests.finished(is_trim.then_some(outcome));
    }
}

/// Starts a thread for each of the two duties.
pub(crate) fn start(keeper: Keeper) -> Result<[JoinHandle<()>; 2]> {
    let dir = keeper.shared.options.dir.clone();
    let spawn = |name: &str, keeper: Keeper| {
        let thread = thread::Builder::new().name(name.into());
        thread.spawn(move || keeper.run()).map_err(JournalError::io("start a thread for", &dir))
    };
    let [spares, trims] = keeper.split();
    Ok([spawn("journal-spares", spares)?, spawn("journal-trims", trims)?])
}
