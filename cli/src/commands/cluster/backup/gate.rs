//! What keeps new work out while a backup is made.
//!
//! **Invariant:** what an operator had paused before stays paused; everything else is let in again.

use std::time::Duration;

use escrow_client::{Client, ClientError};
use escrow_types::Partition;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};

use super::PAUSE;
use crate::exit::Failure;

const WHY: &str = "escrow cluster backup";

/// What keeps new work out.
pub(super) struct Gate {
    client: Client,
    /// By partition: an operator had paused it, and wants it so.
    was_paused: Vec<bool>,
    /// Since when it is closed, perhaps in part.
    closed_at: Option<Instant>,
    /// For how long it was closed in all.
    closed_for: Duration,
    /// Pauses that are being asked for. In tasks of their own: one that is broken off could take effect after the gate was opened.
    closing: Vec<JoinHandle<Result<bool, ClientError>>>,
}

impl Gate {
    /// Open, as it is; refused if an operator has closed it and does not say that it is to stay so.
    pub(super) async fn new(client: &Client, stay_paused: bool) -> Result<Self, Failure> {
        let client = client.clone();
        let mut was_paused = Vec::new();
        for partition in 0..client.partitions() {
            let status = client.status(partition).await?;
            let is_paused = status.coordinator.is_some_and(|coordinator| coordinator.paused);
            if is_paused && !stay_paused {
                return Err(Failure::coded(
                    "ALREADY_PAUSED",
                    format!(
                        "coordinator-{partition} refuses new work already: an operator has paused it, or another backup is being made, \
                         or was killed. Resume it (escrow operator resume), or leave it so with --stay-paused"
                    ),
                ));
            }
            was_paused.push(is_paused);
        }
        Ok(Self { client, was_paused, closed_at: None, closed_for: Duration::ZERO, closing: Vec::new() })
    }

    /// Whether new work is kept out, perhaps in part.
    pub(super) const fn is_closed(&self) -> bool {
        self.closed_at.is_some()
    }

    /// For how long new work was kept out in all.
    pub(super) const fn closed_for(&self) -> Duration {
        self.closed_for
    }

    /// Whether an operator had paused a partition before, if there is such a one.
    pub(super) fn was_paused(&self, partition: Partition) -> Option<bool> {
        self.was_paused.get(usize::from(partition.0)).copied()
    }

    /// Lets no new work in.
    pub(super) async fn close(&mut self) -> Result<(), Failure> {
        self.closed_at.get_or_insert_with(Instant::now);
        for partition in 0..self.was_paused.len() {
            let client = self.client.clone();
            let closing = async move { client.set_paused(partition, true, WHY).await };
            self.closing.push(tokio::spawn(closing));
        }
        while let Some(closed) = self.closed_next().await {
            closed?;
        }
        Ok(())
    }

    /// The end of one of the pauses that are being asked for. May be dropped before it is there.
    async fn closed_next(&mut self) -> Option<Result<(), Failure>> {
        let ended = self.closing.last_mut()?.await;
        self.closing.pop();
        Some(match ended {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.into()),
            Err(error) => Err(Failure::internal(error.to_string())),
        })
    }

    /// Lets new work in again; tries for a while, since nothing works before that. May be dropped, and called again.
    pub(super) async fn open(&mut self) -> Result<(), StillShut> {
        const WITHIN: Duration = Duration::from_secs(60);
        let Some(closed_at) = self.closed_at else { return Ok(()) };
        // What became of them does not matter now.
        while self.closed_next().await.is_some() {}
        let deadline = Instant::now() + WITHIN;
        let mut shut = None;
        for partition in (0..self.was_paused.len()).filter(|&partition| !self.was_paused[partition]) {
            if let Err(why) = self.open_one(partition, deadline).await {
                shut.get_or_insert(StillShut { partition, why });
            }
        }
        match shut {
            None => {
                self.closed_at = None;
                self.closed_for += closed_at.elapsed();
                Ok(())
            }
            Some(shut) => Err(shut),
        }
    }

    async fn open_one(&self, partition: usize, deadline: Instant) -> Result<(), String> {
        loop {
            match timeout_at(deadline, self.client.set_paused(partition, false, WHY)).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(error)) if Instant::now() >= deadline => return Err(error.to_string()),
                Ok(Err(_)) => sleep(PAUSE).await,
                Err(_) => return Err("no answer".to_owned()),
            }
        }
    }
}

/// A coordinator that could not be resumed.
pub(super) struct StillShut {
    partition: usize,
    why: String,
}

impl StillShut {
    /// It is tried again.
    pub(super) fn for_now(self) -> Failure {
        let Self { partition, why } = self;
        Failure::coded(
            "NOT_RESUMED",
            format!("coordinator-{partition} let no new work in for a minute: {why}"),
        )
    }

    /// Nobody tries again.
    pub(super) fn for_good(self, client: &Client) -> Failure {
        let Self { partition, why } = self;
        Failure::coded(
            "STILL_PAUSED",
            format!(
                "coordinator-{partition} still refuses new work ({why}): when it can be reached, \
                 escrow operator resume --reason R --endpoint {}",
                client.endpoint(partition)
            ),
        )
    }
}
