//! What the two server commands share: the signals that end them.

use tokio::signal::unix::{SignalKind, signal};

use crate::exit::Failure;

/// Resolves at the first SIGINT or SIGTERM. The handlers are set before this returns.
pub(super) fn shutdown() -> Result<impl Future<Output = ()> + Send, Failure> {
    let handler =
        |kind| signal(kind).map_err(|error| Failure::internal(format!("cannot handle signals: {error}")));
    let (mut interrupt, mut terminate) =
        (handler(SignalKind::interrupt())?, handler(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
