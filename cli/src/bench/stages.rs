//! Where the time of transfers went inside of the servers, and what their journals did: of two statuses the difference.
//!
//! It must never mix what another process did into it: a server that was started again meanwhile, or whose place another replica
//! took, is left away, and that is said.

use escrow_client::report::{JournalStats, Passed, Stages};
use escrow_client::{Client, ClientError};
use serde::Serialize;

/// A journal at a moment, and whose it is.
#[derive(Debug, Clone, PartialEq)]
struct Server {
    /// Such as `participant 0`; all shards of a process are one server.
    name: String,
    endpoint: String,
    pid: u32,
    journal: JournalStats,
}

/// What the servers had done at a moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    servers: Vec<Server>,
    /// Of each coordinator: its process, and its stages.
    stages: Vec<(u32, Stages)>,
}

/// What they did between two moments.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Breakdown {
    /// Points on the way of a transfer through its coordinator, in the order of the protocol.
    pub stages: Vec<Stage>,
    /// What the mean latency has beyond the last point: the caller, the wire, and the wait in the mailbox. Only where callers waited
    /// for the end, and latency counts from sending.
    pub elsewhere_us: Option<f64>,
    /// Transfers that a turn of a coordinator began.
    pub transfers_per_turn: Option<f64>,
    /// Of each process that has one.
    pub journals: Vec<JournalUse>,
}

/// A point on the way of a transfer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stage {
    /// `begun`: Begin durable. `tried`: a branch has answered its Try. `decided`: the decision is durable, Confirm or Cancel leaves.
    /// `completed`: the caller is answered.
    pub name: &'static str,
    /// Transfers that came by; of `tried` and `decided`, branches.
    pub rows: u64,
    /// Mean time since the coordinator took them from its mailbox; `None` if none came by.
    pub after_us: Option<f64>,
}

/// What a journal did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JournalUse {
    /// Such as `participant 0`.
    pub name: String,
    /// Log entries.
    pub entries: u64,
    /// Transfers of the run for each.
    pub transfers_per_entry: f64,
    /// Entries that were written and synced together.
    pub entries_per_batch: f64,
    /// Bytes of frames for each transfer of the run.
    pub bytes_per_transfer: f64,
    /// fdatasyncs that entries waited for.
    pub syncs: u64,
    /// How long one took, in the mean, in microseconds.
    pub sync_mean_us: f64,
}

impl Snapshot {
    /// Asks all servers. Shards that cannot be reached are not in it.
    pub async fn take(client: &Client) -> Result<Self, ClientError> {
        let mut snapshot = Self::default();
        for partition in 0..client.partitions() {
            let status = client.status(partition).await?;
            if let Some(coordinator) = status.coordinator {
                let endpoint = client.endpoint(partition);
                let name = format!("coordinator {}", coordinator.partition);
                snapshot.add(name, endpoint, coordinator.pid, coordinator.journal);
                snapshot.stages.extend(coordinator.stages.map(|stages| (coordinator.pid, stages)));
            }
            // All coordinators know the same participants.
            if partition == 0 {
                for shard in status.participants {
                    snapshot.add(
                        format!("participant {}", shard.id),
                        &shard.endpoint,
                        shard.pid,
                        shard.journal,
                    );
                }
            }
        }
        Ok(snapshot)
    }

    fn add(&mut self, name: String, endpoint: &str, pid: u32, journal: Option<JournalStats>) {
        let Some(journal) = journal else { return };
        match self.servers.iter_mut().find(|server| server.pid == pid && server.endpoint == endpoint) {
            Some(server) => server.name = format!("{}, {name}", server.name),
            None => self.servers.push(Server { name, endpoint: endpoint.to_owned(), pid, journal }),
        }
    }

    /// What was done since `before`, for so many transfers of this mean latency; and a sentence for each server of which it cannot
    /// be told.
    pub fn since(
        &self,
        before: &Self,
        transfers: u64,
        latency_mean_us: Option<f64>,
    ) -> (Breakdown, Vec<String>) {
        let (mut journals, mut missing) = (Vec::new(), Vec::new());
        for server in &before.servers {
            match self.servers.iter().find(|after| is_same(server, after)) {
                Some(after) => {
                    journals.push(journal_use(&server.name, &server.journal, &after.journal, transfers));
                }
                None => {
                    missing.push(format!("the journal of {} is another than before the run", server.name));
                }
            }
        }
        let mut stages = Stages::default();
        for (pid, before) in &before.stages {
            match self.stages.iter().find(|(after, stages)| after == pid && stages.rows >= before.rows) {
                Some((_, after)) => stages = sum(&stages, &difference(before, after)),
                None => missing.push(format!("the coordinator with pid {pid} ended, or leads no more")),
            }
        }
        let points = points(&stages);
        let last = points.last().and_then(|stage| stage.after_us);
        let breakdown = Breakdown {
            elsewhere_us: latency_mean_us.zip(last).map(|(mean, last)| (mean - last).max(0.0)),
            transfers_per_turn: ratio(stages.rows, stages.turns),
            stages: points,
            journals,
        };
        (breakdown, missing)
    }
}

fn is_same(before: &Server, after: &Server) -> bool {
    let same_process = before.pid == after.pid && before.endpoint == after.endpoint;
    same_process && before.journal.entries <= after.journal.entries
}

fn ratio(of: u64, by: u64) -> Option<f64> {
    (by > 0).then(|| of as f64 / by as f64)
}

