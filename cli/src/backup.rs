//! A backup of a cluster on disk: one snapshot a group, and `backup.json`, which says what they are. It is written last: a directory
//! without it is no backup. What is not whole yet has `.tmp` at the end of its name.
//!
//! **Invariant:** [`Backup::load`] gives only what is whole: every file is there, is sound, and holds the state that is written down for it.
//! [`Target::finish`] makes a backup of such only.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use escrow_cluster::groups::parse_group;
use escrow_cluster::{GroupId, begin_empty};
use escrow_coordinator::config::Slots;
use escrow_journal::storage::{OsDisk, durable_replace};
use escrow_types::{AccountId, Epoch, Partition, Slot};
use serde::{Deserialize, Serialize};

use crate::exit::Failure;

const FORMAT: u32 = 1;
/// The file that says what a backup is.
pub const MANIFEST: &str = "backup.json";

/// The content of `backup.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backup {
    /// The version of this format.
    pub format: u32,
    /// When it was made: Unix milliseconds.
    pub created_ms: u64,
    /// The version of the program that made it.
    pub version: String,
    /// The cluster that it is of: 32 hex digits.
    pub cluster_id: String,
    /// How many replicas a group had.
    pub replicas: u16,
    /// Which shard holds which accounts, as the cluster file says. `null`: there was none; then the accounts themselves show what does
    /// not fit.
    pub slots: Option<Slots>,
    /// The groups.
    pub groups: Vec<GroupBackup>,
}

/// One group of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupBackup {
    /// `shard-0`, `coordinator-0`.
    pub group: String,
    /// The snapshot, in the same directory.
    pub file: String,
    /// Its size.
    pub bytes: u64,
    /// The BLAKE3 hash of all of it. (A snapshot ends with its own CRC-32C, so the CRC of all of it is always the same.)
    pub blake3: String,
    /// The last entry that it includes.
    pub index: u64,
    /// The term of that entry.
    pub term: u64,
    /// The newest term that the group is known to have had: what is restored begins in a newer one.
    pub newest_term: u64,
    /// The digest of the state.
    pub digest: String,
    /// Of a coordinator: whether it refused new work before the backup was made, and shall when it is restored. `null`: as in the
    /// snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    /// The group had lost its leader, or all were stopped: this is from the disk of one replica.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub salvaged: Option<Salvaged>,
}

/// What a snapshot is of that was made of what was left of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Salvaged {
    /// The member whose disk it was.
    pub member: String,
    /// How many members of the group were there.
    pub present: usize,
    /// How many members the group had.
    pub members: usize,
    /// Up to here the member knew that its group had agreed; the rest was in its log.
    pub committed: u64,
    /// Not more than half was there: what was acknowledged in the end may be missing.
    pub may_lack_acknowledged: bool,
}

/// What a snapshot holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The last entry that it includes.
    pub index: u64,
    /// The term of that.
    pub term: u64,
    /// The digest of the state.
    pub digest: String,
    /// The cluster, where the snapshot says so.
    pub cluster_id: Option<String>,
    /// Of a shard: the newest epochs that it has seen, by partition.
    pub epochs: BTreeMap<Partition, Epoch>,
    /// Of a shard: one account of every slot of which it has any.
    pub slots: BTreeMap<Slot, AccountId>,
    /// Of a coordinator: unfinished transactions. Of a shard: reservations.
    pub unfinished: u64,
    /// Of a coordinator: whether it refuses new work.
    pub is_paused: bool,
}

fn damaged(message: impl Into<String>) -> Failure {
    Failure::coded("BACKUP_DAMAGED", message)
}

