//! Which rows of a table changed since the last checkpoint: in chunks of neighbours, each a record of the view.
//!
//! A checkpoint is of one moment, but a large table is copied in steps, between which it goes on changing:
//! ```text
//! Clean ── change ──▶ Dirty ── begin ──▶ Due ── step: copied ──▶ Clean
//!                       ▲                 └─ change: copied as it was ──▶ Dirty
//! ```
//! **Invariant:** of a chunk that is due nothing changes before it is copied.

use std::ops::Range;

/// Rows of one chunk.
pub(crate) const CHUNK_ROWS: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The view, or the checkpoint at hand, has it as it is.
    Clean,
    /// Changed since the newest checkpoint began.
    Dirty,
    /// To be copied for the checkpoint at hand; as it was when that began.
    Due,
}

/// The chunks of a table, and those copies of them that nobody has taken yet. `T` is a copy.
#[derive(Debug, Clone)]
pub(crate) struct Chunks<T> {
    states: Vec<State>,
    dirty: usize,
    due: usize,
    /// No chunk before this is due.
    cursor: usize,
    copies: Vec<(u32, T)>,
}

impl<T> Default for Chunks<T> {
    fn default() -> Self {
        Self { states: Vec::new(), dirty: 0, due: 0, cursor: 0, copies: Vec::new() }
    }
}

/// The rows of a chunk in a table that has so many.
pub(crate) fn rows_of(chunk: u32, rows: usize) -> Range<usize> {
    let first = chunk as usize * CHUNK_ROWS;
    first.min(rows)..(first + CHUNK_ROWS).min(rows)
}

impl<T> Chunks<T> {
    /// To be called before a row changes, or is added. `copy` copies a chunk.
    #[inline]
    pub(crate) fn change(&mut self, row: u32, copy: impl FnOnce(u32) -> T) {
        let chunk = row / CHUNK_ROWS as u32;
        if self.states.get(chunk as usize) != Some(&State::Dirty) {
            self.change_first(chunk, copy);
        }
    }

    #[cold]
    fn change_first(&mut self, chunk: u32, copy: impl FnOnce(u32) -> T) {
        let at = chunk as usize;
        if at >= self.states.len() {
            self.states.resize(at + 1, State::Clean);
        }
        if self.states[at] == State::Due {
            self.copies.push((chunk, copy(chunk)));
            self.due -= 1;
        }
        self.states[at] = State::Dirty;
        self.dirty += 1;
    }

    /// Whether anything changed since the newest checkpoint began.
    pub(crate) const fn has_changes(&self) -> bool {
        self.dirty > 0
    }

    /// A checkpoint begins: what changed is due. The one before must have been copied.
    pub(crate) fn begin(&mut self) {
        assert!(self.due == 0 && self.copies.is_empty(), "one checkpoint is copied at a time");
        for state in &mut self.states {
            if *state == State::Dirty {
                *state = State::Due;
            }
        }
        (self.due, self.dirty, self.cursor) = (self.dirty, 0, 0);
    }

    /// Copies chunks that are due, so many at most, and gives all copies that were made, in no meaningful order.
    pub(crate) fn step(&mut self, chunks_max: usize, mut copy: impl FnMut(u32) -> T) -> Vec<(u32, T)> {
        let mut left = chunks_max.min(self.due);
        self.copies.reserve(left);
        while left > 0 {
            if self.states[self.cursor] == State::Due {
                let chunk = self.cursor as u32;
                self.copies.push((chunk, copy(chunk)));
                self.states[self.cursor] = State::Clean;
                self.due -= 1;
                left -= 1;
            }
            self.cursor += 1;
        }
        std::mem::take(&mut self.copies)
    }

    /// Whether everything of the checkpoint at hand was given.
    pub(crate) const fn is_copied(&self) -> bool {
        self.due == 0 && self.copies.is_empty()
    }

    /// The view has the table as it is.
    pub(crate) fn forget(&mut self) {
        self.states.fill(State::Clean);
        self.copies.clear();
        (self.dirty, self.due) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_that_is_due_is_copied_before_it_changes() {
        let mut rows = [0_u32; 5 * CHUNK_ROWS];
        let mut chunks: Chunks<u32> = Chunks::default();
        let of = |rows: &[u32], chunk: u32| rows[chunk as usize * CHUNK_ROWS];
        let row = |chunk: usize| (chunk * CHUNK_ROWS) as u32;
        for chunk in [1, 2, 4] {
            chunks.change(row(chunk), |_| unreachable!("nothing is due"));
            rows[chunk * CHUNK_ROWS] = 10;
        }
        chunks.begin();
        assert!(!chunks.has_changes() && !chunks.is_copied());
        for chunk in [0, 4] {
            chunks.change(row(chunk), |chunk| of(&rows, chunk));
            rows[chunk * CHUNK_ROWS] = 20;
        }
        chunks.change(row(4), |_| unreachable!("once is enough"));
        assert_eq!(chunks.step(1, |chunk| of(&rows, chunk)), [(4, 10), (1, 10)]);
        assert_eq!(chunks.step(9, |chunk| of(&rows, chunk)), [(2, 10)]);
        assert!(chunks.is_copied() && chunks.has_changes());
        chunks.begin();
        assert_eq!(chunks.step(9, |chunk| of(&rows, chunk)), [(0, 20), (4, 20)]);
        assert!(chunks.is_copied() && !chunks.has_changes());
    }

    #[test]
    #[should_panic(expected = "one checkpoint is copied at a time")]
    fn a_checkpoint_begins_when_the_one_before_was_copied() {
        let mut chunks: Chunks<()> = Chunks::default();
        chunks.change(0, |_| ());
        chunks.begin();
        chunks.begin();
    }
}
