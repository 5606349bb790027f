//! Two sides of runs beside each other, from the documents that `escrow bench -o json` printed.
//!
//! It must never compare silently what was measured under different settings: [`differences`] names them.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::Value;

use super::series::median;

/// Settings that may differ: they choose accounts, and how finely a run is told.
const FREE_SETTINGS: [&str; 2] = ["seed", "interval_s"];

/// One figure of both sides: the median of the runs that have it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// What it is, with its unit.
    pub figure: String,
    /// Of the first side.
    pub a: Option<Middle>,
    /// Of the second side.
    pub b: Option<Middle>,
    /// `b / a`; `None` if one is missing or the first is 0.
    pub ratio: Option<f64>,
}

/// The middle of some runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Middle {
    /// Half of them are lower.
    pub median: f64,
    /// The lowest.
    pub min: f64,
    /// The highest.
    pub max: f64,
}

/// Whether a document is one of a run.
pub fn is_run(document: &Value) -> bool {
    document["settings"].is_object()
        && document["per_second"].is_number()
        && document["latency_us"].is_object()
}

/// What is set differently in any two runs: a sentence each. Each run with the name that it is told by.
pub fn differences(runs: &[(&str, &Value)]) -> Vec<String> {
    let Some(((first_name, first), others)) = runs.split_first() else { return Vec::new() };
    let keys = |run: &Value| run["settings"].as_object().map(|settings| settings.keys().cloned().collect());
    let keys: BTreeSet<String> =
        runs.iter().filter_map(|(_, run)| keys(run)).flat_map(|keys: Vec<String>| keys).collect();
    let different = |key: &String| {
        let (name, other) = others.iter().find(|(_, run)| run["settings"][key] != first["settings"][key])?;
        let (one, other) = (&first["settings"][key], &other["settings"][key]);
        Some(format!("{key} is {one} in {first_name} and {other} in {name}"))
    };
    keys.iter().filter(|key| !FREE_SETTINGS.contains(&key.as_str())).filter_map(different).collect()
}

/// A figure: its name, and where it is in a document.
const FIGURES: [(&str, &str); 31] = [
    ("transfers/s", "/per_second"),
    ("transfers/s, steady part", "/steady/per_second"),
    ("failed", "/failed"),
    ("latency p50 µs", "/latency_us/p50"),
    ("latency p90 µs", "/latency_us/p90"),
    ("latency p99 µs", "/latency_us/p99"),
    ("latency p99.9 µs", "/latency_us/p999"),
    ("latency p99.99 µs", "/latency_us/p9999"),
    ("latency max µs", "/latency_us/max"),
    ("latency mean µs", "/latency_us/mean"),
    ("Begin durable after µs", "/breakdown/stages/0/after_us"),
    ("Try answered after µs", "/breakdown/stages/1/after_us"),
    ("decided after µs", "/breakdown/stages/2/after_us"),
    ("completed after µs", "/breakdown/stages/3/after_us"),
    ("elsewhere µs", "/breakdown/elsewhere_us"),
    ("transfers a turn", "/breakdown/transfers_per_turn"),
    ("longest silence ms", "/stall_ms"),
    ("sent/s", "/open_loop/sent_per_second"),
    ("held back", "/open_loop/held_back"),
    ("never sent", "/open_loop/not_sent"),
    ("generator late p99 µs", "/open_loop/late_us/p99"),
    ("rate ÷ raw echo", "/wire/ratios/rate_to_echo"),
    ("p50 ÷ fdatasync 200 B", "/wire/ratios/p50_to_fdatasync_200b"),
    ("raw unary echo/s, before", "/wire/before/unary_per_second"),
    ("raw unary echo/s, after", "/wire/after/unary_per_second"),
    ("raw stream echo/s, before", "/wire/before/stream_per_second"),
    ("raw stream echo/s, after", "/wire/after/stream_per_second"),
    ("raw bulk echo rows/s, before", "/wire/before/bulk_rows_per_second"),
    ("raw bulk echo rows/s, after", "/wire/after/bulk_rows_per_second"),
    ("fdatasync 200 B p50 µs, before", "/wire/before/fdatasync/0/p50_us"),
    ("fdatasync 200 B p50 µs, after", "/wire/after/fdatasync/0/p50_us"),
];

/// All figures that any run has, in an order that is always the same.
pub fn compare(a: &[Value], b: &[Value]) -> Vec<Row> {
    let fixed = FIGURES.iter().map(|&(figure, pointer)| {
        row(figure.to_owned(), a, b, |run| run.pointer(pointer).and_then(Value::as_f64))
    });
    let names: BTreeSet<&str> = a.iter().chain(b).flat_map(processes).filter_map(name_of).collect();
    let of_processes = names.into_iter().flat_map(|name| {
        let of = move |value: fn(&Value) -> Option<f64>| {
            move |run: &Value| processes(run).find(|process| name_of(process) == Some(name)).and_then(value)
        };
        [
            row(format!("{name}: CPU µs/transfer"), a, b, of(cpu)),
            row(format!("{name}: resident MiB"), a, b, of(|process| mebibytes(&process["resident_bytes"]))),
            row(format!("{name}: peak MiB"), a, b, of(|process| mebibytes(&process["peak_bytes"]))),
        ]
    });
    let all = row("all processes: CPU µs/transfer".to_owned(), a, b, |run| {
        let each: Vec<f64> = processes(run).filter_map(cpu).collect();
        (!each.is_empty()).then(|| each.iter().sum())
    });
    let rows = fixed.chain(std::iter::once(all)).chain(of_processes);
    rows.filter(|row| row.a.is_some() || row.b.is_some()).collect()
}

