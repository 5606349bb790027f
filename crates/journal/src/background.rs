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
/// processes, not of threads, it only rests.
pub fn step_back() {
    HAS_STEPPED_BACK.set(true);
    // Linux takes the id of a thread wherever it takes that of a process (setpriority(2), "C library/kernel differences").
    // Where it is refused the thread does its work at its old priority.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE);
}

/// Rests, if this thread has stepped back.
pub(crate) fn rest(time: Duration) {
    if HAS_STEPPED_BACK.get() && !time.is_zero() {
        std::thread::sleep(time);
    }
}

/// Spreads work over a time: no part of it is done sooner than its share of the time.
#[derive(Debug)]
pub struct Pace {
    begun: Instant,
    within: Duration,
}

impl Pace {
    /// Begins now.
    pub fn new(within: Duration) -> Self {
        Self { begun: Instant::now(), within }
    }

    /// For work that somebody waits for.
    pub fn none() -> Self {
        Self::new(Duration::ZERO)
    }

    /// So much of all is done: rests until it is due.
    pub fn reached(&self, done: usize, all: usize) {
        rest(ahead(self.within, self.begun.elapsed(), done, all));
    }
}

/// How long before its due time a part is done.
fn ahead(within: Duration, elapsed: Duration, done: usize, all: usize) -> Duration {
    let share = if all == 0 { 1.0 } else { (done as f64 / all as f64).min(1.0) };
    within.mul_f64(share).saturating_sub(elapsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_due_at_its_share_of_the_time() {
        let ms = Duration::from_millis;
        assert_eq!(ahead(ms(1_000), ms(100), 250, 1_000), ms(150));
        assert_eq!(ahead(ms(1_000), ms(250), 250, 1_000), ms(0), "just in time");
        assert_eq!(ahead(ms(1_000), ms(900), 250, 1_000), ms(0), "late");
        assert_eq!(ahead(ms(1_000), ms(0), 5, 1), ms(1_000), "never more than all of it");
        assert_eq!(ahead(ms(1_000), ms(400), 0, 0), ms(600));
        assert_eq!(ahead(Duration::ZERO, ms(0), 1, 1), ms(0));
    }

    #[test]
    fn only_who_has_stepped_back_rests() {
        let hour = Pace::new(Duration::from_secs(3_600));
        hour.reached(1, 1);
        assert!(hour.begun.elapsed() < Duration::from_secs(60));
        let rested = std::thread::spawn(|| {
            step_back();
            let pace = Pace::new(Duration::from_millis(30));
            pace.reached(1, 2);
            let half = pace.begun.elapsed();
            pace.reached(2, 2);
            (half, pace.begun.elapsed())
        });
        let (half, whole) = rested.join().unwrap();
        assert!(
            half >= Duration::from_millis(15) && whole >= Duration::from_millis(30),
            "{half:?} {whole:?}"
        );
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
