//! `cluster.toml`: one file for all servers of a cluster on several machines, the same on each of them.
//!
//! ```toml
//! cluster_id = "0191f3c0a1b27c3d8e4f5a6b7c8d9e0f"
//!
//! [[node]]
//! name = "participant-0.1"       # what --node names
//! kind = "participant"           # or "coordinator"
//! group = 0                      # the shard, or the partition
//! replica = 1                    # from 1; left out where there are none
//! listen = "10.0.0.1:7410"
//! endpoint = "http://10.0.0.1:7410"
//!
//! [slots]                        # left out: equal runs
//! 0-2047 = 0
//! 2048-4095 = 1
//! ```
//!
//! **Invariant:** a file that is read is whole: every server of it could start.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;

use escrow_coordinator::config::Slots;
use escrow_grpc::Endpoint;
use escrow_replica::{GroupId, Replication};
use escrow_types::routing::SLOTS;
use escrow_types::{ParticipantId, Partition};
use serde::{Deserialize, Serialize};

use crate::exit::Failure;

/// What a server does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Its group is a partition.
    Coordinator,
    /// Its group is a wallet shard.
    Participant,
}

impl Kind {
    /// As in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::Participant => "participant",
        }
    }
}

/// One server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// What it is called.
    pub name: String,
    /// What it does.
    pub kind: Kind,
    /// Partition or shard.
    pub group: u16,
    /// Which replica of it, from 1; `None` where there is one server only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica: Option<u32>,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where the others find it.
    pub endpoint: String,
}

/// The servers of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterFile {
    /// All servers bear it: 32 hex digits.
    pub cluster_id: String,
    /// The servers.
    pub node: Vec<Node>,
    /// Which shard holds which accounts.
    #[serde(default, skip_serializing_if = "is_equal_runs")]
    pub slots: Slots,
}

fn is_equal_runs(slots: &Slots) -> bool {
    *slots == Slots::default()
}

impl ClusterFile {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let wrong = |what: &dyn std::fmt::Display| Failure::bad_config(format!("{}: {what}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| wrong(&error))?;
        Self::parse(&text).map_err(|error| wrong(&error))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let file: Self = toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        file.check()?;
        Ok(file)
    }

    /// Refuses what cannot work.
    pub fn check(&self) -> Result<(), String> {
        if self.cluster_id.len() != 32 || !self.cluster_id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(format!("cluster_id: '{}' is not 32 hex digits", self.cluster_id));
        }
        let (mut names, mut endpoints) = (BTreeSet::new(), BTreeSet::new());
        for node in &self.node {
            node.check()?;
            if !names.insert(&node.name) {
                return Err(format!("the name '{}' is given to two nodes", node.name));
            }
            if !endpoints.insert(node.endpoint.trim_end_matches('/')) {
                return Err(format!(
                    "{}: '{}' is the endpoint of another node, too",
                    node.name, node.endpoint
                ));
            }
        }
        for kind in [Kind::Coordinator, Kind::Participant] {
            self.check_groups(kind)?;
        }
        let shards = self.groups(Kind::Participant).into_keys().map(ParticipantId).collect();
        self.slots.routing(shards).map_err(|error| error.to_string())?;
        Ok(())
    }

    fn check_groups(&self, kind: Kind) -> Result<(), String> {
        let groups = self.groups(kind);
        let name = kind.as_str();
        if groups.is_empty() {
            return Err(format!("there is no node of kind {name}"));
        }
        for (number, nodes) in &groups {
            let replicas: BTreeSet<Option<u32>> = nodes.iter().map(|node| node.replica).collect();
            if replicas.len() < nodes.len() {
                return Err(format!("{name} {number}: two nodes are the same replica"));
            }
            if nodes.len() > 1 && replicas.contains(&None) {
                return Err(format!("{name} {number}: each of its nodes needs the number of its replica"));
            }
        }
        // Callers find the partition of a transaction by its place among the coordinators.
        match (0..).zip(groups.keys()).find(|(expected, number)| expected != *number) {
            Some((missing, _)) if kind == Kind::Coordinator => {
                Err(format!("coordinators are numbered from 0 without a gap: there is no {missing}"))
            }
            _ => Ok(()),
        }
    }

