//! Starts the processes of a cluster, starts again those that crash, and stops them all.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::process::ExitStatus;
use std::time::Duration;

use escrow_replica::GroupId;
use rustix::process::Signal;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::arguments::{self, CommandLines};
use crate::error::ClusterError;
use crate::health::wait_serving;
use crate::layout::{DataDir, Manifest, ManifestEntry};
use crate::ports;
use crate::process::{Process, log_tail};
use crate::readiness::{Group, Unready, Wanted};
use crate::spec::{NodeId, Restart, Role, Spec};

/// The pause before a process is started again: none at first, then this, doubled each time.
const RESTART_FIRST: Duration = Duration::from_millis(100);
/// The longest pause.
const RESTART_CAP: Duration = Duration::from_secs(10);
/// A process that ran this long is not in a crash loop.
const STABLE: Duration = Duration::from_secs(10);

/// What the supervisor saw or did, for whoever wants to tell people.
#[derive(Debug)]
pub enum Event {
    /// A process ended that should not have.
    Ended {
        /// Which.
        node: NodeId,
        /// How.
        status: ExitStatus,
        /// When it will be started again; `None`: not at all.
        again_in: Option<Duration>,
        /// The last lines of its log.
        log_tail: String,
    },
    /// A process is about to be stopped and started again, as it was asked for.
    Restarting {
        /// Which.
        node: NodeId,
    },
    /// A process was started again.
    Started {
        /// Which.
        node: NodeId,
        /// Its new pid.
        pid: u32,
    },
    /// A process could not be started again; it will be tried later.
    NotStarted {
        /// Which.
        node: NodeId,
        /// Why.
        error: ClusterError,
    },
    /// A process did not end in time after SIGTERM and was killed.
    Killed {
        /// Which.
        node: NodeId,
    },
}

/// One process over all its restarts.
#[derive(Debug, Default)]
struct Node {
    process: Option<Process>,
    /// Counts starts: tells the end of this process from that of the one before.
    generation: u64,
    failures: u32,
    restart_at: Option<Instant>,
}

/// A running cluster. Dropping it kills every process.
#[derive(Debug)]
pub struct Cluster {
    spec: Spec,
    nodes: BTreeMap<NodeId, Node>,
    ports: BTreeMap<NodeId, u16>,
    ends: mpsc::UnboundedReceiver<(NodeId, u64)>,
    tell_end: mpsc::UnboundedSender<(NodeId, u64)>,
    data_dir: DataDir,
}

impl Cluster {
    /// Starts all processes and waits until each serves, every group of replicas has a leader, and the coordinators have greeted
    /// every wallet shard. Then `cluster.json` is there. Call it on a thread that lives as long as the cluster: see
    /// [`crate::child`].
    pub async fn start(spec: Spec) -> Result<Self, ClusterError> {
        let mut cluster = Self::plan(spec)?;
        cluster.launch().await?;
        Ok(cluster)
    }

    /// Takes the data directory and chooses the ports, and starts nothing yet: [`Cluster::endpoint`] already tells where each
    /// process will listen, so that a proxy can be put before it. Then [`Cluster::launch`].
    pub fn plan(spec: Spec) -> Result<Self, ClusterError> {
        spec.check()?;
        let mut data_dir = DataDir::open(&spec)?;
        let ports = ports::choose(&spec, &data_dir.ports(&spec))?;
        if spec.is_replicated() && spec.base_port == 0 {
            data_dir.set_ports(&ports)?;
        }
        let nodes = ports.keys().map(|&id| (id, Node::default())).collect();
        let (tell_end, ends) = mpsc::unbounded_channel();
        Ok(Self { spec, nodes, ports, ends, tell_end, data_dir })
    }

