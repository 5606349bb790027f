//! When a partition or shard serves again: the first transfer that needs it, was due after it was lost, and is confirmed.
//!
//! Only rows of the bulk streams are looked at: there are most of them, so that they show the moment best.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

use escrow_types::TransactionKey;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// What a transfer may need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The coordinator of this partition.
    Partition(usize),
    /// This shard.
    Shard(usize),
}

/// A transfer that shows that something serves.
#[derive(Debug, Clone, Copy)]
pub struct Sign {
    /// When its caller heard that it is confirmed.
    pub at: Instant,
    /// Its id.
    pub key: TransactionKey,
}

#[derive(Debug)]
struct Waiting {
    need: Need,
    due_after: Instant,
    tell: oneshot::Sender<Sign>,
}

/// Looks at what is confirmed. All of its methods may be called from many tasks.
#[derive(Debug, Default)]
pub struct Sentinel {
    waiting: Mutex<Vec<Waiting>>,
    /// Whether anybody waits: nearly always nobody does.
    is_awaited: AtomicBool,
}

impl Sentinel {
    fn waiting(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().expect("nothing panics while it is held")
    }

    /// Tells of the first confirmed transfer that needs this and was due after a moment.
    pub fn await_sign(&self, need: Need, due_after: Instant) -> oneshot::Receiver<Sign> {
        let (tell, told) = oneshot::channel();
        self.waiting().push(Waiting { need, due_after, tell });
        self.is_awaited.store(true, Ordering::Release);
        told
    }

    /// Whether it is worth telling it anything.
    pub(super) fn is_awaited(&self) -> bool {
        self.is_awaited.load(Ordering::Acquire)
    }

    /// A transfer through a partition, between two shards, that was due then, is confirmed now.
    pub(super) fn confirmed(&self, partition: usize, shards: [usize; 2], key: TransactionKey, due: Instant) {
        let at = Instant::now();
        let mut waiting = self.waiting();
        let is_met = |waiting: &mut Waiting| {
            let is_needed = match waiting.need {
                Need::Partition(needed) => needed == partition,
                Need::Shard(needed) => shards.contains(&needed),
            };
            is_needed && due > waiting.due_after
        };
        for met in waiting.extract_if(.., is_met) {
            // Whoever waited may have gone.
            let _ = met.tell.send(Sign { at, key });
        }
        self.is_awaited.store(!waiting.is_empty(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_needs_what_was_lost_and_was_due_after_that() {
        let sentinel = Sentinel::default();
        assert!(!sentinel.is_awaited());
        let lost = Instant::now();
        let (before, after) = (lost, lost + std::time::Duration::from_millis(1));
        let mut shard = sentinel.await_sign(Need::Shard(1), lost);
        let mut partition = sentinel.await_sign(Need::Partition(0), lost);
        let key = TransactionKey(7);
        sentinel.confirmed(1, [0, 2], key, after);
        sentinel.confirmed(1, [0, 1], key, before);
        assert!(shard.try_recv().is_err() && partition.try_recv().is_err());
        sentinel.confirmed(1, [0, 1], key, after);
        assert_eq!(shard.try_recv().expect("a sign").key, key);
        assert!(sentinel.is_awaited() && partition.try_recv().is_err());
        sentinel.confirmed(0, [0, 0], key, after);
        assert!(partition.try_recv().is_ok() && !sentinel.is_awaited());
    }
}
