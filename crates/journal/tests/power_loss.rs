//! Power loss, kills and disk errors at random instants, thousands of times, several in a row.
//!
//! One seed is one story: a journal on a simulated disk lives through appends, commits, trims, and ends of every kind, also
//! in the middle of its own recovery. After each end:
//! - nothing that a commit or an open reported durable is lost or altered;
//! - what is found is a prefix of what was appended;
//! - the journal can be written again.
//!
//! `ESCROW_SEED=n` runs one seed, `ESCROW_SEEDS=n` that many (default 4000).

mod common;

use escrow_journal::storage::{SimDisk, SplitMix64};
use escrow_journal::{Archive, Entry, Group, Index, JournalError, Log, Options};

const SEEDS: u64 = 4000;
const LIVES: u64 = 5;

/// What the journal must be, kept beside it.
struct Story {
    seed: u64,
    random: SplitMix64,
    disk: SimDisk,
    archive: Archive,
    segment_bytes: u64,
    /// All that was appended and may be there.
    appended: Vec<(Group, Vec<u8>)>,
    /// How much of it was reported durable.
    durable: usize,
    /// First index that a trim may not have deleted.
    kept_from: u64,
    /// The process may have to be restarted without a power loss.
    ends: u64,
}

impl Story {
    fn new(seed: u64) -> Story {
        let mut random = SplitMix64::new(seed);
        let archive = [Archive::Keep, Archive::Compress, Archive::Delete][random.below(3) as usize];
        let segment_bytes = [8192, 12288, 16384][random.below(3) as usize];
        let disk = SimDisk::new(random.next_u64());
        Story {
            seed,
            random,
            disk,
            archive,
            segment_bytes,
            appended: Vec::new(),
            durable: 0,
            kept_from: 1,
            ends: 0,
        }
    }

    fn run(&mut self) {
        for _ in 0..LIVES {
            self.plan_an_end();
            self.live();
            self.end();
        }
        self.settle();
        let last = self.check_and_adopt();
        assert_eq!(last.as_ref().map(|log| log.cursors().durable.get()), Some(self.durable as u64));
    }

    /// Decides beforehand after how many operations the power goes (or a write or a sync fails); perhaps never.
    fn plan_an_end(&mut self) {
        match self.random.below(10) {
            0..=4 => self.disk.power_off_after(self.random.below(60)),
            5 => self.disk.power_off_after(self.random.below(8)),
            6 => self.disk.fail_next_sync(),
            7 => self.disk.fail_next_write(),
            _ => {}
        }
    }

    fn end(&mut self) {
        self.ends += 1;
        if self.random.chance(1, 3) {
            self.disk.kill();
        } else {
            self.disk.crash();
        }
    }

    /// Opens and works until something fails, or for a while.
    fn live(&mut self) {
        let Some(mut log) = self.check_and_adopt() else { return };
        if self.random.chance(1, 6) {
            self.disk.fail_next_sync();
        }
        for _ in 0..self.random.below(25) {
            let result = match self.random.below(8) {
                0..=3 => self.append(&mut log),
                4..=6 => self.commit(&mut log),
                _ => self.trim(&mut log),
            };
            if result.is_err() {
                // A server ends here. Some seeds go on, to see that nothing is acknowledged any more.
                if self.random.chance(1, 2) {
                    return;
                }
            }
        }
    }

    fn append(&mut self, log: &mut Log) -> Result<(), JournalError> {
        let group = Group(self.random.below(3) as u16);
        // Few different payloads, so that a stale frame would fit in perfectly if it were left over.
        let kind = self.random.below(2);
        let bytes = [0, 8, 30, 300, 700, 2000][self.random.below(if kind == 0 { 3 } else { 6 }) as usize];
        let payload = if self.random.chance(1, 3) { vec![0; bytes] } else { common::payload(kind, bytes) };
        let index = log.append(group, &payload)?;
        self.appended.push((group, payload));
        assert_eq!(index.get(), self.appended.len() as u64);
        Ok(())
    }

    fn commit(&mut self, log: &mut Log) -> Result<(), JournalError> {
        let durable = log.commit()?;
        assert_eq!(durable.get(), self.appended.len() as u64);
        self.durable = self.appended.len();
        Ok(())
    }

