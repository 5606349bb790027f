//! Records of a view in a file, written from front to back and summed up at its end.
//!
//! ```text
//! magic (8 bytes)  u32 length, header  { u32 length, key  u32 length, value }*  u32 0xFFFFFFFF  u64 records
//! u32 CRC-32C of all before
//! ```
//! Integers are little endian. A length of 0xFFFFFFFF in place of a value's: the record is deleted.
//!
//! **Invariant:** a file that is cut, or altered, is refused before anything of it is used; at no time more than a piece
//! of it is in memory.

use std::io::{self, BufReader, Read, Write as _};
use std::path::Path;

use escrow_journal::storage::{Disk, DiskFile, SequentialWrite};
use escrow_wallet::view::Record;

/// In place of a length: no more records, or no value.
const NONE: u32 = u32::MAX;
/// No record is nearly as large.
const FIELD_BYTES_MAX: u32 = 64 << 20;
/// Read and written in pieces of this size.
const PIECE_BYTES: usize = 256 << 10;

/// A file that is being written.
pub(crate) struct Writer {
    file: SequentialWrite<Box<dyn DiskFile>>,
    piece: Vec<u8>,
    crc: u32,
    records: u64,
}

impl Writer {
    /// Begins a new file, in place of one that may be there, left by an attempt that broke off.
    pub(crate) fn create(disk: &dyn Disk, path: &Path, magic: [u8; 8], header: &[u8]) -> io::Result<Self> {
        // If it stays, the next line says so.
        let _ = disk.remove(path);
        let file = SequentialWrite::new(disk.create_new(path)?, 0);
        let piece = Vec::with_capacity(PIECE_BYTES);
        let mut this = Self { file, piece, crc: 0, records: 0 };
        this.append(&magic)?;
        this.field(header)?;
        Ok(this)
    }

    /// Adds a record.
    pub(crate) fn put(&mut self, key: &[u8], value: Option<&[u8]>) -> io::Result<()> {
        self.records += 1;
        self.field(key)?;
        match value {
            Some(value) => self.field(value),
            None => self.append(&NONE.to_le_bytes()),
        }
    }

    /// Ends the file. Not everything is synced.
    pub(crate) fn finish(mut self) -> io::Result<Box<dyn DiskFile>> {
        self.append(&NONE.to_le_bytes())?;
        self.append(&self.records.to_le_bytes())?;
        self.write()?;
        self.file.write_all(&self.crc.to_le_bytes())?;
        Ok(self.file.into_file())
    }

    fn field(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.append(&(bytes.len() as u32).to_le_bytes())?;
        self.append(bytes)
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.piece.len() + bytes.len() > PIECE_BYTES {
            self.write()?;
        }
        self.piece.extend_from_slice(bytes);
        Ok(())
    }

    fn write(&mut self) -> io::Result<()> {
        self.file.write_all(&self.piece)?;
        self.crc = crc32c::crc32c_append(self.crc, &self.piece);
        self.piece.clear();
        Ok(())
    }
}

/// A file whose checksum is right. Gives its records, in the order in which they were put.
pub(crate) struct Reader {
    input: BufReader<Positioned>,
    /// What was given to [`Writer::create`].
    pub(crate) header: Vec<u8>,
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

fn wrong(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

impl Reader {
    /// Opens a file and checks all of it. `None` if there is none. Blocks.
    pub(crate) fn open(disk: &dyn Disk, path: &Path, magic: [u8; 8]) -> io::Result<Option<Self>> {
        let file = match disk.open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let body = file.size()?.checked_sub(4).ok_or_else(|| wrong("it is too short"))?;
        let (mut crc, mut offset, mut piece) = (0, 0, vec![0; PIECE_BYTES]);
        while offset < body {
            let len = PIECE_BYTES.min((body - offset) as usize);
            file.read_exact_at(&mut piece[..len], offset)?;
            crc = crc32c::crc32c_append(crc, &piece[..len]);
            offset += len as u64;
        }
        let mut found = [0; 4];
        file.read_exact_at(&mut found, body)?;
        if u32::from_le_bytes(found) != crc {
            return Err(wrong("its checksum is wrong"));
        }
        let mut input = BufReader::with_capacity(PIECE_BYTES, Positioned { file, offset: 0 });
        let mut begins = [0; 8];
        input.read_exact(&mut begins)?;
        if begins != magic {
            return Err(wrong("it is of another kind, or of another version"));
        }
        let header = take_field(&mut input)?.ok_or_else(|| wrong("it is of nothing"))?;
        Ok(Some(Self { input, header, ended: false }))
    }

    fn take(&mut self) -> io::Result<Option<Record>> {
        let Some(key) = take_field(&mut self.input)? else { return Ok(None) };
        Ok(Some((key, take_field(&mut self.input)?)))
    }
}

impl Iterator for Reader {
    type Item = io::Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let record = self.take().transpose();
        self.ended = !matches!(record, Some(Ok(_)));
        record
    }
}

/// `None` in place of a field.
fn take_field(input: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut len = [0; 4];
    input.read_exact(&mut len)?;
    let len = u32::from_le_bytes(len);
    if len == NONE {
        return Ok(None);
    }
    if len > FIELD_BYTES_MAX {
        return Err(wrong("a field is too long"));
    }
    // As long as what is there, whatever it says.
    let mut bytes = Vec::with_capacity(PIECE_BYTES.min(len as usize));
    input.take(len.into()).read_to_end(&mut bytes)?;
    if bytes.len() < len as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use escrow_journal::storage::OsDisk;

    const MAGIC: [u8; 8] = *b"ATESTOF1";

    #[test]
    fn records_come_back_in_their_order_and_larger_than_a_piece() {
        let dir = tempfile::tempdir().unwrap();
        let (path, disk) = (dir.path().join("records"), OsDisk::shared());
        assert!(Reader::open(&*disk, &path, MAGIC).unwrap().is_none());
        let mut records: Vec<Record> = (0..300_u32).map(|n| (n.to_be_bytes().to_vec(), None)).collect();
        records[7].1 = Some(vec![3; 2 * PIECE_BYTES]);
        records[8].1 = Some(Vec::new());
        for _ in 0..2 {
            let mut writer = Writer::create(&*disk, &path, MAGIC, b"header").unwrap();
            for (key, value) in &records {
                writer.put(key, value.as_deref()).unwrap();
            }
            drop(writer.finish().unwrap());
        }
        let mut reader = Reader::open(&*disk, &path, MAGIC).unwrap().unwrap();
        assert_eq!(reader.header, b"header");
        assert!(reader.by_ref().map(Result::unwrap).eq(records));
        assert!(reader.next().is_none());
        assert!(Reader::open(&*disk, &path, *b"ATESTOF2").is_err());
    }
}
