//! The files of a cluster: its lock, its topology, its manifest.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::arguments::joined;
use crate::error::{ClusterError, at};
use crate::spec::{NodeId, Spec};

const LOCK: &str = "LOCK";
const TOPOLOGY: &str = "topology.json";
const MANIFEST: &str = "cluster.json";
/// There while a data directory is being filled from a backup: half of it must not be started.
const RESTORING: &str = "restoring";

/// `cluster.json`: where the processes are, kept current over restarts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// In order of their partitions.
    pub coordinators: Vec<ManifestEntry>,
    /// In order of their shards.
    pub participants: Vec<ManifestEntry>,
}

/// One process in `cluster.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestEntry {
    /// Partition or shard.
    pub id: u16,
    /// Which replica of it, from 1; absent in a cluster without replicas.
    #[serde(default, skip_serializing_if = "is_default")]
    pub replica: u16,
    /// `null` while it is down and not about to be started at once.
    pub pid: Option<u32>,
    /// Where it listens, over all its restarts.
    pub endpoint: String,
}

impl Manifest {
    /// Reads it from a data directory; `None` while no cluster runs there.
    pub fn read(data_dir: &Path) -> Result<Option<Self>, ClusterError> {
        read_json(&data_dir.join(MANIFEST))
    }

    /// Where the coordinators listen, one endpoint a partition: its replicas are joined by `+`.
    pub fn coordinator_endpoints(&self) -> Vec<String> {
        endpoints(&self.coordinators)
    }

    /// Where the participants listen, one endpoint a shard: its replicas are joined by `+`.
    pub fn participant_endpoints(&self) -> Vec<String> {
        endpoints(&self.participants)
    }

    pub(crate) fn write(&self, data_dir: &Path) -> Result<(), ClusterError> {
        write_json(data_dir, MANIFEST, self)
    }

    /// Takes it away: nothing runs there any more.
    pub(crate) fn remove(data_dir: &Path) {
        // It may be missing; and a stale one is replaced by the next start.
        let _ = fs::remove_file(data_dir.join(MANIFEST));
    }
}

fn endpoints(entries: &[ManifestEntry]) -> Vec<String> {
    let replicas = entries.chunk_by(|one, next| one.id == next.id);
    replicas.map(|replicas| joined(replicas.iter().map(|entry| entry.endpoint.clone()))).collect()
}

/// `topology.json`: what a data directory was made with, and what must be remembered over the ends of its supervisors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Topology {
    coordinators: u16,
    participants: u16,
    #[serde(default = "one", skip_serializing_if = "is_one")]
    replicas: u16,
    /// All coordinators of a cluster bear it, and participants serve no other: 32 hex digits.
    cluster_id: String,
    /// With replicas: everything was ready once, so that the groups are there.
    #[serde(default, skip_serializing_if = "is_default")]
    founded: bool,
    /// With replicas on free ports: which, by the names of the processes.
    #[serde(default, skip_serializing_if = "is_default")]
    ports: BTreeMap<String, u16>,
}