fn processes(run: &Value) -> impl Iterator<Item = &Value> {
    run["processes"].as_array().into_iter().flatten()
}

fn name_of(process: &Value) -> Option<&str> {
    process["name"].as_str()
}

fn cpu(process: &Value) -> Option<f64> {
    Some(process["user_us_per_transfer"].as_f64()? + process["system_us_per_transfer"].as_f64()?)
}

fn mebibytes(bytes: &Value) -> Option<f64> {
    Some(bytes.as_f64()? / f64::from(1 << 20))
}

fn row(figure: String, a: &[Value], b: &[Value], of: impl Fn(&Value) -> Option<f64>) -> Row {
    let (a, b) = (middle(a.iter().filter_map(&of)), middle(b.iter().filter_map(&of)));
    let ratio = match (a, b) {
        (Some(a), Some(b)) if a.median > 0.0 => Some(b.median / a.median),
        _ => None,
    };
    Row { figure, a, b, ratio }
}

fn middle(values: impl Iterator<Item = f64>) -> Option<Middle> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let (&min, &max) = (values.first()?, values.last()?);
    Some(Middle { median: median(&values), min, max })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn run(per_second: f64, skew: &str, seed: u64) -> Value {
        json!({
            "settings": { "skew": skew, "seed": seed },
            "per_second": per_second,
            "latency_us": { "p50": 100 },
            "steady": null,
            "processes": [
                { "name": "bench", "user_us_per_transfer": 1.0, "system_us_per_transfer": 0.5,
                  "resident_bytes": 2 << 20, "peak_bytes": 4 << 20 },
                { "name": "participant 0", "user_us_per_transfer": 2.0, "system_us_per_transfer": 0.5,
                  "resident_bytes": 2 << 20, "peak_bytes": 4 << 20 },
            ],
        })
    }

    fn figure<'a>(rows: &'a [Row], name: &str) -> &'a Row {
        rows.iter().find(|row| row.figure == name).unwrap_or_else(|| panic!("no {name}: {rows:?}"))
    }

    #[test]
    fn medians_are_compared() {
        let a = [run(100.0, "zipf", 1), run(900.0, "zipf", 2), run(200.0, "zipf", 3)];
        let b = [run(300.0, "zipf", 4), run(500.0, "zipf", 5)];
        let rows = compare(&a, &b);
        let rate = figure(&rows, "transfers/s");
        assert_eq!(rate.a, Some(Middle { median: 200.0, min: 100.0, max: 900.0 }));
        assert_eq!((rate.b.unwrap().median, rate.ratio), (400.0, Some(2.0)));
        assert!((figure(&rows, "all processes: CPU µs/transfer").a.unwrap().median - 4.0).abs() < 1e-9);
        assert!((figure(&rows, "participant 0: peak MiB").b.unwrap().median - 4.0).abs() < 1e-9);
        assert!(rows.iter().all(|row| row.figure != "transfers/s, steady part"), "nobody has it");
    }

    #[test]
    fn what_only_one_side_has_has_no_ratio() {
        let mut with = run(1.0, "zipf", 1);
        with["wire"] = json!({ "ratios": { "rate_to_echo": 0.5 } });
        let rows = compare(&[with], &[run(1.0, "zipf", 1)]);
        let echo = figure(&rows, "rate ÷ raw echo");
        assert_eq!((echo.a.unwrap().median, echo.b, echo.ratio), (0.5, None, None));
    }

    #[test]
    fn different_settings_are_named_and_seeds_are_free() {
        let (a, b, c) = (run(1.0, "zipf", 1), run(1.0, "zipf", 2), run(1.0, "hot", 2));
        assert!(differences(&[("a", &a), ("b", &b)]).is_empty());
        let told = differences(&[("a", &a), ("b", &b), ("c", &c)]);
        assert_eq!(told, ["skew is \"zipf\" in a and \"hot\" in c"]);
        let mut older = a.clone();
        older["settings"].as_object_mut().unwrap().remove("skew");
        assert_eq!(differences(&[("a", &older), ("b", &b)]).len(), 1, "a setting that one does not tell");
    }

    #[test]
    fn only_documents_of_runs_are_runs() {
        assert!(is_run(&run(1.0, "zipf", 1)));
        for other in [json!(null), json!([]), json!({ "per_second": 1.0 }), json!({ "error": {} })] {
            assert!(!is_run(&other), "{other}");
        }
    }
}
