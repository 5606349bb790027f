//! Which processes of this machine are the servers that a run loads, so that their CPU and memory can be told.
//!
//! A manifest of `escrow up` knows pids. A cluster file and a coordinator know endpoints: the process is the one that listens
//! there, if that is an address of this machine.

use std::net::{IpAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use escrow_client::Client;
use escrow_cluster::{Manifest, ManifestEntry};
use escrow_grpc::Endpoint;

use crate::args::Endpoints;
use crate::bench::processes::{Target, listener};
use crate::cluster_file::ClusterFile;
use crate::exit::Failure;

/// How long the name of a machine may take to be looked up.
const LOOK_UP: Duration = Duration::from_secs(2);

/// Where to look for the servers.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct ServersArgs {
    /// Tell CPU and memory of the servers of this `escrow up`
    #[arg(long, value_name = "DIR", conflicts_with = "cluster_file")]
    data_dir: Option<PathBuf>,
    /// Tell CPU and memory of the servers of this cluster file, as far as they are on this machine
    #[arg(long, value_name = "FILE")]
    cluster_file: Option<PathBuf>,
}

impl ServersArgs {
    /// This process, the servers that can be watched, and a sentence for each that cannot.
    pub(super) async fn find(
        &self,
        client: &Client,
        endpoints: &Endpoints,
    ) -> Result<(Vec<Target>, Vec<String>), Failure> {
        let mut targets = vec![Target { name: "bench".to_owned(), pid: std::process::id() }];
        if let Some(data_dir) = &self.data_dir {
            targets.extend(of_manifest(data_dir)?);
            return Ok((targets, Vec::new()));
        }
        let servers = match &self.cluster_file {
            Some(path) => of_cluster_file(path)?,
            None => of_coordinators(client, endpoints).await?,
        };
        let mut missing = Vec::new();
        for (name, endpoint) in servers {
            match pid_at(&endpoint).await {
                // A process may serve several shards.
                Ok(pid) => match targets.iter_mut().find(|target| target.pid == pid) {
                    Some(target) => target.name = format!("{}, {name}", target.name),
                    None => targets.push(Target { name, pid }),
                },
                Err(why) => {
                    missing.push(format!("CPU and memory of {name} ({endpoint}) are not known: {why}"));
                }
            }
        }
        Ok((targets, missing))
    }
}

fn of_manifest(data_dir: &Path) -> Result<Vec<Target>, Failure> {
    let manifest = Manifest::read(data_dir)?.ok_or_else(|| {
        Failure::bad_input(format!("no cluster runs in {}: there is no cluster.json", data_dir.display()))
    })?;
    let of = |role: &str, entries: Vec<ManifestEntry>| -> Vec<Target> {
        let target = |entry: ManifestEntry| {
            Some(Target { name: numbered(role, entry.id, entry.replica), pid: entry.pid? })
        };
        entries.into_iter().filter_map(target).collect()
    };
    let mut targets = of("coordinator", manifest.coordinators);
    targets.extend(of("participant", manifest.participants));
    Ok(targets)
}

/// Names and endpoints.
fn of_cluster_file(path: &Path) -> Result<Vec<(String, String)>, Failure> {
    Ok(ClusterFile::load(path)?.node.into_iter().map(|node| (node.name, node.endpoint)).collect())
}

/// Names and endpoints of the coordinators that are loaded, and of the wallet shards that they know.
async fn of_coordinators(client: &Client, endpoints: &Endpoints) -> Result<Vec<(String, String)>, Failure> {
    let coordinators =
        endpoints.endpoint.iter().zip(0..).map(|(group, id)| ("coordinator", id, group.clone()));
    let mut groups: Vec<(&str, u16, String)> = coordinators.collect();
    let shards = client.status(0).await?.participants.into_iter().filter(|one| one.kind == "stream");
    groups.extend(shards.map(|shard| ("participant", shard.id as u16, shard.endpoint)));
    Ok(groups.into_iter().flat_map(|(role, id, group)| replicas(role, id, &group)).collect())
}

/// The replicas of an endpoint that names all of them.
fn replicas(role: &str, id: u16, group: &str) -> Vec<(String, String)> {
    let is_alone = !group.contains('+');
    let name = |replica| numbered(role, id, if is_alone { 0 } else { replica });
    (1..).zip(group.split('+')).map(|(replica, endpoint)| (name(replica), endpoint.to_owned())).collect()
}

/// `participant 1`, or `participant 1.2` of a replica.
fn numbered(role: &str, id: u16, replica: u16) -> String {
    if replica == 0 { format!("{role} {id}") } else { format!("{role} {id}.{replica}") }
}

async fn pid_at(endpoint: &str) -> Result<u32, String> {
    let endpoint = Endpoint::parse(endpoint).map_err(|error| error.to_string())?;
    let (host, port) = (endpoint.host(), endpoint.port());
    let found = tokio::time::timeout(LOOK_UP, tokio::net::lookup_host((host, port))).await;
    let addresses = found.map_err(|_| format!("{host} is not found in time"))?;
    let mut addresses = addresses.map_err(|error| format!("{host} is not found: {error}"))?;
    if !addresses.any(|address| is_of_this_machine(address.ip())) {
        return Err("it is on another machine".to_owned());
    }
    listener(port).ok_or_else(|| "no process of this user that /proc tells of listens there".to_owned())
}

/// Only an address of one's own can be bound.
fn is_of_this_machine(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_are_numbered_and_one_alone_is_not() {
        assert_eq!(
            replicas("participant", 3, "http://a:1"),
            [("participant 3".to_owned(), "http://a:1".to_owned())]
        );
        let names: Vec<String> =
            replicas("coordinator", 0, "http://a:1+http://b:1").into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["coordinator 0.1", "coordinator 0.2"]);
    }

    #[tokio::test]
    async fn a_process_is_found_only_on_this_machine() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        if cfg!(target_os = "linux") {
            assert_eq!(pid_at(&format!("http://127.0.0.1:{port}")).await, Ok(std::process::id()));
        }
        // 192.0.2.0/24 is for documentation: nobody has it.
        let elsewhere = pid_at(&format!("http://192.0.2.1:{port}")).await.unwrap_err();
        assert!(elsewhere.contains("another machine"), "{elsewhere}");
        assert!(pid_at("http://127.0.0.1").await.is_err());
    }
}
