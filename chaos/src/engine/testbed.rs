//! Everything that a run starts and that must be gone in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use escrow_client::Client;
use escrow_cluster::{Cluster, NodeId, Restart, Spec};
use tempfile::TempDir;

use super::RunError;
use super::operator::Operator;
use super::small_disk::SmallDisk;
use crate::chance::Chance;
use crate::proxy::{Proxy, Way};
use crate::scenario::Scenario;
use crate::world::options;

/// Where a server reads by how much its clock is to be wrong.
const CLOCK_ENV: &str = "ESCROW_CLOCK_OFFSET_FILE";

/// The smallest that a coordinator takes.
const COORDINATOR_SEGMENT_MIB: u32 = 16;

/// A cluster with all that is around it.
#[derive(Debug)]
pub(super) struct Testbed {
    /// Asks for the load, patiently.
    pub(super) client: Client,
    /// Asks while faults last.
    pub(super) operator: Operator,
    /// One for each way in which a process calls another, or none at all. From, to.
    links: BTreeMap<(NodeId, NodeId), Proxy>,
    pub(super) small_disk: Option<SmallDisk>,
    /// Whether coordinators and participants have replicas.
    pub(super) is_replicated: bool,
    /// `None` once it is stopped.
    cluster: tokio::sync::Mutex<Option<Cluster>>,
    /// Whose end is no news.
    struck: Mutex<BTreeSet<NodeId>>,
    endpoints: Vec<(NodeId, String)>,
    dir: PathBuf,
    /// Its owner; `None` once it is gone.
    owned_dir: Mutex<Option<TempDir>>,
}

impl Testbed {
    /// Starts everything; what was started goes again when that fails.
    pub(super) async fn start(scenario: &Scenario, root: &Path, seed: u64) -> Result<Self, RunError> {
        std::fs::create_dir_all(root).map_err(RunError::io(root.display().to_string()))?;
        let dir = tempfile::Builder::new()
            .prefix("escrow-chaos-")
            .tempdir_in(root)
            .map_err(RunError::io(format!("a directory in {}", root.display())))?;
        let spec = spec(scenario, dir.path())?;
        let small_disk = match scenario.cluster.small_disk {
            Some(disk) => {
                let path = spec.node_dir(disk.of);
                Some(
                    SmallDisk::mount(&path, disk.mib)
                        .map_err(RunError::io("mounting a small file system"))?,
                )
            }
            None => None,
        };
        let mut cluster = Cluster::plan(spec)?;
        let mut links = BTreeMap::new();
        if scenario.needs_proxies() {
            let mut chance = Chance::new(seed);
            let callers: Vec<_> = cluster.spec().callers().collect();
            for (from, to) in callers {
                let target = address(&cluster.endpoint(to));
                let proxy = Proxy::start(target, chance.next()).await.map_err(RunError::io("a proxy"))?;
                cluster.spec_mut().links.insert((from, to), format!("http://{}", proxy.address()));
                links.insert((from, to), proxy);
            }
        }
        cluster.launch().await?;
        let client = Client::connect(cluster.coordinator_endpoints(), options())?;
        let operator = Operator::new(&cluster)?;
        let endpoints = scenario.nodes().into_iter().map(|node| (node, cluster.endpoint(node))).collect();
        Ok(Self {
            client,
            operator,
            links,
            small_disk,
            is_replicated: scenario.is_replicated(),
            cluster: tokio::sync::Mutex::new(Some(cluster)),
            struck: Mutex::default(),
            endpoints,
            dir: dir.path().to_owned(),
            owned_dir: Mutex::new(Some(dir)),
        })
    }

