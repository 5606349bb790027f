//! A checkpoint on its way into sled: in one batch if it is small, record by record if it is not.
//!
//! A batch is what sled writes as one, and what it holds in memory as often as it has records. So a batch is bounded, and
//! what is larger first goes to a file beside sled, whole and durable, and from there into sled without batches, which cost
//! twice as much and are not needed there:
//! ```text
//! checkpoint.tmp ── all is there, synced ──▶ checkpoint ── a mark, synced; then each record by itself ──────▶ sled
//!                                                       ── synced; then one batch: applied index, no mark ──▶ sled
//!                                            removed ◀── synced
//! ```
//! # What a crash leaves
//! - Before the file has its name: nothing of the checkpoint. The view is that of the one before.
//! - After that: a part of it in sled, which is neither the old state nor the new one, and must not be replayed upon. The
//!   next open puts all records in again; they say what is, not what changes, so twice is as once.
//! - The mark without the file, or with one that is damaged: the view is refused, and rebuilt from the log.
//! - The file without a view that it continues (it was moved aside): the file is removed.

use std::io;
use std::path::{Path, PathBuf};

use escrow_journal::storage::Disk;
use escrow_types::codec::{Malformed, Put as _, Take};
use escrow_wallet::view::Record;

use super::{Meta, Store, Written};
use crate::error::ParticipantError;
use crate::failpoint;
use crate::records::{Reader, Writer};

/// Records of a batch at most, and their bytes, but for one that is larger. For each record sled keeps a copy of its 15
/// neighbours until the batch is in.
const BATCH_RECORDS: usize = 64;
const BATCH_BYTES: usize = 256 << 10;

/// What sled has written of a large checkpoint is synced in steps: the log is on the same disk, and a sync of much holds its own up.
const SYNC_EVERY_BYTES: usize = 2 << 20;

/// The last byte is the version of the records: see `escrow_wallet::view`.
const MAGIC: [u8; 8] = *b"ESCROWD2";

/// In sled while it has a part of a checkpoint: the applied index of that one.
pub(super) const MARK: &[u8] = b"spart";

/// A checkpoint whose records are not all there yet.
pub(super) struct Draft {
    meta: Meta,
    /// The view that it continues.
    base: u64,
    dir: PathBuf,
    /// While they fit into one batch.
    small: Small,
    /// Since they do not.
    file: Option<Writer>,
    records: usize,
    bytes: u64,
}

/// Records that fit into one batch.
#[derive(Default)]
struct Small {
    records: Vec<Record>,
    bytes: usize,
}

/// Of key and value.
fn size((key, value): &Record) -> usize {
    key.len() + value.as_ref().map_or(0, Vec::len)
}

impl Small {
    fn is_full(&self) -> bool {
        self.records.len() >= BATCH_RECORDS || self.bytes >= BATCH_BYTES
    }

    fn push(&mut self, record: Record) {
        self.bytes += size(&record);
        self.records.push(record);
    }

    fn into_batch(self) -> sled::Batch {
        let mut batch = sled::Batch::default();
        for (key, value) in self.records {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        batch
    }
}

pub(super) fn file(dir: &Path) -> PathBuf {
    dir.join("checkpoint")
}

fn unfinished(dir: &Path) -> PathBuf {
    dir.join("checkpoint.tmp")
}

/// u64 applied index of the view that it continues, then [`Meta`] to the end.
fn header(base: u64, meta: &Meta) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_u64(base);
    out.put_bytes(&meta.encode());
    out
}

fn read_header(header: &[u8]) -> Result<(u64, Meta), Malformed> {
    let mut take = Take::new(header);
    let (base, meta) = (take.u64()?, Meta::decode(take.bytes()?)?);
    take.finish()?;
    Ok((base, meta))
}

impl Draft {
    pub(super) fn new(dir: &Path, base: u64, meta: Meta) -> Self {
        Self { meta, base, dir: dir.to_owned(), small: Small::default(), file: None, records: 0, bytes: 0 }
    }

