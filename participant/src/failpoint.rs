//! Points at which a test can make the process die, compiled in by the feature `failpoints` only.
//!
//! Set by the environment variable `FAILPOINTS`, for example `FAILPOINTS="participant::after_try_durable=5*off->return"`
//! dies at the sixth time.

use escrow_wallet::Command;

/// Dies (as by SIGKILL: nothing is flushed) if the failpoint is set.
#[cfg(feature = "failpoints")]
pub(crate) fn die_at(name: &str) {
    if fail::eval(name, |_| ()).is_some() {
        tracing::error!(failpoint = name, "dying as told");
        std::process::abort();
    }
}

/// Nothing, without the feature.
#[cfg(not(feature = "failpoints"))]
pub(crate) const fn die_at(_name: &str) {}

/// Dies if the failpoint before the log write of such a command is set.
pub(crate) fn before_durable(command: &Command) {
    match command {
        Command::Try(_) | Command::TryAndConfirm(_) => die_at("participant::before_try_durable"),
        Command::Confirm(_) => die_at("participant::before_confirm_durable"),
        Command::Cancel(_) | Command::Fence(_) => die_at("participant::before_cancel_durable"),
        _ => {}
    }
}

/// Dies if the failpoint after the log write and before the answer of such a command is set.
pub(crate) fn after_durable(command: &Command) {
    match command {
        Command::Try(_) | Command::TryAndConfirm(_) => die_at("participant::after_try_durable"),
        Command::Confirm(_) => die_at("participant::after_confirm_durable"),
        Command::Cancel(_) | Command::Fence(_) => die_at("participant::after_cancel_durable"),
        _ => {}
    }
}
