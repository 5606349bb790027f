//! `escrow cluster init`: a cluster file for several machines.
//!
//! **Invariant:** no two replicas of a group are on one host.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use escrow_cluster::{NodeId, Role, Spec, check_replicas};
use uuid::Uuid;

use crate::cluster_file::{ClusterFile, Kind, Node};
use crate::exit::{Exit, Failure};
use crate::output::Output;

/// `escrow cluster init`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many wallet shards
    #[arg(long, default_value_t = 2, value_name = "N")]
    shards: u16,
    /// How many coordinators
    #[arg(long, default_value_t = 1, value_name = "N")]
    coordinators: u16,
    /// How many replicas each shard and each coordinator has: 1, 3, 5 or 7
    #[arg(long, default_value_t = 3, value_name = "N")]
    replicas: u16,
    /// A machine, by its name or address; repeated, at least as many as there are replicas
    #[arg(long = "host", value_name = "HOST", required = true)]
    hosts: Vec<String>,
    /// The first port: coordinators listen on it and those after it, participants from ten above
    #[arg(long, default_value_t = 7400, value_name = "P")]
    base_port: u16,
}

pub(super) fn run(args: Args, output: &Output) -> Result<Exit, Failure> {
    let file = args.file()?;
    output.json(&file);
    if !output.is_json() {
        let text = toml::to_string(&file)
            .map_err(|error| Failure::internal(format!("the file cannot be written: {error}")))?;
        output.raw(&format!("{}\n{text}", heading(&file)));
    }
    Ok(Exit::Ok)
}

fn heading(file: &ClusterFile) -> String {
    let participant = file.node.iter().find(|node| node.kind == Kind::Participant);
    let name = participant.map_or("", |node| node.name.as_str());
    let found = match participant.and_then(|node| node.replica) {
        Some(_) => "# for the first time with --found, and never with it again.\n",
        None => "",
    };
    format!(
        "# A cluster on several machines: the same file on each of them. A server is started on its machine by\n\
         #   escrow participant --cluster-file cluster.toml --node {name}\n\
         {found}# Callers use\n\
         #   --endpoint {}\n",
        file.coordinators().join(",")
    )
}

impl Args {
    fn file(self) -> Result<ClusterFile, Failure> {
        self.check()?;
        let spec = Spec {
            participants: self.shards,
            coordinators: self.coordinators,
            replicas: self.replicas,
            base_port: self.base_port,
            ..Spec::new("")?
        };
        let mut node = Vec::new();
        for (turn, group) in spec.groups().enumerate() {
            // Every group begins at another host, so that none has more than its share.
            for (at, id) in spec.replicas_of(group).enumerate() {
                let host = &self.hosts[(turn + at) % self.hosts.len()];
                node.push(self.node(id, host)?);
            }
        }
        node.sort_by(|one, other| {
            (one.kind, one.group, one.replica).cmp(&(other.kind, other.group, other.replica))
        });
        let file = ClusterFile {
            cluster_id: Uuid::now_v7().simple().to_string(),
            node,
            slots: escrow_coordinator::config::Slots::default(),
        };
        file.check().map_err(Failure::bad_input)?;
        Ok(file)
    }

    fn check(&self) -> Result<(), Failure> {
        check_replicas(self.replicas)?;
        if !(1..=10).contains(&self.coordinators) {
            return Err(Failure::bad_input("--coordinators takes 1 to 10"));
        }
        if self.shards == 0 {
            return Err(Failure::bad_input("--shards takes at least 1"));
        }
        for (at, host) in self.hosts.iter().enumerate() {
            if self.hosts[..at].contains(host) {
                return Err(Failure::bad_input(format!("--host {host} is given twice")));
            }
            let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            if host.parse::<IpAddr>().is_err() && (host.is_empty() || !host.bytes().all(is_name)) {
                return Err(Failure::bad_input(format!("--host '{host}' is not a name or an address")));
            }
        }
        if self.hosts.len() < usize::from(self.replicas) {
            return Err(Failure::bad_input(format!(
                "--replicas {} needs as many hosts: two replicas of a group on one host would be lost together",
                self.replicas
            )));
        }
        Ok(())
    }

