//! What the servers stand on here: a simulated disk and clock, and tasks in the place of threads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use escrow_coordinator as coordinator;
use escrow_journal::Steps;
use escrow_journal::storage::SimDisk;
use escrow_participant::ground::Checkpoints;
use escrow_participant::{self as participant, MemoryView};
use escrow_replica::grpc::Grpc;
use escrow_tcc::driver::RetryDelays;
use escrow_types::Millis;
use tokio::time::Instant;

use crate::net;

/// How long a checkpoint takes.
const CHECKPOINT: Duration = Duration::from_millis(20);

/// Simulated time, Unix milliseconds; for code that runs on a host.
pub fn now_ms() -> Millis {
    turmoil::since_epoch().map_or(0, |since| since.as_millis() as Millis)
}

/// The delays of phase 2 without their jitter: 50 ms, doubled up to 10 s.
struct Delays;

impl RetryDelays for Delays {
    fn delay_ms(&mut self, attempt: u32) -> Millis {
        (50 << attempt.saturating_sub(1).min(8)).min(10_000)
    }
}

/// How long a sync of a disk takes, in milliseconds. A story may change it at any time.
pub type SyncMs = Arc<AtomicU64>;

/// Steps a journal on a task, as its threads would write it.
fn write_journal(sync_ms: SyncMs, mut steps: Steps) {
    tokio::spawn(async move {
        while steps.wanted().await {
            let begun = Instant::now();
            // Looked at again and again, so that a disk that hangs can be mended.
            while begun.elapsed() < Duration::from_millis(sync_ms.load(Ordering::Relaxed)) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            steps.write();
            while steps.keep() {}
        }
    });
}

/// For a coordinator.
pub fn coordinator(disk: &SimDisk, sync_ms: SyncMs) -> coordinator::Ground {
    coordinator::Ground {
        disk: disk.shared(),
        clock: Arc::new(now_ms),
        delays: Box::new(Delays),
        connector: net::connector(),
        journal: Box::new(move |_, steps| {
            write_journal(sync_ms, steps);
            Ok(())
        }),
        background: Arc::new(|job| {
            tokio::spawn(async move {
                tokio::time::sleep(CHECKPOINT).await;
                job();
            });
        }),
        transport: Arc::new(Grpc::new(net::connector())),
    }
}

/// For a participant with these views.
pub fn participant(disk: &SimDisk, sync_ms: SyncMs, views: BTreeMap<u16, MemoryView>) -> participant::Ground {
    participant::Ground {
        disk: disk.shared(),
        views: participant::ground::Views::Memory(views),
        clock: Arc::new(now_ms),
        journal: Box::new(move |_, steps| {
            write_journal(sync_ms, steps);
            Ok(())
        }),
        checkpoints: Box::new(|checkpoints| {
            tokio::spawn(write_checkpoints(checkpoints));
            Ok(None)
        }),
        background: Arc::new(|job| job()),
        transport: Arc::new(Grpc::new(net::connector())),
    }
}

async fn write_checkpoints(mut checkpoints: Checkpoints) {
    while checkpoints.write_next().await {
        tokio::time::sleep(CHECKPOINT).await;
    }
}
