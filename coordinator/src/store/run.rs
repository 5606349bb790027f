//! One immutable run: the ended transactions between two checkpoints, sorted by key.
//!
//! Layout: a header of 64 bytes (magic, version, count, newest end, range of UUIDv7 times, whether there are other ids,
//! CRC-32C of the rows, CRC-32C of the header), then rows of 48 bytes. In memory: the header, a filter, and the first key of
//! each block of rows; a look-up that passes time range and filter costs one read of one block.

use std::cmp::Reverse;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use escrow_journal::background::Pace;
use escrow_journal::storage::{Disk, DiskFile, SequentialWrite, durable_replace_with};
use escrow_tcc::machine::{Outcome, Row};
use escrow_types::codec::{Malformed, Put as _, Take};
use escrow_types::{Epoch, Millis, TransactionKey};

use super::filter::Filter;

const MAGIC: u64 = u64::from_le_bytes(*b"escrowRN");
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 64;
const ROW_BYTES: usize = 48;
const BLOCK_ROWS: usize = 64;

/// What the rows of a run have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Summary {
    count: u64,
    newest_end_ms: Millis,
    /// Range of the times that UUIDv7 keys bear; empty (first > last) when there are none.
    v7_first_ms: Millis,
    v7_last_ms: Millis,
    has_other_ids: bool,
}

impl Summary {
    fn of(rows: &[&Row]) -> Self {
        let mut summary = Self {
            count: rows.len() as u64,
            newest_end_ms: 0,
            v7_first_ms: Millis::MAX,
            v7_last_ms: 0,
            has_other_ids: false,
        };
        for row in rows {
            summary.newest_end_ms = summary.newest_end_ms.max(row.finished_ms);
            match row.key.uuid_v7_millis() {
                Some(born) => {
                    summary.v7_first_ms = summary.v7_first_ms.min(born);
                    summary.v7_last_ms = summary.v7_last_ms.max(born);
                }
                None => summary.has_other_ids = true,
            }
        }
        summary
    }

    fn may_hold(&self, key: TransactionKey) -> bool {
        match key.uuid_v7_millis() {
            Some(born) => (self.v7_first_ms..=self.v7_last_ms).contains(&born),
            None => self.has_other_ids,
        }
    }
}

/// A run. Its file is opened for each look-up that reads it: there may be thousands of runs, and such look-ups are rare.
pub(crate) struct Run {
    name: String,
    path: PathBuf,
    disk: Arc<dyn Disk>,
    summary: Summary,
    filter: Filter,
    /// The first key of each block.
    firsts: Vec<TransactionKey>,
}

fn put_row(out: &mut Vec<u8>, row: &Row) {
    out.put_u128(row.key.0);
    out.put_u64(row.sequence);
    out.put_u64(row.fingerprint);
    out.put_u64(row.finished_ms);
    out.put_u32(row.epoch.0);
    out.put_u32(u32::from(row.outcome));
}

/// Rows of a run have ended, one way or another: a row that says neither is no row.
fn take_row(take: &mut Take<'_>) -> Result<Row, Malformed> {
    let row = Row {
        key: TransactionKey(take.u128()?),
        sequence: take.u64()?,
        fingerprint: take.u64()?,
        finished_ms: take.u64()?,
        epoch: Epoch(take.u32()?),
        outcome: u8::try_from(take.u32()?).map_err(|_| Malformed("outcome"))?,
    };
    if row.finished_ms == 0 || Outcome::from_byte(row.outcome).is_none() {
        return Err(Malformed("outcome"));
    }
    Ok(row)
}

fn header(summary: &Summary, rows_crc: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES);
    out.put_u64(MAGIC);
    out.put_u32(VERSION);
    out.put_u32(u32::from(summary.has_other_ids));
    out.put_u64(summary.count);
    out.put_u64(summary.newest_end_ms);
    out.put_u64(summary.v7_first_ms);
    out.put_u64(summary.v7_last_ms);
    out.put_u32(rows_crc);
    out.resize(HEADER_BYTES - 4, 0);
    let crc = crc32c::crc32c(&out);
    out.put_u32(crc);
    out
}

fn read_header(bytes: &[u8; HEADER_BYTES]) -> Result<(Summary, u32), Malformed> {
    let (body, crc) = bytes.split_last_chunk::<4>().ok_or(Malformed("too short"))?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
        return Err(Malformed("checksum of the header"));
    }
    let mut take = Take::new(body);
    if take.u64()? != MAGIC || take.u32()? != VERSION {
        return Err(Malformed("not a run of this version"));
    }
    let has_other_ids = take.u32()? != 0;
    let summary = Summary {
        count: take.u64()?,
        newest_end_ms: take.u64()?,
        v7_first_ms: take.u64()?,
        v7_last_ms: take.u64()?,
        has_other_ids,
    };
    Ok((summary, take.u32()?))
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// So many rows are read and written at a time.
const CHUNK_ROWS: usize = 1 << 14;

