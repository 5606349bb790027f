use std::collections::BTreeMap;

use escrow_journal::Options;
use escrow_journal::storage::OsDisk;
use futures_util::{Stream, StreamExt as _};
use openraft::storage::{EntryResponder, IOFlushed, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{RaftSnapshotBuilder, StorageError};
use openraft_rt::{AsyncRuntime as _, Oneshot as _};
use openraft_rt_tokio::TokioOneshot;

use super::*;
use crate::machine::Snapshot;
use crate::runtime::Runtime;
use crate::types::{Commands, RaftSnapshot, SnapshotMeta, StoredMembership, Term};

const GROUP: Group = Group(7);

/// A journal of its own, closed and removed at the end.
struct Place {
    dir: tempfile::TempDir,
    journal: Journal,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let journal = open(&dir).0;
        Self { dir, journal }
    }

    fn log(&self) -> GroupLog {
        let trim = Trim::of([GROUP]);
        GroupLog::new(GROUP, self.journal.clone(), trim, Recovering::default()).unwrap()
    }

    /// What another process would find.
    fn reopened(self) -> (Self, GroupLog) {
        self.journal.close().unwrap();
        let (journal, recovered) = open(&self.dir);
        let log = GroupLog::new(GROUP, journal.clone(), Trim::of([GROUP]), recovered).unwrap();
        (Self { dir: self.dir, journal }, log)
    }
}

fn open(dir: &tempfile::TempDir) -> (Journal, Recovering) {
    let options = Options { segment_bytes: 1 << 20, ..Options::new(dir.path()) };
    let (journal, _) = Journal::open(OsDisk::shared(), options, Index::FIRST).unwrap();
    let mut recovering = Recovering::default();
    let live = journal.cursors().trimmed.next();
    for entry in journal.read_from(live).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.group, GROUP);
        recovering.record(entry.index, entry.payload).unwrap();
    }
    (journal, recovering)
}

/// A state machine that only remembers where it is: the suite wants one beside the log.
#[derive(Default)]
struct Plain {
    last: Option<LogId>,
    membership: StoredMembership,
    snapshot: Option<SnapshotMeta>,
}

impl Plain {
    fn snapshot(&self) -> Option<RaftSnapshot> {
        let meta = self.snapshot.clone()?;
        Some(RaftSnapshot { meta, snapshot: Snapshot::Checkpoint })
    }
}

struct PlainBuilder(SnapshotMeta);

impl RaftSnapshotBuilder<Types> for PlainBuilder {
    type SnapshotData = Snapshot;

    async fn build_snapshot(&mut self) -> Result<RaftSnapshot, io::Error> {
        Ok(RaftSnapshot { meta: self.0.clone(), snapshot: Snapshot::Checkpoint })
    }
}

