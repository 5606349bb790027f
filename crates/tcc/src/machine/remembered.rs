//! What is remembered by the caller's key: at most one execution per `transaction_id`, and the first answer again.
//!
//! Rows of unfinished and recently ended transactions are here, in memory. Ended rows are handed over at a checkpoint
//! and kept in immutable runs on disk by the shell, which is asked through [`Older`].
//!
//! A leader looks an id up when it is asked, and the log says a moment later that it began. So that this costs one look-up and
//! not two, the leader puts the row in at once, as *expected*: rows that the log is about to name, in that order. Nothing that is
//! logged or digested depends on them, and a leader that is deposed takes them out again.

use escrow_invariants::{Invariant, hold};
use escrow_types::{Epoch, KeyIndex, Millis, Partition, Reason, Sequence, TransactionKey, Xid};

use super::Decision;
use crate::hash::spread;

/// Marks that stay on a transaction for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Mark {
    /// An operator set or overrode the decision.
    pub forced: bool,
    /// An operator ended it without its participants' word: branches may have ended differently.
    pub mixed: bool,
}

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Outcome {
    /// What was decided.
    pub decision: Decision,
    /// Marks it bears.
    pub mark: Mark,
}

/// The forced flag in an outcome's byte. Decision reasons are below 32.
const FORCED: u8 = 0x40;
/// The mixed flag in an outcome's byte.
const MIXED: u8 = 0x80;

impl Outcome {
    /// One byte: the decision (0 is Confirm, else the reason of a Cancel) and the marks.
    pub fn to_byte(self) -> u8 {
        let decision = match self.decision {
            Decision::Confirm => 0,
            Decision::Cancel(reason) => reason as u8,
        };
        assert!(decision < FORCED, "branch and decision reasons are small numbers");
        decision | if self.mark.forced { FORCED } else { 0 } | if self.mark.mixed { MIXED } else { 0 }
    }

    /// The outcome that a byte stands for.
    pub fn from_byte(byte: u8) -> Option<Self> {
        let mark = Mark { forced: byte & FORCED != 0, mixed: byte & MIXED != 0 };
        let decision = match byte & !(FORCED | MIXED) {
            0 => Decision::Confirm,
            number => Decision::Cancel(Reason::from_number(number)?),
        };
        Some(Self { decision, mark })
    }
}

/// What is remembered of one transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The caller's id.
    pub key: TransactionKey,
    /// The sequence of its xid.
    pub sequence: Sequence,
    /// Hash of its content.
    pub fingerprint: u64,
    /// When its end was logged; 0 while it is unfinished.
    pub finished_ms: Millis,
    /// The epoch of its xid.
    pub epoch: Epoch,
    /// How it ended, as [`Outcome::to_byte`]; meaningless while it is unfinished.
    pub outcome: u8,
}

const _: () = assert!(size_of::<Row>() == 48, "a row is 48 bytes: 24 h of them must fit on a disk");

impl Row {
    /// How it ended; `None` while it is unfinished.
    pub fn outcome(&self) -> Option<Outcome> {
        (self.finished_ms != 0)
            .then(|| Outcome::from_byte(self.outcome).expect("only written from an outcome"))
    }

    /// Its xid.
    pub fn xid(&self, partition: Partition) -> Xid {
        Xid::new(partition, self.epoch, self.sequence)
    }
}

/// Ended transactions that are no longer in memory.
pub trait Older {
    /// The row of a key, if it ended within the idempotency window and was handed over.
    fn find(&self, key: TransactionKey) -> Option<Row>;
}

/// Nothing older: for tests, and before the first checkpoint.
impl Older for () {
    fn find(&self, _key: TransactionKey) -> Option<Row> {
        None
    }
}

/// Rows by key. See the module.
#[derive(Debug, Clone, Default)]
pub struct Remembered {
    rows: Vec<Row>,
    /// So many of them the log has named; the others are expected.
    begun: usize,
    /// No UUIDv7 here is younger.
    newest_v7_ms: Millis,
    index: KeyIndex,
    forgetful: bool,
}

fn hash(key: TransactionKey) -> u64 {
    spread(key.0)
}

impl Remembered {
    pub(super) fn forgetful() -> Self {
        Self { forgetful: true, ..Self::default() }
    }

    /// Room for so many rows, if there are none yet.
    pub(super) fn make_room(&mut self, rows: usize) {
        if self.rows.is_empty() && !self.forgetful {
            *self = Self::with_capacity(rows);
        }
    }

    pub(super) fn with_capacity(rows: usize) -> Self {
        Self { rows: Vec::with_capacity(rows), index: KeyIndex::with_capacity(rows), ..Self::default() }
    }

