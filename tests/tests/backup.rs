//! Backups of clusters of replicas: made under load, restored beside the old cluster, and salvaged from the disks that are left.

use std::path::{Path, PathBuf};
use std::time::Duration;

use escrow_client::{Leg, Outcome, State, Transfer};
use escrow_proto::v1::replica::Role;
use escrow_tests::command::start;
use escrow_tests::wait::{holds, until};
use escrow_tests::world::{USD, group, scratch, transfer, tx};
use escrow_tests::{Ran, World, escrow};
use escrow_types::AccountId;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;

const FUNDS: u64 = 1_000_000;
const CALLERS: u64 = 4;

async fn world() -> (World, AccountId, AccountId) {
    World::replicated(FUNDS).await
}

/// Runs `escrow cluster VERB` with JSON as its output.
async fn cluster(words: &[&str]) -> Ran {
    let words: Vec<&str> = ["cluster"].iter().chain(words).chain(&["-o", "json"]).copied().collect();
    escrow(&words).await
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are text")
}

async fn backup(world: &World, to: &Path, more: &[&str]) -> Ran {
    let words = [&["backup", text(to), "--data-dir", text(world.data_dir())], more].concat();
    cluster(&words).await
}

/// A cluster that is restored from a backup, on other ports, beside whatever runs.
async fn restored(from: &Path) -> World {
    let dir = scratch();
    let ran = cluster(&["restore", text(from), "--data-dir", text(dir.path())]).await.exits(0);
    let new = ran.json();
    assert_ne!(new["cluster_id"], new["restored_from"]);
    World::over(dir, |spec| spec.replicas = 3).await
}

/// Callers that make transfers of 1 to and fro, one after the other, until they are stopped or their cluster is.
struct Load {
    stop: watch::Sender<bool>,
    callers: Vec<JoinHandle<Vec<(Transfer, Outcome)>>>,
    made: watch::Receiver<u64>,
}

impl Load {
    fn start(world: &World, alice: &AccountId, bob: &AccountId) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (tell, made) = watch::channel(0);
        let caller = |number: u64| {
            let (client, stopped, tell) = (world.client.clone(), stopped.clone(), tell.clone());
            let (mut from, mut to) = (alice.clone(), bob.clone());
            // One against the others: balances of different moments differ.
            if number == 0 {
                std::mem::swap(&mut from, &mut to);
            }
            tokio::spawn(async move {
                let mut answered = Vec::new();
                while !*stopped.borrow() {
                    let transfer = transfer(&from, &to, 1).with_timeout(Duration::from_secs(30));
                    // Without an answer its cluster has been killed.
                    let Ok(outcome) = client.transfer(&transfer).await else { break };
                    assert_eq!(outcome.state, State::Confirmed, "{outcome:?}");
                    answered.push((transfer, outcome));
                    tell.send_modify(|made| *made += 1);
                }
                answered
            })
        };
        Self { callers: (0..CALLERS).map(caller).collect(), stop, made }
    }

    /// Waits for so many more.
    async fn go_on(&mut self, more: u64) {
        let goal = *self.made.borrow() + more;
        let made =
            tokio::time::timeout(Duration::from_secs(60), self.made.wait_for(|made| *made >= goal)).await;
        made.expect("the load goes on").expect("callers live");
    }

    async fn end(self) -> Vec<(Transfer, Outcome)> {
        self.stop.send_replace(true);
        let mut answered = Vec::new();
        for caller in self.callers {
            answered.extend(caller.await.expect("no transfer fails"));
        }
        answered
    }
}

/// What is posted after the transfers that a cluster knows; checks that it gives to these the answer that it gave before.
async fn check_known(world: &World, answered: &[(Transfer, Outcome)], alice: &AccountId) -> (i64, Vec<bool>) {
    let (mut posted, mut known) = (FUNDS.cast_signed(), Vec::new());
    for (transfer, outcome) in answered {
        let record = world.client.get_transaction(&outcome.transaction_id).await.expect("an answer");
        let is_known = record.outcome.state != State::NotFound;
        known.push(is_known);
        if is_known {
            assert_eq!(
                (record.outcome.state, record.outcome.xid),
                (outcome.state, outcome.xid),
                "{outcome:?}"
            );
            posted += if transfer.from == *alice { -1 } else { 1 };
        }
    }
    (posted, known)
}

