//! Faults of processes: they are ended, frozen, or have the wrong time or no disk.

use std::ffi::OsString;
use std::time::Duration;

use escrow_cluster::{NodeId, Role};
use tokio::time::{Instant, sleep};

use super::{Hand, LOOK, Trouble};

/// A process with a failpoint must have come by it by then.
const REACHED_WITHIN: Duration = Duration::from_secs(10);
/// After a death that it found by itself it stays down for so long.
const DOWN_FOR: Duration = Duration::from_millis(200);
/// How often a disk is filled again: archives that are deleted make room.
const REFILL: Duration = Duration::from_millis(20);

impl Hand {
    pub(super) async fn kill(
        &self,
        nodes: &[NodeId],
        target: &str,
        down_for: Duration,
    ) -> Result<(), Trouble> {
        self.testbed.strike(nodes);
        let fault = self.faults.begin("kill -9", target);
        self.kill_now(nodes).await?;
        sleep(down_for).await;
        self.bring_back(fault, nodes).await
    }

    pub(super) async fn kill_now(&self, nodes: &[NodeId]) -> Result<(), Trouble> {
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

    pub(super) async fn stop(
        &self,
        nodes: &[NodeId],
        target: &str,
        down_for: Duration,
    ) -> Result<(), Trouble> {
        self.testbed.strike(nodes);
        let fault = self.faults.begin("SIGTERM", target);
        for &node in nodes {
            let stopped = self.testbed.cluster().await.stop_node(node).await;
            stopped.map_err(|error| format!("stopping {node}: {error}"))?;
        }
        sleep(down_for).await;
        self.bring_back(fault, nodes).await
    }

    pub(super) async fn freeze(
        &self,
        nodes: &[NodeId],
        target: &str,
        lasts: Duration,
    ) -> Result<(), Trouble> {
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

    /// Starts a process such that it dies at a certain point, and waits for that.
    pub(super) async fn failpoint(&self, node: NodeId, point: &str, seed: u64) -> Result<(), Trouble> {
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
    pub(super) async fn fill_disk(&self, node: NodeId, within: Duration) -> Result<(), Trouble> {
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

    pub(super) async fn jump_clock(
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
    pub(super) async fn pile_up(
        &self,
        nodes: &[NodeId],
        wanted: u64,
        within: Duration,
    ) -> Result<(), Trouble> {
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
}
