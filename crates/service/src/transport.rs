//! What carries a server's connections: TCP, or in its place whatever a simulation has for a network.
//!
//! **Invariant:** only this module and `listen` know that there is TCP.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_stream::Stream;
use tonic::transport::server::{Connected, TcpIncoming};

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
