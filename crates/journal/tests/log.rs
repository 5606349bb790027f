//! The log without threads: round trips, reopening, trimming, and what it refuses.

mod common;

use common::{content, entries, entry, fill, names, open, options, payload, plant, segment_path, try_open};
use escrow_journal::storage::{Disk, OsDisk, SimDisk};
use escrow_journal::{Archive, Group, Index, JournalError, Log, Options};
use std::sync::Arc;

#[test]
fn entries_come_back_across_segments_and_restarts() {
    let disk = SimDisk::new(1);
    let (mut log, opened) = open(&disk);
    assert!(opened.created && opened.last == Index::ZERO && opened.torn.is_none());
    let mut written = fill(&mut log, 20, 1000);
    assert!(count(&disk, "seg") >= 5);
    assert_eq!(entries(&log, 1), written);
    for round in 0..3 {
        drop(log);
        let (reopened, opened) = open(&disk);
        assert!(!opened.created && opened.torn.is_none(), "round {round}: {opened:?}");
        assert_eq!(opened.last.get(), written.len() as u64);
        log = reopened;
        assert_eq!(entries(&log, 1), written);
        written = fill(&mut log, 7, 1000);
    }
    assert_eq!(entries(&log, 30), written[29..]);
}

#[test]
fn one_batch_may_span_segments() {
    let disk = SimDisk::new(2);
    let (mut log, _) = open(&disk);
    let expected: Vec<_> = (1..=12).map(|n| entry(n, 3, &payload(n, 1500))).collect();
    for entry in &expected {
        assert_eq!(log.append(entry.group, &entry.payload).unwrap(), entry.index);
    }
    let cursors = log.cursors();
    assert_eq!((cursors.appended, cursors.written, cursors.durable), (Index(12), Index(0), Index(0)));
    assert_eq!(entries(&log, 1), [], "nothing is read before it is durable");
    assert_eq!(log.commit().unwrap(), Index(12));
    assert_eq!(entries(&log, 1), expected);
    drop(log);
    assert_eq!(entries(&open(&disk).0, 1), expected);
}

fn count(disk: &SimDisk, suffix: &str) -> usize {
    names(disk).iter().filter(|name| name.as_str().ends_with(suffix)).count()
}

#[test]
fn a_commit_of_nothing_touches_no_disk() {
    let disk = SimDisk::new(3);
    let (mut log, _) = open(&disk);
    let before = disk.operations();
    assert_eq!(log.commit().unwrap(), Index::ZERO);
    assert_eq!(disk.operations(), before);
}

#[test]
fn a_commit_within_a_segment_is_one_write_and_one_sync() {
    let disk = SimDisk::new(3);
    let (mut log, _) = open(&disk);
    for n in 0..10 {
        log.append(Group(n), b"small").unwrap();
    }
    let before = disk.operations();
    log.commit().unwrap();
    assert_eq!(disk.operations(), before + 2);
    let stats = log.stats();
    assert_eq!((stats.entries, stats.batches, stats.writes, stats.syncs), (10, 1, 1, 1));
}

#[test]
fn empty_and_largest_payloads_fit_and_a_larger_one_is_refused_without_a_trace() {
    let disk = SimDisk::new(4);
    let (mut log, _) = open(&disk);
    let bytes_max = options(Archive::Keep).payload_bytes_max();
    let expected = [
        entry(1, 1, b""),
        entry(2, 2, &payload(2, bytes_max)),
        entry(3, 3, b""),
        entry(4, 0, &payload(4, bytes_max)),
    ];
    for entry in &expected {
        log.append(entry.group, &entry.payload).unwrap();
        let error = log.append(Group(9), &vec![0; bytes_max + 1]).unwrap_err();
        assert!(matches!(error, JournalError::PayloadTooLarge { .. }), "{error}");
    }
    assert_eq!(log.commit().unwrap(), Index(4));
    drop(log);
    assert_eq!(entries(&open(&disk).0, 1), expected);
}

#[test]
fn the_segment_size_may_change_between_starts() {
    let disk = SimDisk::new(5);
    let (mut log, _) = open(&disk);
    // The active segment is empty and too small for what comes.
    drop(log);
    let larger = Options { segment_bytes: 64 * 1024, ..options(Archive::Keep) };
    (log, _) = Log::open(disk.shared(), larger, Index::FIRST).unwrap();
    log.append(Group(1), &payload(1, 20_000)).unwrap();
    log.commit().unwrap();
    drop(log);
    let (mut log, _) = open(&disk);
    log.append(Group(1), &payload(2, 4_000)).unwrap();
    log.append(Group(1), &payload(3, 50_000)).unwrap_err();
    log.commit().unwrap();
    assert_eq!(entries(&log, 1), [entry(1, 1, &payload(1, 20_000)), entry(2, 1, &payload(2, 4_000))]);
}

