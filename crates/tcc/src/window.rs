//! A table by (epoch, sequence) that is dense where the traffic is.
//!
//! Transactions of the current epoch live in a deque from the oldest unfinished sequence on: finding one is an index,
//! not a hash. What lingers, from older epochs or far behind the newest, moves to an ordered map, so that one stuck
//! transaction costs its own row and not a slot for each that began after it.

use std::collections::{BTreeMap, VecDeque};

use escrow_types::{Epoch, Sequence};

/// How long the dense part may grow before its oldest rows move to the map.
pub(crate) const DENSE_MAX: usize = 1 << 20;

/// A table by (epoch, sequence). See the module.
#[derive(Debug, Clone)]
pub struct Window<T> {
    epoch: Epoch,
    base: Sequence,
    dense: VecDeque<Option<T>>,
    lingering: BTreeMap<(Epoch, Sequence), T>,
    dense_live: usize,
}

impl<T> Default for Window<T> {
    fn default() -> Self {
        Self { epoch: Epoch(0), base: 0, dense: VecDeque::new(), lingering: BTreeMap::new(), dense_live: 0 }
    }
}

impl<T> Window<T> {
    /// The epoch of the dense part.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The next sequence of the current epoch.
    pub fn next(&self) -> Sequence {
        self.base + self.dense.len() as u64
    }

    /// Every row of the current epoch below this is gone or lingers.
    pub fn base(&self) -> Sequence {
        self.base
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.dense_live + self.lingering.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Starts a newer epoch whose first sequence is `next`; all rows of the old one linger.
    pub fn start_epoch(&mut self, epoch: Epoch, next: Sequence) {
        assert!(epoch > self.epoch || (self.is_empty() && self.epoch <= epoch), "epochs only grow");
        for (at, row) in std::mem::take(&mut self.dense).into_iter().enumerate() {
            if let Some(row) = row {
                self.lingering.insert((self.epoch, self.base + at as u64), row);
            }
        }
        self.dense_live = 0;
        self.epoch = epoch;
        self.base = next;
    }

    /// Appends the next row of the current epoch.
    #[inline]
    pub fn push(&mut self, row: T) -> Sequence {
        let sequence = self.next();
        self.dense.push_back(Some(row));
        self.dense_live += 1;
        if self.dense.len() > DENSE_MAX {
            self.let_oldest_linger();
        }
        sequence
    }

    /// The row that was pushed last, if it is still there.
    #[inline]
    pub fn last_mut(&mut self) -> Option<&mut T> {
        self.dense.back_mut()?.as_mut()
    }

    /// Puts back a row that lingered when the table was saved.
    pub fn insert_lingering(&mut self, epoch: Epoch, sequence: Sequence, row: T) {
        assert!(
            epoch < self.epoch || (epoch == self.epoch && sequence < self.base),
            "only behind the dense part"
        );
        self.lingering.insert((epoch, sequence), row);
    }

    #[cold]
    fn let_oldest_linger(&mut self) {
        while self.dense.len() > DENSE_MAX / 2 {
            if let Some(Some(row)) = self.dense.pop_front() {
                self.dense_live -= 1;
                self.lingering.insert((self.epoch, self.base), row);
            }
            self.base += 1;
        }
    }

    fn dense_at(&self, epoch: Epoch, sequence: Sequence) -> Option<usize> {
        if epoch != self.epoch {
            return None;
        }
        usize::try_from(sequence.checked_sub(self.base)?).ok()
    }

    /// The row, if it is there.
    pub fn get(&self, epoch: Epoch, sequence: Sequence) -> Option<&T> {
        match self.dense_at(epoch, sequence) {
            Some(at) => self.dense.get(at)?.as_ref(),
            None => self.lingering.get(&(epoch, sequence)),
        }
    }

    /// The row, if it is there.
    pub fn get_mut(&mut self, epoch: Epoch, sequence: Sequence) -> Option<&mut T> {
        match self.dense_at(epoch, sequence) {
            Some(at) => self.dense.get_mut(at)?.as_mut(),
            None => self.lingering.get_mut(&(epoch, sequence)),
        }
    }

    /// Ends the row, if it is there: `last` sees it, then it is dropped. In the dense part it is seen where it is: moved out, it would
    /// be read in larger pieces than those that were just written, and such a read waits for all writes before it.
    #[inline]
    pub fn end<R>(&mut self, epoch: Epoch, sequence: Sequence, last: impl FnOnce(&mut T) -> R) -> Option<R> {
        let Some(at) = self.dense_at(epoch, sequence) else {
            return self.lingering.remove(&(epoch, sequence)).as_mut().map(last);
        };
        let slot = self.dense.get_mut(at)?;
        let said = last(slot.as_mut()?);
        *slot = None;
        self.dense_live -= 1;
        while matches!(self.dense.front(), Some(None)) {
            self.dense.pop_front();
            self.base += 1;
        }
        Some(said)
    }

    /// All rows, oldest first: by epoch, then by sequence.
    pub fn iter(&self) -> impl Iterator<Item = (Epoch, Sequence, &T)> {
        let dense = self.dense.iter().enumerate();
        let dense = dense.filter_map(|(at, row)| Some((self.epoch, self.base + at as u64, row.as_ref()?)));
        self.lingering.iter().map(|(&(epoch, sequence), row)| (epoch, sequence, row)).chain(dense)
    }

    /// All rows after a position, oldest first; `None` starts at the oldest.
    pub fn iter_after(
        &self,
        after: Option<(Epoch, Sequence)>,
    ) -> impl Iterator<Item = (Epoch, Sequence, &T)> {
        use std::ops::Bound;
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let skip = match after {
            Some((epoch, _)) if epoch > self.epoch => self.dense.len(),
            Some((epoch, sequence)) if epoch == self.epoch && sequence >= self.base => {
                // A caller may name any sequence, the last one of all too: it has no next.
                usize::try_from(sequence - self.base).unwrap_or(usize::MAX).saturating_add(1)
            }
            _ => 0,
        };
        let dense = self.dense.iter().enumerate().skip(skip);
        let dense = dense.filter_map(|(at, row)| Some((self.epoch, self.base + at as u64, row.as_ref()?)));
        let lingering = self.lingering.range((start, Bound::Unbounded));
        lingering.map(|(&(epoch, sequence), row)| (epoch, sequence, row)).chain(dense)
    }

    /// All rows, to change, oldest first.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Epoch, Sequence, &mut T)> {
        let (epoch, base) = (self.epoch, self.base);
        let dense = self.dense.iter_mut().enumerate();
        let dense = dense.filter_map(move |(at, row)| Some((epoch, base + at as u64, row.as_mut()?)));
        self.lingering.iter_mut().map(|(&(epoch, sequence), row)| (epoch, sequence, row)).chain(dense)
    }

