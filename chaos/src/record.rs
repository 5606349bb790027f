//! What one chaos run was and what came of it: the contract between the engine, that fills a [`Record`], and the report, that
//! shows it.
//!
//! Plain data with a few sums over it. A record says everything that the report says; it holds no secret and no path of the
//! machine that it was made on. `summary.json` of a run is a record, and can be read back as one.

use serde::{Deserialize, Serialize};

/// The length of the window that one [`Sample`] counts, in milliseconds.
pub const WINDOW_MS: u64 = 250;

/// One run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The name by which it is run.
    pub scenario: String,
    /// What it does and what it proves, in one or two sentences.
    pub summary: String,
    /// Every choice of load and of faults follows from it.
    pub seed: u64,
    /// Transactions a second that the open loop was to submit, 0 if it followed a script instead.
    pub rate_per_s: u64,
    /// When it began, in milliseconds since 1970 (UTC). All other times are milliseconds since this.
    pub started_unix_ms: u64,
    /// From the first submission until the last call had its answer.
    pub duration_ms: u64,
    /// What was run: version, profile.
    #[serde(default)]
    pub build: String,
    /// Where.
    pub machine: Machine,
    /// What was under test.
    pub cluster: Cluster,
    /// The one command that runs the same again.
    pub reproduce: String,
    /// Counts of the whole run.
    pub totals: Totals,
    /// What was checked in the end.
    pub verdicts: Vec<Verdict>,
    /// What was done to the cluster, in the order of its beginning.
    pub faults: Vec<Fault>,
    /// One for every window, in order; a window may be missing, none comes twice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub samples: Vec<Sample>,
}

/// The machine that ran it all: servers, load and checkers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Processors that may be used at once.
    pub cores: u32,
    /// Model of the processor.
    pub cpu: String,
    /// Name and release of the kernel.
    pub kernel: String,
}

/// The servers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Coordinator processes.
    pub coordinators: u32,
    /// Participant processes.
    pub participants: u32,
    /// Processes of each of them; 0 or 1 without replicas.
    #[serde(default)]
    pub replicas: u32,
}

/// One window of [`WINDOW_MS`]. Transactions are counted in the window in which they ended, except `submitted`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// When the window began; a multiple of [`WINDOW_MS`].
    pub at_ms: u64,
    /// Transactions whose intended time of sending is in this window.
    pub submitted: u64,
    /// Acknowledged as confirmed.
    pub confirmed: u64,
    /// Acknowledged as canceled.
    pub canceled: u64,
    /// Answered that it certainly had no effect.
    pub refused: u64,
    /// Given up by the caller without a final answer.
    pub unknown: u64,
    /// Median latency of those acknowledged in this window, from the intended time of sending. 0 if there were none.
    pub p50_us: u64,
    /// 99 % of them took no longer.
    pub p99_us: u64,
    /// 99.9 % of them took no longer.
    pub p999_us: u64,
    /// The slowest of them.
    pub max_us: u64,
    /// Transactions begun and not finished, as the coordinators say at the end of the window. `None` if none could be asked.
    pub unfinished: Option<u64>,
    /// Of them, those in doubt.
    pub in_doubt: Option<u64>,
    /// Reservations that the participants hold. `None` if one of them could not be asked.
    pub reservations: Option<u64>,
}

/// Something done to the cluster.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    /// When it struck.
    pub begun_ms: u64,
    /// When the cause was gone (the process was restarted and ready, the pause was over). `None` if that was never.
    pub ended_ms: Option<u64>,
    /// What was done, such as "kill -9".
    pub what: String,
    /// To whom, such as "participant 2". Faults of one target share a row of the timeline.
    pub target: String,
    /// The group that lost its leader by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader_of: Option<String>,
    /// From the loss of the leader until the group served again. `None` if no leader was lost, or that was not seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unavailable_ms: Option<f64>,
    /// Whether recovery was watched from `ended_ms` on. Only then the figures below mean anything.
    pub is_recovery_measured: bool,
    /// Transactions in doubt when the target was back.
    pub in_doubt_at_return: Option<u64>,
    /// From the target's return until the first of them was resolved. `None` if there were none, or it never happened.
    pub first_resolution_ms: Option<f64>,
    /// From the target's return until the last of them was resolved. `None` if there were none, or it never happened.
    pub drained_ms: Option<f64>,
}