    fn trim(&mut self, log: &mut Log) -> Result<(), JournalError> {
        let up_to = self.random.below(self.durable as u64 + 1);
        if self.archive == Archive::Delete {
            self.kept_from = self.kept_from.max(up_to + 1);
        }
        log.trim(Index(up_to)).map(drop)
    }

    /// Ends whatever fault was planned, so that the next open must succeed.
    fn settle(&mut self) {
        if self.random.chance(1, 2) {
            self.disk.kill();
        } else {
            self.disk.crash();
        }
    }

    /// Opens; if that does not fail for a planned reason, compares all with the story and goes on from what was found.
    fn check_and_adopt(&mut self) -> Option<Log> {
        let options = Options {
            segment_bytes: self.segment_bytes,
            archive: self.archive,
            ..common::options(self.archive)
        };
        let from = if self.random.chance(1, 2) { self.kept_from } else { self.random_checkpoint() };
        let (log, opened) = match Log::open(self.disk.shared(), options, Index(from)) {
            Ok(opened) => opened,
            Err(JournalError::Io { source, .. }) if source.to_string().contains("simulated power loss") => {
                return None;
            }
            Err(JournalError::Io { source, .. }) if source.to_string().contains("injected") => return None,
            Err(error) => panic!("refused after {} ends: {error}", self.ends),
        };
        let found = opened.last.get() as usize;
        assert!(found >= self.durable, "lost: {} were durable, {found} are there", self.durable);
        assert!(found <= self.appended.len(), "{found} found, only {} appended", self.appended.len());
        assert!(opened.first.get() <= self.kept_from);
        let entries: Vec<Entry> = log
            .read_from(opened.first)
            .expect("first is there")
            .map(|entry| entry.expect("readable"))
            .collect();
        assert_eq!(entries.len() as u64, found as u64 + 1 - opened.first.get());
        for entry in entries {
            let (group, payload) = &self.appended[entry.index.get() as usize - 1];
            assert!(entry.group == *group && entry.payload == *payload, "entry {} was altered", entry.index);
        }
        self.appended.truncate(found);
        self.durable = found;
        Some(log)
    }

    fn random_checkpoint(&mut self) -> u64 {
        let room = (self.durable as u64 + 1).saturating_sub(self.kept_from);
        self.kept_from + self.random.below(room + 1)
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

#[test]
fn nothing_acknowledged_is_lost_whatever_ends_the_process() {
    let seeds = match number("ESCROW_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("ESCROW_SEEDS").unwrap_or(SEEDS),
    };
    println!("seeds {seeds:?}");
    for seed in seeds {
        let mut story = Story::new(seed);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| story.run()));
        if let Err(panic) = outcome {
            println!("seed {} failed; once more with:", story.seed);
            println!(
                "  ESCROW_SEED={} cargo test -p escrow-journal --test power_loss -- --nocapture",
                story.seed
            );
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn one_seed_is_one_story() {
    let run = |seed| {
        let mut story = Story::new(seed);
        story.run();
        (story.appended, story.disk.operations())
    };
    for seed in 0..20 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
}

/// The second frame of a torn batch survives whole while the first does not. Then exactly the first is appended again: the
/// second would fit in behind it. It must not come back.
#[test]
fn a_stale_frame_never_comes_back() {
    let mut torn = 0;
    for seed in 0..600 {
        let disk = SimDisk::new(seed);
        let (mut log, _) = common::open(&disk);
        common::fill(&mut log, 1, 100);
        log.append(Group(1), &[1; 700]).expect("alive");
        log.append(Group(1), &[2; 700]).expect("alive");
        disk.power_off_after(1);
        assert!(log.commit().is_err(), "written, not synced");
        drop(log);
        disk.crash();
        if seed % 2 == 1 {
            // The recovery's own sync fails, the process is started again on the same machine.
            disk.fail_next_sync();
            let _ = common::try_open(&disk);
            disk.kill();
        }
        let (mut log, opened) = common::open(&disk);
        if opened.last != Index(1) {
            continue;
        }
        torn += 1;
        log.append(Group(1), &[1; 700]).expect("alive");
        log.commit().expect("the disk is fine");
        drop(log);
        disk.crash();
        assert_eq!(
            common::open(&disk).1.last,
            Index(2),
            "seed {seed}: a frame that was never acknowledged is back"
        );
    }
    assert!(torn > 100, "{torn}");
}
