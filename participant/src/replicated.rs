//! What is different on disk when the shards of a process are replicas: the journal holds records of groups, the view knows its position in the
//! group's log, and a snapshot may have come in place of entries.
//!
//! Only checkpoints are restored here; what is committed after them comes from the group again
//! ([`Fed::Committed`](escrow_replica::Fed)). A view that is lost is rebuilt from the archived log, if that goes back to the beginning.
//!
//! **Invariant:** a snapshot is whole and durable under its final name before anything of the view is replaced.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use escrow_journal::storage::Disk;
use escrow_journal::{Group, Index, Journal, JournalError, Opened, Steps};
use escrow_replica::{Committed, GroupLog, Position, Recovering, Trim};
use escrow_wallet::Wallet;

use crate::config::Config;
use crate::error::ParticipantError;
use crate::identity::Identity;
use crate::recovery::{OpenView, Recovered, Recovery, Shard, apply, journal_options};
use crate::snapshot;
use crate::store::{Held, Meta, View};

/// The directory of a shard, for its snapshots.
pub(crate) fn shard_dir(config: &Config, shard: u16) -> PathBuf {
    config.data_dir.join(format!("shard-{shard}"))
}

/// The final name of a snapshot that is being installed.
fn installing(dir: &Path) -> PathBuf {
    dir.join("installing.snapshot")
}

/// As [`crate::recovery::recover`], for replicas.
pub(crate) fn recover(
    config: &Config,
    disk: Arc<dyn Disk>,
    identity: &Identity,
    open_view: OpenView<'_>,
) -> Result<Recovered, ParticipantError> {
    let started = Instant::now();
    let mut views = BTreeMap::new();
    for &shard in &config.shards {
        let (mut view, mut held) = open_view(shard)?;
        let dir = shard_dir(config, shard);
        disk.create_dir_all(&dir).map_err(ParticipantError::file(&dir))?;
        let path = installing(&dir);
        let unfinished = snapshot::open(&*disk, &path)?.map(|snapshot| snapshot.meta);
        if let Some(meta) = unfinished.filter(|meta| meta.applied > held.applied) {
            held = install(&*disk, &path, shard, identity.cluster_id(), meta.position, &mut *view)?;
        }
        views.insert(shard, (view, held));
    }
    let (journal, steps, opened) = open_journal(config, disk)?;
    identity.confirm_journal(opened.journal_id)?;
    let mut logs: BTreeMap<u16, Recovering> =
        config.shards.iter().map(|&shard| (shard, Recovering::default())).collect();
    for entry in journal.read_from(journal.cursors().trimmed.next())? {
        let entry = entry?;
        let log = logs.get_mut(&entry.group.0).ok_or_else(|| ParticipantError::Entry {
            index: entry.index.get(),
            why: format!("it is of shard {}", entry.group.0),
        })?;
        log.record(entry.index, entry.payload)?;
    }
    let trim = Trim::of(config.shards.iter().map(|&shard| Group(shard)));
    let mut shards = BTreeMap::new();
    for (shard, log) in logs {
        let (view, held) = views.remove(&shard).expect("both are made of the same list");
        let (checkpointed, in_view) = (decode(&held.position, &config.data_dir)?, held.applied);
        let (wallet, position) = state(config, &journal, shard, &log, held)?;
        let log = GroupLog::new(Group(shard), journal.clone(), Arc::clone(&trim), log)?;
        let applied = position.index();
        tracing::info!(shard, applied, took_ms = started.elapsed().as_millis() as u64, "replica recovered");
        let replica = Some(Recovery { log, position, checkpointed });
        let bytes_replayed = 0;
        shards.insert(shard, Shard { wallet, view, checkpointed: in_view, applied, bytes_replayed, replica });
    }
    Ok(Recovered { journal, steps, shards, last: opened.last.get() })
}

fn open_journal(config: &Config, disk: Arc<dyn Disk>) -> Result<(Journal, Steps, Opened), ParticipantError> {
    match Journal::open_stepped(Arc::clone(&disk), journal_options(config), Index::FIRST) {
        // History was deleted: what is left is all that is needed.
        Err(JournalError::Trimmed { first, .. }) => {
            Ok(Journal::open_stepped(disk, journal_options(config), first)?)
        }
        opened => Ok(opened?),
    }
}

