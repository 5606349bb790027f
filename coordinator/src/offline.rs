//! A partition while no server runs: what a snapshot holds, a replica that is made of one, and one that is made of what a lost group left.
//!
//! **Invariant:** what is damaged is refused before anything is written; a directory is not read by a server before it is whole.
//! Blocks.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use escrow_journal::background::Pace;
use escrow_journal::storage::{Disk, OsDisk};
use escrow_journal::{Index, Journal, Options};
use escrow_replica::restore::{FIRST_SEGMENT_BYTES, Place, Remainder, begin_log};
use escrow_replica::{MemberId, Position, Replication};
use escrow_tcc::{Command, Entry, Machine};
use escrow_types::{Digest, Epoch};

use crate::config::Config;
use crate::error::CoordinatorError;
use crate::ground::Ground;
use crate::owner::GROUP;
use crate::server::Opened;
use crate::store::{Checkpoint, Identity, Membership, Run, export, read_snapshot, runs_dir, unpack};

/// What a snapshot of a partition holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Where in the log of its group it is of.
    pub position: Position,
    /// The digest of the state.
    pub digest: Digest,
    /// The epoch that was open.
    pub epoch: Epoch,
    /// How many transactions were unfinished.
    pub unfinished: u64,
    /// Whether new work was refused.
    pub is_paused: bool,
}

impl Content {
    fn of(machine: &Machine, position: Position) -> Self {
        Self {
            position,
            digest: machine.digest(),
            epoch: machine.epoch(),
            unfinished: machine.live().len() as u64,
            is_paused: machine.is_paused(),
        }
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> CoordinatorError {
    let path = path.to_owned();
    move |source| CoordinatorError::File { path, source }
}

fn wrong(why: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("snapshot: {why}"))
}

/// The state that a checkpoint holds.
fn state(checkpoint: &Checkpoint) -> io::Result<(Machine, Position)> {
    let machine = Machine::from_checkpoint(&checkpoint.machine).map_err(wrong)?;
    let position = Position::decode(&checkpoint.position).map_err(wrong)?;
    if position.index() != checkpoint.index {
        let (one, other) = (checkpoint.index, position.index());
        return Err(wrong(format!("it says entry {one} in one place, and {other} in another")));
    }
    Ok((machine, position))
}

/// Checks a snapshot, all of it, and says what it holds.
pub fn inspect(path: &Path) -> Result<Content, CoordinatorError> {
    let read = read_snapshot(&*OsDisk::shared(), path).and_then(|checkpoint| state(&checkpoint));
    read.map(|(machine, position)| Content::of(&machine, position)).map_err(at(path))
}

/// Makes the data directory of a replica whose state is that of a snapshot: of a new group, in a cluster that is given. `paused`: whether it
/// refuses new work, if that is to be otherwise than in the snapshot.
pub fn restore(
    path: &Path,
    partition: u16,
    place: &Place,
    paused: Option<bool>,
) -> Result<(), CoordinatorError> {
    let disk = OsDisk::shared();
    let (dir, mut given) = (&place.data_dir, None);
    let change = |checkpoint: Checkpoint| {
        let (mut machine, position) = state(&checkpoint)?;
        if let Some(paused) = paused {
            machine.apply(0, &Command::SetPaused(paused));
        }
        let position = position.with_members(&place.members).map_err(wrong)?;
        let (machine, encoded) = (machine.to_checkpoint(), position.encode());
        given = Some(position);
        Ok(Checkpoint { machine, position: encoded, ..checkpoint })
    };
    unpack(&*disk, dir, path, change).map_err(at(path))?;
    let position = given.expect("a checkpoint was made");
    let options = Options { segment_bytes: FIRST_SEGMENT_BYTES, ..Options::new(dir.join("journal")) };
    let (journal, mut steps, opened) = Journal::open_stepped(Arc::clone(&disk), options, Index::FIRST)?;
    begin_log(&journal, GROUP, &position, place.term)?;
    steps.write();
    journal.check()?;
    let me = Membership { number: place.me.number(), life: place.me.life() };
    Identity::restore(&*disk, dir, partition, &place.cluster_id, me, opened.journal_id)
}

/// What a stopped replica of a partition has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// The partition.
    pub partition: u16,
    /// Its cluster.
    pub cluster_id: String,
    /// Which member it was.
    pub me: MemberId,
    /// The newest term that it knows.
    pub term: u64,
    /// Up to here it knows that its group had agreed.
    pub committed: u64,
    /// Where it is when all of its log is applied.
    pub position: Position,
}

