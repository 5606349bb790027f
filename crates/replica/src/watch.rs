//! The watch channel that openraft's tasks share. tokio's wakes its receivers in an order that it draws at random; here it is the order in which they
//! came, so that a simulated run is the same every time.

use std::future::poll_fn;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::task::{Poll, Waker};

use openraft_rt::watch::{self, RecvError, SendError};
use openraft_rt::{OptionalSend, OptionalSync};

/// The channel.
#[derive(Debug, Clone, Copy)]
pub struct Watch;

struct Shared<T> {
    value: RwLock<T>,
    /// Counts the changes.
    version: AtomicU64,
    senders: AtomicUsize,
    receivers: AtomicUsize,
    waiting: Mutex<Vec<(u64, Waker)>>,
    next: AtomicU64,
}

impl<T> Shared<T> {
    fn waiting(&self) -> MutexGuard<'_, Vec<(u64, Waker)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> Ref<'_, T> {
        Ref(self.value.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn wake(&self) {
        for (_, waker) in std::mem::take(&mut *self.waiting()) {
            waker.wake();
        }
    }
}

/// Sees the value; nobody changes it meanwhile.
pub struct Ref<'a, T>(RwLockReadGuard<'a, T>);

impl<T> Deref for Ref<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// Changes the value.
pub struct Sender<T>(Arc<Shared<T>>);

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.senders.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.0.senders.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.wake();
        }
    }
}

/// Sees the value, and waits for changes.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    id: u64,
    /// The last change that it has seen.
    seen: u64,
}

impl<T> Receiver<T> {
    fn of(shared: &Arc<Shared<T>>, seen: u64) -> Self {
        shared.receivers.fetch_add(1, Ordering::SeqCst);
        let id = shared.next.fetch_add(1, Ordering::SeqCst);
        Self { shared: Arc::clone(shared), id, seen }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self::of(&self.shared, self.seen)
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.receivers.fetch_sub(1, Ordering::SeqCst);
        self.shared.waiting().retain(|(id, _)| *id != self.id);
    }
}

impl watch::Watch for Watch {
    type Sender<T: OptionalSend + OptionalSync> = Sender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = Receiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = Ref<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(init: T) -> (Self::Sender<T>, Self::Receiver<T>) {
        let shared = Arc::new(Shared {
            value: RwLock::new(init),
            version: AtomicU64::new(0),
            senders: AtomicUsize::new(1),
            receivers: AtomicUsize::new(0),
            waiting: Mutex::default(),
            next: AtomicU64::new(0),
        });
        let receiver = Receiver::of(&shared, 0);
        (Sender(shared), receiver)
    }
}

impl<T: OptionalSend + OptionalSync> watch::WatchSender<Watch, T> for Sender<T> {
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        if self.0.receivers.load(Ordering::SeqCst) == 0 {
            return Err(SendError(value));
        }
        self.send_if_modified(|current| {
            *current = value;
            true
        });
        Ok(())
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        {
            let mut value = self.0.value.write().unwrap_or_else(PoisonError::into_inner);
            if !modify(&mut value) {
                return false;
            }
            // While nobody can read: whoever sees the value sees its number.
            self.0.version.fetch_add(1, Ordering::SeqCst);
        }
        self.0.wake();
        true
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        self.0.read()
    }

    fn subscribe(&self) -> Receiver<T> {
        Receiver::of(&self.0, self.0.version.load(Ordering::SeqCst))
    }
}

impl<T: OptionalSend + OptionalSync> watch::WatchReceiver<Watch, T> for Receiver<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        poll_fn(|context| {
            let shared = &self.shared;
            // Registered before it looks: a change between the two wakes it.
            {
                let mut waiting = shared.waiting();
                waiting.retain(|(id, _)| *id != self.id);
                waiting.push((self.id, context.waker().clone()));
            }
            let version = shared.version.load(Ordering::SeqCst);
            if version != self.seen {
                self.seen = version;
                return Poll::Ready(Ok(()));
            }
            if shared.senders.load(Ordering::SeqCst) == 0 {
                return Poll::Ready(Err(RecvError(())));
            }
            Poll::Pending
        })
        .await
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        self.shared.read()
    }

    fn borrow_and_update(&mut self) -> Ref<'_, T> {
        let value = self.shared.value.read().unwrap_or_else(PoisonError::into_inner);
        self.seen = self.shared.version.load(Ordering::SeqCst);
        Ref(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;
    use openraft_rt::watch::{Watch as _, WatchReceiver as _, WatchSender as _};

    #[test]
    fn a_change_is_seen_once_by_each_receiver() {
        let (sender, mut first) = Watch::channel(1);
        let mut second = sender.subscribe();
        assert!(first.changed().now_or_never().is_none());
        sender.send(2).unwrap();
        assert_eq!(first.changed().now_or_never(), Some(Ok(())));
        assert!(first.changed().now_or_never().is_none());
        assert_eq!(*second.borrow_and_update(), 2);
        assert!(second.changed().now_or_never().is_none(), "seen already");
        assert!(!sender.send_if_modified(|_| false));
        assert!(first.changed().now_or_never().is_none());
        let other = sender.clone();
        drop(sender);
        assert!(first.changed().now_or_never().is_none());
        drop(other);
        assert_eq!(first.changed().now_or_never(), Some(Err(RecvError(()))));
    }

    #[test]
    fn nobody_is_told_when_nobody_listens() {
        let (sender, receiver) = Watch::channel(1);
        drop(receiver);
        assert_eq!(sender.send(2), Err(SendError(2)));
        assert_eq!(*sender.borrow_watched(), 1);
        assert!(sender.send_if_modified(|value| {
            *value = 3;
            true
        }));
        assert_eq!(*sender.subscribe().borrow_watched(), 3);
    }
}
