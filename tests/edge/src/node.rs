//! One server on its host: what survives its process, how it is told to stop, and how it ended.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use escrow_coordinator as coordinator;
use escrow_journal::storage::SimDisk;
use escrow_participant::{self as participant, MemoryView};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::ground::SyncMs;
use crate::{ground, net};

/// Which server runs there.
#[derive(Clone)]
pub enum Kind {
    /// A coordinator, with these settings.
    Coordinator(coordinator::Config),
    /// A participant, with these settings and views.
    Participant(participant::Config, BTreeMap<u16, MemoryView>),
}

/// One host.
pub struct Node {
    /// The name of the host.
    pub host: String,
    /// Survives the process.
    pub disk: RefCell<SimDisk>,
    /// How long a sync takes.
    pub sync_ms: SyncMs,
    /// May be changed while the process is down.
    pub kind: RefCell<Kind>,
    /// How the last process ended by itself; `None` while it runs, or after it was killed.
    pub ended: RefCell<Option<Result<(), String>>>,
    stop: RefCell<Option<watch::Sender<bool>>>,
    runtime: RefCell<Option<Handle>>,
    /// Whether the process has ended by itself, and its sockets are still to be closed.
    pub(crate) is_to_reap: Cell<bool>,
}

impl Node {
    /// A host whose process has never run.
    pub fn new(host: &str, seed: u64, kind: Kind) -> Rc<Self> {
        Rc::new(Self {
            host: host.to_owned(),
            disk: RefCell::new(SimDisk::new(seed)),
            sync_ms: Arc::new(AtomicU64::new(1)),
            kind: RefCell::new(kind),
            ended: RefCell::default(),
            stop: RefCell::default(),
            runtime: RefCell::default(),
            is_to_reap: Cell::new(false),
        })
    }

    /// The process: runs until it is told to stop or fails, and stays until it is reaped.
    pub(crate) async fn run(self: Rc<Self>) -> turmoil::Result {
        let (stop, stopped) = watch::channel(false);
        self.stop.replace(Some(stop));
        self.ended.replace(None);
        self.runtime.replace(Some(Handle::current()));
        let kind = self.kind.borrow().clone();
        let result = match kind {
            Kind::Coordinator(config) => self.coordinator(config, stopped).await,
            Kind::Participant(config, views) => self.participant(config, views, stopped).await,
        };
        tracing::info!(host = self.host, ?result, "process ended");
        self.ended.replace(Some(result));
        self.is_to_reap.set(true);
        // The sockets of a process are closed at its end; the world does that.
        std::future::pending().await
    }

    async fn coordinator(
        &self,
        config: coordinator::Config,
        stopped: watch::Receiver<bool>,
    ) -> Result<(), String> {
        let listener = net::Listener::bind().await.map_err(|error| error.to_string())?;
        let server =
            coordinator::Unbound::open(config, ground::coordinator(&self.disk(), Arc::clone(&self.sync_ms)));
        let server = server.await.map_err(|error| error.to_string())?;
        server.run(listener, told(stopped)).await.map_err(|error| error.to_string())
    }

    async fn participant(
        &self,
        config: participant::Config,
        views: BTreeMap<u16, MemoryView>,
        stopped: watch::Receiver<bool>,
    ) -> Result<(), String> {
        let listener = net::Listener::bind().await.map_err(|error| error.to_string())?;
        let server = participant::Unbound::open(
            config,
            ground::participant(&self.disk(), Arc::clone(&self.sync_ms), views),
        );
        let server = server.await.map_err(|error| error.to_string())?;
        server.run(listener, told(stopped)).await.map_err(|error| error.to_string())
    }

    /// Tells the process to stop, as SIGTERM does.
    pub fn stop(&self) {
        if let Some(stop) = &*self.stop.borrow() {
            stop.send_replace(true);
        }
    }

    /// The disk: a handle.
    pub fn disk(&self) -> SimDisk {
        self.disk.borrow().clone()
    }

    /// From now on a sync takes so long.
    pub fn sync_takes(&self, time: Duration) {
        self.sync_ms.store(time.as_millis() as u64, Ordering::Relaxed);
    }

    /// How many tasks the process has.
    pub fn tasks(&self) -> usize {
        self.runtime.borrow().as_ref().map_or(0, |runtime| runtime.metrics().num_alive_tasks())
    }

    /// The settings of a coordinator, to be changed before its next start.
    pub fn set_coordinator(&self, change: impl FnOnce(&mut coordinator::Config)) {
        if let Kind::Coordinator(config) = &mut *self.kind.borrow_mut() {
            change(config);
        }
    }
}

async fn told(mut stopped: watch::Receiver<bool>) {
    // The sender lives as long as the host.
    let _ = stopped.wait_for(|&stop| stop).await;
}

/// Where a host's data is, on its own disk.
pub fn data_dir() -> PathBuf {
    PathBuf::from("data")
}