/// Says what the stopped replica of a data directory has. Recovers it, as a start would; votes for nobody.
pub fn examine(data_dir: &Path) -> Result<Left, CoordinatorError> {
    LeftBehind::open(data_dir).map(|(_, left)| left)
}

/// Writes a snapshot of what the stopped replica of a partition has: its checkpoint and all of its log, also what it did not know to be
/// committed, as if it had been elected. The directory keeps what it has.
pub fn salvage(data_dir: &Path, to: &Path) -> Result<Left, CoordinatorError> {
    let (mut behind, left) = LeftBehind::open(data_dir)?;
    let building = Building(to.with_extension("building"));
    behind.write(&building.0, &left.position).map_err(at(&building.0))?;
    export(&*behind.disk, &building.0, to).map_err(at(to))?;
    Ok(left)
}

/// A directory for what is only needed until the snapshot is written.
struct Building(PathBuf);

impl Drop for Building {
    fn drop(&mut self) {
        // It only takes room, and its name says what it is.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A data directory that was left.
struct LeftBehind {
    disk: Arc<dyn Disk>,
    data_dir: PathBuf,
    machine: Machine,
    _opened: Opened,
}

impl LeftBehind {
    fn open(data_dir: &Path) -> Result<(Self, Left), CoordinatorError> {
        let disk = OsDisk::shared();
        let (identity, Membership { number, life }) = Identity::peek(&*disk, data_dir)?;
        // A start would make a new one, and find out later.
        let journal = data_dir.join("journal");
        disk.list(&journal).map_err(at(&journal))?;
        let members = [(number, "http://127.0.0.1:1".to_owned())].into();
        // A start makes the best of what is damaged, and sets aside or removes the rest: nothing of that may happen here.
        let checkpoint = Checkpoint::read(&*disk, data_dir).map_err(|why| at(data_dir)(wrong(why)))?;
        for run in checkpoint.iter().flat_map(|checkpoint| &checkpoint.runs) {
            Run::open(&disk, &runs_dir(data_dir), run).map_err(at(&runs_dir(data_dir).join(run)))?;
        }
        let config = Config {
            data_dir: data_dir.to_owned(),
            partition: identity.partition,
            cluster_id: Some(identity.cluster_id.clone()),
            replication: Some(Replication::new(number, members, false)),
            ..Config::default()
        };
        let Ground { delays, .. } = Ground::real();
        // A replica opens no epoch here: the time does not matter.
        let mut opened = Opened::open(config, Arc::clone(&disk), delays, || 0)?;
        let recovery = opened.replica.as_mut().expect("only a replica is opened here");
        let mut position = recovery.position.clone();
        let Remainder { term, committed, entries } = recovery.log.remainder(&position)?;
        let mut machine = std::mem::take(opened.driver.machine_mut());
        for mut entry in entries {
            position.advance(&mut entry);
            if let Some(commands) = &entry.commands {
                let index = entry.index();
                let decoded = Entry::decode(commands)
                    .map_err(|error| CoordinatorError::Entry { index, why: error.to_string() })?;
                machine.apply_entry(&decoded);
            }
        }
        let (me, partition) = (MemberId::another(number, life), identity.partition);
        let left = Left { partition, cluster_id: identity.cluster_id, me, term, committed, position };
        Ok((Self { disk, data_dir: data_dir.to_owned(), machine, _opened: opened }, left))
    }

    /// Writes checkpoint and runs to another directory.
    fn write(&mut self, dir: &Path, position: &Position) -> io::Result<()> {
        let runs = runs_dir(dir);
        self.disk.create_dir_all(&runs)?;
        let held = Checkpoint::read(&*self.disk, &self.data_dir).map_err(wrong)?.unwrap_or_default();
        let mut names = held.runs;
        for name in &names {
            std::fs::copy(runs_dir(&self.data_dir).join(name), runs.join(name))?;
        }
        let handed_over = self.machine.hand_over();
        if handed_over.finished().next().is_some() {
            // No checkpoint names a run so.
            let name = format!("{:020}.salvaged.run", position.index());
            Run::write(&self.disk, &runs, &name, handed_over.finished(), &Pace::none())?;
            names.push(name);
        }
        let (index, machine) = (position.index(), self.machine.to_checkpoint());
        Checkpoint { index, machine, runs: names, position: position.encode() }.write(&*self.disk, dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use escrow_proto::v1;
    use escrow_replica::Member;
    use prost::Message as _;

    const CLUSTER: &str = "0123456789abcdef0123456789abcdef";

    /// At entry 9, of term 4.
    fn position() -> Position {
        let last = Some(v1::LogId { term: 4, index: 8 });
        Position::decode(&v1::Position { last, ..v1::Position::default() }.encode_to_vec()).unwrap()
    }

    fn machine() -> Machine {
        let mut machine = Machine::new();
        machine.apply(5, &Command::OpenEpoch(Epoch(4)));
        machine.apply(6, &Command::SetPaused(true));
        machine
    }

    fn snapshot_in(dir: &Path) -> PathBuf {
        let (path, from, disk) = (dir.join("coordinator-0.snapshot"), dir.join("from"), OsDisk::shared());
        disk.create_dir_all(&runs_dir(&from)).unwrap();
        Run::write(&disk, &runs_dir(&from), "1.run", [].iter(), &Pace::none()).unwrap();
        let (machine, runs) = (machine().to_checkpoint(), vec!["1.run".into()]);
        Checkpoint { index: 9, machine, runs, position: position().encode() }.write(&*disk, &from).unwrap();
        export(&*disk, &from, &path).unwrap();
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
        assert_eq!((content.epoch, content.unfinished, content.is_paused), (Epoch(4), 0, true));
        assert_eq!((content.position.index(), content.digest), (9, machine().digest()));

        for (name, paused, is_paused) in [("as-it-was", None, true), ("resumed", Some(false), false)] {
            let place = place(&dir.path().join(name));
            restore(&path, 2, &place, paused).unwrap();
            let left = examine(&place.data_dir).unwrap();
            assert_eq!((left.partition, left.cluster_id.as_str()), (2, CLUSTER));
            assert_eq!((left.me, left.term, left.committed), (place.me, 12, 9));
            assert_eq!(left.position.voters(), place.members.iter().map(|member| member.id).collect());
            // And what is salvaged of it is the same again.
            let again = dir.path().join("again.snapshot");
            assert_eq!(salvage(&place.data_dir, &again).unwrap(), left);
            let salvaged = inspect(&again).unwrap();
            assert_eq!((salvaged.epoch, salvaged.is_paused), (Epoch(4), is_paused));
            assert_eq!(salvaged.digest == content.digest, is_paused);
            assert!(!dir.path().join("again.building").exists());
        }
    }

    #[test]
    fn what_is_damaged_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = snapshot_in(dir.path());
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut altered = whole.clone();
            altered[at] ^= 0x10;
            std::fs::write(&path, &altered).unwrap();
            assert!(inspect(&path).is_err(), "byte {at}");
        }
        let place = place(&dir.path().join("new"));
        assert!(restore(&path, 0, &place, None).is_err());
        assert!(!place.data_dir.exists());
        std::fs::remove_file(&path).unwrap();
        assert!(inspect(&path).unwrap_err().to_string().contains("it is not there"));
    }

    #[test]
    fn a_run_that_was_damaged_before_it_was_copied_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = snapshot_in(dir.path());
        let mut whole = std::fs::read(&path).unwrap();
        // The file ends with a run, and its own checksum.
        let body = whole.len() - 4;
        whole[body - 60] ^= 1;
        let crc = crc32c::crc32c(&whole[..body]);
        whole[body..].copy_from_slice(&crc.to_le_bytes());
        std::fs::write(&path, &whole).unwrap();
        let error = inspect(&path).unwrap_err().to_string();
        assert!(error.contains("1.run"), "{error}");
    }

    #[test]
    fn salvage_touches_nothing_of_a_directory_that_is_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(&dir.path().join("left"));
        restore(&snapshot_in(dir.path()), 2, &place, None).unwrap();
        let run = runs_dir(&place.data_dir).join("1.run");
        let mut bytes = std::fs::read(&run).unwrap();
        bytes[3] ^= 1;
        std::fs::write(&run, &bytes).unwrap();
        for _ in 0..2 {
            let error = examine(&place.data_dir).unwrap_err().to_string();
            assert!(error.contains("1.run"), "{error}");
        }
        assert_eq!(std::fs::read(&run).unwrap(), bytes, "it is there as it was");
    }

    #[test]
    fn what_is_no_replica_is_not_salvaged() {
        let dir = tempfile::tempdir().unwrap();
        assert!(examine(dir.path()).unwrap_err().to_string().contains("no identity.json"));
        Identity::open(&*OsDisk::shared(), dir.path(), 0, None, None).unwrap();
        assert!(examine(dir.path()).unwrap_err().to_string().contains("without replication"));
    }
}
