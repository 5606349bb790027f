//! Real clusters of this binary: `up`, the client commands, crashes, stopping, the demo.

// Helpers are not functions marked #[test], which is where clippy allows it.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::io::Read as _;
use std::net::TcpStream;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::{Up, run};

fn signal(pid: &Value, signal: Signal) {
    let pid = i32::try_from(pid.as_i64().unwrap()).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

/// A connection that ends when the process does.
fn connect(endpoint: &Value) -> TcpStream {
    TcpStream::connect(endpoint.as_str().unwrap().trim_start_matches("http://")).unwrap()
}

/// Waits for the other side's end. Whether it says goodbye or is cut off does not matter.
fn wait_ended(mut connection: TcpStream) {
    let _ = connection.read_to_end(&mut Vec::new());
}

#[test]
fn a_cluster_from_its_start_to_its_stop() {
    let directory = tempfile::tempdir().unwrap();
    let mut up = Up::start(directory.path(), &[]);

    let file: Value =
        serde_json::from_slice(&fs::read(directory.path().join("cluster.json")).unwrap()).unwrap();
    assert_eq!(file, up.manifest, "cluster.json says the same");

    let opened = up.run("account open bank --currency USD --overdraft unlimited");
    assert_eq!(
        (opened.code, opened.json()["results"][0]["opened"].as_bool()),
        (Some(0), Some(true)),
        "{opened:?}"
    );
    assert_eq!(up.run("account open alice bob --currency USD").code, Some(0));
    let again = up.run("account open bank --currency USD --overdraft 1.00");
    assert_eq!(
        (again.code, again.json()["results"][0]["reason"].as_str()),
        (Some(2), Some("ACCOUNT_EXISTS"))
    );

    let moved = up.run("transfer --from bank --to alice --amount 12.34 --currency USD --id t1");
    assert_eq!((moved.code, moved.json()["state"].as_str()), (Some(0), Some("CONFIRMED")), "{moved:?}");
    assert_eq!(moved.json()["transaction_id"], "t1");
    assert!(moved.json()["reason"].is_null() && moved.json()["xid"].is_string(), "{moved:?}");
    let twice = up.run("transfer --from bank --to alice --amount 12.34 --currency USD --id t1");
    assert_eq!(twice.json(), moved.json(), "the same answer");
    let reused = up.run("transfer --from bank --to alice --amount 12.35 --currency USD --id t1");
    assert_eq!((reused.code, reused.error_code().as_str()), (Some(2), "TRANSACTION_ID_REUSED"));

    let poor = up.run("transfer --from bob --to alice --amount 1 --currency USD");
    assert_eq!(
        (poor.code, poor.json()["reason"].as_str()),
        (Some(3), Some("INSUFFICIENT_FUNDS")),
        "{poor:?}"
    );
    let unknown = up.run("transfer --from nobody --to alice --amount 1 --currency USD");
    assert_eq!(
        (unknown.code, unknown.json()["reason"].as_str()),
        (Some(3), Some("ACCOUNT_NOT_FOUND")),
        "{unknown:?}"
    );
    let same = up.run("transfer --from alice --to alice --amount 1 --currency USD");
    assert_eq!((same.code, same.error_code().as_str()), (Some(2), "SAME_ACCOUNT"));

    let alice = up.run("account show alice").json();
    assert_eq!(
        (alice["balances"][0]["posted"].as_str(), alice["balances"][0]["posted_minor"].as_i64()),
        (Some("12.34"), Some(1_234))
    );
    assert_eq!(up.run("account show nobody").error_code(), "ACCOUNT_NOT_FOUND");
    assert_eq!(up.run("account list").json()["accounts"].as_array().unwrap().len(), 3);

    assert_eq!(up.run("account freeze alice").json()["frozen"], true);
    let frozen = up.run("transfer --from alice --to bob --amount 1 --currency USD");
    assert_eq!(frozen.json()["reason"], "ACCOUNT_FROZEN", "{frozen:?}");
    assert_eq!(up.run("account unfreeze alice").json()["frozen"], false);

    let held = up.run("reserve --from alice --to bob --amount 10 --currency USD --id r1");
    assert_eq!((held.code, held.json()["state"].as_str()), (Some(0), Some("RESERVED")), "{held:?}");
    let shown = up.run("tx show r1").json();
    assert_eq!(
        (shown["phase"].as_str(), shown["two_step"].as_bool()),
        (Some("RESERVED"), Some(true)),
        "{shown}"
    );
    assert_eq!(up.run("tx list --state reserved").json()["count"], 1);
    let part = up.run("confirm r1 --amount 4 --currency USD");
    assert_eq!((part.code, part.json()["state"].as_str()), (Some(0), Some("CONFIRMED")), "{part:?}");
    assert_eq!(up.run("account show bob").json()["balances"][0]["posted"], "4.00");
    assert_eq!(up.run("cancel r1").error_code(), "ALREADY_DECIDED");
    assert_eq!(up.run("tx show never").error_code(), "TRANSACTION_NOT_FOUND");

    assert_eq!(up.run("operator pause --reason test").json()["paused"], true);
    let paused = up.run("transfer --from alice --to bob --amount 1 --currency USD");
    assert_eq!((paused.code, paused.error_code().as_str()), (Some(5), "PAUSED"));
    assert_eq!(up.run("operator resume").json()["paused"], false);

    let status = up.run("status").json();
    assert_eq!(status["coordinators"][0]["in_doubt"], 0, "{status}");
    assert_eq!(status["participants"].as_array().unwrap().len(), 2);
    assert!(status["participants"].as_array().unwrap().iter().all(|one| one["ready"] == true), "{status}");

    let verified = up.run("verify");
    assert_eq!((verified.code, verified.json()["ok"].as_bool()), (Some(0), Some(true)), "{verified:?}");

    signal(&up.child.id().into(), Signal::TERM);
    assert_eq!(up.child.wait().unwrap().code(), Some(0));
    assert!(!directory.path().join("cluster.json").exists(), "nothing runs any more");
}

#[test]
fn a_participant_that_is_killed_comes_back_with_what_it_had() {
    let directory = tempfile::tempdir().unwrap();
    let mut up = Up::start(directory.path(), &[]);
    assert_eq!(up.run("account open bank --currency USD --overdraft unlimited").code, Some(0));
    assert_eq!(up.run("account open alice bob carol dave --currency USD").code, Some(0));
    for account in ["alice", "bob", "carol", "dave"] {
        let moved = up.run(&format!("transfer --from bank --to {account} --amount 5 --currency USD"));
        assert_eq!(moved.code, Some(0), "{moved:?}");
    }
    let killed = up.participant(0)["pid"].clone();
    signal(&killed, Signal::KILL);
    up.wait_told("participant-0 started");
    let file: Value =
        serde_json::from_slice(&fs::read(directory.path().join("cluster.json")).unwrap()).unwrap();
    assert!(file["participants"][0]["pid"].is_u64() && file["participants"][0]["pid"] != killed, "{file}");
    assert_eq!(file["participants"][0]["endpoint"], up.participant(0)["endpoint"]);
    let verified = up.run("verify");
    assert_eq!(verified.code, Some(0), "{verified:?}");
    for account in ["alice", "bob", "carol", "dave"] {
        assert_eq!(up.run(&format!("account show {account}")).json()["balances"][0]["posted"], "5.00");
    }
}

#[test]
fn no_child_outlives_a_supervisor_that_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let mut up = Up::start(directory.path(), &[]);
    let connections: Vec<TcpStream> = ["coordinators", "participants"]
        .iter()
        .flat_map(|role| up.manifest[role].as_array().unwrap())
        .map(|process| connect(&process["endpoint"]))
        .collect();
    up.child.kill().unwrap();
    up.child.wait().unwrap();
    connections.into_iter().for_each(wait_ended);
    // And the directory is free again.
    drop(Up::start(directory.path(), &[]));
}

