//! Faults of replicas: leaders are lost, paused or cut off, disks are lost, and everything is restarted while it works.
//!
//! A group that has lost its leader is unavailable from the moment of the signal until the first transfer is confirmed that needs the
//! group and was due after the leader was gone: see [`Sentinel`](crate::load::Sentinel).

use std::time::Duration;

use escrow_client::report::Replica;
use escrow_client::report::replica::Role as Standing;
use escrow_cluster::{Event, NodeId, Role, groups};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::super::faults::FaultId;
use super::super::stale::{ASKED_FOR, Known, Probe};
use super::network::in_words;
use super::{Hand, LOOK, Trouble};
use crate::load::Need;
use crate::load::sentinel::Sign;
use crate::scenario::{self, Direction, How};

/// A group has a leader by then.
const LED_WITHIN: Duration = Duration::from_secs(30);
/// A group that lost its leader serves again by then.
const SERVES_WITHIN: Duration = Duration::from_secs(30);
/// A replica that lost its disk votes again by then.
const VOTES_WITHIN: Duration = Duration::from_secs(120);
/// How long a question to a replica may take.
const ASKED_WITHIN: Duration = Duration::from_secs(2);
/// A process that is paused may go on for so long.
const PAUSES_WITHIN: Duration = Duration::from_millis(5);
/// A voter that lacks no more than so many entries has caught up.
const BEHIND_MAX: u64 = 128;

impl Hand {
    /// The replica of a group that stands so.
    pub(super) async fn standing(
        &self,
        group: &[NodeId],
        standing: scenario::Standing,
        seed: u64,
    ) -> Result<NodeId, Trouble> {
        let name = group[0].group();
        let leader = timeout(LED_WITHIN, async {
            loop {
                let leader = self.testbed.cluster().await.leader(name).await;
                match leader {
                    Some(leader) => return leader,
                    None => sleep(LOOK).await,
                }
            }
        });
        let leader = leader.await.map_err(|_| format!("nobody leads {name} within {LED_WITHIN:?}"))?;
        let followers: Vec<NodeId> = group.iter().copied().filter(|node| *node != leader).collect();
        Ok(match standing {
            scenario::Standing::Leader => leader,
            scenario::Standing::Follower => followers[(seed % followers.len() as u64) as usize],
        })
    }

    pub(super) async fn kill_leader(&self, node: NodeId, down_for: Duration) -> Result<(), Trouble> {
        self.testbed.strike(&[node]);
        let fault = self.faults.begin_loss("kill -9 of the leader", node);
        let struck = Instant::now();
        self.kill_now(&[node]).await?;
        let sign = self.sentinel.await_sign(need(node), Instant::now());
        let back = async {
            sleep(down_for).await;
            self.bring_back(fault, &[node]).await
        };
        let (back, served) = tokio::join!(back, self.served_again(fault, node, struck, sign));
        back.and(served.map(drop))
    }

    /// Pauses a leader for longer than its group needs for another one, and asks it as soon as it goes on.
    pub(super) async fn pause_leader(&self, node: NodeId, lasts: Duration) -> Result<(), Trouble> {
        let fault = self.faults.begin_loss(&format!("leader paused for {lasts:?}"), node);
        let struck = Instant::now();
        self.testbed.cluster().await.freeze(node);
        let sign = self.sentinel.await_sign(need(node), struck + PAUSES_WITHIN);
        let (served, ()) = tokio::join!(self.served_again(fault, node, struck, sign), sleep(lasts));
        let probe = match &served {
            Ok(sign) => Some(Probe::start(self.testbed.endpoint(node), self.known(node, sign).await?).await),
            Err(_) => None,
        };
        self.testbed.cluster().await.thaw(node);
        self.faults.end(fault, Instant::now());
        if let Some(probe) = probe {
            self.faults.probed(node, probe.finish(Instant::now() + ASKED_FOR).await);
        }
        served.map(drop)
    }

    /// Cuts a leader off from everybody but callers, and asks it as soon as another leads, until it is long connected again.
    pub(super) async fn cut_off_leader(
        &self,
        node: NodeId,
        lasts: Duration,
        direction: Direction,
        how: How,
    ) -> Result<(), Trouble> {
        let fault = self.faults.begin_loss(&in_words("leader cut off", lasts, direction, how), node);
        let struck = Instant::now();
        self.cut_off(&[node], direction, how);
        let sign = self.sentinel.await_sign(need(node), struck + PAUSES_WITHIN);
        let asked = async {
            let sign = self.served_again(fault, node, struck, sign).await?;
            let probe = Probe::start(self.testbed.endpoint(node), self.known(node, &sign).await?).await;
            Ok::<_, Trouble>(probe.finish(struck + lasts + ASKED_FOR).await)
        };
        let heal = async {
            sleep_until(struck + lasts).await;
            self.reconnect(&[node]);
            self.faults.end(fault, Instant::now());
        };
        let (asked, ()) = tokio::join!(asked, heal);
        self.faults.probed(node, asked?);
        Ok(())
    }

