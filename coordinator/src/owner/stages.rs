//! How long transfers take from one point of their way to the next, as means: for finding where time goes, not for deciding anything.
//!
//! Nothing is kept of a transfer. Sequences that began in one turn are neighbours, so a turn is one note: which sequences, and
//! when they were taken from the mailbox. Wherever transfers come by later, in a batch, the time since then is added up:
//! the clock is read once a batch, and a row costs a comparison.
//!
//! **Invariant:** nothing here is logged, answered or decided by; a server without it would do the same.

use std::collections::VecDeque;
use std::time::Instant;

use escrow_proto::v1;
use escrow_tcc::driver::{Answered, Send};
use escrow_tcc::{Command, Entry};
use escrow_types::{Epoch, Sequence};

/// Turns whose transfers are told apart. Older ones are forgotten: what comes by of them is not counted.
const TURNS_MAX: usize = 16_384;

/// Transfers of one turn.
#[derive(Debug, Clone, Copy)]
struct Taken {
    first: Sequence,
    rows: u64,
    at_ns: u64,
}

impl Taken {
    const fn has(&self, sequence: Sequence) -> bool {
        sequence.wrapping_sub(self.first) < self.rows
    }
}

/// What came by a point.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Passed {
    rows: u64,
    /// Since they were taken, added up.
    total_ns: u64,
}

