//! turmoil's TCP as the servers and channels want it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use escrow_grpc::Connector;
use escrow_service::Incoming;
use futures_util::stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_stream::Stream;
use tonic::transport::server::Connected;
use turmoil::net::{TcpListener, TcpStream};

/// Where every server listens, on its own host.
pub const PORT: u16 = 7400;

/// The endpoint of the server on a host.
pub fn endpoint(host: &str) -> String {
    format!("http://{host}:{PORT}")
}

/// A listener of the simulated network.
pub struct Listener(TcpListener);

impl Listener {
    /// Listens on this host.
    pub async fn bind() -> io::Result<Self> {
        TcpListener::bind(("0.0.0.0", PORT)).await.map(Self)
    }
}

impl Incoming for Listener {
    type Connection = Accepted;

    fn connections(self) -> impl Stream<Item = io::Result<Accepted>> + Send {
        stream::unfold(self.0, |listener| async {
            let accepted = listener.accept().await.map(|(stream, _)| Accepted(stream));
            Some((accepted, listener))
        })
    }
}

/// A connection that was accepted.
pub struct Accepted(TcpStream);

impl Connected for Accepted {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// Connects over the simulated network, from whichever host calls it.
pub fn connector() -> Connector {
    Connector::new(|endpoint| TcpStream::connect((endpoint.host().to_owned(), endpoint.port())))
}