async fn is_paused(world: &World) -> bool {
    world.status().await.coordinator.expect("it is there").paused
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).expect("it is there");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths
}

#[tokio::test]
async fn a_backup_under_load_is_of_one_moment_and_makes_a_cluster_that_goes_on() {
    let (mut old, alice, bob) = world().await;
    let mut load = Load::start(&old, &alice, &bob);
    load.go_on(50).await;
    let before = *load.made.borrow();
    let dir = scratch();
    // A replica that answers nobody delays the snapshot of its shard: the others are made seconds earlier.
    let hanging = old.followers(group("shard-1")).await[0];
    old.cluster.freeze(hanging);
    let ran = backup(&old, dir.path(), &[]).await.exits(0);
    old.cluster.thaw(hanging);
    load.go_on(50).await;
    let answered = load.end().await;
    let made = ran.json();
    assert_eq!(made["backup"]["groups"].as_array().map(Vec::len), Some(3), "{made}");
    assert_eq!(made["backup"]["groups"][0]["paused"], false);
    let names = ["backup.json", "coordinator-0.snapshot", "shard-0.snapshot", "shard-1.snapshot"];
    assert_eq!(files(dir.path()), names.map(|name| dir.path().join(name)));
    let old_id = made["backup"]["cluster_id"].clone();
    assert!(!is_paused(&old).await);
    old.settled().await;
    assert_eq!(old.posted(&alice).await, check_known(&old, &answered, &alice).await.0);
    old.sound().await;

    let mut new = restored(dir.path()).await;
    assert!(!is_paused(&new).await);
    new.settled().await;
    // Of one moment: what its coordinator knows is what its shards have, neither more nor less.
    let (posted, known) = check_known(&new, &answered, &alice).await;
    assert_eq!(new.posted(&alice).await, posted);
    assert_eq!(new.posted(&alice).await + new.posted(&bob).await, 2 * FUNDS.cast_signed());
    let count = known.iter().filter(|known| **known).count() as u64;
    assert!(count >= before && count < answered.len() as u64, "{before} {count} {}", answered.len());
    new.sound().await;
    // Asked again, a transfer of before is not made again.
    let (transfer, outcome) = &answered[known.iter().position(|known| *known).expect("one is known")];
    let again = new.client.transfer(transfer).await.expect("an answer");
    assert_eq!((again.xid, again.state), (outcome.xid, outcome.state));
    assert_eq!(new.posted(&alice).await, posted);
    assert_eq!(new.transfer(&alice, &bob, 5).await.state, State::Confirmed);
    assert_eq!(new.posted(&alice).await, posted - 5);

    // A replica that is empty gets what was restored, too.
    for name in ["shard-0", "coordinator-0"] {
        let node = new.followers(group(name)).await[0];
        new.cluster.kill(node).await.expect("it is killed");
        std::fs::remove_dir_all(new.cluster.spec().node_dir(node)).expect("its data can be removed");
        new.restart(node).await;
    }
    new.whole().await;
    new.cluster.rolling_restart(|_| ()).await.expect("every process comes back");
    assert_eq!(new.transfer(&alice, &bob, 1).await.state, State::Confirmed);
    assert_eq!(new.posted(&alice).await, posted - 6);
    new.whole().await;
    new.sound().await;
    // It can be backed up like any other.
    let again = scratch();
    let made = backup(&new, again.path(), &[]).await.exits(0).json();
    assert_ne!(made["backup"]["cluster_id"], old_id);
    // The old one has heard nothing of it.
    assert_eq!(old.transfer(&alice, &bob, 1).await.state, State::Confirmed);
    old.whole().await;
    for node in old.nodes() {
        old.cluster.kill(node).await.expect("it is killed");
    }
}

