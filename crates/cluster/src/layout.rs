//! The files of a cluster: its lock, its topology, its manifest.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::error::{ClusterError, at};
use crate::spec::Spec;

const LOCK: &str = "LOCK";
const TOPOLOGY: &str = "topology.json";
const MANIFEST: &str = "cluster.json";

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

    pub(crate) fn write(&self, data_dir: &Path) -> Result<(), ClusterError> {
        write_json(data_dir, MANIFEST, self)
    }

    /// Takes it away: nothing runs there any more.
    pub(crate) fn remove(data_dir: &Path) {
        // It may be missing; and a stale one is replaced by the next start.
        let _ = fs::remove_file(data_dir.join(MANIFEST));
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Topology {
    coordinators: u16,
    participants: u16,
    /// All coordinators of a cluster bear it, and participants serve no other: 32 hex digits.
    cluster_id: String,
}

/// The lock on a data directory; held as long as this lives.
#[derive(Debug)]
pub(crate) struct DataDir {
    /// Made with the directory.
    pub(crate) cluster_id: String,
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
        lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id())).map_err(at(&path))?;
        let topology = match read_json::<Topology>(&root.join(TOPOLOGY))? {
            Some(found) => found,
            None => Topology::make(spec, root)?,
        };
        let Topology { coordinators, participants, cluster_id } = topology;
        if (coordinators, participants) != (spec.coordinators, spec.participants) {
            return Err(ClusterError::Topology { path: root.clone(), coordinators, participants });
        }
        // Left by a supervisor that was killed: its pids are history.
        Manifest::remove(root);
        Ok(Self { cluster_id, _lock: lock })
    }
}

impl Topology {
    /// Makes it for a new directory.
    fn make(spec: &Spec, root: &Path) -> Result<Self, ClusterError> {
        let cluster_id = uuid::Uuid::now_v7().simple().to_string();
        let topology = Self { coordinators: spec.coordinators, participants: spec.participants, cluster_id };
        write_json(root, TOPOLOGY, &topology)?;
        Ok(topology)
    }
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
        let cluster_id = DataDir::open(&spec(directory.path())).unwrap().cluster_id;
        assert!(
            cluster_id.len() == 32 && cluster_id.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "{cluster_id}"
        );
        assert_eq!(DataDir::open(&spec(directory.path())).unwrap().cluster_id, cluster_id);
        let other = Spec { participants: 3, ..spec(directory.path()) };
        let error = DataDir::open(&other).unwrap_err();
        assert!(error.to_string().contains("--participants 2"), "{error}");
    }

    #[test]
    fn the_manifest_has_the_fields_of_the_contract() {
        let entry = |id, pid, port| ManifestEntry { id, pid, endpoint: format!("http://127.0.0.1:{port}") };
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
        Manifest::remove(directory.path());
        assert_eq!(Manifest::read(directory.path()).unwrap(), None);
    }
}
