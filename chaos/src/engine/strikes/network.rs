//! Faults of the network between coordinators and participants, through the proxies.

use std::time::Duration;

use escrow_cluster::NodeId;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Hand, Trouble};
use crate::chance::Chance;
use crate::proxy::{Conditions, Flow, Proxy, Way};
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
            for &way in ways {
                proxy.set(way, Conditions::flow(flow));
            }
        }
        let heal = async {
            sleep(lasts).await;
            proxies().for_each(Proxy::heal);
        };
        self.watch_until(fault, nodes, heal).await;
        Ok(())
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
        let proxies = || nodes.iter().filter_map(|&node| self.testbed.proxy(node));
        proxies().for_each(|proxy| proxy.set_both(conditions));
        sleep(lasts).await;
        proxies().for_each(Proxy::heal);
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
        let proxies: Vec<_> = nodes.iter().filter_map(|&node| self.testbed.proxy(node)).collect();
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
