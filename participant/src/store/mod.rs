//! The view of one shard: its accounts, balances, reservations and fences as of the last checkpoint, in sled.
//!
//! # On disk
//! `shard-N/sled/`: one tree. The keys of `escrow_wallet::view`, and those of [`meta`] under the letter `s`.
//! `shard-N/sled.opening`: there while it is being opened; `shard-N/sled.corrupt-K/`: moved aside.
//!
//! # Traps of sled 0.34.7, and what is done about them
//! - `flush` is no fsync on Linux: [`sync`] syncs every file after it.
//! - A kill during open can leave `snap.*.generating`, with which no later open succeeds: [`open`] removes them.
//! - `apply_batch` is atomic in one tree only: there is one tree, and the applied index is in it.
//! - Damage can make it panic: [`open`] survives that, even if the panic ends the process.
//!
//! **Invariant:** never the truth. It may be lost at any time; the log rebuilds it.

mod memory;
mod meta;
mod open;
mod sync;

use std::path::{Path, PathBuf};

use escrow_wallet::view::Record;
use escrow_wallet::{Changes, Wallet};

use crate::error::ParticipantError;
use crate::failpoint;
pub use memory::MemoryView;
pub(crate) use meta::Meta;

/// What a view holds.
#[derive(Debug, Default)]
pub(crate) struct Held {
    pub(crate) wallet: Wallet,
    /// The index of the log that it is of.
    pub(crate) applied: u64,
    /// As [`Meta::position`].
    pub(crate) position: Vec<u8>,
}

/// Takes a record: key and value.
pub(crate) type TakeRecord<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> Result<(), ParticipantError>;

/// Gives records, one after the other.
pub(crate) type Records<'a> = &'a mut dyn Iterator<Item = Result<Record, ParticipantError>>;

/// Where a shard's state is kept between checkpoints.
pub(crate) trait View: Send {
    /// Reads the whole view: the wallet as of an index of the log. Blocks.
    fn read(&self) -> Result<Held, ParticipantError>;

    /// What the view is of; without a checkpoint an error. Blocks, shortly.
    fn meta(&self) -> Result<Meta, ParticipantError>;

    /// Gives every record of the wallet, and what they are of. Blocks.
    fn export(&self, take: TakeRecord<'_>) -> Result<Meta, ParticipantError>;

    /// Replaces everything. Not atomic: whoever calls it can do so again after a crash. Durable when it returns. Blocks.
    fn replace(&self, records: Records<'_>, meta: &Meta) -> Result<(), ParticipantError>;

    /// Writes changes and the index that they lead to, as one, durably. Blocks; a failure is final.
    fn write(&self, changes: Option<&Changes>, meta: &Meta) -> Result<Written, ParticipantError>;
}

/// The open view of one shard.
#[derive(Debug)]
pub(crate) struct Store {
    shard: u16,
    /// The sled directory.
    path: PathBuf,
    tree: sled::Db,
}

/// What a checkpoint wrote.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Written {
    pub(crate) records: usize,
    /// Files of sled that were synced.
    pub(crate) files_synced: usize,
}

impl Store {
    /// Opens the view of a shard and reads it. A view that is damaged or of something else is moved aside with a
    /// warning, and an empty one is opened: the log rebuilds it. Blocks.
    pub(crate) fn open(
        shard_dir: &Path,
        shard: u16,
        cluster_id: Option<&str>,
        cache_bytes: u64,
    ) -> Result<(Self, Held), ParticipantError> {
        open::open(shard_dir, shard, cluster_id, cache_bytes)
    }

    fn read_checked(&self, cluster_id: Option<&str>) -> Result<Held, String> {
        let mut failure = None;
        let mut records = Vec::new();
        for record in self.tree.iter() {
            let (key, value) = record.map_err(|error| error.to_string())?;
            if !Meta::is_key(&key) {
                records.push((key, value));
            } else if key.as_ref() != Meta::KEY {
                failure = Some("a record of an unknown kind".to_owned());
            }
        }
        if let Some(failure) = failure {
            return Err(failure);
        }
        let Some(value) = self.tree.get(Meta::KEY).map_err(|error| error.to_string())? else {
            return if records.is_empty() {
                Ok(Held::default())
            } else {
                Err("records without an applied index".to_owned())
            };
        };
        let meta = Meta::decode(&value).map_err(|error| error.to_string())?;
        if meta.shard != self.shard {
            return Err(format!("it is the view of shard {}", meta.shard));
        }
        if let (Some(served), Some(found)) = (cluster_id, &meta.cluster_id)
            && served != found
        {
            return Err(format!("it is of cluster {found}"));
        }
        let wallet = Wallet::from_view(records).map_err(|error| error.to_string())?;
        Ok(Held { wallet, applied: meta.applied, position: meta.position })
    }

    fn failed(&self, why: impl std::fmt::Display) -> ParticipantError {
        ParticipantError::Store { shard: self.shard, path: self.path.clone(), why: why.to_string() }
    }
}

impl View for Store {
    fn read(&self) -> Result<Held, ParticipantError> {
        self.read_checked(None).map_err(|why| self.failed(why))
    }