    /// Starts all processes of a cluster that is planned, as [`Cluster::start`] does.
    pub async fn launch(&mut self) -> Result<(), ClusterError> {
        // Participants first: a coordinator that finds them all does not begin its life with a pause.
        for role in [Role::Participant, Role::Coordinator] {
            let ids: Vec<NodeId> = self.nodes.keys().copied().filter(|id| id.role == role).collect();
            for &id in &ids {
                self.spawn(id)?;
            }
            for &id in &ids {
                self.wait_ready(id).await?;
            }
        }
        for group in self.spec.groups() {
            let waited = self.group(group).wait(Wanted::Serves, self.spec.ready_within).await;
            waited.map_err(|missing| self.not_ready(missing))?;
        }
        if self.spec.is_replicated() {
            self.data_dir.set_founded()?;
        }
        self.write_manifest()
    }

    /// What it was started from.
    pub const fn spec(&self) -> &Spec {
        &self.spec
    }

    /// To change how processes are started from now on: arguments, environment. Those that run keep theirs; numbers of
    /// processes and their ports cannot change.
    pub const fn spec_mut(&mut self) -> &mut Spec {
        &mut self.spec
    }

    /// Where a process listens. Asking for a process that the cluster does not have is a bug of the caller.
    pub fn endpoint(&self, node: NodeId) -> String {
        arguments::endpoint(self.ports[&node])
    }

    /// Where the coordinators listen, in order of their partitions; the replicas of one are joined by `+`.
    pub fn coordinator_endpoints(&self) -> Vec<String> {
        self.manifest().coordinator_endpoints()
    }

    /// Where the participants listen, in order of their shards; the replicas of one are joined by `+`.
    pub fn participant_endpoints(&self) -> Vec<String> {
        self.manifest().participant_endpoints()
    }

    /// The process whose replica leads a partition or shard: the only one, without replicas. `None` while nobody is known to.
    pub async fn leader(&self, group: GroupId) -> Option<NodeId> {
        self.group(group).leader().await
    }

    /// The pid of a process while it runs.
    pub fn pid(&self, node: NodeId) -> Option<u32> {
        self.nodes[&node]
            .process
            .as_ref()
            .filter(|process| process.status().is_none())
            .map(|process| process.pid)
    }

    /// The processes as they are, in the form of `cluster.json`.
    pub fn manifest(&self) -> Manifest {
        let entries = |role| {
            self.nodes
                .iter()
                .filter(|(id, _)| id.role == role)
                .map(|(id, node)| ManifestEntry {
                    id: id.number,
                    replica: id.replica,
                    pid: node.process.as_ref().map(|process| process.pid),
                    endpoint: self.endpoint(*id),
                })
                .collect()
        };
        Manifest { coordinators: entries(Role::Coordinator), participants: entries(Role::Participant) }
    }

    fn write_manifest(&self) -> Result<(), ClusterError> {
        self.manifest().write(&self.spec.data_dir)
    }

    fn spawn(&mut self, id: NodeId) -> Result<u32, ClusterError> {
        let lines = CommandLines {
            spec: &self.spec,
            ports: &self.ports,
            cluster_id: self.data_dir.cluster_id(),
            found: !self.data_dir.is_founded(),
        };
        let process = Process::start(&lines, id)?;
        let (pid, ended) = (process.pid, process.wait());
        let node = self.nodes.get_mut(&id).expect("callers name nodes of this cluster");
        node.generation += 1;
        node.restart_at = None;
        node.process = Some(process);
        let (tell_end, generation) = (self.tell_end.clone(), node.generation);
        tokio::spawn(async move {
            ended.await;
            // Nobody listens when the cluster is gone.
            let _ = tell_end.send((id, generation));
        });
        Ok(pid)
    }

