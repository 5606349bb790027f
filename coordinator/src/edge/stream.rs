//! What the two streams of transfers share: a bounded number of unanswered rows, and an end that loses no answer.
//!
//! A row takes a permit when it is read and gives it back when its answer is *taken by the transport*. A caller that does not
//! read its answers is therefore not read from any more, and holds only its own rows.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use escrow_tcc::driver::{Answered, CallerId};
use futures_core::Stream;
use tokio::sync::{Semaphore, mpsc};
use tonic::{Status, Streaming};

use super::Service;
use crate::owner::Input;

/// A stream may have so many rows unanswered.
pub(super) const ROWS_UNANSWERED_MAX: u32 = 262_144;

/// The next message of a caller. One that cannot be read ends the stream with a refusal; what came before goes on.
pub(super) async fn next<T>(messages: &mut Streaming<T>) -> Result<Option<T>, Status> {
    messages
        .message()
        .await
        .map_err(|status| escrow_service::malformed::refusal_of(&status).unwrap_or(status))
}

/// The next messages of a caller: all that have arrived, at most `rows_max`, none twice. Empty: the caller has said all. A failure
/// is told when what came before it has been taken.
pub(super) async fn next_arrived<T>(
    messages: &mut Streaming<T>,
    rows_max: usize,
    failed: &mut Option<Status>,
) -> Result<Vec<T>, Status> {
    if let Some(status) = failed.take() {
        return Err(status);
    }
    let Some(first) = next(messages).await? else { return Ok(Vec::new()) };
    let mut arrived = vec![first];
    while arrived.len() < rows_max
        && let Some(more) = now_or_never(next(messages)).await
    {
        match more {
            Ok(Some(message)) => arrived.push(message),
            // Asked again it says the same.
            Ok(None) => break,
            Err(status) => {
                *failed = Some(status);
                break;
            }
        }
    }
    Ok(arrived)
}

/// What a future gives at once, if it does.
async fn now_or_never<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// What the task that reads a stream holds.
pub(super) struct Intake {
    pub(super) caller: CallerId,
    permits: Arc<Semaphore>,
    /// Answers that do not come from the owner: rows refused for their form.
    pub(super) refusals: mpsc::UnboundedSender<Vec<Answered>>,
}

impl Intake {
    /// Waits until there is room for so many rows; `false` when the caller is gone.
    pub(super) async fn room_for(&self, rows: usize) -> bool {
        let rows = u32::try_from(rows).unwrap_or(u32::MAX).min(ROWS_UNANSWERED_MAX);
        match self.permits.acquire_many(rows).await {
            Ok(permits) => {
                permits.forget();
                true
            }
            Err(_) => false,
        }
    }

    /// Waits until every row is answered and its answer is taken, or the caller is gone.
    pub(super) async fn all_answered(&self) {
        let _ = self.permits.acquire_many(ROWS_UNANSWERED_MAX).await;
    }
}

/// The answers of a stream, as the transport takes them. `translate` makes messages of batches of answers.
pub(crate) struct Answers<T, F> {
    batches: mpsc::UnboundedReceiver<Vec<Answered>>,
    errors: mpsc::UnboundedReceiver<Status>,
    ready: std::collections::VecDeque<(T, u32)>,
    translate: F,
    permits: Arc<Semaphore>,
    service: Service,
    caller: CallerId,
    ended: bool,
}

impl Service {
    /// Reads a stream for as long as this replica leads; then it ends with the word of who does.
    pub(super) async fn while_leading(
        &self,
        read: impl Future<Output = Result<(), Status>>,
    ) -> Result<(), Status> {
        tokio::select! {
            biased;
            status = self.mailbox.led_until() => Err(status),
            read = read => read,
        }
    }
}

/// Opens a stream of a caller: what reads from it, how it fails, and what answers it.
pub(super) async fn open<T, F>(
    service: &Service,
    translate: F,
) -> Result<(Intake, mpsc::UnboundedSender<Status>, Answers<T, F>), Status>
where
    F: FnMut(Vec<Answered>, &mut std::collections::VecDeque<(T, u32)>),
{
    service.mailbox.check_leads()?;
    let caller = service.new_caller();
    let (sink, batches) = mpsc::unbounded_channel();
    let (fail, errors) = mpsc::unbounded_channel();
    let permits = Arc::new(Semaphore::new(ROWS_UNANSWERED_MAX as usize));
    service.mailbox.request(Input::Register(caller, sink.clone())).await?;
    let intake = Intake { caller, permits: Arc::clone(&permits), refusals: sink };
    let ready = std::collections::VecDeque::new();
    let service = service.clone();
    let answers = Answers { batches, errors, ready, translate, permits, service, caller, ended: false };
    Ok((intake, fail, answers))
}

impl<T: Unpin, F> Stream for Answers<T, F>
where
    F: FnMut(Vec<Answered>, &mut std::collections::VecDeque<(T, u32)>) + Unpin,
{
    type Item = Result<T, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some((message, rows)) = this.ready.pop_front() {
                this.permits.add_permits(rows as usize);
                return Poll::Ready(Some(Ok(message)));
            }
            if this.ended {
                return Poll::Ready(None);
            }
            match this.batches.poll_recv(cx) {
                Poll::Ready(Some(batch)) => {
                    (this.translate)(batch, &mut this.ready);
                    continue;
                }
                // Unregistered: every answer has been taken, or this replica leads no more.
                Poll::Ready(None) => {
                    this.ended = true;
                    match this.errors.try_recv() {
                        Ok(status) => return Poll::Ready(Some(Err(status))),
                        Err(_) => continue,
                    }
                }
                Poll::Pending => {}
            }
            return match this.errors.poll_recv(cx) {
                Poll::Ready(Some(status)) => {
                    this.ended = true;
                    Poll::Ready(Some(Err(status)))
                }
                Poll::Ready(None) => {
                    // The reader has ended well: all is answered.
                    this.ended = true;
                    Poll::Ready(None)
                }
                Poll::Pending => Poll::Pending,
            };
        }
    }
}

impl<T, F> Drop for Answers<T, F> {
    fn drop(&mut self) {
        // Wakes the reader, which then ends.
        self.permits.close();
        let (mailbox, caller) = (self.service.mailbox.clone(), self.caller);
        mailbox.event(Input::Unregister(caller));
    }
}
