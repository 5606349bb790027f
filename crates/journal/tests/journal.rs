//! The journal with its threads: many appenders, callbacks, failures, closing.

#![allow(clippy::unwrap_used)]

mod common;

use common::{entry, options, payload};
use escrow_journal::storage::{Disk, OsDisk, SimDisk};
use escrow_journal::{Archive, Group, Index, Journal, JournalError, Log, Options};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

fn journal(disk: &SimDisk) -> Journal {
    Journal::open(disk.shared(), options(Archive::Compress), Index::FIRST).unwrap().0
}

/// Everything that a callback of this journal is told.
fn told(journal: &Journal) -> Receiver<Result<Index, String>> {
    let (sender, receiver) = channel();
    let sender = Mutex::new(sender);
    journal.on_durable(Box::new(move |outcome| {
        let outcome = outcome.map_err(|failure| failure.to_string());
        // The test may have ended already.
        let _ = sender.lock().unwrap().send(outcome);
    }));
    receiver
}

#[test]
fn concurrent_appends_are_all_there_in_the_order_of_their_indexes() {
    let disk = SimDisk::new(1);
    let journal = journal(&disk);
    let first_owner = told(&journal);
    let second_owner = told(&journal);
    let mut expected: Vec<_> = thread::scope(|scope| {
        let appenders: Vec<_> = (0..4u16)
            .map(|group| {
                let journal = journal.clone();
                scope.spawn(move || {
                    let append = |n: u64| {
                        let bytes = payload(n + u64::from(group) * 1000, (n * 7 % 900) as usize);
                        let index = if n.is_multiple_of(3) {
                            journal.append_here(Group(group), bytes.clone()).unwrap()
                        } else {
                            journal.append(Group(group), bytes.clone()).unwrap()
                        };
                        (index.get(), group, bytes)
                    };
                    (0..200).map(append).collect::<Vec<_>>()
                })
            })
            .collect();
        appenders.into_iter().flat_map(|appender| appender.join().unwrap()).collect()
    });
    expected.sort_unstable();
    journal.wait_durable(Index(800)).unwrap();
    assert_eq!((journal.appended(), journal.durable(), journal.bytes_pending()), (Index(800), Index(800), 0));
    let expected: Vec<_> =
        expected.iter().map(|(index, group, bytes)| entry(*index, *group, bytes)).collect();
    let read: Vec<_> = journal.read_from(Index::FIRST).unwrap().map(Result::unwrap).collect();
    assert_eq!(read, expected);

    journal.close().unwrap();
    for owner in [first_owner, second_owner] {
        let told: Vec<Index> = owner.try_iter().map(Result::unwrap).collect();
        assert!(told.is_sorted_by(|a, b| a < b), "durable never moves back: {told:?}");
        assert_eq!(told.last(), Some(&Index(800)));
    }
    let (log, opened) = common::open(&disk);
    assert_eq!(opened.last, Index(800));
    assert_eq!(common::entries(&log, 1), expected);
}

#[test]
fn what_is_reported_durable_survives_a_power_loss() {
    for seed in 0..100 {
        let disk = SimDisk::new(seed);
        let journal = journal(&disk);
        let owner = told(&journal);
        disk.power_off_after(seed % 40);
        let mut appended = 0;
        let append = if seed.is_multiple_of(2) { Journal::append } else { Journal::append_here };
        while let Ok(index) = append(&journal, Group(0), payload(appended, 600)) {
            appended += 1;
            assert_eq!(index.get(), appended);
            if appended == 60 {
                break;
            }
        }
        let _ = journal.close();
        drop(journal);
        let durable = owner.try_iter().filter_map(Result::ok).last().unwrap_or_default();
        disk.crash();
        let (log, opened) = common::open(&disk);
        assert!(opened.last >= durable, "seed {seed}: {durable} was reported, {} is there", opened.last);
        for (n, entry) in common::entries(&log, 1).into_iter().enumerate() {
            assert_eq!(entry.payload, payload(n as u64, 600));
        }
    }
}

