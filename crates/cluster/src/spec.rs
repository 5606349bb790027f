//! What a cluster is made of.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use escrow_replica::GroupId;
use escrow_types::{ParticipantId, Partition};

use crate::error::ClusterError;
use crate::ports::REPLICA_STEP;

/// The most replicas of a group: every entry goes to each of them, and three survive the loss of one, five of two.
const REPLICAS_MAX: u16 = 7;

/// When a process that ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Restart {
    /// When it crashed or was killed; not when it ended by itself with success.
    #[default]
    OnFailure,
    /// Never.
    Never,
}

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Coordinates; its number is its partition.
    Coordinator,
    /// Holds the wallet shard of the same number.
    Participant,
}

/// One process of a cluster, over all its restarts. Written as `participant-1`, a replica as `participant-1.2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId {
    /// What it does.
    pub role: Role,
    /// Its number, from 0.
    pub number: u16,
    /// Which replica of that partition or shard, from 1; 0 in a cluster without replicas.
    pub replica: u16,
}

impl NodeId {
    /// A coordinator without replicas.
    pub const fn coordinator(number: u16) -> Self {
        Self { role: Role::Coordinator, number, replica: 0 }
    }

    /// A participant without replicas.
    pub const fn participant(number: u16) -> Self {
        Self { role: Role::Participant, number, replica: 0 }
    }

    /// One replica of the same partition or shard.
    #[must_use]
    pub const fn replica(self, replica: u16) -> Self {
        Self { replica, ..self }
    }

    /// The partition or shard that it holds. A process holds one, so two replicas of a group are never in one process.
    pub const fn group(self) -> GroupId {
        match self.role {
            Role::Coordinator => GroupId::Coordinator(Partition(self.number)),
            Role::Participant => GroupId::Shard(ParticipantId(self.number)),
        }
    }
}

impl From<GroupId> for NodeId {
    /// The process that holds a partition or shard that has no replicas.
    fn from(group: GroupId) -> Self {
        match group {
            GroupId::Coordinator(partition) => Self::coordinator(partition.0),
            GroupId::Shard(shard) => Self::participant(shard.0),
        }
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = match self.role {
            Role::Coordinator => "coordinator",
            Role::Participant => "participant",
        };
        write!(f, "{role}-{}", self.number)?;
        match self.replica {
            0 => Ok(()),
            replica => write!(f, ".{replica}"),
        }
    }
}

/// A cluster to be started.
#[derive(Debug, Clone)]
pub struct Spec {
    /// The program that all processes run: this one, or one that has the same commands.
    pub executable: PathBuf,
    /// Where everything lives; made when missing.
    pub data_dir: PathBuf,
    /// How many coordinators, 1-10.
    pub coordinators: u16,
    /// How many participants, at least 1.
    pub participants: u16,
    /// How many replicas every partition and every shard has, each in a process of its own: 1, 3, 5 or 7.
    pub replicas: u16,
    /// Coordinators listen on this port and those after it, participants from ten above; the second replicas a hundred above
    /// the first, and so on. 0: on free ports.
    pub base_port: u16,
    /// When to start a process again.
    pub restart: Restart,
    /// External participants that every coordinator knows: name and URL.
    pub externals: Vec<(String, String)>,
    /// Where a process reaches another, when that is not where it listens: a proxy between them. From, to.
    pub links: BTreeMap<(NodeId, NodeId), String>,
    /// Further arguments of every coordinator.
    pub coordinator_args: Vec<OsString>,
    /// Further arguments of every participant.
    pub participant_args: Vec<OsString>,
    /// Further variables of every process; they inherit those of the supervisor anyway.
    pub env: Vec<(OsString, OsString)>,
    /// Further variables of single processes, from their next start on.
    pub node_env: BTreeMap<NodeId, Vec<(OsString, OsString)>>,
    /// How long a process may take until it serves, recovery included.
    pub ready_within: Duration,
    /// How long a process may take to end after SIGTERM.
    pub stop_within: Duration,
}

impl Spec {
    /// One coordinator and two participants of this same program, on free ports.
    pub fn new(data_dir: impl Into<PathBuf>) -> Result<Self, ClusterError> {
        let executable = std::env::current_exe().map_err(crate::error::at("the path of this program"))?;
        Ok(Self {
            executable,
            data_dir: data_dir.into(),
            coordinators: 1,
            participants: 2,
            replicas: 1,
            base_port: 0,
            restart: Restart::OnFailure,
            externals: Vec::new(),
            links: BTreeMap::new(),
            coordinator_args: Vec::new(),
            participant_args: Vec::new(),
            env: Vec::new(),
            node_env: BTreeMap::new(),
            ready_within: Duration::from_secs(60),
            stop_within: Duration::from_secs(15),
        })
    }

    /// Every partition and shard, shards first: the order in which they start.
    pub fn groups(&self) -> impl Iterator<Item = GroupId> + use<> {
        let shards = (0..self.participants).map(|number| GroupId::Shard(ParticipantId(number)));
        shards.chain((0..self.coordinators).map(|number| GroupId::Coordinator(Partition(number))))
    }

    /// The processes that hold a partition or shard: one each replica.
    pub fn replicas_of(&self, group: GroupId) -> impl Iterator<Item = NodeId> + use<> {
        let numbers = if self.is_replicated() { 1..=self.replicas } else { 0..=0 };
        numbers.map(move |replica| NodeId::from(group).replica(replica))
    }

