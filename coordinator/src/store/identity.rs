//! What a data directory is, so that no other kind of data is ever taken for a coordinator's.

use std::path::Path;

use escrow_journal::storage::{Disk, durable_replace, read_all};
use escrow_replica::Replication;
use serde::{Deserialize, Serialize};

use crate::error::CoordinatorError;

const FORMAT: u32 = 1;
const KIND: &str = "escrow-coordinator";

/// The content of `identity.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    format: u32,
    kind: String,
    /// The partition whose log this is.
    pub(crate) partition: u16,
    /// The cluster that this coordinator belongs to: 32 hex digits. Participants serve one cluster only.
    pub(crate) cluster_id: String,
    /// Which member this is of its group, if the partition is replicated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) replica: Option<Membership>,
    /// The journal beside it, of a replica: 32 hex digits, learnt when it was made. A replica must not vote with another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    journal_id: Option<String>,
}

/// Which member of its group a directory is.
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

impl Identity {
    /// Reads the identity of a directory; an empty directory gets one. `wanted` is the cluster that it must belong to, if it is
    /// known.
    pub(crate) fn open(
        disk: &dyn Disk,
        dir: &Path,
        partition: u16,
        wanted: Option<&str>,
        replication: Option<&Replication>,
    ) -> Result<Self, CoordinatorError> {
        let path = dir.join("identity.json");
        let file_error = |source| CoordinatorError::File { path: path.clone(), source };
        let foreign = |why: String| CoordinatorError::Foreign { path: dir.to_owned(), why };
        if let Some(bytes) = read_all(disk, &path).map_err(file_error)? {
            let identity: Self = serde_json::from_slice(&bytes)
                .map_err(|error| foreign(format!("identity.json cannot be read ({error})")))?;
            if identity.kind != KIND {
                return Err(foreign(format!("it belongs to a '{}'", identity.kind)));
            }
            if identity.format != FORMAT {
                return Err(foreign(format!(
                    "it has format {}, this version knows {FORMAT}",
                    identity.format
                )));
            }
            if identity.partition != partition {
                return Err(foreign(format!("it holds partition {}, not {partition}", identity.partition)));
            }
            if let Some(wanted) = wanted.filter(|wanted| *wanted != identity.cluster_id) {
                return Err(foreign(format!("it belongs to cluster {}, not {wanted}", identity.cluster_id)));
            }
            match (identity.replica, replication.map(|replication| replication.number)) {
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
            return Ok(identity);
        }
        let left: Vec<String> = disk.list(dir).map_err(file_error)?;
        if let Some(stranger) =
            left.iter().find(|name| !matches!(name.as_str(), "lock" | "identity.json.tmp"))
        {
            return Err(foreign(format!("it has no identity.json, but holds '{stranger}'")));
        }
        let cluster_id = wanted.map_or_else(|| uuid::Uuid::new_v4().simple().to_string(), str::to_owned);
        let replica = replication.map(|replication| Membership::of(disk, replication));
        let replica = replica.transpose().map_err(file_error)?;
        let kind = KIND.into();
        let identity = Self { format: FORMAT, kind, partition, cluster_id, replica, journal_id: None };
        identity.write(disk, dir)?;
        Ok(identity)
    }

    /// Of a replica that is restored: its life was drawn by whoever restores, since the other members must know it.
    pub(crate) fn restore(
        disk: &dyn Disk,
        dir: &Path,
        partition: u16,
        cluster_id: &str,
        replica: Membership,
        journal_id: u128,
    ) -> Result<(), CoordinatorError> {
        let identity = Self {
            format: FORMAT,
            kind: KIND.into(),
            partition,
            cluster_id: cluster_id.to_owned(),
            replica: Some(replica),
            journal_id: Some(format!("{journal_id:032x}")),
        };
        identity.write(disk, dir)
    }

    /// The identity of a directory, if it is of a replica of a coordinator.
    pub(crate) fn peek(disk: &dyn Disk, dir: &Path) -> Result<(Self, Membership), CoordinatorError> {
        let path = dir.join("identity.json");
        let foreign = |why: String| CoordinatorError::Foreign { path: dir.to_owned(), why };
        let bytes = read_all(disk, &path)
            .map_err(|source| CoordinatorError::File { path: path.clone(), source })?
            .ok_or_else(|| foreign("it has no identity.json".into()))?;
        let identity: Self = serde_json::from_slice(&bytes)
            .map_err(|error| foreign(format!("identity.json cannot be read ({error})")))?;
        let replica = identity.replica.ok_or_else(|| foreign("it was used without replication".into()))?;
        Ok((identity, replica))
    }

    /// Says which journal lies beside it; refuses another than before.
    pub(crate) fn confirm_journal(
        &mut self,
        disk: &dyn Disk,
        dir: &Path,
        journal_id: u128,
    ) -> Result<(), CoordinatorError> {
        let text = format!("{journal_id:032x}");
        match &self.journal_id {
            Some(known) if *known == text => Ok(()),
            Some(known) => Err(CoordinatorError::Foreign {
                path: dir.to_owned(),
                why: format!(
                    "its journal was {known}, but there is {text}; move the directory away, and the replica gets everything from the others"
                ),
            }),
            None => {
                self.journal_id = Some(text);
                self.write(disk, dir)
            }
        }
    }

    fn write(&self, disk: &dyn Disk, dir: &Path) -> Result<(), CoordinatorError> {
        let path = dir.join("identity.json");
        let bytes = serde_json::to_vec_pretty(self).expect("plain data");
        durable_replace(disk, &path, &bytes).map_err(|source| CoordinatorError::File { path, source })
    }
}