/// Leaves what a backup is not made of, and what a cluster is not restored from.
#[tokio::test]
async fn what_cannot_be_backed_up_or_restored_is_refused_and_leaves_nothing() {
    let (mut world, alice, bob) = world().await;
    let dir = scratch();

    // Somebody's reservation holds it up.
    let booking = tx("booking-7");
    let legs = [Leg::debit(alice.clone(), 1, USD), Leg::credit(bob.clone(), 1, USD)];
    let reserved = world.client.reserve(Some(&booking), &legs, Some(Duration::from_secs(600))).await;
    assert_eq!(reserved.expect("an answer").outcome.state, State::Reserved);
    let ran = backup(&world, dir.path(), &["--drain-timeout", "500ms"]).await.exits(1);
    let error = &ran.json()["error"];
    assert_eq!(error["code"], "NOT_DRAINED");
    let message = error["message"].as_str().expect("a text");
    assert!(message.contains("escrow confirm booking-7, or escrow cancel booking-7"), "{message}");
    assert!(!is_paused(&world).await, "new work is let in again");
    assert_eq!(files(dir.path()), Vec::<PathBuf>::new());

    // Ctrl-C does not leave it paused either.
    interrupted(&world, dir.path()).await;
    assert!(!is_paused(&world).await);
    assert_eq!(files(dir.path()), Vec::<PathBuf>::new());
    world.client.cancel(booking.as_str(), escrow_client::Wait::Completed).await.expect("it is canceled");

    // A cluster that an operator has paused stays so, and so does what is made of it.
    world.client.set_paused(0, true, "for the night").await.expect("it is paused");
    let ran = backup(&world, dir.path(), &[]).await.exits(1);
    assert_eq!(ran.json()["error"]["code"], "ALREADY_PAUSED", "another backup may be under way: {ran:?}");
    backup(&world, dir.path(), &["--stay-paused"]).await.exits(0);
    assert!(is_paused(&world).await);
    let ran = backup(&world, dir.path(), &["--stay-paused"]).await.exits(2);
    assert!(ran.stderr.contains("is not empty"), "{ran:?}");
    refuse_to_restore(dir.path()).await;
    world.client.set_paused(0, false, "morning").await.expect("it is resumed");
    without_a_leader(&mut world).await;
    let new = restored(dir.path()).await;
    assert!(is_paused(&new).await);
    new.client.set_paused(0, false, "morning").await.expect("it is resumed");
    assert_eq!(new.transfer(&alice, &bob, 1).await.state, State::Confirmed);
}

/// For a group that cannot be backed up nothing is paused.
async fn without_a_leader(world: &mut World) {
    let lost: Vec<_> = world.cluster.spec().replicas_of(group("shard-1")).take(2).collect();
    for node in lost {
        world.cluster.kill(node).await.expect("it is killed");
    }
    let left = world.cluster.spec().replicas_of(group("shard-1")).last().expect("three");
    until("the one that is left does not lead", Duration::from_secs(30), async || {
        let role = world.replica(left).await.map(|replica| replica.role());
        holds(role.as_ref().is_ok_and(|role| *role != Role::Leader), format!("{role:?}"))
    })
    .await;
    let dir = scratch();
    let ran = backup(world, dir.path(), &[]).await.exits(5);
    assert!(ran.stderr.contains("shard-1 has no leader"), "{ran:?}");
    assert!(!ran.stderr.contains("pausing"), "{ran:?}");
    assert!(!is_paused(world).await);
    assert_eq!(files(dir.path()), Vec::<PathBuf>::new());
}

/// A backup that is waiting for a transaction is ended by SIGINT.
async fn interrupted(world: &World, dir: &Path) {
    let running = start(&["cluster", "backup", text(dir), "--data-dir", text(world.data_dir())]);
    until("the cluster is paused", Duration::from_secs(30), async || {
        holds(is_paused(world).await, "not yet")
    })
    .await;
    rustix::process::kill_process(running.pid(), rustix::process::Signal::INT).expect("it can be signalled");
    let ran = running.ends_within(Duration::from_secs(60)).await.exits(1);
    assert!(ran.stderr.contains("broken off"), "{ran:?}");
}

