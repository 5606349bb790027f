//! How many groups and machines a load needs.

/// What one group can do, and what a machine is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Capacity {
    /// Transfers a second that a coordinator can take.
    pub(crate) coordinator: f64,
    /// Branches a second that a shard can take; a transfer across shards has two.
    pub(crate) shard: f64,
    pub(crate) replicas: usize,
    /// What a follower costs of what its leader does.
    pub(crate) follower: f64,
    /// Cores that a leader keeps busy when it does all it can.
    pub(crate) leader_cores: f64,
    pub(crate) machine_cores: f64,
}

/// A cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) coordinators: usize,
    pub(crate) shards: usize,
    pub(crate) machines: usize,
}

impl Capacity {
    /// The smallest cluster in which no group is busier than this.
    pub(crate) fn plan(&self, transfers: f64, utilisation: f64) -> Plan {
        let coordinators = whole(transfers / (self.coordinator * utilisation));
        let shards = whole(2.0 * transfers / (self.shard * utilisation));
        let busy = transfers / self.coordinator + 2.0 * transfers / self.shard;
        let cores = busy * self.leader_cores * (1.0 + (self.replicas - 1) as f64 * self.follower);
        // Machines are as busy as groups may be; and no two replicas of a group share one.
        let machines = whole(cores / (self.machine_cores * utilisation)).max(self.replicas);
        Plan { coordinators, shards, machines }
    }
}

/// Rounded up, but for what is only the error of a division.
fn whole(count: f64) -> usize {
    (count - 1e-9).ceil().max(1.0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY: Capacity = Capacity {
        coordinator: 100_000.0,
        shard: 200_000.0,
        replicas: 3,
        follower: 0.5,
        leader_cores: 2.0,
        machine_cores: 16.0,
    };

    #[test]
    fn a_transfer_has_two_branches() {
        let plan = CAPACITY.plan(1_000_000.0, 0.5);
        assert_eq!((plan.coordinators, plan.shards), (20, 20));
        // 10 coordinators' and 10 shards' work of 2 cores, twice over with followers, on halves of 16 cores.
        assert_eq!(plan.machines, 10);
    }

    #[test]
    fn a_small_cluster_has_a_machine_for_each_replica() {
        assert_eq!(CAPACITY.plan(10.0, 0.5), Plan { coordinators: 1, shards: 1, machines: 3 });
    }
}
