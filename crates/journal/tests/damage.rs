//! Torn tails are cut off, damage is refused: the difference, byte by byte.

mod common;

use common::{content, entries, fill, open, overwrite, payload, refused, segment_path};
use escrow_journal::storage::{Disk, SimDisk};
use escrow_journal::{Archive, Group, Index, JournalError, Log, SEGMENT_HEADER_BYTES};

/// Bytes up to the last one that is not zero.
fn used(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1)
}

#[test]
fn a_tail_torn_at_any_byte_is_cut_off_and_the_journal_goes_on() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk);
    let kept = fill(&mut log, 3, 50);
    let path = segment_path(1);
    let from = used(&content(&disk, &path));
    let from = from + (8 - from % 8) % 8;
    for n in 4..=6 {
        log.append(Group(9), &payload(n, 30)).unwrap();
    }
    log.commit().unwrap();
    let all = entries(&log, 1);
    drop(log);
    let whole = content(&disk, &path);
    let to = used(&whole);
    assert!(to - from > 200);
    for cut in from..to {
        // As if the last write had stopped here.
        overwrite(&disk, &path, 0, &whole);
        overwrite(&disk, &path, cut as u64, &vec![0; to - cut]);
        let (mut log, opened) = open(&disk);
        let last = opened.last.get() as usize;
        assert!((3..6).contains(&last), "cut at {cut}: {last}");
        assert_eq!(entries(&log, 1), all[..last], "cut at {cut}");
        log.append(Group(1), b"goes on").unwrap();
        log.commit().unwrap();
        drop(log);
        let (log, opened) = open(&disk);
        assert!(opened.torn.is_none(), "the tail was zeroed: {opened:?}");
        assert_eq!(entries(&log, 1).len(), last + 1);
    }
    assert_eq!(all[..3], kept);
}

#[test]
fn a_tail_with_a_hole_at_any_byte_is_cut_off_at_the_hole() {
    let disk = SimDisk::new(2);
    let (mut log, _) = open(&disk);
    fill(&mut log, 3, 50);
    let path = segment_path(1);
    for n in 4..=6 {
        log.append(Group(9), &payload(n, 30)).unwrap();
    }
    let before = content(&disk, &path);
    log.commit().unwrap();
    let all = entries(&log, 1);
    drop(log);
    let whole = content(&disk, &path);
    for hole in (0..whole.len()).filter(|&at| whole[at] != before[at]) {
        overwrite(&disk, &path, 0, &whole);
        overwrite(&disk, &path, hole as u64, &[before[hole]]);
        let (log, opened) = open(&disk);
        let torn = opened.torn.expect("something was cut");
        assert_eq!((torn.index.get(), torn.path), (opened.last.get() + 1, path.clone()));
        assert!(torn.offset <= hole as u64);
        assert_eq!(entries(&log, 1), all[..opened.last.get() as usize]);
    }
}

#[test]
fn a_flipped_bit_in_any_byte_of_a_durable_frame_is_damage_with_its_place() {
    let disk = SimDisk::new(3);
    let (mut log, _) = open(&disk);
    fill(&mut log, 3, 45);
    let path = segment_path(1);
    let start = SEGMENT_HEADER_BYTES;
    let frame_bytes = 40 + 48;
    fill(&mut log, 1, 45);
    drop(log);
    for offset in start..start + 3 * frame_bytes {
        let bit = (offset % 8) as u32;
        disk.flip_bit(&path, offset, bit);
        match refused(&disk) {
            JournalError::Damaged { path: found, offset: at, index, .. } => {
                let number = (offset - start) / frame_bytes;
                assert_eq!(
                    (found, at, index),
                    (path.clone(), start + number * frame_bytes, Index(number + 1))
                );
            }
            error => panic!("offset {offset}: {error}"),
        }
        disk.flip_bit(&path, offset, bit);
    }
    assert_eq!(open(&disk).1.last, Index(4), "refusing changed nothing");
}

#[test]
fn a_flipped_bit_in_an_earlier_segment_is_damage() {
    let disk = SimDisk::new(4);
    let (mut log, _) = open(&disk);
    fill(&mut log, 12, 1000);
    drop(log);
    let path = segment_path(1);
    let to = used(&content(&disk, &path)) as u64;
    for offset in (SEGMENT_HEADER_BYTES..to).step_by(37) {
        disk.flip_bit(&path, offset, 3);
        assert!(
            matches!(refused(&disk), JournalError::Damaged { path: found, .. } if found == path),
            "{offset}"
        );
        disk.flip_bit(&path, offset, 3);
    }
    assert_eq!(open(&disk).1.last, Index(12));
}

#[test]
fn the_last_entry_of_a_segment_is_protected_by_the_next_segment() {
    let disk = SimDisk::new(5);
    let (mut log, _) = open(&disk);
    // One batch over three segments: no frame's `synced` proves anything, the segments do.
    for n in 0..6 {
        log.append(Group(0), &payload(n, 1800)).unwrap();
    }
    log.commit().unwrap();
    drop(log);
    let path = segment_path(1);
    let last_byte = used(&content(&disk, &path)) as u64 - 1;
    disk.flip_bit(&path, last_byte, 0);
    assert!(matches!(refused(&disk), JournalError::Damaged { index: Index(2), .. }));
}

