//! The command lines of the processes.
//!
//! **Invariant:** without replicas no process is told of any.

use std::collections::BTreeMap;
use std::ffi::OsString;

use escrow_replica::GroupId;
use escrow_types::ParticipantId;

use crate::spec::{NodeId, Role, Spec};

/// What the command lines of all processes are made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CommandLines<'a> {
    pub(crate) spec: &'a Spec,
    pub(crate) ports: &'a BTreeMap<NodeId, u16>,
    pub(crate) cluster_id: &'a str,
    /// The groups are new. Never again once they were there: a member whose disk was lost would vote against what it had promised.
    pub(crate) found: bool,
}

impl CommandLines<'_> {
    /// The words after the program.
    pub(crate) fn of(&self, node: NodeId) -> Vec<OsString> {
        let (command, what) = match node.role {
            Role::Coordinator => ("coordinator", "--partition"),
            Role::Participant => ("participant", "--shards"),
        };
        let mut words: Vec<OsString> = vec![command.into(), what.into(), node.number.to_string().into()];
        words.extend(["--data-dir".into(), self.spec.node_dir(node).into_os_string()]);
        words.extend(["--listen".into(), format!("127.0.0.1:{}", self.ports[&node]).into()]);
        if node.role == Role::Coordinator {
            words.extend(self.participants(node));
        }
        if self.spec.is_replicated() {
            words.extend(self.replication(node));
        }
        let more = match node.role {
            Role::Coordinator => &self.spec.coordinator_args,
            Role::Participant => &self.spec.participant_args,
        };
        words.extend(more.iter().cloned());
        // A participant without replicas serves whoever greets it first.
        if node.role == Role::Coordinator || self.spec.is_replicated() {
            words.extend(["--cluster-id".into(), self.cluster_id.into()]);
        }
        words
    }

    /// Where a coordinator finds everybody.
    fn participants(&self, node: NodeId) -> Vec<OsString> {
        let mut words = Vec::new();
        for participant in 0..self.spec.participants {
            let replicas = self.spec.replicas_of(GroupId::Shard(ParticipantId(participant)));
            let url = joined(replicas.map(|replica| self.way(node, replica)));
            words.extend(["--participant".into(), format!("{participant}={url}").into()]);
        }
        for (name, url) in &self.spec.externals {
            words.extend(["--external".into(), format!("{name}={url}").into()]);
        }
        words
    }

    /// What a replica is told of its group.
    fn replication(&self, node: NodeId) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec!["--replica-number".into(), node.replica.to_string().into()];
        for replica in self.spec.replicas_of(node.group()) {
            let value = format!("{}={}", replica.replica, self.way(node, replica));
            words.extend(["--replica".into(), value.into()]);
        }
        if self.found {
            words.push("--found".into());
        }
        words
    }

    /// Where a process reaches another, or is itself.
    fn way(&self, from: NodeId, to: NodeId) -> String {
        let link = self.spec.links.get(&(from, to));
        link.cloned().unwrap_or_else(|| endpoint(self.ports[&to]))
    }
}

/// Where a process listens.
pub(crate) fn endpoint(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

/// The replicas of one partition or shard as one endpoint.
pub(crate) fn joined(endpoints: impl IntoIterator<Item = String>) -> String {
    endpoints.into_iter().collect::<Vec<_>>().join("+")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports;

    fn line(spec: &Spec, found: bool, node: NodeId) -> String {
        let ports = spec.nodes().map(|node| (node, ports::of(7_400, node))).collect();
        let lines = CommandLines { spec, ports: &ports, cluster_id: "c0ffee", found };
        let words = lines.of(node);
        words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    fn spec() -> Spec {
        let mut spec = Spec::new("/d").unwrap();
        spec.coordinator_args.push("--more".into());
        spec
    }

    #[test]
    fn a_coordinator_is_told_where_all_participants_are() {
        let mut spec = spec();
        spec.externals.push(("bank".to_owned(), "http://127.0.0.1:9000".to_owned()));
        assert_eq!(
            line(&spec, true, NodeId::coordinator(0)),
            "coordinator --partition 0 --data-dir /d/coordinator-0 --listen 127.0.0.1:7400 \
             --participant 0=http://127.0.0.1:7410 --participant 1=http://127.0.0.1:7411 --external \
             bank=http://127.0.0.1:9000 --more --cluster-id c0ffee"
        );
        assert_eq!(
            line(&spec, true, NodeId::participant(1)),
            "participant --shards 1 --data-dir /d/participant-1 --listen 127.0.0.1:7411"
        );
    }

    #[test]
    fn a_process_reaches_another_by_its_link() {
        let mut spec = Spec { replicas: 3, ..spec() };
        let (from, to) = (NodeId::coordinator(0).replica(1), NodeId::participant(1).replica(2));
        let other = from.replica(3);
        spec.links.insert((from, to), "http://127.0.0.1:9001".to_owned());
        spec.links.insert((from, other), "http://127.0.0.1:9002".to_owned());
        let told = line(&spec, false, from);
        assert!(
            told.contains("1=http://127.0.0.1:7411+http://127.0.0.1:9001+http://127.0.0.1:7611 "),
            "{told}"
        );
        assert!(told.contains("--replica 3=http://127.0.0.1:9002"), "{told}");
        assert!(!line(&spec, false, other).contains(":900"), "it has no link of its own");
    }

    #[test]
    fn replicas_are_told_of_each_other() {
        let spec = Spec { replicas: 3, participants: 1, ..spec() };
        assert_eq!(
            line(&spec, true, NodeId::participant(0).replica(2)),
            "participant --shards 0 --data-dir /d/participant-0.2 --listen 127.0.0.1:7510 --replica-number 2 \
             --replica 1=http://127.0.0.1:7410 --replica 2=http://127.0.0.1:7510 \
             --replica 3=http://127.0.0.1:7610 --found --cluster-id c0ffee"
        );
        assert_eq!(
            line(&spec, false, NodeId::coordinator(0).replica(3)),
            "coordinator --partition 0 --data-dir /d/coordinator-0.3 --listen 127.0.0.1:7600 \
             --participant 0=http://127.0.0.1:7410+http://127.0.0.1:7510+http://127.0.0.1:7610 \
             --replica-number 3 --replica 1=http://127.0.0.1:7400 --replica 2=http://127.0.0.1:7500 \
             --replica 3=http://127.0.0.1:7600 --more --cluster-id c0ffee"
        );
    }

    #[test]
    fn a_group_is_founded_only_once() {
        let spec = Spec { replicas: 3, ..spec() };
        for node in spec.nodes() {
            assert!(line(&spec, true, node).contains(" --found"), "{node}");
            assert!(!line(&spec, false, node).contains("--found"), "{node}");
        }
    }
}
