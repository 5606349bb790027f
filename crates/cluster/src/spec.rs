//! What a cluster is made of.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::ClusterError;

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

/// One process of a cluster, over all its restarts. Written as `participant-1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId {
    /// What it does.
    pub role: Role,
    /// Its number, from 0.
    pub number: u16,
}

impl NodeId {
    /// A coordinator.
    pub const fn coordinator(number: u16) -> Self {
        Self { role: Role::Coordinator, number }
    }

    /// A participant.
    pub const fn participant(number: u16) -> Self {
        Self { role: Role::Participant, number }
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = match self.role {
            Role::Coordinator => "coordinator",
            Role::Participant => "participant",
        };
        write!(f, "{role}-{}", self.number)
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
    /// Coordinators listen on this port and those after it, participants from ten above; 0: on free ports.
    pub base_port: u16,
    /// When to start a process again.
    pub restart: Restart,
    /// External participants that every coordinator knows: name and URL.
    pub externals: Vec<(String, String)>,
    /// Where coordinators reach a participant, by its number, when that is not where it listens: a proxy between them.
    pub routes: Vec<(u16, String)>,
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
            base_port: 0,
            restart: Restart::OnFailure,
            externals: Vec::new(),
            routes: Vec::new(),
            coordinator_args: Vec::new(),
            participant_args: Vec::new(),
            env: Vec::new(),
            node_env: BTreeMap::new(),
            ready_within: Duration::from_secs(60),
            stop_within: Duration::from_secs(15),
        })
    }

    /// Every process, participants first: the order in which they start.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + use<> {
        let participants = (0..self.participants).map(NodeId::participant);
        participants.chain((0..self.coordinators).map(NodeId::coordinator))
    }

    pub(crate) fn check(&self) -> Result<(), ClusterError> {
        if !(1..=10).contains(&self.coordinators) {
            return Err(ClusterError::Invalid("--coordinators takes 1 to 10".to_owned()));
        }
        if !(1..=escrow_types::routing::SLOTS).contains(&self.participants) {
            let most = escrow_types::routing::SLOTS;
            return Err(ClusterError::Invalid(format!("--participants takes 1 to {most}")));
        }
        let last = u32::from(self.base_port) + 10 + u32::from(self.participants) - 1;
        if self.base_port != 0 && last > u32::from(u16::MAX) {
            return Err(ClusterError::Invalid(format!(
                "--base-port {}: there is no port {last}",
                self.base_port
            )));
        }
        Ok(())
    }

    /// The command line of a process, without the program. `ports` finds the port of any process.
    pub(crate) fn arguments(&self, node: NodeId, ports: impl Fn(NodeId) -> u16) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = match node.role {
            Role::Coordinator => {
                vec!["coordinator".into(), "--partition".into(), node.number.to_string().into()]
            }
            Role::Participant => {
                vec!["participant".into(), "--shards".into(), node.number.to_string().into()]
            }
        };
        arguments.extend(["--data-dir".into(), self.node_dir(node).into_os_string()]);
        arguments.extend(["--listen".into(), format!("127.0.0.1:{}", ports(node)).into()]);
        match node.role {
            Role::Coordinator => {
                for participant in 0..self.participants {
                    let routed = self.routes.iter().find(|(number, _)| *number == participant);
                    let url = routed.map_or_else(
                        || format!("http://127.0.0.1:{}", ports(NodeId::participant(participant))),
                        |(_, url)| url.clone(),
                    );
                    let value = format!("{participant}={url}");
                    arguments.extend(["--participant".into(), value.into()]);
                }
                for (name, url) in &self.externals {
                    arguments.extend(["--external".into(), format!("{name}={url}").into()]);
                }
                arguments.extend(self.coordinator_args.iter().cloned());
            }
            Role::Participant => arguments.extend(self.participant_args.iter().cloned()),
        }
        arguments
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

pub(crate) fn log_path(data_dir: &Path, node: NodeId) -> PathBuf {
    data_dir.join("logs").join(format!("{node}.log"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coordinator_is_told_where_all_participants_are() {
        let mut spec = Spec::new("/d").unwrap();
        spec.externals.push(("bank".to_owned(), "http://127.0.0.1:9000".to_owned()));
        let arguments = spec.arguments(NodeId::coordinator(0), |node| match node.role {
            Role::Coordinator => 7400,
            Role::Participant => 7410 + node.number,
        });
        let text: Vec<String> = arguments.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        assert_eq!(
            text.join(" "),
            "coordinator --partition 0 --data-dir /d/coordinator-0 --listen 127.0.0.1:7400 \
             --participant 0=http://127.0.0.1:7410 --participant 1=http://127.0.0.1:7411 --external \
             bank=http://127.0.0.1:9000"
        );
    }

    #[test]
    fn a_coordinator_reaches_a_participant_by_its_route() {
        let mut spec = Spec::new("/d").unwrap();
        spec.routes.push((1, "http://127.0.0.1:9001".to_owned()));
        let arguments = spec.arguments(NodeId::coordinator(0), |_| 7400);
        let has = |wanted: &str| arguments.iter().any(|word| word == wanted);
        assert!(has("0=http://127.0.0.1:7400") && has("1=http://127.0.0.1:9001"), "{arguments:?}");
    }

    #[test]
    fn impossible_clusters_are_refused() {
        let good = Spec::new("/d").unwrap();
        assert!(good.check().is_ok());
        for bad in [
            Spec { coordinators: 0, ..good.clone() },
            Spec { coordinators: 11, ..good.clone() },
            Spec { participants: 0, ..good.clone() },
            Spec { base_port: 65_530, ..good.clone() },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}
