//! Whose directory it is: `identity.json`, written before anything else, so that no other kind of data is ever taken
//! for a participant's, nor one cluster's or one log's for another's.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use escrow_journal::storage::{Disk, durable_replace, read_all};
use escrow_replica::Replication;
use serde::{Deserialize, Serialize};

use crate::error::ParticipantError;

const FORMAT: u32 = 1;
const KIND: &str = "escrow-participant";
const FILE: &str = "identity.json";

/// The content of `identity.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Content {
    format: u32,
    kind: String,
    /// The shards whose log this is.
    shards: Vec<u16>,
    /// The cluster that is served: 32 hex digits, learnt from the first hello that names one.
    cluster_id: Option<String>,
    /// The journal beside it: 32 hex digits, learnt when it was made.
    journal_id: Option<String>,
    /// Which member this is of its groups, if they are replicated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replica: Option<Membership>,
}

/// Which member of its groups a directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Membership {
    /// The number of the process.
    pub(crate) number: u32,
    /// 0 for a first member; drawn at random by one that came later, or has lost its disk.
    pub(crate) life: u32,
}

impl Membership {
    /// Of an empty directory.
    fn of(disk: &dyn Disk, replication: &Replication) -> std::io::Result<Self> {
        let life = if replication.found { 0 } else { (disk.entropy()? as u32).max(1) };
        Ok(Self { number: replication.number, life })
    }
}

/// The identity of an open data directory.
pub(crate) struct Identity {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    // Held during a write, which happens once in a cluster's life.
    content: Mutex<Content>,
}

