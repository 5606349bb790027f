//! What must be read in two seconds: whether all checks hold, of what run; and then the key figures.

use std::collections::BTreeMap;

use super::html::{Html, Text};
use super::units;
use crate::record::{Record, WINDOW_MS};

/// Shapes that tell the judgement without their colour.
const HOLDS: &str = concat!(
    r#"<svg viewBox="0 0 24 24" aria-hidden="true"><circle cx="12" cy="12" r="11"/>"#,
    r#"<path d="M6.5 12.5l3.7 3.7 7.3-7.8"/>"#,
    r#"</svg>"#,
);
const BROKEN: &str = concat!(
    r#"<svg viewBox="0 0 24 24" aria-hidden="true">"#,
    r#"<path class="plate" d="M7.5 1h9L23 7.5v9L16.5 23h-9L1 16.5v-9z"/>"#,
    r#"<path d="M8 8l8 8M16 8l-8 8"/>"#,
    r#"</svg>"#,
);
const UNSURE: &str = concat!(
    r#"<svg viewBox="0 0 24 24" aria-hidden="true">"#,
    r#"<path class="plate" d="M12 1.5L23.5 22H.5z"/>"#,
    r#"<path d="M12 9v6M12 18v.6"/>"#,
    r#"</svg>"#,
);

/// The judgement in a few words, without markup.
pub(super) fn judgement(record: &Record) -> String {
    let checks = units::counted(record.verdicts.len() as u64, "check");
    match (record.verdicts.len(), record.failed()) {
        (0, _) => "Nothing was checked".to_owned(),
        (1, 0) => "The check holds".to_owned(),
        (_, 0) => format!("All {checks} hold"),
        (1, _) => "VIOLATION: the check failed".to_owned(),
        (_, failed) => format!("VIOLATION: {failed} of {checks} failed"),
    }
}

/// The banner: judgement, what the run was, and the facts of it.
pub(super) fn headline(record: &Record) -> String {
    let (class, icon) = match (record.is_sound(), record.failed()) {
        (true, _) => ("holds", HOLDS),
        (false, 0) => ("unsure", UNSURE),
        (false, _) => ("broken", BROKEN),
    };
    let mut html = Html::default();
    html.add(format_args!(
        "<header class=\"{class}\">\n<div class=\"verdict\">{icon}<div><h1>{}</h1>\n<p class=\"scenario\">{}</p></div></div>\n",
        Text(&judgement(record)),
        Text(&record.scenario),
    ));
    if record.failed() > 0 {
        html.add(format_args!("<ul class=\"failures\">\n"));
        for verdict in record.verdicts.iter().filter(|verdict| !verdict.ok) {
            let detail = excerpt(&verdict.detail);
            let (check, detail) = (Text(&verdict.check), Text(&detail));
            html.add(format_args!("<li><b>{check}</b> {detail}</li>\n"));
        }
        html.add(format_args!("</ul>\n"));
    }
    facts(&mut html, record);
    html.add(format_args!("</header>\n<p class=\"summary\">{}</p>\n", Text(&record.summary)));
    html.into_string()
}

/// The banner must stay short; the table of checks has all of it.
fn excerpt(detail: &str) -> String {
    const LENGTH_MAX: usize = 280;
    match detail.char_indices().nth(LENGTH_MAX) {
        None => detail.to_owned(),
        Some((end, _)) => format!("{}… (all of it under “Checks”)", &detail[..end]),
    }
}

fn facts(html: &mut Html, record: &Record) {
    let rate = match record.rate_per_s {
        0 => "as its script says".to_owned(),
        rate => format!("{}\u{a0}transactions a\u{a0}second, open loop", units::count(rate)),
    };
    let replicas = match record.cluster.replicas {
        0 | 1 => String::new(),
        replicas => format!(", {replicas}\u{a0}replicas of each"),
    };
    let cluster = format!(
        "{}, {}{replicas}",
        units::counted(u64::from(record.cluster.coordinators), "coordinator"),
        units::counted(u64::from(record.cluster.participants), "participant"),
    );
    let machine = [record.machine.cpu.as_str(), record.machine.kernel.as_str()];
    let cores = units::counted(u64::from(record.machine.cores), "core");
    let machine = std::iter::once(cores.as_str()).chain(machine).filter(|part| !part.is_empty());
    let machine = machine.collect::<Vec<_>>().join(", ");
    let facts = [
        ("Seed", record.seed.to_string()),
        ("Duration", units::length(record.duration_ms)),
        ("Load", rate),
        ("Cluster", cluster),
        ("Machine, for all of it", machine),
        ("Build", record.build.clone()),
        ("Begun", units::date(record.started_unix_ms)),
    ];
    html.add(format_args!("<dl class=\"facts\">\n"));
    for (name, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
        html.add(format_args!("<div><dt>{name}</dt><dd>{}</dd></div>\n", Text(value)));
    }
    html.add(format_args!("</dl>\n"));
}

/// One key figure.
struct Figure {
    name: &'static str,
    value: String,
    /// What it is of, or how it was distributed.
    note: String,
}

/// The key figures, and notes on what a reader must know of them.
pub(super) fn figures(record: &Record) -> String {
    let mut html = Html::default();
    html.add(format_args!("<section>\n<h2>Key figures</h2>\n<dl class=\"figures\">\n"));
    for Figure { name, value, note } in of_load(record).into_iter().chain(of_faults(record)) {
        let (value, note) = (Text(&value), Text(&note));
        html.add(format_args!("<div><dt>{name}</dt><dd>{value}</dd><dd class=\"of\">{note}</dd></div>\n"));
    }
    html.add(format_args!("</dl>\n"));
    for note in notes(record) {
        html.add(format_args!("<p class=\"warning\"><b>Note:</b> {}</p>\n", Text(&note)));
    }
    html.add(format_args!("</section>\n"));
    html.into_string()
}

