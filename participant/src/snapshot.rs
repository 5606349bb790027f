//! A snapshot of a shard as a file: the records of a view, and what they are of. Made for a follower that is too far behind for the log,
//! and kept by it until its own view has everything.
//!
//! ```text
//! "ESCROWS1"  u32 length, meta  { u32 length, key  u32 length, value }*  u32 0xFFFFFFFF  u64 records  u32 CRC-32C of all before
//! ```
//! Integers are little endian. **Invariant:** a file that is cut, or altered, is refused before anything of it is used.

use std::io::{self, Read, Write};
use std::path::Path;

use escrow_journal::storage::{Disk, DiskFile};
use escrow_wallet::view::Record;

use crate::error::ParticipantError;
use crate::store::{Meta, View};

const MAGIC: &[u8; 8] = b"ESCROWS1";
/// In place of a key's length: no more records.
const END: u32 = u32::MAX;
/// No key or value is as long.
const FIELD_BYTES_MAX: u32 = 64 << 20;
const BUFFER_BYTES: usize = 256 << 10;

fn wrong(path: &Path, why: impl std::fmt::Display) -> ParticipantError {
    ParticipantError::Snapshot { path: path.to_owned(), why: why.to_string() }
}

/// Reads or writes a file from its start, and sums it up.
struct Summed<'a> {
    file: &'a dyn DiskFile,
    offset: u64,
    crc: u32,
}

impl Write for Summed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all_at(bytes, self.offset)?;
        self.offset += bytes.len() as u64;
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes what a view holds to a new file, in place of one that may be there. Gives what it is of. Blocks.
pub(crate) fn write(
    disk: &dyn Disk,
    path: &Path,
    view: &dyn View,
    meta: &Meta,
) -> Result<(), ParticipantError> {
    let failed = |error: io::Error| wrong(path, error);
    // Left by an attempt that broke off.
    let _ = disk.remove(path);
    let file = disk.create_new(path).map_err(failed)?;
    let mut out = io::BufWriter::with_capacity(BUFFER_BYTES, Summed { file: &*file, offset: 0, crc: 0 });
    let mut put = |bytes: &[u8]| out.write_all(bytes);
    put(MAGIC).map_err(failed)?;
    field(&mut put, &meta.encode()).map_err(failed)?;
    let mut records = 0_u64;
    let exported = view.export(&mut |key, value| {
        records += 1;
        field(&mut put, key).and_then(|()| field(&mut put, value)).map_err(failed)
    })?;
    // Whoever writes the view is whoever calls this: it cannot have moved.
    assert_eq!(&exported, meta, "a view changed while it was exported");
    put(&END.to_le_bytes()).and_then(|()| put(&records.to_le_bytes())).map_err(failed)?;
    let Summed { offset, crc, .. } = out.into_inner().map_err(|error| wrong(path, error.error()))?;
    file.write_all_at(&crc.to_le_bytes(), offset).map_err(failed)
}

fn field(put: &mut dyn FnMut(&[u8]) -> io::Result<()>, bytes: &[u8]) -> io::Result<()> {
    put(&(bytes.len() as u32).to_le_bytes())?;
    put(bytes)
}

/// A snapshot whose checksum is right.
pub(crate) struct Snapshot<'a> {
    path: &'a Path,
    input: io::BufReader<Positioned>,
    /// What it is of.
    pub(crate) meta: Meta,
    ended: bool,
}

struct Positioned {
    file: Box<dyn DiskFile>,
    offset: u64,
}

impl Read for Positioned {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}

/// Opens a file and checks all of it. `None` if there is none. Blocks.
pub(crate) fn open<'a>(disk: &dyn Disk, path: &'a Path) -> Result<Option<Snapshot<'a>>, ParticipantError> {
    let failed = |error: io::Error| wrong(path, error);
    let file = match disk.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let size = file.size().map_err(failed)?;
    let body = size.checked_sub(4).ok_or_else(|| wrong(path, "it is too short"))?;
    let (mut crc, mut offset, mut buffer) = (0, 0, vec![0; BUFFER_BYTES]);
    while offset < body {
        let len = BUFFER_BYTES.min((body - offset) as usize);
        file.read_exact_at(&mut buffer[..len], offset).map_err(failed)?;
        crc = crc32c::crc32c_append(crc, &buffer[..len]);
        offset += len as u64;
    }
    let mut found = [0; 4];
    file.read_exact_at(&mut found, body).map_err(failed)?;
    if u32::from_le_bytes(found) != crc {
        return Err(wrong(path, "its checksum is wrong"));
    }
    let mut input = io::BufReader::with_capacity(BUFFER_BYTES, Positioned { file, offset: 0 });
    let mut magic = [0; 8];
    input.read_exact(&mut magic).map_err(failed)?;
    if magic != *MAGIC {
        return Err(wrong(path, "it is none of a shard"));
    }
    let meta = take_field(&mut input).map_err(failed)?.ok_or_else(|| wrong(path, "it is of nothing"))?;
    let meta = Meta::decode(&meta).map_err(|error| wrong(path, error))?;
    Ok(Some(Snapshot { path, input, meta, ended: false }))
}

/// `None` at the end of the records.
fn take_field(input: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut len = [0; 4];
    input.read_exact(&mut len)?;
    let len = u32::from_le_bytes(len);
    if len == END {
        return Ok(None);
    }
    if len > FIELD_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a field is too long"));
    }
    // As long as what is there, whatever it says.
    let mut bytes = Vec::new();
    input.take(len.into()).read_to_end(&mut bytes)?;
    if bytes.len() < len as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(bytes))
}

impl Snapshot<'_> {
    fn take(&mut self) -> io::Result<Option<Record>> {
        let Some(key) = take_field(&mut self.input)? else { return Ok(None) };
        let value = take_field(&mut self.input)?;
        let value =
            value.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a key without a value"))?;
        Ok(Some((key, Some(value))))
    }
}

impl Iterator for Snapshot<'_> {
    type Item = Result<Record, ParticipantError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let record = self.take().map_err(|error| wrong(self.path, error)).transpose();
        self.ended = !matches!(record, Some(Ok(_)));
        record
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
        let view = MemoryView::new(3);
        view.write(Some(&wallet.take_changes()), &meta()).unwrap();
        write(&*disk, &path, &view, &meta()).unwrap();

        let mut snapshot = open(&*disk, &path).unwrap().unwrap();
        assert_eq!(snapshot.meta, meta());
        let other = MemoryView::new(3);
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
