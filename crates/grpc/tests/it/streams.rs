//! Calls of many messages, as tonic's generated clients make them.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use escrow_grpc::{Channel, Download, was_not_sent};
use h2::Reason;
use http::{Request, Response};
use http_body::{Body as _, Frame};
use tokio::sync::mpsc;
use tonic::body::Body;
use tonic::{Code, Status};
use tower_service::Service as _;

use crate::server::{answering, channel, framed, head, ok, read, say, text};

/// What a call says, in frames: those of a queue, which may still grow. Counts what was taken.
struct Said {
    queue: mpsc::UnboundedReceiver<Result<Bytes, Status>>,
    taken: Arc<AtomicUsize>,
}

type Say = mpsc::UnboundedSender<Result<Bytes, Status>>;

fn said() -> (Say, Arc<AtomicUsize>, Body) {
    let (say, queue) = mpsc::unbounded_channel();
    let taken = Arc::new(AtomicUsize::new(0));
    (say, Arc::clone(&taken), Body::new(Said { queue, taken }))
}

impl http_body::Body for Said {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let next = self.queue.poll_recv(context);
        if let Poll::Ready(Some(Ok(_))) = &next {
            self.taken.fetch_add(1, Ordering::Relaxed);
        }
        next.map(|next| next.map(|bytes| bytes.map(Frame::data)))
    }
}

fn call(
    channel: &Channel,
    body: Body,
) -> impl Future<Output = Result<Response<Download>, Status>> + Send + 'static {
    let request = Request::builder().method("POST").uri("/escrow.v1.Test/Many").body(body).unwrap();
    channel.clone().call(request)
}

/// Nothing that is waited for here takes long.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), what).await.expect("it did not happen")
}

/// The next frame of an answer.
async fn frame(body: &mut Download) -> Option<Result<Frame<Bytes>, Status>> {
    soon(std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context))).await
}

#[tokio::test]
async fn both_sides_speak_in_turn_and_to_the_end() {
    let (channel, listener) = channel(|endpoint| endpoint);
    answering(listener, |(request, mut respond)| async move {
        let mut asked = request.into_body();
        let mut stream = respond.send_response(head(), false).unwrap();
        while let Some(bytes) = asked.data().await {
            stream.send_data(bytes.unwrap(), false).unwrap();
        }
        stream.send_trailers(ok()).unwrap();
    });
    let (say, _, body) = said();
    let mut answers = call(&channel, body).await.unwrap().into_body();
    for number in 0..100 {
        let bytes = framed(&text(format!("message {number}")));
        say.send(Ok(bytes.clone())).unwrap();
        assert_eq!(frame(&mut answers).await.unwrap().unwrap().into_data().unwrap(), bytes);
    }
    drop(say);
    assert_eq!(frame(&mut answers).await.unwrap().unwrap().into_trailers().unwrap(), ok());
    assert!(frame(&mut answers).await.is_none());
}

/// Of bytes in their order.
fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(7, |digest: u64, &byte| digest.wrapping_mul(31).wrapping_add(u64::from(byte)))
}

#[tokio::test]
async fn bodies_of_any_length_arrive_whole() {
    for sizes in [&[][..], &[0], &[0, 0, 5], &[1], &[70_000, 0, 1], &[3 << 20, 3 << 20], &[100; 1_000]] {
        let (channel, listener) = channel(|endpoint| endpoint);
        answering(listener, |(request, mut respond)| async move {
            let all = read(&mut request.into_body()).await.unwrap();
            say(&mut respond, &text(format!("{} {}", all.len(), digest(&all))));
        });
        for is_late in [false, true] {
            let (say, _, body) = said();
            let pieces: VecDeque<Bytes> =
                sizes.iter().enumerate().map(|(at, &size)| Bytes::from(vec![at as u8; size])).collect();
            let all: Vec<u8> = pieces.iter().flatten().copied().collect();
            let sum = digest(&all);
            let saying = async {
                if is_late {
                    tokio::task::yield_now().await;
                }
                for piece in pieces {
                    say.send(Ok(piece)).unwrap();
                }
                drop(say);
            };
            let called = call(&channel, body);
            let mut answer = if is_late {
                tokio::join!(called, saying).0
            } else {
                saying.await;
                called.await
            }
            .unwrap()
            .into_body();
            let bytes = frame(&mut answer).await.unwrap().unwrap().into_data().unwrap();
            assert_eq!(bytes, framed(&text(format!("{} {sum}", all.len()))), "{sizes:?}");
        }
    }
}

/// A server that takes nothing holds up whoever speaks to it, instead of filling memory.
#[tokio::test]
async fn nothing_is_taken_from_a_body_that_the_server_has_no_room_for() {
    let (channel, mut listener) = channel(|endpoint| endpoint);
    let (say, taken, body) = said();
    for _ in 0..1_000 {
        say.send(Ok(Bytes::from(vec![7; 64 << 10]))).unwrap();
    }
    drop(say);
    let called = tokio::spawn(call(&channel, body));
    let mut connection = listener.serve().await;
    let (request, mut respond) = connection.accept().await.unwrap().unwrap();
    let serving = tokio::spawn(async move { while connection.accept().await.is_some() {} });
    let mut asked = request.into_body();
    // The window of a stream is 65,535 bytes unless a server says otherwise; what it got is not given free.
    let mut arrived = 0;
    while arrived < 65_535 {
        arrived += asked.data().await.unwrap().unwrap().len();
    }
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let before = taken.load(Ordering::Relaxed);
    assert!(before <= 4, "{before} frames of 64 KiB were taken for a window of one");
    asked.flow_control().release_capacity(arrived).unwrap();
    assert_eq!(arrived + read(&mut asked).await.unwrap().len(), 1_000 * (64 << 10));
    assert_eq!(taken.load(Ordering::Relaxed), 1_000);
    crate::server::say(&mut respond, &text("b"));
    called.await.unwrap().unwrap();
    drop(channel);
    serving.await.unwrap();
}