fn journal_use(name: &str, before: &JournalStats, after: &JournalStats, transfers: u64) -> JournalUse {
    let of = |count: fn(&JournalStats) -> u64| count(after).saturating_sub(count(before));
    let (entries, syncs) = (of(|journal| journal.entries), of(|journal| journal.syncs));
    let each = |of, by| ratio(of, by).unwrap_or(0.0);
    JournalUse {
        name: name.to_owned(),
        entries,
        transfers_per_entry: each(transfers, entries),
        entries_per_batch: each(entries, of(|journal| journal.batches)),
        bytes_per_transfer: each(of(|journal| journal.bytes), transfers),
        syncs,
        sync_mean_us: each(of(|journal| journal.sync_total_ns), syncs) / 1_000.0,
    }
}

fn both(a: Option<&Passed>, b: Option<&Passed>, each: fn(u64, u64) -> u64) -> Passed {
    let (a, b) = (a.copied().unwrap_or_default(), b.copied().unwrap_or_default());
    Passed { rows: each(a.rows, b.rows), total_ns: each(a.total_ns, b.total_ns) }
}

fn with(a: &Stages, b: &Stages, each: fn(u64, u64) -> u64) -> Stages {
    Stages {
        turns: each(a.turns, b.turns),
        rows: each(a.rows, b.rows),
        begun: Some(both(a.begun.as_ref(), b.begun.as_ref(), each)),
        tried: Some(both(a.tried.as_ref(), b.tried.as_ref(), each)),
        decided: Some(both(a.decided.as_ref(), b.decided.as_ref(), each)),
        completed: Some(both(a.completed.as_ref(), b.completed.as_ref(), each)),
    }
}

fn sum(a: &Stages, b: &Stages) -> Stages {
    with(a, b, u64::wrapping_add)
}

fn difference(before: &Stages, after: &Stages) -> Stages {
    with(after, before, u64::saturating_sub)
}

fn points(stages: &Stages) -> Vec<Stage> {
    let points = [
        ("begun", &stages.begun),
        ("tried", &stages.tried),
        ("decided", &stages.decided),
        ("completed", &stages.completed),
    ];
    let stage = |(name, passed): (&'static str, &Option<Passed>)| {
        let Passed { rows, total_ns } = passed.unwrap_or_default();
        Stage { name, rows, after_us: ratio(total_ns, rows).map(|nanos| nanos / 1_000.0) }
    };
    points.into_iter().map(stage).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal(entries: u64, sync_total_ns: u64) -> JournalStats {
        JournalStats {
            entries,
            batches: entries / 2,
            bytes: entries * 100,
            syncs: entries / 2,
            sync_total_ns,
        }
    }

    fn snapshot(pid: u32, entries: u64, rows: u64) -> Snapshot {
        let passed = |each: u64| Some(Passed { rows, total_ns: rows * each });
        let stages = Stages {
            turns: rows / 10,
            rows,
            begun: passed(1_000),
            tried: passed(2_000),
            decided: None,
            completed: passed(4_000),
        };
        let mut snapshot = Snapshot { servers: Vec::new(), stages: vec![(pid, stages)] };
        snapshot.add(
            "coordinator 0".to_owned(),
            "http://a:1",
            pid,
            Some(journal(entries, entries * 500_000)),
        );
        snapshot
    }

    #[test]
    fn what_was_done_is_the_difference() {
        let (told, missing) = snapshot(7, 30, 300).since(&snapshot(7, 10, 100), 200, Some(6.5));
        assert_eq!(missing, Vec::<String>::new());
        let after: Vec<_> =
            told.stages.iter().map(|stage| (stage.name, stage.rows, stage.after_us)).collect();
        let of = |name, micros| (name, 200, Some(micros));
        assert_eq!(after, [of("begun", 1.0), of("tried", 2.0), ("decided", 0, None), of("completed", 4.0)]);
        assert_eq!((told.transfers_per_turn, told.elsewhere_us), (Some(10.0), Some(2.5)));
        let journal = &told.journals[0];
        assert_eq!((journal.entries, journal.syncs), (20, 10));
        let figures = [
            journal.transfers_per_entry,
            journal.entries_per_batch,
            journal.bytes_per_transfer,
            journal.sync_mean_us,
        ];
        assert_eq!(figures.map(|figure| figure.to_string()), ["10", "2", "10", "1000"]);
    }

    #[test]
    fn a_server_that_was_started_again_is_not_told() {
        let (told, missing) = snapshot(8, 30, 300).since(&snapshot(7, 10, 100), 200, None);
        assert_eq!((told.journals.len(), missing.len()), (0, 2), "{missing:?}");
        assert!(told.stages.iter().all(|stage| stage.after_us.is_none()));
        let (told, missing) = snapshot(7, 5, 50).since(&snapshot(7, 10, 100), 200, None);
        assert_eq!(
            (told.journals.len(), missing.len()),
            (0, 2),
            "the same number, fewer entries: {missing:?}"
        );
    }

    #[test]
    fn shards_of_one_process_have_one_journal() {
        let mut snapshot = Snapshot::default();
        for shard in ["participant 0", "participant 1"] {
            snapshot.add(shard.to_owned(), "http://a:2", 9, Some(journal(1, 1)));
        }
        snapshot.add("participant 2".to_owned(), "http://b:2", 9, Some(journal(1, 1)));
        snapshot.add("external".to_owned(), "http://c:2", 0, None);
        let names: Vec<&str> = snapshot.servers.iter().map(|server| server.name.as_str()).collect();
        assert_eq!(names, ["participant 0, participant 1", "participant 2"]);
    }
}