#[test]
fn close_writes_what_is_queued_and_refuses_what_comes_later() {
    let disk = SimDisk::new(2);
    let journal = journal(&disk);
    for n in 0..500 {
        journal.append(Group(1), payload(n, 100)).unwrap();
    }
    journal.close().unwrap();
    assert_eq!(journal.durable(), Index(500));
    assert!(matches!(journal.append(Group(1), vec![]), Err(JournalError::Closed)));
    assert!(matches!(journal.wait_durable(Index(501)), Err(JournalError::Closed)));
    journal.close().unwrap();
    assert_eq!(common::open(&disk).1.last, Index(500), "the directory is free again");
}

#[test]
fn a_failed_sync_is_told_once_to_every_owner_and_refuses_all_that_follows() {
    let disk = SimDisk::new(3);
    let journal = journal(&disk);
    // The background thread makes the first spare; the injected fault is not for that.
    journal.wait_trimmed().unwrap();
    let owner = told(&journal);
    journal.append(Group(0), b"fine".to_vec()).unwrap();
    journal.wait_durable(Index(1)).unwrap();
    disk.fail_next_sync();
    let lost = journal.append(Group(0), b"unlucky".to_vec()).unwrap();
    assert!(matches!(journal.wait_durable(lost), Err(JournalError::Failed(f)) if f.durable == Index(1)));
    assert!(matches!(journal.append(Group(0), vec![]), Err(JournalError::Failed(_))));
    let late = told(&journal);
    assert!(late.recv().unwrap().is_err(), "who comes late is told at once");
    assert!(matches!(journal.close(), Err(JournalError::Failed(_))));
    let told: Vec<_> = owner.try_iter().collect();
    assert_eq!(told[0], Ok(Index(1)));
    assert_eq!(told.len(), 2);
    assert!(told[1].as_ref().unwrap_err().contains("injected sync error"), "{told:?}");
}

#[test]
fn what_is_written_here_is_durable_and_told_before_that_returns() {
    let disk = SimDisk::new(11);
    let journal = journal(&disk);
    let told_on = Arc::new(Mutex::new(Vec::new()));
    let list = Arc::clone(&told_on);
    journal.on_durable(Box::new(move |outcome| {
        list.lock().unwrap().push((thread::current().id(), outcome.unwrap()));
    }));
    let here = thread::current().id();
    let (mut number, mut on_this_thread) = (0u64, 0);
    while on_this_thread < 100 {
        number += 1;
        assert!(number < 1_000_000, "its thread is hardly ever at work: {on_this_thread}");
        if number.is_multiple_of(10) {
            journal.append(Group(0), payload(number, 300)).unwrap();
            journal.wait_durable(Index(number)).unwrap();
            continue;
        }
        // Its thread may be at work for the one before, and then takes this one too.
        let index = journal.append_here(Group(0), payload(number, 300)).unwrap();
        assert_eq!(index, Index(number));
        let told = told_on.lock().unwrap().last().copied();
        if told == Some((here, index)) {
            assert_eq!(journal.durable(), index);
            on_this_thread += 1;
        } else {
            journal.wait_durable(index).unwrap();
        }
    }
    journal.close().unwrap();
    let told = told_on.lock().unwrap();
    assert!(told.is_sorted_by_key(|(_, index)| *index) && told.last().unwrap().1 == Index(number));
    assert!(matches!(journal.append_here(Group(0), Vec::new()), Err(JournalError::Closed)));
}