/// The wallet as of the view; or, if the view is lost, as of the archived log.
fn state(
    config: &Config,
    journal: &Journal,
    shard: u16,
    log: &Recovering,
    held: Held,
) -> Result<(Wallet, Position), ParticipantError> {
    let position = decode(&held.position, &config.data_dir)?;
    if position.index() >= log.purged() {
        return Ok((held.wallet, position));
    }
    tracing::warn!(shard, "the view is lost: rebuilding it from the archived log");
    let mut rebuilt = Rebuilt::default();
    rebuilt.read(journal, shard, log.purged()).map_err(|why| ParticipantError::Foreign {
        path: config.data_dir.clone(),
        why: format!(
            "the view of shard {shard} is lost, and the log cannot give it ({why}); move the directory away, and the replica gets \
             everything from the others"
        ),
    })?;
    Ok((rebuilt.wallet, rebuilt.position))
}

fn decode(position: &[u8], path: &Path) -> Result<Position, ParticipantError> {
    if position.is_empty() {
        return Ok(Position::default());
    }
    let foreign = |error| ParticipantError::Foreign { path: path.to_owned(), why: format!("{error}") };
    Position::decode(position).map_err(foreign)
}

/// A state that is made from the log of a group alone.
#[derive(Default)]
pub(crate) struct Rebuilt {
    pub(crate) wallet: Wallet,
    pub(crate) position: Position,
}

impl Rebuilt {
    /// From what a view holds.
    pub(crate) fn from(held: Held) -> Result<Self, ParticipantError> {
        let position = decode(&held.position, Path::new("the view"))?;
        Ok(Self { wallet: held.wallet, position })
    }

    /// Applies what the journal has of a shard after the position, up to an index that is known to be committed.
    pub(crate) fn read(&mut self, journal: &Journal, shard: u16, until: u64) -> Result<(), String> {
        let mut log = Recovering::default();
        let mut failure = None;
        let reader = journal.read_from(journal.first_index()).map_err(|error| error.to_string())?;
        for entry in reader {
            let entry = entry.map_err(|error| error.to_string())?;
            if entry.group != Group(shard) {
                continue;
            }
            let mut tell = |committed| failure = failure.take().or(self.take(committed, until).err());
            log.record_and_tell(entry.index, entry.payload, &mut tell).map_err(|error| error.to_string())?;
            if let Some(failure) = failure {
                return Err(failure);
            }
        }
        log.entries_to(until).try_for_each(|committed| self.take(committed, until))?;
        let reached = self.position.index();
        if reached < until {
            return Err(format!("the log ends at entry {reached} of {until}"));
        }
        Ok(())
    }

    fn take(&mut self, mut committed: Committed, until: u64) -> Result<(), String> {
        let (index, next) = (committed.index(), self.position.index() + 1);
        if index < next || index > until {
            return Ok(());
        }
        if index > next {
            return Err(format!("entries {next} to {} came as a snapshot", index - 1));
        }
        self.position.advance(&mut committed);
        committed.commands.map_or(Ok(()), |commands| apply(&mut self.wallet, &commands))
    }
}

/// Replaces a view by a snapshot that is whole, and takes the snapshot away. After a crash on the way it is done again at the next start.
pub(crate) fn install(
    disk: &dyn Disk,
    path: &Path,
    shard: u16,
    cluster_id: Option<String>,
    position: Vec<u8>,
    view: &mut dyn View,
) -> Result<Held, ParticipantError> {
    let wrong = |why: String| ParticipantError::Snapshot { path: path.to_owned(), why };
    let mut records = snapshot::open(disk, path)?.ok_or_else(|| wrong("it is gone".into()))?;
    let found = &records.meta;
    if found.shard != shard {
        return Err(wrong(format!("it is of shard {}", found.shard)));
    }
    if found.position != position {
        return Err(wrong("it is of another place in the log than its sender said".into()));
    }
    let meta = Meta { shard, applied: found.applied, cluster_id, position };
    // Only what is sound gets the name that is looked for at a start.
    let dir = path.parent().unwrap_or(Path::new("."));
    let name = installing(dir);
    if name != path {
        disk.rename(path, &name).map_err(ParticipantError::file(path))?;
        disk.sync_dir(dir).map_err(ParticipantError::file(dir))?;
    }
    view.replace(&mut records, &meta)?;
    drop(records);
    let held = view.read()?;
    tracing::info!(shard, applied = held.applied, "snapshot installed");
    // A view that has it no longer needs it; if it stays, it is installed again, which changes nothing yet.
    disk.remove(&name).map_err(ParticipantError::file(&name))?;
    disk.sync_dir(dir).map_err(ParticipantError::file(dir))?;
    Ok(held)
}
