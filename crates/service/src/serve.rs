//! A tonic server that ends: health and reflection on, large HTTP/2 windows, and a drain that is bounded.
//!
//! tonic's graceful shutdown waits for every connection; a half-open one would hold it for ever. So the drain has a
//! deadline, after which what is left is dropped: every acknowledged answer is durable already, so nothing is lost.

use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;
use tokio_stream::StreamExt as _;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::{BoxFuture, Service};
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic_health::server::HealthReporter;

use crate::direct::Direct;
use crate::preface::Prompt;
use crate::transport::Incoming;

/// Limits of a listener.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The largest message taken, in bytes. Default 64 MiB.
    pub message_bytes_max: usize,
    /// Streams of one connection at a time. Default 4,096.
    pub streams_max: u32,
    /// How long open calls may take to end once shutdown began. Default 5 s.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { message_bytes_max: 64 << 20, streams_max: 4_096, drain: Duration::from_secs(5) }
    }
}

/// A server builder with the house's HTTP/2 settings: windows of 16 MiB a stream and 64 MiB a connection and frames of
/// 1 MiB (a columnar message should not wait for window updates), keep-alive pings that find half-open connections.
pub fn builder(limits: &Limits) -> Server {
    Server::builder()
        .initial_stream_window_size(16 << 20)
        .initial_connection_window_size(64 << 20)
        .max_frame_size(1 << 20)
        .max_concurrent_streams(limits.streams_max)
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .tcp_nodelay(true)
}

/// Serves `routes` with health and reflection until `shutdown` resolves, then drains for at most `limits.drain`.
///
/// Health is SERVING from the first connection that is served and NOT_SERVING from the moment that shutdown begins, so that
/// balancers turn away before connections close.
pub async fn serve(
    incoming: impl Incoming,
    routes: Routes,
    limits: Limits,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), tonic::transport::Error> {
    let (health, routes) = with_health_and_reflection(routes).await;
    until(incoming, routes.prepare(), health, limits, shutdown, std::future::ready(())).await
}

/// As [`serve`], for a server that has a service of many calls, which go to it directly, and work to finish: after `shutdown` health
/// is NOT_SERVING while calls are still served, until `finished` resolves; then connections are drained for at most `limits.drain`.
pub async fn serve_until<S>(
    incoming: impl Incoming,
    busy: S,
    routes: Routes,
    limits: Limits,
    shutdown: impl Future<Output = ()> + Send,
    finished: impl Future<Output = ()> + Send,
) -> Result<(), tonic::transport::Error>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S: Service<Request<Body>, Future = BoxFuture<Response<Body>, Infallible>>,
    S: NamedService + Clone + Send + Sync + 'static,
{
    let (health, routes) = with_health_and_reflection(routes).await;
    until(incoming, Direct::new(busy, routes), health, limits, shutdown, finished).await
}

async fn with_health_and_reflection(routes: Routes) -> (HealthReporter, Routes) {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_service_status("", tonic_health::ServingStatus::Serving).await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(escrow_proto::DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let reflection_v1 = reflection().build_v1().expect("our own descriptors are well formed");
    let reflection_v1alpha = reflection().build_v1alpha().expect("our own descriptors are well formed");
    (health, routes.add_service(health_service).add_service(reflection_v1).add_service(reflection_v1alpha))
}

async fn until<S>(
    incoming: impl Incoming,
    service: S,
    health: HealthReporter,
    limits: Limits,
    shutdown: impl Future<Output = ()> + Send,
    finished: impl Future<Output = ()> + Send,
) -> Result<(), tonic::transport::Error>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let (stop, mut stopped) = watch::channel(false);
    let incoming = incoming.connections().map(|connection| connection.map(Prompt::new));
    let rewrite: fn(_) -> _ = crate::malformed::rewrite;
    let layer = tower::util::MapResponseLayer::new(rewrite);
    let serving = builder(&limits).layer(layer).serve_with_incoming_shutdown(service, incoming, async move {
        // An error means that the sender is gone, which also means: stop.
        let _ = stopped.wait_for(|&stop| stop).await;
    });
    tokio::pin!(serving);
    tokio::select! {
        result = &mut serving => return result,
        () = shutdown => {}
    }
    health.set_service_status("", tonic_health::ServingStatus::NotServing).await;
    tracing::info!(drain_ms = limits.drain.as_millis() as u64, "shutting down");
    tokio::select! {
        result = &mut serving => return result,
        () = finished => {}
    }
    stop.send_replace(true);
    if let Ok(result) = tokio::time::timeout(limits.drain, serving).await {
        result
    } else {
        tracing::warn!("connections were still open at the end of the drain and are dropped");
        Ok(())
    }
}