#[test]
fn a_failure_here_is_told_as_any_other() {
    let disk = SimDisk::new(12);
    let journal = journal(&disk);
    // The background thread makes the first spare; the injected fault is not for that.
    journal.wait_trimmed().unwrap();
    let owner = told(&journal);
    journal.append_here(Group(0), payload(1, 300)).unwrap();
    journal.wait_durable(Index(1)).unwrap();
    disk.fail_next_sync();
    journal.append_here(Group(0), payload(2, 300)).unwrap();
    assert!(matches!(journal.wait_durable(Index(2)), Err(JournalError::Failed(_))));
    assert!(matches!(journal.append_here(Group(0), Vec::new()), Err(JournalError::Failed(_))));
    assert!(matches!(journal.append(Group(0), Vec::new()), Err(JournalError::Failed(_))));
    assert_eq!(owner.recv().unwrap(), Ok(Index(1)));
    assert!(owner.recv().unwrap().is_err());
    assert!(matches!(journal.close(), Err(JournalError::Failed(_))));
}

/// Whoever writes here may panic, as the thread may: nobody waits for ever.
#[test]
fn a_panic_here_is_a_failure_of_the_journal() {
    let journal = journal(&SimDisk::new(13));
    journal.on_durable(Box::new(|outcome| {
        let is_here = thread::current().name() != Some("journal-writer");
        assert!(outcome.is_err() || !is_here, "on purpose");
    }));
    let appender = journal.clone();
    let append = thread::spawn(move || {
        // The log's own thread takes some, until it waits.
        for number in 1..10_000 {
            let index = appender.append_here(Group(0), payload(number, 300)).unwrap();
            appender.wait_durable(index).unwrap();
        }
    });
    append.join().unwrap_err();
    assert!(matches!(journal.append(Group(0), payload(2, 300)), Err(JournalError::Failed(_))));
    assert!(matches!(journal.close(), Err(JournalError::Failed(_))));
}

/// Many who write here and many who do not, small segments, and an end in the middle of it.
#[test]
fn whoever_writes_and_however_it_ends_what_was_told_is_there() {
    for seed in 0..40 {
        let disk = SimDisk::new(seed);
        let journal = journal(&disk);
        let owner = told(&journal);
        if seed % 4 == 1 {
            disk.power_off_after(seed * 3);
        }
        let panics_at = if seed % 4 == 2 { 40 + seed } else { u64::MAX };
        journal.on_durable(Box::new(move |outcome| {
            let panics = outcome.is_ok_and(|index| index.get() >= panics_at);
            assert!(!panics, "on purpose");
        }));
        thread::scope(|scope| {
            for group in 0..4u16 {
                let journal = journal.clone();
                scope.spawn(move || {
                    let append = |n: u64| {
                        let bytes = payload(n, 400);
                        if (n + u64::from(group)).is_multiple_of(2) {
                            journal.append_here(Group(group), bytes)
                        } else {
                            journal.append(Group(group), bytes)
                        }
                    };
                    // The panic of whoever writes here is the test's own.
                    let all =
                        std::panic::AssertUnwindSafe(|| (0..60).take_while(|&n| append(n).is_ok()).count());
                    let _ = std::panic::catch_unwind(all);
                });
            }
            if seed % 4 == 3 {
                let _ = journal.close();
            }
        });
        let _ = journal.close();
        drop(journal);
        let durable = owner.try_iter().filter_map(Result::ok).collect::<Vec<_>>();
        assert!(durable.is_sorted_by(|a, b| a < b), "seed {seed}: durable never moves back");
        if seed % 4 == 1 {
            disk.crash();
        }
        let (log, opened) = common::open(&disk);
        assert!(opened.last >= durable.last().copied().unwrap_or_default(), "seed {seed}");
        let entries = common::entries(&log, 1);
        for group in 0..4 {
            let of_group = entries.iter().filter(|entry| entry.group == Group(group));
            let numbers: Vec<_> = of_group.map(|entry| entry.payload.clone()).collect();
            let expected: Vec<_> = (0..numbers.len() as u64).map(|n| payload(n, 400)).collect();
            assert_eq!(numbers, expected, "seed {seed}: each once, in order");
        }
    }
}

