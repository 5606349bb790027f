//! Connections: a small pool for each endpoint, made when first used and remade when broken.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

use crate::error::ClientError;
use crate::options::Options;

/// The endpoints of a client, in order of their partitions.
#[derive(Debug, Clone)]
pub(crate) struct Pool {
    peers: Arc<[Peer]>,
}

#[derive(Debug)]
struct Peer {
    endpoint: String,
    channels: Box<[Channel]>,
    next: AtomicUsize,
}

impl Pool {
    /// Checks the endpoints; connects to none of them. Must be called within a tokio runtime.
    pub(crate) fn new<E: Into<String>>(
        endpoints: impl IntoIterator<Item = E>,
        options: &Options,
    ) -> Result<Self, ClientError> {
        let peers: Vec<Peer> = endpoints
            .into_iter()
            .map(|endpoint| Peer::new(endpoint.into(), options))
            .collect::<Result<_, _>>()?;
        if peers.is_empty() {
            return Err(ClientError::Invalid("at least one endpoint is needed".to_owned()));
        }
        Ok(Self { peers: peers.into() })
    }

    pub(crate) fn len(&self) -> usize {
        self.peers.len()
    }

    pub(crate) fn endpoint(&self, peer: usize) -> &str {
        &self.peers[peer % self.peers.len()].endpoint
    }

    /// A connection to a peer, in turn.
    pub(crate) fn channel(&self, peer: usize) -> Channel {
        let peer = &self.peers[peer % self.peers.len()];
        let turn = peer.next.fetch_add(1, Ordering::Relaxed);
        peer.channels[turn % peer.channels.len()].clone()
    }
}

impl Peer {
    fn new(endpoint: String, options: &Options) -> Result<Self, ClientError> {
        let invalid = |why: &str| {
            ClientError::Invalid(format!(
                "'{endpoint}' is not an endpoint: {why}; expected such as http://127.0.0.1:7400"
            ))
        };
        if !endpoint.starts_with("http://") {
            return Err(invalid("it must begin with http://"));
        }
        let builder = Endpoint::from_shared(endpoint.clone()).map_err(|error| invalid(&error.to_string()))?;
        if builder.uri().host().is_none_or(str::is_empty) || builder.uri().path() != "/" {
            return Err(invalid("it needs a host and a port, and no path"));
        }
        let builder = builder
            .connect_timeout(options.connect_timeout)
            .tcp_nodelay(true)
            // A columnar message should never wait for a window update.
            .initial_stream_window_size(16 << 20)
            .initial_connection_window_size(64 << 20)
            .max_frame_size(1 << 20)
            // Finds half-open connections.
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true);
        let channels = (0..options.connections.max(1)).map(|_| options.connector.connect(&builder)).collect();
        Ok(Self { endpoint, channels, next: AtomicUsize::new(0) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_not_an_endpoint_is_refused() {
        for endpoint in ["", "127.0.0.1:7400", "http://", "ftp://x", "http://x y", "http://host:1/path"] {
            let error = Pool::new([endpoint], &Options::default()).unwrap_err();
            assert!(error.has_no_effect() && !error.is_retryable(), "{endpoint}: {error}");
        }
        assert!(Pool::new(Vec::<String>::new(), &Options::default()).is_err());
        assert!(Pool::new(["http://127.0.0.1:7400", "http://localhost:7401/"], &Options::default()).is_ok());
    }
}
