//! What the commands that run servers share: the signals that they heed.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::exit::Failure;

/// Resolves at the first SIGINT or SIGTERM. The handlers are set before this returns.
pub(super) fn shutdown() -> Result<impl Future<Output = ()> + Send, Failure> {
    let (mut interrupt, mut terminate) =
        (handler(SignalKind::interrupt())?, handler(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// Every SIGHUP from now on.
pub(super) fn hangups() -> Result<Signal, Failure> {
    handler(SignalKind::hangup())
}

fn handler(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| Failure::internal(format!("cannot handle signals: {error}")))
}