    /// The row of a key, if it is here: one that the log has named, or an expected one.
    pub fn get(&self, key: TransactionKey) -> Option<&Row> {
        let of = |at: u32| self.rows.get(at as usize).filter(|row| row.key == key);
        let position = self.index.find(hash(key), |at| of(at).is_some())?;
        of(position)
    }

    /// Whether a key may be here, by its age alone: most that are asked for are younger than all that was handed over.
    pub fn may_hold(&self, key: TransactionKey) -> bool {
        key.uuid_v7_millis().is_none_or(|born| born <= self.newest_v7_ms)
    }

    /// All rows that the log has named, in the order in which they began.
    pub fn rows(&self) -> &[Row] {
        &self.rows[..self.begun]
    }

    /// How many rows are expected.
    pub(crate) fn expected(&self) -> usize {
        self.rows.len() - self.begun
    }

    /// The log is about to say that this began, after all that is expected already.
    #[inline]
    pub(super) fn expect(&mut self, key: TransactionKey, epoch: Epoch, sequence: Sequence, fingerprint: u64) {
        self.push(Row { key, sequence, fingerprint, finished_ms: 0, epoch, outcome: 0 });
    }

    #[inline]
    fn push(&mut self, row: Row) {
        let position =
            u32::try_from(self.rows.len()).expect("checkpoints hand rows over long before 4 billion");
        assert!(position < u32::MAX, "a position has one after it");
        if let Some(born) = row.key.uuid_v7_millis() {
            self.newest_v7_ms = self.newest_v7_ms.max(born);
        }
        let Self { rows, index, .. } = self;
        rows.push(row);
        // A key comes again only after it left the window; the newer row then stands for it. Rows that were handed over while they
        // were expected are in the index, but not here.
        let is_same = |at: u32| rows.get(at as usize).is_some_and(|other| other.key == row.key);
        index.insert(hash(row.key), position, is_same);
    }

    /// Nothing of what is expected will be: another leader writes the log.
    pub(super) fn forget_expected(&mut self) {
        if self.expected() > 0 {
            self.rows.truncate(self.begun);
            let rows = std::mem::take(&mut self.rows);
            let forgetful = self.forgetful;
            *self = Self { forgetful, ..Self::with_capacity(rows.len()) };
            for row in rows {
                self.push(row);
            }
            self.begun = self.rows.len();
        }
    }

    #[inline]
    pub(super) fn begin(
        &mut self,
        key: TransactionKey,
        epoch: Epoch,
        sequence: Sequence,
        fingerprint: u64,
    ) -> u32 {
        if self.forgetful {
            return 0;
        }
        if let Some(expected) = self.rows.get(self.begun) {
            hold!(
                Invariant::ReplayEquals,
                (expected.key, expected.epoch, expected.sequence) == (key, epoch, sequence),
                "{epoch:?} sequence {sequence} began where sequence {} was expected",
                expected.sequence
            );
        } else {
            self.expect(key, epoch, sequence, fingerprint);
        }
        let position = self.begun as u32;
        self.begun += 1;
        position
    }

    pub(super) fn finish(&mut self, position: u32, key: TransactionKey, outcome: Outcome, time_ms: Millis) {
        if self.forgetful {
            return;
        }
        let row = &mut self.rows[position as usize];
        assert_eq!(row.key, key, "positions follow the rows");
        row.outcome = outcome.to_byte();
        // Zero means unfinished; the Unix epoch is no time at which anything ends.
        row.finished_ms = time_ms.max(1);
    }

    /// Goes on with `afresh`, which is empty. What is expected comes back beside what is handed over, to be expected again after
    /// what is unfinished.
    pub(super) fn hand_over(&mut self, afresh: Self) -> (Self, Vec<Row>) {
        let expected = self.rows.split_off(self.begun);
        (std::mem::replace(self, Self { forgetful: self.forgetful, ..afresh }), expected)
    }

    /// The same room, empty. Memory that is given back and asked for again is cleared by the system each time, which costs more
    /// than everything else that is done to a row.
    pub(super) fn emptied(mut self) -> Self {
        self.rows.clear();
        self.index.clear();
        Self { begun: 0, newest_v7_ms: 0, ..self }
    }

    /// After [`Remembered::hand_over`], when everything unfinished is here again.
    pub(super) fn expect_again(&mut self, expected: Vec<Row>) {
        for row in expected {
            self.push(row);
        }
    }

    /// Looks for keys that will be looked for or inserted next, all at once, so that the cache misses of one overlap those
    /// of the others. Changes nothing.
    #[inline]
    pub(crate) fn look_ahead(&self, keys: impl Iterator<Item = TransactionKey>) {
        for key in keys {
            self.index.look_ahead(hash(key));
        }
    }