#[tokio::test]
async fn whoever_stops_listening_cancels_the_call() {
    for answers_first in [true, false] {
        let (channel, mut listener) = channel(|endpoint| endpoint);
        let (say, _, body) = said();
        say.send(Ok(Bytes::from_static(b"first"))).unwrap();
        let called = tokio::spawn(call(&channel, body));
        let mut connection = listener.serve().await;
        let (request, mut respond) = connection.accept().await.unwrap().unwrap();
        let serving = tokio::spawn(async move { while connection.accept().await.is_some() {} });
        let mut asked = request.into_body();
        assert_eq!(asked.data().await.unwrap().unwrap(), "first");
        if answers_first {
            let mut stream = respond.send_response(head(), false).unwrap();
            let answer = called.await.unwrap().unwrap();
            drop(answer);
            let reset = soon(std::future::poll_fn(|context| stream.poll_reset(context))).await;
            assert_eq!(reset.unwrap(), Reason::CANCEL);
        } else {
            called.abort();
            let reset = soon(std::future::poll_fn(|context| respond.poll_reset(context))).await;
            assert_eq!(reset.unwrap(), Reason::CANCEL);
        }
        // Nobody listens to what is still said.
        while !say.is_closed() {
            tokio::task::yield_now().await;
        }
        drop(channel);
        serving.await.unwrap();
    }
}

/// A body that fails before anything of it has left says so itself; later nobody knows what the server made of the beginning.
#[tokio::test]
async fn a_body_that_fails_fails_its_call() {
    for said_before in 0..3 {
        for is_late in [false, true] {
            let (channel, mut listener) = channel(|endpoint| endpoint);
            let (say, _, body) = said();
            let say_all = move || {
                for _ in 0..said_before {
                    say.send(Ok(Bytes::from_static(b"part"))).unwrap();
                }
                say.send(Err(Status::out_of_range("too large"))).unwrap();
            };
            let late = is_late.then(|| say_all.clone());
            if !is_late {
                say_all();
            }
            let called = tokio::spawn(call(&channel, body));
            let mut connection = listener.serve().await;
            if let Some(say_all) = late {
                // Until its headers are here: then the call waits for its body.
                let (request, respond) = connection.accept().await.unwrap().unwrap();
                let serving = tokio::spawn(async move { while connection.accept().await.is_some() {} });
                say_all();
                read(&mut request.into_body()).await.expect_err("it has no end");
                drop((respond, channel));
                serving.await.unwrap();
            } else {
                drop(channel);
                while let Some(Ok((request, _respond))) = connection.accept().await {
                    drop(request);
                }
            }
            let status = called.await.unwrap().unwrap_err();
            let is_certain = !is_late && said_before == 0;
            assert_eq!(was_not_sent(&status).is_some(), is_certain, "{said_before} {is_late}: {status:?}");
            let code = if is_certain { Code::OutOfRange } else { Code::Internal };
            assert_eq!(status.code(), code, "{said_before} {is_late}: {status:?}");
        }
    }
}

/// Windows that are given back: more than all of them together, listened to or not.
#[tokio::test]
async fn answers_never_run_out_of_room() {
    let (channel, listener) = channel(|endpoint| endpoint);
    answering(listener, |(_request, mut respond)| async move {
        let mut stream = respond.send_response(head(), false).unwrap();
        for _ in 0..24 {
            stream.reserve_capacity(1 << 18);
            while stream.capacity() < 1 << 18 {
                match std::future::poll_fn(|context| stream.poll_capacity(context)).await {
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return,
                }
            }
            // The caller may have gone.
            if stream.send_data(Bytes::from(vec![1; 1 << 20]), false).is_err() {
                return;
            }
        }
        stream.send_trailers(ok()).unwrap();
    });
    for number in 0..8 {
        let (say, _, body) = said();
        drop(say);
        let mut answer = call(&channel, body).await.unwrap().into_body();
        if number % 2 == 0 {
            continue;
        }
        let mut bytes = 0;
        while let Some(frame) = frame(&mut answer).await {
            bytes += frame.unwrap().into_data().map_or(0, |data| data.len());
        }
        assert_eq!(bytes, 24 << 20);
    }
}

/// A server may have heard enough: it answers to the end, and lets go of what is said.
#[tokio::test]
async fn a_server_that_ends_a_call_ends_what_is_said_too() {
    let (channel, listener) = channel(|endpoint| endpoint);
    answering(listener, |(_request, mut respond)| async move {
        say(&mut respond, &text("enough"));
    });
    let (say, _, body) = said();
    let mut answer = call(&channel, body).await.unwrap().into_body();
    assert_eq!(frame(&mut answer).await.unwrap().unwrap().into_data().unwrap(), framed(&text("enough")));
    assert_eq!(frame(&mut answer).await.unwrap().unwrap().into_trailers().unwrap(), ok());
    while !say.is_closed() {
        tokio::task::yield_now().await;
    }
}
