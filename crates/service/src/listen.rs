//! Binding the listener before anything else of the server starts, so that a port in use is told at once.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpListener;

/// The server cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Some other process listens there.
    #[error("cannot listen on {0}: the port is in use by another process (choose another with --listen)")]
    InUse(SocketAddr),
    /// Any other refusal of the operating system.
    #[error("cannot listen on {address}: {source}")]
    Io {
        /// Where.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
}

/// Binds a listener; port 0 picks a free one (ask the listener which).
pub async fn bind(address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => ListenError::InUse(address),
        _ => ListenError::Io { address, source },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_in_use_is_named() {
        let first = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = first.local_addr().unwrap();
        let error = bind(address).await.unwrap_err();
        assert!(error.to_string().contains(&address.to_string()), "{error}");
        assert!(matches!(error, ListenError::InUse(_)));
    }
}
