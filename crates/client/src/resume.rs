//! Streams, and what outlives their connection.
//!
//! To a coordinator without replicas a stream is one connection and ends with it. To a group of replicas it goes on: what was sent
//! is kept until it is answered, and when the connection breaks, or its replica does not lead any more, the stream is opened
//! again at the one that does. There, what has no answer is sent first, in the order of before and with the same ids, so that it
//! joins what is under way; meanwhile the sending half waits. The stream ends with an error only if all this gives no answer
//! within the deadline of the client, or if the server refuses for good.
//!
//! Nothing is copied for it: a message is kept behind an [`Arc`], and encoded from there.
//!
//! **Invariant:** a request is kept from the moment that it leaves the queue until its answer is handed on, and is sent on one
//! connection at a time.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use escrow_grpc::Channel;
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::codec::{Codec, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Response, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::call::{Budget, Subject, Verdict, Whom, classify, drive, stream_error};
use crate::channel::Route;
use crate::client::Client;
use crate::error::ClientError;
use crate::retry::Retry;

/// One kind of stream, and what of it has no answer yet.
pub(crate) trait Unanswered: Default + Send + 'static {
    /// What is sent.
    type Request: Message + 'static;
    /// What comes back, in any order.
    type Response: Message + Default + 'static;
    /// The method.
    const PATH: &'static str;
    /// So many answers wait for the caller; then no more are taken from the connection. Many: a caller may send much before it
    /// listens, and a connection that is not read from is not seen to break.
    const ANSWERS_MAX: usize;

    /// A request leaves for the first time.
    fn sent(&mut self, request: &Arc<Self::Request>);

    /// An answer has come. Takes out of it what is no answer but the word of a server that gives none any more.
    fn answered(&mut self, response: &mut Self::Response) -> Heard;

    /// Whether everything is answered.
    fn is_empty(&self) -> bool;

    /// What is to be sent again, in the order of before.
    fn again(&mut self) -> Vec<Arc<Self::Request>>;
}

/// What is in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Heard {
    /// Something for the caller is left in it.
    pub(crate) is_answer: bool,
    /// The server leads no more, or is about to stop: another replica is to be asked.
    pub(crate) is_farewell: bool,
}

/// Whether a row was refused only because this replica will not do it. Another one will.
pub(crate) fn is_farewell(state: u8, reason: u8) -> bool {
    use escrow_types::Reason::{NotLeader, ShuttingDown};
    state == escrow_proto::v1::TransactionState::Refused as u8
        && (reason == NotLeader as u8 || reason == ShuttingDown as u8)
}

/// Where the answers come from.
#[derive(Debug)]
pub(crate) enum Answers<T> {
    /// The only connection.
    Direct(Box<Streaming<T>>),
    /// The task that makes connections.
    Resumed(mpsc::Receiver<Result<T, ClientError>>),
}

impl<T> Answers<T> {
    /// The next one; `None` when everything is answered and the stream has ended.
    pub(crate) async fn next(&mut self) -> Result<Option<T>, ClientError> {
        match self {
            Self::Direct(answers) => answers.message().await.map_err(|status| stream_error(&status)),
            Self::Resumed(answers) => answers.recv().await.transpose(),
        }
    }
}

/// The two halves of a stream.
type Halves<U> = (mpsc::Sender<<U as Unanswered>::Request>, Answers<<U as Unanswered>::Response>);

/// Opens a stream to a partition. So many messages wait between its sending half and the connection.
pub(crate) async fn open<U: Unanswered>(
    client: &Client,
    partition: usize,
    queue_max: usize,
) -> Result<Halves<U>, ClientError> {
    let (sender, queue) = mpsc::channel(queue_max);
    if client.pool.replicas(partition).is_alone() {
        let answers = open_direct::<U>(client, partition, queue).await?;
        return Ok((sender, Answers::Direct(Box::new(answers))));
    }
    let state = State { queue, again: VecDeque::new(), unanswered: U::default(), turn: 0, waiting: None };
    let (answers, receiver) = mpsc::channel(U::ANSWERS_MAX);
    let shared = Shared(Arc::new(Mutex::new(state)));
    let lasting = Lasting { client: client.clone(), partition, shared, answers };
    let opened = lasting.connect(client.options.deadline).await.map_err(|error| match error {
        // Nothing was sent yet.
        ClientError::Unanswered { endpoint, message } => ClientError::Unavailable { endpoint, message },
        other => other,
    })?;
    tokio::spawn(lasting.run(opened));
    Ok((sender, Answers::Resumed(receiver)))
}

