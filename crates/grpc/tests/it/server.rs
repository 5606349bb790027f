//! Servers in the same process, that do what a test says, over connections without sockets.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{BufMut as _, Bytes, BytesMut};
use escrow_grpc::{Channel, Connector, Endpoint};
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
use prost::Message as _;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tonic::Status;

/// What both directions say in these tests: a message with one string, as any other.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Text {
    #[prost(string, tag = "1")]
    pub(crate) text: String,
}

pub(crate) fn text(text: impl Into<String>) -> Text {
    Text { text: text.into() }
}

/// One call as a server sees it.
pub(crate) type Call = (Request<RecvStream>, SendResponse<Bytes>);

/// Connections that a channel makes, as they come; and how many were asked for.
pub(crate) struct Listener {
    connections: mpsc::UnboundedReceiver<DuplexStream>,
    pub(crate) asked: Arc<AtomicUsize>,
}

/// A channel, and where its connections come from.
pub(crate) fn channel(adjust: impl FnOnce(Endpoint) -> Endpoint) -> (Channel, Listener) {
    let (accept, connections) = mpsc::unbounded_channel();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let connector = Connector::new(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        let (near, far) = tokio::io::duplex(1 << 20);
        let accepted = accept.send(far).map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused));
        async move { accepted.map(|()| near) }
    });
    let endpoint = Endpoint::parse("http://wallet:7400").expect("an endpoint");
    (Channel::new(adjust(endpoint), connector), Listener { connections, asked })
}

impl Listener {
    pub(crate) async fn accept(&mut self) -> DuplexStream {
        self.connections.recv().await.expect("the channel lives")
    }

    /// The calls of the next connection.
    pub(crate) async fn serve(&mut self) -> h2::server::Connection<DuplexStream, Bytes> {
        h2::server::handshake(self.accept().await).await.expect("a client")
    }
}

/// Answers all calls of all connections to come, each by `answer`, until the channel is gone.
pub(crate) fn answering<F>(mut listener: Listener, answer: impl Fn(Call) -> F + Send + Clone + 'static)
where
    F: Future<Output = ()> + Send + 'static,
{
    tokio::spawn(async move {
        while let Some(io) = listener.connections.recv().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut connection = h2::server::handshake::<_>(io).await.expect("a client");
                while let Some(Ok(call)) = connection.accept().await {
                    tokio::spawn(answer(call));
                }
            });
        }
    });
}

/// All bytes of a request, to its end; an error if it is broken off.
pub(crate) async fn read(body: &mut RecvStream) -> Result<Bytes, h2::Error> {
    let mut all = BytesMut::new();
    while let Some(bytes) = body.data().await {
        let bytes = bytes?;
        body.flow_control().release_capacity(bytes.len())?;
        all.extend_from_slice(&bytes);
    }
    Ok(all.freeze())
}

pub(crate) fn framed(message: &Text) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.encoded_len()).expect("small"));
    message.encode(&mut bytes).expect("there is room");
    bytes.freeze()
}

pub(crate) fn head() -> Response<()> {
    Response::builder().header("content-type", "application/grpc").body(()).expect("a response")
}

pub(crate) fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    status.add_header(&mut trailers).expect("a status");
    trailers
}

pub(crate) fn ok() -> HeaderMap {
    HeaderMap::from_iter([("grpc-status".parse().expect("a name"), HeaderValue::from_static("0"))])
}

/// Answers with this message and OK.
pub(crate) fn say(respond: &mut SendResponse<Bytes>, message: &Text) {
    let mut stream = respond.send_response(head(), false).expect("the caller listens");
    stream.send_data(framed(message), false).expect("the caller listens");
    stream.send_trailers(ok()).expect("the caller listens");
}
