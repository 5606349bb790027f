//! `escrow bench` against a cluster: what it tells, that it ends, and that it leaves nothing behind.
//!
//! No figure is judged here: how fast a machine is fails no test.

mod support;

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{NOBODY, Up, escrow, run};

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("no number: {value}"))
}

#[test]
fn a_run_tells_what_it_did_over_time_and_beside_the_machine() {
    let directory = tempfile::tempdir().unwrap();
    let up = Up::start(&directory.path().join("data"), &[]);
    let (data, plot) = (directory.path().join("data"), directory.path().join("run.html"));
    let (data, plot_file) = (data.display(), plot.display());
    let small = "--in-flight 1000 --batch 500 --accounts 100 --no-verify";
    let wire = format!("--wire --wire-span 50ms --wire-dir {data}");
    let ran = up.run(&format!(
        "bench --transfers 5000 {small} --interval 100ms --data-dir {data} {wire} --plot {plot_file}"
    ));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let told = ran.json();
    assert_eq!(told["completed"], 5_000);
    let series = told["series"].as_array().unwrap();
    assert_eq!(series.iter().map(|point| point["answered"].as_u64().unwrap()).sum::<u64>(), 5_000);
    assert!(number(&told["stall_ms"]) > 0.0 && told["latency_curve"][0]["us"].is_u64(), "{told}");
    for round in ["before", "after"] {
        let round = &told["wire"][round];
        for echo in ["unary_per_second", "stream_per_second", "bulk_rows_per_second"] {
            assert!(number(&round[echo]) > 0.0, "{round}");
        }
        let sizes: Vec<u64> = round["fdatasync"]
            .as_array()
            .unwrap()
            .iter()
            .map(|sync| sync["bytes"].as_u64().unwrap())
            .collect();
        assert_eq!(sizes, [200, 4_096, 200_000, 1_000_000]);
    }
    assert_eq!(told["wire"]["ratios"]["echo"], "bulk");
    let names: Vec<&str> =
        told["processes"].as_array().unwrap().iter().map(|used| used["name"].as_str().unwrap()).collect();
    if cfg!(target_os = "linux") {
        assert_eq!(names, ["bench", "coordinator 0", "participant 0", "participant 1"]);
    }
    let breakdown = &told["breakdown"];
    let points: Vec<(&str, u64)> = breakdown["stages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|stage| (stage["name"].as_str().unwrap(), stage["rows"].as_u64().unwrap()))
        .collect();
    // Two branches each, and all between two shards.
    assert_eq!(points, [("begun", 5_000), ("tried", 10_000), ("decided", 10_000), ("completed", 5_000)]);
    let after = |at: usize| number(&breakdown["stages"][at]["after_us"]);
    assert!(after(0) > 0.0 && after(1) < after(2) && after(2) < after(3), "{breakdown}");
    assert!(number(&breakdown["transfers_per_turn"]) >= 1.0 && breakdown["elsewhere_us"].is_number());
    let journals = breakdown["journals"].as_array().unwrap();
    let names: Vec<&str> = journals.iter().map(|journal| journal["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["coordinator 0", "participant 0", "participant 1"]);
    for journal in journals {
        for figure in ["transfers_per_entry", "entries_per_batch", "bytes_per_transfer", "sync_mean_us"] {
            assert!(number(&journal[figure]) > 0.0, "{figure} of {journal}");
        }
    }
    let page = fs::read_to_string(&plot).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.matches("<svg").count() >= 3, "{page}");
    for fetched in ["http://", "https://", "<script", "NaN", "inf"] {
        assert!(!page.contains(fetched), "'{fetched}' is in the page");
    }

    // What was printed can be compared, by the same settings only.
    let (a, b) = (directory.path().join("a.json"), directory.path().join("b.json"));
    fs::write(&a, &ran.stdout).unwrap();
    fs::write(&b, up.run(&format!("bench --transfers 5000 {small} --seed 2")).stdout).unwrap();
    let compare = |more: &str| run(&format!("bench compare {} {}{more}", a.display(), b.display()));
    let compared = compare(" -o json");
    assert_eq!(compared.code, Some(0), "{compared:?}");
    let figures = compared.json()["figures"].as_array().unwrap().clone();
    let rate = figures.iter().find(|row| row["figure"] == "transfers/s").unwrap();
    assert!(number(&rate["ratio"]) > 0.0, "{rate}");
    fs::write(&b, up.run(&format!("bench --transfers 500 {small} --skew zipf")).stdout).unwrap();
    let refused = compare(" -o json");
    assert_eq!((refused.code, refused.error_code().as_str()), (Some(2), "DIFFERENT_SETTINGS"), "{refused:?}");
    assert!(refused.stderr.contains("skew") && refused.stderr.contains("transfers"), "{refused:?}");
    let anyway = compare(" --anyway");
    assert!(anyway.code == Some(0) && anyway.stdout.contains("different: skew"), "{anyway:?}");
}

#[test]
fn an_open_loop_sends_what_is_due_or_says_that_it_did_not() {
    let directory = tempfile::tempdir().unwrap();
    let up = Up::start(directory.path(), &[]);
    for mode in ["unary", "stream", "bulk"] {
        let ran = up.run(&format!(
            "bench --mode {mode} --rate 500 --duration 1s --in-flight 400 --accounts 100 --no-verify"
        ));
        assert_eq!(ran.code, Some(0), "{mode}: {ran:?}");
        let told = ran.json();
        let open = &told["open_loop"];
        assert_eq!(open["asked_per_second"], 500, "{mode}: {told}");
        let sent_and_not = told["completed"].as_u64().unwrap() + open["not_sent"].as_u64().unwrap();
        assert_eq!(sent_and_not, 500, "{mode}: {told}");
        assert!(
            number(&open["sent_per_second"]) <= 500.5 && open["late_us"]["p99"].is_u64(),
            "{mode}: {told}"
        );
    }
}

#[test]
fn one_hot_account_is_never_out_of_funds() {
    let directory = tempfile::tempdir().unwrap();
    let up = Up::start(directory.path(), &[]);
    for mode in ["unary", "bulk"] {
        let ran = up.run(&format!(
            "bench --mode {mode} --transfers 2000 --in-flight 100 --accounts 10 --skew hot --cross-shard 50"
        ));
        assert_eq!(ran.code, Some(0), "{mode}: {ran:?}");
        let told = ran.json();
        assert_eq!((&told["confirmed"], &told["verified"]), (&2_000.into(), &true.into()), "{mode}: {told}");
    }
}

#[test]
fn bad_input_is_told_before_anything_is_measured() {
    let directory = tempfile::tempdir().unwrap();
    let other = directory.path().join("other.json");
    fs::write(&other, "{\"per_second\":1}").unwrap();
    let other = other.display();
    for line in [
        "bench --rate 0".to_owned(),
        "bench --rate 10 --interval 1ms --duration 1h".to_owned(),
        "bench --interval 0s".to_owned(),
        "bench --wire-dir /tmp".to_owned(),
        "bench --wire --wire-dir /no/such/directory".to_owned(),
        "bench --wire --wire-span 0s".to_owned(),
        "bench --plot /no/such/directory/run.html".to_owned(),
        "bench --plot /".to_owned(),
        "bench --data-dir a --cluster-file b".to_owned(),
        "bench --data-dir /no/such/directory".to_owned(),
        "bench --cluster-file /no/such.toml".to_owned(),
        "bench --skew lukewarm".to_owned(),
        "bench --mode bulk compare a.json b.json".to_owned(),
        "bench compare".to_owned(),
        "bench compare a.json".to_owned(),
        "bench compare --a a.json".to_owned(),
        "bench compare /no/such.json /no/such.json".to_owned(),
        format!("bench compare {other} {other}"),
    ] {
        let endpoint = if line.contains("compare") { String::new() } else { format!(" --endpoint {NOBODY}") };
        let ran = run(&format!("{line}{endpoint}"));
        assert_eq!(ran.code, Some(2), "{line}: {ran:?}");
        assert!(!ran.stderr.is_empty() && !ran.stderr.contains("panicked"), "{line}: {ran:?}");
    }
}

/// Waits until something is so, which it must be within a minute.
fn until<T>(what: &str, mut is_so: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = is_so() {
            return value;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The processes that a process started, and that still run.
fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).filter(|&pid| runs(pid)).collect()
}

/// Whether it is there, and not only until its parent asks how it ended.
fn runs(pid: u32) -> bool {
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    state.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

#[cfg(target_os = "linux")]
#[test]
fn the_echo_server_ends_with_a_bench_that_is_killed() {
    let own = std::process::id();
    if !Path::new(&format!("/proc/{own}/task/{own}/children")).exists() {
        return; // A kernel that does not tell.
    }
    let directory = tempfile::tempdir().unwrap();
    let up = Up::start(directory.path(), &[]);
    let endpoint = up.endpoints();
    let words = ["bench", "--endpoint", &endpoint, "--accounts", "10", "--wire", "--wire-span", "10m"];
    let mut bench = escrow(&words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let echo = until("it starts its echo server", || children(bench.id()).first().copied());
    bench.kill().unwrap();
    bench.wait().unwrap();
    until("the echo server is gone", || (!runs(echo)).then_some(()));
}