#[test]
fn a_hangup_restarts_every_process_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut up = Up::start(directory.path(), &[]);
    assert_eq!(up.run("account open bank --currency USD --overdraft unlimited").code, Some(0));
    let before = up.manifest.clone();
    signal(&up.child.id().into(), Signal::HUP);
    // Participants first: when the coordinator is there again, all are.
    for process in ["participant-0", "participant-1", "coordinator-0"] {
        up.wait_told(&format!("{process} is being restarted"));
        up.wait_told(&format!("{process} started"));
    }
    let after: Value =
        serde_json::from_slice(&fs::read(directory.path().join("cluster.json")).unwrap()).unwrap();
    for role in ["participants", "coordinators"] {
        for (old, new) in before[role].as_array().unwrap().iter().zip(after[role].as_array().unwrap()) {
            assert_eq!(old["endpoint"], new["endpoint"]);
            assert_ne!(old["pid"], new["pid"], "{role}");
        }
    }
    assert_eq!(up.run("account show bank").code, Some(0));
    signal(&up.child.id().into(), Signal::TERM);
    assert_eq!(up.child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_second_supervisor_and_another_size_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let up = Up::start(directory.path(), &[]);
    let path = directory.path().display();
    assert_eq!(run(&format!("up --data-dir {path} --base-port 0 -o json")).error_code(), "DATA_DIR_IN_USE");
    drop(up);
    let other = run(&format!("up --data-dir {path} --base-port 0 --participants 3 -o json"));
    assert_eq!((other.code, other.error_code().as_str()), (Some(2), "TOPOLOGY_MISMATCH"), "{other:?}");
}

#[test]
fn every_way_in_carries_load_and_verifies() {
    let directory = tempfile::tempdir().unwrap();
    let up = Up::start(directory.path(), &["--coordinators", "2"]);
    for mode in ["bulk", "stream", "unary"] {
        let ran = up
            .run(&format!("bench --mode {mode} --transfers 3000 --accounts 100 --in-flight 64 --skew zipf"));
        assert_eq!(ran.code, Some(0), "{mode}: {ran:?}");
        let result = ran.json();
        assert_eq!(
            (result["completed"].as_u64(), result["confirmed"].as_u64()),
            (Some(3_000), Some(3_000)),
            "{result}"
        );
        for field in ["canceled", "failed", "seconds", "per_second"] {
            assert!(result[field].is_number(), "{field}: {result}");
        }
        for field in ["p50", "p90", "p99", "p999", "max"] {
            assert!(result["latency_us"][field].is_u64(), "{field}: {result}");
        }
        assert_eq!(result["verified"], true, "{result}");
    }
}

#[test]
fn the_demo_holds() {
    let ran = run("demo --load 500ms -o json");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let story = ran.json();
    assert_eq!(story["ok"], true);
    assert!(story["steps"].as_array().unwrap().len() >= 8, "{story}");
}