fn one() -> u16 {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde calls it so
fn is_one(value: &u16) -> bool {
    *value == 1
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A data directory, locked as long as this lives.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    topology: Topology,
    /// Closing the file releases the lock. Children do not inherit it.
    _lock: File,
}

impl DataDir {
    /// Makes the directory when it is missing, locks it, and checks that it belongs to a cluster of this size.
    pub(crate) fn open(spec: &Spec) -> Result<Self, ClusterError> {
        let root = &spec.data_dir;
        fs::create_dir_all(root.join("logs")).map_err(at(root))?;
        let path = root.join(LOCK);
        let mut lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(at(&path))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut text = String::new();
            // Only for the message; without the pid it still says enough.
            let _ = lock.read_to_string(&mut text);
            return Err(ClusterError::DataDirInUse { path: root.clone(), pid: text.trim().parse().ok() });
        }
        if root.join(RESTORING).exists() {
            return Err(ClusterError::Invalid(format!(
                "{} was being filled from a backup when that was broken off: remove it, and restore again",
                root.display()
            )));
        }
        lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id())).map_err(at(&path))?;
        let topology = match read_json::<Topology>(&root.join(TOPOLOGY))? {
            Some(found) => found,
            None => Topology::make(spec, root)?,
        };
        let Topology { coordinators, participants, replicas, .. } = topology;
        if (coordinators, participants, replicas) != (spec.coordinators, spec.participants, spec.replicas) {
            return Err(ClusterError::Topology { path: root.clone(), coordinators, participants, replicas });
        }
        // Left by a supervisor that was killed: its pids are history.
        Manifest::remove(root);
        Ok(Self { path: root.clone(), topology, _lock: lock })
    }

    /// Made with the directory.
    pub(crate) fn cluster_id(&self) -> &str {
        &self.topology.cluster_id
    }

    /// Whether the groups of replicas have been there once. From then on a replica without data has lost it.
    pub(crate) const fn is_founded(&self) -> bool {
        self.topology.founded
    }

    /// Remembers for ever that the groups are there.
    pub(crate) fn set_founded(&mut self) -> Result<(), ClusterError> {
        self.change(|topology| topology.founded = true)
    }

    /// The ports that were chosen before.
    pub(crate) fn ports(&self, spec: &Spec) -> BTreeMap<NodeId, u16> {
        let remembered = |node: NodeId| self.topology.ports.get(&node.to_string()).map(|&port| (node, port));
        spec.nodes().filter_map(remembered).collect()
    }

    /// Remembers the ports that are chosen now.
    pub(crate) fn set_ports(&mut self, ports: &BTreeMap<NodeId, u16>) -> Result<(), ClusterError> {
        let ports = ports.iter().map(|(node, &port)| (node.to_string(), port)).collect();
        self.change(|topology| topology.ports = ports)
    }

    fn change(&mut self, change: impl FnOnce(&mut Topology)) -> Result<(), ClusterError> {
        let mut topology = self.topology.clone();
        change(&mut topology);
        if topology != self.topology {
            write_json(&self.path, TOPOLOGY, &topology)?;
            self.topology = topology;
        }
        Ok(())
    }
}

impl Topology {
    /// Makes it for a new directory.
    fn make(spec: &Spec, root: &Path) -> Result<Self, ClusterError> {
        let topology = Self {
            coordinators: spec.coordinators,
            participants: spec.participants,
            replicas: spec.replicas,
            cluster_id: uuid::Uuid::now_v7().simple().to_string(),
            founded: false,
            ports: BTreeMap::new(),
        };
        write_json(root, TOPOLOGY, &topology)?;
        Ok(topology)
    }
}

/// A data directory that is being filled from a backup. Dropping it takes away what was made of it.
#[derive(Debug)]
pub struct Restoring {
    path: PathBuf,
    made: Vec<PathBuf>,
    is_finished: bool,
}

impl Restoring {
    /// Begins with a directory that is empty, or not there yet.
    pub fn begin(data_dir: &Path) -> Result<Self, ClusterError> {
        begin_empty(data_dir)?;
        let marker = data_dir.join(RESTORING);
        File::create_new(&marker).map_err(at(&marker))?;
        // Before anything else is there.
        sync_dir(data_dir).map_err(at(data_dir))?;
        Ok(Self { path: data_dir.to_owned(), made: Vec::new(), is_finished: false })
    }

    /// The data directory of a process, to be made now.
    pub fn node_dir(&mut self, name: &str) -> PathBuf {
        let dir = self.path.join(name);
        self.made.push(dir.clone());
        dir
    }

    /// Everything is there, for servers that are started one by one.
    pub fn finish(mut self) -> Result<(), ClusterError> {
        let marker = self.path.join(RESTORING);
        sync_dir(&self.path).map_err(at(&self.path))?;
        fs::remove_file(&marker).map_err(at(&marker))?;
        self.is_finished = true;
        sync_dir(&self.path).map_err(at(&self.path))
    }

    /// Everything is there: `escrow up` finds a cluster of this size. Its groups are there already, so that none is founded again.
    pub fn finish_for_up(self, spec: &Spec, cluster_id: &str) -> Result<(), ClusterError> {
        let topology = Topology {
            coordinators: spec.coordinators,
            participants: spec.participants,
            replicas: spec.replicas,
            cluster_id: cluster_id.to_owned(),
            founded: true,
            ports: BTreeMap::new(),
        };
        write_json(&self.path, TOPOLOGY, &topology)?;
        self.finish()
    }
}