    fn node(&self, id: NodeId, host: &str) -> Result<Node, Failure> {
        let (kind, offset) = match id.role {
            Role::Coordinator => (Kind::Coordinator, id.number),
            Role::Participant => (Kind::Participant, 10u16.saturating_add(id.number)),
        };
        let port = self.base_port.checked_add(offset).filter(|_| self.base_port != 0).ok_or_else(|| {
            Failure::bad_input(format!("--base-port {}: there is no port for {id}", self.base_port))
        })?;
        let address = host.parse::<IpAddr>().ok();
        let listen = SocketAddr::new(address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), port);
        let endpoint = match address {
            Some(_) => format!("http://{listen}"),
            None => format!("http://{host}:{port}"),
        };
        let replica = (id.replica != 0).then_some(u32::from(id.replica));
        Ok(Node { name: id.to_string(), kind, group: id.number, replica, listen, endpoint })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn args(shards: u16, replicas: u16, hosts: &[&str]) -> Args {
        let hosts = hosts.iter().map(|&host| host.to_owned()).collect();
        Args { shards, coordinators: 1, replicas, hosts, base_port: 7_400 }
    }

    fn host(node: &Node) -> String {
        node.endpoint.rsplit_once(':').unwrap().0.to_owned()
    }

    #[test]
    fn no_two_replicas_of_a_group_share_a_host_and_hosts_share_the_work() {
        for hosts in [&["a", "b", "c"][..], &["a", "b", "c", "d", "e"]] {
            let file = args(8, 3, hosts).file().unwrap();
            let mut of_group: BTreeMap<(Kind, u16), BTreeSet<String>> = BTreeMap::new();
            let mut of_host: BTreeMap<String, usize> = BTreeMap::new();
            for node in &file.node {
                assert!(of_group.entry((node.kind, node.group)).or_default().insert(host(node)), "{node:?}");
                *of_host.entry(host(node)).or_default() += 1;
            }
            assert_eq!((of_group.len(), of_host.len()), (9, hosts.len()));
            let (most, least) = (of_host.values().max().unwrap(), of_host.values().min().unwrap());
            assert!(most - least <= 2, "{of_host:?}");
        }
    }

    #[test]
    fn servers_are_named_and_placed_as_up_does() {
        let file = args(2, 3, &["a", "10.0.0.2", "::1"]).file().unwrap();
        let name_and_endpoint: Vec<(&str, &str)> =
            file.node.iter().map(|node| (node.name.as_str(), node.endpoint.as_str())).collect();
        assert_eq!(
            name_and_endpoint[..4],
            [
                ("coordinator-0.1", "http://[::1]:7400"),
                ("coordinator-0.2", "http://a:7400"),
                ("coordinator-0.3", "http://10.0.0.2:7400"),
                ("participant-0.1", "http://a:7410"),
            ]
        );
        // A name may have any address; an address is that of the machine.
        assert_eq!(file.node[1].listen.to_string(), "0.0.0.0:7400");
        assert_eq!(file.node[2].listen.to_string(), "10.0.0.2:7400");
        let single = args(1, 1, &["a"]).file().unwrap();
        assert_eq!((single.node[1].name.as_str(), single.node[1].replica), ("participant-0", None));
    }

    #[test]
    fn what_cannot_be_placed_is_refused_by_name() {
        let refusal = |args: Args| args.file().unwrap_err().message;
        for (args, part) in [
            (args(2, 3, &["a", "b"]), "would be lost together"),
            (args(2, 3, &["a", "b", "a"]), "--host a is given twice"),
            (args(2, 1, &["a b"]), "not a name"),
            (args(2, 1, &["a+b"]), "not a name"),
            (args(2, 1, &[""]), "not a name"),
            (args(2, 2, &["a", "b"]), "take 1 or 3"),
            (args(0, 1, &["a"]), "--shards"),
            (args(5_000, 1, &["a"]), "below 4096"),
            (Args { coordinators: 11, ..args(1, 1, &["a"]) }, "--coordinators"),
            (Args { base_port: 65_530, ..args(1, 1, &["a"]) }, "no port for participant-0"),
            (Args { base_port: 0, ..args(1, 1, &["a"]) }, "no port for"),
        ] {
            let message = refusal(args);
            assert!(message.contains(part), "'{part}' is missing: {message}");
        }
    }
}
