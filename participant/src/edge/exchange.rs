//! One `Exchange` stream: a coordinator partition sends columns, the shard answers with columns.
//!
//! A stream is read from only while its peer takes the answers: each command needs credit for its rows, which comes back
//! when the transport takes the answer. So a peer that does not read fills its own credit and nothing else.

use std::pin::Pin;
use std::sync::Arc;

use escrow_proto::v1 as proto;
use escrow_proto::v1::exchange_request::Message as Asked;
use escrow_proto::v1::exchange_response::Message as Told;
use escrow_types::{Xid, dense};
use escrow_wallet::{Answers, BranchAnswers, Command, Sender};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::{IntervalStream, UnboundedReceiverStream};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Status, Streaming};

use super::{Edge, convert, invalid, refused};
use crate::owner::{Handle, Reached};
use crate::stepped::Exchange;

/// A message on its way to the peer. Bounded by credit, so the queue of them needs no bound.
struct Outgoing {
    message: Result<proto::ExchangeResponse, Status>,
    /// Given back when the transport takes the message.
    _credit: Option<OwnedSemaphorePermit>,
}

type Outbox = UnboundedSender<Outgoing>;
type Responses = Pin<Box<dyn Stream<Item = Result<proto::ExchangeResponse, Status>> + Send>>;

fn put(outbox: &Outbox, reached: &Reached, message: Told, credit: Option<OwnedSemaphorePermit>) {
    let message = Ok(proto::ExchangeResponse { message: Some(message), position: reached.get() });
    // A peer that is gone needs no answer: it asks again.
    let _ = outbox.send(Outgoing { message, _credit: credit });
}

/// Serves a stream on a task of its own.
pub(super) fn open(edge: Arc<Edge>, inbound: Streaming<proto::ExchangeRequest>) -> Responses {
    let (outbox, outgoing) = unbounded_channel();
    tokio::spawn(serve(edge, inbound, outbox));
    responses(outgoing)
}

/// Serves a stream whose messages are handed over by hand; see [`crate::stepped`].
pub(crate) fn open_stepped(edge: Arc<Edge>) -> Exchange {
    let (inbox, inbound) = unbounded_channel();
    let (ask, asks) = unbounded_channel();
    let (outbox, outgoing) = unbounded_channel();
    let served = async move {
        let (inbound, asks) = (UnboundedReceiverStream::new(inbound), UnboundedReceiverStream::new(asks));
        exchange(&edge, inbound, asks, &outbox).await
    };
    Exchange { inbox, ask, served: Box::pin(served), responses: responses(outgoing) }
}

fn responses(outgoing: UnboundedReceiver<Outgoing>) -> Responses {
    Box::pin(UnboundedReceiverStream::new(outgoing).map(|outgoing| outgoing.message))
}

async fn serve(edge: Arc<Edge>, inbound: Streaming<proto::ExchangeRequest>, outbox: Outbox) {
    let mut stop = edge.stop.clone();
    let mut ask = tokio::time::interval(edge.outcome_interval);
    ask.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let served = tokio::select! {
        served = exchange(&edge, inbound, IntervalStream::new(ask), &outbox) => served,
        // The peer is gone; what it sent and we logged stands.
        () = outbox.closed() => return,
        // The stream ends when the answers that are on their way have gone out.
        _ = stop.wait_for(|&stop| stop) => return,
    };
    if let Err(status) = served {
        tracing::info!(code = ?status.code(), message = status.message(), "exchange stream ended");
        let _ = outbox.send(Outgoing { message: Err(status), _credit: None });
    }
}

/// Serves a stream until it ends. At every item of `asks`, the peer is asked about overdue reservations.
async fn exchange<T>(
    edge: &Arc<Edge>,
    mut inbound: impl Stream<Item = Result<proto::ExchangeRequest, Status>> + Unpin,
    mut asks: impl Stream<Item = T> + Unpin,
    outbox: &Outbox,
) -> Result<(), Status> {
    let Some(first) = inbound.next().await.transpose()? else { return Ok(()) };
    let Some(Asked::Hello(hello)) = first.message else {
        return Err(invalid("the first message of a stream must be a hello"));
    };
    let response = edge.greet(&hello).await?;
    let accepted = response.accepted;
    let handle = edge.shard(hello.participant)?.clone();
    put(outbox, handle.reached(), Told::Hello(response), None);
    if !accepted {
        return Ok(());
    }
    let stream = Greeted {
        handle,
        sender: Sender::new(super::partition(hello.partition)?, escrow_types::Epoch(hello.epoch)),
        outbox: outbox.clone(),
        credit: Arc::new(Semaphore::new(edge.stream_answers_max)),
        credit_max: edge.stream_answers_max,
    };
    let mut asked_until = None;
    let mut not_served = std::pin::pin!(stream.handle.served_until());
    loop {
        tokio::select! {
            biased;
            // Another leads: whoever asked is told who, and asks there.
            refusal = &mut not_served => return Err(refused(refusal)),
            // Asking comes first: it is rare, and a peer that sends without a pause must not put it off for ever.
            Some(_) = asks.next() => asked_until = stream.ask(asked_until, edge.outcome_rows_max).await,
            message = inbound.next() => match message.transpose()? {
                None => return Ok(()),
                Some(message) => stream.take(message.message).await?,
            },
        }
    }
}

