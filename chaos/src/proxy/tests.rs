//! A proxy before a server that says everything back.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout};

use super::*;

/// Nothing in these tests takes longer.
const WITHIN: Duration = Duration::from_secs(10);
/// For what must not happen: long enough to be seen if it does.
const A_WHILE: Duration = Duration::from_millis(60);

async fn echo() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    address
}

async fn proxied() -> (Proxy, TcpStream) {
    let proxy = Proxy::start(echo().await, 1).await.unwrap();
    let stream = TcpStream::connect(proxy.address()).await.unwrap();
    (proxy, stream)
}

/// Says something and hears it back.
async fn say(stream: &mut TcpStream, text: &str) -> io::Result<()> {
    stream.write_all(text.as_bytes()).await?;
    hear(stream, text).await
}

async fn hear(stream: &mut TcpStream, text: &str) -> io::Result<()> {
    let mut heard = vec![0; text.len()];
    timeout(WITHIN, stream.read_exact(&mut heard)).await.expect("in time")?;
    assert_eq!(heard, text.as_bytes());
    Ok(())
}

async fn hears_nothing(stream: &mut TcpStream) {
    assert!(timeout(A_WHILE, stream.read_u8()).await.is_err(), "nothing arrives");
}

#[tokio::test]
async fn a_good_network_is_not_felt() {
    let (_proxy, mut stream) = proxied().await;
    say(&mut stream, "hello").await.unwrap();
    let long = "x".repeat(1 << 20);
    let (mut from, mut to) = stream.split();
    let hearing = async {
        let mut heard = vec![0; long.len()];
        from.read_exact(&mut heard).await.map(|_| heard)
    };
    let (said, heard) = tokio::join!(to.write_all(long.as_bytes()), hearing);
    said.unwrap();
    assert_eq!(heard.unwrap(), long.as_bytes());
    stream.shutdown().await.unwrap();
    assert_eq!(timeout(WITHIN, stream.read(&mut [0])).await.unwrap().unwrap(), 0, "the end is passed on");
}

#[tokio::test]
async fn what_is_held_arrives_later() {
    let (proxy, mut stream) = proxied().await;
    say(&mut stream, "before").await.unwrap();
    proxy.set(Way::To, Conditions::flow(Flow::Hold));
    stream.write_all(b"meanwhile").await.unwrap();
    hears_nothing(&mut stream).await;
    proxy.heal();
    hear(&mut stream, "meanwhile").await.unwrap();
}

#[tokio::test]
async fn what_is_swallowed_is_gone_and_so_is_the_connection() {
    let (proxy, mut stream) = proxied().await;
    say(&mut stream, "before").await.unwrap();
    proxy.set_both(Conditions::flow(Flow::Swallow));
    stream.write_all(b"meanwhile").await.unwrap();
    hears_nothing(&mut stream).await;
    let mut other = TcpStream::connect(proxy.address()).await.unwrap();
    other.write_all(b"meanwhile").await.unwrap();
    hears_nothing(&mut other).await;
    proxy.heal();
    for stream in [&mut stream, &mut other] {
        let error = timeout(WITHIN, stream.read_u8()).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
    let mut fresh = TcpStream::connect(proxy.address()).await.unwrap();
    say(&mut fresh, "again").await.unwrap();
}

#[tokio::test]
async fn one_way_may_be_cut_alone() {
    let (proxy, mut stream) = proxied().await;
    proxy.set(Way::From, Conditions::flow(Flow::Hold));
    stream.write_all(b"question").await.unwrap();
    hears_nothing(&mut stream).await;
    proxy.heal();
    hear(&mut stream, "question").await.unwrap();
}

#[tokio::test]
async fn latency_is_felt_both_ways_and_keeps_the_order() {
    let (proxy, mut stream) = proxied().await;
    let latency = Duration::from_millis(20);
    proxy.set_both(Conditions { latency, jitter: latency, ..Conditions::default() });
    let begun = Instant::now();
    for _ in 0..3 {
        say(&mut stream, "hello").await.unwrap();
    }
    assert!(begun.elapsed() >= 6 * latency, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_narrow_line_takes_its_time() {
    let (proxy, mut stream) = proxied().await;
    proxy.set(Way::To, Conditions { bytes_per_s: Some(100_000), ..Conditions::default() });
    let begun = Instant::now();
    say(&mut stream, &"x".repeat(20_000)).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(200), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn connections_can_be_reset_and_refused() {
    let (proxy, mut stream) = proxied().await;
    say(&mut stream, "before").await.unwrap();
    proxy.reset_connections();
    let error = timeout(WITHIN, stream.read_u8()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    proxy.refuse(true);
    let mut refused = TcpStream::connect(proxy.address()).await.unwrap();
    assert!(timeout(WITHIN, refused.read_u8()).await.unwrap().is_err());
    proxy.heal();
    let mut taken = TcpStream::connect(proxy.address()).await.unwrap();
    say(&mut taken, "again").await.unwrap();
}

#[tokio::test]
async fn a_target_that_is_down_is_a_reset() {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
    let proxy = Proxy::start(free, 1).await.unwrap();
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    assert!(timeout(WITHIN, stream.read_u8()).await.unwrap().is_err());
}