async fn open_direct<U: Unanswered>(
    client: &Client,
    partition: usize,
    queue: mpsc::Receiver<U::Request>,
) -> Result<Streaming<U::Response>, ClientError> {
    let unavailable =
        |message| ClientError::Unavailable { endpoint: client.endpoint(partition).to_owned(), message };
    let route = Route { partition, replica: 0 };
    let codec = ProstCodec::default();
    let opening = call::<U, _, _>(client, route, ReceiverStream::new(queue), codec);
    match timeout(client.options.attempt_timeout, opening).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(match stream_error(&status) {
            ClientError::Closed(message) => unavailable(message),
            refused => refused,
        }),
        Err(_) => Err(unavailable("the stream did not open in time".to_owned())),
    }
}

async fn call<U, S, C>(
    client: &Client,
    route: Route,
    requests: S,
    codec: C,
) -> Result<Response<Streaming<U::Response>>, Status>
where
    U: Unanswered,
    S: Stream<Item = C::Encode> + Send + 'static,
    C: Codec<Decode = U::Response>,
    C::Encode: Sync,
{
    let limit = client.options.message_bytes_max;
    let mut grpc: Grpc<Channel> = Grpc::new(client.pool.channel(route))
        .max_decoding_message_size(limit)
        .max_encoding_message_size(limit);
    let not_ready = |error| Status::unknown(format!("the connection is not ready: {error}"));
    grpc.ready().await.map_err(not_ready)?;
    let request = tonic::Request::new(requests);
    grpc.streaming(request, PathAndQuery::from_static(U::PATH), codec).await
}

/// What the connection takes from, and the task that reads answers.
struct State<U: Unanswered> {
    queue: mpsc::Receiver<U::Request>,
    /// Kept already, and to be sent on this connection before anything else.
    again: VecDeque<Arc<U::Request>>,
    unanswered: U,
    /// The connection that may take requests: older ones are told that there are none any more.
    turn: u64,
    /// Who waits for a request.
    waiting: Option<Waker>,
}

impl<U: Unanswered> State<U> {
    /// From now on nothing is taken but by the connection of the turn that this gives.
    fn next_turn(&mut self) -> u64 {
        self.turn += 1;
        self.again = self.unanswered.again().into();
        if let Some(waiting) = self.waiting.take() {
            waiting.wake();
        }
        self.turn
    }

    /// Whether nothing is left to be sent or answered.
    fn is_done(&self) -> bool {
        self.unanswered.is_empty() && self.queue.is_closed() && self.queue.is_empty()
    }
}

struct Shared<U: Unanswered>(Arc<Mutex<State<U>>>);

impl<U: Unanswered> Shared<U> {
    fn lock(&self) -> MutexGuard<'_, State<U>> {
        self.0.lock().expect("no panic while it is held")
    }
}

/// The requests of one connection.
struct Requests<U: Unanswered> {
    shared: Shared<U>,
    turn: u64,
}

impl<U: Unanswered> Stream for Requests<U> {
    type Item = Arc<U::Request>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.shared.lock();
        if state.turn != self.turn {
            return Poll::Ready(None);
        }
        if let Some(request) = state.again.pop_front() {
            return Poll::Ready(Some(request));
        }
        match state.queue.poll_recv(context) {
            Poll::Ready(Some(request)) => {
                let request = Arc::new(request);
                state.unanswered.sent(&request);
                Poll::Ready(Some(request))
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                if !state.waiting.as_ref().is_some_and(|waiting| waiting.will_wake(context.waker())) {
                    state.waiting = Some(context.waker().clone());
                }
                Poll::Pending
            }
        }
    }
}

/// A stream that goes from replica to replica.
struct Lasting<U: Unanswered> {
    client: Client,
    partition: usize,
    shared: Shared<U>,
    answers: mpsc::Sender<Result<U::Response, ClientError>>,
}

/// A connection that was opened.
struct Opened<T> {
    answers: Streaming<T>,
    route: Route,
    since: Instant,
    /// Whether there was nothing to send again.
    is_idle: bool,
}

impl<U: Unanswered> Lasting<U> {
    /// Until everything is answered, the receiving half is gone, or nothing helps any more.
    async fn run(self, opened: Opened<U::Response>) {
        let end = tokio::select! {
            end = self.last(opened) => end,
            () = self.answers.closed() => Ok(()),
        };
        {
            let mut state = self.shared.lock();
            state.queue.close();
            state.next_turn();
        }
        if let Err(error) = end {
            // The receiving half may be gone.
            let _ = self.answers.send(Err(error)).await;
        }
    }

