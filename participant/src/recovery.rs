//! From disk to shards: open the views, open the log, replay what the views do not have. Start-up and crash recovery are
//! the same. Blocks.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use escrow_journal::storage::OsDisk;
use escrow_journal::{Archive as JournalArchive, Index, Journal, Options, Reader};
use escrow_wallet::{Entry, Wallet};

use crate::config::{Archive, Config};
use crate::error::ParticipantError;
use crate::identity::Identity;
use crate::store::Store;

/// Progress is told this often.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// One shard, ready to run.
pub(crate) struct Shard {
    pub(crate) wallet: Wallet,
    pub(crate) store: Store,
    /// The index that the view has.
    pub(crate) checkpointed: u64,
    pub(crate) bytes_replayed: u64,
}

/// Everything that was on disk.
pub(crate) struct Recovered {
    pub(crate) journal: Journal,
    pub(crate) shards: BTreeMap<u16, Shard>,
    /// All entries up to here are applied.
    pub(crate) last: u64,
}

/// Opens everything in a data directory that is locked and of this participant.
pub(crate) fn recover(config: &Config, identity: &Identity) -> Result<Recovered, ParticipantError> {
    let cluster_id = identity.cluster_id();
    let mut shards = BTreeMap::new();
    for &shard in &config.shards {
        let dir = config.data_dir.join(format!("shard-{shard}"));
        let (store, wallet, checkpointed) =
            Store::open(&dir, shard, cluster_id.as_deref(), config.sled_cache_bytes)?;
        shards.insert(shard, Shard { wallet, store, checkpointed, bytes_replayed: 0 });
    }
    let from = shards.values().map(|shard| shard.checkpointed).min().unwrap_or(0) + 1;
    let (journal, opened) = Journal::open(OsDisk::shared(), journal_options(config), Index(from))?;
    if let Some(torn) = &opened.torn {
        tracing::warn!(path = %torn.path.display(), offset = torn.offset, index = torn.index.get(), "torn tail cut off");
    }
    let last = opened.last.get();
    let replayed = identity.confirm_journal(opened.journal_id).and_then(|()| {
        let newest = shards.values().map(|shard| shard.checkpointed).max().unwrap_or(0);
        if newest > last {
            let why = format!("a view has entry {newest}, but the log ends at {last}");
            return Err(ParticipantError::Foreign { path: config.data_dir.clone(), why });
        }
        replay_all(&journal, from, last, &mut shards)
    });
    match replayed {
        Ok(()) => Ok(Recovered { journal, shards, last }),
        Err(error) => {
            // So that the directory is free again when the error is told.
            let _ = journal.close();
            Err(error)
        }
    }
}

fn journal_options(config: &Config) -> Options {
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
    let started = Instant::now();
    let mut progress = started;
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
        if progress.elapsed() >= PROGRESS_EVERY {
            progress = Instant::now();
            tracing::info!(index, last, "replaying the log");
        }
    }
    let entries = (last + 1).saturating_sub(from);
    let took_ms = started.elapsed().as_millis() as u64;
    tracing::info!(from, last, entries, took_ms, "log replayed");
    Ok(())
}

fn apply(wallet: &mut Wallet, payload: &[u8]) -> Result<(), String> {
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
