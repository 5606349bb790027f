//! What came of a chaos run, for people.

use escrow_chaos::record::Record;
use serde_json::Value;

use crate::exit::Exit;
use crate::output::Output;

/// The table of `--all`.
pub(super) const HEADER: &[&str] =
    &["scenario", "result", "acknowledged", "kills", "first resolution", "drained"];

fn millis(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.0} ms"))
}

/// One scenario of `--all`.
pub(super) fn row(name: &str, exit: Exit, document: &Value) -> Vec<String> {
    let result = match exit {
        Exit::Ok => "holds",
        Exit::Violated => "VIOLATED",
        Exit::Skipped => "not run",
        _ => "FAILED",
    };
    let record: Option<Record> = serde_json::from_value(document.clone()).ok();
    let of = |figure: fn(&Record) -> String| record.as_ref().map_or_else(|| "-".to_owned(), figure);
    vec![
        name.to_owned(),
        result.to_owned(),
        of(|record| record.totals.acknowledged.to_string()),
        of(|record| record.totals.kills.to_string()),
        of(|record| millis(record.median_first_resolution_ms())),
        of(|record| millis(record.median_drain_ms())),
    ]
}

/// Verdicts, recoveries and figures of one run.
pub(super) fn summary(record: &Record, proves: &str, output: &Output) {
    output.line("");
    let faults = record.faults.iter().filter(|fault| fault.is_recovery_measured);
    let rows: Vec<Vec<String>> = faults
        .map(|fault| {
            vec![
                format!("{:.1} s", fault.begun_ms as f64 / 1e3),
                fault.target.clone(),
                fault.what.clone(),
                fault.in_doubt_at_return.map_or_else(|| "-".to_owned(), |count| count.to_string()),
                millis(fault.first_resolution_ms),
                millis(fault.drained_ms),
            ]
        })
        .collect();
    if !rows.is_empty() {
        output.table(&["at", "target", "fault", "in doubt", "first resolution", "drained"], rows);
        output.line(format!(
            "median: first resolution {}, drained {}, from the moment that the target is back\n",
            millis(record.median_first_resolution_ms()),
            millis(record.median_drain_ms())
        ));
    }
    for verdict in &record.verdicts {
        let mark = if verdict.ok { "✓" } else { "✗" };
        output.line(format!("{mark} {}  ({})", verdict.check, verdict.detail));
    }
    let totals = &record.totals;
    output.line(format!(
        "\n{} transactions: {} confirmed, {} canceled, {} refused, {} unknown to their callers",
        totals.submitted, totals.confirmed, totals.canceled, totals.refused, totals.unknown
    ));
    let ms = |micros: u64| micros as f64 / 1e3;
    output.line(format!(
        "latency from the moment each was due: p50 {:.1} ms, p99 {:.1} ms, p99.9 {:.1} ms, max {:.1} ms",
        ms(totals.p50_us),
        ms(totals.p99_us),
        ms(totals.p999_us),
        ms(totals.max_us)
    ));
    if totals.held_back > 0 {
        output.line(format!("{} were held back: the loop was not open all the time", totals.held_back));
    }
    output.line(if record.is_sound() {
        format!("EVERYTHING HOLDS, seed {}. {proves}", record.seed)
    } else {
        format!("{} CHECKS DO NOT HOLD, seed {}", record.failed(), record.seed)
    });
}
