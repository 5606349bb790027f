//! One HTTP/2 connection: made, driven until it ends, and given up when nobody is at the other end any more.
//!
//! A process that vanishes without a word (a network that is cut, a machine that is gone) leaves a connection that looks well. After
//! some silence it is sent a ping. What counts as an answer is anything at all: a ping waits its turn behind all that was sent
//! before, and a server that is busy with that is not gone.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use h2::{Ping, PingPong};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::io::InspectReader;

use crate::connector::Connector;
use crate::endpoint::{Endpoint, KeepAlive};

/// A columnar message should never wait for a window update.
const STREAM_WINDOW: u32 = 16 << 20;
const CONNECTION_WINDOW: u32 = 64 << 20;
const FRAME_BYTES_MAX: u32 = 1 << 20;
/// What the server may say in the headers of an answer.
const HEADERS_BYTES_MAX: u32 = 64 << 10;
/// What one stream may hand over beyond what the server is ready to take.
const SEND_BUFFER_BYTES: usize = 1 << 20;

/// Calls that leave before the server has said how many it takes; more would be refused.
const STREAMS_BEFORE_SETTINGS: usize = 100;
/// Canceled calls whose answers may still come: an answer to a call that was forgotten counts against the connection.
const CANCELED_REMEMBERED: usize = 16_384;
const CANCELED_REMEMBERED_FOR: Duration = Duration::from_secs(30);

/// Makes a connection, within the endpoint's time, and a task that drives it until it ends. It ends when whoever could send on it is
/// gone and all calls are over.
pub(crate) async fn connect(endpoint: &Endpoint, connector: &Connector) -> io::Result<SendRequest<Bytes>> {
    let connecting = async {
        let io = connector.connect(endpoint).await?;
        let heard = Arc::new(Heard { made: Instant::now(), last_us: AtomicU64::new(0) });
        let hears = Arc::clone(&heard);
        let io = InspectReader::new(io, move |_: &[u8]| hears.now());
        let handshake = Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME_BYTES_MAX)
            .max_header_list_size(HEADERS_BYTES_MAX)
            .max_send_buffer_size(SEND_BUFFER_BYTES)
            .initial_max_send_streams(STREAMS_BEFORE_SETTINGS)
            .max_concurrent_reset_streams(CANCELED_REMEMBERED)
            .reset_stream_duration(CANCELED_REMEMBERED_FOR)
            .enable_push(false)
            .handshake::<_, Bytes>(io);
        let (sender, connection) = handshake.await.map_err(io::Error::other)?;
        io::Result::Ok((sender, connection, heard))
    };
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "no connection in time");
    let (sender, mut connection, heard) =
        timeout(endpoint.connect_timeout, connecting).await.map_err(late)??;
    let pings = connection.ping_pong().expect("it is taken once");
    let (authority, keep_alive) = (endpoint.authority().clone(), endpoint.keep_alive);
    tokio::spawn(async move {
        tokio::select! {
            // What has come is heard before silence is: this process may have stood still itself.
            biased;
            ended = connection => match ended {
                Ok(()) => tracing::debug!(%authority, "the connection has ended"),
                Err(error) => tracing::debug!(%authority, %error, "the connection is lost"),
            },
            () = until_silent(pings, &heard, keep_alive) => {
                tracing::debug!(%authority, "the connection is given up: its server says nothing");
            }
        }
    });
    Ok(sender)
}

/// Resolves when nothing was heard for too long; never if pings cannot be sent, which the connection itself knows of.
async fn until_silent(mut pings: PingPong, heard: &Heard, keep_alive: KeepAlive) {
    let mut asked = false;
    loop {
        let last = heard.last();
        sleep_until(last + keep_alive.silent).await;
        if heard.last() != last {
            continue;
        }
        if !asked && pings.send_ping(Ping::opaque()).is_err() {
            return std::future::pending().await;
        }
        asked = true;
        let pong = std::future::poll_fn(|context| pings.poll_pong(context));
        match timeout(keep_alive.answered, pong).await {
            Ok(Ok(_)) => asked = false,
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) if heard.last() == last => return,
            // The pong is still to come, behind whatever it is that comes.
            Err(_) => {}
        }
    }
}

/// When anything was heard last: microseconds since the connection was made.
struct Heard {
    made: Instant,
    last_us: AtomicU64,
}

impl Heard {
    fn now(&self) {
        let since = self.made.elapsed().as_micros();
        self.last_us.store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn last(&self) -> Instant {
        self.made + Duration::from_micros(self.last_us.load(Ordering::Relaxed))
    }
}