    pub(super) fn put(&mut self, disk: &dyn Disk, record: Record) -> io::Result<()> {
        self.records += 1;
        self.bytes += size(&record) as u64;
        if self.file.is_none() && self.small.is_full() {
            let header = header(self.base, &self.meta);
            let mut file = Writer::create(disk, &unfinished(&self.dir), MAGIC, &header)?;
            for (key, value) in std::mem::take(&mut self.small).records {
                file.put(&key, value.as_deref())?;
            }
            self.file = Some(file);
        }
        if let Some(file) = &mut self.file {
            return file.put(&record.0, record.1.as_deref());
        }
        self.small.push(record);
        Ok(())
    }
}

/// What is left of a checkpoint when a view is opened.
pub(super) enum Unfinished {
    /// The view is whole.
    None,
    /// The view is neither the old state nor the new one, and cannot be made either.
    Lost(String),
}

impl Store {
    /// Writes a checkpoint all of which is there, durably.
    pub(super) fn commit_draft(&self, mut draft: Draft) -> Result<Written, ParticipantError> {
        let files_synced = if let Some(writer) = draft.file.take() {
            self.put_large(self.seal(writer)?, &draft.meta)?
        } else {
            let mut batch = draft.small.into_batch();
            batch.insert(Meta::KEY, draft.meta.encode());
            self.apply(batch)?;
            failpoint::die_at("participant::during_checkpoint");
            self.sync()?
        };
        Ok(Written { records: draft.records, bytes: draft.bytes, files_synced })
    }

    /// Gives a file its name, when it is whole and durable.
    fn seal(&self, writer: Writer) -> Result<Reader, ParticipantError> {
        let (path, disk) = (file(&self.dir), &*self.disk);
        let written = writer.finish().and_then(|file| file.sync_data());
        written
            .and_then(|()| disk.rename(&unfinished(&self.dir), &path))
            .and_then(|()| disk.sync_dir(&self.dir))
            .map_err(ParticipantError::file(&path))?;
        let reader = Reader::open(disk, &path, MAGIC).map_err(ParticipantError::file(&path))?;
        reader.ok_or_else(|| self.failed("the checkpoint that was just written is gone"))
    }

    /// Puts a whole checkpoint into sled, and takes its file away.
    fn put_large(&self, reader: Reader, meta: &Meta) -> Result<usize, ParticipantError> {
        let path = file(&self.dir);
        self.put_mark(meta)?;
        let records = reader.map(|record| record.map_err(ParticipantError::file(&path)));
        self.put_all(&mut records.inspect(|_| failpoint::die_at("participant::within_large_checkpoint")))?;
        // What says that all is there must not be durable before all is.
        self.sync()?;
        let mut batch = sled::Batch::default();
        batch.remove(MARK);
        batch.insert(Meta::KEY, meta.encode());
        self.apply(batch)?;
        failpoint::die_at("participant::during_checkpoint");
        let files_synced = self.sync()?;
        self.remove_file(&path)?;
        Ok(files_synced)
    }

    /// Puts in again what a crash cut off. To be called before anything of the view is read.
    pub(super) fn finish_checkpoint(&self) -> Result<Unfinished, ParticipantError> {
        let path = file(&self.dir);
        // Never had its name: nothing of it is in sled.
        self.remove_file(&unfinished(&self.dir))?;
        let mark = self.tree.get(MARK).map_err(|error| self.failed(error))?;
        let lost = |why: &str| {
            let why = format!("it has a part of a checkpoint, and the rest of that {why}");
            if mark.is_some() { Unfinished::Lost(why) } else { Unfinished::None }
        };
        let reader = match Reader::open(&*self.disk, &path, MAGIC) {
            Ok(Some(reader)) => reader,
            Ok(None) => return Ok(lost("is gone")),
            Err(error) if is_content(&error) => {
                self.remove_file(&path)?;
                return Ok(lost(&format!("is damaged: {error}")));
            }
            Err(error) => return Err(ParticipantError::file(&path)(error)),
        };
        let continued = read_header(&reader.header).ok().filter(|(base, meta)| {
            let is_marked =
                mark.as_ref().is_none_or(|mark| mark.as_ref() == meta.applied.to_le_bytes().as_slice());
            let found = self.applied().ok();
            found == Some(*base) && meta.shard == self.shard && meta.applied >= *base && is_marked
        });
        let Some((base, meta)) = continued else {
            drop(reader);
            self.remove_file(&path)?;
            return Ok(lost("is of another view"));
        };
        tracing::info!(shard = self.shard, base, applied = meta.applied, "finishing a checkpoint");
        self.put_large(reader, &meta)?;
        Ok(Unfinished::None)
    }

