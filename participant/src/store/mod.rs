//! The view of one shard: its accounts, balances, reservations and fences as of the last checkpoint, in sled.
//!
//! # On disk
//! `shard-N/sled/`: one tree. The keys of `escrow_wallet::view`, and those of [`meta`] under the letter `s`.
//! `shard-N/checkpoint`, `shard-N/checkpoint.tmp`: a checkpoint that is too large for one batch, see [`draft`].
//! `shard-N/sled.opening`: there while it is being opened; `shard-N/sled.corrupt-K/`: moved aside.
//!
//! # Traps of sled 0.34.7, and what is done about them
//! - `flush` is no fsync on Linux: [`sync`] syncs every file after it.
//! - A kill during open can leave `snap.*.generating`, with which no later open succeeds: [`open`] removes them.
//! - `apply_batch` is atomic in one tree only: there is one tree, and the applied index is in it.
//! - `apply_batch` holds all that it has replaced until it ends, and goes through its records in a random order: 5 GB for a
//!   million accounts. So batches are small, and [`draft`] puts in record by record what is larger.
//! - Each record costs a copy of its neighbours: records are of chunks of rows, not of rows.
//! - Damage can make it panic: [`open`] survives that, even if the panic ends the process.
//!
//! **Invariant:** never the truth. It may be lost at any time; the log rebuilds it.

mod draft;
mod memory;
mod meta;
mod open;
mod sync;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use escrow_journal::storage::Disk;
use escrow_wallet::view::Record;
use escrow_wallet::{Changes, Wallet};

use crate::error::ParticipantError;
use draft::Draft;
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
    fn replace(&mut self, records: Records<'_>, meta: &Meta) -> Result<(), ParticipantError>;

    /// Begins a checkpoint that leads to an index. One that was begun and not committed is forgotten.
    fn begin(&mut self, meta: &Meta) -> Result<(), ParticipantError>;

    /// Takes a part of what changed. What the view holds stays as it was. Blocks.
    fn add(&mut self, changes: &Changes) -> Result<(), ParticipantError>;

    /// Writes what was taken and the index that it leads to, as one, durably. Blocks; a failure is final.
    fn commit(&mut self) -> Result<Written, ParticipantError>;

    /// The three in one.
    fn write(&mut self, changes: Option<&Changes>, meta: &Meta) -> Result<Written, ParticipantError> {
        self.begin(meta)?;
        changes.map_or(Ok(()), |changes| self.add(changes))?;
        self.commit()
    }
}

/// The open view of one shard.
pub(crate) struct Store {
    shard: u16,
    /// The directory of the shard.
    dir: PathBuf,
    /// The sled directory in it.
    path: PathBuf,
    tree: sled::Db,
    /// What files beside sled are on.
    disk: Arc<dyn Disk>,
    draft: Option<Draft>,
}