    /// The nodes of one kind, by partition or shard, in the order of their replicas.
    fn groups(&self, kind: Kind) -> BTreeMap<u16, Vec<&Node>> {
        let mut groups: BTreeMap<u16, Vec<&Node>> = BTreeMap::new();
        for node in self.node.iter().filter(|node| node.kind == kind) {
            groups.entry(node.group).or_default().push(node);
        }
        for nodes in groups.values_mut() {
            nodes.sort_by_key(|node| node.replica);
        }
        groups
    }

    /// The node of that name, if it is of that kind.
    pub fn node(&self, name: &str, kind: Kind) -> Result<&Node, Failure> {
        let node = self.node.iter().find(|node| node.name == name).ok_or_else(|| {
            let names: Vec<&str> = self.node.iter().map(|node| node.name.as_str()).collect();
            Failure::bad_config(format!(
                "--node: there is no '{name}' in the cluster file, but {}",
                names.join(", ")
            ))
        })?;
        if node.kind != kind {
            let is = node.kind.as_str();
            return Err(Failure::bad_config(format!("--node: '{name}' is a {is}: escrow {is} runs it")));
        }
        Ok(node)
    }

    /// What a node is told of the other replicas of its group; `None` if it is the only one.
    pub fn replication(&self, node: &Node) -> Option<Replication> {
        let group = self.groups(node.kind).remove(&node.group)?;
        if group.len() == 1 {
            return None;
        }
        let member = |node: &Node| Some((node.replica?, node.endpoint.clone()));
        let members = group.into_iter().filter_map(member).collect();
        Some(Replication::new(node.replica?, members, false))
    }

    /// The endpoint of every shard, its replicas joined by `+`.
    pub fn shards(&self) -> Vec<(u16, String)> {
        self.joined(Kind::Participant).collect()
    }

    /// The endpoint of every coordinator, as `--endpoint` takes them.
    pub fn coordinators(&self) -> Vec<String> {
        self.joined(Kind::Coordinator).map(|(_, endpoint)| endpoint).collect()
    }

    fn joined(&self, kind: Kind) -> impl Iterator<Item = (u16, String)> {
        let join =
            |nodes: Vec<&Node>| nodes.iter().map(|node| node.endpoint.as_str()).collect::<Vec<_>>().join("+");
        self.groups(kind).into_iter().map(move |(number, nodes)| (number, join(nodes)))
    }
}

impl Node {
    /// The group that it is of.
    pub const fn group_id(&self) -> GroupId {
        match self.kind {
            Kind::Coordinator => GroupId::Coordinator(Partition(self.group)),
            Kind::Participant => GroupId::Shard(ParticipantId(self.group)),
        }
    }

