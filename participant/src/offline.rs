//! Shards while no server runs: what a snapshot holds, a replica that is made of one, and one that is made of what a lost group left.
//!
//! **Invariant:** what is damaged is refused before anything is written; a directory is not read by a server before it is whole.
//! Blocks.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use escrow_journal::storage::{Disk, OsDisk};
use escrow_journal::{Group, Index, Journal, Options};
use escrow_replica::restore::{FIRST_SEGMENT_BYTES, Place, Remainder, begin_log};
use escrow_replica::{MemberId, Position, Replication};
use escrow_types::{AccountId, Digest, Epoch, Partition, Slot};
use escrow_wallet::Wallet;

use crate::config::Config;
use crate::error::ParticipantError;
use crate::ground::Views;
use crate::identity::{Identity, Membership};
use crate::recovery::{Shard, apply};
use crate::snapshot;
use crate::store::{MemoryView, Meta, Store, View};
use crate::unbound;

/// What a snapshot of a shard holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// The shard.
    pub shard: u16,
    /// The cluster that it is of, if that was known.
    pub cluster_id: Option<String>,
    /// Where in the log of its group it is of.
    pub position: Position,
    /// The digest of the state.
    pub digest: Digest,
    /// How many accounts it has.
    pub accounts: u64,
    /// One account of every slot of which it has any.
    pub slots: BTreeMap<Slot, AccountId>,
    /// How many reservations it has: of transactions that were unfinished.
    pub reservations: u64,
    /// The newest epoch of every coordinator partition that was ever seen there: the next one must be newer.
    pub epochs: BTreeMap<Partition, Epoch>,
}

impl Content {
    fn of(wallet: &Wallet, meta: &Meta, position: Position) -> Self {
        Self {
            shard: meta.shard,
            cluster_id: meta.cluster_id.clone(),
            position,
            digest: wallet.digest(),
            accounts: wallet.accounts_count() as u64,
            slots: wallet.account_ids().map(|id| (Slot::of(id.key()), id.clone())).collect(),
            reservations: wallet.reservations_held() as u64,
            epochs: wallet.epochs().collect(),
        }
    }
}

fn wrong(path: &Path, why: impl std::fmt::Display) -> ParticipantError {
    ParticipantError::Snapshot { path: path.to_owned(), why: why.to_string() }
}

/// Checks a snapshot, all of it, and says what it holds.
pub fn inspect(path: &Path) -> Result<Content, ParticipantError> {
    let disk = OsDisk::shared();
    let mut records = opened(&*disk, path)?;
    let (meta, mut failure) = (records.meta.clone(), None);
    let rows = records.by_ref().map_while(|record| match record {
        Ok((key, value)) => Some((key, value.unwrap_or_default())),
        Err(error) => {
            failure = Some(error);
            None
        }
    });
    let wallet = Wallet::from_view(rows);
    if let Some(failure) = failure {
        return Err(failure);
    }
    let wallet = wallet.map_err(|error| wrong(path, error))?;
    let position = Position::decode(&meta.position).map_err(|error| wrong(path, error))?;
    if position.index() != meta.applied {
        let why = format!("it says entry {} in one place, and {} in another", meta.applied, position.index());
        return Err(wrong(path, why));
    }
    Ok(Content::of(&wallet, &meta, position))
}

fn opened<'a>(disk: &dyn Disk, path: &'a Path) -> Result<snapshot::Snapshot<'a>, ParticipantError> {
    snapshot::open(disk, path)?.ok_or_else(|| wrong(path, "it is not there"))
}

/// Makes the data directory of a replica whose state is that of a snapshot: of a new group, in a cluster that is given.
pub fn restore(path: &Path, place: &Place) -> Result<(), ParticipantError> {
    let disk = OsDisk::shared();
    let mut records = opened(&*disk, path)?;
    let (shard, applied) = (records.meta.shard, records.meta.applied);
    let position = Position::decode(&records.meta.position).map_err(|error| wrong(path, error))?;
    let position = position.with_members(&place.members)?;
    let dir = &place.data_dir;
    disk.create_dir_all(dir).map_err(ParticipantError::file(dir))?;
    let cluster_id = Some(place.cluster_id.clone());
    let meta = Meta { shard, applied, cluster_id: cluster_id.clone(), position: position.encode() };
    let shard_dir = dir.join(format!("shard-{shard}"));
    let cache_bytes = Config::default().sled_cache_bytes;
    let (mut store, _) = Store::open(&shard_dir, shard, cluster_id.as_deref(), cache_bytes)?;
    store.replace(&mut records, &meta)?;
    let options = Options { segment_bytes: FIRST_SEGMENT_BYTES, ..Options::new(dir.join("journal")) };
    let (journal, mut steps, opened) = Journal::open_stepped(Arc::clone(&disk), options, Index::FIRST)?;
    begin_log(&journal, Group(shard), &position, place.term)?;
    steps.write();
    journal.check()?;
    let me = Membership { number: place.me.number(), life: place.me.life() };
    Identity::restore(&*disk, dir, vec![shard], &place.cluster_id, me, opened.journal_id)
}