#[test]
fn trimmed_segments_are_archived_and_history_replays_from_the_beginning() {
    for (archive, suffix) in [(Archive::Keep, "kept"), (Archive::Compress, "lz4")] {
        let disk = SimDisk::new(6);
        let (mut log, _) = Log::open(disk.shared(), options(archive), Index::FIRST).unwrap();
        let written = fill(&mut log, 40, 1000);
        let trimmed = log.trim(Index(25)).unwrap();
        assert!(trimmed <= Index(25) && trimmed > Index(15), "{trimmed}");
        let archived = count(&disk, suffix);
        assert_eq!(archived as u64, log.stats().segments_trimmed);
        assert_eq!(log.first_index(), Index::FIRST);
        assert_eq!(entries(&log, 1), written);
        for from in [2, 7, 24, 26, 40] {
            assert_eq!(entries(&log, from), written[from as usize - 1..], "from {from}");
        }
        drop(log);
        let (mut log, opened) = Log::open(disk.shared(), options(archive), Index(26)).unwrap();
        assert_eq!((opened.first, opened.last, log.cursors().trimmed), (Index(1), Index(40), trimmed));
        assert_eq!(entries(&log, 1), written);
        log.trim(Index(40)).unwrap();
        assert_eq!(entries(&log, 1), written);
    }
}

#[test]
fn compressing_makes_archives_smaller() {
    let disk = SimDisk::new(6);
    let (mut log, _) = open(&disk);
    for _ in 0..40 {
        log.append(Group(0), &[7; 1000]).unwrap();
        log.commit().unwrap();
    }
    log.trim(Index(40)).unwrap();
    let packed = names(&disk).into_iter().find(|name| name.contains('-')).unwrap();
    let bytes = content(&disk, &std::path::Path::new("j").join(packed)).len();
    assert!(bytes < 1500, "{bytes}");
}

#[test]
fn deleted_history_is_gone_and_says_so() {
    let disk = SimDisk::new(7);
    let (mut log, _) = Log::open(disk.shared(), options(Archive::Delete), Index::FIRST).unwrap();
    let written = fill(&mut log, 40, 1000);
    let reader = log.read_from(Index(9)).unwrap();
    log.trim(Index(25)).unwrap();
    assert!(log.first_index() <= Index(9), "a reader holds back what it has not read");
    let read: Vec<_> = reader.map(Result::unwrap).collect();
    assert_eq!(read, written[8..]);

    log.trim(Index(25)).unwrap();
    let first = log.first_index();
    assert!(first > Index(15) && first <= Index(26), "{first}");
    assert!(matches!(log.read_from(Index(3)), Err(JournalError::Trimmed { first: f, .. }) if f == first));
    assert_eq!(entries(&log, first.get()), written[first.get() as usize - 1..]);
    drop(log);
    assert!(
        matches!(try_open(&disk), Err(JournalError::Trimmed { .. })),
        "whoever needs the beginning is refused"
    );
    let (log, opened) = Log::open(disk.shared(), options(Archive::Delete), first).unwrap();
    assert_eq!(opened.first, first);
    assert_eq!(entries(&log, first.get()), written[first.get() as usize - 1..]);
}

#[test]
fn the_policy_may_change_between_starts() {
    let disk = SimDisk::new(8);
    let mut written = Vec::new();
    for archive in [Archive::Keep, Archive::Compress, Archive::Keep, Archive::Compress] {
        let (mut log, _) = Log::open(disk.shared(), options(archive), Index::FIRST).unwrap();
        written = fill(&mut log, 15, 1000);
        log.trim(Index(u64::MAX)).unwrap();
        assert_eq!(entries(&log, 1), written);
    }
    let (mut log, _) = Log::open(disk.shared(), options(Archive::Delete), Index::FIRST).unwrap();
    log.trim(Index(u64::MAX)).unwrap();
    let first = log.first_index();
    assert_eq!(entries(&log, first.get()), written[first.get() as usize - 1..]);
    assert_eq!((count(&disk, "kept"), count(&disk, "lz4")), (0, 0));
}

/// The file serves again, what it held is not taken for a tail, and everything is there from the first entry on.
#[test]
fn an_archived_segment_is_written_again() {
    let disk = SimDisk::new(31);
    let (mut log, _) = open(&disk);
    fill(&mut log, 20, 1000);
    log.trim(Index(20)).unwrap();
    let recycled = || names(&disk).iter().filter(|name| name.starts_with("recycled-")).count();
    let waiting = recycled();
    assert!(waiting >= 2, "{:?}", names(&disk));
    let written = fill(&mut log, 11, 1000);
    assert!(recycled() < waiting && count(&disk, "spare") == 0, "{:?}", names(&disk));
    assert_eq!(entries(&log, 1), written);
    drop(log);
    for _ in 0..2 {
        let (log, opened) = open(&disk);
        assert!(opened.torn.is_none() && recycled() == 0, "{opened:?}");
        assert_eq!(entries(&log, 1), written);
    }
}