    /// Every process.
    pub(super) fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.endpoints.iter().map(|(node, _)| *node)
    }

    /// Where a process listens, whatever is before it.
    pub(super) fn endpoint(&self, node: NodeId) -> &str {
        let found = self.endpoints.iter().find(|(known, _)| *known == node);
        &found.expect("schedules name processes of the cluster").1
    }

    /// The cluster, to be acted upon; `None` once it is stopped.
    pub(super) async fn cluster(&self) -> tokio::sync::MappedMutexGuard<'_, Cluster> {
        let guard = self.cluster.lock().await;
        tokio::sync::MutexGuard::map(guard, |cluster| cluster.as_mut().expect("nobody strikes after the end"))
    }

    /// From now on the end of these processes is no news.
    pub(super) fn strike(&self, nodes: &[NodeId]) {
        self.struck.lock().expect("nothing panics while it is held").extend(nodes);
    }

    /// They are back, and are to stay.
    pub(super) fn release(&self, nodes: &[NodeId]) {
        self.struck.lock().expect("nothing panics while it is held").retain(|node| !nodes.contains(node));
    }

    pub(super) fn is_struck(&self, node: NodeId) -> bool {
        self.struck.lock().expect("nothing panics while it is held").contains(&node)
    }

    /// The network between some processes and all others: each proxy, and which of its ways leads to them.
    pub(super) fn links<'a>(&'a self, nodes: &'a [NodeId]) -> impl Iterator<Item = (&'a Proxy, Way)> {
        let ends = |(from, to): &(NodeId, NodeId)| {
            let inward = nodes.contains(to).then_some(Way::To);
            inward.or_else(|| nodes.contains(from).then_some(Way::From))
        };
        self.links.iter().filter_map(move |(link, proxy)| Some((proxy, ends(link)?)))
    }

    /// Makes the clock of a process wrong, from its next look at it on.
    pub(super) fn set_clock(&self, node: NodeId, by_ms: i64) -> std::io::Result<()> {
        let path = clock_file(&self.dir, node);
        let temporary = path.with_extension("new");
        std::fs::write(&temporary, format!("{by_ms}\n"))?;
        std::fs::rename(temporary, path)
    }

    /// A good network, clocks that are right, and room on the disk.
    pub(super) fn heal(&self) {
        self.links.values().for_each(Proxy::heal);
        for node in self.nodes() {
            // Who has no such file has a clock that is right.
            let _ = self.set_clock(node, 0);
        }
        if let Some(Err(error)) = self.small_disk.as_ref().map(SmallDisk::clear) {
            tracing::warn!(%error, "the small disk stays full");
        }
    }

    /// Ends every process, undoes the mount and removes the directory, whoever still holds this. Gives where data and logs are
    /// if they are to be kept.
    pub(super) async fn stop(&self, keep: bool) -> Option<PathBuf> {
        if let Some(cluster) = self.cluster.lock().await.take() {
            self.nodes().for_each(|node| cluster.thaw(node));
            cluster.stop(|_| ()).await;
        }
        let kept = keep.then(|| self.keep());
        if let Some(disk) = &self.small_disk {
            disk.unmount();
        }
        let dir = self.owned_dir.lock().expect("nothing panics while it is held").take();
        if let Some(Err(error)) = dir.map(TempDir::close) {
            tracing::warn!(%error, dir = %self.dir.display(), "the directory of the run cannot be removed");
        }
        kept
    }

    /// Copies data and logs to where they outlive the run.
    fn keep(&self) -> PathBuf {
        let kept = self.dir.with_extension("kept");
        let name = |node: &NodeId| kept.join(node.to_string());
        for (node, _) in &self.endpoints {
            let from = self.dir.join(node.to_string());
            if let Err(error) = super::small_disk::copy(&from, &name(node)) {
                tracing::error!(%error, %node, "its data could not be kept");
            }
        }
        let logs = super::small_disk::copy(&self.dir.join("logs"), &kept.join("logs"));
        if let Err(error) = logs {
            tracing::error!(%error, "the logs could not be kept");
        }
        kept
    }
}

fn spec(scenario: &Scenario, dir: &Path) -> Result<Spec, RunError> {
    let shape = &scenario.cluster;
    let arguments = |segment_mib: u32| -> Vec<OsString> {
        vec![
            "--segment-bytes".into(),
            (u64::from(segment_mib) << 20).to_string().into(),
            "--checkpoint-interval".into(),
            format!("{}ms", shape.checkpoint_interval.0.as_millis()).into(),
        ]
    };
    let mut spec = Spec {
        coordinators: shape.coordinators,
        participants: shape.participants,
        replicas: shape.replicas,
        restart: Restart::Never,
        coordinator_args: arguments(COORDINATOR_SEGMENT_MIB),
        participant_args: arguments(shape.segment_mib),
        stop_within: Duration::from_secs(20),
        ..Spec::new(dir)?
    };
    if scenario.needs_failpoints() {
        for node in scenario.nodes() {
            spec.node_env.insert(node, vec![(CLOCK_ENV.into(), clock_file(dir, node).into_os_string())]);
        }
    }
    Ok(spec)
}

fn clock_file(dir: &Path, node: NodeId) -> PathBuf {
    dir.join(format!("clock-of-{node}"))
}

fn address(endpoint: &str) -> SocketAddr {
    endpoint.trim_start_matches("http://").parse().expect("a cluster listens on addresses")
}
