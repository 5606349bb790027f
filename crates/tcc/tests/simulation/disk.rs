//! A log on a disk that keeps what was made durable, and anything or nothing of what was only appended.

use crate::prng::Prng;

#[derive(Default)]
pub(crate) struct Disk {
    entries: Vec<Vec<u8>>,
    durable: usize,
}

impl Disk {
    pub(crate) fn append(&mut self, entry: Vec<u8>) {
        self.entries.push(entry);
    }

    pub(crate) fn sync(&mut self) {
        self.durable = self.entries.len();
    }

    /// Power is lost: a tail of what was not durable is gone.
    pub(crate) fn crash(&mut self, prng: &mut Prng) {
        let kept = self.durable + prng.index(self.entries.len() - self.durable + 1);
        self.entries.truncate(kept);
        self.durable = kept;
    }

    pub(crate) fn durable(&self) -> &[Vec<u8>] {
        &self.entries[..self.durable]
    }

    pub(crate) fn appended(&self) -> usize {
        self.entries.len()
    }
}
