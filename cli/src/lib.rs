//! The one binary of Escrow: every server and tool as a subcommand.
//!
//! The binary is a library with [`main`], so that another binary (one with failpoints compiled in, for tests) is the same
//! program.
//!
//! # Layout
//! - [`args`]: what every command shares on its command line
//! - [`commands`]: one file a command or group of commands
//! - [`bench`](mod@bench): the load generator
//! - [`config`]: configuration of the servers: flag, environment, file, default
//! - [`backup`]: what a backup of a cluster is on disk
//! - [`cluster_file`]: one file for all servers of a cluster on several machines
//! - [`output`]: tables for people, JSON for machines: the only module that prints
//! - [`exit`]: exit codes, and errors with their codes
//! - [`logging`], [`money`], [`time`]: logs to stderr; amounts and legs, and spans of time, as people write them
//!
//! **Invariant:** the only crate that knows all others. No protocol rule lives here: what is checked here is checked by
//! the servers too.

pub mod args;
pub mod backup;
pub mod bench;
pub mod cluster_file;
pub mod commands;
pub mod config;
pub mod exit;
pub mod logging;
pub mod money;
pub mod output;
pub mod time;

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::Cli;
use crate::exit::{Exit, Failure};
use crate::output::Output;

/// Runs the command line of this process to its end.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let output = Output::new(cli.shared.output);
    let result = logging::init(&cli.shared, cli.command.is_server())
        .and_then(|()| Ok(escrow_cluster::child::follow_supervisor()?))
        .and_then(|()| commands::run(cli.command, &cli.shared, &output));
    match result {
        Ok(exit) => exit.into(),
        Err(failure) => {
            output.failure(&failure);
            failure.exit.into()
        }
    }
}

/// A command line that is none (or a call for help). The format that was asked for could not be parsed, so it is looked
/// for among the words.
fn usage(error: &clap::Error) -> ExitCode {
    let for_people = !error.use_stderr();
    // A closed pipe while printing help is nobody's error.
    let _ = error.print();
    if for_people {
        return Exit::Ok.into();
    }
    let words: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    if output::asks_for_json(&words) {
        let message = error.to_string();
        let first = message.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        Output::new(output::Format::Json).failure_json(&Failure::bad_input(first));
    }
    Exit::BadInput.into()
}
