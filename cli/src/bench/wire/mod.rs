//! What this machine allows, measured in the same run as the load: a raw echo of the same messages over the same kind of
//! connections, and `fdatasync`. Results as ratios to these can be compared across machines and days.
//!
//! It must never run at the same time as the load, and never do less than a server must: an echo decodes and encodes.

mod disk;
mod echo;
mod process;

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

pub use disk::{Fsync, probe as probe_disk};
pub use echo::{Echo, service};
pub use process::EchoProcess;

use super::{BenchError, Load, Mode, Summary};

/// What is measured.
#[derive(Debug, Clone)]
pub struct WireLoad {
    /// Messages like those of this load, and as many in flight.
    pub load: Load,
    /// Connections of unary calls.
    pub connections: usize,
    /// How long each echo is run, and all of the disk.
    pub span: Duration,
    /// Where the file is that is synced.
    pub directory: PathBuf,
}

/// What the machine allowed at one time.
#[derive(Debug, Clone, Serialize)]
pub struct Round {
    /// Unary calls answered a second.
    pub unary_per_second: f64,
    /// Half of them were faster, in microseconds.
    pub unary_p50_us: u64,
    /// Messages of one transfer a second, on one stream.
    pub stream_per_second: f64,
    /// Rows of columnar messages a second, on one stream.
    pub bulk_rows_per_second: f64,
    /// Writes that were made durable, by their size.
    pub fdatasync: Vec<Fsync>,
}

impl WireLoad {
    /// As much as the load has, in its own mode; thousands of unary calls at a time, as a bulk load has rows, would tell nothing.
    fn in_flight(&self, mode: Mode) -> u64 {
        if mode == self.load.mode { self.load.in_flight.max(1) } else { mode.in_flight_default() }
    }

    /// Measures echo and disk, one after the other.
    pub async fn round(&self, echo: &EchoProcess) -> Result<Round, BenchError> {
        let unary = echo.unary(&self.load, self.in_flight(Mode::Unary), self.connections, self.span).await?;
        let stream_per_second = echo.stream(&self.load, self.in_flight(Mode::Stream), self.span).await?;
        // As the load does: so many rows in flight, in messages of so many.
        let in_flight = self.in_flight(Mode::Bulk);
        let batch = self.load.batch.clamp(1, in_flight);
        let bulk_rows_per_second = echo.bulk(&self.load, batch, in_flight / batch, self.span).await?;
        let (directory, span) = (self.directory.clone(), self.span);
        let fdatasync = tokio::task::spawn_blocking(move || disk::probe(&directory, span))
            .await
            .map_err(|error| BenchError::Setup(format!("the disk was not measured: {error}")))??;
        Ok(Round {
            unary_per_second: unary.per_second,
            unary_p50_us: unary.p50_us,
            stream_per_second,
            bulk_rows_per_second,
            fdatasync,
        })
    }
}

/// What the machine allowed before and after the load, and what the load made of it.
#[derive(Debug, Clone, Serialize)]
pub struct Wire {
    /// Before the load.
    pub before: Round,
    /// After it: what differs is drift.
    pub after: Round,
    /// Where the file was that was synced.
    pub directory: PathBuf,
    /// Whether that is memory, where a sync costs nothing and says nothing.
    pub is_in_memory: bool,
    /// The load against the mean of before and after.
    pub ratios: Ratios,
}

/// The load against the machine.
#[derive(Debug, Clone, Serialize)]
pub struct Ratios {
    /// Which echo the rate is compared with: that of the load's own mode.
    pub echo: &'static str,
    /// Transfers a second ÷ echoes (or echoed rows) a second.
    pub rate_to_echo: f64,
    /// Half of the transfers were as fast as so many writes of 200 bytes made durable.
    pub p50_to_fdatasync_200b: f64,
    /// The echo after the load ÷ before it.
    pub echo_drift: f64,
    /// `fdatasync` of 200 bytes after the load ÷ before it.
    pub fdatasync_drift: f64,
}

impl Wire {
    /// Puts both rounds and the load together.
    pub fn new(wire: &WireLoad, before: Round, after: Round, summary: &Summary) -> Self {
        let echo = |round: &Round| match wire.load.mode {
            Mode::Unary => ("unary", round.unary_per_second),
            Mode::Stream => ("stream", round.stream_per_second),
            Mode::Bulk => ("bulk", round.bulk_rows_per_second),
        };
        let sync = |round: &Round| round.fdatasync.first().map_or(0, |sync| sync.p50_us) as f64;
        let (name, first, last) = (echo(&before).0, echo(&before).1, echo(&after).1);
        let (sync_first, sync_last) = (sync(&before), sync(&after));
        let ratios = Ratios {
            echo: name,
            rate_to_echo: ratio(summary.per_second, f64::midpoint(first, last)),
            p50_to_fdatasync_200b: ratio(summary.latency_us.p50 as f64, f64::midpoint(sync_first, sync_last)),
            echo_drift: ratio(last, first),
            fdatasync_drift: ratio(sync_last, sync_first),
        };
        let is_in_memory = disk::is_in_memory(&wire.directory);
        Self { before, after, directory: wire.directory.clone(), is_in_memory, ratios }
    }
}

/// 0 where there is nothing to divide by: JSON knows no infinity.
fn ratio(value: f64, by: f64) -> f64 {
    if by > 0.0 { value / by } else { 0.0 }
}