/// The judgement of one check.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Ids of the invariants that it checks: 1 to 11.
    pub invariants: Vec<u8>,
    /// What was checked, in a few words.
    pub check: String,
    /// Whether it holds.
    pub ok: bool,
    /// What was compared and how much of it; if it does not hold, what was seen.
    pub detail: String,
}

/// Counts of the whole run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    /// Transactions submitted. The sum of `acknowledged`, `refused` and `unknown`.
    pub submitted: u64,
    /// Acknowledged with a final outcome. The sum of `confirmed` and `canceled`.
    pub acknowledged: u64,
    /// Acknowledged as confirmed.
    pub confirmed: u64,
    /// Acknowledged as canceled.
    pub canceled: u64,
    /// Certainly without effect.
    pub refused: u64,
    /// Without a final answer to the caller.
    pub unknown: u64,
    /// Of the unknown, those that were confirmed all the same.
    pub unknown_confirmed: u64,
    /// Submissions left out because too many were under way. If it is not 0, the loop was not open all the time.
    pub held_back: u64,
    /// Processes killed.
    pub kills: u64,
    /// Median latency of everything acknowledged, from the intended time of sending.
    pub p50_us: u64,
    /// 99 % took no longer.
    pub p99_us: u64,
    /// 99.9 % took no longer.
    pub p999_us: u64,
    /// The slowest.
    pub max_us: u64,
}

/// A stretch of time in which transactions were submitted and none was acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outage {
    /// Beginning of its first window.
    pub begun_ms: u64,
    /// End of its last window.
    pub ended_ms: u64,
}

impl Record {
    /// Whether something was checked, and every check holds.
    pub fn is_sound(&self) -> bool {
        !self.verdicts.is_empty() && self.failed() == 0
    }

    /// Checks that do not hold.
    pub fn failed(&self) -> usize {
        self.verdicts.iter().filter(|verdict| !verdict.ok).count()
    }

    /// Faults whose recovery was measured.
    pub fn measured(&self) -> impl Iterator<Item = &Fault> {
        self.faults.iter().filter(|fault| fault.is_recovery_measured)
    }

    /// Measured faults that left transactions in doubt which never all ended while the run watched.
    pub fn undrained(&self) -> usize {
        self.measured().filter(|fault| fault.is_undrained()).count()
    }

    /// Faults by which groups lost their leaders.
    pub fn leader_losses(&self) -> impl Iterator<Item = &Fault> {
        self.faults.iter().filter(|fault| fault.leader_of.is_some())
    }

    /// How long groups were unavailable that lost their leaders; those whose names begin so. `None` if that was never seen.
    pub fn unavailability(&self, groups: &str) -> Option<Unavailability> {
        let is_meant =
            |fault: &&Fault| fault.leader_of.as_ref().is_some_and(|group| group.starts_with(groups));
        let losses = self.leader_losses().filter(is_meant);
        Unavailability::of(losses.filter_map(|fault| fault.unavailable_ms))
    }

    /// First resolutions of measured faults in milliseconds, shortest first.
    pub fn first_resolutions_ms(&self) -> Vec<f64> {
        sorted(self.measured().filter_map(|fault| fault.first_resolution_ms))
    }

    /// Drains of measured faults in milliseconds, shortest first.
    pub fn drains_ms(&self) -> Vec<f64> {
        sorted(self.measured().filter_map(|fault| fault.drained_ms))
    }

    /// Median of [`first_resolutions_ms`](Self::first_resolutions_ms).
    pub fn median_first_resolution_ms(&self) -> Option<f64> {
        median(&self.first_resolutions_ms())
    }

    /// Median of [`drains_ms`](Self::drains_ms).
    pub fn median_drain_ms(&self) -> Option<f64> {
        median(&self.drains_ms())
    }