/// Checks a snapshot, all of it, and says what it holds. Blocks.
pub fn inspect(group: GroupId, path: &Path) -> Result<Found, Failure> {
    let wrong = |error: &dyn std::fmt::Display| damaged(format!("{group}: {error}"));
    match group {
        GroupId::Shard(shard) => {
            let found = escrow_participant::offline::inspect(path).map_err(|error| wrong(&error))?;
            if found.shard != shard.0 {
                return Err(wrong(&format!("{} is of shard {}", path.display(), found.shard)));
            }
            Ok(Found {
                index: found.position.index(),
                term: found.position.term(),
                digest: found.digest.to_string(),
                cluster_id: found.cluster_id,
                epochs: found.epochs,
                slots: found.slots,
                unfinished: found.reservations,
                is_paused: false,
            })
        }
        GroupId::Coordinator(_) => {
            let found = escrow_coordinator::offline::inspect(path).map_err(|error| wrong(&error))?;
            Ok(Found {
                index: found.position.index(),
                term: found.position.term(),
                digest: found.digest.to_string(),
                cluster_id: None,
                epochs: BTreeMap::new(),
                slots: BTreeMap::new(),
                unfinished: found.unfinished,
                is_paused: found.is_paused,
            })
        }
    }
}

impl Backup {
    /// Of a cluster, made now; without groups yet.
    pub fn new(cluster_id: String, replicas: u16, slots: Option<Slots>) -> Self {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let created_ms = crate::time::now_ms();
        Self { format: FORMAT, created_ms, version, cluster_id, replicas, slots, groups: Vec::new() }
    }

    /// Reads a backup and checks all of it. Gives also what every group holds, in the order of the groups. Blocks.
    pub fn load(dir: &Path) -> Result<(Self, Vec<(GroupId, Found)>), Failure> {
        let path = dir.join(MANIFEST);
        let text = fs::read_to_string(&path).map_err(|error| {
            Failure::bad_input(format!(
                "{} is no backup that was finished: {MANIFEST}: {error}",
                dir.display()
            ))
        })?;
        let wrong = |why: &dyn std::fmt::Display| damaged(format!("{}: {why}", path.display()));
        let value: serde_json::Value = serde_json::from_str(&text).map_err(|error| wrong(&error))?;
        // First, since other formats have other fields.
        let format = value.get("format").and_then(serde_json::Value::as_u64);
        if format != Some(FORMAT.into()) {
            let is = format.map_or_else(|| "no format".to_owned(), |format| format!("format {format}"));
            return Err(wrong(&format!("it has {is}, this version knows {FORMAT}")));
        }
        let backup: Self = serde_json::from_value(value).map_err(|error| wrong(&error))?;
        let mut found = Vec::with_capacity(backup.groups.len());
        for written in &backup.groups {
            let group = parse_group(&written.group).map_err(|why| wrong(&why))?;
            if found.iter().any(|(other, _)| *other == group) {
                return Err(wrong(&format!("{group} is there twice")));
            }
            found.push((group, written.check(group, dir)?));
        }
        backup.check_complete(&found).map_err(|why| wrong(&why))?;
        Ok((backup, found))
    }

    /// Every partition that a shard knows is there, and so are shards; all are of one cluster.
    fn check_complete(&self, found: &[(GroupId, Found)]) -> Result<(), String> {
        for (group, held) in found {
            if let Some(other) = held.cluster_id.as_ref().filter(|id| **id != self.cluster_id) {
                return Err(format!("{group} is of cluster {other}, not of {}", self.cluster_id));
            }
        }
        let shards = found.iter().filter(|(group, _)| !group.is_coordinator());
        if shards.clone().count() == 0 {
            return Err("it has no shard".to_owned());
        }
        for (shard, held) in shards {
            let missing = held.epochs.keys().map(|&partition| GroupId::Coordinator(partition));
            let missing = missing.into_iter().find(|group| !found.iter().any(|(other, _)| other == group));
            if let Some(missing) = missing {
                return Err(format!("{missing} is missing, which {shard} has heard of"));
            }
        }
        let has_coordinator = found.iter().any(|(group, _)| group.is_coordinator());
        if has_coordinator { Ok(()) } else { Err("it has no coordinator".to_owned()) }
    }

