//! What is remembered by the caller's key: at most one execution per `transaction_id`, and the first answer again.
//!
//! Rows of unfinished and recently ended transactions are here, in memory. Ended rows are handed over at a checkpoint
//! and kept in immutable runs on disk by the shell, which is asked through [`Older`].

use escrow_types::{Epoch, Millis, Partition, Reason, Sequence, TransactionKey, Xid};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

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
    positions: HashTable<u32>,
    forgetful: bool,
}

fn hash(key: TransactionKey) -> u64 {
    spread(key.0)
}

impl Remembered {
    pub(super) fn forgetful() -> Self {
        Self { forgetful: true, ..Self::default() }
    }

    /// The row of a key, if it is here.
    pub fn get(&self, key: TransactionKey) -> Option<&Row> {
        let position = self.positions.find(hash(key), |&at| self.rows[at as usize].key == key)?;
        Some(&self.rows[*position as usize])
    }

    /// All rows, in the order in which they began.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

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
        let row = Row { key, sequence, fingerprint, finished_ms: 0, epoch, outcome: 0 };
        let position =
            u32::try_from(self.rows.len()).expect("checkpoints hand rows over long before 4 billion");
        self.rows.push(row);
        let Self { rows, positions, .. } = self;
        // A key comes again only after it left the window; the newer row then stands for it.
        let same = |&at: &u32| rows[at as usize].key == key;
        match positions.entry(hash(key), same, |&at| hash(rows[at as usize].key)) {
            Entry::Occupied(mut slot) => *slot.get_mut() = position,
            Entry::Vacant(slot) => {
                slot.insert(position);
            }
        }
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

    /// The room stays: as much will be remembered until the next time, and a table that grows moves all it holds.
    pub(super) fn hand_over(&mut self) -> Self {
        let room = self.rows.len();
        let (rows, positions) = (Vec::with_capacity(room), HashTable::with_capacity(room));
        std::mem::replace(self, Self { rows, positions, forgetful: self.forgetful })
    }

    /// Looks for keys that will be looked for or inserted next, all at once, so that the cache misses of one overlap those
    /// of the others. Changes nothing.
    pub(crate) fn look_ahead(&self, keys: impl Iterator<Item = TransactionKey>) {
        for key in keys {
            std::hint::black_box(self.positions.find(hash(key), |_| true));
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
        let handed_over = remembered.hand_over();
        assert!(remembered.rows().is_empty());
        assert_eq!(handed_over.finished().count(), 34);
        assert_eq!(handed_over.get(TransactionKey(3)).unwrap().outcome(), Some(outcome));
        assert_eq!(handed_over.get(TransactionKey(4)).unwrap().outcome(), None);
    }
}
