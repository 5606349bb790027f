//! The commands, one file each or one a group.

mod account;
mod bench;
mod chaos;
mod cluster;
mod completions;
mod coordinator;
mod demo;
mod execute;
mod operator;
mod participant;
mod place;
mod replication;
mod report;
mod servers;
mod status;
mod transfer;
mod two_step;
mod tx;
mod up;
mod verify;

use std::future::Future;

use clap::Subcommand;

use crate::args::Shared;
use crate::exit::{Exit, Failure};
use crate::output::Output;

/// What the binary does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a cluster of child processes on this machine and supervise it
    Up(up::Args),
    /// See it work: transfers, a canceled one, a crash in the middle, recovery, load; in under a minute
    Demo(demo::Args),
    /// Run a coordinator in the foreground
    Coordinator(coordinator::Args),
    /// Run a participant (one or more wallet shards) in the foreground
    Participant(participant::Args),
    /// Open, show, list, freeze and unfreeze accounts
    #[command(subcommand)]
    Account(account::Command),
    /// Move money from one account to another
    Transfer(transfer::Args),
    /// Run a transaction of many legs
    Execute(execute::Args),
    /// Reserve money now, confirm or cancel later
    Reserve(two_step::ReserveArgs),
    /// Post what was reserved, in full or in part
    Confirm(two_step::ConfirmArgs),
    /// Release what was reserved
    Cancel(two_step::CancelArgs),
    /// Look at transactions and act on those in doubt
    #[command(subcommand)]
    Tx(tx::Command),
    /// Pause and resume new work
    #[command(subcommand)]
    Operator(operator::Command),
    /// Show the servers, their logs, and what is in doubt
    Status(status::Args),
    /// Look at the replicas of shards and coordinators, and change who they are
    #[command(subcommand)]
    Cluster(cluster::Command),
    /// Check that no money appeared or vanished, and that the logs give the live state
    Verify(verify::Args),
    /// Measure: run load, then verify
    Bench(bench::Args),
    /// Kill, freeze and cut off the processes of a cluster under load, and check that nothing is lost
    #[command(subcommand)]
    Chaos(chaos::Command),
    /// Print a completion script for a shell
    Completions(completions::Args),
}

impl Command {
    /// Whether this process is a server, whose logs are wanted.
    pub const fn is_server(&self) -> bool {
        matches!(self, Self::Coordinator(_) | Self::Participant(_))
    }
}

/// Runs a command to its end.
pub fn run(command: Command, shared: &Shared, output: &Output) -> Result<Exit, Failure> {
    match command {
        Command::Up(args) => block_on(up::run(args, shared, output)),
        Command::Demo(args) => block_on(demo::run(args, output)),
        Command::Coordinator(args) => block_on(coordinator::run(args)),
        Command::Participant(args) => block_on(participant::run(args)),
        Command::Account(command) => block_on(account::run(command, output)),
        Command::Transfer(args) => block_on(transfer::run(args, output)),
        Command::Execute(args) => block_on(execute::run(args, output)),
        Command::Reserve(args) => block_on(two_step::reserve(args, output)),
        Command::Confirm(args) => block_on(two_step::confirm(args, output)),
        Command::Cancel(args) => block_on(two_step::cancel(args, output)),
        Command::Tx(command) => block_on(tx::run(command, output)),
        Command::Operator(command) => block_on(operator::run(command, output)),
        Command::Status(args) => block_on(status::run(args, output)),
        Command::Cluster(command) => block_on(cluster::run(command, output)),
        Command::Verify(args) => block_on(verify::run(args, output)),
        Command::Bench(args) => block_on(bench::run(args, output)),
        Command::Chaos(command) => block_on_two(chaos::run(command, output)),
        Command::Completions(args) => Ok(completions::run(&args, output)),
    }
}

/// One thread for everything: servers are one owner and a journal thread by design, tools have nothing to share out.
fn block_on(command: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    run_to_end(tokio::runtime::Builder::new_current_thread(), command)
}

/// Two threads, that live as long as the command: load and proxies beside whoever acts on the cluster.
fn block_on_two(command: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2);
    run_to_end(builder, command)
}

fn run_to_end(
    mut builder: tokio::runtime::Builder,
    command: impl Future<Output = Result<Exit, Failure>>,
) -> Result<Exit, Failure> {
    let runtime = builder
        .enable_all()
        .build()
        .map_err(|error| Failure::internal(format!("cannot start the runtime: {error}")))?;
    let result = runtime.block_on(command);
    // What is still running (a lookup of a name, a stream that was dropped) must not hold the end up.
    runtime.shutdown_background();
    result
}