/// What a checkpoint wrote.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Written {
    pub(crate) records: usize,
    /// Of keys and values.
    pub(crate) bytes: u64,
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
        let Some(value) = self.tree.get(Meta::KEY).map_err(|error| error.to_string())? else {
            return if self.tree.is_empty() {
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
        let mut failure = None;
        let mut take = |record: sled::Result<(sled::IVec, sled::IVec)>| match record {
            Ok((key, value)) if !Meta::is_key(&key) => Some(Some((key, value))),
            Ok((key, _)) if key.as_ref() == Meta::KEY => Some(None),
            Ok(_) => {
                failure = Some("a record of an unknown kind".to_owned());
                None
            }
            Err(error) => {
                failure = Some(error.to_string());
                None
            }
        };
        // One after the other: there may be millions.
        let wallet = Wallet::from_view(self.tree.iter().map_while(&mut take).flatten());
        if let Some(failure) = failure {
            return Err(failure);
        }
        let wallet = wallet.map_err(|error| error.to_string())?;
        Ok(Held { wallet, applied: meta.applied, position: meta.position })
    }

    /// The index that the view has, 0 without a checkpoint.
    fn applied(&self) -> Result<u64, ParticipantError> {
        let meta = self.tree.get(Meta::KEY).map_err(|error| self.failed(error))?;
        let meta = meta.map(|meta| Meta::decode(&meta)).transpose().map_err(|error| self.failed(error))?;
        Ok(meta.map_or(0, |meta| meta.applied))
    }

    fn apply(&self, batch: sled::Batch) -> Result<(), ParticipantError> {
        self.tree.apply_batch(batch).map_err(|error| self.failed(error))
    }

    /// Puts one record in, which is there as a whole or not at all.
    fn put(&self, (key, value): Record) -> Result<(), ParticipantError> {
        let put = match value {
            Some(value) => self.tree.insert(key, value),
            None => self.tree.remove(key),
        };
        put.map(drop).map_err(|error| self.failed(error))
    }

    /// Makes everything durable that is in sled; gives how many files it synced.
    fn sync(&self) -> Result<usize, ParticipantError> {
        self.tree.flush().map_err(|error| self.failed(error))?;
        self.sync_files()
    }

    /// Makes durable what sled has written to its files so far, which is not everything; gives how many there are.
    fn sync_files(&self) -> Result<usize, ParticipantError> {
        Ok(sync::sync_all(&self.path).map_err(|error| self.failed(error))?.len())
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

    fn replace(&mut self, records: Records<'_>, meta: &Meta) -> Result<(), ParticipantError> {
        self.draft = None;
        // What it is of goes first and comes last: a half of it is never taken for a whole.
        self.tree.remove(Meta::KEY).map_err(|error| self.failed(error))?;
        self.tree.clear().map_err(|error| self.failed(error))?;
        self.put_all(records)?;
        self.sync()?;
        self.write(None, meta).map(drop)
    }

    fn begin(&mut self, meta: &Meta) -> Result<(), ParticipantError> {
        self.draft = Some(Draft::new(&self.dir, self.applied()?, meta.clone()));
        Ok(())
    }

    fn add(&mut self, changes: &Changes) -> Result<(), ParticipantError> {
        let (draft, disk) = (self.draft.as_mut().expect("a checkpoint was begun"), &*self.disk);
        let put = changes.records().try_for_each(|record| draft.put(disk, record));
        put.map_err(ParticipantError::file(&self.dir))
    }

    fn commit(&mut self) -> Result<Written, ParticipantError> {
        let draft = self.draft.take().expect("a checkpoint was begun");
        self.commit_draft(draft)
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
            let (mut store, empty, applied) = open(dir.path());
            assert_eq!((empty.accounts_count(), applied), (0, 0));
            let written = store.write(Some(&wallet.take_changes()), &meta(7)).unwrap();
            assert_eq!(written.records, 3, "meta, account, balance");
        }
        let (mut store, read, applied) = open(dir.path());
        assert_eq!((read.digest(), applied), (wallet.digest(), 7));
        store.write(None, &meta(9)).unwrap();
        assert_eq!(store.read().unwrap().applied, 9);
    }

    /// Trap: `apply_batch` is atomic in one tree only. So there is one, and it has everything.
    #[test]
    fn there_is_one_tree() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, ..) = open(dir.path());
        store.write(Some(&wallet().take_changes()), &meta(1)).unwrap();
        assert_eq!(store.tree.tree_names().len(), 1);
        assert_eq!(store.tree.len(), 4, "the applied index is beside what it speaks of");
    }

    /// Trap: `flush` is no fsync. So every file is synced by us.
    #[test]
    fn every_file_is_synced_by_a_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, ..) = open(dir.path());
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
            let (mut store, ..) = open(dir.path());
            store.write(Some(&wallet().take_changes()), &meta(1)).unwrap();
        }
        let (_, held) = Store::open(dir.path(), 4, None, 1 << 20).unwrap();
        assert_eq!((held.wallet.accounts_count(), held.applied), (0, 0));
        assert!(dir.path().join("sled.corrupt-1").is_dir());
    }
}