/// Writes rows and header piece by piece.
fn write_rows(file: &dyn DiskFile, summary: &Summary, rows: &[&Row], pace: &Pace) -> io::Result<()> {
    let (mut out, mut crc) = (SequentialWrite::new(file, HEADER_BYTES as u64), 0);
    let mut bytes = Vec::with_capacity(CHUNK_ROWS.min(rows.len()) * ROW_BYTES);
    for (at, chunk) in rows.chunks(CHUNK_ROWS).enumerate() {
        pace.reached(at * CHUNK_ROWS, rows.len());
        bytes.clear();
        for row in chunk {
            put_row(&mut bytes, row);
        }
        crc = crc32c::crc32c_append(crc, &bytes);
        out.write_all(&bytes)?;
    }
    file.write_all_at(&header(summary, crc), 0)
}

impl Run {
    /// Writes a run durably and opens it, at a pace. Sorts the rows; of two with the same key the newer one stands.
    pub(crate) fn write<'a>(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        name: &str,
        rows: impl Iterator<Item = &'a Row>,
        pace: &Pace,
    ) -> io::Result<Self> {
        // Nearly all that the iterator may have are there: a vector that grows to a million is copied on the way.
        let mut sorted: Vec<&Row> = Vec::with_capacity(rows.size_hint().1.unwrap_or(0));
        sorted.extend(rows);
        let mut rows = sorted;
        // Ids of one maker come in order: a sort that makes use of that costs little more than looking.
        rows.sort_by_key(|row| (row.key, Reverse(row.finished_ms)));
        rows.dedup_by_key(|row| row.key);
        let summary = Summary::of(&rows);
        let path = dir.join(name);
        durable_replace_with(&**disk, &path, |file| write_rows(file, &summary, &rows, pace))?;
        Self::index(disk, path, name, summary, rows.iter().map(|row| row.key))
    }

    fn index(
        disk: &Arc<dyn Disk>,
        path: PathBuf,
        name: &str,
        summary: Summary,
        keys: impl Iterator<Item = TransactionKey>,
    ) -> io::Result<Self> {
        let mut filter = Filter::with_room_for(usize::try_from(summary.count).map_err(|_| invalid("count"))?);
        let mut firsts = Vec::new();
        let mut last = None;
        for (at, key) in keys.enumerate() {
            if last.is_some_and(|last| last >= key) {
                return Err(invalid("rows out of order"));
            }
            last = Some(key);
            filter.insert(key);
            if at % BLOCK_ROWS == 0 {
                firsts.push(key);
            }
        }
        Ok(Self { name: name.to_owned(), path, disk: Arc::clone(disk), summary, filter, firsts })
    }

    /// Opens a run and checks every byte of it.
    pub(crate) fn open(disk: &Arc<dyn Disk>, dir: &Path, name: &str) -> io::Result<Self> {
        let path = dir.join(name);
        let file = disk.open(&path)?;
        let (summary, keys) = Self::check(&*file, 0, file.size()?)?;
        Self::index(disk, path, name, summary, keys.into_iter())
    }

    /// Checks every byte of a run, which may be a part of a file. Gives what its header says, and its keys.
    pub(super) fn check(
        file: &dyn DiskFile,
        from: u64,
        bytes_there: u64,
    ) -> io::Result<(Summary, Vec<TransactionKey>)> {
        let mut bytes = [0; HEADER_BYTES];
        file.read_exact_at(&mut bytes, from)?;
        let (summary, rows_crc) = read_header(&bytes).map_err(|error| invalid(error.0))?;
        // The count is believed only if the file is as long as it says: no more memory is taken than there is file.
        let rows_bytes = summary.count.checked_mul(ROW_BYTES as u64);
        let size = rows_bytes
            .and_then(|bytes| bytes.checked_add(HEADER_BYTES as u64))
            .ok_or_else(|| invalid("count"))?;
        if bytes_there != size {
            return Err(invalid("size"));
        }
        let mut keys = Vec::with_capacity(usize::try_from(summary.count).map_err(|_| invalid("count"))?);
        let (mut offset, mut crc) = (HEADER_BYTES as u64, 0);
        let mut chunk = vec![0; CHUNK_ROWS * ROW_BYTES];
        while offset < size {
            let length = chunk.len().min((size - offset) as usize);
            file.read_exact_at(&mut chunk[..length], from + offset)?;
            crc = crc32c::crc32c_append(crc, &chunk[..length]);
            for row in chunk[..length].as_chunks::<ROW_BYTES>().0 {
                keys.push(take_row(&mut Take::new(row)).map_err(|error| invalid(error.0))?.key);
            }
            offset += length as u64;
        }
        if crc != rows_crc {
            return Err(invalid("checksum of the rows"));
        }
        Ok((summary, keys))
    }

    /// Its file name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// How many rows it has.
    pub(crate) fn len(&self) -> u64 {
        self.summary.count
    }

    /// When the last of its transactions ended.
    pub(crate) fn newest_end_ms(&self) -> Millis {
        self.summary.newest_end_ms
    }

    /// No UUIDv7 in it is younger; 0 if it has none.
    pub(crate) fn newest_v7_ms(&self) -> Millis {
        self.summary.v7_last_ms
    }

    /// The row of a key. An error is the disk's.
    pub(crate) fn find(&self, key: TransactionKey) -> io::Result<Option<Row>> {
        if !self.summary.may_hold(key) || !self.filter.may_hold(key) {
            return Ok(None);
        }
        let Some(block) = self.firsts.partition_point(|&first| first <= key).checked_sub(1) else {
            return Ok(None);
        };
        let first_row = block * BLOCK_ROWS;
        let rows = BLOCK_ROWS.min(self.summary.count as usize - first_row);
        let mut bytes = [0; BLOCK_ROWS * ROW_BYTES];
        let bytes = &mut bytes[..rows * ROW_BYTES];
        self.disk.open(&self.path)?.read_exact_at(bytes, (HEADER_BYTES + first_row * ROW_BYTES) as u64)?;
        for row in bytes.as_chunks::<ROW_BYTES>().0 {
            let row = take_row(&mut Take::new(row)).map_err(|error| invalid(error.0))?;
            if row.key == key {
                return Ok(Some(row));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use escrow_journal::storage::OsDisk;

    use super::*;

    fn rows(count: u64) -> Vec<Row> {
        let row = |number: u64| Row {
            key: TransactionKey(
                0x0198_c0de_0000_7abc_8000_0000_0000_0000 | u128::from(number.reverse_bits() >> 4),
            ),
            sequence: number,
            fingerprint: number * 3,
            finished_ms: 1_000 + number,
            epoch: Epoch(2),
            outcome: 4,
        };
        (0..count).map(row).collect()
    }

    #[test]
    fn every_row_is_found_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let disk = OsDisk::shared();
        let rows = rows(1_000);
        Run::write(&disk, dir.path(), "one", rows.iter(), &Pace::none()).unwrap();
        let run = Run::open(&disk, dir.path(), "one").unwrap();
        for row in &rows {
            assert_eq!(run.find(row.key).unwrap(), Some(*row));
        }
        assert_eq!(run.find(TransactionKey(rows[5].key.0 + 1)).unwrap(), None);
        assert_eq!((run.len(), run.newest_end_ms()), (1_000, 1_999));
    }

    #[test]
    fn what_no_run_can_say_is_refused_with_right_checksums_too() {
        let dir = tempfile::tempdir().unwrap();
        let disk = OsDisk::shared();
        let refused = |bytes: &[u8]| {
            std::fs::write(dir.path().join("one"), bytes).unwrap();
            Run::open(&disk, dir.path(), "one").err().expect("refused").to_string()
        };
        // As many rows as make the size overflow to that of a header.
        let summary = Summary { count: 1 << 60, ..Summary::of(&[]) };
        assert_eq!(refused(&header(&summary, crc32c::crc32c(&[]))), "count");
        for wrong in [Row { outcome: 15, ..rows(1)[0] }, Row { finished_ms: 0, ..rows(1)[0] }] {
            let mut body = Vec::new();
            put_row(&mut body, &wrong);
            let header = header(&Summary::of(&[&wrong]), crc32c::crc32c(&body));
            assert_eq!(refused(&[header, body].concat()), "outcome");
        }
    }

    #[test]
    fn a_flipped_bit_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let disk = OsDisk::shared();
        Run::write(&disk, dir.path(), "one", rows(10).iter(), &Pace::none()).unwrap();
        let path = dir.path().join("one");
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 4;
            std::fs::write(&path, &bad).unwrap();
            assert!(Run::open(&disk, dir.path(), "one").is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_run_of_several_pieces_is_written_at_its_pace() {
        let written = std::thread::spawn(|| {
            escrow_journal::background::step_back();
            let dir = tempfile::tempdir().unwrap();
            let (disk, rows) = (OsDisk::shared(), rows(3 * CHUNK_ROWS as u64));
            let (within, begun) = (std::time::Duration::from_millis(90), std::time::Instant::now());
            Run::write(&disk, dir.path(), "one", rows.iter(), &Pace::new(within, || 0.0)).unwrap();
            (begun.elapsed(), within * 2 / 3)
        });
        let (elapsed, due) = written.join().unwrap();
        assert!(elapsed >= due, "{elapsed:?}: two of three pieces are due after {due:?}");
    }
}
