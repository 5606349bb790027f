//! Connections: made when needed, shared, given up, and made again.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use escrow_grpc::{Channel, Connector, Endpoint, KeepAlive, was_not_sent};
use http::uri::PathAndQuery;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status};

use crate::server::{Text, answering, channel, say, text};

async fn ask(channel: &Channel) -> Result<Text, Status> {
    channel.unary(PathAndQuery::from_static("/escrow.v1.Test/Do"), &text("a"), 1_000).await
}

/// As [`ask`], on a task.
fn asking(channel: &Channel) -> JoinHandle<Result<Text, Status>> {
    let channel = channel.clone();
    tokio::spawn(async move { ask(&channel).await })
}

/// Connects to nobody: each attempt fails after a second. Counts them.
fn nobody() -> (Channel, Arc<AtomicUsize>) {
    let attempts = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&attempts);
    let connector = Connector::new(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        async {
            sleep(Duration::from_secs(1)).await;
            Err::<DuplexStream, _>(io::Error::from(io::ErrorKind::ConnectionRefused))
        }
    });
    (Channel::new(Endpoint::parse("http://nobody:1").unwrap(), connector), attempts)
}

#[tokio::test(start_paused = true)]
async fn what_finds_no_server_was_not_sent() {
    let (channel, attempts) = nobody();
    let status = ask(&channel).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(was_not_sent(&status).unwrap().to_string(), "cannot connect to nobody:1: connection refused");
    assert!(was_not_sent(&ask(&channel).await.unwrap_err()).is_some());
    assert_eq!(attempts.load(Ordering::Relaxed), 2, "each call tries anew");
}

#[tokio::test(start_paused = true)]
async fn calls_that_wait_for_the_same_attempt_share_its_failure() {
    let (channel, attempts) = nobody();
    let begun = Instant::now();
    let calls: Vec<_> = (0..100).map(|_| asking(&channel)).collect();
    for call in calls {
        assert!(was_not_sent(&call.await.unwrap().unwrap_err()).is_some());
    }
    assert_eq!((attempts.load(Ordering::Relaxed), begun.elapsed()), (1, Duration::from_secs(1)));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_not_made_in_time_is_an_attempt_that_failed() {
    let connector = Connector::new(|_| std::future::pending::<io::Result<DuplexStream>>());
    let endpoint = Endpoint::parse("http://nobody:1").unwrap().connect_within(Duration::from_millis(300));
    let begun = Instant::now();
    let status = ask(&Channel::new(endpoint, connector)).await.unwrap_err();
    assert_eq!(begun.elapsed(), Duration::from_millis(300));
    assert!(was_not_sent(&status).unwrap().to_string().contains("in time"), "{status:?}");
}

/// A connection that takes longer than any caller's patience is made all the same.
#[tokio::test(start_paused = true)]
async fn an_attempt_goes_on_when_callers_give_up() {
    let far = Arc::new(std::sync::Mutex::new(None));
    let keep = Arc::clone(&far);
    let connector = Connector::new(move |_| {
        let (near, far) = tokio::io::duplex(1 << 10);
        assert!(keep.lock().unwrap().replace(far).is_none(), "one attempt is enough");
        async {
            sleep(Duration::from_millis(900)).await;
            Ok(near)
        }
    });
    let channel = Channel::new(Endpoint::parse("http://far:1").unwrap(), connector);
    for _ in 0..8 {
        assert!(timeout(Duration::from_millis(100), ask(&channel)).await.is_err());
    }
    let call = tokio::spawn(async move { ask(&channel).await });
    let far = far.lock().unwrap().take().unwrap();
    let mut connection = h2::server::handshake(far).await.unwrap();
    let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
    say(&mut respond, &text("b"));
    assert!(connection.accept().await.is_none());
    assert_eq!(call.await.unwrap().unwrap(), text("b"));
}

/// A caller that waits for a connection and is not looked at, as in a set of futures of which another is looked at, holds nobody up.
#[tokio::test]
async fn whoever_is_not_polled_holds_nobody_up() {
    let (channel, listener) = channel(|endpoint| endpoint);
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            let mut call = Box::pin(ask(&channel));
            let context = &mut Context::from_waker(Waker::noop());
            assert!(call.as_mut().poll(context).is_pending());
            call
        })
        .collect();
    answering(listener, |(_, mut respond)| async move { say(&mut respond, &text("b")) });
    assert_eq!(ask(&channel).await.unwrap(), text("b"));
    for call in waiting {
        assert_eq!(call.await.unwrap(), text("b"));
    }
}

/// A server may take few calls at a time: once it has said so, the others wait until it is done, and none is refused.
#[tokio::test]
async fn calls_wait_for_a_server_that_takes_few() {
    let (channel, mut listener) = channel(|endpoint| endpoint);
    let first = asking(&channel);
    let mut connection = h2::server::Builder::new()
        .max_concurrent_streams(2)
        .handshake(listener.accept().await)
        .await
        .unwrap();
    let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
    say(&mut respond, &text("b"));
    let serving = tokio::spawn(async move {
        while let Some(call) = connection.accept().await {
            let (_request, mut respond) = call.unwrap();
            say(&mut respond, &text("b"));
        }
    });
    first.await.unwrap().unwrap();
    let calls: Vec<_> = (0..50).map(|_| asking(&channel)).collect();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap(), text("b"));
    }
    drop(channel);
    serving.await.unwrap();
}

