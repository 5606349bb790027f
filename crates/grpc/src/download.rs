//! What a call is answered: from a stream of HTTP/2 to a body.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http_body::{Body, Frame};
use tonic::Status;

use crate::status::broken_off;
use crate::upload::Uploading;

/// The body of an answer. Dropped before its end, it cancels the call.
pub struct Download {
    stream: RecvStream,
    is_data_over: bool,
    /// Whoever does not listen any more has nothing to say either.
    _uploading: Option<Uploading>,
}

impl std::fmt::Debug for Download {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Download")
    }
}

impl Download {
    pub(crate) fn new(stream: RecvStream, uploading: Option<Uploading>) -> Self {
        Self { stream, is_data_over: false, _uploading: uploading }
    }

    /// The next bytes; none after the last. The server may then send as many more.
    pub(crate) fn poll_bytes(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        match ready!(self.stream.poll_data(context)) {
            Some(Ok(bytes)) => {
                // An error means that the stream has ended, and needs no room.
                let _ = self.stream.flow_control().release_capacity(bytes.len());
                Poll::Ready(Some(Ok(bytes)))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(broken_off(error)))),
            None => Poll::Ready(None),
        }
    }

    /// What is said at the end.
    pub(crate) fn poll_trailers(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<http::HeaderMap>, Status>> {
        self.stream.poll_trailers(context).map_err(broken_off)
    }
}

impl Body for Download {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if !self.is_data_over {
            if let Some(bytes) = ready!(self.poll_bytes(context)) {
                return Poll::Ready(Some(bytes.map(Frame::data)));
            }
            self.is_data_over = true;
        }
        self.poll_trailers(context)
            .map(|trailers| trailers.transpose().map(|trailers| trailers.map(Frame::trailers)))
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }
}