/// What a stopped replica of a group has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// The shard.
    pub shard: u16,
    /// Which member it was.
    pub me: MemberId,
    /// The newest term that it knows.
    pub term: u64,
    /// Up to here it knows that its group had agreed.
    pub committed: u64,
    /// Where it is when all of its log is applied.
    pub position: Position,
}

/// Says what the stopped replicas of a data directory have. Recovers it, as a start would; votes for nobody.
pub fn examine(data_dir: &Path) -> Result<Vec<Left>, ParticipantError> {
    with_left(data_dir, |mut left| {
        let shards = std::mem::take(&mut left.shards);
        shards.into_iter().map(|(number, mut shard)| left.apply_rest(number, &mut shard)).collect()
    })
}

/// Writes a snapshot of what the stopped replica of a shard has: its checkpoint and all of its log, also what it did not know to be
/// committed, as if it had been elected. The directory keeps what it has.
pub fn salvage(data_dir: &Path, shard: u16, to: &Path) -> Result<Left, ParticipantError> {
    with_left(data_dir, |mut left| {
        let mut recovered = left.shards.remove(&shard).ok_or_else(|| ParticipantError::Foreign {
            path: data_dir.to_owned(),
            why: format!("it has no shard {shard}"),
        })?;
        let mut view = copy_of_view(shard, &recovered)?;
        let found = left.apply_rest(shard, &mut recovered)?;
        let (applied, position) = (found.position.index(), found.position.encode());
        let meta = Meta { shard, applied, cluster_id: left.cluster_id.clone(), position };
        view.write(Some(&recovered.wallet.take_changes()), &meta)?;
        snapshot::write(&*OsDisk::shared(), to, &view, &meta)?;
        Ok(found)
    })
}

/// The records that the recovered wallet is the continuation of: those of the view, if recovery began there. A view that is lost or behind
/// gives none, and then the wallet has all of them as changes: what else such a view holds may have ended since.
fn copy_of_view(shard: u16, recovered: &Shard) -> Result<MemoryView, ParticipantError> {
    let mut copy = MemoryView::new(shard);
    let recovery = recovered.replica.as_ref().expect("only a replica is recovered here");
    if recovered.checkpointed > 0 && recovery.checkpointed == recovery.position {
        let mut records = Vec::new();
        let meta = recovered.view.export(&mut |key, value| {
            records.push(Ok((key.to_vec(), Some(value.to_vec()))));
            Ok(())
        })?;
        copy.replace(&mut records.into_iter(), &meta)?;
    }
    Ok(copy)
}

/// A data directory that was left.
struct LeftBehind {
    me: MemberId,
    cluster_id: Option<String>,
    shards: BTreeMap<u16, Shard>,
}

impl LeftBehind {
    fn apply_rest(&self, number: u16, shard: &mut Shard) -> Result<Left, ParticipantError> {
        let recovery = shard.replica.as_mut().expect("only a replica is recovered here");
        let Remainder { term, committed, entries } = recovery.log.remainder(&recovery.position)?;
        for mut entry in entries {
            recovery.position.advance(&mut entry);
            if let Some(commands) = &entry.commands {
                let index = entry.index();
                apply(&mut shard.wallet, commands).map_err(|why| ParticipantError::Entry { index, why })?;
            }
        }
        Ok(Left { shard: number, me: self.me, term, committed, position: recovery.position.clone() })
    }
}

