//! The child's side of supervision: it dies with its supervisor.

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

use crate::exit::Failure;

/// Tells a child the pid of its supervisor.
pub const SUPERVISOR_ENV: &str = "ESCROW_SUPERVISOR_PID";

/// When this process was started by a supervisor, asks the kernel to be killed when that one dies. Called first thing in
/// `main`; the pid closes the gap in which the supervisor may have died already.
///
/// The kernel's "parent" is the thread that started us, so supervisors start children from a thread that lives as long
/// as they do.
pub fn follow_supervisor() -> Result<(), Failure> {
    let Ok(text) = std::env::var(SUPERVISOR_ENV) else { return Ok(()) };
    let supervisor: i32 =
        text.parse().map_err(|_| Failure::bad_input(format!("{SUPERVISOR_ENV}={text} is not a pid")))?;
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| Failure::internal(format!("cannot follow the supervisor: {error}")))?;
    if getppid().map(Pid::as_raw_pid) != Some(supervisor) {
        return Err(Failure::internal("the supervisor died before this process began"));
    }
    Ok(())
}
