//! What a run came to: a document for programs, which `escrow bench compare` reads again, and lines for people.

use escrow_client::Wait;
use serde_json::{Value, json};

use super::{Args, Outcome};
use crate::bench::plot::Page;
use crate::bench::stages::{Breakdown, JournalUse};
use crate::bench::wire::{Round, Wire};
use crate::bench::{Amount, Load, OpenLoop, Summary};
use crate::commands::verify::{document as verification, line};
use crate::output::Output;

/// The document. `settings` holds whatever makes two runs comparable.
pub(super) fn document(args: &Args, load: &Load, outcome: &Outcome) -> Value {
    let mut value = serde_json::to_value(&outcome.summary).unwrap_or_default();
    value["mode"] = name(&load.mode).into();
    value["in_flight"] = load.in_flight.into();
    value["settings"] = settings(args, load);
    value["processes"] = serde_json::to_value(&outcome.used).unwrap_or_default();
    value["breakdown"] = serde_json::to_value(&outcome.breakdown).unwrap_or_default();
    value["not_measured"] = json!(outcome.missing);
    value["wire"] = serde_json::to_value(&outcome.wire).unwrap_or_default();
    value["verified"] = outcome.report.as_ref().map_or(json!(null), |report| report.ok().into());
    value["verification"] = outcome.report.as_ref().map_or(json!(null), verification);
    value
}

fn settings(args: &Args, load: &Load) -> Value {
    let (transfers, duration_s) = match load.amount {
        Amount::Transfers(count) => (Some(count), None),
        Amount::For(span) => (None, Some(span.as_secs_f64())),
    };
    json!({
        "mode": name(&load.mode),
        "transfers": transfers,
        "duration_s": duration_s,
        "rate": load.rate,
        "in_flight": load.in_flight,
        "batch": load.batch,
        "connections": args.connections,
        "accounts": args.accounts,
        "shards": args.shards,
        "cross_shard": load.cross_shard,
        "skew": name(&load.skew),
        "wait": match load.wait { Wait::Decided => "decided", Wait::Completed => "completed" },
        "currency": load.currency.code(),
        "timeout_s": load.timeout.as_secs_f64(),
        "warmup_s": args.warmup.as_secs_f64(),
        "interval_s": load.interval.as_secs_f64(),
        "seed": load.seed,
        "build": if cfg!(debug_assertions) { "debug" } else { "release" },
    })
}

/// The page: `document` is what programs get of the same run.
pub(super) fn page<'a>(document: &Value, outcome: &'a Outcome) -> Page<'a> {
    let summary = &outcome.summary;
    let plain = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let mut facts = vec![
        ("answered".to_owned(), summary.completed.to_string()),
        ("failed".to_owned(), summary.failed.to_string()),
    ];
    let latency = summary.latency_us;
    for (quantile, micros) in [("p50", latency.p50), ("p99", latency.p99), ("p99.9", latency.p999)] {
        facts.push((quantile.to_owned(), millis(micros)));
    }
    for journal in &outcome.breakdown.journals {
        let name = format!("{}: transfers an entry, fdatasync", journal.name);
        let value = format!("{:.0}, {:.0} µs", journal.transfers_per_entry, journal.sync_mean_us);
        facts.push((name, value));
    }
    if let Some(wire) = &outcome.wire {
        let share = format!("{:.1} %", wire.ratios.rate_to_echo * 100.0);
        facts.push((format!("of the raw {} echo", wire.ratios.echo), share));
    }
    let settings = document["settings"].as_object().into_iter().flatten();
    facts.extend(settings.filter_map(|(name, value)| Some((name.clone(), plain(value)?))));
    let mode = document["mode"].as_str().unwrap_or_default();
    Page {
        title: format!("escrow bench, {mode}: {:.0} transfers a second", summary.per_second),
        facts,
        summary,
        used: &outcome.used,
        breakdown: &outcome.breakdown,
    }
}