async fn refuse_to_restore(backup: &Path) {
    let new = scratch();
    let target = new.path().join("new");
    let restore = async |from: &Path, more: &[&str]| {
        let words = [&["restore", text(from), "--data-dir", text(&target)], more].concat();
        let ran = cluster(&words).await;
        let made = if target.exists() { files(&target) } else { Vec::new() };
        assert_eq!(made, Vec::<PathBuf>::new(), "nothing is made: {ran:?}");
        (ran.code, ran.json()["error"]["message"].as_str().expect("a text").to_owned())
    };
    let copy = |damage: &dyn Fn(&Path)| -> TempDir {
        let dir = scratch();
        for file in files(backup) {
            std::fs::copy(&file, dir.path().join(file.file_name().expect("a name")))
                .expect("it can be copied");
        }
        damage(dir.path());
        dir
    };
    let flip = |name: &'static str| {
        copy(&move |dir| {
            let mut bytes = std::fs::read(dir.join(name)).expect("it is there");
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(dir.join(name), bytes).expect("it can be written");
        })
    };
    for (dir, code, part) in [
        (flip("shard-1.snapshot"), 1, "its checksum is wrong"),
        (flip("coordinator-0.snapshot"), 1, "its checksum is wrong"),
        (
            copy(&|dir| std::fs::remove_file(dir.join("shard-0.snapshot")).expect("removed")),
            1,
            "shard-0.snapshot",
        ),
        (
            copy(&|dir| std::fs::remove_file(dir.join("backup.json")).expect("removed")),
            2,
            "no backup that was finished",
        ),
        (
            copy(&|dir| {
                let swapped = dir.join("x");
                let [one, other] = ["shard-0.snapshot", "shard-1.snapshot"].map(|name| dir.join(name));
                std::fs::rename(&one, &swapped).expect("renamed");
                std::fs::rename(&other, &one).expect("renamed");
                std::fs::rename(&swapped, &other).expect("renamed");
            }),
            1,
            "shard-",
        ),
    ] {
        let (found, message) = restore(dir.path(), &[]).await;
        assert!(found == code && message.contains(part), "{found}: {message}");
    }
    let (code, message) = restore(backup, &["--replicas", "4"]).await;
    assert!(code == 2 && message.contains("more than half"), "{message}");
    let (code, message) = restore(backup, &["--replicas", "1"]).await;
    assert!(code == 2 && message.contains("take 3"), "{message}");
    // Of several machines, told by a cluster file.
    let cluster_file = new.path().join("cluster.toml");
    let with_file = ["--cluster-file", text(&cluster_file)];
    let hosts = ["--replicas", "3", "--host", "a", "--host", "b", "--host", "c"];
    let old_id = std::fs::read(backup.join("backup.json")).expect("it is there");
    let old_id: serde_json::Value = serde_json::from_slice(&old_id).expect("JSON");
    let old_id = old_id["cluster_id"].as_str().expect("an id");
    for (shards, cluster_id, slots, part) in [
        ("3", None, "", "shard-2 is not in the backup"),
        ("1", None, "", "the cluster file has no server of shard-1"),
        ("2", Some(old_id), "", "the new one needs its own"),
        ("2", None, "[slots]\n\"0-2047\" = 1\n\"2048-4095\" = 0\n", "would be looked for on another shard"),
    ] {
        let words = [&["cluster", "init", "--shards", shards, "--coordinators", "1"], &hosts[..]].concat();
        let mut file = escrow(&words).await.exits(0).stdout;
        if let Some(id) = cluster_id {
            let line =
                file.lines().find(|line| line.starts_with("cluster_id")).expect("it has one").to_owned();
            file = file.replace(&line, &format!("cluster_id = \"{id}\""));
        }
        std::fs::write(&cluster_file, file + slots).expect("it can be written");
        let (code, message) = restore(backup, &with_file).await;
        assert!(code == 2 && message.contains(part), "{code}: {message}");
    }
    let words = ["restore", text(backup), "--data-dir", text(backup)];
    let ran = cluster(&words).await.exits(2);
    assert!(ran.stderr.contains("is not empty"), "{ran:?}");
}