    /// Every process, participants first: the order in which they start.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.groups().flat_map(|group| self.replicas_of(group))
    }

    /// Which processes call which: coordinators all participants, and replicas each other. From, to.
    pub fn callers(&self) -> impl Iterator<Item = (NodeId, NodeId)> {
        let calls = |from: NodeId, to: NodeId| {
            from != to
                && (from.group() == to.group()
                    || (from.role, to.role) == (Role::Coordinator, Role::Participant))
        };
        self.nodes()
            .flat_map(move |from| self.nodes().filter(move |to| calls(from, *to)).map(move |to| (from, to)))
    }

    /// Whether partitions and shards have more than one replica.
    pub const fn is_replicated(&self) -> bool {
        self.replicas > 1
    }

    /// Refuses what makes no cluster.
    pub fn check(&self) -> Result<(), ClusterError> {
        if !(1..=10).contains(&self.coordinators) {
            return Err(ClusterError::Invalid("--coordinators takes 1 to 10".to_owned()));
        }
        if !(1..=escrow_types::routing::SLOTS).contains(&self.participants) {
            let most = escrow_types::routing::SLOTS;
            return Err(ClusterError::Invalid(format!("--participants takes 1 to {most}")));
        }
        check_replicas(self.replicas)?;
        self.check_ports()
    }

    fn check_ports(&self) -> Result<(), ClusterError> {
        if self.base_port == 0 {
            return Ok(());
        }
        let of_first = 10 + u32::from(self.participants);
        if self.is_replicated() && of_first > u32::from(REPLICA_STEP) {
            return Err(ClusterError::Invalid(format!(
                "--participants {}: with replicas, ports are chosen for at most {} participants; --base-port 0 picks free ones",
                self.participants,
                REPLICA_STEP - 10
            )));
        }
        let last = u32::from(self.base_port) + u32::from(REPLICA_STEP * (self.replicas - 1)) + of_first - 1;
        if last > u32::from(u16::MAX) {
            return Err(ClusterError::Invalid(format!(
                "--base-port {}: there is no port {last}",
                self.base_port
            )));
        }
        Ok(())
    }

    /// The data of a process.
    pub fn node_dir(&self, node: NodeId) -> PathBuf {
        self.data_dir.join(node.to_string())
    }

    /// The log of a process.
    pub fn log_path(&self, node: NodeId) -> PathBuf {
        log_path(&self.data_dir, node)
    }
}

/// Refuses numbers of replicas that make no sense.
pub fn check_replicas(replicas: u16) -> Result<(), ClusterError> {
    if !(1..=REPLICAS_MAX).contains(&replicas) {
        return Err(ClusterError::Invalid(format!("--replicas takes 1, 3, 5 or 7, not {replicas}")));
    }
    if replicas.is_multiple_of(2) {
        let fewer = replicas - 1;
        return Err(ClusterError::Invalid(format!(
            "--replicas {replicas}: more than half of them must agree, so {replicas} survive the loss of no more than {fewer} \
             do; take {fewer} or {}",
            replicas + 1
        )));
    }
    Ok(())
}

pub(crate) fn log_path(data_dir: &Path, node: NodeId) -> PathBuf {
    data_dir.join("logs").join(format!("{node}.log"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_clusters_are_refused() {
        let good = Spec::new("/d").unwrap();
        assert!(good.check().is_ok());
        for bad in [
            Spec { coordinators: 0, ..good.clone() },
            Spec { coordinators: 11, ..good.clone() },
            Spec { participants: 0, ..good.clone() },
            Spec { base_port: 65_530, ..good.clone() },
            Spec { replicas: 0, ..good.clone() },
            Spec { replicas: 8, ..good.clone() },
            Spec { replicas: 9, ..good.clone() },
            Spec { replicas: 7, base_port: 64_930, ..good.clone() },
            Spec { replicas: 3, base_port: 7_400, participants: 91, ..good.clone() },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
        for replicas in [1, 3, 5, 7] {
            assert!(Spec { replicas, base_port: 64_900, ..good.clone() }.check().is_ok(), "{replicas}");
        }
        assert!(Spec { replicas: 3, base_port: 7_400, participants: 90, ..good.clone() }.check().is_ok());
        assert!(Spec { replicas: 3, participants: 91, ..good }.check().is_ok(), "free ports do not collide");
    }

    #[test]
    fn an_even_number_of_replicas_is_refused_with_the_reason() {
        let even = Spec { replicas: 4, ..Spec::new("/d").unwrap() };
        let message = even.check().unwrap_err().to_string();
        assert!(message.contains("more than half") && message.contains("take 3 or 5"), "{message}");
    }

    #[test]
    fn processes_are_named_by_what_they_hold() {
        let single = Spec::new("/d").unwrap();
        let names = |spec: &Spec| spec.nodes().map(|node| node.to_string()).collect::<Vec<_>>();
        assert_eq!(names(&single), ["participant-0", "participant-1", "coordinator-0"]);
        let replicated = Spec { replicas: 3, participants: 1, ..single };
        assert_eq!(
            names(&replicated),
            [
                "participant-0.1",
                "participant-0.2",
                "participant-0.3",
                "coordinator-0.1",
                "coordinator-0.2",
                "coordinator-0.3"
            ]
        );
        let node = NodeId::coordinator(0).replica(3);
        assert_eq!(replicated.node_dir(node), Path::new("/d/coordinator-0.3"));
        assert_eq!(replicated.log_path(node), Path::new("/d/logs/coordinator-0.3.log"));
    }
}