fn with_left<T>(
    data_dir: &Path,
    work: impl FnOnce(LeftBehind) -> Result<T, ParticipantError>,
) -> Result<T, ParticipantError> {
    let disk = OsDisk::shared();
    let (shards, Membership { number, life }) = Identity::peek(&*disk, data_dir)?;
    // A start would make a new one, and find out later.
    let journal = data_dir.join("journal");
    disk.list(&journal).map_err(ParticipantError::file(&journal))?;
    let members = BTreeMap::from([(number, "http://127.0.0.1:1".to_owned())]);
    let replication = Some(Replication::new(number, members, false));
    let config = Config { data_dir: data_dir.to_owned(), shards, replication, ..Config::default() };
    let (_lock, identity, recovered) = unbound::open_on(&config, &disk, &Views::Sled)?;
    let (me, cluster_id) = (MemberId::another(number, life), identity.cluster_id());
    work(LeftBehind { me, cluster_id, shards: recovered.shards })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Records, TakeRecord, Written};
    use escrow_proto::v1;
    use escrow_proto::v1::log_record::{Append, Base, Record};
    use escrow_replica::Member;
    use escrow_types::Currency;
    use escrow_wallet::command::Hello;
    use escrow_wallet::{Changes, Command, Entry, OpenAccount, Overdraft};
    use prost::Message as _;

    const SHARD: u16 = 3;
    const CLUSTER: &str = "0123456789abcdef0123456789abcdef";

    fn wallet() -> Wallet {
        let mut wallet = Wallet::default();
        let ids = ["alice", "bob"].map(|id| AccountId::new(id).unwrap());
        let rows = ids.map(|id| OpenAccount { id, currency: Currency::USD, overdraft: Overdraft::Forbidden });
        wallet.apply(5, &Command::OpenAccounts(rows.to_vec()));
        let hello = Hello { partition: Partition(0), epoch: Epoch(7), unfinished: Vec::new() };
        wallet.apply(6, &Command::Hello(hello));
        wallet
    }

    /// A position at entry 9, of term 4.
    fn position() -> Position {
        let last = Some(v1::LogId { term: 4, index: 8 });
        let message = v1::Position { last, sequence_term: 4, sequence: 2, ..v1::Position::default() };
        Position::decode(&message.encode_to_vec()).unwrap()
    }

    fn snapshot_in(dir: &Path) -> std::path::PathBuf {
        let path = dir.join("shard-3.snapshot");
        let meta =
            Meta { shard: SHARD, applied: 9, cluster_id: Some("old".into()), position: position().encode() };
        let mut view = MemoryView::new(SHARD);
        view.write(Some(&wallet().take_changes()), &meta).unwrap();
        snapshot::write(&*OsDisk::shared(), &path, &view, &meta).unwrap();
        path
    }

    fn place(data_dir: &Path) -> Place {
        let member = |number| Member { id: MemberId::another(number, 70 + number), endpoint: String::new() };
        let members: Vec<Member> = (1..=3).map(member).collect();
        let (data_dir, cluster_id) = (data_dir.to_owned(), CLUSTER.to_owned());
        Place { data_dir, cluster_id, me: members[1].id, members, term: 12 }
    }

    #[test]
    fn what_is_restored_is_what_was_backed_up_with_other_members() {
        let dir = tempfile::tempdir().unwrap();
        let path = snapshot_in(dir.path());
        let content = inspect(&path).unwrap();
        assert_eq!((content.shard, content.cluster_id.as_deref()), (SHARD, Some("old")));
        assert_eq!((content.position.index(), content.position.term()), (9, 4));
        assert_eq!((content.accounts, content.reservations), (2, 0));
        let ids: Vec<&str> = content.slots.values().map(AccountId::as_str).collect();
        assert!(ids.len() == 2 && ids.contains(&"alice") && ids.contains(&"bob"), "{:?}", content.slots);
        assert_eq!(content.epochs, BTreeMap::from([(Partition(0), Epoch(7))]));
        assert_eq!(content.digest, wallet().digest());

        let place = place(&dir.path().join("new"));
        restore(&path, &place).unwrap();
        let left = examine(&place.data_dir).unwrap();
        let [left] = left.as_slice() else { panic!("{left:?}") };
        assert_eq!((left.shard, left.me, left.term, left.committed), (SHARD, place.me, 12, 9));
        assert_eq!((left.position.index(), left.position.term()), (9, 4));
        assert_eq!(left.position.voters(), place.members.iter().map(|member| member.id).collect());

        // And what is salvaged of it is the same again.
        let again = dir.path().join("again.snapshot");
        assert_eq!(salvage(&place.data_dir, SHARD, &again).unwrap(), *left);
        let salvaged = inspect(&again).unwrap();
        assert_eq!((salvaged.digest, salvaged.cluster_id.as_deref()), (content.digest, Some(CLUSTER)));
        assert!(salvage(&place.data_dir, 4, &again).unwrap_err().to_string().contains("no shard 4"));
    }

    fn open_account(id: &str) -> Command {
        let id = AccountId::new(id).unwrap();
        Command::OpenAccounts(vec![OpenAccount {
            id,
            currency: Currency::USD,
            overdraft: Overdraft::Forbidden,
        }])
    }

    /// An entry that opens an account, as the log has it.
    fn appended(index: u64, term: u64, sequence: u64, account: &str) -> Record {
        let payload = Entry { time_ms: 5, commands: vec![open_account(account)] }.encode();
        let payload = Some(v1::log_entry::Payload::Commands(payload.into()));
        let id = Some(v1::LogId { term, index: index - 1 });
        Record::Append(Append { entry: Some(v1::LogEntry { id, payload, sequence }), committed: None })
    }

    /// The data directory of a replica that has gone: with such a log, and a view that is of entry 1, with what is in no entry: an
    /// account, and a coordinator.
    fn left_with(data_dir: &Path, log: &[Record]) {
        let disk = OsDisk::shared();
        let last = Some(v1::LogId { term: 4, index: 0 });
        let position = v1::Position { last, sequence_term: 4, sequence: 1, ..v1::Position::default() };
        let position = position.encode_to_vec();
        let shard_dir = data_dir.join(format!("shard-{SHARD}"));
        let (mut store, _) = Store::open(&shard_dir, SHARD, Some(CLUSTER), 1 << 20).unwrap();
        let mut wallet = Wallet::default();
        wallet.apply(5, &open_account("of-the-view"));
        let hello = Hello { partition: Partition(9), epoch: Epoch(3), unfinished: Vec::new() };
        wallet.apply(5, &Command::Hello(hello));
        let meta = Meta { shard: SHARD, applied: 1, cluster_id: Some(CLUSTER.into()), position };
        store.write(Some(&wallet.take_changes()), &meta).unwrap();
        let options = Options { segment_bytes: 1 << 20, ..Options::new(data_dir.join("journal")) };
        let (journal, mut steps, opened) =
            Journal::open_stepped(Arc::clone(&disk), options, Index::FIRST).unwrap();
        for record in log {
            let record = v1::LogRecord { record: Some(record.clone()) };
            journal.append(Group(SHARD), record.encode_to_vec()).unwrap();
        }
        steps.write();
        journal.check().unwrap();
        let me = Membership { number: 2, life: 7 };
        Identity::restore(&*disk, data_dir, vec![SHARD], CLUSTER, me, opened.journal_id).unwrap();
    }

    /// What is salvaged: up to where, the accounts, and the coordinators.
    fn salvaged(data_dir: &Path) -> Result<(u64, Vec<String>, Vec<Partition>), ParticipantError> {
        let to = data_dir.join("salvaged.snapshot");
        let left = salvage(data_dir, SHARD, &to)?;
        let content = inspect(&to).unwrap();
        assert_eq!(content.position, left.position);
        let mut accounts: Vec<String> = content.slots.values().map(|id| id.as_str().to_owned()).collect();
        accounts.sort();
        Ok((left.position.index(), accounts, content.epochs.into_keys().collect()))
    }

    #[test]
    fn only_the_view_with_which_recovery_begins_is_salvaged() {
        let log = [appended(1, 4, 1, "one"), appended(2, 4, 2, "two"), appended(3, 4, 3, "three")];
        let dir = tempfile::tempdir().unwrap();
        left_with(dir.path(), &log);
        let (index, accounts, coordinators) = salvaged(dir.path()).unwrap();
        assert_eq!((index, coordinators), (3, vec![Partition(9)]));
        assert_eq!(accounts, ["of-the-view", "three", "two"], "the view, and what comes after it");

        // A checkpoint had entry 2, and this view has not: it is not the one that the log speaks of.
        let purged = Some(v1::LogId { term: 4, index: 1 });
        let base = Record::Base(Base { vote: None, purged, committed: purged });
        let dir = tempfile::tempdir().unwrap();
        left_with(dir.path(), &[&log[..], &[base]].concat());
        let (index, accounts, coordinators) = salvaged(dir.path()).unwrap();
        assert_eq!((index, coordinators), (3, vec![]), "the archived log alone");
        assert_eq!(accounts, ["one", "three", "two"]);
    }

    #[test]
    fn a_log_whose_terms_go_back_is_not_salvaged() {
        let log = [appended(1, 4, 1, "one"), appended(2, 5, 1, "two"), appended(3, 4, 2, "three")];
        for (log, why) in [
            (&log[..], "entry 3 of the group's log: it is of term 4, and the one before it of term 5"),
            // The view is of term 4.
            (&[appended(2, 3, 1, "two")], "entry 2 of the group's log: it is of term 3"),
            (&[appended(3, 4, 1, "three")], "entry 3 of the group's log: it comes after entry 1"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            left_with(dir.path(), log);
            let refused = salvaged(dir.path()).unwrap_err().to_string();
            assert!(refused.contains(why), "{refused}");
            assert!(examine(dir.path()).unwrap_err().to_string().contains(why));
            assert!(!dir.path().join("salvaged.snapshot").exists());
        }
    }

    /// A view that cannot be read any more after it was opened.
    struct Failing;

    impl Failing {
        fn failed<T>() -> Result<T, ParticipantError> {
            Err(ParticipantError::Store { shard: SHARD, path: "v".into(), why: "a broken disk".into() })
        }
    }

    impl View for Failing {
        fn read(&self) -> Result<crate::store::Held, ParticipantError> {
            Self::failed()
        }

        fn meta(&self) -> Result<Meta, ParticipantError> {
            Self::failed()
        }

        fn export(&self, _: TakeRecord<'_>) -> Result<Meta, ParticipantError> {
            Self::failed()
        }

        fn replace(&mut self, _: Records<'_>, _: &Meta) -> Result<(), ParticipantError> {
            Self::failed()
        }

        fn begin(&mut self, _: &Meta) -> Result<(), ParticipantError> {
            Self::failed()
        }

        fn add(&mut self, _: &Changes) -> Result<(), ParticipantError> {
            Self::failed()
        }

        fn commit(&mut self) -> Result<Written, ParticipantError> {
            Self::failed()
        }
    }

    #[test]
    fn a_view_that_cannot_be_read_is_none_without_records() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(&dir.path().join("new"));
        restore(&snapshot_in(dir.path()), &place).unwrap();
        with_left(&place.data_dir, |mut left| {
            let shard = left.shards.get_mut(&SHARD).unwrap();
            assert_eq!(copy_of_view(SHARD, shard)?.read()?.wallet.accounts_count(), 2);
            shard.view = Box::new(Failing);
            let failed = copy_of_view(SHARD, shard).unwrap_err().to_string();
            assert!(failed.contains("a broken disk"), "{failed}");
            Ok(())
        })
        .unwrap();
    }

    #[test]
    fn what_is_damaged_is_refused_and_makes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = snapshot_in(dir.path());
        let whole = std::fs::read(&path).unwrap();
        let new = dir.path().join("new");
        for at in (0..whole.len()).step_by(7) {
            let mut altered = whole.clone();
            altered[at] ^= 0x10;
            std::fs::write(&path, &altered).unwrap();
            assert!(inspect(&path).is_err(), "byte {at}");
            assert!(restore(&path, &place(&new)).is_err(), "byte {at}");
            std::fs::write(&path, &whole[..at]).unwrap();
            assert!(inspect(&path).is_err(), "cut at {at}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(restore(&path, &place(&new)).unwrap_err().to_string().contains("it is not there"));
        assert!(!new.exists());
    }

    #[test]
    fn what_is_no_replica_is_not_salvaged() {
        let dir = tempfile::tempdir().unwrap();
        assert!(examine(dir.path()).unwrap_err().to_string().contains("no identity.json"));
        let identity = Identity::open(OsDisk::shared(), dir.path(), &[SHARD], None).unwrap();
        drop(identity);
        assert!(examine(dir.path()).unwrap_err().to_string().contains("without replication"));
        let place = place(&dir.path().join("new"));
        restore(&snapshot_in(dir.path()), &place).unwrap();
        std::fs::remove_dir_all(place.data_dir.join("journal")).unwrap();
        assert!(examine(&place.data_dir).unwrap_err().to_string().contains("journal"));
        assert!(!place.data_dir.join("journal").exists(), "nothing is made in its place");
    }
}
