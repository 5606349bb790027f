//! `escrow chaos` as people run it: a short run that holds, one that does not, one that is interrupted.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use escrow_tests::escrow;
use escrow_tests::world::{binary, scratch};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

/// Nothing in these tests takes longer.
const WITHIN: Duration = Duration::from_secs(90);

fn text(path: &Path) -> &str {
    path.to_str().expect("scratch directories are plain")
}

/// What is left in a directory.
fn left(path: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(path).expect("it is there");
    entries.map(|entry| entry.expect("it can be listed").file_name().to_string_lossy().into_owned()).collect()
}

#[tokio::test]
async fn a_run_that_holds_leaves_a_report_and_nothing_else() {
    let (data, report) = (scratch(), scratch());
    let ran = escrow(&[
        "chaos",
        "run",
        "participants-killed",
        "--duration",
        "6s",
        "--rate",
        "1000",
        "--seed",
        "3",
        "--data-dir",
        text(data.path()),
        "--report",
        text(report.path()),
        "-o",
        "json",
    ])
    .await
    .exits(0);
    let summary = ran.json();
    assert_eq!((&summary["scenario"], &summary["seed"]), (&"participants-killed".into(), &3.into()));
    assert!(summary["totals"]["confirmed"].as_u64().is_some_and(|count| count > 4_000), "{summary}");
    assert_eq!(summary["totals"]["kills"], 1, "{summary}");
    let fault = &summary["faults"][0];
    assert!(fault["drained_ms"].is_number() && fault["in_doubt_at_return"].as_u64() > Some(0), "{fault}");
    let verdicts = summary["verdicts"].as_array().expect("verdicts");
    assert!(verdicts.len() > 15 && verdicts.iter().all(|verdict| verdict["ok"] == true), "{verdicts:?}");

    let dir = report.path().join("participants-killed");
    let page = std::fs::read_to_string(dir.join("report.html")).expect("there is a page");
    assert!(page.contains("participants-killed") && page.contains("kill -9"));
    let file = std::fs::read_to_string(dir.join("summary.json")).expect("there is a summary");
    let file: serde_json::Value = serde_json::from_str(&file).expect("it is JSON");
    assert!(file["samples"].as_array().is_some_and(|samples| samples.len() >= 20), "windows of the run");
    assert_eq!(left(data.path()), [""; 0], "data and logs are gone");
}

/// A failpoint that no transaction of this load comes by: the run says so, with its own exit code, and keeps everything.
#[tokio::test]
async fn a_run_that_does_not_hold_says_what_and_keeps_the_data() {
    let (data, report) = (scratch(), scratch());
    let scenario = data.path().join("unreached.toml");
    let toml = "name = 'unreached'\nsummary = 's'\nproves = 'p'\n
        [load]\ncalls_percent = 0\ntoo_much_percent = 0\n
        [[faults]]\nat = '500ms'\ntarget = 'its owner'\ndo = { failpoints = { points = ['participant::after_cancel_durable'] } }";
    std::fs::write(&scenario, toml).expect("it can be written");
    let ran = escrow(&[
        "chaos",
        "run",
        text(&scenario),
        "--duration",
        "3s",
        "--rate",
        "300",
        "--data-dir",
        text(data.path()),
        "--report",
        text(report.path()),
        "-o",
        "json",
    ])
    .await
    .exits(6);
    let summary = ran.json();
    let verdicts = summary["verdicts"].as_array().expect("verdicts");
    let failed: Vec<_> = verdicts.iter().filter(|verdict| verdict["ok"] == false).collect();
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert!(failed[0]["detail"].as_str().is_some_and(|detail| detail.contains("after_cancel_durable")));
    let kept = Path::new(summary["kept"].as_str().expect("it is told where"));
    for file in ["coordinator-0/journal", "participant-1/journal", "logs/participant-0.log"] {
        assert!(kept.join(file).exists(), "{file} is kept");
    }
}

#[tokio::test]
async fn a_run_that_is_interrupted_cleans_up() {
    let (data, report) = (scratch(), scratch());
    let mut child = Command::new(binary())
        .args(["chaos", "run", "everything-killed", "--duration", "60s", "--rate", "300", "--data-dir"])
        .args([data.path(), Path::new("--report"), report.path()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the binary can be run");
    let stderr = child.stderr.take().expect("it is piped");
    let mut lines = BufReader::new(stderr).lines();
    let under_load = async {
        while let Some(line) = lines.next_line().await.expect("it can be read") {
            if line.contains("under load") {
                return;
            }
        }
        panic!("it ended before its time");
    };
    timeout(WITHIN, under_load).await.expect("the load begins");
    let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())).expect("it runs");
    kill_process(pid, Signal::INT).expect("it can be signalled");
    let rest = async { while lines.next_line().await.expect("it can be read").is_some() {} };
    timeout(WITHIN, rest).await.expect("everything ends");
    let status = timeout(WITHIN, child.wait()).await.expect("it ends").expect("a child of ours");
    assert_eq!(status.code(), Some(1));
    assert_eq!(left(data.path()), [""; 0], "data and logs are gone");
}

#[tokio::test]
async fn what_is_no_scenario_is_bad_input() {
    let ran = escrow(&["chaos", "run", "no-such"]).await.exits(2);
    assert!(ran.stderr.contains("escrow chaos list"), "{ran:?}");
    let ran = escrow(&["chaos", "run", "participants-killed", "--duration", "1s"]).await.exits(2);
    assert!(ran.stderr.contains("--duration"), "{ran:?}");
    let listed = escrow(&["chaos", "list", "-o", "json"]).await.exits(0).json();
    assert!(listed.as_array().is_some_and(|all| all.len() >= 13), "{listed}");
}