    /// Hands answers on, from one connection after the other.
    async fn last(&self, mut opened: Opened<U::Response>) -> Result<(), ClientError> {
        let policy = self.client.options.retry;
        // Since the first connection that broke and was not followed by an answer.
        let mut trouble: Option<Retry> = None;
        loop {
            let verdict = self.hand_on(&mut opened, &mut trouble).await;
            if self.shared.lock().is_done() {
                return Ok(());
            }
            if !verdict.may_repeat(Subject::Idempotent) || policy.attempts_max <= 1 {
                return Err(verdict.into_stream_error());
            }
            if opened.is_idle && opened.since.elapsed() >= policy.cap {
                trouble = None;
            }
            self.steer(&verdict, opened.route);
            tracing::debug!(route = ?opened.route, "the stream goes on elsewhere");
            opened = self.resume(verdict, &mut trouble).await?;
        }
    }

    /// Hands answers on until the connection gives none any more; says why.
    async fn hand_on(&self, opened: &mut Opened<U::Response>, trouble: &mut Option<Retry>) -> Verdict {
        loop {
            let mut response = match opened.answers.message().await {
                Ok(Some(response)) => response,
                Ok(None) => return Verdict::Perhaps("the server ended it".to_owned()),
                Err(status) => return classify(&status),
            };
            let heard = self.shared.lock().unanswered.answered(&mut response);
            if heard.is_answer {
                *trouble = None;
                // The receiving half may be gone: then this task ends.
                let _ = self.answers.send(Ok(response)).await;
            }
            if heard.is_farewell {
                return Verdict::NotLeader(None, "the replica does not lead any more".to_owned());
            }
        }
    }

    /// Lets the next connection begin elsewhere, unless somebody else found out already.
    fn steer(&self, verdict: &Verdict, route: Route) {
        let mut course = escrow_service::Course::new(self.client.pool.replicas(self.partition));
        if course.at() == route.replica {
            verdict.steer(&mut course);
        }
    }

    /// The next connection. All of them together have the time of a call until there is an answer.
    async fn resume(
        &self,
        verdict: Verdict,
        trouble: &mut Option<Retry>,
    ) -> Result<Opened<U::Response>, ClientError> {
        let options = &self.client.options;
        match trouble {
            Some(retry) => match retry.next_pause() {
                Some(pause) => sleep(pause).await,
                None => return Err(verdict.into_stream_error()),
            },
            None => *trouble = Some(Retry::new(options.retry, Instant::now() + options.deadline)),
        }
        let remaining = trouble.as_ref().map_or(Duration::ZERO, Retry::remaining);
        self.connect(remaining).await.map_err(|error| match error {
            ClientError::Refused { reason, message } if !reason.is_retryable() => {
                ClientError::Refused { reason, message }
            }
            ClientError::Rejected { code, message } => ClientError::Rejected { code, message },
            // What has no answer may have been executed.
            other => ClientError::Closed(other.to_string()),
        })
    }

    /// A connection to the replica that leads. What has no answer is sent on it.
    async fn connect(&self, within: Duration) -> Result<Opened<U::Response>, ClientError> {
        let budget = Budget::of(&self.client.options).in_all(within);
        let attempt = |route| async move {
            let (requests, is_idle) = self.requests();
            let response = call::<U, _, _>(&self.client, route, requests, KeptCodec::default()).await?;
            Ok(response.map(|answers| Opened { answers, route, since: Instant::now(), is_idle }))
        };
        drive(Subject::Idempotent, budget, &self.client.pool, Whom::Partition(self.partition), attempt).await
    }

    /// The requests of a new connection, and whether there is none to begin with.
    fn requests(&self) -> (Requests<U>, bool) {
        let mut state = self.shared.lock();
        let turn = state.next_turn();
        let shared = Shared(Arc::clone(&self.shared.0));
        (Requests { shared, turn }, state.again.is_empty())
    }
}

/// Encodes messages that are kept.
struct KeptCodec<T, R>(std::marker::PhantomData<(T, R)>);

impl<T, R> Default for KeptCodec<T, R> {
    fn default() -> Self {
        Self(std::marker::PhantomData)
    }
}

impl<T: Message + 'static, R: Message + Default + 'static> Codec for KeptCodec<T, R> {
    type Encode = Arc<T>;
    type Decode = R;
    type Encoder = Self;
    type Decoder = <ProstCodec<T, R> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        Self::default()
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, R>::raw_decoder(tonic::codec::BufferSettings::default())
    }
}

impl<T: Message + 'static, R: Send + 'static> Encoder for KeptCodec<T, R> {
    type Item = Arc<T>;
    type Error = Status;

    fn encode(&mut self, item: Self::Item, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(buffer).expect("the buffer grows as it is written to");
        Ok(())
    }
}