    /// Waits until a process serves; fails at once when it ends instead.
    async fn wait_ready(&self, id: NodeId) -> Result<(), ClusterError> {
        let (endpoint, within) = (self.endpoint(id), self.spec.ready_within);
        let process = self.nodes[&id].process.as_ref().expect("it was just started");
        let tail = || log_tail(&self.spec.log_path(id));
        tokio::select! {
            status = process.wait() => {
                Err(ClusterError::EndedEarly { name: id.to_string(), status, log_tail: tail() })
            }
            served = wait_serving(&endpoint, within) => served.map_err(|last| {
                ClusterError::NotReady { name: id.to_string(), waited: within, last, log_tail: tail() }
            }),
        }
    }

    /// Waits until a group is as wanted, and watches over the processes meanwhile. Gives who leads.
    pub(crate) async fn wait_group(
        &mut self,
        group: GroupId,
        wanted: Wanted,
        tell: &mut impl FnMut(Event),
    ) -> Result<NodeId, ClusterError> {
        let (group, within) = (self.group(group), self.spec.ready_within);
        let mut waited = None;
        self.supervise(async { waited = Some(group.wait(wanted, within).await) }, tell).await?;
        waited.expect("it is watched over until that").map_err(|missing| self.not_ready(missing))
    }

    fn group(&self, group: GroupId) -> Group {
        let processes = self.spec.replicas_of(group).map(|node| (node, self.endpoint(node))).collect();
        Group { group, processes }
    }

    fn not_ready(&self, missing: Unready) -> ClusterError {
        ClusterError::NotReady {
            name: missing.node.to_string(),
            waited: self.spec.ready_within,
            last: missing.why,
            log_tail: self.log_tail(missing.node),
        }
    }

    /// Kills a process with SIGKILL and waits for its end. It stays down until [`Cluster::start_node`], also under
    /// [`Cluster::supervise`].
    pub async fn kill(&mut self, id: NodeId) -> Result<(), ClusterError> {
        self.end_node(id, |process| async move {
            process.kill().await;
            process
        })
        .await
    }

    /// Stops a process with SIGTERM (SIGKILL when it is late) and waits for its end. It stays down.
    pub async fn stop_node(&mut self, id: NodeId) -> Result<(), ClusterError> {
        let within = self.spec.stop_within;
        self.end_node(id, |process| async move {
            process.stop(within).await;
            process
        })
        .await
    }

    async fn end_node<F: Future<Output = Process>>(
        &mut self,
        id: NodeId,
        end: impl FnOnce(Process) -> F,
    ) -> Result<(), ClusterError> {
        let node = self.nodes.get_mut(&id).expect("callers name nodes of this cluster");
        // The end of this generation is expected, so `supervise` must not take it for a crash.
        node.generation += 1;
        node.restart_at = None;
        if let Some(process) = node.process.take() {
            drop(end(process).await);
        }
        self.write_manifest()
    }

    /// Starts a process that is down, and waits until it serves.
    pub async fn start_node(&mut self, id: NodeId) -> Result<u32, ClusterError> {
        let pid = self.spawn_node(id)?;
        self.wait_ready(id).await?;
        Ok(pid)
    }

    /// Starts a process that is down, and waits for nothing: see [`crate::wait_serving`].
    pub fn spawn_node(&mut self, id: NodeId) -> Result<u32, ClusterError> {
        let pid = self.spawn(id)?;
        self.write_manifest()?;
        Ok(pid)
    }

    /// Stops a process where it is (SIGSTOP), without ending it: it keeps its connections and answers nothing.
    pub fn freeze(&self, id: NodeId) {
        self.signal(id, Signal::STOP);
    }

    /// Lets a process go on that was frozen.
    pub fn thaw(&self, id: NodeId) {
        self.signal(id, Signal::CONT);
    }

    fn signal(&self, id: NodeId, signal: Signal) {
        if let Some(process) = &self.nodes[&id].process {
            process.signal(signal);
        }
    }

    /// The last lines that a process wrote to its log.
    pub fn log_tail(&self, id: NodeId) -> String {
        log_tail(&self.spec.log_path(id))
    }