impl From<Passed> for v1::Passed {
    fn from(passed: Passed) -> Self {
        Self { rows: passed.rows, total_ns: passed.total_ns }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Stages {
    since: Instant,
    /// When the turn began that is under way.
    turn_ns: u64,
    epoch: Epoch,
    /// In the order of their sequences.
    taken: VecDeque<Taken>,
    /// Turns in which something began, and how much.
    turns: u64,
    rows: u64,
    begun: Passed,
    tried: Passed,
    decided: Passed,
    completed: Passed,
}

impl Default for Stages {
    fn default() -> Self {
        Self {
            since: Instant::now(),
            turn_ns: 0,
            epoch: Epoch(0),
            taken: VecDeque::new(),
            turns: 0,
            rows: 0,
            begun: Passed::default(),
            tried: Passed::default(),
            decided: Passed::default(),
            completed: Passed::default(),
        }
    }
}

impl Stages {
    fn now_ns(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// A turn begins: what it handles was taken from the mailbox now.
    pub(super) fn turn_begins(&mut self) {
        self.turn_ns = self.now_ns();
    }

    /// What the turn is about to log: transfers that began in it among others.
    pub(super) fn logged(&mut self, epoch: Epoch, entry: &Entry) {
        self.logged_at(self.turn_ns, epoch, entry);
    }

    fn logged_at(&mut self, at_ns: u64, epoch: Epoch, entry: &Entry) {
        if epoch != self.epoch {
            self.taken.clear();
            self.epoch = epoch;
        }
        let began = entry.commands.iter().filter_map(began);
        let mut rows_of_turn = 0;
        for (first, rows) in began {
            rows_of_turn += rows;
            self.taken.push_back(Taken { first, rows, at_ns });
        }
        self.turns += u64::from(rows_of_turn > 0);
        self.rows += rows_of_turn;
        let too_many = self.taken.len().saturating_sub(TURNS_MAX);
        self.taken.drain(..too_many);
    }

    /// An entry is durable, or committed: the Begins in it.
    pub(super) fn durable(&mut self, entry: &Entry) {
        let now_ns = self.now_ns();
        for (first, rows) in entry.commands.iter().filter_map(began) {
            if let Some(taken) = find(&self.taken, first) {
                self.begun.rows += rows;
                self.begun.total_ns += rows * now_ns.saturating_sub(taken.at_ns);
            }
        }
    }

    /// Branches answered their Try, in the turn that is under way.
    pub(super) fn tried(&mut self, epoch: Epoch, sequences: &[Sequence]) {
        let at_ns = self.turn_ns;
        let passed = self.passed(at_ns, epoch, sequences.iter().copied());
        add(&mut self.tried, passed);
    }

    /// What leaves at the end of a turn: phase 2, which only a durable decision lets out, and answers to callers.
    pub(super) fn let_out(&mut self, sends: &[(escrow_types::ParticipantId, Send)], answers: &[Answered]) {
        if sends.is_empty() && answers.is_empty() {
            return;
        }
        let now_ns = self.now_ns();
        for (_, send) in sends {
            if let Send::Confirm(columns) | Send::Cancel(columns) = send {
                let passed = self.passed(now_ns, columns.epoch, columns.sequences.iter().copied());
                add(&mut self.decided, passed);
            }
        }
        let epoch = self.epoch;
        let ended = answers.iter().filter(|answer| answer.completed && answer.epoch == epoch);
        let passed = self.passed(now_ns, epoch, ended.map(|answer| answer.sequence));
        add(&mut self.completed, passed);
    }

    fn passed(&self, now_ns: u64, epoch: Epoch, sequences: impl Iterator<Item = Sequence>) -> Passed {
        let mut passed = Passed::default();
        if epoch != self.epoch {
            return passed;
        }
        // Neighbours mostly began in the same turn.
        let mut last = Taken { first: 0, rows: 0, at_ns: 0 };
        for sequence in sequences {
            if !last.has(sequence) {
                let Some(taken) = find(&self.taken, sequence) else { continue };
                last = *taken;
            }
            passed.rows += 1;
            passed.total_ns += now_ns.saturating_sub(last.at_ns);
        }
        passed
    }

    /// For a status.
    pub(super) fn report(&self) -> v1::Stages {
        v1::Stages {
            turns: self.turns,
            rows: self.rows,
            begun: Some(self.begun.into()),
            tried: Some(self.tried.into()),
            decided: Some(self.decided.into()),
            completed: Some(self.completed.into()),
        }
    }
}

fn add(sum: &mut Passed, passed: Passed) {
    sum.rows += passed.rows;
    sum.total_ns += passed.total_ns;
}

fn find(taken: &VecDeque<Taken>, sequence: Sequence) -> Option<&Taken> {
    let after = taken.partition_point(|taken| taken.first <= sequence);
    taken.get(after.checked_sub(1)?).filter(|taken| taken.has(sequence))
}

/// The sequences that a command begins: the first, and how many.
fn began(command: &Command) -> Option<(Sequence, u64)> {
    match command {
        Command::BeginTransfers(begin) => Some((begin.first, begin.len() as u64)),
        Command::BeginLegs(begin) => Some((begin.sequence, 1)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use escrow_tcc::command::BeginTransfers;
    use escrow_tcc::driver::{CallerId, EndColumns, Standing};
    use escrow_tcc::machine::Decision;
    use escrow_types::ParticipantId;

    const EPOCH: Epoch = Epoch(3);

    fn begin(first: Sequence, rows: usize) -> Entry {
        let begin = BeginTransfers { first, keys: vec![0; rows], ..BeginTransfers::default() };
        Entry { time_ms: 0, commands: vec![Command::BeginTransfers(begin)] }
    }

    fn two_turns() -> Stages {
        let mut stages = Stages::default();
        stages.logged_at(1_000, EPOCH, &begin(10, 2));
        stages.logged_at(5_000, EPOCH, &begin(12, 3));
        stages
    }

    #[test]
    fn time_counts_from_the_turn_that_took_a_transfer() {
        let stages = two_turns();
        let passed = stages.passed(6_000, EPOCH, [14, 10, 11].into_iter());
        assert_eq!(passed, Passed { rows: 3, total_ns: 1_000 + 5_000 + 5_000 });
        assert_eq!((stages.turns, stages.rows), (2, 5));
    }

    #[test]
    fn what_is_not_known_is_not_counted() {
        let mut stages = two_turns();
        assert_eq!(stages.passed(6_000, EPOCH, [9, 15, u64::MAX].into_iter()), Passed::default());
        assert_eq!(stages.passed(6_000, Epoch(2), [10].into_iter()), Passed::default(), "of another epoch");
        stages.logged_at(7_000, Epoch(4), &begin(0, 1));
        assert_eq!(
            stages.passed(8_000, Epoch(4), [10].into_iter()),
            Passed::default(),
            "of the epoch before"
        );
        assert_eq!(stages.passed(8_000, Epoch(4), [0].into_iter()).total_ns, 1_000);
    }

    #[test]
    fn an_entry_that_begins_nothing_is_no_turn() {
        let mut stages = Stages::default();
        stages.logged_at(1, EPOCH, &Entry { time_ms: 0, commands: vec![Command::SetPaused(true)] });
        assert_eq!((stages.turns, stages.rows), (0, 0));
    }

    #[test]
    fn the_oldest_turns_are_forgotten() {
        let mut stages = Stages::default();
        for turn in 0..=TURNS_MAX as u64 {
            stages.logged_at(turn, EPOCH, &begin(turn, 1));
        }
        assert_eq!(stages.taken.len(), TURNS_MAX);
        assert_eq!(stages.passed(u64::MAX, EPOCH, [0].into_iter()).rows, 0);
        assert_eq!(stages.passed(TURNS_MAX as u64, EPOCH, [TURNS_MAX as u64].into_iter()).rows, 1);
    }

    #[test]
    fn each_point_counts_what_comes_by() {
        let mut stages = two_turns();
        stages.durable(&begin(10, 2));
        stages.tried(EPOCH, &[10, 11]);
        let columns = EndColumns { epoch: EPOCH, sequences: vec![10, 11], ..EndColumns::default() };
        let answer = |sequence, completed| Answered {
            caller: CallerId(1),
            tag: 0,
            epoch: EPOCH,
            sequence,
            standing: Standing::Decided(Decision::Confirm),
            completed,
        };
        stages.let_out(&[(ParticipantId(0), Send::Confirm(columns))], &[answer(10, true), answer(11, false)]);
        let report = stages.report();
        let rows =
            [report.begun, report.tried, report.decided, report.completed].map(|passed| passed.unwrap().rows);
        assert_eq!(rows, [2, 2, 2, 1]);
    }
}
