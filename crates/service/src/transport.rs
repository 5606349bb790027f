//! What carries connections: TCP, or in its place whatever a simulation has for a network.
//!
//! **Invariant:** only this module and `listen` know that there is TCP.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_stream::Stream;
use tonic::transport::server::{Connected, TcpIncoming};
use tonic::transport::{Channel, Endpoint};

/// Where a server's connections come from.
pub trait Incoming: Send {
    /// One connection.
    type Connection: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static;

    /// The connections, one after the other. Dropping the stream closes the listener.
    fn connections(self) -> impl Stream<Item = io::Result<Self::Connection>> + Send;
}

impl Incoming for TcpListener {
    type Connection = tokio::net::TcpStream;

    fn connections(self) -> impl Stream<Item = io::Result<Self::Connection>> + Send {
        TcpIncoming::from(self).with_nodelay(Some(true))
    }
}

/// How channels to other servers are made: lazily, so that nothing is connected before it is used.
#[derive(Clone)]
pub struct Connector(Arc<dyn Fn(&Endpoint) -> Channel + Send + Sync>);

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connector")
    }
}

impl Connector {
    /// Over TCP.
    pub fn tcp() -> Self {
        Self::new(Endpoint::connect_lazy)
    }

    /// Over anything: `connect` is called within a tokio runtime and must not wait.
    pub fn new(connect: impl Fn(&Endpoint) -> Channel + Send + Sync + 'static) -> Self {
        Self(Arc::new(connect))
    }

    /// A channel that connects when it is first used, and again when its connection is lost.
    pub fn connect(&self, endpoint: &Endpoint) -> Channel {
        (self.0)(endpoint)
    }
}
