//! When an owner takes a checkpoint, and how: it copies what changed part by part, between turns.
//!
//! **Invariant:** the parts are of the moment when the checkpoint began, however the state changes between them.

use escrow_invariants::{Canary, canary};
use escrow_journal::Index;
use escrow_replica::Position;
use tokio::sync::oneshot;

use super::{Owner, Start};
use crate::checkpoint::{Checkpointed, Done, Room, Writing};
use crate::error::ParticipantError;

/// Chunks of 64 rows that are copied at a time for a checkpoint: a fraction of a millisecond, and 256 KiB of balances.
const PART_CHUNKS: usize = 64;

/// A checkpoint that is being copied, between turns.
pub(super) struct Copying {
    pub(super) writing: Writing,
    position: Option<Position>,
}

/// A checkpoint that was handed over and is being written.
pub(super) struct Checkpoint {
    pub(super) done: oneshot::Receiver<Done>,
    /// Of a replica: the position that it is of.
    pub(super) position: Option<Position>,
}

/// So many bytes are logged at least for each one that the last checkpoint wrote: what is written to views is then a small share
/// of what is written to the log, however many accounts there are.
const LOGGED_PER_BYTE: u64 = 4;
/// But no more than so many times the bytes that are configured: a restart replays them, and what is logged while a checkpoint is
/// written.
const CONFIGURED_MAX: u64 = 4;

/// When a checkpoint is due by the bytes that were logged.
pub(super) struct Due {
    configured: u64,
    /// Since the last checkpoint.
    logged: u64,
    /// Due when so many are.
    after: u64,
    /// Whether a large checkpoint puts off the next one.
    adapts: bool,
}

impl Due {
    pub(super) const fn new(configured: u64, logged: u64, adapts: bool) -> Self {
        Self { configured, logged, after: configured, adapts }
    }

    pub(super) const fn is_due(&self) -> bool {
        self.logged >= self.after
    }

    pub(super) const fn logged(&mut self, bytes: u64) {
        self.logged = self.logged.saturating_add(bytes);
    }

    /// A checkpoint has begun, or a snapshot was installed. What is logged and not applied yet counts as if it was of it.
    pub(super) const fn restart(&mut self) {
        self.logged = 0;
    }

    /// The checkpoint that was begun has written so much.
    fn written(&mut self, bytes: u64) {
        if self.adapts {
            let most = self.configured.saturating_mul(CONFIGURED_MAX);
            self.after = bytes.saturating_mul(LOGGED_PER_BYTE).clamp(self.configured, most);
        }
    }
}

impl Owner {
    pub(super) const fn is_checkpointing(&self) -> bool {
        self.copying.is_some() || self.checkpoint_running.is_some()
    }

    /// Begins a checkpoint of the state as it is, if anything changed. False while one is being copied or written.
    pub(super) fn start_checkpoint(&mut self) -> bool {
        if self.is_checkpointing() || self.is_installing() {
            return false;
        }
        self.due.restart();
        let Start { shard, wallet, applied, checkpointed, checkpointer, .. } = &mut self.start;
        let claimed = *applied + u64::from(canary::is_on(Canary::CheckpointSkipsAnEntry));
        if applied != checkpointed || wallet.has_changes() {
            let position = self.seat.as_ref().map(|seat| seat.position.clone());
            let encoded = position.as_ref().map_or_else(Vec::new, Position::encode);
            let writing = checkpointer.begin(*shard, claimed, encoded);
            if wallet.has_changes() {
                writing.add(wallet.begin_changes(), None);
            }
            self.copying = Some(Copying { writing, position });
        }
        true
    }

    /// Copies a part, if there is something to be copied and room for it.
    pub(super) fn try_copy(&mut self) {
        if let Some(room) = self.copying.as_ref().and_then(|copying| copying.writing.try_room()) {
            self.copy(room);
        }
    }

    /// Copies a part, or hands the checkpoint over if there is none left. The state goes on changing between the parts: they
    /// are of the moment when the checkpoint began.
    pub(super) fn copy(&mut self, room: Room) {
        let Some(Copying { writing, .. }) = &self.copying else { return };
        if let Some(part) = self.start.wallet.copy_changes(PART_CHUNKS) {
            writing.add(part, Some(room));
            return;
        }
        let Some(Copying { writing, position }) = self.copying.take() else { return };
        self.checkpoint_running = Some(Checkpoint { done: writing.commit(), position });
        self.export_ready();
    }

    pub(super) fn checkpointed(&mut self, done: Option<Done>) -> Result<(), ParticipantError> {
        let running = self.checkpoint_running.take();
        let Checkpointed { applied: index, bytes } =
            done.ok_or(ParticipantError::Ended("the checkpoint thread"))??;
        self.due.written(bytes);
        match (&self.seat, running.and_then(|running| running.position)) {
            // A snapshot that was installed meanwhile is ahead of it.
            (Some(_), _) if index < self.start.checkpointed => return Ok(()),
            (Some(seat), Some(position)) => seat.replica.checkpointed(position),
            _ => {
                assert!(Index(index) <= self.start.journal.durable(), "a checkpoint is of durable entries");
            }
        }
        self.start.checkpointed = index;
        self.export_ready();
        Ok(())
    }

    /// Copies and awaits what is left of a checkpoint.
    pub(super) async fn end_checkpoint(&mut self) -> Result<(), ParticipantError> {
        while self.copying.is_some() {
            let room = room(self.copying.as_ref()).await;
            self.copy(room);
        }
        if self.checkpoint_running.is_some() {
            let done = wait(&mut self.checkpoint_running).await;
            self.checkpointed(done)?;
        }
        Ok(())
    }
}

/// Room for a part of a checkpoint; never if none is being copied. Safe to cancel.
pub(super) async fn room(copying: Option<&Copying>) -> Room {
    match copying {
        Some(copying) => copying.writing.room().await,
        None => std::future::pending().await,
    }
}

/// Waits for a checkpoint, for ever if none is running. Safe to cancel: the receiver stays where it is.
pub(super) async fn wait(running: &mut Option<Checkpoint>) -> Option<Done> {
    match running {
        Some(checkpoint) => (&mut checkpoint.done).await.ok(),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_due_after_the_configured_bytes() {
        let mut due = Due::new(100, 30, true);
        due.logged(69);
        assert!(!due.is_due());
        due.logged(1);
        assert!(due.is_due(), "what was replayed counts");
        due.restart();
        assert!(!due.is_due());
        due.written(25);
        due.logged(100);
        assert!(due.is_due(), "it was small");
    }

    #[test]
    fn a_large_checkpoint_puts_off_the_next_one_within_bounds() {
        let bytes_until_due = |configured: u64, adapts: bool, written: u64| {
            let mut due = Due::new(configured, 0, adapts);
            due.written(written);
            due.after
        };
        assert_eq!(bytes_until_due(100, true, 50), 200);
        assert_eq!(bytes_until_due(100, true, 1_000), 400);
        assert_eq!(bytes_until_due(100, false, 1_000), 100);
        assert_eq!(bytes_until_due(u64::MAX, true, u64::MAX), u64::MAX);
    }
}