#[test]
fn too_large_a_payload_is_refused_and_takes_no_index() {
    let disk = SimDisk::new(4);
    let journal = journal(&disk);
    let too_large = vec![0; journal.payload_bytes_max() + 1];
    assert!(matches!(journal.append(Group(0), too_large), Err(JournalError::PayloadTooLarge { .. })));
    assert_eq!(journal.append(Group(0), vec![1; journal.payload_bytes_max()]).unwrap(), Index(1));
    journal.wait_durable(Index(1)).unwrap();
}

#[test]
fn trims_run_beside_appends_and_readers() {
    for archive in [Archive::Keep, Archive::Compress, Archive::Delete] {
        let disk = SimDisk::new(5);
        let journal = Journal::open(disk.shared(), options(archive), Index::FIRST).unwrap().0;
        thread::scope(|scope| {
            scope.spawn(|| {
                for n in 1..=300 {
                    let index = journal.append(Group(0), payload(n, 700)).unwrap();
                    if n % 10 == 0 {
                        journal.wait_durable(index).unwrap();
                        journal.trim(index);
                    }
                }
            });
            scope.spawn(|| {
                let mut from = journal.first_index();
                while from <= Index(300) {
                    let Ok(reader) = journal.read_from(from) else {
                        assert_eq!(archive, Archive::Delete, "only deletion takes entries away");
                        from = journal.first_index();
                        continue;
                    };
                    for entry in reader {
                        let entry = entry.unwrap();
                        assert_eq!(entry.index, from);
                        assert_eq!(entry.payload, payload(from.get(), 700));
                        from = from.next();
                    }
                    thread::yield_now();
                }
            });
        });
        journal.trim(Index(300));
        let trimmed = journal.wait_trimmed().unwrap();
        assert!(trimmed > Index(280), "{archive:?}: {trimmed}");
        assert_eq!(journal.first_index() == Index::FIRST, archive != Archive::Delete);
        assert_eq!(journal.stats().background_failures, 0);
        journal.close().unwrap();
    }
}

#[test]
fn buffers_are_recycled() {
    let disk = SimDisk::new(6);
    let journal = journal(&disk);
    let mut buffer = Vec::with_capacity(2000);
    buffer.push(1);
    journal.append(Group(0), buffer).unwrap();
    journal.close().unwrap();
    let buffer = journal.buffer();
    assert!(buffer.is_empty() && buffer.capacity() >= 2000);
}

#[test]
fn a_dropped_journal_still_writes_what_was_queued() {
    let disk = SimDisk::new(7);
    let journal = journal(&disk);
    let owner = told(&journal);
    for n in 0..50 {
        journal.append(Group(0), payload(n, 100)).unwrap();
    }
    drop(journal);
    let told: Vec<_> = owner.iter().map(Result::unwrap).collect();
    assert_eq!(told.last(), Some(&Index(50)), "the writer ends when all is written");
}

#[test]
fn the_real_disk_under_concurrent_load() {
    let dir = tempfile::tempdir().unwrap();
    let settings = || Options { segment_bytes: 256 * 1024, ..Options::new(dir.path()) };
    let disk: Arc<dyn Disk> = OsDisk::shared();
    let (journal, _) = Journal::open(Arc::clone(&disk), settings(), Index::FIRST).unwrap();
    thread::scope(|scope| {
        for group in 0..3 {
            let journal = &journal;
            scope.spawn(move || {
                for n in 0..100 {
                    journal.append(Group(group), payload(n, 5000)).unwrap();
                }
            });
        }
    });
    journal.wait_durable(Index(300)).unwrap();
    journal.trim(Index(150));
    journal.wait_trimmed().unwrap();
    journal.close().unwrap();
    let stats = journal.stats();
    assert!(stats.entries == 300 && stats.batches <= 300 && stats.segments_trimmed > 0, "{stats:?}");
    let (log, opened) = Log::open(disk, settings(), Index(151)).unwrap();
    assert_eq!((opened.first, opened.last), (Index(1), Index(300)));
    assert_eq!(log.read_from(Index(1)).unwrap().map(Result::unwrap).count(), 300);
}

