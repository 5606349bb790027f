//! Reads of a shard's state: what is read, and who waits for it, perhaps until an index is applied.
//!
//! **Invariant:** reads whose askers have gone do not pile up, though the index for which they wait may never come.

use tokio::sync::oneshot;

use super::mailbox::View;

/// A read and its asker.
pub(super) trait Read: Send {
    /// Whether its asker still waits.
    fn is_awaited(&self) -> bool;

    /// Reads, and tells the asker.
    fn answer(self: Box<Self>, view: &View<'_>);
}

/// Reads something, and sends it.
struct Asked<T, F> {
    read: F,
    asker: oneshot::Sender<T>,
}

impl<T: Send, F: FnOnce(&View<'_>) -> T + Send> Read for Asked<T, F> {
    fn is_awaited(&self) -> bool {
        !self.asker.is_closed()
    }

    fn answer(self: Box<Self>, view: &View<'_>) {
        let Self { read, asker } = *self;
        // The asker may have gone meanwhile: nothing to do.
        let _ = asker.send(read(view));
    }
}

/// A read, and where its asker hears of it.
pub(super) fn asked<T: Send + 'static>(
    read: impl FnOnce(&View<'_>) -> T + Send + 'static,
) -> (Box<dyn Read>, oneshot::Receiver<T>) {
    let (asker, answer) = oneshot::channel();
    (Box::new(Asked { read, asker }), answer)
}

/// Reads that wait until an index is applied.
#[derive(Default)]
pub(super) struct Reads {
    waiting: Vec<(u64, Box<dyn Read>)>,
    /// Those whose askers have gone are dropped when there are so many.
    sweep_at: usize,
}

impl Reads {
    pub(super) fn push(&mut self, index: u64, read: Box<dyn Read>) {
        /// Fewer are no burden.
        const SWEPT_MIN: usize = 256;
        if self.waiting.len() >= self.sweep_at.max(SWEPT_MIN) {
            self.waiting.retain(|(_, read)| read.is_awaited());
            self.sweep_at = 2 * self.waiting.len();
        }
        self.waiting.push((index, read));
    }

    /// Lets all of them go: their askers are told nothing.
    pub(super) fn clear(&mut self) {
        self.waiting.clear();
    }

    /// Takes those that can be answered.
    pub(super) fn due(&mut self, applied: u64) -> Vec<Box<dyn Read>> {
        if self.waiting.is_empty() {
            return Vec::new();
        }
        self.waiting.extract_if(.., |(index, _)| *index <= applied).map(|(_, read)| read).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_that_nobody_waits_for_do_not_pile_up() {
        let mut reads = Reads::default();
        let (read, _answer) = asked(|view| view.applied);
        reads.push(7, read);
        for _ in 0..100_000 {
            let (read, gone) = asked(|view| view.applied);
            drop(gone);
            reads.push(u64::MAX, read);
        }
        assert!(reads.waiting.len() < 1_000, "{}", reads.waiting.len());
        assert_eq!((reads.due(6).len(), reads.due(7).len(), reads.due(7).len()), (0, 1, 0));
    }

    #[test]
    fn an_asker_hears_what_was_read_or_that_nobody_will_read() {
        let wallet = escrow_wallet::Wallet::default();
        let view = View { wallet: &wallet, applied: 7, checkpointed: 0, now: 0 };
        let mut reads = Reads::default();
        let (read, mut answer) = asked(|view| view.applied);
        assert!(read.is_awaited());
        reads.push(7, read);
        reads.due(7).into_iter().for_each(|read| read.answer(&view));
        assert_eq!(answer.try_recv(), Ok(7));
        let (read, mut answer) = asked(|view| view.applied);
        reads.push(8, read);
        reads.clear();
        assert_eq!(answer.try_recv(), Err(oneshot::error::TryRecvError::Closed));
    }
}
