//! `escrow bench echo-server`: what `escrow bench --wire` compares with. Hidden: bench starts it itself.

use std::net::Ipv4Addr;

use escrow_service::{Limits, bind, serve};

use crate::bench::wire;
use crate::commands::servers::shutdown;
use crate::exit::{Exit, Failure};
use crate::output::Output;

/// `escrow bench echo-server`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  escrow bench echo-server

Listens on a free port of loopback, prints its endpoint, and sends every message back until it is stopped.")]
pub(in crate::commands) struct Args {}

pub(super) async fn run(output: &Output) -> Result<Exit, Failure> {
    let shutdown = shutdown()?;
    let refused = |error: &dyn std::fmt::Display| Failure::internal(format!("cannot listen: {error}"));
    let listener = bind((Ipv4Addr::LOCALHOST, 0).into()).await.map_err(|error| refused(&error))?;
    let address = listener.local_addr().map_err(|error| refused(&error))?;
    output.raw(&format!("http://{address}\n"));
    serve(listener, wire::service(), Limits::default(), shutdown)
        .await
        .map_err(|error| Failure::internal(format!("the echo server failed: {error}")))?;
    Ok(Exit::Ok)
}
