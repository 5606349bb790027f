//! The child's side of supervision: it dies with its supervisor.

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

/// Tells a child the pid of its supervisor.
pub const SUPERVISOR_ENV: &str = "ESCROW_SUPERVISOR_PID";

/// Why a child cannot follow its supervisor.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// The variable holds something else.
    #[error("{SUPERVISOR_ENV}={0} is not a pid")]
    NotAPid(String),
    /// The kernel does not want to.
    #[error("cannot follow the supervisor: {0}")]
    Refused(#[from] rustix::io::Errno),
    /// There is nobody to follow.
    #[error("the supervisor died before this process began")]
    SupervisorDied,
}

/// When this process was started by a supervisor, asks the kernel to be killed when that one dies. Called first thing in
/// `main`; the pid closes the gap in which the supervisor may have died already.
///
/// The kernel's "parent" is the thread that started us, so supervisors start children from a thread that lives as long
/// as they do.
pub fn follow_supervisor() -> Result<(), FollowError> {
    let Ok(text) = std::env::var(SUPERVISOR_ENV) else { return Ok(()) };
    let supervisor: i32 = text.parse().map_err(|_| FollowError::NotAPid(text))?;
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if getppid().map(Pid::as_raw_pid) != Some(supervisor) {
        return Err(FollowError::SupervisorDied);
    }
    Ok(())
}