impl Drop for Restoring {
    fn drop(&mut self) {
        if self.is_finished {
            return;
        }
        // What cannot be removed stays with the mark that it is no cluster.
        let removed = self.made.iter().filter(|dir| dir.exists()).try_for_each(fs::remove_dir_all);
        if removed.is_ok() {
            let _ = fs::remove_file(self.path.join(TOPOLOGY));
            let _ = fs::remove_file(self.path.join(RESTORING));
        }
    }
}

/// Makes a directory, durably, or takes one that is empty; refuses any other.
pub fn begin_empty(dir: &Path) -> Result<(), ClusterError> {
    fs::create_dir_all(dir).map_err(at(dir))?;
    let stranger = fs::read_dir(dir).map_err(at(dir))?.next().transpose();
    if let Some(stranger) = stranger.map_err(at(dir))? {
        return Err(ClusterError::Invalid(format!(
            "{} is not empty: it holds '{}'",
            dir.display(),
            stranger.file_name().to_string_lossy()
        )));
    }
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    sync_dir(parent).map_err(at(parent))
}

fn sync_dir(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}

/// How many coordinators, participants and replicas a data directory was made with; `None` if it is none of `escrow up`.
pub fn size_of(data_dir: &Path) -> Result<Option<(u16, u16, u16)>, ClusterError> {
    let topology = read_json::<Topology>(&data_dir.join(TOPOLOGY))?;
    Ok(topology.map(|topology| (topology.coordinators, topology.participants, topology.replicas)))
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ClusterError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at(path)(error)),
    };
    serde_json::from_str(&text).map(Some).map_err(|error| at(path)(error.into()))
}

