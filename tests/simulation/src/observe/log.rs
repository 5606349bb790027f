//! Reads a log as it grows, and checks after every crash that nothing that was durable has gone or changed.

use escrow_journal::{Entry, Index, Journal};

use crate::violation::{Step, Violation, check};

/// How far a log has been read, and what was in it.
#[derive(Default)]
pub(crate) struct LogObserver {
    digests: Vec<u64>,
}

fn digest(entry: &Entry) -> u64 {
    let mut digest = 0xCBF2_9CE4_8422_2325 ^ u64::from(entry.group.0);
    for chunk in entry.payload.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        digest = (digest ^ u64::from_le_bytes(word)).wrapping_mul(0x0000_0100_0000_01B3).rotate_left(23);
    }
    digest ^ entry.payload.len() as u64
}

impl LogObserver {
    /// The entries that have become durable since the last time.
    pub(crate) fn read_on(&mut self, journal: &Journal) -> Step<Vec<Entry>> {
        let next = self.digests.len() as u64 + 1;
        if journal.durable().get() < next {
            return Ok(Vec::new());
        }
        let mut entries = Vec::new();
        for entry in journal.read_from(Index(next)).map_err(|error| unreadable(&error))? {
            let entry = entry.map_err(|error| unreadable(&error))?;
            self.digests.push(digest(&entry));
            entries.push(entry);
        }
        Ok(entries)
    }

    /// After a restart: everything that was durable is there, unaltered (invariant 9).
    pub(crate) fn check_survived(&self, journal: &Journal) -> Step {
        let durable = journal.durable().get() as usize;
        let read = self.digests.len();
        check!(AcknowledgedSurvives, durable >= read, "{read} entries were durable, {durable} are left");
        let first = journal.first_index();
        let skip = first.get() as usize - 1;
        let entries = journal.read_from(first).map_err(|error| unreadable(&error))?;
        for (entry, before) in entries.zip(self.digests.iter().skip(skip)) {
            let entry = entry.map_err(|error| unreadable(&error))?;
            check!(AcknowledgedSurvives, digest(&entry) == *before, "entry {} has changed", entry.index);
        }
        Ok(())
    }
}

fn unreadable(error: &escrow_journal::JournalError) -> Violation {
    Violation::of(
        escrow_invariants::Invariant::AcknowledgedSurvives,
        format!("the log cannot be read: {error}"),
    )
}