    /// The slowest acknowledged transaction.
    pub fn max_us(&self) -> u64 {
        self.samples.iter().map(|sample| sample.max_us).max().unwrap_or(0).max(self.totals.max_us)
    }

    /// Stretches in which transactions were submitted and none was acknowledged, to the window.
    pub fn outages(&self) -> Vec<Outage> {
        let mut outages: Vec<Outage> = Vec::new();
        for sample in self.samples.iter().filter(|sample| sample.is_outage()) {
            let (begun_ms, ended_ms) = (sample.at_ms, sample.at_ms + WINDOW_MS);
            match outages.last_mut() {
                Some(last) if last.ended_ms == begun_ms => last.ended_ms = ended_ms,
                _ => outages.push(Outage { begun_ms, ended_ms }),
            }
        }
        outages
    }

    /// Length of all [`outages`](Self::outages) together.
    pub fn unavailable_ms(&self) -> u64 {
        self.outages().iter().map(Outage::length_ms).sum()
    }

    /// Length of the longest of the [`outages`](Self::outages).
    pub fn longest_outage_ms(&self) -> u64 {
        self.outages().iter().map(Outage::length_ms).max().unwrap_or(0)
    }

    /// The end of the last window, fault or measured recovery: as far as a time axis must reach.
    pub fn end_ms(&self) -> u64 {
        let samples = self.samples.last().map_or(0, |sample| sample.at_ms + WINDOW_MS);
        let faults = self.faults.iter().map(Fault::over_ms).max().unwrap_or(0);
        self.duration_ms.max(samples).max(faults)
    }
}

impl Outage {
    /// How long it lasted.
    pub fn length_ms(&self) -> u64 {
        self.ended_ms - self.begun_ms
    }
}

impl Sample {
    /// Acknowledged with a final outcome.
    pub fn acknowledged(&self) -> u64 {
        self.confirmed + self.canceled
    }

    /// Transactions were submitted and none was acknowledged.
    pub fn is_outage(&self) -> bool {
        self.submitted > 0 && self.acknowledged() == 0
    }
}

impl Fault {
    /// When it and, if it was measured, the recovery from it were over, as far as is known.
    #[allow(clippy::cast_sign_loss)] // a length of time is not negative
    pub fn over_ms(&self) -> u64 {
        let ended = self.ended_ms.unwrap_or(self.begun_ms);
        ended
            + self.drained_ms.filter(|_| self.is_recovery_measured).map_or(0, |drained| drained.ceil() as u64)
    }

    /// It left transactions in doubt that never all ended while the run watched.
    pub fn is_undrained(&self) -> bool {
        self.in_doubt_at_return.is_some_and(|in_doubt| in_doubt > 0) && self.drained_ms.is_none()
    }
}

impl Machine {
    /// This one. What it does not tell is "unknown".
    pub fn here() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let cores = std::thread::available_parallelism().map_or(0, |cores| cores.get() as u32);
        let cpu = read("/proc/cpuinfo")
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
            .map_or_else(|| "unknown".to_owned(), |(_, model)| model.trim().to_owned());
        let release = read("/proc/sys/kernel/osrelease");
        let release = if release.is_empty() { "unknown" } else { release.trim() };
        Self { cores, cpu, kernel: format!("{} {release}", std::env::consts::OS) }
    }
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The value in the middle of sorted ones; of two in the middle, their mean.
fn median(sorted: &[f64]) -> Option<f64> {
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = sorted[(sorted.len() - 1) / 2];
    Some(f64::midpoint(lower, upper))
}

/// How long groups were unavailable that lost their leaders, and what follows from that.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Unavailability {
    /// How many leaders were lost.
    pub losses: usize,
    /// The shortest.
    pub min_ms: f64,
    /// The mean.
    pub mean_ms: f64,
    /// Half of them took no longer.
    pub p50_ms: f64,
    /// 99 % of them took no longer.
    pub p99_ms: f64,
    /// The longest.
    pub max_ms: f64,
    /// The part of the time in which a group serves that loses its leader [`LOSSES_A_DAY`] times a day.
    pub availability: f64,
}