#[test]
fn step_by_step_nothing_is_written_until_it_is_said() {
    let disk = SimDisk::new(8);
    let (journal, mut steps, _) =
        Journal::open_stepped(disk.shared(), options(Archive::Keep), Index::FIRST).unwrap();
    let owner = told(&journal);
    let before = disk.operations();
    for n in 0..60u64 {
        let append = if n.is_multiple_of(2) { Journal::append } else { Journal::append_here };
        append(&journal, Group(0), payload(n, 300)).unwrap();
    }
    assert_eq!((journal.durable(), disk.operations()), (Index(0), before));
    assert!(steps.write() && !steps.write(), "one batch has it all");
    assert_eq!((journal.durable(), owner.recv().unwrap().unwrap()), (Index(60), Index(60)));
    journal.trim(Index(40));
    assert!(steps.keep() && steps.keep() && !steps.keep(), "a spare segment and a trim, then nothing");
    assert!(journal.cursors().trimmed > Index(0));

    disk.fail_next_sync();
    journal.append(Group(0), payload(60, 300)).unwrap();
    assert!(!steps.write() && !steps.write());
    assert!(owner.recv().unwrap().is_err() && journal.append(Group(0), Vec::new()).is_err());
}

/// Polls a future; whether it is ready, and with what.
fn poll<T>(future: impl Future<Output = T>, woken: &Arc<Woken>) -> Option<T> {
    let waker = Waker::from(Arc::clone(woken));
    match pin!(future).poll(&mut Context::from_waker(&waker)) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl Woken {
    fn times(&self) -> usize {
        self.0.swap(0, Ordering::SeqCst)
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_task_that_steps_it_is_woken_for_work_and_for_the_end() {
    let (journal, mut steps, _) =
        Journal::open_stepped(SimDisk::new(9).shared(), options(Archive::Keep), Index::FIRST).unwrap();
    let woken = Arc::new(Woken::default());
    assert_eq!(poll(steps.wanted(), &woken), None);
    journal.append(Group(0), payload(1, 300)).unwrap();
    assert_eq!((woken.times(), poll(steps.wanted(), &woken)), (1, Some(true)));
    assert!(steps.write());
    while steps.keep() {}
    assert_eq!(poll(steps.wanted(), &woken), None);
    journal.trim(Index(1));
    assert_eq!((woken.times(), poll(steps.wanted(), &woken)), (1, Some(true)));
    while steps.keep() {}

    // What is queued when it is closed is still written.
    assert_eq!(poll(steps.wanted(), &woken), None);
    journal.append(Group(0), payload(2, 300)).unwrap();
    let closing = Arc::new(Woken::default());
    let mut closed = Box::pin(journal.closed());
    assert_eq!(poll(closed.as_mut(), &closing), None);
    assert_eq!(poll(steps.wanted(), &woken), Some(true));
    assert!(steps.write() && journal.durable() == Index(2));
    assert_eq!(poll(steps.wanted(), &woken), Some(false));
    drop(steps);
    assert_eq!((closing.times(), poll(closed.as_mut(), &closing)), (1, Some(())));
    journal.close().unwrap();
}

#[test]
fn threads_are_waited_for_without_blocking() {
    let journal = journal(&SimDisk::new(10));
    journal.append(Group(0), payload(1, 300)).unwrap();
    let woken = Arc::new(Woken::default());
    let mut closed = Box::pin(journal.closed());
    let begun = Instant::now();
    while poll(closed.as_mut(), &woken).is_none() {
        assert!(begun.elapsed() < Duration::from_secs(10), "it never ends");
        thread::yield_now();
    }
    assert_eq!(journal.durable(), Index(1));
    journal.close().unwrap();
}
