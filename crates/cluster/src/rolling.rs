//! The rolling restart: every process once, one at a time, while the cluster serves.
//!
//! **Invariant:** no process is stopped while another one of its group is missing or behind.

use crate::error::ClusterError;
use crate::readiness::Wanted;
use crate::spec::NodeId;
use crate::supervisor::{Cluster, Event};

impl Cluster {
    /// Restarts every process, with the arguments and the environment of the spec as it is now: participants, then coordinators;
    /// of each group the followers first, and the leader last, which hands over before it ends. The next process is stopped only
    /// when its group has all replicas again and none is far behind. Crashes meanwhile are seen to as by
    /// [`Cluster::supervise`].
    ///
    /// Without replicas every partition and shard is away for a moment. An error leaves the rest as it is.
    pub async fn rolling_restart(&mut self, mut tell: impl FnMut(Event)) -> Result<(), ClusterError> {
        let groups: Vec<_> = self.spec().groups().collect();
        for group in groups {
            let mut left: Vec<NodeId> = self.spec().replicas_of(group).collect();
            loop {
                let leader = self.wait_group(group, Wanted::CanSpareOne, &mut tell).await?;
                let Some(next) = take_next(&mut left, leader) else { break };
                tell(Event::Restarting { node: next });
                self.stop_node(next).await?;
                let pid = self.spawn_node(next)?;
                tell(Event::Started { node: next, pid });
            }
        }
        Ok(())
    }
}

/// Of those that are left, one that does not lead, if there is one.
fn take_next(left: &mut Vec<NodeId>, leader: NodeId) -> Option<NodeId> {
    let at = left.iter().position(|node| *node != leader).or((!left.is_empty()).then_some(0))?;
    Some(left.remove(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn node(replica: u16) -> NodeId {
        NodeId::coordinator(0).replica(replica)
    }

    #[test]
    fn the_leader_is_restarted_last() {
        let mut left = vec![node(1), node(2), node(3)];
        let order: Vec<NodeId> = std::iter::from_fn(|| take_next(&mut left, node(1))).collect();
        assert_eq!(order, [node(2), node(3), node(1)]);
    }

    #[test]
    fn when_another_comes_to_lead_that_one_is_last() {
        let mut left = vec![node(1), node(2), node(3)];
        assert_eq!(take_next(&mut left, node(1)), Some(node(2)));
        assert_eq!(take_next(&mut left, node(3)), Some(node(1)));
        assert_eq!(take_next(&mut left, node(2)), Some(node(3)), "whoever is left, now that 2 leads");
        assert_eq!(take_next(&mut left, node(2)), None);
    }
}
