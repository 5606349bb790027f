//! A channel: a connection to one server, made when it is first used and made again when it is lost.
//!
//! **Invariant:** a call that fails with [`NotSent`] has not reached the server, not even in part.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};
use http::header::{HeaderValue, USER_AGENT};
use http::uri::{PathAndQuery, Scheme};
use http::{Request, Response, Uri, Version};
use tokio::sync::watch;
use tonic::Status;
use tonic::body::Body;
use tower_service::Service;

use crate::connection;
use crate::connector::Connector;
use crate::download::Download;
use crate::endpoint::Endpoint;
use crate::status::{NotSent, broken_off};
use crate::upload::{Upload, Uploading};

/// Calls to one server, over one connection. Cheap to clone; clones share the connection. Must be used within a tokio runtime.
///
/// How long a call may take is up to whoever makes it: a `grpc-timeout` is told to the server and not kept here.
#[derive(Clone)]
pub struct Channel(Arc<Shared>);

struct Shared {
    endpoint: Endpoint,
    connector: Connector,
    state: Mutex<State>,
}

/// What there is of a connection.
enum State {
    /// None was asked for yet, or the last attempt failed.
    Idle,
    /// Somebody asked for one. Made by a task of its own, so that no caller's patience ends it and none has to see to it.
    Connecting(Attempt),
    /// It may be lost by now.
    Connected(SendRequest<Bytes>),
}

/// What an attempt comes to, for all who wait for it.
type Attempt = watch::Receiver<Option<Result<SendRequest<Bytes>, NotSent>>>;

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Channel").field(self.0.endpoint.authority()).finish()
    }
}

impl Channel {
    /// A channel to a server; nothing is connected yet.
    pub fn new(endpoint: Endpoint, connector: Connector) -> Self {
        Self(Arc::new(Shared { endpoint, connector, state: Mutex::new(State::Idle) }))
    }

    /// Begins a call: its headers are on their way, in the order of calls, and what it says may follow.
    pub(crate) async fn begin(
        &self,
        request: Request<()>,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), Status> {
        let mut sender = self.0.sender().await?;
        // It was ready a moment ago; a connection that is lost since then takes nothing.
        sender.send_request(request, false).map_err(|error| {
            let why = format!("the connection to {} was lost: {error}", self.0.endpoint.authority());
            NotSent::for_now(why).into()
        })
    }

    /// Where a method of the server is.
    pub(crate) fn address(&self, path: PathAndQuery) -> Uri {
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Some(self.0.endpoint.authority().clone());
        parts.path_and_query = Some(path);
        Uri::from_parts(parts).expect("scheme, authority and path are all there")
    }

    async fn call(self, request: Request<Body>) -> Result<Response<Download>, Status> {
        let (mut parts, body) = request.into_parts();
        let path = std::mem::take(&mut parts.uri).into_parts().path_and_query;
        let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
        (parts.uri, parts.version) = (self.address(path), Version::HTTP_2);
        parts.headers.insert(USER_AGENT, user_agent());
        let (response, stream) = self.begin(Request::from_parts(parts, ())).await?;
        let uploading = Upload::new(body, stream).begin()?;
        let response = response.await.map_err(broken_off)?;
        Ok(response.map(|stream| Download::new(stream, uploading)))
    }
}

/// Who calls.
pub(crate) fn user_agent() -> HeaderValue {
    HeaderValue::from_static(concat!("escrow/", env!("CARGO_PKG_VERSION")))
}

impl Shared {
    /// Whoever can send on a connection that is not lost.
    async fn sender(self: &Arc<Self>) -> Result<SendRequest<Bytes>, NotSent> {
        let mut attempt = match self.look() {
            Ok(sender) => return Ok(sender),
            Err(attempt) => attempt,
        };
        let made = attempt.wait_for(Option::is_some).await.ok().and_then(|made| made.clone());
        made.unwrap_or_else(|| Err(NotSent::for_now("the attempt to connect was broken off".to_owned())))
    }

    /// Whoever can send on the connection that there is, or else an attempt to make one: the one under way, or a new one.
    fn look(self: &Arc<Self>) -> Result<SendRequest<Bytes>, Attempt> {
        let mut state = self.lock();
        match &*state {
            State::Connected(sender) => {
                let mut sender = sender.clone();
                // It has sent nothing yet, so it never has to wait; it fails if the connection is lost, or takes no more calls.
                if !matches!(sender.poll_ready(&mut Context::from_waker(Waker::noop())), Poll::Ready(Err(_)))
                {
                    return Ok(sender);
                }
            }
            // Whose runtime is gone never ends.
            State::Connecting(attempt) if attempt.has_changed().is_ok() => return Err(attempt.clone()),
            State::Connecting(_) | State::Idle => {}
        }
        let (done, attempt) = watch::channel(None);
        *state = State::Connecting(attempt.clone());
        tokio::spawn(connect(Arc::downgrade(self), self.endpoint.clone(), self.connector.clone(), done));
        Err(attempt)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes a connection for a channel that may be gone by then, and tells whoever waits.
async fn connect(
    channel: Weak<Shared>,
    endpoint: Endpoint,
    connector: Connector,
    done: watch::Sender<Option<Result<SendRequest<Bytes>, NotSent>>>,
) {
    let made = connection::connect(&endpoint, &connector).await;
    let made = made
        .map_err(|error| NotSent::for_now(format!("cannot connect to {}: {error}", endpoint.authority())));
    if let Some(channel) = channel.upgrade() {
        *channel.lock() = made.as_ref().map_or(State::Idle, |sender| State::Connected(sender.clone()));
    }
    done.send_replace(Some(made));
}

/// For tonic's generated clients.
impl Service<Request<Body>> for Channel {
    type Response = Response<Download>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Download>, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.clone().call(request))
    }
}

const _: fn() = || {
    fn sent_between_threads<T: Send + Sync + 'static>() {}
    sent_between_threads::<Channel>();
    sent_between_threads::<Option<Uploading>>();
};
