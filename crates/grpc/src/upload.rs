//! What a call says: from a body to a stream of HTTP/2, as far as the server's windows allow.
//!
//! **Invariant:** beyond the first one, no frame is taken from the body before the one before it has found room.

use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::Body as _;
use tokio::task::AbortHandle;
use tonic::Status;
use tonic::body::Body;

use crate::status::NotSent;

/// The rest of what a call says.
pub(crate) struct Upload {
    body: Body,
    stream: SendStream<Bytes>,
    /// Taken from the body and not sent yet.
    held: Option<Bytes>,
    /// What is first is sent whether there is room or not: it waits as well in one place as in another.
    is_first: bool,
}

/// Something is still being said, by a task of its own. Dropped, it stops there, and the call is canceled unless it has ended.
pub(crate) struct Uploading(AbortHandle);

impl Drop for Uploading {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Upload {
    pub(crate) fn new(body: Body, stream: SendStream<Bytes>) -> Self {
        Self { body, stream, held: None, is_first: true }
    }

    /// Sends what is there already, all of it for most calls; the rest is sent by a task. Fails if the body does at once; then the
    /// stream is reset, and what of it had not left yet never does.
    pub(crate) fn begin(mut self) -> Result<Option<Uploading>, Status> {
        match self.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => Ok(None),
            // Nothing of it has left: the one thing that could be said is that it cannot be.
            Poll::Ready(Err(status)) if self.is_first => Err(NotSent::for_good(&status)),
            Poll::Ready(Err(status)) => {
                let mut broken_off =
                    Status::internal(format!("the call could not be said to its end: {status}"));
                broken_off.set_source(std::sync::Arc::new(status));
                Err(broken_off)
            }
            Poll::Pending => {
                let task = tokio::spawn(async move {
                    let all = std::future::poll_fn(|context| self.poll(context)).await;
                    if let Err(status) = all {
                        tracing::debug!(%status, "a call cannot be said to its end");
                    }
                });
                Ok(Some(Uploading(task.abort_handle())))
            }
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        let sent = self.poll_send(context);
        if sent.is_pending() {
            // A server that wants to hear no more says so; then there is nothing left to do.
            if let Poll::Ready(_ended) = self.stream.poll_reset(context) {
                return Poll::Ready(Ok(()));
            }
        }
        if let Poll::Ready(Err(_)) = sent {
            self.stream.send_reset(Reason::INTERNAL_ERROR);
        }
        sent
    }

    /// Ends well when all is sent, or when the stream is closed and takes no more.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        if self.held.is_none() {
            self.held = ready!(self.poll_body(context))?;
        }
        while let Some(bytes) = &self.held {
            if !self.is_first && !bytes.is_empty() {
                self.stream.reserve_capacity(1);
                while self.stream.capacity() == 0 {
                    match ready!(self.stream.poll_capacity(context)) {
                        Some(Ok(_)) => {}
                        Some(Err(_)) | None => return Poll::Ready(Ok(())),
                    }
                }
            }
            self.is_first = false;
            // Whether it is the last is known only when the next is asked for.
            let next = self.poll_body(context);
            let is_last = matches!(next, Poll::Ready(Ok(None)));
            let bytes = self.held.take().expect("it was just looked at");
            if self.stream.send_data(bytes, is_last).is_err() || is_last {
                return Poll::Ready(Ok(()));
            }
            self.held = ready!(next)?;
        }
        // A body of nothing at all; an error means that the stream is closed already.
        let _ = self.stream.send_data(Bytes::new(), true);
        Poll::Ready(Ok(()))
    }

    /// The next bytes of the body, or none: calls have no trailers.
    fn poll_body(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        loop {
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                None => return Poll::Ready(Ok(None)),
                Some(Err(status)) => return Poll::Ready(Err(status)),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Poll::Ready(Ok(Some(bytes)));
                    }
                }
            }
        }
    }
}