#[tokio::test]
async fn a_group_that_lost_its_majority_is_salvaged_with_the_loss_accepted() {
    let (mut old, alice, bob) = world().await;
    let mut load = Load::start(&old, &alice, &bob);
    load.go_on(50).await;
    let answered = load.end().await;
    old.settled().await;
    // The survivor has everything, although it may not know that it does.
    old.whole().await;
    let dir = scratch();
    let data_dir = old.data_dir().to_owned();
    let words = ["salvage", text(&data_dir), "--to", text(dir.path())];
    let ran = cluster(&words).await.exits(1);
    assert_eq!(ran.json()["error"]["code"], "IN_USE", "{ran:?}");
    for node in old.nodes() {
        old.cluster.kill(node).await.expect("it is killed");
    }
    let dead: Vec<_> = old.cluster.spec().replicas_of(group("shard-1")).take(2).collect();
    for node in dead {
        std::fs::remove_dir_all(old.cluster.spec().node_dir(node)).expect("its data can be removed");
    }
    let one = old.cluster.spec().replicas_of(group("shard-0")).next().expect("three");
    let one = old.cluster.spec().node_dir(one);
    let ran = cluster(&["salvage", text(&one), "--to", text(dir.path()), "--accept-loss"]).await.exits(2);
    assert!(ran.stderr.contains("none must be forgotten"), "{ran:?}");
    let ran = cluster(&words).await.exits(1);
    let error = &ran.json()["error"];
    assert_eq!(error["code"], "ACKNOWLEDGED_MAY_BE_LOST", "{error}");
    assert!(
        error["message"].as_str().is_some_and(|text| text.contains("shard-1: 1 of 3 members")),
        "{error}"
    );
    assert_eq!(files(dir.path()), Vec::<PathBuf>::new());
    let made = cluster(&[&words[..], &["--accept-loss"]].concat()).await.exits(0).json();
    let lossy = |group: &serde_json::Value| group["salvaged"]["may_lack_acknowledged"] == true;
    let groups = made["backup"]["groups"].as_array().expect("groups");
    let names: Vec<&str> =
        groups.iter().filter(|group| lossy(group)).filter_map(|group| group["group"].as_str()).collect();
    assert_eq!(names, ["shard-1"]);

    let new = restored(dir.path()).await;
    new.settled().await;
    let (posted, known) = check_known(&new, &answered, &alice).await;
    assert!(known.iter().all(|known| *known), "everything was there: {known:?}");
    assert_eq!(new.posted(&alice).await, posted);
    new.sound().await;
    assert_eq!(new.transfer(&alice, &bob, 1).await.state, State::Confirmed);
    new.whole().await;

    // Of a shard that has nothing left, nothing is made.
    for node in old.cluster.spec().replicas_of(group("shard-1")) {
        let dir = old.cluster.spec().node_dir(node);
        if dir.exists() {
            std::fs::remove_dir_all(dir).expect("its data can be removed");
        }
    }
    let none = scratch();
    let ran = cluster(&["salvage", text(old.data_dir()), "--to", text(none.path()), "--accept-loss"])
        .await
        .exits(1);
    assert!(ran.stderr.contains("nothing is left of shard-1"), "{ran:?}");
}

#[tokio::test]
async fn with_more_than_half_of_the_disks_of_each_group_nothing_acknowledged_is_lost() {
    let (mut old, alice, bob) = world().await;
    let mut load = Load::start(&old, &alice, &bob);
    load.go_on(100).await;
    // In the middle of it, all at once; then one disk of each group is gone.
    for node in old.nodes() {
        old.cluster.kill(node).await.expect("it is killed");
    }
    let answered = load.end().await;
    for group in old.cluster.spec().groups() {
        let node = old.cluster.spec().replicas_of(group).next().expect("three");
        std::fs::remove_dir_all(old.cluster.spec().node_dir(node)).expect("its data can be removed");
    }
    let dir = scratch();
    cluster(&["salvage", text(old.data_dir()), "--to", text(dir.path())]).await.exits(0);
    let new = restored(dir.path()).await;
    new.settled().await;
    let (_, known) = check_known(&new, &answered, &alice).await;
    assert!(known.iter().all(|known| *known), "what was acknowledged is there: {known:?}");
    assert_eq!(new.posted(&alice).await + new.posted(&bob).await, 2 * FUNDS.cast_signed());
    new.sound().await;
}
