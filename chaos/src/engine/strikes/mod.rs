//! Carries out the faults: each strike is a task of its own, from its moment until what it left has drained.
//!
//! Here is what all have in common: who strikes when, who comes back, what is measured; `processes`, `network` and `replicas` are the
//! faults.

mod network;
mod processes;
mod replicas;

use std::sync::Arc;
use std::time::Duration;

use escrow_cluster::{NodeId, Role, wait_serving};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::faults::{FaultId, FaultLog};
use super::recovery;
use super::testbed::Testbed;
use crate::chance::Chance;
use crate::load::Sentinel;
use crate::proxy::{Conditions, Flow};
use crate::scenario::{Action, Standing};
use crate::schedule::Strike;

/// How long a process may take to serve after a start.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How often it is looked whether a process has ended.
const LOOK: Duration = Duration::from_millis(5);

/// All strikes of a run, under way.
pub(super) struct Striker {
    striking: JoinSet<()>,
    guarding: JoinHandle<()>,
}

impl Striker {
    /// Each strike comes at its time; processes that end by themselves are seen and started again.
    pub(super) fn start(
        begun: Instant,
        strikes: Vec<Strike>,
        testbed: &Arc<Testbed>,
        faults: &Arc<FaultLog>,
        sentinel: &Arc<Sentinel>,
    ) -> Self {
        let hand =
            Hand { testbed: Arc::clone(testbed), faults: Arc::clone(faults), sentinel: Arc::clone(sentinel) };
        let mut striking = JoinSet::new();
        for strike in strikes {
            let hand = hand.clone();
            striking.spawn(async move {
                sleep_until(begun + strike.at).await;
                if let Err(trouble) = hand.strike(&strike).await {
                    hand.faults.trouble(trouble);
                }
            });
        }
        Self { striking, guarding: tokio::spawn(hand.guard()) }
    }

    /// Waits until every strike is over. `false` if one is not in time.
    pub(super) async fn finish(&mut self, within: Duration) -> bool {
        let all = async { while self.striking.join_next().await.is_some() {} };
        let in_time = timeout(within, all).await.is_ok();
        self.striking.abort_all();
        self.guarding.abort();
        in_time
    }
}

impl Drop for Striker {
    fn drop(&mut self) {
        self.guarding.abort();
    }
}

/// What a strike works with.
#[derive(Clone)]
struct Hand {
    testbed: Arc<Testbed>,
    faults: Arc<FaultLog>,
    sentinel: Arc<Sentinel>,
}

/// Something that must not be.
type Trouble = String;

impl Hand {
    async fn strike(&self, strike: &Strike) -> Result<(), Trouble> {
        let picked = match strike.standing {
            Some(standing) => vec![self.standing(&strike.targets, standing, strike.seed).await?],
            None => Vec::new(),
        };
        let leads = strike.standing == Some(Standing::Leader);
        let nodes = if picked.is_empty() { strike.targets.as_slice() } else { picked.as_slice() };
        let target = name_of(nodes, &self.testbed);
        match &strike.action {
            Action::Kill { down_for } if leads => self.kill_leader(nodes[0], down_for.0).await,
            Action::Freeze { lasts } if leads => self.pause_leader(nodes[0], lasts.0).await,
            Action::Partition { lasts, direction, how } if leads => {
                self.cut_off_leader(nodes[0], lasts.0, *direction, *how).await
            }
            Action::Wipe { down_for } => self.wipe(nodes[0], down_for.0).await,
            Action::RollingRestart { within } => self.rolling_restart(nodes, within.0).await,
            Action::Kill { down_for } => self.kill(nodes, &target, down_for.0).await,
            Action::Stop { down_for } => self.stop(nodes, &target, down_for.0).await,
            Action::Freeze { lasts } => self.freeze(nodes, &target, lasts.0).await,
            Action::Partition { lasts, direction, how } => {
                self.partition(nodes, &target, lasts.0, *direction, *how).await
            }
            Action::Slow { lasts, latency, jitter, kib_per_s } => {
                let bytes_per_s = kib_per_s.map(|kib| u64::from(kib) << 10);
                let conditions =
                    Conditions { flow: Flow::Pass, latency: latency.0, jitter: jitter.0, bytes_per_s };
                self.slow(nodes, &target, lasts.0, conditions).await
            }
            Action::Lossy { lasts, pause_every, pause, reset_every } => {
                let [pause_every, pause, reset_every] = [pause_every.0, pause.0, reset_every.0];
                let chance = Chance::new(strike.seed);
                self.lossy(nodes, &target, lasts.0, [pause_every, pause, reset_every], chance).await
            }
            Action::Failpoints { .. } => {
                let point = strike.point.as_deref().expect("schedules choose a point");
                self.failpoint(nodes[0], point, strike.seed).await
            }
            Action::FillDisk { within } => self.fill_disk(nodes[0], within.0).await,
            Action::JumpClock { by_ms, lasts } => self.jump_clock(nodes, &target, *by_ms, lasts.0).await,
            Action::PileUp { unfinished, within } => self.pile_up(nodes, *unfinished, within.0).await,
        }
    }

