//! The server on TCP, files and threads: opens the data directory, serves until told to stop, and ends in order.

use std::future::Future;
use std::net::SocketAddr;

use tokio::net::TcpListener;

use crate::config::Config;
use crate::error::ParticipantError;
use crate::ground::Ground;
use crate::unbound::{Opened, Unbound};

/// A participant that has recovered and listens.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    unbound: Unbound,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Server {
    /// Locks and opens the data directory, recovers, and binds the listener. Calls are answered once it runs.
    pub async fn bind(config: Config) -> Result<Self, ParticipantError> {
        let config = config.validated()?;
        // A port in use is told before a recovery that may take long.
        drop(escrow_service::bind(config.listen).await?);
        let (listen, dir, shards) = (config.listen, config.data_dir.clone(), config.shards.clone());
        let opened = tokio::task::spawn_blocking(move || Opened::open(config, Ground::real()));
        let opened = opened.await.map_err(|_| ParticipantError::Ended("recovery"))??;
        let listener = escrow_service::bind(listen).await?;
        let address = listener.local_addr().map_err(ParticipantError::file("the listener"))?;
        let unbound = opened.start().await?;
        tracing::info!(%address, data_dir = %dir.display(), ?shards, "participant ready");
        Ok(Self { listener, address, unbound })
    }

    /// Where it listens; tells the port that port 0 became.
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` resolves, then ends: streams first, then open calls for a bounded time, then a last
    /// checkpoint, then the log. An error means that the process must end; what was acknowledged is durable.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), ParticipantError> {
        self.unbound.run(self.listener, shutdown).await
    }
}
