//! The contract of the command line: documents, exit codes, and the cluster that `up` runs. Other programs rely on it.

#![allow(clippy::unwrap_used)] // helpers of tests are tests too

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use escrow_cluster::{Manifest, NodeId};
use escrow_tests::wait::{holds, until};
use escrow_tests::world::{binary, scratch};
use escrow_tests::{Ran, World, escrow, escrow_at};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

/// Alice has 100.00 USD on one shard, bob nothing on the other; both opened by the command line itself.
async fn alice_and_bob() -> World {
    let world = World::start().await;
    let (alice, bob) = (world.account(0, "alice"), world.account(1, "bob"));
    let opened =
        escrow_at(&world, &format!("account open {alice} {bob} --currency USD")).await.exits(0).json();
    assert_eq!(opened["results"].as_array().unwrap().len(), 2);
    assert_eq!(opened["results"][0], json!({ "account_id": alice.as_str(), "opened": true, "reason": null }));
    let funded = transfer(&world, "treasury", alice.as_str(), "100.00", "").await.exits(0).json();
    assert_eq!(funded["state"], "CONFIRMED");
    world
}

async fn transfer(world: &World, from: &str, to: &str, amount: &str, more: &str) -> Ran {
    escrow_at(world, &format!("transfer --from {from} --to {to} --amount {amount} --currency USD {more}"))
        .await
}