    /// Makes a removal durable; without such a file does nothing.
    fn remove_file(&self, path: &Path) -> Result<(), ParticipantError> {
        match self.disk.remove(path) {
            Ok(()) => self.disk.sync_dir(&self.dir).map_err(ParticipantError::file(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(ParticipantError::file(path)(error)),
        }
    }

    /// Says that what sled has is neither the old state nor the new one: durably, before it becomes so.
    fn put_mark(&self, meta: &Meta) -> Result<(), ParticipantError> {
        self.put((MARK.to_vec(), Some(meta.applied.to_le_bytes().to_vec())))?;
        self.sync().map(drop)
    }

    /// Puts records into sled, each by itself. Not everything is synced.
    pub(super) fn put_all(
        &self,
        records: &mut dyn Iterator<Item = Result<Record, ParticipantError>>,
    ) -> Result<(), ParticipantError> {
        let mut unsynced = 0;
        for record in records {
            let record = record?;
            unsynced += size(&record);
            self.put(record)?;
            if unsynced >= SYNC_EVERY_BYTES {
                self.sync_files()?;
                unsynced = 0;
            }
        }
        Ok(())
    }
}

/// Whether an error says something about the content rather than about the machine.
fn is_content(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::View as _;
    use escrow_types::{AccountId, Currency, Digest, Epoch, Partition};
    use escrow_wallet::{Command, Hello, OpenAccount, Overdraft, Sender, TryBatch, Wallet, kind_of};

    const ACCOUNTS: u64 = 10_000;

    fn id(number: u64) -> AccountId {
        AccountId::new(&format!("account-{number}")).unwrap()
    }

    fn meta(applied: u64) -> Meta {
        Meta { shard: 3, applied, cluster_id: None, position: Vec::new() }
    }

    fn open(dir: &Path) -> (Store, u64, Digest) {
        let (store, held) = Store::open(dir, 3, None, 1 << 20).unwrap();
        (store, held.applied, held.wallet.digest())
    }

    fn mark(store: &Store) -> Option<sled::IVec> {
        store.tree.get(MARK).unwrap()
    }

    /// A view of entry 7, and a checkpoint of entry 9, in which every account has another balance, up to where its file has
    /// its name. Gives the digests of both.
    fn sealed(dir: &Path) -> (Store, Reader, [Digest; 2]) {
        let (store, writer, digests) = written(dir);
        let reader = store.seal(writer).unwrap();
        (store, reader, digests)
    }

    fn written(dir: &Path) -> (Store, Writer, [Digest; 2]) {
        let (mut store, ..) = open(dir);
        let mut wallet = Wallet::default();
        let rows = (0..ACCOUNTS).map(|number| OpenAccount {
            id: id(number),
            currency: Currency::USD,
            overdraft: Overdraft::Forbidden,
        });
        wallet.apply(5, &Command::OpenAccounts(rows.collect()));
        wallet.apply(
            5,
            &Command::Hello(Hello { partition: Partition(0), epoch: Epoch(1), unfinished: vec![] }),
        );
        let written = store.write(Some(&wallet.take_changes()), &meta(7)).unwrap();
        assert!(written.records > 4 * BATCH_RECORDS, "more than a batch");
        assert!(!file(dir).exists() && mark(&store).is_none());
        let before = wallet.digest();
        let accounts = (0..ACCOUNTS).map(|number| id(number).key().0).collect();
        let (amounts, kinds) =
            (vec![1; ACCOUNTS as usize], vec![kind_of(Currency::USD, true); ACCOUNTS as usize]);
        let sender = Sender::new(Partition(0), Epoch(1));
        let sequences = (0..ACCOUNTS).collect();
        let credits = TryBatch::new(sender, Epoch(1), 0, sequences, accounts, amounts, kinds).unwrap();
        wallet.apply(6, &Command::TryAndConfirm(credits));
        store.begin(&meta(9)).unwrap();
        store.add(&wallet.take_changes()).unwrap();
        let writer = store.draft.take().unwrap().file.unwrap();
        (store, writer, [before, wallet.digest()])
    }

    /// Puts the mark in, and so many records.
    fn put(store: &Store, reader: Reader, records: usize) {
        store.put_mark(&meta(9)).unwrap();
        store.put_all(&mut reader.take(records).map(|record| Ok(record.unwrap()))).unwrap();
        store.sync().unwrap();
    }

    #[test]
    fn a_crash_within_a_large_checkpoint_leaves_what_the_next_open_finishes() {
        // Before the mark, and after it with so many records.
        for records in [None, Some(0), Some(1), Some(2 * BATCH_RECORDS), Some(usize::MAX)] {
            let dir = tempfile::tempdir().unwrap();
            let (store, reader, [before, after]) = sealed(dir.path());
            if let Some(records) = records {
                put(&store, reader, records);
            }
            // With a mark it must be neither read nor replayed upon.
            let is_before = store.read().is_ok_and(|held| held.wallet.digest() == before);
            assert_eq!((is_before, mark(&store).is_some()), (records.is_none(), records.is_some()));
            drop(store);
            let (store, applied, digest) = open(dir.path());
            assert_eq!((applied, digest), (9, after), "{records:?} records");
            assert!(mark(&store).is_none() && !file(dir.path()).exists());
            assert!(!dir.path().join("sled.corrupt-1").exists());
        }
    }

    /// Its files are synced several times on the way.
    #[test]
    fn a_checkpoint_of_very_many_accounts_is_read_back() {
        const MANY: u64 = 90_000;
        let dir = tempfile::tempdir().unwrap();
        let (mut store, ..) = open(dir.path());
        let mut wallet = Wallet::default();
        let (currency, overdraft) = (Currency::USD, Overdraft::Forbidden);
        let rows = (0..MANY).map(|number| OpenAccount { id: id(number), currency, overdraft });
        wallet.apply(5, &Command::OpenAccounts(rows.collect()));
        let written = store.write(Some(&wallet.take_changes()), &meta(7)).unwrap();
        assert!(written.bytes > 2 * SYNC_EVERY_BYTES as u64, "{written:?}");
        assert!((20 * MANY..200 * MANY).contains(&written.bytes), "{written:?}");
        drop(store);
        let (_store, applied, digest) = open(dir.path());
        assert_eq!((applied, digest), (7, wallet.digest()));
    }

    #[test]
    fn a_crash_before_the_file_has_its_name_leaves_the_checkpoint_before() {
        let dir = tempfile::tempdir().unwrap();
        let (store, writer, [before, _]) = written(dir.path());
        drop((store, writer));
        let (_store, applied, digest) = open(dir.path());
        assert_eq!((applied, digest), (7, before));
        assert!(!unfinished(dir.path()).exists());
    }

    #[test]
    fn a_part_without_the_rest_is_never_taken_for_a_view() {
        let damages: [fn(&Path); 3] = [
            |file| std::fs::remove_file(file).unwrap(),
            |file| {
                let mut bytes = std::fs::read(file).unwrap();
                *bytes.last_mut().unwrap() ^= 1;
                std::fs::write(file, bytes).unwrap();
            },
            // That of another checkpoint.
            |path| {
                let writer = Writer::create(
                    &*escrow_journal::storage::OsDisk::shared(),
                    path,
                    MAGIC,
                    &header(7, &meta(8)),
                );
                drop(writer.unwrap().finish().unwrap());
            },
        ];
        for damage in damages {
            let dir = tempfile::tempdir().unwrap();
            let (store, reader, _) = sealed(dir.path());
            put(&store, reader, 2 * BATCH_RECORDS);
            drop(store);
            damage(&file(dir.path()));
            let (_store, applied, digest) = open(dir.path());
            assert_eq!((applied, digest), (0, Wallet::default().digest()), "rebuilt from the log");
            assert!(dir.path().join("sled.corrupt-1").is_dir());
            assert!(!file(dir.path()).exists());
        }
    }

    #[test]
    fn a_file_that_the_view_does_not_need_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (store, reader, [_, after]) = sealed(dir.path());
        let whole = std::fs::read(file(dir.path())).unwrap();
        store.put_large(reader, &meta(9)).unwrap();
        drop(store);
        // Its removal was not durable yet; or it was damaged, and nobody needs it.
        for bytes in [&whole[..], &whole[..99]] {
            std::fs::write(file(dir.path()), bytes).unwrap();
            let (_store, applied, digest) = open(dir.path());
            assert_eq!((applied, digest), (9, after));
            assert!(!file(dir.path()).exists());
        }
    }
}