/// As on the command line.
fn name(value: &impl clap::ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

fn millis(micros: u64) -> String {
    format!("{}.{:03} ms", micros / 1_000, micros % 1_000)
}

/// The lines.
pub(super) fn print(outcome: &Outcome, output: &Output) {
    let summary = &outcome.summary;
    rate(summary, output);
    if let Some(open) = &summary.open_loop {
        open_loop(open, output);
    }
    for (reason, count) in &summary.reasons {
        output.line(format!("    {count} {reason}"));
    }
    let latency = summary.latency_us;
    output.line(format!(
        "  latency p50 {}  p90 {}  p99 {}  p99.9 {}  p99.99 {}  max {}",
        millis(latency.p50),
        millis(latency.p90),
        millis(latency.p99),
        millis(latency.p999),
        millis(latency.p9999),
        millis(latency.max)
    ));
    if let Some(wire) = &outcome.wire {
        machine(wire, output);
    }
    breakdown(&outcome.breakdown, output);
    processes(outcome, output);
    for check in outcome.report.iter().flat_map(|report| &report.checks) {
        output.line(format!("  {}", line(check)));
    }
}

fn rate(summary: &Summary, output: &Output) {
    output.line(format!("{:.0} transfers a second", summary.per_second));
    output.line(format!(
        "  {} completed in {:.2} s: {} confirmed, {} canceled, {} failed",
        summary.completed, summary.seconds, summary.confirmed, summary.canceled, summary.failed
    ));
    match &summary.steady {
        Some(steady) => output.line(format!(
            "  steady from second {:.1} on: {:.0} a second over {:.1} s",
            steady.from_s, steady.per_second, steady.seconds
        )),
        None => {
            output.line("  no steady part: the rate did not stay within 10 % of its median up to the end");
        }
    }
    output.line(format!(
        "  longest time without an answer {:.1} ms, from second {:.1} on",
        summary.stall_ms, summary.stall_from_s
    ));
}

fn open_loop(open: &OpenLoop, output: &Output) {
    let late = open.paced.late_us;
    output.line(format!(
        "  {} a second were due, {:.0} went out; {} held back by the servers, {} never sent",
        open.asked_per_second, open.sent_per_second, open.paced.held_back, open.not_sent
    ));
    output.line(format!(
        "  the generator itself was late by p50 {}  p99 {}  max {}",
        millis(late.p50),
        millis(late.p99),
        millis(late.max)
    ));
}

fn machine(wire: &Wire, output: &Output) {
    let ratios = &wire.ratios;
    output.line(format!(
        "  {:.1} % of the raw {} echo; p50 is {:.1} times a durable write of 200 bytes",
        ratios.rate_to_echo * 100.0,
        ratios.echo,
        ratios.p50_to_fdatasync_200b
    ));
    for (when, round) in [("before", &wire.before), ("after", &wire.after)] {
        output.line(format!("    {when}: {}", allowed(round)));
    }
    let memory = if wire.is_in_memory { ", which is in memory: its syncs say nothing" } else { "" };
    output.line(format!("    written in {}{memory}", wire.directory.display()));
}

fn allowed(round: &Round) -> String {
    let syncs = round.fdatasync.iter().map(|sync| format!("{} B {} µs", sync.bytes, sync.p50_us));
    format!(
        "echo a second: unary {:.0} (p50 {}), stream {:.0}, bulk {:.0} rows; fdatasync p50: {}",
        round.unary_per_second,
        millis(round.unary_p50_us),
        round.stream_per_second,
        round.bulk_rows_per_second,
        syncs.collect::<Vec<_>>().join(", ")
    )
}

fn breakdown(breakdown: &Breakdown, output: &Output) {
    let told = |name: &str| match name {
        "begun" => "Begin durable",
        "tried" => "Try answered",
        "decided" => "decided, phase 2 leaves",
        _ => "completed",
    };
    let points = breakdown.stages.iter().filter_map(|stage| Some((told(stage.name), stage.after_us?)));
    let points: Vec<String> = points.map(|(name, micros)| format!("{name} {micros:.0} µs")).collect();
    if !points.is_empty() {
        output.line(format!("  after the coordinator took it, in the mean: {}", points.join(", ")));
    }
    let figures = [
        breakdown.elsewhere_us.map(|micros| format!("caller, wire and mailbox {micros:.0} µs")),
        breakdown.transfers_per_turn.map(|transfers| format!("{transfers:.1} transfers a turn")),
    ];
    let figures: Vec<String> = figures.into_iter().flatten().collect();
    if !figures.is_empty() {
        output.line(format!("  {}", figures.join(", ")));
    }
    let row = |journal: &JournalUse| {
        vec![
            journal.name.clone(),
            journal.entries.to_string(),
            format!("{:.1}", journal.transfers_per_entry),
            format!("{:.2}", journal.entries_per_batch),
            format!("{:.1} B", journal.bytes_per_transfer),
            journal.syncs.to_string(),
            format!("{:.0} µs", journal.sync_mean_us),
        ]
    };
    if !breakdown.journals.is_empty() {
        output.table(
            &["journal", "entries", "transfers/entry", "entries/write", "log/transfer", "fdatasyncs", "mean"],
            breakdown.journals.iter().map(row),
        );
    }
}

fn processes(outcome: &Outcome, output: &Output) {
    let mib = |bytes: u64| format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20));
    let row = |used: &crate::bench::processes::Used| {
        vec![
            used.name.clone(),
            used.pid.to_string(),
            format!("{:.2} µs", used.user_us_per_transfer),
            format!("{:.2} µs", used.system_us_per_transfer),
            mib(used.resident_bytes),
            mib(used.peak_bytes),
        ]
    };
    if !outcome.used.is_empty() {
        output.table(
            &["process", "pid", "user/transfer", "system/transfer", "resident", "peak"],
            outcome.used.iter().map(row),
        );
    }
    for missing in &outcome.missing {
        output.line(format!("  {missing}"));
    }
}