    /// The rows of transactions that had ended when this was handed over.
    pub fn finished(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.finished_ms != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_round_trip() {
        for forced in [false, true] {
            for mixed in [false, true] {
                for decision in [Decision::Confirm, Decision::Cancel(Reason::DeadlineExceeded)] {
                    let outcome = Outcome { decision, mark: Mark { forced, mixed } };
                    assert_eq!(Outcome::from_byte(outcome.to_byte()), Some(outcome));
                }
            }
        }
    }

    #[test]
    fn what_was_handed_over_still_answers() {
        let mut remembered = Remembered::default();
        let outcome = Outcome { decision: Decision::Confirm, mark: Mark::default() };
        for number in 0..100u64 {
            let key = TransactionKey(u128::from(number));
            let position = remembered.begin(key, Epoch(1), number, 7);
            if number % 3 == 0 {
                remembered.finish(position, key, outcome, 5);
            }
        }
        let (handed_over, expected) = remembered.hand_over(Remembered::default());
        assert!(remembered.rows().is_empty() && expected.is_empty());
        assert_eq!(handed_over.finished().count(), 34);
        assert_eq!(handed_over.get(TransactionKey(3)).unwrap().outcome(), Some(outcome));
        assert_eq!(handed_over.get(TransactionKey(4)).unwrap().outcome(), None);
    }

    fn key(number: u64) -> TransactionKey {
        TransactionKey(u128::from(number))
    }

    #[test]
    fn what_is_expected_is_found_and_begins_in_its_place() {
        let mut remembered = Remembered::default();
        assert_eq!(remembered.begin(key(1), Epoch(1), 0, 7), 0);
        for number in [2, 3] {
            remembered.expect(key(number), Epoch(1), number - 1, 7);
        }
        assert_eq!((remembered.rows().len(), remembered.expected()), (1, 2));
        assert_eq!(remembered.get(key(3)).unwrap().sequence, 2);
        assert_eq!(remembered.begin(key(2), Epoch(1), 1, 7), 1);
        assert_eq!((remembered.rows().len(), remembered.expected()), (2, 1));
    }

    #[test]
    fn by_its_age_alone_a_key_is_never_wrongly_absent() {
        let born = |millis: u64| TransactionKey(u128::from(millis) << 80 | 0x7abc << 64 | 0b10 << 62);
        let mut remembered = Remembered::default();
        assert!(!remembered.may_hold(born(1)) && remembered.may_hold(key(1)));
        for (sequence, millis) in (0..).zip([500, 900, 700]) {
            remembered.begin(born(millis), Epoch(1), sequence, 7);
        }
        assert!([500, 700, 900].iter().all(|&millis| remembered.may_hold(born(millis))));
        assert!(!remembered.may_hold(born(901)) && remembered.may_hold(key(1)));
        let again = remembered.emptied();
        assert_eq!((again.get(born(900)), again.may_hold(born(900)), again.rows().len()), (None, false, 0));
    }

    #[test]
    #[should_panic(expected = "invariant 10")]
    fn another_than_the_expected_one_never_begins() {
        let mut remembered = Remembered::default();
        remembered.expect(key(1), Epoch(1), 0, 7);
        remembered.begin(key(2), Epoch(1), 0, 7);
    }

    #[test]
    fn a_deposed_leader_takes_out_what_it_expected_and_nothing_else() {
        let mut remembered = Remembered::default();
        remembered.begin(key(1), Epoch(1), 0, 7);
        remembered.expect(key(2), Epoch(1), 1, 7);
        remembered.forget_expected();
        assert_eq!((remembered.get(key(2)), remembered.expected()), (None, 0));
        assert_eq!(remembered.get(key(1)).unwrap().sequence, 0);
        // The next leader gives the sequence to another.
        assert_eq!(remembered.begin(key(3), Epoch(2), 0, 8), 1);
    }

    #[test]
    fn a_hand_over_keeps_what_is_expected_behind_what_is_unfinished() {
        let mut remembered = Remembered::default();
        remembered.begin(key(1), Epoch(1), 0, 7);
        for number in 2..500 {
            remembered.expect(key(number), Epoch(1), number - 1, 7);
        }
        let (mut handed_over, expected) = remembered.hand_over(Remembered::default());
        remembered.begin(key(1), Epoch(1), 0, 7);
        remembered.expect_again(expected);
        assert_eq!(handed_over.get(key(2)), None);
        for number in 2..500 {
            assert_eq!(remembered.begin(key(number), Epoch(1), number - 1, 7), number as u32 - 1);
        }
        // Its index still names rows that it has not: that must not matter, even when it grows.
        for number in 1_000..3_000 {
            handed_over.begin(key(number), Epoch(1), number, 7);
        }
        assert!((1_000..3_000).all(|number| handed_over.get(key(number)).unwrap().sequence == number));
    }
}