/// A stream after its hello.
struct Greeted {
    handle: Handle,
    sender: Sender,
    outbox: Outbox,
    /// One a row of answers.
    credit: Arc<Semaphore>,
    credit_max: usize,
}

impl Greeted {
    async fn take(&self, message: Option<Asked>) -> Result<(), Status> {
        let sender = self.sender;
        match message {
            Some(Asked::Try(columns)) => {
                let batch = convert::try_columns(sender, columns)?;
                self.submit(batch.rows(), Command::Try(batch), Told::Tried).await
            }
            Some(Asked::TryAndConfirm(columns)) => {
                let batch = convert::try_columns(sender, columns)?;
                self.submit(batch.rows(), Command::TryAndConfirm(batch), Told::TriedAndConfirmed).await
            }
            Some(Asked::Confirm(columns)) => {
                let batch = convert::end_columns(sender, columns, true)?;
                self.submit(batch.sequences().len(), Command::Confirm(batch), Told::Confirmed).await
            }
            Some(Asked::Cancel(columns)) => {
                let batch = convert::end_columns(sender, columns, false)?;
                self.submit(batch.sequences().len(), Command::Cancel(batch), Told::Canceled).await
            }
            Some(Asked::Fence(columns)) => {
                let batch = convert::end_columns(sender, columns, false)?;
                self.submit(batch.sequences().len(), Command::Fence(batch), Told::Tried).await
            }
            Some(Asked::Watermark(watermark)) => {
                let watermark = convert::watermark(sender, watermark)?;
                self.handle.submit(Command::Watermark(watermark), drop).await.map_err(refused)
            }
            Some(Asked::Hello(_)) => Err(invalid("a stream has one hello, its first message")),
            None => Err(invalid("an empty message, or one of a newer version")),
        }
    }

    /// Waits for credit and for room in the mailbox; the answers go out by themselves.
    async fn submit(
        &self,
        rows: usize,
        command: Command,
        told: impl FnOnce(proto::AnswerColumns) -> Told + Send + 'static,
    ) -> Result<(), Status> {
        // A message above the whole credit passes alone.
        let rows = u32::try_from(rows.clamp(1, self.credit_max)).unwrap_or(u32::MAX);
        let credit = Arc::clone(&self.credit).acquire_many_owned(rows).await;
        let credit = credit.map_err(|_| refused(crate::owner::Refused::Closed))?;
        let (outbox, reached) = (self.outbox.clone(), self.handle.reached().clone());
        let reply = move |answers| {
            if let Answers::Branches(BranchAnswers { epoch, sequences, bytes }) = answers {
                let first = dense::first_of(&sequences);
                let columns = proto::AnswerColumns {
                    epoch: epoch.0,
                    first_sequence: first.unwrap_or_default(),
                    sequence: if first.is_some() { Vec::new() } else { sequences },
                    answer: bytes,
                };
                put(&outbox, &reached, told(columns), Some(credit));
            }
        };
        self.handle.submit(command, reply).await.map_err(refused)
    }

    /// Asks for the outcome of a bounded number of reservations past their deadline, going on after the last one asked
    /// about, so that in time all are asked about even if none of them is decided. Gives the last one, if more may be left.
    async fn ask(&self, after: Option<Xid>, rows_max: usize) -> Option<Xid> {
        let partition = self.sender.partition;
        let read =
            self.handle.read(move |view| view.wallet.overdue(partition, view.now, after, rows_max)).await;
        let overdue = read.unwrap_or_default();
        let last = overdue.last()?.xid;
        let rows = u32::try_from(overdue.len().min(self.credit_max)).unwrap_or(u32::MAX);
        // No credit: the peer is behind anyway, and is asked another time.
        let credit = Arc::clone(&self.credit).try_acquire_many_owned(rows).ok()?;
        let query = proto::OutcomeQuery {
            epoch: overdue.iter().map(|view| view.xid.epoch.0).collect(),
            sequence: overdue.iter().map(|view| view.xid.sequence).collect(),
        };
        put(&self.outbox, self.handle.reached(), Told::OutcomeQuery(query), Some(credit));
        (overdue.len() == rows_max).then_some(last)
    }
}
