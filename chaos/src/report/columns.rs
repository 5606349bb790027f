//! Samples made ready for drawing: rates instead of counts, and never more columns than a chart has room for.

use crate::record::{Record, Sample, WINDOW_MS};

/// More than this could not be told apart.
const COLUMNS_MAX: u64 = 1_000;

/// So many windows are a length that is easily said: half a second, 1 s, 2 s, 5 s …
const ROUND: [u64; 12] = [1, 2, 4, 8, 20, 40, 60, 120, 240, 480, 1_200, 2_400];

/// One step of every chart: a window, or several as one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Column {
    pub(super) begin_ms: u64,
    pub(super) end_ms: u64,
    /// These five are transactions a second.
    pub(super) submitted: f64,
    pub(super) confirmed: f64,
    pub(super) canceled: f64,
    pub(super) refused: f64,
    pub(super) unknown: f64,
    /// Microseconds, the highest of the windows. `None` if nothing was acknowledged.
    pub(super) latency: Option<Latency>,
    /// These three are the highest of the windows.
    pub(super) unfinished: Option<u64>,
    pub(super) in_doubt: Option<u64>,
    pub(super) reservations: Option<u64>,
}

/// Percentiles of one column, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Latency {
    pub(super) p50: u64,
    pub(super) p99: u64,
    pub(super) p999: u64,
    pub(super) max: u64,
}

impl Column {
    /// Everything that ended, a second.
    pub(super) fn ended(&self) -> f64 {
        self.confirmed + self.canceled + self.refused + self.unknown
    }
}

/// How many windows make a column.
pub(super) fn windows_a_column(record: &Record) -> u64 {
    let least = (record.end_ms() / WINDOW_MS).div_ceil(COLUMNS_MAX).max(1);
    ROUND.into_iter().find(|windows| *windows >= least).unwrap_or(least)
}

/// The columns of a run, in order. Windows that are missing leave a gap.
pub(super) fn columns(record: &Record) -> Vec<Column> {
    let step_ms = windows_a_column(record) * WINDOW_MS;
    record.samples.chunk_by(|one, next| one.at_ms / step_ms == next.at_ms / step_ms).map(Column::of).collect()
}

impl Column {
    /// Of at least one window.
    fn of(windows: &[Sample]) -> Self {
        let begin_ms = windows.first().map_or(0, |window| window.at_ms);
        let end_ms = windows.last().map_or(0, |window| window.at_ms) + WINDOW_MS;
        let seconds = (windows.len() as u64 * WINDOW_MS) as f64 / 1e3;
        let rate = |of: fn(&Sample) -> u64| windows.iter().map(of).sum::<u64>() as f64 / seconds;
        let highest = |of: fn(&Sample) -> u64| windows.iter().map(of).max().unwrap_or(0);
        let gauge = |of: fn(&Sample) -> Option<u64>| windows.iter().filter_map(of).max();
        let latency = Latency {
            p50: highest(|window| window.p50_us),
            p99: highest(|window| window.p99_us),
            p999: highest(|window| window.p999_us),
            max: highest(|window| window.max_us),
        };
        Self {
            begin_ms,
            end_ms,
            submitted: rate(|window| window.submitted),
            confirmed: rate(|window| window.confirmed),
            canceled: rate(|window| window.canceled),
            refused: rate(|window| window.refused),
            unknown: rate(|window| window.unknown),
            latency: Some(latency).filter(|latency| latency.max > 0),
            unfinished: gauge(|window| window.unfinished),
            in_doubt: gauge(|window| window.in_doubt),
            reservations: gauge(|window| window.reservations),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(windows: u64) -> Record {
        let window = |at| Sample { at_ms: at * WINDOW_MS, confirmed: 100, max_us: at, ..Sample::default() };
        Record { samples: (0..windows).map(window).collect(), ..Record::default() }
    }

    #[test]
    fn counts_become_rates() {
        let columns = columns(&record(4));
        assert_eq!(columns.len(), 4);
        assert!((columns[0].confirmed - 400.0).abs() < 1e-9);
        assert_eq!(columns[0].latency, None);
    }

    #[test]
    fn a_long_run_has_no_more_columns_than_a_chart_and_the_same_rates_and_peaks() {
        let columns = columns(&record(14_400));
        assert_eq!(columns.len(), 720);
        assert!(columns.iter().all(|column| (column.confirmed - 400.0).abs() < 1e-9));
        assert_eq!(columns[719].latency.map(|latency| latency.max), Some(14_399));
    }

    #[test]
    fn a_missing_window_leaves_a_gap() {
        let mut record = record(4);
        record.samples.remove(2);
        let columns = columns(&record);
        assert_eq!(columns.len(), 3);
        assert!(columns[1].end_ms < columns[2].begin_ms);
    }
}