    /// Writes `backup.json`, durably, as the last file of the backup.
    pub fn write(&self, dir: &Path) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(self)
            .map_err(|error| Failure::internal(format!("{MANIFEST} cannot be written: {error}")))?;
        let (path, disk) = (dir.join(MANIFEST), OsDisk::shared());
        // The names of the snapshots first.
        let synced = disk.sync_dir(dir);
        synced
            .and_then(|()| durable_replace(&*disk, &path, format!("{text}\n").as_bytes()))
            .map_err(at(&path))
    }
}

impl GroupBackup {
    /// What a snapshot holds that was just made, as it is written down.
    pub fn of(group: GroupId, path: &Path, found: &Found) -> Result<Self, Failure> {
        let file = file_name(group);
        let (bytes, blake3) = sum(path).map_err(at(path))?;
        Ok(Self {
            group: group.to_string(),
            file,
            bytes,
            blake3,
            index: found.index,
            term: found.term,
            newest_term: found.term,
            digest: found.digest.clone(),
            paused: None,
            salvaged: None,
        })
    }

    fn check(&self, group: GroupId, dir: &Path) -> Result<Found, Failure> {
        if self.file.contains(['/', '\\']) || self.file.starts_with('.') {
            return Err(damaged(format!("{group}: '{}' is not the name of a file", self.file)));
        }
        let path = dir.join(&self.file);
        let (bytes, blake3) = sum(&path).map_err(|error| damaged(format!("{}: {error}", path.display())))?;
        if bytes != self.bytes {
            return Err(damaged(format!("{} has {bytes} bytes, not {}", path.display(), self.bytes)));
        }
        if blake3 != self.blake3 {
            let why = format!("{}: its checksum is wrong: {blake3}, not {}", path.display(), self.blake3);
            return Err(damaged(why));
        }
        let found = inspect(group, &path)?;
        if (found.index, found.term, &found.digest) != (self.index, self.term, &self.digest) {
            let Found { index, digest, .. } = &found;
            let why = format!(
                "{} holds entry {index}, digest {digest}; {MANIFEST} says entry {}, digest {}",
                path.display(),
                self.index,
                self.digest
            );
            return Err(damaged(why));
        }
        Ok(found)
    }
}

/// The size of a file, and the BLAKE3 hash of what it holds. Blocks.
fn sum(path: &Path) -> std::io::Result<(u64, String)> {
    const PIECE_BYTES: usize = 1 << 20;
    let (mut file, mut piece) = (File::open(path)?, vec![0; PIECE_BYTES]);
    let (mut bytes, mut hasher) = (0, blake3::Hasher::new());
    loop {
        let read = file.read(&mut piece)?;
        if read == 0 {
            return Ok((bytes, hasher.finalize().to_hex().to_string()));
        }
        bytes += read as u64;
        hasher.update(&piece[..read]);
    }
}

/// The name of the snapshot of a group.
pub fn file_name(group: GroupId) -> String {
    format!("{group}.snapshot")
}

/// Names the file in an error of the operating system.
pub fn at(path: &Path) -> impl FnOnce(std::io::Error) -> Failure {
    let path = path.to_owned();
    move |error| Failure::coded("IO", format!("{}: {error}", path.display()))
}

/// A directory for a backup, empty or not there yet. What is put there goes again, unless the backup is finished.
#[derive(Debug)]
pub struct Target {
    dir: PathBuf,
    files: Vec<PathBuf>,
    is_finished: bool,
}

impl Target {
    /// Makes it, or refuses what is not empty.
    pub fn begin(dir: &Path) -> Result<Self, Failure> {
        begin_empty(dir)?;
        Ok(Self { dir: dir.to_owned(), files: Vec::new(), is_finished: false })
    }

