//! `escrow operator`: pause and resume new work.

use clap::Subcommand;
use serde_json::json;

use crate::args::Endpoints;
use crate::exit::{Exit, Failure};
use crate::output::Output;

/// What an operator does to a coordinator as a whole.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Refuse new transactions (PAUSED); what has begun goes on
    #[command(after_help = "Examples:
  escrow operator pause --reason 'moving shard 1'")]
    Pause {
        /// For the audit record
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        endpoints: Endpoints,
    },
    /// Take new transactions again
    #[command(after_help = "Examples:
  escrow operator resume --reason 'done'")]
    Resume {
        /// For the audit record
        #[arg(long, default_value = "resumed")]
        reason: String,
        #[command(flatten)]
        endpoints: Endpoints,
    },
}

pub(super) async fn run(command: Command, output: &Output) -> Result<Exit, Failure> {
    let (paused, reason, endpoints) = match command {
        Command::Pause { reason, endpoints } => (true, reason, endpoints),
        Command::Resume { reason, endpoints } => (false, reason, endpoints),
    };
    let client = endpoints.client()?;
    for partition in 0..client.partitions() {
        let paused = client.set_paused(partition, paused, &reason).await?;
        output.json(&json!({ "endpoint": client.endpoint(partition), "paused": paused }));
        output.line(format!(
            "{}: {}",
            client.endpoint(partition),
            if paused { "paused" } else { "takes new work" }
        ));
    }
    Ok(Exit::Ok)
}
