//! Logs to stderr: text for people, JSON for collectors.

use std::io::IsTerminal as _;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

use crate::args::Shared;
use crate::exit::Failure;

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl LogFormat {
    /// As it is written on a command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// Starts logging. `--log-level` wins over `RUST_LOG`; servers tell more than tools do by default.
pub fn init(shared: &Shared, server: bool) -> Result<(), Failure> {
    // Every election makes thirty lines of openraft's own, all in a day's work. Who leads and who does not any more is told by the servers.
    let default = if server { "info,openraft=error" } else { "warn" };
    let directives = shared.log_level.clone().or_else(|| std::env::var("RUST_LOG").ok());
    let directives = directives.as_deref().filter(|text| !text.trim().is_empty()).unwrap_or(default);
    let filter = EnvFilter::try_new(directives)
        .map_err(|error| Failure::bad_input(format!("'{directives}' is not a log level: {error}")))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match shared.log_format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    // Somebody who uses this library may log already; theirs is as good.
    drop(started);
    Ok(())
}
