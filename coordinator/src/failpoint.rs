//! Points at which a test can make the process die, compiled in by the feature `failpoints` only.
//!
//! Set by the environment variable `FAILPOINTS`, for example `FAILPOINTS="coordinator::after_decide_durable=5*off->return"`
//! dies at the sixth time.

/// Dies (as by SIGKILL: nothing is flushed) if the failpoint is set.
#[cfg(feature = "failpoints")]
pub(crate) fn die_at(name: &str) {
    if is_set(name) {
        tracing::error!(failpoint = name, "dying as told");
        std::process::abort();
    }
}

/// Whether the failpoint is set and fires now.
#[cfg(feature = "failpoints")]
pub(crate) fn is_set(name: &str) -> bool {
    fail::eval(name, |_| ()).is_some()
}

/// Nothing, without the feature.
#[cfg(not(feature = "failpoints"))]
pub(crate) const fn die_at(_name: &str) {}

/// Never, without the feature.
#[cfg(not(feature = "failpoints"))]
pub(crate) const fn is_set(_name: &str) -> bool {
    false
}

/// Set once a write was lost: the log is ordered, so everything after it is lost too.
#[cfg(feature = "failpoints")]
static LOSING: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

/// From now on nothing reaches the disk. Whether that was so already.
#[cfg(feature = "failpoints")]
pub(crate) fn lose_from_now_on() -> bool {
    LOSING.swap(true, std::sync::atomic::Ordering::SeqCst)
}

/// Whether nothing reaches the disk any more.
#[cfg(feature = "failpoints")]
pub(crate) fn is_losing() -> bool {
    LOSING.load(std::sync::atomic::Ordering::SeqCst)
}

/// Never called, without the feature.
#[cfg(not(feature = "failpoints"))]
pub(crate) const fn lose_from_now_on() -> bool {
    false
}

/// Never, without the feature.
#[cfg(not(feature = "failpoints"))]
pub(crate) const fn is_losing() -> bool {
    false
}
