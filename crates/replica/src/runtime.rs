//! What Raft's tasks run on: tokio, or whatever a simulation puts in its place on its own thread.
//!
//! A simulation installs an [`Executor`] for as long as it moves one process ([`with_executor`]): tasks, time and randomness then
//! come from there, so that one seed is one run. Channels are tokio's in both cases, where
//! they need no runtime and draw nothing at random.
//!
//! **Invariant:** nothing of a replica takes time or randomness from anywhere else.

use std::cell::RefCell;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use openraft_rt::{AsyncRuntime, OptionalSend};
use openraft_rt_tokio::{TokioMpsc, TokioMutex, TokioOneshot};
use tokio::sync::oneshot;

use crate::watch::Watch;

/// A piece of work that runs until it ends.
pub type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where tasks run, and what time it is there.
pub trait Executor: Send + Sync {
    /// Runs a task, not before this returns.
    fn spawn(&self, task: Task);
    /// Time since some fixed instant; never goes back.
    fn now(&self) -> Duration;
    /// Wakes at a time, or later.
    fn wake_at(&self, at: Duration, waker: &Waker);
    /// The next random number.
    fn random(&self) -> u64;
}

thread_local! {
    static EXECUTOR: RefCell<Option<Arc<dyn Executor>>> = const { RefCell::new(None) };
}

/// Runs `work` with an executor in place of tokio, on this thread.
pub fn with_executor<T>(executor: &Arc<dyn Executor>, work: impl FnOnce() -> T) -> T {
    struct Restore(Option<Arc<dyn Executor>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            EXECUTOR.with(|slot| *slot.borrow_mut() = self.0.take());
        }
    }
    let before = EXECUTOR.with(|slot| slot.borrow_mut().replace(Arc::clone(executor)));
    let _restore = Restore(before);
    work()
}

fn executor() -> Option<Arc<dyn Executor>> {
    EXECUTOR.with(|slot| slot.borrow().clone())
}

/// Runs a task in the background.
pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    match executor() {
        Some(executor) => executor.spawn(Box::pin(task)),
        None => drop(tokio::spawn(task)),
    }
}

/// A random number.
pub(crate) fn random() -> u64 {
    executor().map_or_else(rand::random, |executor| executor.random())
}

/// Does something that blocks, without holding up the tasks of the runtime. A simulation has no other thread, and does it at once.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    match executor() {
        Some(_) => Some(work()),
        None => tokio::task::spawn_blocking(work).await.ok(),
    }
}

/// Resolves after a time.
pub(crate) fn sleep(time: Duration) -> Sleep {
    Sleep::until(Instant::of_now() + time)
}

/// The result of `future`, unless that takes longer.
pub(crate) async fn within<T>(time: Duration, future: impl Future<Output = T> + Send) -> Option<T> {
    Runtime::timeout(time, future).await.ok()
}

/// The runtime as openraft wants it.
#[derive(Debug, Clone, Copy)]
pub struct Runtime;

/// Time since the start of the process, or of the simulation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(Duration);

impl Instant {
    pub(crate) fn of_now() -> Self {
        static ORIGIN: LazyLock<std::time::Instant> = LazyLock::new(std::time::Instant::now);
        match executor() {
            Some(executor) => Self(executor.now()),
            // One second of room below, for whoever subtracts.
            None => Self(ORIGIN.elapsed() + Duration::from_secs(1)),
        }
    }
}

impl Instant {
    /// Whole milliseconds; what is beyond them is cut off.
    pub(crate) fn ms(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn of_ms(ms: u64) -> Self {
        Self(Duration::from_millis(ms))
    }
}

impl openraft_rt::Instant for Instant {
    fn now() -> Self {
        Self::of_now()
    }
}

impl Add<Duration> for Instant {
    type Output = Self;
    fn add(self, time: Duration) -> Self {
        Self(self.0.saturating_add(time))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, time: Duration) {
        *self = *self + time;
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;
    fn sub(self, time: Duration) -> Self {
        Self(self.0.saturating_sub(time))
    }
}

impl SubAssign<Duration> for Instant {
    fn sub_assign(&mut self, time: Duration) {
        *self = *self - time;
    }
}

impl Sub for Instant {
    type Output = Duration;
    fn sub(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// Resolves at an instant.
pub struct Sleep(Inner);

enum Inner {
    Tokio(Pin<Box<tokio::time::Sleep>>),
    /// And who is to be woken then: told once, however often it is polled.
    Simulated(Instant, Option<Waker>),
}

impl Sleep {
    fn until(at: Instant) -> Self {
        match executor() {
            Some(_) => Self(Inner::Simulated(at, None)),
            None => Self(Inner::Tokio(Box::pin(tokio::time::sleep(at - Instant::of_now())))),
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        match &mut self.0 {
            Inner::Tokio(sleep) => sleep.as_mut().poll(context),
            Inner::Simulated(at, told) => {
                // Without one the process is gone, and nobody polls it.
                let Some(executor) = executor() else { return Poll::Pending };
                if executor.now() >= at.0 {
                    return Poll::Ready(());
                }
                if !told.as_ref().is_some_and(|told| told.will_wake(context.waker())) {
                    executor.wake_at(at.0, context.waker());
                    *told = Some(context.waker().clone());
                }
                Poll::Pending
            }
        }
    }
}

/// A task has panicked, or its executor is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the task ended without a result")]
pub struct JoinError;

/// Resolves to what a task gave.
pub struct JoinHandle<T>(oneshot::Receiver<T>);

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map_err(|_| JoinError)
    }
}

/// The time was over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the time is over")]
pub struct Elapsed;

/// A future with a limit in time.
pub struct Timeout<F> {
    future: Pin<Box<F>>,
    limit: Sleep,
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(output) = self.future.as_mut().poll(context) {
            return Poll::Ready(Ok(output));
        }
        Pin::new(&mut self.limit).poll(context).map(|()| Err(Elapsed))
    }
}

/// Random numbers of the executor, or of the system.
pub struct Rng(Option<Arc<dyn Executor>>, rand::rngs::ThreadRng);

impl rand::TryRng for Rng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        self.try_next_u64().map(|number| (number >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        match &self.0 {
            Some(executor) => Ok(executor.random()),
            None => self.1.try_next_u64(),
        }
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for chunk in bytes.chunks_mut(8) {
            let number = self.try_next_u64()?.to_le_bytes();
            chunk.copy_from_slice(&number[..chunk.len()]);
        }
        Ok(())
    }
}

impl AsyncRuntime for Runtime {
    type JoinError = JoinError;
    type JoinHandle<T: OptionalSend + 'static> = JoinHandle<T>;
    type Sleep = Sleep;
    type Instant = Instant;
    type TimeoutError = Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = Timeout<T>;
    type ThreadLocalRng = Rng;
    type Mpsc = TokioMpsc;
    type Watch = Watch;
    type Oneshot = TokioOneshot;
    type Mutex<T: OptionalSend + 'static> = TokioMutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        let (done, result) = oneshot::channel();
        // Whoever wanted the result may have gone.
        spawn(async move { drop(done.send(future.await)) });
        JoinHandle(result)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        Sleep::until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        Timeout { future: Box::pin(future), limit: sleep(duration) }
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        Timeout { future: Box::pin(future), limit: Sleep::until(deadline) }
    }

    fn is_panic(_: &Self::JoinError) -> bool {
        // A panic ends the process, or the simulation: nobody is left to be told.
        false
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        Rng(executor(), rand::rng())
    }

    fn new(_: usize) -> Self {
        Self
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime can be made").block_on(future)
    }
}

impl fmt::Debug for Sleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sleep")
    }
}
