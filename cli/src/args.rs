//! The command line: what all commands share, and the list of them.

use std::time::Duration;

use clap::{Args, Parser};
use escrow_client::{Client, Options, RetryPolicy};

use crate::commands::Command;
use crate::exit::{Failure, with_exit_codes};
use crate::logging::LogFormat;
use crate::output::Format;

/// Escrow: money moves between accounts on different shards, all or nothing, whatever dies meanwhile.
///
/// A TCC (Try / Confirm / Cancel) transaction coordinator with the wallet shards it coordinates.
#[derive(Debug, Parser)]
#[command(name = "escrow", version, after_help = with_exit_codes!("Examples:
  escrow demo                                   # see it work, in under a minute
  escrow up                                     # a cluster on this machine, until Ctrl-C
  escrow account open alice bob --currency USD
  escrow transfer --from alice --to bob --amount 12.34 --currency USD
  escrow tx list --in-doubt"), disable_help_subcommand = true)]
pub struct Cli {
    /// What all commands take.
    #[command(flatten)]
    pub shared: Shared,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What all commands take.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Common options")]
pub struct Shared {
    /// Who reads the output: people or programs
    #[arg(short = 'o', long, global = true, value_enum, default_value = "table")]
    pub output: Format,
    /// How logs on stderr look
    #[arg(long, global = true, value_enum, default_value = "text", env = "ESCROW_LOG_FORMAT")]
    pub log_format: LogFormat,
    /// Which logs: a level, or directives such as escrow_coordinator=debug (default: RUST_LOG, else info for servers and
    /// warn for tools)
    #[arg(long, global = true, value_name = "LEVEL")]
    pub log_level: Option<String>,
}

/// Where the servers are.
#[derive(Debug, Clone, Args)]
pub struct Endpoints {
    /// The coordinator; several with commas between them, in order of their partitions, each with + between its replicas
    #[arg(
        long,
        env = "ESCROW_ENDPOINT",
        default_value = "http://127.0.0.1:7400",
        value_delimiter = ',',
        value_name = "URL"
    )]
    pub endpoint: Vec<String>,
}

/// How long people wait for a tool before they want to hear something.
const PATIENCE: Duration = Duration::from_secs(10);
/// Attempts of a call of a tool: about two seconds of a server that cannot be reached.
const ATTEMPTS_MAX: u32 = 8;

impl Endpoints {
    /// The limits of a tool: an unreachable server is told after about two seconds, a silent one after ten.
    pub fn options() -> Options {
        let retry = RetryPolicy { attempts_max: ATTEMPTS_MAX, ..RetryPolicy::default() };
        Options { retry, ..Options::within(PATIENCE) }
    }

    /// A client with the limits of a tool.
    pub fn client(&self) -> Result<Client, Failure> {
        Ok(Client::connect(self.endpoint.iter().cloned(), Self::options())?)
    }

    /// A client whose calls may take `patience` and are made once.
    pub fn patient_client(&self, patience: Duration) -> Result<Client, Failure> {
        let options = Options { deadline: patience, attempt_timeout: patience, ..Self::options() };
        Ok(Client::connect(self.endpoint.iter().cloned(), options)?)
    }
}