#[test]
fn a_reader_goes_on_while_segments_are_archived_under_it() {
    for archive in [Archive::Keep, Archive::Compress] {
        let disk = SimDisk::new(9);
        let (mut log, _) = Log::open(disk.shared(), options(archive), Index::FIRST).unwrap();
        let written = fill(&mut log, 40, 1000);
        let mut reader = log.read_from(Index(1)).unwrap();
        let mut read: Vec<_> = reader.by_ref().take(3).map(Result::unwrap).collect();
        log.trim(Index(30)).unwrap();
        fill(&mut log, 5, 1000);
        read.extend(reader.map(Result::unwrap));
        assert_eq!(read, written, "only what was durable when the reader was made");
    }
}

/// It has the file open, and has not read all of it: the file must not be written again.
#[test]
fn a_segment_that_a_reader_has_open_is_not_recycled() {
    for archive in [Archive::Compress, Archive::Delete] {
        let disk = SimDisk::new(32);
        let options = Options { segment_bytes: 1 << 20, ..options(archive) };
        let (mut log, _) = Log::open(disk.shared(), options, Index::FIRST).unwrap();
        let written = fill(&mut log, 40, 60_000);
        let mut reader = log.read_from(Index(1)).unwrap();
        let mut read: Vec<_> = reader.by_ref().take(3).map(Result::unwrap).collect();
        log.trim(Index(40)).unwrap();
        fill(&mut log, 40, 60_000);
        read.extend(reader.map(Result::unwrap));
        assert!(read == written, "{archive:?}");
    }
}

#[test]
fn a_write_failure_is_final_but_loses_nothing_acknowledged() {
    let disk = SimDisk::new(10);
    let (mut log, _) = open(&disk);
    let written = fill(&mut log, 3, 500);
    log.append(Group(0), b"unlucky").unwrap();
    disk.fail_next_write();
    let error = log.commit().unwrap_err();
    assert!(matches!(&error, JournalError::Failed(failure) if failure.durable == Index(3)), "{error}");
    let before = disk.operations();
    assert!(log.append(Group(0), b"x").is_err());
    assert!(log.commit().is_err());
    assert_eq!(disk.operations(), before, "a failed log touches the disk no more");
    assert_eq!(entries(&log, 1), written, "what is durable can still be read");
    drop(log);
    disk.crash();
    assert_eq!(entries(&open(&disk).0, 1)[..3], written);
}

#[test]
fn a_sync_failure_is_final_and_never_retried() {
    let disk = SimDisk::new(11);
    let (mut log, _) = open(&disk);
    let written = fill(&mut log, 3, 500);
    log.append(Group(0), b"unlucky").unwrap();
    disk.fail_next_sync();
    assert!(matches!(log.commit(), Err(JournalError::Failed(_))));
    let syncs = disk.syncs();
    assert!(matches!(log.commit(), Err(JournalError::Failed(_))));
    assert_eq!(disk.syncs(), syncs);
    assert_eq!(log.cursors().durable, Index(3));
    drop(log);
    // The process restarts on the same machine: the page cache shows the entry, the disk may not have it.
    disk.kill();
    let (log, opened) = open(&disk);
    let found = entries(&log, 1);
    drop(log);
    disk.crash();
    assert_eq!(open(&disk).1.last, opened.last, "what a restart reported is durable");
    assert_eq!(found[..3], written);
}

#[test]
fn a_full_disk_is_a_clear_and_final_error() {
    let disk = SimDisk::new(12);
    let (mut log, _) = open(&disk);
    let written = fill(&mut log, 3, 1000);
    disk.set_free_bytes(5000);
    let error = (0..50)
        .find_map(|n| {
            log.append(Group(0), &payload(n, 1000)).unwrap();
            log.commit().err()
        })
        .expect("the next segment does not fit");
    assert!(error.to_string().contains("zero-fill"), "{error}");
    drop(log);
    disk.set_free_bytes(u64::MAX);
    let (mut log, _) = open(&disk);
    assert_eq!(entries(&log, 1)[..3], written);
    log.append(Group(0), &payload(0, 4000)).unwrap();
    log.commit().unwrap();
}

#[test]
fn a_failed_trim_leaves_the_log_usable_and_is_done_again() {
    let disk = SimDisk::new(13);
    let (mut log, _) = open(&disk);
    let written = fill(&mut log, 20, 1000);
    disk.fail_next_write();
    assert!(log.trim(Index(20)).is_err());
    assert_eq!(entries(&log, 1), written);
    assert!(log.trim(Index(20)).unwrap() > Index(10));
    assert_eq!(entries(&log, 1), written);
    fill(&mut log, 3, 1000);
}

