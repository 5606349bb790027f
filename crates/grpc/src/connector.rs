//! What carries a connection: TCP, or in its place whatever a simulation has for a network.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use crate::endpoint::Endpoint;

/// A stream of bytes both ways.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// A connection that is being made.
pub type Connecting = Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send>>;

/// Makes connections.
#[derive(Clone)]
pub struct Connector(Arc<dyn Fn(&Endpoint) -> Connecting + Send + Sync>);

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connector")
    }
}

impl Connector {
    /// Over TCP, to the first address of the host that takes a connection; each has its share of the time.
    pub fn tcp() -> Self {
        Self::new(|endpoint| {
            let (host, port, within) =
                (endpoint.host().to_owned(), endpoint.port(), endpoint.connect_timeout);
            async move {
                let addresses: Vec<SocketAddr> = lookup_host((host, port)).await?.collect();
                let share = within / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
                let mut failed = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
                for address in addresses {
                    match timeout(share, TcpStream::connect(address)).await {
                        Ok(Ok(stream)) => {
                            // What is small must not wait for what comes after it.
                            stream.set_nodelay(true)?;
                            return Ok(stream);
                        }
                        Ok(Err(error)) => failed = error,
                        Err(_) => failed = io::Error::new(io::ErrorKind::TimedOut, "no connection in time"),
                    }
                }
                Err(failed)
            }
        })
    }

    /// Over anything. Who connects bounds the time.
    pub fn new<F, T>(connect: impl Fn(&Endpoint) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = io::Result<T>> + Send + 'static,
        T: Io,
    {
        Self(Arc::new(move |endpoint| {
            let connecting = connect(endpoint);
            Box::pin(async move { connecting.await.map(|io| Box::new(io) as Box<dyn Io>) })
        }))
    }

    pub(crate) fn connect(&self, endpoint: &Endpoint) -> Connecting {
        (self.0)(endpoint)
    }
}