/// Replaces a file whole: a reader sees the old or the new one, also after a crash.
fn write_json(directory: &Path, name: &str, value: &impl Serialize) -> Result<(), ClusterError> {
    let (path, temporary) = (directory.join(name), directory.join(format!("{name}.tmp")));
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(serde_json::to_string_pretty(value)?.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        File::open(directory)?.sync_all()
    };
    write().map_err(at(&path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(directory: &Path) -> Spec {
        Spec::new(directory).unwrap()
    }

    #[test]
    fn a_directory_in_use_is_refused_with_the_pid_of_its_user() {
        let directory = tempfile::tempdir().unwrap();
        let held = DataDir::open(&spec(directory.path())).unwrap();
        let error = DataDir::open(&spec(directory.path())).unwrap_err();
        assert!(
            matches!(error, ClusterError::DataDirInUse { pid: Some(pid), .. } if pid == std::process::id()),
            "{error}"
        );
        drop(held);
        DataDir::open(&spec(directory.path())).unwrap();
    }

    #[test]
    fn a_cluster_keeps_its_size_and_its_id() {
        let directory = tempfile::tempdir().unwrap();
        let cluster_id = DataDir::open(&spec(directory.path())).unwrap().cluster_id().to_owned();
        assert!(
            cluster_id.len() == 32 && cluster_id.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "{cluster_id}"
        );
        assert_eq!(DataDir::open(&spec(directory.path())).unwrap().cluster_id(), cluster_id);
        for other in [
            Spec { participants: 3, ..spec(directory.path()) },
            Spec { replicas: 3, ..spec(directory.path()) },
        ] {
            let error = DataDir::open(&other).unwrap_err();
            assert!(error.to_string().contains("--participants 2 --replicas 1"), "{error}");
        }
    }

    #[test]
    fn a_directory_of_before_there_were_replicas_has_one_of_each() {
        let directory = tempfile::tempdir().unwrap();
        let before = r#"{"coordinators":1,"participants":2,"cluster_id":"0123456789abcdef0123456789abcdef"}"#;
        fs::write(directory.path().join(TOPOLOGY), before).unwrap();
        let held = DataDir::open(&spec(directory.path())).unwrap();
        assert_eq!(held.topology.replicas, 1);
        // And a new one without replicas looks the same.
        let written: serde_json::Value = serde_json::to_value(&held.topology).unwrap();
        assert_eq!(written, serde_json::from_str::<serde_json::Value>(before).unwrap());
    }

    #[test]
    fn foundation_and_ports_are_remembered() {
        let directory = tempfile::tempdir().unwrap();
        let spec = Spec { replicas: 3, ..spec(directory.path()) };
        let mut held = DataDir::open(&spec).unwrap();
        assert!(!held.is_founded() && held.ports(&spec).is_empty());
        let ports: BTreeMap<NodeId, u16> = spec.nodes().zip(10_000..).collect();
        held.set_ports(&ports).unwrap();
        drop(held);
        let mut held = DataDir::open(&spec).unwrap();
        assert!(!held.is_founded(), "not every start gets so far");
        assert_eq!(held.ports(&spec), ports);
        held.set_founded().unwrap();
        drop(held);
        let held = DataDir::open(&spec).unwrap();
        assert!(held.is_founded());
        assert_eq!(held.ports(&spec), ports);
    }

    #[test]
    fn the_manifest_has_the_fields_of_the_contract() {
        let entry = |id, pid, port| ManifestEntry {
            id,
            replica: 0,
            pid,
            endpoint: format!("http://127.0.0.1:{port}"),
        };
        let manifest = Manifest {
            coordinators: vec![entry(0, Some(41), 7400)],
            participants: vec![entry(0, None, 7410)],
        };
        let directory = tempfile::tempdir().unwrap();
        manifest.write(directory.path()).unwrap();
        assert_eq!(Manifest::read(directory.path()).unwrap(), Some(manifest));
        let text = fs::read_to_string(directory.path().join(MANIFEST)).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["coordinators"][0]["pid"], 41);
        assert_eq!(value["participants"][0]["endpoint"], "http://127.0.0.1:7410");
        assert!(value["participants"][0].get("replica").is_none(), "there are none: {value}");
        Manifest::remove(directory.path());
        assert_eq!(Manifest::read(directory.path()).unwrap(), None);
    }
    #[test]
    fn replicas_are_one_endpoint() {
        let entry = |id, replica, port| ManifestEntry {
            id,
            replica,
            pid: None,
            endpoint: format!("http://127.0.0.1:{port}"),
        };
        let manifest = Manifest {
            coordinators: vec![entry(0, 1, 1), entry(0, 2, 2), entry(1, 1, 3), entry(1, 2, 4)],
            participants: vec![entry(0, 0, 5), entry(1, 0, 6)],
        };
        let coordinators = ["http://127.0.0.1:1+http://127.0.0.1:2", "http://127.0.0.1:3+http://127.0.0.1:4"];
        assert_eq!(manifest.coordinator_endpoints(), coordinators);
        assert_eq!(manifest.participant_endpoints(), ["http://127.0.0.1:5", "http://127.0.0.1:6"]);
        let value = serde_json::to_value(&manifest).unwrap();
        assert_eq!(value["coordinators"][1]["replica"], 2);
    }

    #[test]
    fn a_directory_is_filled_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let (root, spec) = (directory.path().join("new"), Spec { replicas: 3, ..spec(directory.path()) });
        let spec = Spec { data_dir: root.clone(), ..spec };
        let mut restoring = Restoring::begin(&root).unwrap();
        let error = Restoring::begin(&root).unwrap_err().to_string();
        assert!(error.contains("is not empty: it holds 'restoring'"), "{error}");
        fs::create_dir(restoring.node_dir("participant-0.1")).unwrap();
        let error = DataDir::open(&spec).unwrap_err().to_string();
        assert!(error.contains("remove it, and restore again"), "{error}");
        fs::remove_dir_all(root.join("logs")).unwrap();
        fs::remove_file(root.join(LOCK)).unwrap();
        drop(restoring);
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0, "nothing is left of it");

        let mut restoring = Restoring::begin(&root).unwrap();
        fs::create_dir(restoring.node_dir("participant-0.1")).unwrap();
        restoring.finish_for_up(&spec, "0123456789abcdef0123456789abcdef").unwrap();
        assert!(root.join("participant-0.1").is_dir());
        assert_eq!(size_of(&root).unwrap(), Some((1, 2, 3)));
        let held = DataDir::open(&spec).unwrap();
        assert!(held.is_founded(), "a member whose disk is lost must not found a group");
        assert_eq!(held.cluster_id(), "0123456789abcdef0123456789abcdef");
        assert_eq!(size_of(directory.path()).unwrap(), None);
    }
}