impl RaftStateMachine<Types> for Plain {
    type SnapshotData = Snapshot;
    type SnapshotBuilder = PlainBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.last, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (entry, _) = next?;
            self.last = Some(entry.log_id);
            if let Payload::Membership(membership) = entry.payload {
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        let meta = SnapshotMeta { last_log_id: self.last, last_membership: self.membership.clone() };
        self.snapshot = Some(meta.clone());
        PlainBuilder(meta)
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, _: Snapshot) -> Result<(), io::Error> {
        self.last = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.snapshot = Some(meta.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<RaftSnapshot>, io::Error> {
        Ok(self.snapshot())
    }
}

struct Builder;

impl StoreBuilder<Types, GroupLog, Plain, Place> for Builder {
    async fn build(&self) -> Result<(Place, GroupLog, Plain), StorageError<Types>> {
        let place = Place::new();
        let log = place.log();
        Ok((place, log, Plain::default()))
    }
}

/// openraft's own suite of what a log has to do.
#[test]
fn the_log_is_what_openraft_wants() {
    Runtime::run(Suite::test_all(Builder)).unwrap();
}

fn entry(term: u64, index: u64, text: &str) -> Entry {
    let commands = Commands { sequence: index + 1, bytes: Bytes::copy_from_slice(text.as_bytes()) };
    Entry { log_id: id(term, index), payload: Payload::Normal(commands) }
}

fn id(term: u64, index: u64) -> LogId {
    LogId { leader_id: Term::new(term), index }
}

async fn append(log: &mut GroupLog, entries: Vec<Entry>) {
    let (done, flushed) = TokioOneshot::channel();
    log.append(entries, IOFlushed::signal(done)).await.unwrap();
    flushed.await.unwrap().unwrap();
}

fn vote(term: u64, member: u64) -> Vote {
    wire::to_vote(v1::Ballot { term, member, committed: true }).expect("a small term")
}

/// Everything that can be asked of a log.
async fn everything(log: &mut GroupLog) -> (Option<Vote>, LogState<Types>, Vec<Entry>) {
    let state = log.get_log_state().await.unwrap();
    (log.read_vote().await.unwrap(), state, log.try_get_log_entries(..).await.unwrap())
}

#[test]
fn what_was_written_is_recovered() {
    // A reproducible mixture of everything that Raft does with a log, and a restart after every few of them.
    let mut random = escrow_journal::storage::SplitMix64::new(4);
    let mut below = move |limit: u64| random.next_u64() % limit;
    let mut place = Place::new();
    let mut log = place.log();
    let (mut term, mut next, mut purged) = (1, 0, 0);
    let mut texts: BTreeMap<u64, String> = BTreeMap::new();
    Runtime::run(async {
        for step in 0..400_u64 {
            match below(10) {
                0 => {
                    term += 1;
                    log.save_vote(&vote(term, below(3))).await.unwrap();
                }
                1 if next > purged => {
                    let keep = purged + below(next - purged);
                    let last = log.try_get_log_entries(keep..=keep).await.unwrap()[0].log_id;
                    log.truncate_after(Some(last)).await.unwrap();
                    texts.split_off(&(keep + 1));
                    next = keep + 1;
                }
                2 if next > purged + 1 => {
                    let upto = purged + below(next - purged);
                    let last = log.try_get_log_entries(upto..=upto).await.unwrap()[0].log_id;
                    log.purge(last).await.unwrap();
                    texts = texts.split_off(&(upto + 1));
                    purged = upto + 1;
                }
                _ => {
                    let text = format!("{step} {}", "x".repeat(below(20_000) as usize));
                    append(&mut log, vec![entry(term, next, &text)]).await;
                    texts.insert(next, text);
                    next += 1;
                }
            }
            if below(12) == 0 {
                let before = everything(&mut log).await;
                (place, log) = {
                    drop(log);
                    place.reopened()
                };
                assert_eq!(everything(&mut log).await, before, "after step {step}");
            }
            let found: Vec<(u64, String)> = log
                .try_get_log_entries(..)
                .await
                .unwrap()
                .into_iter()
                .map(|entry| match entry.payload {
                    Payload::Normal(commands) => {
                        (entry.log_id.index, String::from_utf8(commands.bytes.to_vec()).unwrap())
                    }
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(found, texts.clone().into_iter().collect::<Vec<_>>(), "step {step}");
        }
    });
}

#[test]
fn the_vote_outlives_the_segment_that_it_was_in() {
    let place = Place::new();
    let mut log = place.log();
    let (_place, mut log) = Runtime::run(async {
        log.save_vote(&vote(5, 2)).await.unwrap();
        // Four segments, and checkpoints on the way.
        for index in 0..80 {
            append(&mut log, vec![entry(5, index, &"x".repeat(50_000))]).await;
            if index % 10 == 9 {
                log.purge(id(5, index)).await.unwrap();
            }
        }
        let trimmed = place.journal.wait_trimmed().unwrap();
        assert!(trimmed.get() > 40, "old segments are given up: {trimmed}");
        drop(log);
        place.reopened()
    });
    let (found, state, entries) = Runtime::run(everything(&mut log));
    assert_eq!(found, Some(vote(5, 2)));
    assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(id(5, 79)), Some(id(5, 79))));
    assert_eq!(entries, []);
}

#[test]
fn records_that_cannot_be_are_refused() {
    let mut recovering = Recovering::default();
    assert!(recovering.record(Index(1), vec![0xff; 9]).is_err(), "not a record");
    assert!(recovering.record(Index(1), Vec::new()).is_err(), "an empty one");
    let append = |index| {
        let append =
            v1::log_record::Append { entry: Some(wire::entry(&entry(1, index, "a"))), committed: None };
        v1::LogRecord { record: Some(Record::Append(append)) }.encode_to_vec()
    };
    recovering.record(Index(1), append(0)).unwrap();
    let error = recovering.record(Index(2), append(2)).unwrap_err();
    assert!(error.to_string().contains("gap"), "{error}");
}
