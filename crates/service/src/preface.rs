//! Connections must begin: a peer that connects and then says nothing is given up.
//!
//! HTTP/2 keep-alive finds peers that vanish later, but it begins with the client's preface: until then hyper waits for ever. A
//! peer that vanished during its handshake, or never meant to speak, would hold a socket and a task for as long as the server runs.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;
use tonic::transport::server::Connected;

/// The length of the client's connection preface (RFC 9113, 3.4).
const PREFACE_BYTES: usize = 24;
/// It must have arrived within this time of the connection.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection that fails if its preface does not come. After it, it is the connection itself.
pub(crate) struct Prompt<IO> {
    io: IO,
    waiting: Option<Waiting>,
}

struct Waiting {
    bytes_missing: usize,
    timeout: Pin<Box<Sleep>>,
}

impl<IO> Prompt<IO> {
    /// The time begins now.
    pub(crate) fn new(io: IO) -> Self {
        let timeout = Box::pin(tokio::time::sleep(PREFACE_TIMEOUT));
        Self { io, waiting: Some(Waiting { bytes_missing: PREFACE_BYTES, timeout }) }
    }
}

impl<IO: Connected> Connected for Prompt<IO> {
    type ConnectInfo = IO::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.io.connect_info()
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Prompt<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let Some(waiting) = &mut this.waiting else {
            return Pin::new(&mut this.io).poll_read(context, buffer);
        };
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.io).poll_read(context, buffer);
        if read.is_pending() {
            ready!(waiting.timeout.as_mut().poll(context));
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "no HTTP/2 preface")));
        }
        waiting.bytes_missing = waiting.bytes_missing.saturating_sub(buffer.filled().len() - before);
        if waiting.bytes_missing == 0 {
            this.waiting = None;
        }
        read
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Prompt<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
