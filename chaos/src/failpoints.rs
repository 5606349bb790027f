//! The points at which servers can be told to die, and whether this program has them.
//!
//! The servers of a run are the same program as the run itself. The ordinary `escrow` has no failpoints; another binary, that is
//! the same program with them, says so at its start.

use std::sync::atomic::{AtomicBool, Ordering};

use escrow_cluster::Role;

/// Every failpoint that ends a process: one for each moment of docs/protocol.md, "What every crash leaves".
pub const ALL: &[&str] = &[
    "coordinator::before_begin_durable",
    "coordinator::after_begin_durable",
    "coordinator::before_decide_durable",
    "coordinator::after_decide_durable",
    "coordinator::before_phase_two_sent",
    "coordinator::after_phase_two_sent",
    "coordinator::before_finish_durable",
    "coordinator::during_checkpoint",
    "participant::before_try_durable",
    "participant::after_try_durable",
    "participant::before_confirm_durable",
    "participant::after_confirm_durable",
    "participant::before_cancel_durable",
    "participant::after_cancel_durable",
    "participant::within_large_checkpoint",
    "participant::during_checkpoint",
];

/// The one command that runs the program with failpoints.
pub const PROGRAM: &str = "cargo run --release -p escrow-tests --bin escrow-under-test --";

static COMPILED_IN: AtomicBool = AtomicBool::new(false);

/// Says that this program listens to `FAILPOINTS` and `ESCROW_CLOCK_OFFSET_FILE`. For the `main` of the one that does.
pub fn are_compiled_in() {
    COMPILED_IN.store(true, Ordering::Relaxed);
}

/// Whether servers started from this program can be told where to die.
pub fn is_available() -> bool {
    COMPILED_IN.load(Ordering::Relaxed)
}

/// Who has a failpoint: `coordinator::…` or `participant::…`.
pub fn role_of(failpoint: &str) -> Role {
    if failpoint.starts_with("coordinator::") { Role::Coordinator } else { Role::Participant }
}
