//! turmoil's TCP as the servers and channels want it.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use escrow_service::{Connector, Incoming};
use futures_util::stream;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_stream::Stream;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::transport::Endpoint;
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
    Connector::new(|endpoint: &Endpoint| endpoint.connect_with_connector_lazy(Connect))
}

struct Connect;

impl Service<Uri> for Connect {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(async move {
            let (host, port) = (uri.host().unwrap_or_default().to_owned(), uri.port_u16().unwrap_or(PORT));
            TcpStream::connect((host, port)).await.map(TokioIo::new)
        })
    }
}