#[test]
fn a_directory_in_use_is_refused() {
    let disk = SimDisk::new(14);
    let (log, _) = open(&disk);
    assert!(matches!(try_open(&disk), Err(JournalError::Locked(_))));
    drop(log);
    try_open(&disk).unwrap();

    let dir = tempfile::tempdir().unwrap();
    let real =
        || Log::open(OsDisk::shared(), Options { segment_bytes: 8192, ..Options::new(dir.path()) }, Index(1));
    let (log, _) = real().unwrap();
    assert!(matches!(real(), Err(JournalError::Locked(_))));
    drop(log);
    real().unwrap();
}

#[test]
fn the_real_disk_gives_the_same_story() {
    let dir = tempfile::tempdir().unwrap();
    let settings = || Options { segment_bytes: 16 * 1024, ..Options::new(dir.path().join("a/journal")) };
    let disk: Arc<dyn Disk> = OsDisk::shared();
    let (mut log, _) = Log::open(Arc::clone(&disk), settings(), Index::FIRST).unwrap();
    let written = fill(&mut log, 100, 700);
    log.trim(Index(60)).unwrap();
    drop(log);
    let (mut log, opened) = Log::open(disk, settings(), Index(61)).unwrap();
    assert_eq!(opened.last, Index(100));
    assert_eq!(entries(&log, 1), written);
    fill(&mut log, 3, 700);
}

#[test]
fn a_journal_shorter_than_the_callers_checkpoint_is_refused() {
    let disk = SimDisk::new(15);
    let (mut log, _) = open(&disk);
    fill(&mut log, 3, 100);
    drop(log);
    assert!(Log::open(disk.shared(), options(Archive::Keep), Index(4)).is_ok());
    let error = Log::open(disk.shared(), options(Archive::Keep), Index(5)).map(drop).unwrap_err();
    assert!(matches!(error, JournalError::BehindCheckpoint { from: Index(5), last: Index(3) }), "{error}");
}

#[test]
fn strangers_are_refused_each_by_its_own_name() {
    let prepare = |seed| {
        let disk = SimDisk::new(seed);
        let (mut log, _) = open(&disk);
        fill(&mut log, 20, 1000);
        drop(log);
        disk
    };
    let disk = prepare(16);
    plant(&disk, "j/notes.txt".as_ref(), b"hello");
    assert!(matches!(common::refused(&disk), JournalError::ForeignFile(path) if path.ends_with("notes.txt")));

    let (disk, other) = (prepare(17), prepare(18));
    let stolen = segment_path(7);
    plant(&disk, &stolen, &content(&other, &stolen));
    assert!(matches!(common::refused(&disk), JournalError::ForeignJournal { path, .. } if path == stolen));

    let disk = prepare(19);
    plant(&disk, &segment_path(1), &[b'x'; 8192]);
    assert!(matches!(common::refused(&disk), JournalError::WrongMagic(_)));

    let disk = prepare(20);
    plant(&disk, "j/journal.meta".as_ref(), b"not a meta file at all");
    assert!(matches!(common::refused(&disk), JournalError::WrongMagic(_)));

    let disk = prepare(21);
    disk.remove("j/journal.meta".as_ref()).unwrap();
    assert!(matches!(common::refused(&disk), JournalError::MissingMeta(_)));

    for path in [segment_path(1), std::path::PathBuf::from("j/journal.meta")] {
        let disk = prepare(22);
        disk.flip_bit(&path, 8, 4);
        assert!(matches!(
            common::refused(&disk),
            JournalError::UnknownVersion { found: 17, supported: 1, .. }
        ));
    }
}

#[test]
fn a_trim_cut_anywhere_loses_nothing() {
    for archive in [Archive::Keep, Archive::Compress, Archive::Delete] {
        for cut in 0..24 {
            for seed in 0..12 {
                let disk = SimDisk::new(seed);
                let (mut log, _) = Log::open(disk.shared(), options(archive), Index::FIRST).unwrap();
                let written = fill(&mut log, 10, 1000);
                disk.power_off_after(cut);
                let _ = log.trim(Index(8));
                let needed = log.first_index();
                drop(log);
                disk.crash();
                let reopened = Log::open(disk.shared(), options(archive), needed);
                let (log, opened) =
                    reopened.unwrap_or_else(|error| panic!("{archive:?} {cut} {seed}: {error}"));
                assert_eq!(entries(&log, needed.get()), written[needed.get() as usize - 1..]);
                assert!(archive == Archive::Delete || opened.first == Index::FIRST);
            }
        }
    }
}