impl Identity {
    /// Reads the identity of a directory; an empty directory gets one. The directory is locked already.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        shards: &[u16],
        replication: Option<&Replication>,
    ) -> Result<Self, ParticipantError> {
        let path = dir.join(FILE);
        let foreign = |why: String| ParticipantError::Foreign { path: dir.to_owned(), why };
        let content = if let Some(bytes) = read_all(&*disk, &path).map_err(ParticipantError::file(&path))? {
            // The kind first: another server's file has other fields.
            let value: serde_json::Value = serde_json::from_slice(&bytes)
                .map_err(|error| foreign(format!("{FILE} cannot be read ({error})")))?;
            let kind = value.get("kind").and_then(serde_json::Value::as_str).unwrap_or("nothing known");
            if kind != KIND {
                return Err(foreign(format!("it belongs to '{kind}'")));
            }
            let content: Content = serde_json::from_value(value)
                .map_err(|error| foreign(format!("{FILE} cannot be read ({error})")))?;
            if content.format != FORMAT {
                let format = content.format;
                return Err(foreign(format!("it has format {format}, this version knows {FORMAT}")));
            }
            if content.shards != shards {
                let held = &content.shards;
                return Err(foreign(format!("it holds the shards {held:?}, not {shards:?}")));
            }
            match (content.replica, replication.map(|replication| replication.number)) {
                (None, None) => {}
                (Some(held), Some(number)) if held.number == number => {}
                (Some(held), Some(number)) => {
                    return Err(foreign(format!("it is replica {}, not {number}", held.number)));
                }
                (Some(_), None) => {
                    return Err(foreign("it belongs to a replica, and is used without replication".into()));
                }
                (None, Some(_)) => return Err(foreign("it was used without replication".into())),
            }
            content
        } else {
            let names = disk.list(dir).map_err(ParticipantError::file(dir))?;
            if let Some(stranger) = names.iter().find(|name| !name.starts_with(FILE) && *name != "lock") {
                return Err(foreign(format!("it has no {FILE}, but holds '{stranger}'")));
            }
            let (kind, shards) = (KIND.to_owned(), shards.to_vec());
            let replica = replication.map(|replication| Membership::of(&*disk, replication)).transpose();
            let replica = replica.map_err(ParticipantError::file(dir))?;
            let content =
                Content { format: FORMAT, kind, shards, cluster_id: None, journal_id: None, replica };
            write(&*disk, dir, &content)?;
            content
        };
        Ok(Self { disk, dir: dir.to_owned(), content: Mutex::new(content) })
    }

    /// Of a replica that is restored: its life was drawn by whoever restores, since the other members must know it.
    pub(crate) fn restore(
        disk: &dyn Disk,
        dir: &Path,
        shards: Vec<u16>,
        cluster_id: &str,
        replica: Membership,
        journal_id: u128,
    ) -> Result<(), ParticipantError> {
        let content = Content {
            format: FORMAT,
            kind: KIND.to_owned(),
            shards,
            cluster_id: Some(cluster_id.to_owned()),
            journal_id: Some(format!("{journal_id:032x}")),
            replica: Some(replica),
        };
        write(disk, dir, &content)
    }

    /// The shards of a directory, and which member of its groups it is, if it is of a replica of a participant.
    pub(crate) fn peek(disk: &dyn Disk, dir: &Path) -> Result<(Vec<u16>, Membership), ParticipantError> {
        let path = dir.join(FILE);
        let foreign = |why: String| ParticipantError::Foreign { path: dir.to_owned(), why };
        let bytes = read_all(disk, &path).map_err(ParticipantError::file(&path))?;
        let bytes = bytes.ok_or_else(|| foreign(format!("it has no {FILE}")))?;
        let content: Content = serde_json::from_slice(&bytes)
            .map_err(|error| foreign(format!("{FILE} cannot be read ({error})")))?;
        let replica = content.replica.ok_or_else(|| foreign("it was used without replication".into()))?;
        Ok((content.shards, replica))
    }

    /// Says which journal lies beside it; refuses another than before.
    pub(crate) fn confirm_journal(&self, journal_id: u128) -> Result<(), ParticipantError> {
        let text = format!("{journal_id:032x}");
        let mut content = self.lock();
        match &content.journal_id {
            Some(known) if *known == text => Ok(()),
            Some(known) => {
                let why = format!("its journal was {known}, but there is {text}");
                Err(ParticipantError::Foreign { path: self.dir.clone(), why })
            }
            None => {
                content.journal_id = Some(text);
                write(&*self.disk, &self.dir, &content)
            }
        }
    }

    /// Which member of its groups this is.
    pub(crate) fn replica(&self) -> Option<Membership> {
        self.lock().replica
    }

    /// The cluster that is served, once known.
    pub(crate) fn cluster_id(&self) -> Option<String> {
        self.lock().cluster_id.clone()
    }

    /// Serves this cluster from now on, durably; or says which other one it serves.
    pub(crate) fn confirm_cluster(&self, cluster_id: &str) -> Result<Result<(), String>, ParticipantError> {
        let mut content = self.lock();
        match &content.cluster_id {
            Some(known) if known == cluster_id => Ok(Ok(())),
            Some(known) => Ok(Err(known.clone())),
            None => {
                content.cluster_id = Some(cluster_id.to_owned());
                write(&*self.disk, &self.dir, &content).map(Ok)
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Content> {
        self.content.lock().expect("a panic while it is held ends the process")
    }
}

fn write(disk: &dyn Disk, dir: &Path, content: &Content) -> Result<(), ParticipantError> {
    let path = dir.join(FILE);
    let bytes = serde_json::to_vec_pretty(content).expect("plain data");
    durable_replace(disk, &path, &bytes).map_err(ParticipantError::file(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use escrow_journal::storage::OsDisk;

    fn open(dir: &Path, shards: &[u16]) -> Result<Identity, ParticipantError> {
        Identity::open(OsDisk::shared(), dir, shards, None)
    }

    fn refused(dir: &Path, shards: &[u16]) -> String {
        open(dir, shards).err().unwrap().to_string()
    }

    #[test]
    fn a_directory_keeps_its_identity() {
        let dir = tempfile::tempdir().unwrap();
        let identity = open(dir.path(), &[1, 2]).unwrap();
        identity.confirm_journal(7).unwrap();
        identity.confirm_cluster("aa").unwrap().unwrap();
        let again = open(dir.path(), &[1, 2]).unwrap();
        assert_eq!(again.cluster_id().as_deref(), Some("aa"));
        again.confirm_journal(7).unwrap();
        assert!(again.confirm_journal(8).is_err());
        assert_eq!(again.confirm_cluster("bb").unwrap(), Err("aa".to_owned()));
        assert!(refused(dir.path(), &[1]).contains("holds the shards [1, 2]"));
    }

    #[test]
    fn foreign_directories_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("holiday.jpg"), "x").unwrap();
        assert!(refused(dir.path(), &[0]).contains("holiday.jpg"));

        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), r#"{"kind":"escrow-coordinator","format":1}"#).unwrap();
        assert!(refused(dir.path(), &[0]).contains("escrow-coordinator"));

        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        assert!(refused(dir.path(), &[0]).contains("cannot be read"));
    }
}