    /// Watches over the processes until `shutdown`: those that crash are started again, as the spec says.
    pub async fn supervise(
        &mut self,
        shutdown: impl Future<Output = ()>,
        mut tell: impl FnMut(Event),
    ) -> Result<(), ClusterError> {
        let mut shutdown = pin!(shutdown);
        loop {
            let next_restart = self.nodes.values().filter_map(|node| node.restart_at).min();
            let restart = async {
                match next_restart {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = &mut shutdown => return Ok(()),
                Some((id, generation)) = self.ends.recv() => self.on_end(id, generation, &mut tell)?,
                () = restart => self.restart_due(&mut tell)?,
            }
        }
    }

    fn on_end(
        &mut self,
        id: NodeId,
        generation: u64,
        tell: &mut impl FnMut(Event),
    ) -> Result<(), ClusterError> {
        let restart = self.spec.restart;
        let node = self.nodes.get_mut(&id).expect("only nodes of this cluster end");
        if node.generation != generation {
            return Ok(());
        }
        let Some(process) = node.process.take() else { return Ok(()) };
        let status = process.status().unwrap_or_default();
        if process.started.elapsed() >= STABLE {
            node.failures = 0;
        }
        let again_in =
            (restart == Restart::OnFailure && !status.success()).then(|| pause_after(node.failures));
        node.failures = node.failures.saturating_add(1);
        node.restart_at = again_in.map(|pause| Instant::now() + pause);
        tell(Event::Ended { node: id, status, again_in, log_tail: log_tail(&self.spec.log_path(id)) });
        if again_in == Some(Duration::ZERO) {
            // Readers of the manifest see the old pid, then the new one.
            return self.restart_due(tell);
        }
        self.write_manifest()
    }

    fn restart_due(&mut self, tell: &mut impl FnMut(Event)) -> Result<(), ClusterError> {
        let now = Instant::now();
        let due = |node: &Node| node.restart_at.is_some_and(|at| at <= now);
        let ids: Vec<NodeId> = self.nodes.iter().filter(|(_, node)| due(node)).map(|(id, _)| *id).collect();
        let mut events = Vec::new();
        for id in ids {
            match self.spawn(id) {
                Ok(pid) => events.push(Event::Started { node: id, pid }),
                Err(error) => {
                    let node = self.nodes.get_mut(&id).expect("it was just looked at");
                    node.restart_at = Some(now + pause_after(node.failures.max(1)));
                    node.failures = node.failures.saturating_add(1);
                    events.push(Event::NotStarted { node: id, error });
                }
            }
        }
        // Who hears of a start finds it in the manifest.
        self.write_manifest()?;
        events.into_iter().for_each(tell);
        Ok(())
    }

    /// Stops every process: coordinators first, so that none of them sees a participant leave.
    pub async fn stop(mut self, mut tell: impl FnMut(Event)) {
        for role in [Role::Coordinator, Role::Participant] {
            let mut stopping = Vec::new();
            for (&id, node) in self.nodes.iter_mut().filter(|(id, _)| id.role == role) {
                if let Some(process) = node.process.take() {
                    let within = self.spec.stop_within;
                    stopping.push((id, tokio::spawn(async move { process.stop(within).await })));
                }
            }
            for (id, stopped) in stopping {
                if stopped.await.unwrap_or(true) {
                    tell(Event::Killed { node: id });
                }
            }
        }
        Manifest::remove(&self.spec.data_dir);
    }
}

/// The pause before the next start, after so many failures in a row before this one.
fn pause_after(failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        more => RESTART_FIRST.saturating_mul(1 << (more - 1).min(10)).min(RESTART_CAP),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_back_off_to_a_cap() {
        assert_eq!(pause_after(0), Duration::ZERO);
        assert_eq!(pause_after(1), Duration::from_millis(100));
        assert_eq!(pause_after(2), Duration::from_millis(200));
        assert_eq!(pause_after(u32::MAX), RESTART_CAP);
    }
}
