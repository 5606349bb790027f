//! The `escrow` binary: the allocator, and [`escrow_cli::main`].

use std::process::ExitCode;

/// Batches of columns are allocated and freed by the megabyte: this allocator gives them back without system calls.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    escrow_cli::main()
}