fn of_load(record: &Record) -> [Figure; 4] {
    let totals = &record.totals;
    let of_submitted = |part| {
        if totals.submitted == 0 {
            String::from("nothing was submitted")
        } else {
            format!("{} of submitted", units::percent(part, totals.submitted))
        }
    };
    let submitted = format!("{} refused without effect", units::count(totals.refused));
    let ends = format!(
        "{}; {} confirmed, {} canceled",
        of_submitted(totals.acknowledged),
        units::count(totals.confirmed),
        units::count(totals.canceled),
    );
    let unknown = match (totals.unknown, totals.submitted) {
        (0, 0) => "nothing was submitted".to_owned(),
        (0, _) => "every caller had an answer".to_owned(),
        _ => format!(
            "callers without an answer; {} confirmed all the same",
            units::count(totals.unknown_confirmed)
        ),
    };
    let max = match record.max_us() {
        0 => "none".to_owned(),
        max => units::micros(max as f64),
    };
    let percentiles = [("p50", totals.p50_us), ("p99", totals.p99_us), ("p99.9", totals.p999_us)]
        .map(|(name, value)| format!("{name}\u{a0}{}", units::micros(value as f64)))
        .join(", ");
    let percentiles = if totals.max_us == 0 { String::new() } else { percentiles };
    [
        Figure { name: "Submitted", value: units::count(totals.submitted), note: submitted },
        Figure { name: "Acknowledged", value: units::count(totals.acknowledged), note: ends },
        Figure { name: "Unknown", value: units::count(totals.unknown), note: unknown },
        Figure { name: "Highest latency", value: max, note: percentiles },
    ]
}

fn of_faults(record: &Record) -> [Figure; 4] {
    let measured = record.measured().count() as u64;
    let spread = |sorted: &[f64]| match (sorted.len() as u64, sorted.last()) {
        (0, _) | (_, None) => format!("of {}", units::counted(measured, "measured fault")),
        (n, Some(worst)) => {
            format!("of {}; worst {}", units::counted(n, "fault"), units::millis(*worst))
        }
    };
    let value = |median: Option<f64>| median.map_or_else(|| "none".to_owned(), units::millis);
    let drains = match record.undrained() {
        0 => spread(&record.drains_ms()),
        undrained => format!("{}; {undrained} never drained", spread(&record.drains_ms())),
    };
    let outages = record.outages().len() as u64;
    let longest = match record.longest_outage_ms() {
        0 => "none".to_owned(),
        longest => units::length(longest),
    };
    let outage = match outages {
        0 if record.samples.is_empty() => "no samples were taken".to_owned(),
        0 => format!("while there was load, every {} brought answers", units::length(WINDOW_MS)),
        _ => format!(
            "without an acknowledgement; {} in {}",
            units::length(record.unavailable_ms()),
            units::counted(outages, "stretch").replace("stretchs", "stretches")
        ),
    };
    let resolutions = spread(&record.first_resolutions_ms());
    [
        Figure { name: "Faults", value: units::count(record.faults.len() as u64), note: kinds(record) },
        Figure {
            name: "First resolution, median",
            value: value(record.median_first_resolution_ms()),
            note: resolutions,
        },
        Figure { name: "Drain, median", value: value(record.median_drain_ms()), note: drains },
        Figure { name: "Longest outage", value: longest, note: outage },
    ]
}

/// What was done how often, the most frequent first.
fn kinds(record: &Record) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for fault in &record.faults {
        *counts.entry(&fault.what).or_default() += 1;
    }
    let mut counts: Vec<(&str, usize)> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    if counts.is_empty() {
        return "nothing was done to the cluster".to_owned();
    }
    let kinds = counts.iter().map(|(what, count)| format!("{count}\u{a0}×\u{a0}{what}"));
    let killed =
        (record.totals.kills > 0).then(|| format!("processes killed: {}", units::count(record.totals.kills)));
    kinds.chain(killed).collect::<Vec<_>>().join(", ")
}

/// What would mislead a reader who does not know it.
fn notes(record: &Record) -> Vec<String> {
    let totals = &record.totals;
    let mut notes = Vec::new();
    if totals.held_back > 0 {
        let held_back = units::counted(totals.held_back, "submission");
        notes.push(format!(
            "{held_back} left out because too many transactions were under way: the loop was not open all the time, \
             and callers of an open one would have waited longer than shown."
        ));
    }
    if record.undrained() > 0 {
        let undrained = units::counted(record.undrained() as u64, "measured fault");
        notes.push(format!(
            "{undrained} left transactions in doubt that were not all resolved while the run watched; the median of \
             drains is without them."
        ));
    }
    let ends = totals.acknowledged + totals.refused + totals.unknown;
    if ends != totals.submitted || totals.confirmed + totals.canceled != totals.acknowledged {
        notes.push(format!(
            "the totals do not add up: {} submitted, but {} acknowledged ({} confirmed, {} canceled), {} refused and {} \
             unknown.",
            units::count(totals.submitted),
            units::count(totals.acknowledged),
            units::count(totals.confirmed),
            units::count(totals.canceled),
            units::count(totals.refused),
            units::count(totals.unknown),
        ));
    }
    notes
}
