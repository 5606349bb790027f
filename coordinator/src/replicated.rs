//! What is different on disk when the partition is replicated: the journal holds records of a group, the checkpoint knows its position in the
//! group's log, and a snapshot may have come in place of entries.
//!
//! Only the checkpoint is restored here; what is committed after it comes from the group again ([`Fed::Committed`](escrow_replica::Fed)). A
//! checkpoint that is lost is made again from the archived log, if that goes back to the beginning.
//!
//! **Invariant:** no epoch is opened here: a replica does that when it leads.

use std::sync::Arc;
use std::time::Instant;

use escrow_journal::storage::Disk;
use escrow_journal::{Index, Journal, JournalError, Opened, Steps};
use escrow_replica::{Committed, GroupLog, Position, Recovering, Trim};
use escrow_tcc::{Entry, Machine};
use escrow_types::Digest;

use crate::config::Config;
use crate::error::CoordinatorError;
use crate::owner::GROUP;
use crate::server::{Recovered, Recovery, journal_options, restore};
use crate::store::{Checkpoint, install, unfinished};

/// Restores the newest checkpoint, and the group's log.
pub(crate) fn recover(disk: &Arc<dyn Disk>, config: &Config) -> Result<Recovered, CoordinatorError> {
    let started = Instant::now();
    let dir = &config.data_dir;
    let file_error = |source| CoordinatorError::File { path: dir.join("installing.snapshot"), source };
    if let Some((path, position)) = unfinished(&**disk, dir).map_err(file_error)? {
        install(&**disk, dir, &path, &position).map_err(file_error)?;
    }
    let (checkpoint, machine, window) = restore(disk, config)?;
    let (journal, steps, opened) = open_journal(disk, config)?;
    let mut log = Recovering::default();
    for entry in journal.read_from(journal.cursors().trimmed.next())? {
        let entry = entry?;
        if entry.group != GROUP {
            let why = format!("it belongs to group {}, not to a coordinator", entry.group.0);
            return Err(CoordinatorError::Entry { index: entry.index.get(), why });
        }
        log.record(entry.index, entry.payload)?;
    }
    let wrong = |why| CoordinatorError::Foreign { path: dir.clone(), why };
    let checkpointed = position_of(&checkpoint).map_err(wrong)?;
    let mut rebuilt = Rebuilt { machine, position: checkpointed.clone() };
    if rebuilt.position.index() < log.purged() {
        tracing::warn!("the checkpoint is lost: the archived log is replayed");
        rebuilt = Rebuilt::default();
        rebuilt.read(&journal, log.purged()).map_err(|why| {
            wrong(format!(
                "the checkpoint is lost, and the log cannot give it ({why}); move the directory away, and the replica gets everything \
                 from the others"
            ))
        })?;
    }
    let Rebuilt { machine, position } = rebuilt;
    let log = GroupLog::new(GROUP, journal.clone(), Trim::of([GROUP]), log)?;
    let applied = position.index();
    tracing::info!(applied, ms = started.elapsed().as_millis() as u64, "replica recovered");
    let replica = Some(Recovery { log, position, checkpointed, journal_id: opened.journal_id });
    Ok(Recovered { machine, window, journal, steps, applied, checkpointed: checkpoint.index, replica })
}

fn open_journal(disk: &Arc<dyn Disk>, config: &Config) -> Result<(Journal, Steps, Opened), CoordinatorError> {
    match Journal::open_stepped(Arc::clone(disk), journal_options(config), Index::FIRST) {
        // History was deleted: what is left is all that is needed.
        Err(JournalError::Trimmed { first, .. }) => {
            Ok(Journal::open_stepped(Arc::clone(disk), journal_options(config), first)?)
        }
        opened => Ok(opened?),
    }
}

fn position_of(checkpoint: &Checkpoint) -> Result<Position, String> {
    if checkpoint.position.is_empty() {
        return Ok(Position::default());
    }
    Position::decode(&checkpoint.position).map_err(|error| error.to_string())
}

/// A state that is made from the log of the group alone.
#[derive(Default)]
pub(crate) struct Rebuilt {
    machine: Machine,
    position: Position,
}

impl Rebuilt {
    /// From a checkpoint, or from nothing; remembers nothing of what has ended.
    pub(crate) fn from(checkpoint: Option<&Checkpoint>) -> Result<Self, String> {
        let Some(checkpoint) = checkpoint else {
            return Ok(Self { machine: Machine::forgetful(), position: Position::default() });
        };
        let machine = Machine::from_checkpoint(&checkpoint.machine).map_err(|error| error.to_string())?;
        Ok(Self { machine, position: position_of(checkpoint)? })
    }

    /// The digest of the state at an entry that is known to be committed.
    pub(crate) fn digest_at(mut self, journal: &Journal, until: u64) -> Result<Digest, String> {
        self.read(journal, until)?;
        Ok(self.machine.digest())
    }

    fn read(&mut self, journal: &Journal, until: u64) -> Result<(), String> {
        let mut log = Recovering::default();
        let mut failure = None;
        for entry in journal.read_from(journal.first_index()).map_err(|error| error.to_string())? {
            let entry = entry.map_err(|error| error.to_string())?;
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
        let Some(commands) = committed.commands else { return Ok(()) };
        let entry = Entry::decode(&commands).map_err(|error| format!("entry {index}: {error}"))?;
        self.machine.apply_entry(&entry);
        Ok(())
    }
}