fn names(world: &World) -> (String, String) {
    (world.account(0, "alice").to_string(), world.account(1, "bob").to_string())
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

fn has(value: &Value, wanted: &[&str]) {
    for key in wanted {
        assert!(value.get(key).is_some(), "{key} is missing in {value}");
    }
}

#[tokio::test]
async fn transfer_confirmed_is_0_canceled_is_3_and_bad_input_is_2() {
    let world = alice_and_bob().await;
    let (alice, bob) = names(&world);
    let done = transfer(&world, &alice, &bob, "12.34", "--id order-1").await.exits(0).json();
    let mut fields = keys(&done);
    fields.sort_unstable();
    assert_eq!(fields, ["position", "reason", "state", "transaction_id", "xid"]);
    assert_eq!(
        (&done["transaction_id"], &done["state"], &done["reason"]),
        (&json!("order-1"), &json!("CONFIRMED"), &Value::Null)
    );
    assert!(done["xid"].as_str().unwrap().starts_with("0-"), "{done}");
    assert_eq!(
        transfer(&world, &alice, &bob, "12.34", "--id order-1").await.exits(0).json(),
        done,
        "the same again"
    );

    let reused = transfer(&world, &alice, &bob, "12.35", "--id order-1").await.exits(2).json();
    assert_eq!(reused["error"]["code"], "TRANSACTION_ID_REUSED");
    let short = transfer(&world, &alice, &bob, "1000", "--id order-2").await.exits(3).json();
    assert_eq!((&short["state"], &short["reason"]), (&json!("CANCELED"), &json!("INSUFFICIENT_FUNDS")));
    let decided = transfer(&world, &alice, &bob, "1", "--wait decided --timeout 5s").await.exits(0).json();
    assert_eq!(decided["state"], "CONFIRMED");
}

#[tokio::test]
async fn transfer_whose_outcome_is_not_known_is_4() {
    let mut world = alice_and_bob().await;
    let (alice, bob) = names(&world);
    world.cluster.kill(NodeId::participant(1)).await.unwrap();
    let unknown = transfer(&world, &alice, &bob, "1", "--id order-1 --timeout 300ms").await;
    // Decided to cancel by then, but the dead shard has not acknowledged; or not even that is known yet.
    assert!([3, 4].contains(&unknown.code), "{unknown:?}");
    let state = unknown.json()["state"].clone();
    assert_eq!(state, if unknown.code == 4 { "PENDING" } else { "CANCELED" });
    world.restart(NodeId::participant(1)).await;
    world.settled().await;
    let later = transfer(&world, &alice, &bob, "1", "--id order-1 --timeout 300ms").await.exits(3).json();
    assert_eq!(later["reason"], "DEADLINE_EXCEEDED", "asked again with the same id");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_5() {
    let ran = escrow(&[
        "transfer",
        "--from",
        "a",
        "--to",
        "b",
        "--amount",
        "1",
        "--currency",
        "USD",
        "--endpoint",
        "http://127.0.0.1:1",
        "-o",
        "json",
    ]);
    let ran = ran.await.exits(5);
    assert_eq!(ran.json()["error"]["code"], "UNAVAILABLE");
    assert!(ran.stderr.contains("127.0.0.1:1"), "it says who: {}", ran.stderr);
}

#[tokio::test]
async fn accounts_are_opened_shown_listed_and_frozen() {
    let world = alice_and_bob().await;
    let (alice, bob) = names(&world);
    let shown = escrow_at(&world, &format!("account show {alice}")).await.exits(0).json();
    has(&shown, &["account_id", "frozen", "participant", "balances"]);
    let balance = &shown["balances"][0];
    assert_eq!(
        (&balance["currency"], &balance["posted"], &balance["posted_minor"]),
        (&json!("USD"), &json!("100.00"), &json!(10_000))
    );
    has(balance, &["reserved", "available", "incoming", "overdraft"]);
    let listed = escrow_at(&world, "account list").await.exits(0).json();
    assert_eq!((listed["accounts"].as_array().unwrap().len(), &listed["more"]), (3, &json!(false)));
    assert_eq!(escrow_at(&world, "account list --limit 2").await.exits(0).json()["more"], true);

    assert_eq!(escrow_at(&world, &format!("account freeze {alice}")).await.exits(0).json()["frozen"], true);
    let frozen = transfer(&world, &alice, &bob, "1", "").await.exits(3).json();
    assert_eq!(frozen["reason"], "ACCOUNT_FROZEN");
    assert_eq!(
        escrow_at(&world, &format!("account unfreeze {alice}")).await.exits(0).json()["frozen"],
        false
    );

    let limit =
        escrow_at(&world, "account open shop --currency EUR --overdraft 500.00").await.exits(0).json();
    assert_eq!(limit["results"][0]["opened"], true);
    let exists =
        escrow_at(&world, "account open shop --currency EUR --overdraft unlimited").await.exits(2).json();
    assert_eq!(exists["results"][0]["reason"], "ACCOUNT_EXISTS");
    let shop = escrow_at(&world, "account show shop").await.exits(0).json();
    assert_eq!(shop["balances"][0]["overdraft"], "500.00");
}

#[tokio::test]
async fn money_is_reserved_confirmed_in_part_and_canceled() {
    let world = alice_and_bob().await;
    let (alice, bob) = names(&world);
    let reserve = |id: &str| {
        format!("reserve --from {alice} --to {bob} --amount 80.00 --currency USD --id {id} --hold 1m")
    };
    let reserved = escrow_at(&world, &reserve("order-1")).await.exits(0).json();
    assert_eq!(reserved["state"], "RESERVED");
    assert!(reserved["expires_at_ms"].as_u64().unwrap() > 0);
    let confirmed = escrow_at(&world, "confirm order-1 --amount 55.00 --currency USD").await.exits(0).json();
    assert_eq!(confirmed["state"], "CONFIRMED");
    let shown = escrow_at(&world, &format!("account show {alice}")).await.json();
    assert_eq!(shown["balances"][0]["available"], "45.00");

    escrow_at(&world, &reserve("order-2")).await.exits(3);
    let small = format!(
        "reserve --debit {alice}=45 --credit {bob}=40 --credit treasury=5 --currency USD --id order-3"
    );
    escrow_at(&world, &small).await.exits(0);
    let canceled = escrow_at(&world, "cancel order-3").await.exits(0).json();
    assert_eq!((&canceled["state"], &canceled["reason"]), (&json!("CANCELED"), &json!("CANCELED_BY_CALLER")));
    let late = escrow_at(&world, "confirm order-3").await.exits(2).json();
    assert_eq!(late["error"]["code"], "ALREADY_DECIDED");
}

#[tokio::test]
async fn many_legs_are_executed() {
    let world = alice_and_bob().await;
    let (alice, bob) = names(&world);
    let words = format!(
        "execute --debit {alice}=10.00 --credit {bob}=9.50 --credit treasury=0.50 --currency USD --id fee"
    );
    assert_eq!(escrow_at(&world, &words).await.exits(0).json()["state"], "CONFIRMED");
    let unbalanced = format!("execute --debit {alice}=10.00 --credit {bob}=9.50 --currency USD");
    assert_eq!(escrow_at(&world, &unbalanced).await.exits(2).json()["error"]["code"], "LEGS_UNBALANCED");
}

#[tokio::test]
async fn transactions_are_listed_shown_retried_canceled_and_forced() {
    let mut world = alice_and_bob().await;
    let (alice, bob) = names(&world);
    transfer(&world, &alice, &bob, "1", "--id order-1").await.exits(0);
    let confirmed = escrow_at(&world, "tx list --state confirmed --limit 10").await.exits(0).json();
    has(&confirmed, &["transactions", "count", "oldest_age_ms"]);
    assert!(!confirmed["transactions"].as_array().unwrap().is_empty(), "{confirmed}");
    assert_eq!(escrow_at(&world, "tx list --in-doubt").await.exits(0).json()["count"], 0);
    escrow_at(&world, "tx show never-heard-of").await.exits(2);

    let reserve = format!("reserve --from {alice} --to {bob} --amount 10 --currency USD --id order-2");
    let xid = escrow_at(&world, &reserve).await.exits(0).json()["xid"].as_str().unwrap().to_owned();
    for name in ["order-2", &xid] {
        let shown = escrow_at(&world, &format!("tx show {name}")).await.exits(0).json();
        assert_eq!(
            (&shown["transaction_id"], &shown["xid"], &shown["phase"]),
            (&json!("order-2"), &json!(xid), &json!("RESERVED"))
        );
        assert_eq!(shown["branches"].as_array().unwrap().len(), 2);
        has(
            &shown["branches"][0],
            &["participant", "state", "legs", "attempts", "last_error", "last_attempt_ms", "next_attempt_ms"],
        );
        assert!(!shown["timeline"].as_array().unwrap().is_empty());
    }
    escrow_at(&world, "tx retry order-2").await.exits(0);
    let canceled = escrow_at(&world, "tx cancel order-2 --reason ticket-77").await.exits(0).json();
    assert_eq!(canceled["transaction_id"], "order-2");
    world.settled().await;
    escrow_at(&world, "tx cancel order-2 --reason again").await.exits(2);

    // Decided while a shard is away: an operator may look, and may force only with --yes.
    let reserve = reserve.replace("order-2", "order-3");
    escrow_at(&world, &reserve).await.exits(0);
    world.cluster.kill(NodeId::participant(1)).await.unwrap();
    escrow_at(&world, "tx force order-3 cancel --reason ticket-78").await.exits(2);
    let forced = escrow_at(&world, "tx force order-3 cancel --reason ticket-78 --yes").await.exits(0).json();
    assert_eq!(forced["transaction_id"], "order-3");
    world.restart(NodeId::participant(1)).await;
    world.settled().await;
    let shown = escrow_at(&world, "tx show order-3").await.exits(0).json();
    assert_eq!((&shown["phase"], &shown["forced"]), (&json!("CANCELED"), &json!(true)), "the mark stays");
    world.sound().await;
}

#[tokio::test]
async fn new_work_is_paused_and_resumed() {
    let world = alice_and_bob().await;
    let (alice, bob) = names(&world);
    assert_eq!(escrow_at(&world, "operator pause --reason test").await.exits(0).json()["paused"], true);
    let paused = transfer(&world, &alice, &bob, "1", "--timeout 500ms").await.exits(5).json();
    assert_eq!(paused["error"]["code"], "PAUSED");
    assert_eq!(escrow_at(&world, "operator resume --reason done").await.exits(0).json()["paused"], false);
    transfer(&world, &alice, &bob, "1", "").await.exits(0);
}

#[tokio::test]
async fn status_and_verify_tell_what_there_is() {
    let world = alice_and_bob().await;
    let status = escrow_at(&world, "status").await.exits(0).json();
    has(
        &status["coordinators"][0],
        &["role", "endpoint", "partition", "epoch", "pid", "in_doubt", "oldest_in_doubt_age_ms", "log"],
    );
    has(
        &status["coordinators"][0]["log"],
        &["appended", "written", "durable", "applied", "checkpointed", "trimmed"],
    );
    assert_eq!(status["participants"].as_array().unwrap().len(), 2);
    assert_eq!(status["participants"][1]["ready"], true);
    let verified = escrow_at(&world, "verify").await.exits(0).json();
    assert_eq!((&verified["ok"], &verified["result"]), (&json!(true), &json!("ok")));
    for check in verified["checks"].as_array().unwrap() {
        has(check, &["subject", "check", "result", "detail"]);
    }
}

#[tokio::test]
async fn people_get_tables() {
    let world = alice_and_bob().await;
    let endpoint = world.endpoint();
    for (words, expected) in [
        (vec!["account", "list"], "PARTICIPANT"),
        (vec!["status"], "COORDINATOR"),
        (vec!["tx", "list"], "none"),
        (vec!["verify"], "all checks hold"),
    ] {
        let ran = escrow(&[words.as_slice(), &["--endpoint", &endpoint]].concat()).await.exits(0);
        assert!(ran.stdout.contains(expected), "{ran:?}");
    }
}

#[tokio::test]
async fn bench_tells_its_figures_in_each_mode() {
    let world = World::start().await;
    for mode in ["unary", "stream", "bulk"] {
        let words =
            format!("bench --mode {mode} --transfers 500 --in-flight 50 --accounts 100 --cross-shard 50");
        let figures = escrow_at(&world, &words).await.exits(0).json();
        has(&figures, &["completed", "confirmed", "canceled", "failed", "seconds", "per_second", "verified"]);
        assert_eq!(
            (&figures["completed"], &figures["failed"], &figures["verified"]),
            (&json!(500), &json!(0), &json!(true))
        );
        has(&figures["latency_us"], &["p50", "p90", "p99", "p999", "max"]);
    }
}

#[tokio::test]
async fn completions_are_printed_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = escrow(&["completions", shell]).await.exits(0);
        assert!(ran.stdout.contains("escrow") && ran.stdout.contains("transfer"), "{shell}");
    }
}

