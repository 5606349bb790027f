//! A snapshot of a shard as a file: the records of a view, and what they are of. Made for a follower that is too far behind for the log,
//! and kept by it until its own view has everything.
//! [`records`](crate::records) says what is in it.
//!
//! **Invariant:** a file that is cut, or altered, is refused before anything of it is used.

use std::path::Path;

use escrow_journal::storage::Disk;
use escrow_wallet::view::Record;

use crate::error::ParticipantError;
use crate::records::{Reader, Writer};
use crate::store::{Meta, View};

/// The last byte is the version of the records: see `escrow_wallet::view`.
const MAGIC: [u8; 8] = *b"ESCROWS2";

fn wrong(path: &Path, why: impl std::fmt::Display) -> ParticipantError {
    ParticipantError::Snapshot { path: path.to_owned(), why: why.to_string() }
}

/// Writes what a view holds to a new file, in place of one that may be there. Gives what it is of. Blocks.
pub(crate) fn write(
    disk: &dyn Disk,
    path: &Path,
    view: &dyn View,
    meta: &Meta,
) -> Result<(), ParticipantError> {
    let mut writer = Writer::create(disk, path, MAGIC, &meta.encode()).map_err(|error| wrong(path, error))?;
    let exported =
        view.export(&mut |key, value| writer.put(key, Some(value)).map_err(|error| wrong(path, error)))?;
    // Whoever writes the view is whoever calls this: it cannot have moved.
    assert_eq!(&exported, meta, "a view changed while it was exported");
    writer.finish().map(drop).map_err(|error| wrong(path, error))
}

/// A snapshot whose checksum is right.
pub(crate) struct Snapshot<'a> {
    path: &'a Path,
    records: Reader,
    /// What it is of.
    pub(crate) meta: Meta,
}

/// Opens a file and checks all of it. `None` if there is none. Blocks.
pub(crate) fn open<'a>(disk: &dyn Disk, path: &'a Path) -> Result<Option<Snapshot<'a>>, ParticipantError> {
    let records = Reader::open(disk, path, MAGIC).map_err(|error| wrong(path, error))?;
    let Some(records) = records else { return Ok(None) };
    let meta = Meta::decode(&records.header).map_err(|error| wrong(path, error))?;
    Ok(Some(Snapshot { path, records, meta }))
}

impl Iterator for Snapshot<'_> {
    type Item = Result<Record, ParticipantError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.records.next().map(|record| match record {
            Ok((_, None)) => Err(wrong(self.path, "a key without a value")),
            record => record.map_err(|error| wrong(self.path, error)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryView;
    use escrow_journal::storage::OsDisk;
    use escrow_types::{AccountId, Currency};
    use escrow_wallet::{Command, OpenAccount, Overdraft, Wallet};

    fn meta() -> Meta {
        Meta { shard: 3, applied: 9, cluster_id: None, position: vec![1, 2] }
    }

    #[test]
    fn a_snapshot_gives_the_view_that_it_was_made_of() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.snapshot");
        let disk = OsDisk::shared();
        assert!(open(&*disk, &path).unwrap().is_none());
        let mut wallet = Wallet::default();
        let ids = ["alice", "bob"].map(|id| AccountId::new(id).unwrap());
        let rows = ids.map(|id| OpenAccount { id, currency: Currency::USD, overdraft: Overdraft::Forbidden });
        wallet.apply(5, &Command::OpenAccounts(rows.to_vec()));
        let mut view = MemoryView::new(3);
        view.write(Some(&wallet.take_changes()), &meta()).unwrap();
        write(&*disk, &path, &view, &meta()).unwrap();

        let mut snapshot = open(&*disk, &path).unwrap().unwrap();
        assert_eq!(snapshot.meta, meta());
        let mut other = MemoryView::new(3);
        other.write(None, &Meta { applied: 1, ..meta() }).unwrap();
        other.replace(&mut snapshot, &meta()).unwrap();
        let held = other.read().unwrap();
        assert_eq!((held.wallet.digest(), held.applied, held.position), (wallet.digest(), 9, vec![1, 2]));

        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut altered = whole.clone();
            altered[at] ^= 1;
            std::fs::write(&path, &altered).unwrap();
            assert!(open(&*disk, &path).is_err(), "byte {at}");
            std::fs::write(&path, &whole[..at]).unwrap();
            assert!(open(&*disk, &path).is_err(), "cut at {at}");
        }
    }
}
