//! Carries out the faults: each strike is a task of its own, from its moment until what it left has drained.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use escrow_cluster::{NodeId, Role, wait_serving};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::faults::{FaultId, FaultLog};
use super::recovery::{self, Before};
use super::testbed::Testbed;
use crate::chance::Chance;
use crate::proxy::{Conditions, Flow, Way};
use crate::scenario::{Action, Direction, How};
use crate::schedule::Strike;

/// How long a process may take to serve after a start.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How often it is looked whether a process has ended.
const LOOK: Duration = Duration::from_millis(5);
/// A process with a failpoint must have come by it by then.
const REACHED_WITHIN: Duration = Duration::from_secs(10);
/// After it has died at a failpoint it stays down for so long.
const DOWN_FOR: Duration = Duration::from_millis(200);
/// How often a disk is filled again: archives that are deleted make room.
const REFILL: Duration = Duration::from_millis(20);

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
    ) -> Self {
        let hand = Hand { testbed: Arc::clone(testbed), faults: Arc::clone(faults) };
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
}

/// Something that must not be.
type Trouble = String;

impl Hand {
    async fn strike(&self, strike: &Strike) -> Result<(), Trouble> {
        let nodes = strike.targets.as_slice();
        let target = name_of(nodes, &self.testbed);
        match &strike.action {
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

    async fn kill(&self, nodes: &[NodeId], target: &str, down_for: Duration) -> Result<(), Trouble> {
        self.testbed.strike(nodes);
        let fault = self.faults.begin("kill -9", target);
        self.kill_now(nodes).await?;
        sleep(down_for).await;
        self.bring_back(fault, nodes).await
    }

    async fn kill_now(&self, nodes: &[NodeId]) -> Result<(), Trouble> {
        for &node in nodes {
            self.faults.killed();
            self.testbed
                .cluster()
                .await
                .kill(node)
                .await
                .map_err(|error| format!("killing {node}: {error}"))?;
        }
        Ok(())
    }

    async fn stop(&self, nodes: &[NodeId], target: &str, down_for: Duration) -> Result<(), Trouble> {
        self.testbed.strike(nodes);
        let fault = self.faults.begin("SIGTERM", target);
        for &node in nodes {
            let stopped = self.testbed.cluster().await.stop_node(node).await;
            stopped.map_err(|error| format!("stopping {node}: {error}"))?;
        }
        sleep(down_for).await;
        self.bring_back(fault, nodes).await
    }

    async fn freeze(&self, nodes: &[NodeId], target: &str, lasts: Duration) -> Result<(), Trouble> {
        let fault = self.faults.begin(format!("frozen for {lasts:?}"), target);
        for &node in nodes {
            self.testbed.cluster().await.freeze(node);
        }
        let thaw = async {
            sleep(lasts).await;
            for &node in nodes {
                self.testbed.cluster().await.thaw(node);
            }
        };
        self.watch_until(fault, nodes, thaw).await;
        Ok(())
    }

    async fn partition(
        &self,
        nodes: &[NodeId],
        target: &str,
        lasts: Duration,
        direction: Direction,
        how: How,
    ) -> Result<(), Trouble> {
        let (flow, bytes) = match how {
            How::Hold => (Flow::Hold, "bytes wait"),
            How::Swallow => (Flow::Swallow, "bytes are lost"),
        };
        let (ways, which): (&[Way], _) = match direction {
            Direction::Both => (&[Way::To, Way::From], "both ways"),
            Direction::To => (&[Way::To], "one way, to it"),
            Direction::From => (&[Way::From], "one way, from it"),
        };
        let fault = self.faults.begin(format!("partition {which} for {lasts:?}, {bytes}"), target);
        let proxies = || nodes.iter().filter_map(|&node| self.testbed.proxy(node));
        for proxy in proxies() {
            ways.iter().for_each(|&way| proxy.set(way, Conditions::flow(flow)));
        }
        let heal = async {
            sleep(lasts).await;
            proxies().for_each(|proxy| proxy.heal());
        };
        self.watch_until(fault, nodes, heal).await;
        Ok(())
    }

    async fn slow(
        &self,
        nodes: &[NodeId],
        target: &str,
        lasts: Duration,
        conditions: Conditions,
    ) -> Result<(), Trouble> {
        let Conditions { latency, jitter, .. } = conditions;
        let fault = self.faults.begin(format!("slow network: {latency:?} + {jitter:?}"), target);
        let proxies = || nodes.iter().filter_map(|&node| self.testbed.proxy(node));
        proxies().for_each(|proxy| proxy.set_both(conditions));
        sleep(lasts).await;
        proxies().for_each(|proxy| proxy.heal());
        self.faults.end(fault, Instant::now());
        Ok(())
    }

    async fn lossy(
        &self,
        nodes: &[NodeId],
        target: &str,
        lasts: Duration,
        [pause_every, pause, reset_every]: [Duration; 3],
        mut chance: Chance,
    ) -> Result<(), Trouble> {
        let fault = self.faults.begin("lossy network: pauses and resets", target);
        let until = Instant::now() + lasts;
        let proxies: Vec<_> = nodes.iter().filter_map(|&node| self.testbed.proxy(node)).collect();
        // Evenly spread around the mean: between nothing and twice of it.
        let mut next = |mean: Duration| {
            Instant::now() + Duration::from_millis(chance.within(0..2 * mean.as_millis() as u64 + 1))
        };
        let (mut next_pause, mut next_reset) = (next(pause_every), next(reset_every));
        while next_pause.min(next_reset) < until {
            sleep_until(next_pause.min(next_reset)).await;
            if next_reset <= next_pause {
                proxies.iter().for_each(|proxy| proxy.reset_connections());
                next_reset = next(reset_every);
            } else {
                proxies.iter().for_each(|proxy| proxy.set_both(Conditions::flow(Flow::Hold)));
                sleep(pause).await;
                proxies.iter().for_each(|proxy| proxy.heal());
                next_pause = next(pause_every);
            }
        }
        sleep_until(until).await;
        self.faults.end(fault, Instant::now());
        Ok(())
    }

    /// Starts a process such that it dies at a certain point, and waits for that.
    async fn failpoint(&self, node: NodeId, point: &str, seed: u64) -> Result<(), Trouble> {
        self.testbed.strike(&[node]);
        // Not the first time: it is in the middle of its work.
        let times = if point.ends_with("during_checkpoint") { 1 } else { 1 + seed % 40 };
        let armed = (OsString::from("FAILPOINTS"), OsString::from(format!("{point}={times}*off->return")));
        {
            let mut cluster = self.testbed.cluster().await;
            cluster.kill(node).await.map_err(|error| format!("arming {node}: {error}"))?;
            cluster.spec_mut().node_env.entry(node).or_default().push(armed);
            let spawned = cluster.spawn_node(node);
            if let Some(variables) = cluster.spec_mut().node_env.get_mut(&node) {
                variables.pop();
            }
            spawned.map_err(|error| format!("arming {node}: {error}"))?;
        }
        let reached = self.ends_within(node, REACHED_WITHIN).await;
        let fault = self.faults.begin(format!("dies at {point}"), &node.to_string());
        if reached {
            self.faults.killed();
        } else {
            self.faults.missed(point);
            self.kill_now(&[node]).await?;
        }
        sleep(DOWN_FOR).await;
        self.bring_back(fault, &[node]).await
    }

    /// Fills the disk of a process until it ends by itself, then makes room.
    async fn fill_disk(&self, node: NodeId, within: Duration) -> Result<(), Trouble> {
        let disk = self.testbed.small_disk.as_ref().expect("scenarios with fill_disk have one");
        self.testbed.strike(&[node]);
        let fault = self.faults.begin("disk full", &node.to_string());
        let deadline = Instant::now() + within;
        let mut ended = false;
        while !ended && Instant::now() < deadline {
            disk.fill().map_err(|error| format!("filling the disk of {node}: {error}"))?;
            ended = self.ends_within(node, REFILL).await;
        }
        disk.clear().map_err(|error| format!("making room for {node}: {error}"))?;
        if ended {
            return self.bring_back(fault, &[node]).await;
        }
        // It got along without writing anything new: nothing was acknowledged that needed room.
        self.faults.end(fault, Instant::now());
        self.testbed.release(&[node]);
        Err(format!("{node} did not stop within {within:?} although its disk was full"))
    }

    async fn jump_clock(
        &self,
        nodes: &[NodeId],
        target: &str,
        by_ms: i64,
        lasts: Duration,
    ) -> Result<(), Trouble> {
        let fault = self.faults.begin(format!("clock jumps by {by_ms} ms"), target);
        let set = |by_ms| {
            nodes.iter().try_for_each(|&node| {
                let set = self.testbed.set_clock(node, by_ms);
                set.map_err(|error| format!("the clock of {node}: {error}"))
            })
        };
        set(by_ms)?;
        sleep(lasts).await;
        set(0)?;
        self.faults.end(fault, Instant::now());
        Ok(())
    }

    /// Freezes participants until so many transactions are unfinished, then kills everything.
    async fn pile_up(&self, nodes: &[NodeId], wanted: u64, within: Duration) -> Result<(), Trouble> {
        let (testbed, deadline) = (&self.testbed, Instant::now() + within);
        let participants = nodes.iter().filter(|node| node.role == Role::Participant);
        let frozen = self.faults.begin("frozen", "every participant");
        for &node in participants {
            testbed.cluster().await.freeze(node);
        }
        let mut unfinished = 0;
        while unfinished < wanted && Instant::now() < deadline {
            unfinished = testbed.operator.unfinished().await.unwrap_or(unfinished);
            sleep(LOOK).await;
        }
        testbed.strike(nodes);
        let fault = self.faults.begin(format!("kill -9 with {unfinished} unfinished"), "everything");
        self.kill_now(nodes).await?;
        self.faults.end(frozen, Instant::now());
        sleep(DOWN_FOR).await;
        self.bring_back(fault, nodes).await?;
        if unfinished < wanted {
            return Err(format!(
                "only {unfinished} of {wanted} transactions were unfinished within {within:?}"
            ));
        }
        Ok(())
    }

    /// Starts processes again that are down, waits until they serve, and measures what follows.
    async fn bring_back(&self, fault: FaultId, nodes: &[NodeId]) -> Result<(), Trouble> {
        let operator = &self.testbed.operator;
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
        let (returned, mut before) = recovery::while_watching(operator, participant(nodes), back).await;
        // Whoever is not back is told, and others may strike.
        let returned: Instant = returned.inspect_err(|_: &Trouble| {
            self.faults.end(fault, Instant::now());
        })?;
        self.testbed.release(nodes);
        if nodes.iter().any(|node| node.role == Role::Coordinator) {
            before = recovery::found_at_start(operator).await;
        }
        self.measure(fault, nodes, returned, before).await;
        Ok(())
    }

    /// Lets a fault last as long as `end` does, and measures what follows.
    async fn watch_until(&self, fault: FaultId, nodes: &[NodeId], end: impl Future<Output = ()>) {
        let ((), before) = recovery::while_watching(&self.testbed.operator, participant(nodes), end).await;
        self.measure(fault, nodes, Instant::now(), before).await;
    }

    async fn measure(&self, fault: FaultId, nodes: &[NodeId], returned: Instant, before: Before) {
        let is_alone = self.faults.end(fault, returned);
        let count = self.faults.count();
        let still_alone = || is_alone && self.faults.count() == count;
        let operator = &self.testbed.operator;
        let measured = recovery::measure(operator, participant(nodes), returned, before, still_alone).await;
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
        [NodeId { role: Role::Participant, number }] => NAMES.get(usize::from(*number)).unwrap_or(&""),
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