#[tokio::test]
async fn every_command_has_help() {
    for command in [
        "",
        "up",
        "demo",
        "coordinator",
        "participant",
        "account",
        "transfer",
        "tx",
        "status",
        "verify",
        "bench",
    ] {
        let words: Vec<&str> = command.split_whitespace().chain(["--help"]).collect();
        let ran = escrow(&words).await.exits(0);
        assert!(ran.stdout.contains("Usage"), "{command}");
    }
    assert!(escrow(&["transfer", "--help"]).await.stdout.contains("Examples"));
}

#[tokio::test]
async fn the_demo_shows_everything_and_exits_0() {
    let ran = escrow(&["demo"]).await.exits(0);
    for word in ["CONFIRMED", "INSUFFICIENT_FUNDS", "in doubt"] {
        assert!(ran.stdout.contains(word), "'{word}' is missing: {}", ran.stdout);
    }
}

/// `escrow up` in a directory of its own, as a person starts it. Killed when dropped; its children follow it.
struct Up {
    child: Child,
    dir: tempfile::TempDir,
}

impl Up {
    async fn start(more: &[&str]) -> Self {
        let dir = scratch();
        let child = Command::new(binary())
            .args(["up", "--base-port", "0", "--data-dir"])
            .arg(dir.path())
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("the binary can be run");
        let up = Self { child, dir };
        until("the cluster is up", Duration::from_secs(60), async || {
            up.manifest().ok_or("no cluster.json yet")
        })
        .await;
        up
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn manifest(&self) -> Option<Manifest> {
        Manifest::read(self.path()).expect("readers see the old file or the new one")
    }

    fn pids(&self) -> Vec<u32> {
        let manifest = self.manifest().expect("it is up");
        manifest.coordinators.iter().chain(&manifest.participants).filter_map(|entry| entry.pid).collect()
    }

    fn signal(pid: u32, signal: Signal) {
        let pid = Pid::from_raw(pid.cast_signed()).expect("a pid");
        kill_process(pid, signal).expect("it runs");
    }

    async fn verify(&self) {
        let endpoint = self.manifest().expect("it is up").coordinators[0].endpoint.clone();
        until("the cluster verifies", Duration::from_secs(30), async || {
            let ran = escrow(&["verify", "--endpoint", &endpoint]).await;
            holds(ran.code == 0, ran)
        })
        .await;
    }
}

fn runs(pid: u32) -> bool {
    Pid::from_raw(pid.cast_signed()).is_some_and(|pid| test_kill_process(pid).is_ok())
}

async fn all_gone(pids: &[u32]) {
    until("every process is gone", Duration::from_secs(15), async || {
        let left: Vec<&u32> = pids.iter().filter(|pid| runs(**pid)).collect();
        holds(left.is_empty(), left)
    })
    .await;
}

#[tokio::test]
async fn up_starts_a_killed_child_again_and_says_so_in_cluster_json() {
    let up = Up::start(&["--participants", "3"]).await;
    let before = up.manifest().unwrap();
    assert_eq!((before.coordinators.len(), before.participants.len()), (1, 3));
    assert_eq!(up.pids().len(), 4);
    for entry in [&before.participants[1], &before.coordinators[0]] {
        let (old, endpoint) = (entry.pid.unwrap(), entry.endpoint.clone());
        Up::signal(old, Signal::KILL);
        let find = |manifest: &Manifest| {
            let all = manifest.coordinators.iter().chain(&manifest.participants);
            all.clone().find(|entry| entry.endpoint == endpoint).and_then(|entry| entry.pid)
        };
        until("it has a new pid", Duration::from_secs(20), async || {
            let now = up.manifest().and_then(|manifest| find(&manifest));
            holds(now.is_some_and(|now| now != old), now)
        })
        .await;
    }
    up.verify().await;
}

#[tokio::test]
async fn up_stops_everything_when_asked_to() {
    for signal in [Signal::INT, Signal::TERM] {
        let mut up = Up::start(&[]).await;
        let pids = up.pids();
        Up::signal(up.child.id().unwrap(), signal);
        let status =
            tokio::time::timeout(Duration::from_secs(30), up.child.wait()).await.expect("it ends").unwrap();
        assert!(status.success(), "{status}");
        assert_eq!(up.manifest(), None, "cluster.json is gone");
        all_gone(&pids).await;
    }
}

#[tokio::test]
async fn no_child_outlives_a_killed_up() {
    let mut up = Up::start(&[]).await;
    let pids = up.pids();
    up.child.kill().await.unwrap();
    all_gone(&pids).await;
}

#[tokio::test]
async fn up_keeps_its_data() {
    let mut up = Up::start(&[]).await;
    let endpoint = up.manifest().unwrap().coordinators[0].endpoint.clone();
    escrow(&["account", "open", "alice", "--currency", "USD", "--endpoint", &endpoint]).await.exits(0);
    Up::signal(up.child.id().unwrap(), Signal::TERM);
    up.child.wait().await.unwrap();

    let dir = up.path().to_str().unwrap().to_owned();
    let other =
        escrow(&["up", "--participants", "3", "--base-port", "0", "--data-dir", &dir, "-o", "json"]).await;
    assert_eq!(
        other.exits(2).json()["error"]["code"],
        "TOPOLOGY_MISMATCH",
        "accounts are dealt out over the shards"
    );
    let child = Command::new(binary())
        .args(["up", "--base-port", "0", "--data-dir", &dir])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    up.child = child;
    until("the cluster is up again", Duration::from_secs(60), async || {
        up.manifest().ok_or("no cluster.json yet")
    })
    .await;
    let endpoint = up.manifest().unwrap().coordinators[0].endpoint.clone();
    escrow(&["account", "show", "alice", "--endpoint", &endpoint]).await.exits(0);
    up.verify().await;
}