#[test]
fn what_the_caller_relies_on_is_not_taken_for_a_torn_tail() {
    let disk = SimDisk::new(6);
    let (mut log, _) = open(&disk);
    fill(&mut log, 3, 100);
    drop(log);
    let path = segment_path(1);
    let last_byte = used(&content(&disk, &path)) as u64 - 1;
    disk.flip_bit(&path, last_byte, 0);
    let checkpointed = Log::open(disk.shared(), common::options(Archive::Keep), Index(4));
    assert!(matches!(checkpointed.map(drop), Err(JournalError::Damaged { index: Index(3), .. })));
    assert_eq!(open(&disk).1.last, Index(2), "without a checkpoint nobody can tell");
}

/// Behind the last frame of a recycled segment are stale ones: they are neither damage nor a tail.
#[test]
fn what_is_missing_is_named_behind_recycled_segments_too() {
    let disk = SimDisk::new(33);
    let (mut log, _) = open(&disk);
    fill(&mut log, 20, 1000);
    log.trim(Index(20)).unwrap();
    assert!(common::names(&disk).iter().any(|name| name.starts_with("recycled-")));
    fill(&mut log, 20, 1000);
    drop(log);
    let firsts = common::live(&disk);
    assert!(firsts.len() > 3, "{firsts:?}");
    common::each_is_missed(&disk, &firsts[1..firsts.len() - 1]);
    let last = open(&disk).1.last;
    assert_eq!(last, Index(40));
    disk.remove(&segment_path(*firsts.last().unwrap())).unwrap();
    let error =
        Log::open(disk.shared(), common::options(Archive::Compress), Index(41)).map(drop).unwrap_err();
    assert!(matches!(error, JournalError::BehindCheckpoint { from: Index(41), .. }), "{error}");
}

#[test]
fn a_missing_segment_is_named() {
    let disk = SimDisk::new(7);
    let (mut log, _) = open(&disk);
    fill(&mut log, 20, 1000);
    drop(log);
    let firsts = common::live(&disk);
    assert!(firsts.len() > 4);
    common::each_is_missed(&disk, &firsts[..firsts.len() - 1]);
    assert_eq!(open(&disk).1.last, Index(20));
    for first in firsts {
        disk.remove(&segment_path(first)).unwrap();
    }
    assert!(matches!(refused(&disk), JournalError::MissingSegment { expected: Index(1), .. }), "all gone");
}

#[test]
fn a_missing_archive_is_named() {
    let disk = SimDisk::new(8);
    let (mut log, _) = open(&disk);
    fill(&mut log, 20, 1000);
    log.trim(Index(20)).unwrap();
    drop(log);
    let archived: Vec<_> = common::names(&disk).into_iter().filter(|name| name.contains('-')).collect();
    disk.remove(&std::path::Path::new("j").join(&archived[1])).unwrap();
    assert!(matches!(refused(&disk), JournalError::MissingSegment { .. }));
}

#[test]
fn a_shortened_segment_is_damage() {
    let disk = SimDisk::new(9);
    let (mut log, _) = open(&disk);
    fill(&mut log, 2, 100);
    drop(log);
    disk.open(&segment_path(1)).unwrap().set_len(8000).unwrap();
    assert!(matches!(refused(&disk), JournalError::Damaged { offset: 8000, .. }));
}

#[test]
fn damage_in_an_archive_is_found_when_it_is_read() {
    for archive in [Archive::Keep, Archive::Compress] {
        let disk = SimDisk::new(10);
        let (mut log, _) = Log::open(disk.shared(), common::options(archive), Index::FIRST).unwrap();
        let written = fill(&mut log, 20, 1000);
        log.trim(Index(20)).unwrap();
        let name = common::names(&disk).into_iter().find(|name| name.contains('-')).unwrap();
        let path = std::path::Path::new("j").join(name);
        disk.flip_bit(&path, (used(&content(&disk, &path)) * 3 / 4) as u64, 1);
        let mut good = 0;
        let error = log
            .read_from(Index(1))
            .unwrap()
            .find_map(|result| match result {
                Ok(entry) => {
                    assert_eq!(entry, written[good]);
                    good += 1;
                    None
                }
                Err(error) => Some(error),
            })
            .expect("the damage is seen");
        assert!(matches!(error, JournalError::Damaged { .. }), "{archive:?}: {error}");
        assert_eq!(entries(&log, 10), written[9..], "later segments are not affected");
    }
}

#[test]
fn a_damaged_segment_is_not_archived() {
    let disk = SimDisk::new(11);
    let (mut log, _) = open(&disk);
    fill(&mut log, 20, 1000);
    disk.flip_bit(&segment_path(1), SEGMENT_HEADER_BYTES + 100, 1);
    assert!(matches!(log.trim(Index(20)), Err(JournalError::Damaged { .. })));
    assert!(common::names(&disk).contains(&format!("{:020}.seg", 1)), "the original stays");
}

#[test]
fn a_frame_carried_in_a_payload_is_not_taken_for_proof() {
    // The journal of a journal: frames of another one, later and synced, inside the torn tail.
    let other = SimDisk::new(12);
    let (mut log, _) = open(&other);
    fill(&mut log, 10, 30);
    let stolen = content(&other, &segment_path(1))[SEGMENT_HEADER_BYTES as usize..].to_vec();
    let stolen = &stolen[..used(&stolen)];

    let disk = SimDisk::new(13);
    let (mut log, _) = open(&disk);
    fill(&mut log, 1, 30);
    let at = used(&content(&disk, &segment_path(1))) as u64;
    log.append(Group(0), stolen).unwrap();
    log.commit().unwrap();
    drop(log);
    disk.flip_bit(&segment_path(1), at + 20, 1);
    assert_eq!(open(&disk).1.last, Index(1));
}