    /// The rows that linger behind the dense part, oldest first.
    pub fn lingering(&self) -> impl Iterator<Item = (Epoch, Sequence, &T)> {
        self.lingering.iter().map(|(&(epoch, sequence), row)| (epoch, sequence, row))
    }

    /// The sequences of one epoch that linger, oldest first.
    pub fn lingering_of(&self, epoch: Epoch) -> impl Iterator<Item = Sequence> {
        self.lingering.range((epoch, 0)..=(epoch, Sequence::MAX)).map(|(&(_, sequence), _)| sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remove(window: &mut Window<u64>, epoch: u32, sequence: Sequence) -> Option<u64> {
        window.end(Epoch(epoch), sequence, |row| *row)
    }

    fn window(rows: u64) -> Window<u64> {
        let mut window = Window::default();
        window.start_epoch(Epoch(1), 0);
        for row in 0..rows {
            assert_eq!(window.push(row), row);
        }
        window
    }

    #[test]
    fn the_base_follows_the_oldest_row() {
        let mut window = window(4);
        assert_eq!(remove(&mut window, 1, 1), Some(1));
        assert_eq!(window.base(), 0);
        assert_eq!(remove(&mut window, 1, 0), Some(0));
        assert_eq!(window.base(), 2);
        assert_eq!(remove(&mut window, 1, 0), None);
        assert_eq!((window.len(), window.next()), (2, 4));
    }

    #[test]
    fn older_epochs_linger_in_order() {
        let mut window = window(3);
        remove(&mut window, 1, 1);
        window.start_epoch(Epoch(4), 0);
        window.push(40);
        let rows: Vec<_> = window.iter().map(|(epoch, sequence, &row)| (epoch.0, sequence, row)).collect();
        assert_eq!(rows, [(1, 0, 0), (1, 2, 2), (4, 0, 40)]);
        assert_eq!(window.get(Epoch(1), 2), Some(&2));
        assert_eq!(remove(&mut window, 1, 2), Some(2));
        assert_eq!(window.len(), 2);
    }

    #[test]
    fn one_stuck_row_does_not_hold_the_dense_part() {
        let mut window = window(0);
        for row in 0..3 * DENSE_MAX as u64 {
            window.push(row);
            if row > 0 {
                remove(&mut window, 1, row);
            }
        }
        assert_eq!(window.len(), 1);
        assert_eq!(window.get(Epoch(1), 0), Some(&0));
        assert!(window.dense.len() <= DENSE_MAX);
        assert_eq!(window.lingering_of(Epoch(1)).collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn iteration_resumes_after_a_position() {
        let mut window = window(3);
        window.start_epoch(Epoch(2), 0);
        window.push(10);
        window.push(11);
        let all: Vec<_> = window.iter().map(|(epoch, sequence, _)| (epoch, sequence)).collect();
        for (at, &position) in all.iter().enumerate() {
            let rest: Vec<_> = window.iter_after(Some(position)).map(|(e, s, _)| (e, s)).collect();
            assert_eq!(rest, all[at + 1..], "after {position:?}");
        }
        assert_eq!(window.iter_after(None).count(), all.len());
        assert_eq!(window.iter_after(Some((Epoch(2), u64::MAX))).count(), 0, "callers make up cursors");
    }
}