    /// Where the snapshot of a group is to be made: under a name that is none of a backup.
    pub fn begin_file(&mut self, group: GroupId) -> PathBuf {
        let path = self.dir.join(format!("{}.tmp", file_name(group)));
        self.files.push(path.clone());
        path
    }

    /// The snapshot of a group is whole: makes it durable, and gives it its name.
    pub fn keep(&mut self, group: GroupId, temporary: &Path) -> Result<(), Failure> {
        let path = self.dir.join(file_name(group));
        File::open(temporary).and_then(|file| file.sync_all()).map_err(at(temporary))?;
        fs::rename(temporary, &path).map_err(at(&path))?;
        self.files.push(path);
        Ok(())
    }

    /// Takes away what was made so far: it begins again.
    pub fn clear(&mut self) {
        for file in self.files.drain(..) {
            // It may have another name by now; and without its manifest it is no backup.
            let _ = fs::remove_file(file);
        }
    }

    /// Writes `backup.json`: now it is a backup. `found` is what the groups hold; refused if one is missing.
    pub fn finish(mut self, backup: &Backup, found: &[(GroupId, Found)]) -> Result<(), Failure> {
        backup.check_complete(found).map_err(|why| Failure::coded("INCOMPLETE", why))?;
        backup.write(&self.dir)?;
        self.is_finished = true;
        Ok(())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if !self.is_finished {
            self.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use escrow_types::ParticipantId;

    fn found(cluster_id: &str, epochs: &[u16]) -> Found {
        Found {
            index: 9,
            term: 4,
            digest: "d".to_owned(),
            cluster_id: Some(cluster_id.to_owned()),
            epochs: epochs.iter().map(|&partition| (Partition(partition), Epoch(4))).collect(),
            slots: BTreeMap::new(),
            unfinished: 0,
            is_paused: false,
        }
    }

    const SHARD: GroupId = GroupId::Shard(ParticipantId(0));
    const COORDINATOR: GroupId = GroupId::Coordinator(Partition(0));

    #[test]
    fn a_backup_that_lacks_a_group_is_not_finished() {
        let coordinator = (COORDINATOR, Found { cluster_id: None, ..found("", &[]) });
        let backup = Backup::new("one".to_owned(), 3, None);
        for (all, part) in [
            (vec![coordinator.clone()], "it has no shard"),
            (vec![(SHARD, found("one", &[]))], "it has no coordinator"),
            (vec![(SHARD, found("one", &[0, 1])), coordinator.clone()], "coordinator-1 is missing"),
            (vec![(SHARD, found("other", &[0])), coordinator.clone()], "shard-0 is of cluster other"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let mut target = Target::begin(dir.path()).unwrap();
            let temporary = target.begin_file(SHARD);
            fs::write(&temporary, "a snapshot").unwrap();
            target.keep(SHARD, &temporary).unwrap();
            fs::write(target.begin_file(COORDINATOR), "half of").unwrap();
            let error = target.finish(&backup, &all).unwrap_err();
            assert!(error.message.contains(part), "{error:?}");
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left of it");
        }
        let dir = tempfile::tempdir().unwrap();
        let new = dir.path().join("a/new");
        Target::begin(&new).unwrap().finish(&backup, &[(SHARD, found("one", &[0])), coordinator]).unwrap();
        assert!(new.join(MANIFEST).exists());
        assert!(Target::begin(&new).unwrap_err().message.contains("is not empty: it holds 'backup.json'"));
    }

    #[test]
    fn what_is_summed_up_is_all_of_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let mut bytes = vec![7; (2 << 20) + 1];
        fs::write(&path, &bytes).unwrap();
        let whole = sum(&path).unwrap();
        assert_eq!(whole, (bytes.len() as u64, blake3::hash(&bytes).to_hex().to_string()));
        *bytes.last_mut().unwrap() = 8;
        fs::write(&path, &bytes).unwrap();
        assert_ne!(sum(&path).unwrap().1, whole.1);
    }
}