    /// Starts processes again that are down, waits until they serve, and measures what follows.
    async fn bring_back(&self, fault: FaultId, nodes: &[NodeId]) -> Result<(), Trouble> {
        let (operator, started) = (&self.testbed.operator, Instant::now());
        let back = async {
            for &node in nodes {
                let started = self.testbed.cluster().await.spawn_node(node);
                started.map_err(|error| format!("{node} does not start again: {error}"))?;
            }
            for &node in nodes {
                self.serves(node).await?;
            }
            Ok(Instant::now())
        };
        let (returned, before) = recovery::while_watching(operator, participant(nodes), back).await;
        // Whoever is not back is told, and others may strike.
        let returned: Instant = returned.inspect_err(|_: &Trouble| {
            self.faults.end(fault, Instant::now());
        })?;
        self.testbed.release(nodes);
        self.measure(fault, nodes, [started, returned], before).await;
        Ok(())
    }

    /// Lets a fault last as long as `end` does, and measures what follows.
    async fn watch_until(&self, fault: FaultId, nodes: &[NodeId], end: impl Future<Output = ()>) {
        let ((), before) = recovery::while_watching(&self.testbed.operator, participant(nodes), end).await;
        let returned = Instant::now();
        self.measure(fault, nodes, [returned; 2], before).await;
    }

    async fn measure(
        &self,
        fault: FaultId,
        nodes: &[NodeId],
        [started, returned]: [Instant; 2],
        before: Option<u64>,
    ) {
        let is_alone = self.faults.end(fault, returned);
        if self.testbed.is_replicated {
            // Nothing waits for one replica: others go on without it.
            return;
        }
        let count = self.faults.count();
        let still_alone = || is_alone && self.faults.count() == count;
        let operator = &self.testbed.operator;
        let measured = if nodes.iter().any(|node| node.role == Role::Coordinator) {
            recovery::of_coordinators(operator, started, returned, still_alone).await
        } else {
            recovery::of_participants(operator, participant(nodes), returned, before, still_alone).await
        };
        if let Some(recovery) = measured {
            self.faults.recovered(fault, &recovery);
        }
    }

    /// Waits until a process serves that was just started.
    async fn serves(&self, node: NodeId) -> Result<(), Trouble> {
        let endpoint = self.testbed.endpoint(node);
        let died = async {
            while self.testbed.cluster().await.pid(node).is_some() {
                sleep(LOOK).await;
            }
        };
        let why = tokio::select! {
            served = wait_serving(endpoint, READY_WITHIN) => match served {
                Ok(()) => return Ok(()),
                Err(last) => format!("{node} does not serve within {READY_WITHIN:?} ({last})"),
            },
            () = died => format!("{node} ended when it was started again"),
        };
        Err(format!("{why}; the end of its log:\n{}", self.testbed.cluster().await.log_tail(node)))
    }

    /// Whether a process ends by itself within a time.
    async fn ends_within(&self, node: NodeId, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        loop {
            if self.testbed.cluster().await.pid(node).is_none() {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            sleep(LOOK).await;
        }
    }

    /// Sees processes that end though nobody struck them, and starts them again.
    async fn guard(self) {
        loop {
            sleep(10 * LOOK).await;
            for node in self.testbed.nodes() {
                if self.testbed.is_struck(node) || self.testbed.cluster().await.pid(node).is_some() {
                    continue;
                }
                // Whoever strikes says so first; so this was looked at too early or it ended by itself.
                if self.testbed.is_struck(node) {
                    continue;
                }
                let tail = self.testbed.cluster().await.log_tail(node);
                self.faults.trouble(format!("{node} ended by itself; the end of its log:\n{tail}"));
                let started = self.testbed.cluster().await.start_node(node).await;
                if let Err(error) = started {
                    self.faults.trouble(format!("{node} does not start again: {error}"));
                    self.testbed.strike(&[node]);
                }
            }
        }
    }
}

/// Whose transactions are watched: those of the participant that was struck, or all.
fn participant(nodes: &[NodeId]) -> &'static str {
    const NAMES: [&str; 16] =
        ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15"];
    match nodes {
        [NodeId { role: Role::Participant, number, .. }] => NAMES.get(usize::from(*number)).unwrap_or(&""),
        _ => "",
    }
}

/// How those who are struck are called together.
fn name_of(nodes: &[NodeId], testbed: &Testbed) -> String {
    let everybody = testbed.nodes().count();
    match nodes {
        [node] => node.to_string(),
        nodes if nodes.len() == everybody => "everything".to_owned(),
        nodes if nodes.iter().all(|node| node.role == Role::Participant) => "every participant".to_owned(),
        nodes => nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}
