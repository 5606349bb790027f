//! From disk to shards: open the views, open the log, replay what the views do not have. Start-up and crash recovery are
//! the same. Blocks.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use escrow_journal::storage::Disk;
use escrow_journal::{Archive as JournalArchive, Index, Journal, Options, Reader, Steps};
use escrow_replica::{GroupLog, Position};
use escrow_service::progress::Progress;
use escrow_wallet::{Entry, Wallet};

use crate::config::{Archive, Config};
use crate::error::ParticipantError;
use crate::identity::Identity;
use crate::store::{Held, View};

/// One shard, ready to run.
pub(crate) struct Shard {
    pub(crate) wallet: Wallet,
    pub(crate) view: Box<dyn View>,
    /// The index that the view has.
    pub(crate) checkpointed: u64,
    /// The last entry that the wallet has.
    pub(crate) applied: u64,
    pub(crate) bytes_replayed: u64,
    /// Of a replica.
    pub(crate) replica: Option<Recovery>,
}

/// What a replica goes on with.
pub(crate) struct Recovery {
    pub(crate) log: GroupLog,
    /// Where the wallet is in it.
    pub(crate) position: Position,
    /// Where the view is.
    pub(crate) checkpointed: Position,
}

/// Everything that was on disk.
pub(crate) struct Recovered {
    pub(crate) journal: Journal,
    /// To start threads with, or to step.
    pub(crate) steps: Steps,
    pub(crate) shards: BTreeMap<u16, Shard>,
    /// The last entry of the journal.
    pub(crate) last: u64,
}

/// Opens the view of a shard: it, and what it holds.
pub(crate) type OpenView<'a> = &'a dyn Fn(u16) -> Result<(Box<dyn View>, Held), ParticipantError>;

/// Opens everything in a data directory that is locked and of this participant.
pub(crate) fn recover(
    config: &Config,
    disk: Arc<dyn Disk>,
    identity: &Identity,
    open_view: OpenView<'_>,
) -> Result<Recovered, ParticipantError> {
    if config.replication.is_some() {
        return crate::replicated::recover(config, disk, identity, open_view);
    }
    let mut shards = BTreeMap::new();
    for &shard in &config.shards {
        let (view, Held { wallet, applied, .. }) = open_view(shard)?;
        let (checkpointed, replica) = (applied, None);
        shards.insert(shard, Shard { wallet, view, checkpointed, applied, bytes_replayed: 0, replica });
    }
    let from = shards.values().map(|shard| shard.checkpointed).min().unwrap_or(0) + 1;
    let (journal, steps, opened) = Journal::open_stepped(disk, journal_options(config), Index(from))?;
    if let Some(torn) = &opened.torn {
        tracing::warn!(path = %torn.path.display(), offset = torn.offset, index = torn.index.get(), "torn tail cut off");
    }
    let last = opened.last.get();
    identity.confirm_journal(opened.journal_id)?;
    let newest = shards.values().map(|shard| shard.checkpointed).max().unwrap_or(0);
    if newest > last {
        let why = format!("a view has entry {newest}, but the log ends at {last}");
        return Err(ParticipantError::Foreign { path: config.data_dir.clone(), why });
    }
    replay_all(&journal, from, last, &mut shards)?;
    for shard in shards.values_mut() {
        shard.applied = last;
    }
    Ok(Recovered { journal, steps, shards, last })
}

pub(crate) fn journal_options(config: &Config) -> Options {
    let archive = match config.archive {
        Archive::Keep => JournalArchive::Keep,
        Archive::Compress => JournalArchive::Compress,
        Archive::Delete => JournalArchive::Delete,
    };
    let dir = config.data_dir.join(Path::new("journal"));
    Options { segment_bytes: config.segment_bytes, archive, ..Options::new(dir) }
}

fn replay_all(
    journal: &Journal,
    from: u64,
    last: u64,
    shards: &mut BTreeMap<u16, Shard>,
) -> Result<(), ParticipantError> {
    let mut progress = Progress::new("replay of the log", last);
    for entry in journal.read_from(Index(from))? {
        let entry = entry?;
        let index = entry.index.get();
        let wrong = |why: String| ParticipantError::Entry { index, why };
        let shard = shards.get_mut(&entry.group.0);
        let shard = shard.ok_or_else(|| wrong(format!("it is of shard {}", entry.group.0)))?;
        if index > shard.checkpointed {
            apply(&mut shard.wallet, &entry.payload).map_err(wrong)?;
            shard.bytes_replayed += entry.payload.len() as u64;
        }
        progress.note(index, entry.payload.len());
    }
    progress.end();
    Ok(())
}

pub(crate) fn apply(wallet: &mut Wallet, payload: &[u8]) -> Result<(), String> {
    let entry = Entry::decode(payload).map_err(|error| error.to_string())?;
    for command in &entry.commands {
        wallet.apply(entry.time_ms, command);
    }
    Ok(())
}

/// Applies the entries of one shard from a reader, up to an index; `tell` hears how far it is and may say stop.
pub(crate) fn replay(
    wallet: &mut Wallet,
    reader: Reader,
    shard: u16,
    until: u64,
    mut tell: impl FnMut(u64) -> bool,
) -> Result<(), ParticipantError> {
    for entry in reader {
        let entry = entry?;
        let index = entry.index.get();
        if index > until {
            break;
        }
        if entry.group.0 == shard {
            apply(wallet, &entry.payload).map_err(|why| ParticipantError::Entry { index, why })?;
        }
        if !tell(index) {
            return Err(ParticipantError::Ended("the verification"));
        }
    }
    Ok(())
}
