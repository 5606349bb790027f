//! How long the disk takes to make a write durable: `fdatasync` after each append to a file that is filled already, which is
//! what the journal does.
//!
//! The file has no name: whatever ends this process, nothing is left.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::bench::BenchError;
use crate::bench::meter::{histogram, micros};

/// Sizes of writes: an entry of one transfer, a page, and entries of thousands of transfers.
const WRITE_BYTES: [usize; 4] = [200, 4_096, 200_000, 1_000_000];
/// The file is written from its beginning again when it is full.
const FILE_BYTES: usize = 64 << 20;
/// Writes of each size at most.
const WRITES_MAX: u32 = 2_000;

/// Writes of one size.
#[derive(Debug, Clone, Serialize)]
pub struct Fsync {
    /// Of each write.
    pub bytes: usize,
    /// Half of them were durable sooner, in microseconds.
    pub p50_us: u64,
    /// 99 of 100 were.
    pub p99_us: u64,
    /// How many there were.
    pub writes: u64,
}

/// Measures all sizes, each for its share of `span` (and at least one write).
pub fn probe(directory: &Path, span: Duration) -> Result<Vec<Fsync>, BenchError> {
    let wrong = |error: std::io::Error| {
        BenchError::Setup(format!("--wire-dir: cannot write in {}: {error}", directory.display()))
    };
    let file = tempfile::tempfile_in(directory).map_err(wrong)?;
    fill(&file).map_err(wrong)?;
    let share = span / WRITE_BYTES.len() as u32;
    WRITE_BYTES.iter().map(|&bytes| time(&file, bytes, share).map_err(wrong)).collect()
}

/// Blocks that were written once need no allocation in the file system when they are written again.
fn fill(file: &File) -> std::io::Result<()> {
    let zeros = vec![0; 1 << 20];
    for begin in (0..FILE_BYTES).step_by(zeros.len()) {
        file.write_all_at(&zeros, begin as u64)?;
    }
    file.sync_all()
}

fn time(file: &File, bytes: usize, share: Duration) -> std::io::Result<Fsync> {
    let data = vec![0xA5; bytes];
    let mut latencies: Histogram<u64> = histogram();
    let (begun, mut at) = (Instant::now(), 0);
    for _ in 0..WRITES_MAX {
        if at + bytes > FILE_BYTES {
            at = 0;
        }
        let write = Instant::now();
        file.write_all_at(&data, at as u64)?;
        file.sync_data()?;
        latencies.record(micros(write.elapsed())).expect("it is within the bounds");
        at += bytes;
        if begun.elapsed() >= share {
            break;
        }
    }
    let at = |quantile| latencies.value_at_quantile(quantile);
    Ok(Fsync { bytes, p50_us: at(0.5), p99_us: at(0.99), writes: latencies.len() })
}

/// Whether files there are in memory only.
pub(super) fn is_in_memory(directory: &Path) -> bool {
    const TMPFS: u64 = 0x0102_1994;
    const RAMFS: u64 = 0x8584_58F6;
    let kind = rustix::fs::statfs(directory).ok().and_then(|fs| u64::try_from(fs.f_type).ok());
    kind.is_some_and(|kind| [TMPFS, RAMFS].contains(&kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_is_written_and_nothing_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let probed = probe(directory.path(), Duration::ZERO).unwrap();
        assert_eq!(
            probed.iter().map(|sync| (sync.bytes, sync.writes)).collect::<Vec<_>>(),
            [(200, 1), (4_096, 1), (200_000, 1), (1_000_000, 1)]
        );
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let error = probe(Path::new("/no/such/directory"), Duration::ZERO).unwrap_err();
        assert!(error.to_string().contains("/no/such/directory"), "{error}");
    }
}
