//! Plumbing that the stories share: a small journal on a simulated disk.
#![allow(dead_code, clippy::unwrap_used)]

use escrow_journal::storage::{Disk, DiskFile, SimDisk, SplitMix64, read_all};
use escrow_journal::{Archive, Entry, Group, Index, JournalError, Log, Opened, Options, SEGMENT_BYTES_MIN};
use std::path::{Path, PathBuf};

pub(crate) fn options(archive: Archive) -> Options {
    Options { dir: PathBuf::from("j"), segment_bytes: SEGMENT_BYTES_MIN, archive, ..Options::default() }
}

pub(crate) fn open(disk: &SimDisk) -> (Log, Opened) {
    try_open(disk).unwrap()
}

pub(crate) fn try_open(disk: &SimDisk) -> Result<(Log, Opened), JournalError> {
    Log::open(disk.shared(), options(Archive::Compress), Index::FIRST)
}

/// The error of an open that must not succeed.
pub(crate) fn refused(disk: &SimDisk) -> JournalError {
    match try_open(disk) {
        Ok((_, opened)) => panic!("opened: {opened:?}"),
        Err(error) => error,
    }
}

/// A payload that tells which one it is.
pub(crate) fn payload(n: u64, bytes: usize) -> Vec<u8> {
    let mut random = SplitMix64::new(n);
    (0..bytes).map(|_| random.next_u64() as u8).collect()
}

pub(crate) fn entries(log: &Log, from: u64) -> Vec<Entry> {
    log.read_from(Index(from)).unwrap().map(Result::unwrap).collect()
}

pub(crate) fn entry(index: u64, group: u16, payload: &[u8]) -> Entry {
    Entry { index: Index(index), group: Group(group), payload: payload.to_vec() }
}

/// Appends and commits `count` entries of `bytes` each, one commit each; returns all entries.
pub(crate) fn fill(log: &mut Log, count: u64, bytes: usize) -> Vec<Entry> {
    let first = log.cursors().appended.get() + 1;
    for n in first..first + count {
        log.append(Group(n as u16 % 5), &payload(n, bytes)).unwrap();
        assert_eq!(log.commit().unwrap(), Index(n));
    }
    (1..first + count).map(|n| entry(n, n as u16 % 5, &payload(n, bytes))).collect()
}

pub(crate) fn names(disk: &SimDisk) -> Vec<String> {
    disk.list("j".as_ref()).unwrap()
}

pub(crate) fn segment_path(first: u64) -> PathBuf {
    PathBuf::from(format!("j/{first:020}.seg"))
}

pub(crate) fn content(disk: &SimDisk, path: &Path) -> Vec<u8> {
    read_all(disk, path).unwrap().unwrap()
}

/// Puts a file in place, durably, as an outsider would.
pub(crate) fn plant(disk: &SimDisk, path: &Path, bytes: &[u8]) {
    escrow_journal::storage::durable_replace(disk, path, bytes).unwrap();
}

/// Writes bytes into a file, durably.
pub(crate) fn overwrite(disk: &SimDisk, path: &Path, offset: u64, bytes: &[u8]) {
    let file: Box<dyn DiskFile> = disk.open(path).unwrap();
    file.write_all_at(bytes, offset).unwrap();
    file.sync_data().unwrap();
}

/// The first entries of the live segments.
pub(crate) fn live(disk: &SimDisk) -> Vec<u64> {
    names(disk).iter().filter_map(|name| name.strip_suffix(".seg")?.parse().ok()).collect()
}

/// Takes each of these segments away, and puts it back.
pub(crate) fn each_is_missed(disk: &SimDisk, firsts: &[u64]) {
    for &first in firsts {
        let whole = content(disk, &segment_path(first));
        disk.remove(&segment_path(first)).unwrap();
        match refused(disk) {
            JournalError::MissingSegment { expected, .. } => assert_eq!(expected.get(), first),
            error => panic!("{error}"),
        }
        plant(disk, &segment_path(first), &whole);
    }
}
