//! Threads whose work can wait, such as those that write checkpoints or pack old segments.

/// The lowest of the scheduler's weights but for nine: about a tenth of what a thread that serves callers gets where both want the
/// same processor, and all of it where nobody else does.
const NICE: i32 = 10;

/// Lets the threads that serve callers go first, for the rest of the life of the calling thread. On systems where priorities are of
/// processes, not of threads, does nothing.
pub fn step_back() {
    // Linux takes the id of a thread wherever it takes that of a process (setpriority(2), "C library/kernel differences").
    // Where it is refused the thread does its work at its old priority.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE);
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #[test]
    fn only_the_calling_thread_steps_back() {
        let nice = || rustix::process::getpriority_process(Some(rustix::thread::gettid())).unwrap();
        let before = nice();
        let stepped = std::thread::spawn(move || {
            super::step_back();
            nice()
        });
        assert_eq!((stepped.join().unwrap(), nice()), (super::NICE.max(before), before));
    }
}