    fn meta(&self) -> Result<Meta, ParticipantError> {
        let meta = self.tree.get(Meta::KEY).map_err(|error| self.failed(error))?;
        let meta = meta.ok_or_else(|| self.failed("there is no checkpoint yet"))?;
        Meta::decode(&meta).map_err(|error| self.failed(error))
    }

    fn export(&self, take: TakeRecord<'_>) -> Result<Meta, ParticipantError> {
        for record in self.tree.iter() {
            let (key, value) = record.map_err(|error| self.failed(error))?;
            if !Meta::is_key(&key) {
                take(&key, &value)?;
            }
        }
        self.meta()
    }

    fn replace(&self, records: Records<'_>, meta: &Meta) -> Result<(), ParticipantError> {
        const BATCH_RECORDS: usize = 10_000;
        // What it is of goes first and comes last: a half of it is never taken for a whole.
        self.tree.remove(Meta::KEY).map_err(|error| self.failed(error))?;
        self.tree.clear().map_err(|error| self.failed(error))?;
        let mut records = records.peekable();
        while records.peek().is_some() {
            let mut batch = sled::Batch::default();
            for record in records.by_ref().take(BATCH_RECORDS) {
                let (key, value) = record?;
                if let Some(value) = value {
                    batch.insert(key, value);
                }
            }
            self.tree.apply_batch(batch).map_err(|error| self.failed(error))?;
        }
        self.write(None, meta).map(drop)
    }

    /// One atomic batch of one tree, and then every file is synced.
    fn write(&self, changes: Option<&Changes>, meta: &Meta) -> Result<Written, ParticipantError> {
        let mut batch = sled::Batch::default();
        let mut records = 0;
        for (key, value) in changes.into_iter().flat_map(Changes::records) {
            records += 1;
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        batch.insert(Meta::KEY, meta.encode());
        self.tree.apply_batch(batch).map_err(|error| self.failed(error))?;
        failpoint::die_at("participant::during_checkpoint");
        self.tree.flush().map_err(|error| self.failed(error))?;
        let files_synced = sync::sync_all(&self.path).map_err(|error| self.failed(error))?.len();
        Ok(Written { records, files_synced })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use escrow_types::{AccountId, Currency};
    use escrow_wallet::{Command, OpenAccount, Overdraft};

    fn wallet() -> Wallet {
        let mut wallet = Wallet::default();
        let id = AccountId::new("alice").unwrap();
        let row = OpenAccount { id, currency: Currency::USD, overdraft: Overdraft::Forbidden };
        wallet.apply(5, &Command::OpenAccounts(vec![row]));
        wallet
    }

    fn meta(applied: u64) -> Meta {
        Meta { shard: 3, applied, cluster_id: None, position: Vec::new() }
    }

    fn open(dir: &Path) -> (Store, Wallet, u64) {
        let (store, held) = Store::open(dir, 3, None, 1 << 20).unwrap();
        (store, held.wallet, held.applied)
    }

    #[test]
    fn a_checkpoint_is_read_back_with_its_index() {
        let dir = tempfile::tempdir().unwrap();
        let mut wallet = wallet();
        {
            let (store, empty, applied) = open(dir.path());
            assert_eq!((empty.accounts_count(), applied), (0, 0));
            let written = store.write(Some(&wallet.take_changes()), &meta(7)).unwrap();
            assert_eq!(written.records, 3, "meta, account, balance");
        }
        let (store, read, applied) = open(dir.path());
        assert_eq!((read.digest(), applied), (wallet.digest(), 7));
        store.write(None, &meta(9)).unwrap();
        assert_eq!(store.read().unwrap().applied, 9);
    }

    /// Trap: `apply_batch` is atomic in one tree only. So there is one, and it has everything.
    #[test]
    fn there_is_one_tree() {
        let dir = tempfile::tempdir().unwrap();
        let (store, ..) = open(dir.path());
        store.write(Some(&wallet().take_changes()), &meta(1)).unwrap();
        assert_eq!(store.tree.tree_names().len(), 1);
        assert_eq!(store.tree.len(), 4, "the applied index is beside what it speaks of");
    }

    /// Trap: `flush` is no fsync. So every file is synced by us.
    #[test]
    fn every_file_is_synced_by_a_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let (store, ..) = open(dir.path());
        let written = store.write(Some(&wallet().take_changes()), &meta(1)).unwrap();
        let files = std::fs::read_dir(&store.path)
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().file_type().unwrap().is_file());
        let files = files.count();
        assert!(
            files >= 2 && written.files_synced >= files,
            "{files} files, {} synced",
            written.files_synced
        );
    }

    #[test]
    fn the_view_of_another_shard_is_moved_aside() {
        let dir = tempfile::tempdir().unwrap();
        {
            let (store, ..) = open(dir.path());
            store.write(Some(&wallet().take_changes()), &meta(1)).unwrap();
        }
        let (_, held) = Store::open(dir.path(), 4, None, 1 << 20).unwrap();
        assert_eq!((held.wallet.accounts_count(), held.applied), (0, 0));
        assert!(dir.path().join("sled.corrupt-1").is_dir());
    }
}