/// The rate of failures for which an availability is told.
pub const LOSSES_A_DAY: f64 = 1.0;
const MS_A_DAY: f64 = 86_400_000.0;

impl Unavailability {
    /// Of some losses. `None` if there were none.
    pub fn of(losses_ms: impl Iterator<Item = f64>) -> Option<Self> {
        let all = sorted(losses_ms);
        let (min_ms, max_ms) = (*all.first()?, *all.last()?);
        let mean_ms = all.iter().sum::<f64>() / all.len() as f64;
        Some(Self {
            losses: all.len(),
            min_ms,
            mean_ms,
            p50_ms: nearest_rank(&all, 50),
            p99_ms: nearest_rank(&all, 99),
            max_ms,
            availability: 1.0 - LOSSES_A_DAY * mean_ms / MS_A_DAY,
        })
    }
}

/// The least of sorted values than which so many of a hundred are no greater.
fn nearest_rank(sorted: &[f64], percent: usize) -> f64 {
    sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(drained_ms: Option<f64>) -> Fault {
        let in_doubt_at_return = Some(3);
        Fault { is_recovery_measured: true, in_doubt_at_return, drained_ms, ..Fault::default() }
    }

    #[test]
    fn a_run_that_checked_nothing_is_not_sound() {
        let mut record = Record::default();
        assert!(!record.is_sound());
        record.verdicts.push(Verdict { ok: true, ..Verdict::default() });
        assert!(record.is_sound());
        record.verdicts.push(Verdict::default());
        assert!(!record.is_sound());
        assert_eq!(record.failed(), 1);
    }

    #[test]
    fn medians_are_of_measured_faults_and_the_rest_is_counted() {
        let mut record = Record::default();
        assert_eq!(record.median_drain_ms(), None);
        record.faults = vec![fault(Some(30.0)), fault(Some(10.0)), fault(None)];
        record.faults.push(Fault { drained_ms: Some(1e6), ..Fault::default() });
        assert_eq!(record.median_drain_ms(), Some(20.0));
        assert_eq!(record.undrained(), 1);
    }

    #[test]
    fn unavailability_is_of_the_losses_of_leaders() {
        let loss = |group: &str, unavailable_ms| Fault {
            leader_of: Some(group.to_owned()),
            unavailable_ms,
            ..Fault::default()
        };
        let mut record = Record::default();
        assert_eq!(record.unavailability(""), None);
        record.faults = vec![
            fault(Some(9e9)),
            loss("shard-0", Some(864.0)),
            loss("shard-1", Some(2_592.0)),
            loss("coordinator-0", Some(1_728.0)),
            loss("coordinator-0", None),
        ];
        let all = record.unavailability("").unwrap();
        let figures =
            [all.min_ms, all.p50_ms, all.mean_ms, all.p99_ms, all.max_ms].map(|ms| ms.round() as i64);
        assert_eq!((all.losses, figures), (3, [864, 1_728, 1_728, 2_592, 2_592]));
        assert!((all.availability - 0.999_98).abs() < 1e-12, "1,728 ms of 86,400 s: {}", all.availability);
        assert_eq!(record.unavailability("coordinator-").unwrap().losses, 1);
        assert_eq!(record.leader_losses().count(), 4);
    }

    #[test]
    fn outages_are_stretches_of_windows_without_an_answer() {
        let window = |at: u64, submitted, confirmed| Sample {
            at_ms: at * WINDOW_MS,
            submitted,
            confirmed,
            ..Sample::default()
        };
        let samples =
            vec![window(0, 9, 9), window(1, 9, 0), window(2, 9, 0), window(3, 0, 9), window(4, 9, 0)];
        let record = Record { samples, ..Record::default() };
        assert_eq!(record.unavailable_ms(), 750);
        assert_eq!(record.longest_outage_ms(), 500);
        assert_eq!(record.outages().len(), 2);
    }
}