    /// What the group has done while its old leader was away.
    async fn known(&self, node: NodeId, sign: &Sign) -> Result<Known, Trouble> {
        match node.role {
            Role::Coordinator => Ok(Known::Confirmed(sign.key)),
            Role::Participant => {
                let applied = self.testbed.operator.applied(node.number).await;
                let applied = applied.ok_or_else(|| format!("{} does not tell its totals", node.group()))?;
                Ok(Known::Applied { shard: node.number, applied })
            }
        }
    }

    /// Measures for how long a group was unavailable.
    async fn served_again(
        &self,
        fault: FaultId,
        node: NodeId,
        struck: Instant,
        sign: oneshot::Receiver<Sign>,
    ) -> Result<Sign, Trouble> {
        let sign = timeout(SERVES_WITHIN, sign).await.ok().and_then(Result::ok);
        let none =
            || format!("no transfer that needs {} was confirmed within {SERVES_WITHIN:?}", node.group());
        let sign = sign.ok_or_else(none)?;
        self.faults.served_again(fault, sign.at - struck);
        Ok(sign)
    }

    /// Kills a replica and removes all that it had on disk; it must become a voter again.
    pub(super) async fn wipe(&self, node: NodeId, down_for: Duration) -> Result<(), Trouble> {
        self.testbed.strike(&[node]);
        let fault = self.faults.begin("kill -9, disk lost", &node.to_string());
        self.kill_now(&[node]).await?;
        let dir = self.testbed.cluster().await.spec().node_dir(node);
        std::fs::remove_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        sleep(down_for).await;
        let started = Instant::now();
        self.bring_back(fault, &[node]).await?;
        let by = timeout(VOTES_WITHIN, self.votes(node)).await;
        let by = by.map_err(|_| format!("{node} does not vote within {VOTES_WITHIN:?}"))?;
        self.faults.end(fault, Instant::now());
        let took = started.elapsed().as_secs_f64();
        self.faults.note(&format!("{node}: votes again {took:.1} s after its start, caught up by {by}"));
        Ok(())
    }

    /// Waits until a replica votes and has caught up; says how it did.
    async fn votes(&self, node: NodeId) -> &'static str {
        loop {
            let leader = self.testbed.cluster().await.leader(node.group()).await;
            if let (Some(it), Some(leader)) = (self.ask(node).await, self.ask_leader(leader).await) {
                let is_voter = |member: &escrow_client::report::ReplicaMember| {
                    member.voter && member.member.as_ref().is_some_and(|member| member.id == it.id)
                };
                let follows = matches!(it.role(), Standing::Follower | Standing::Leader);
                let behind = leader.committed.saturating_sub(it.applied);
                if follows && leader.members.iter().any(is_voter) && behind <= BEHIND_MAX {
                    return if it.checkpointed > 0 && it.purged > 0 { "a snapshot" } else { "the log" };
                }
            }
            sleep(10 * LOOK).await;
        }
    }

    async fn ask_leader(&self, leader: Option<NodeId>) -> Option<Replica> {
        match leader {
            Some(leader) => self.ask(leader).await,
            None => None,
        }
    }

    async fn ask(&self, node: NodeId) -> Option<Replica> {
        groups::ask(self.testbed.endpoint(node), ASKED_WITHIN).await.ok()?.pop()
    }

    /// Restarts every process, one at a time, as an upgrade does.
    pub(super) async fn rolling_restart(&self, nodes: &[NodeId], within: Duration) -> Result<(), Trouble> {
        self.testbed.strike(nodes);
        let fault = self.faults.begin("rolling restart", "everything");
        let mut troubles = Vec::new();
        let restarted = {
            let mut cluster = self.testbed.cluster().await;
            let tell = |event| match event {
                Event::Restarting { node } => self.faults.note(&format!("{node}: SIGTERM, started again")),
                Event::Ended { node, .. } => troubles.push(format!("{node} ended by itself")),
                Event::Killed { node } => troubles.push(format!("{node} did not end in time")),
                Event::NotStarted { node, error } => troubles.push(format!("{node} does not start: {error}")),
                Event::Started { .. } => {}
            };
            timeout(within, cluster.rolling_restart(tell)).await
        };
        self.faults.end(fault, Instant::now());
        self.testbed.release(nodes);
        match restarted {
            Ok(Ok(())) if troubles.is_empty() => Ok(()),
            Ok(Ok(())) => Err(troubles.join("\n")),
            Ok(Err(error)) => Err(format!("the rolling restart failed: {error}")),
            Err(_) => Err(format!("the rolling restart was not over within {within:?}")),
        }
    }
}

/// What needs a process that leads.
fn need(node: NodeId) -> Need {
    match node.role {
        Role::Coordinator => Need::Partition(node.number.into()),
        Role::Participant => Need::Shard(node.number.into()),
    }
}
