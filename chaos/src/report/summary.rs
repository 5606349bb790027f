//! `summary.json`: the record, before it what follows from it, and one line for each sample.

use std::io;

use serde::Serialize;

use super::replicas::{self, Availability};
use crate::record::{Record, Sample};

/// What a program wants to know first.
#[derive(Serialize)]
struct Summary {
    is_sound: bool,
    failed_checks: Vec<String>,
    median_first_resolution_ms: Option<f64>,
    median_drain_ms: Option<f64>,
    undrained_faults: usize,
    unavailable_ms: u64,
    longest_outage_ms: u64,
    max_us: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    leader_losses: Option<Availability>,
    #[serde(flatten)]
    record: Record,
}

pub(super) fn summary(record: &Record) -> io::Result<String> {
    let failed = record.verdicts.iter().filter(|verdict| !verdict.ok);
    let summary = Summary {
        is_sound: record.is_sound(),
        failed_checks: failed.map(|verdict| verdict.check.clone()).collect(),
        median_first_resolution_ms: record.median_first_resolution_ms(),
        median_drain_ms: record.median_drain_ms(),
        undrained_faults: record.undrained(),
        unavailable_ms: record.unavailable_ms(),
        longest_outage_ms: record.longest_outage_ms(),
        max_us: record.max_us(),
        leader_losses: replicas::availability(record),
        record: Record { samples: Vec::new(), ..record.clone() },
    };
    let head = serde_json::to_string_pretty(&summary)?;
    let head = head.strip_suffix("\n}").expect("an object with members ends so");
    Ok(format!("{head},\n  \"samples\": [{}]\n}}\n", lines(&record.samples)?))
}

/// A sample a line: easy to compare, to count and to cut.
fn lines(samples: &[Sample]) -> io::Result<String> {
    if samples.is_empty() {
        return Ok(String::new());
    }
    let lines: Result<Vec<String>, _> = samples.iter().map(serde_json::to_string).collect();
    Ok(format!("\n    {}\n  ", lines?.join(",\n    ")))
}
