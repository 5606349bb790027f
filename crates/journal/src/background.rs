//! Threads whose work can wait, such as those that write checkpoints or pack old segments.
//!
//! They step back from the processors, by their priority, and from the disk, which knows none, by resting: a log that has to be
//! synced a thousand times a second should not meet a file of 50 MB that somebody is in a hurry to write.
//!
//! **Invariant:** only a thread that has stepped back ever rests. Work that somebody does himself, because he waits for it or because
//! he is a simulation, goes on without.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// The lowest of the scheduler's weights but for nine: about a tenth of what a thread that serves callers gets where both want the
/// same processor, and all of it where nobody else does.
const NICE: i32 = 10;

thread_local! {
    static HAS_STEPPED_BACK: Cell<bool> = const { Cell::new(false) };
}

/// Lets the threads that serve callers go first, for the rest of the life of the calling thread. On systems where priorities are of
/// processes, not of threads, it only lets the thread rest.
pub fn step_back() {
    HAS_STEPPED_BACK.set(true);
    // Linux takes the id of a thread wherever it takes that of a process (setpriority(2), "C library/kernel differences").
    // Where it is refused the thread does its work at its old priority.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE);
}

/// Rests, if this thread has stepped back.
fn rest(time: Duration) {
    if HAS_STEPPED_BACK.get() && !time.is_zero() {
        std::thread::sleep(time);
    }
}

/// Work that takes turns with its rests: each is as long as the work was since the last one.
#[derive(Debug)]
pub(crate) struct Turns {
    since: Instant,
}

impl Turns {
    /// Work that took longer than this was held up itself.
    const REST_MAX: Duration = Duration::from_millis(20);

    pub(crate) fn new() -> Self {
        Self { since: Instant::now() }
    }

    /// A piece is done: rests, unless there is a hurry.
    pub(crate) fn done(&mut self, hurries: bool) {
        if !hurries {
            rest(self.since.elapsed().min(Self::REST_MAX));
        }
        self.since = Instant::now();
    }
}

/// How long a thread rests before it looks again whether it is still ahead.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Spreads work over the time that there is for it.
pub struct Pace {
    begun: Instant,
    /// By then all of it may be done, whatever else happens.
    within: Duration,
    /// The share of the time that is gone by another measure: what happens meanwhile may shorten the time.
    gone: Box<dyn Fn() -> f64 + Send>,
}

impl Pace {
    /// Begins now. `gone` tells which share of the time is gone, 1.0 for all of it; at the end of `within` all of it is.
    pub fn new(within: Duration, gone: impl Fn() -> f64 + Send + 'static) -> Self {
        Self { begun: Instant::now(), within, gone: Box::new(gone) }
    }

    /// For work that somebody waits for.
    pub fn none() -> Self {
        Self::new(Duration::ZERO, || 1.0)
    }

    /// So much of all is done: rests until that share of the time is gone.
    pub fn reached(&self, done: usize, all: usize) {
        let share = if all == 0 { 1.0 } else { done as f64 / all as f64 };
        while HAS_STEPPED_BACK.get() && share > (self.gone)() {
            let left = self.within.mul_f64(share.min(1.0)).saturating_sub(self.begun.elapsed());
            if left.is_zero() {
                break;
            }
            rest(left.min(LOOK_EVERY));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long a thread that has stepped back takes for two halves.
    fn halves(pace: Pace) -> (Duration, Duration) {
        let halves = std::thread::spawn(move || {
            step_back();
            pace.reached(1, 2);
            let half = pace.begun.elapsed();
            pace.reached(2, 2);
            (half, pace.begun.elapsed())
        });
        halves.join().unwrap()
    }

    const LONG: Duration = Duration::from_secs(20);
    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn a_part_is_due_at_its_share_of_the_time() {
        let (half, whole) = halves(Pace::new(Duration::from_millis(30), || 0.0));
        assert!(
            half >= Duration::from_millis(15) && whole >= Duration::from_millis(30),
            "{half:?} {whole:?}"
        );
    }

    #[test]
    fn nobody_rests_whose_time_is_gone() {
        assert!(halves(Pace::new(LONG, || 1.0)).1 < SOON);
        assert!(halves(Pace::none()).1 < SOON);
        // It goes while the first half rests.
        let looked = std::sync::atomic::AtomicU32::new(0);
        let gone = move || f64::from(looked.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) / 4.0;
        assert!(halves(Pace::new(LONG, gone)).1 < SOON);
    }

    #[test]
    fn only_who_has_stepped_back_rests() {
        let pace = Pace::new(LONG, || 0.0);
        pace.reached(1, 1);
        rest(LONG);
        assert!(pace.begun.elapsed() < SOON);
    }

    #[test]
    fn work_rests_for_as_long_as_it_took_unless_there_is_a_hurry() {
        const WORK: Duration = Duration::from_millis(5);
        let three = |hurries| {
            std::thread::spawn(move || {
                step_back();
                let (begun, mut turns) = (Instant::now(), Turns::new());
                let worked: Duration = (0..3)
                    .map(|_| {
                        let piece = Instant::now();
                        std::thread::sleep(WORK);
                        let worked = piece.elapsed();
                        turns.done(hurries);
                        worked.min(Turns::REST_MAX)
                    })
                    .sum();
                (begun.elapsed(), worked)
            })
        };
        let (elapsed, worked) = three(false).join().unwrap();
        assert!(elapsed >= 2 * worked, "{elapsed:?} for {worked:?} of work");
        let hurried = (0..100).map(|_| three(true).join().unwrap());
        let hurried: Vec<_> = hurried.take_while(|(elapsed, worked)| *elapsed >= 2 * *worked).collect();
        assert!(hurried.len() < 100, "it rested every time: {hurried:?}");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn only_the_calling_thread_steps_back() {
        let nice = || rustix::process::getpriority_process(Some(rustix::thread::gettid())).unwrap();
        let before = nice();
        let stepped = std::thread::spawn(move || {
            step_back();
            nice()
        });
        assert_eq!((stepped.join().unwrap(), nice()), (NICE.max(before), before));
    }
}