#[tokio::test]
async fn all_calls_share_a_connection() {
    let (channel, listener) = channel(|endpoint| endpoint);
    let asked = Arc::clone(&listener.asked);
    answering(listener, |(_, mut respond)| async move { say(&mut respond, &text("b")) });
    let calls: Vec<_> = (0..500).map(|_| asking(&channel)).collect();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap(), text("b"));
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_lost_connection_is_made_again_and_what_was_under_way_is_not_known() {
    let (channel, mut listener) = channel(|endpoint| endpoint);
    let call = asking(&channel);
    let mut connection = listener.serve().await;
    let unanswered = connection.accept().await.unwrap().unwrap();
    drop((connection, unanswered));
    let status = call.await.unwrap().unwrap_err();
    assert!(was_not_sent(&status).is_none() && status.code() == Code::Unknown, "{status:?}");
    answering(listener, |(_, mut respond)| async move { say(&mut respond, &text("b")) });
    assert_eq!(ask(&channel).await.unwrap(), text("b"));
}

/// A server that stops says so (GOAWAY): what it has it answers, and what comes later goes to its successor.
#[tokio::test(start_paused = true)]
async fn a_server_that_takes_leave_is_left_in_peace() {
    let (channel, mut listener) = channel(|endpoint| endpoint);
    let first = asking(&channel);
    let mut connection = listener.serve().await;
    let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
    connection.graceful_shutdown();
    let leaving = tokio::spawn(async move { while connection.accept().await.is_some() {} });
    let second = loop {
        // Until the word has arrived a call may still go there, and is not taken up.
        let call = asking(&channel);
        match timeout(Duration::from_secs(10), listener.serve()).await {
            Ok(connection) => break (call, connection),
            Err(_) => call.abort(),
        }
    };
    say(&mut respond, &text("the first"));
    assert_eq!(first.await.unwrap().unwrap(), text("the first"));
    let (call, mut connection) = second;
    let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
    say(&mut respond, &text("the second"));
    let serving = tokio::spawn(async move { while connection.accept().await.is_some() {} });
    assert_eq!(call.await.unwrap().unwrap(), text("the second"));
    drop(channel);
    leaving.await.unwrap();
    serving.await.unwrap();
}

const KEEP_ALIVE: KeepAlive = KeepAlive { silent: Duration::from_secs(2), answered: Duration::from_secs(4) };

/// The other end of a connection whose call has left, a client's preface and settings included.
async fn heard(listener: &mut crate::server::Listener) -> DuplexStream {
    let mut far = listener.accept().await;
    let mut preface = [0; 24];
    far.read_exact(&mut preface).await.unwrap();
    assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    far
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_nothing_is_given_up() {
    let (channel, mut listener) = channel(|endpoint| endpoint.keep_alive(KEEP_ALIVE));
    let begun = Instant::now();
    let call = tokio::spawn(async move { ask(&channel).await });
    let far = heard(&mut listener).await;
    let status = call.await.unwrap().unwrap_err();
    assert_eq!(begun.elapsed(), KEEP_ALIVE.silent + KEEP_ALIVE.answered);
    assert!(was_not_sent(&status).is_none(), "{status:?}");
    drop(far);
}

/// What counts is when something was heard last, not when somebody last looked.
#[tokio::test(start_paused = true)]
async fn silence_begins_with_the_last_word() {
    let (channel, mut listener) = channel(|endpoint| endpoint.keep_alive(KEEP_ALIVE));
    let call = tokio::spawn(async move { ask(&channel).await });
    let mut far = heard(&mut listener).await;
    sleep(KEEP_ALIVE.silent / 10).await;
    far.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    let last = Instant::now();
    call.await.unwrap().unwrap_err();
    let took = last.elapsed().saturating_sub(KEEP_ALIVE.silent + KEEP_ALIVE.answered);
    assert!(took <= Duration::from_millis(5), "{took:?} too late");
}

/// A ping waits behind all that was sent before it: a server that says anything lives, even if it never gets to the ping.
#[tokio::test(start_paused = true)]
async fn a_server_that_says_anything_is_not_given_up() {
    let (channel, mut listener) = channel(|endpoint| endpoint.keep_alive(KEEP_ALIVE));
    let call = tokio::spawn(async move { ask(&channel).await });
    let mut far = heard(&mut listener).await;
    // An empty SETTINGS, and now and then a WINDOW_UPDATE of the connection by 1: frames of RFC 9113, 6.5 and 6.9.
    far.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    for _ in 0..100 {
        sleep(KEEP_ALIVE.silent + KEEP_ALIVE.answered / 2).await;
        assert!(!call.is_finished());
        far.write_all(&[0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 1]).await.unwrap();
    }
    let last = Instant::now();
    call.await.unwrap().unwrap_err();
    assert!(last.elapsed() <= (KEEP_ALIVE.silent + KEEP_ALIVE.answered) * 2, "{:?}", last.elapsed());
}

/// A server that answers pings may take as long as it wants.
#[tokio::test(start_paused = true)]
async fn a_slow_server_is_waited_for() {
    let (channel, listener) = channel(|endpoint| endpoint.keep_alive(KEEP_ALIVE));
    answering(listener, |(_, mut respond)| async move {
        sleep(Duration::from_secs(600)).await;
        say(&mut respond, &text("b"));
    });
    assert_eq!(ask(&channel).await.unwrap(), text("b"));
}

#[tokio::test]
async fn a_channel_that_nobody_holds_closes_its_connection() {
    let (channel, mut listener) = channel(|endpoint| endpoint);
    let call = tokio::spawn(async move { ask(&channel).await });
    let mut connection = listener.serve().await;
    let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
    say(&mut respond, &text("b"));
    assert!(connection.accept().await.is_none());
    assert_eq!(call.await.unwrap().unwrap(), text("b"));
}
