//! Faults of the network between processes, through the proxies.

use std::time::Duration;

use escrow_cluster::NodeId;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Hand, Trouble};
use crate::chance::Chance;
use crate::proxy::{Conditions, Flow};
use crate::scenario::{Direction, How};

impl Hand {
    pub(super) async fn partition(
        &self,
        nodes: &[NodeId],
        target: &str,
        lasts: Duration,
        direction: Direction,
        how: How,
    ) -> Result<(), Trouble> {
        let fault = self.faults.begin(in_words("partition", lasts, direction, how), target);
        self.cut_off(nodes, direction, how);
        let heal = async {
            sleep(lasts).await;
            self.reconnect(nodes);
        };
        self.watch_until(fault, nodes, heal).await;
        Ok(())
    }

    /// From now on nothing is carried between these processes and all others.
    pub(super) fn cut_off(&self, nodes: &[NodeId], direction: Direction, how: How) {
        let flow = match how {
            How::Hold => Flow::Hold,
            How::Swallow => Flow::Swallow,
        };
        for (proxy, inward) in self.testbed.links(nodes) {
            match direction {
                Direction::Both => proxy.set_both(Conditions::flow(flow)),
                Direction::To => proxy.set(inward, Conditions::flow(flow)),
                Direction::From => proxy.set(inward.back(), Conditions::flow(flow)),
            }
        }
    }

    /// Everything is carried again.
    pub(super) fn reconnect(&self, nodes: &[NodeId]) {
        self.testbed.links(nodes).for_each(|(proxy, _)| proxy.heal());
    }

    pub(super) async fn slow(
        &self,
        nodes: &[NodeId],
        target: &str,
        lasts: Duration,
        conditions: Conditions,
    ) -> Result<(), Trouble> {
        let Conditions { latency, jitter, .. } = conditions;
        let fault = self.faults.begin(format!("slow network: {latency:?} + {jitter:?}"), target);
        self.testbed.links(nodes).for_each(|(proxy, _)| proxy.set_both(conditions));
        sleep(lasts).await;
        self.reconnect(nodes);
        self.faults.end(fault, Instant::now());
        Ok(())
    }

    pub(super) async fn lossy(
        &self,
        nodes: &[NodeId],
        target: &str,
        lasts: Duration,
        [pause_every, pause, reset_every]: [Duration; 3],
        mut chance: Chance,
    ) -> Result<(), Trouble> {
        let fault = self.faults.begin("lossy network: pauses and resets", target);
        let until = Instant::now() + lasts;
        let proxies: Vec<_> = self.testbed.links(nodes).map(|(proxy, _)| proxy).collect();
        // Evenly spread around the mean: between nothing and twice of it.
        let mut next = |mean: Duration| {
            Instant::now() + Duration::from_millis(chance.within(0..2 * mean.as_millis() as u64 + 1))
        };
        let (mut next_pause, mut next_reset) = (next(pause_every), next(reset_every));
        while next_pause.min(next_reset) < until {
            sleep_until(next_pause.min(next_reset)).await;
            if next_reset <= next_pause {
                for proxy in &proxies {
                    proxy.reset_connections();
                }
                next_reset = next(reset_every);
            } else {
                for proxy in &proxies {
                    proxy.set_both(Conditions::flow(Flow::Hold));
                }
                sleep(pause).await;
                for proxy in &proxies {
                    proxy.heal();
                }
                next_pause = next(pause_every);
            }
        }
        sleep_until(until).await;
        self.faults.end(fault, Instant::now());
        Ok(())
    }
}

/// A partition, for people.
pub(super) fn in_words(what: &str, lasts: Duration, direction: Direction, how: How) -> String {
    let ways = match direction {
        Direction::Both => "both ways",
        Direction::To => "one way, to it",
        Direction::From => "one way, from it",
    };
    let bytes = match how {
        How::Hold => "bytes wait",
        How::Swallow => "bytes are lost",
    };
    format!("{what} {ways} for {lasts:?}, {bytes}")
}
