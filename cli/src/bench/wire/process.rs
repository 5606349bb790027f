//! The echo server as a process of its own, as the real servers are, and the calls that load it.
//!
//! The process is this same program. It ends with this one, however this one ends: when it is dropped, and by the kernel when
//! it is killed.

use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use escrow_client::IdSequence;
use escrow_cluster::child::SUPERVISOR_ENV;
use escrow_proto::v1::{TransferColumnsRequest, TransferRequest};
use hdrhistogram::Histogram;
use prost::Message;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use super::echo::{BULK, MESSAGE_BYTES_MAX, STREAM, UNARY};
use crate::bench::meter::{histogram, micros};
use crate::bench::{BenchError, Load};

/// The hidden command that serves the echo.
pub(crate) const ECHO_COMMAND: [&str; 2] = ["bench", "echo-server"];
/// How long the process may take to listen, and an echo to end beyond its time.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running echo server. Killed when dropped.
#[derive(Debug)]
pub struct EchoProcess {
    child: Child,
    endpoint: Endpoint,
}

/// What unary calls came to.
pub(super) struct Unary {
    pub(super) per_second: f64,
    pub(super) p50_us: u64,
}

fn wrong(what: impl std::fmt::Display) -> BenchError {
    BenchError::Setup(format!("--wire: the echo failed: {what}"))
}

impl EchoProcess {
    /// Starts the server on a free port of loopback and waits until it listens.
    ///
    /// To be called on a thread that lives as long as this: the kernel's parent of a process is a thread.
    pub async fn start() -> Result<Self, BenchError> {
        let program = std::env::current_exe().map_err(wrong)?;
        let mut child = Command::new(program)
            .args(ECHO_COMMAND)
            .env(SUPERVISOR_ENV, std::process::id().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(wrong)?;
        let stdout = child.stdout.take().ok_or_else(|| wrong("it has no stdout"))?;
        let mut lines = BufReader::new(stdout).lines();
        let line = tokio::time::timeout(PATIENCE, lines.next_line())
            .await
            .map_err(|_| wrong(format!("its server does not listen within {PATIENCE:?}")))?
            .map_err(wrong)?
            .ok_or_else(|| wrong("its server ended before it listened"))?;
        let endpoint = Endpoint::from_shared(line.trim().to_owned()).map_err(wrong)?;
        Ok(Self { child, endpoint: with_large_windows(endpoint) })
    }

    /// Ends the server and waits until it has.
    pub async fn stop(mut self) -> Result<(), BenchError> {
        self.child.kill().await.map_err(wrong)
    }

    async fn connect(&self, count: usize) -> Result<Vec<Channel>, BenchError> {
        let mut channels = Vec::with_capacity(count);
        for _ in 0..count.max(1) {
            channels.push(self.endpoint.connect().await.map_err(wrong)?);
        }
        Ok(channels)
    }

    /// Calls of so many callers, over so many connections.
    pub(super) async fn unary(
        &self,
        load: &Load,
        in_flight: u64,
        connections: usize,
        span: Duration,
    ) -> Result<Unary, BenchError> {
        let channels = self.connect(connections).await?;
        let message = message(load);
        let begun = Instant::now();
        let until = begun + span;
        let latencies = Arc::new(Mutex::new(histogram()));
        // Dropping the set ends the callers.
        let mut callers = JoinSet::new();
        for caller in 0..in_flight {
            let channel = channels[caller as usize % channels.len()].clone();
            callers.spawn(call_until(channel, message.clone(), until, Arc::clone(&latencies)));
        }
        let calling = async {
            while let Some(ended) = callers.join_next().await {
                ended.map_err(wrong)?.map_err(wrong)?;
            }
            Ok(())
        };
        in_time(span, calling).await?;
        let latencies = latencies.lock().expect("nothing panics while it counts");
        let per_second = latencies.len() as f64 / begun.elapsed().as_secs_f64();
        Ok(Unary { per_second, p50_us: latencies.value_at_quantile(0.5) })
    }

    /// Messages of one transfer a second, so many on their way.
    pub(super) async fn stream(
        &self,
        load: &Load,
        in_flight: u64,
        span: Duration,
    ) -> Result<f64, BenchError> {
        self.bounce(STREAM, message(load), in_flight, span).await
    }

    /// Rows a second in messages of so many, and so many messages on their way.
    pub(super) async fn bulk(
        &self,
        load: &Load,
        rows: u64,
        messages: u64,
        span: Duration,
    ) -> Result<f64, BenchError> {
        Ok(self.bounce(BULK, columns(load, rows), messages, span).await? * rows as f64)
    }

    /// Messages a second on one stream: what comes back goes out again.
    async fn bounce<T: Message + Default + Clone + 'static>(
        &self,
        path: &'static str,
        message: T,
        in_flight: u64,
        span: Duration,
    ) -> Result<f64, BenchError> {
        let channel = self.connect(1).await?.remove(0);
        let in_flight = in_flight.max(1) as usize;
        // It holds all that can be on their way, so there is always room to send one again.
        let (sender, queue) = mpsc::channel(in_flight);
        let bouncing = async {
            let mut grpc = grpc(channel);
            grpc.ready().await.map_err(wrong)?;
            let codec = ProstCodec::<T, T>::default();
            let opened = grpc
                .streaming(Request::new(ReceiverStream::new(queue)), PathAndQuery::from_static(path), codec)
                .await
                .map_err(wrong)?;
            let mut answers = opened.into_inner();
            let begun = Instant::now();
            for _ in 0..in_flight {
                sender.try_send(message.clone()).map_err(wrong)?;
            }
            let mut count = 0u64;
            while let Some(answer) = answers.message().await.map_err(wrong)? {
                count += 1;
                if begun.elapsed() >= span {
                    // What is still on its way is left: it was not answered within the time.
                    return Ok(count as f64 / begun.elapsed().as_secs_f64());
                }
                sender.try_send(answer).map_err(wrong)?;
            }
            Err(wrong("the server ended the stream"))
        };
        in_time(span, bouncing).await
    }
}