    fn check(&self) -> Result<(), String> {
        let Self { name, endpoint, .. } = self;
        let is_file_name = !name.starts_with('.') && !name.is_empty();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if !is_file_name || !name.bytes().all(plain) {
            return Err(format!("the name '{name}' must be of letters, digits, '-', '_' and '.'"));
        }
        Endpoint::parse(endpoint).map_err(|error| format!("{name}: {error}"))?;
        if self.replica == Some(0) {
            return Err(format!("{name}: replicas are numbered from 1"));
        }
        if self.kind == Kind::Participant && self.group >= SLOTS {
            return Err(format!("{name}: shards have the numbers below {SLOTS}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "cluster_id = '0123456789abcdef0123456789abcdef'\n";

    fn node(name: &str, kind: &str, group: u16, replica: &str, endpoint: &str) -> String {
        let replica = if replica.is_empty() { String::new() } else { format!("replica = {replica}\n") };
        format!(
            "[[node]]\nname = '{name}'\nkind = '{kind}'\ngroup = {group}\n{replica}listen = '127.0.0.1:1'\n\
             endpoint = '{endpoint}'\n"
        )
    }

    /// One coordinator, and shard 0 with two replicas.
    fn text() -> String {
        let nodes = [
            node("c", "coordinator", 0, "", "http://a:1"),
            node("s.2", "participant", 0, "2", "http://c:2"),
            node("s.1", "participant", 0, "1", "http://b:2"),
        ];
        format!("{ID}{}", nodes.concat())
    }

    fn refusal(text: &str) -> String {
        ClusterFile::parse(text).unwrap_err()
    }

    #[test]
    fn everybody_finds_everybody() {
        let file = ClusterFile::parse(&text()).unwrap();
        assert_eq!(file.shards(), [(0, "http://b:2+http://c:2".to_owned())]);
        assert_eq!(file.coordinators(), ["http://a:1"]);
        let replica = file.node("s.2", Kind::Participant).unwrap();
        let members = [(1, "http://b:2".to_owned()), (2, "http://c:2".to_owned())].into();
        assert_eq!(file.replication(replica), Some(Replication::new(2, members, false)));
        let alone = file.node("c", Kind::Coordinator).unwrap();
        assert_eq!(file.replication(alone), None);
    }

    #[test]
    fn a_name_that_is_none_or_of_another_kind_is_told() {
        let file = ClusterFile::parse(&text()).unwrap();
        let stranger = file.node("s.3", Kind::Participant).unwrap_err().message;
        assert!(stranger.contains("no 's.3'") && stranger.contains("c, s.2, s.1"), "{stranger}");
        let other = file.node("c", Kind::Participant).unwrap_err().message;
        assert!(other.contains("escrow coordinator runs it"), "{other}");
    }

    #[test]
    fn a_file_is_written_as_it_is_read() {
        let slots = "[slots]\n0-4095 = 0\n";
        for text in [text(), text() + slots] {
            let file = ClusterFile::parse(&text).unwrap();
            assert_eq!(ClusterFile::parse(&toml::to_string(&file).unwrap()).unwrap(), file);
        }
    }

    #[test]
    fn what_cannot_work_is_named() {
        let with = |more: &str| refusal(&(text() + more));
        let shard =
            |name, group, replica, endpoint| with(&node(name, "participant", group, replica, endpoint));
        for (message, part) in [
            (refusal("cluster_id = 'x'\nnode = []"), "not 32 hex digits"),
            (refusal(&format!("{ID}node = []")), "no node of kind coordinator"),
            (
                refusal(&format!("{ID}{}", node("c", "coordinator", 0, "", "http://a:1"))),
                "no node of kind participant",
            ),
            (shard("s.1", 1, "", "http://d:1"), "'s.1' is given to two nodes"),
            (shard("x", 1, "", "http://c:2/"), "endpoint of another node"),
            (shard("x", 0, "2", "http://d:1"), "participant 0: two nodes are the same replica"),
            (shard("x", 0, "", "http://d:1"), "participant 0: each of its nodes needs the number"),
            (shard("x", 1, "0", "http://d:1"), "numbered from 1"),
            (shard("x", 4096, "", "http://d:1"), "below 4096"),
            (shard("x", 1, "", "d:1"), "is not an endpoint"),
            (shard("x", 1, "", "http://d:1+http://e:1"), "is not an endpoint"),
            (shard("../x", 1, "", "http://d:1"), "must be of letters"),
            (shard("", 1, "", "http://d:1"), "must be of letters"),
            (with(&node("x", "coordinator", 2, "", "http://d:1")), "there is no 1"),
            (with("[slots]\n0-2047 = 0\n"), "slot 2048 is given to no shard"),
            (with("[slots]\n0-4095 = 1\n"), "shard 1, which is none"),
            (with("[slots]\nx = 0\n"), "'x' is not a run of slots"),
            (with(&node("x", "witness", 1, "", "http://d:1")), "unknown variant `witness`"),
            (with("[[nodes]]\n"), "unknown field `nodes`"),
        ] {
            assert!(message.contains(part), "'{part}' is missing: {message}");
        }
    }
}