/// Calls one after the other until a moment.
async fn call_until(
    channel: Channel,
    message: TransferRequest,
    until: Instant,
    latencies: Arc<Mutex<Histogram<u64>>>,
) -> Result<(), Status> {
    let mut grpc = grpc(channel);
    let path = PathAndQuery::from_static(UNARY);
    loop {
        let begun = Instant::now();
        if begun >= until {
            return Ok(());
        }
        let not_ready = |error| Status::unknown(format!("the connection is not ready: {error}"));
        grpc.ready().await.map_err(not_ready)?;
        let codec = ProstCodec::<TransferRequest, TransferRequest>::default();
        grpc.unary(Request::new(message.clone()), path.clone(), codec).await?;
        let latency = micros(begun.elapsed());
        let mut latencies = latencies.lock().expect("nothing panics while it counts");
        latencies.record(latency).expect("it is within the bounds");
    }
}

/// What takes `span` may take a while longer, but not for ever.
async fn in_time<T>(
    span: Duration,
    measuring: impl Future<Output = Result<T, BenchError>>,
) -> Result<T, BenchError> {
    tokio::time::timeout(span + PATIENCE, measuring)
        .await
        .unwrap_or_else(|_| Err(wrong(format!("no answer came within {:?}", span + PATIENCE))))
}

fn grpc(channel: Channel) -> Grpc<Channel> {
    Grpc::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// The windows of `escrow_grpc`. The calls themselves are tonic's on both sides: what gRPC allows to whoever takes it as it comes, and
/// the same measure of a machine whatever becomes of our own side.
fn with_large_windows(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(Duration::from_secs(2))
        .tcp_nodelay(true)
        .initial_stream_window_size(16 << 20)
        .initial_connection_window_size(64 << 20)
        .max_frame_size(1 << 20)
}

/// A transfer as the load sends it.
fn message(load: &Load) -> TransferRequest {
    let account = |number: u32| format!("bench-{number:08}");
    TransferRequest {
        transaction_id: IdSequence::new().next_id().to_string(),
        from_account_id: account(1),
        to_account_id: account(2),
        amount: 1,
        currency: load.currency.code().to_owned(),
        wait: 1,
        timeout_ms: u32::try_from(load.timeout.as_millis()).unwrap_or(u32::MAX),
    }
}

/// Rows as the load sends them: what they say is of no matter, columns have fixed widths.
fn columns(load: &Load, rows: u64) -> TransferColumnsRequest {
    let column: Vec<u64> = (0..rows).collect();
    TransferColumnsRequest {
        first_tag: 1 << 32,
        transaction_id_high: column.clone(),
        transaction_id_low: column.clone(),
        from_account_high: column.clone(),
        from_account_low: column.clone(),
        to_account_high: column.clone(),
        to_account_low: column.clone(),
        amount: column,
        currency: u32::from(load.currency.numeric()),
        wait: 1,
        timeout_ms: u32::try_from(load.timeout.as_millis()).unwrap_or(u32::MAX),
    }
}
