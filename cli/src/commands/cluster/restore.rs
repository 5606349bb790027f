//! `escrow cluster restore`: the data directories of a new cluster, made of a backup.
//!
//! Every replica gets the state of its group, a life of its own, and a log that begins after that state. The cluster has an id of its
//! own: nothing of it can talk to anything of the old one.
//!
//! **Invariant:** a backup is checked, all of it, before anything is written; a data directory that is not whole is not started.

use std::path::{Path, PathBuf};

use escrow_cluster::{GroupId, NodeId, Restoring, Spec};
use escrow_coordinator::config::Slots;
use escrow_replica::restore::Place;
use escrow_replica::{Member, MemberId};
use escrow_types::Slot;
use serde_json::json;
use uuid::Uuid;

use super::tell;
use crate::backup::{Backup, Found, GroupBackup};
use crate::cluster_file::ClusterFile;
use crate::exit::{Exit, Failure};
use crate::output::Output;

/// `escrow cluster restore`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The backup
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// The data directory of the new cluster: empty, or made
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// How many replicas each coordinator and each shard has then: 3, 5 or 7 (default: as many as it had)
    #[arg(long, value_name = "N", conflicts_with = "cluster_file")]
    replicas: Option<u16>,
    /// The servers of the new cluster: their data directories are made, by their names, to be brought to their machines
    #[arg(long, value_name = "FILE")]
    cluster_file: Option<PathBuf>,
}

pub(super) fn run(args: &Args, output: &Output) -> Result<Exit, Failure> {
    tell("checking the backup");
    let (backup, found) = Backup::load(&args.dir)?;
    let plan = match &args.cluster_file {
        Some(path) => Plan::of_file(&ClusterFile::load(path)?, &backup, &found)?,
        None => Plan::for_up(args, &backup, &found)?,
    };
    if backup.slots.is_none() {
        check_slots(&plan.slots, &found)?;
    }
    let mut restoring = Restoring::begin(&args.data_dir)?;
    for ((group, held), written) in found.iter().zip(&backup.groups) {
        let term = begins_after(*group, held, written, &found, crate::time::now_ms())?;
        let nodes: Vec<&Node> = plan.nodes.iter().filter(|node| node.group == *group).collect();
        let members: Vec<Member> = nodes.iter().map(|node| node.member.clone()).collect();
        for node in nodes {
            tell(&format!("{}: {group} as of entry {}", node.name, held.index));
            let place = Place {
                data_dir: restoring.node_dir(&node.name),
                cluster_id: plan.cluster_id.clone(),
                me: node.member.id,
                members: members.clone(),
                term,
            };
            make(*group, &args.dir.join(&written.file), &place, written.paused)?;
        }
    }
    match &plan.spec {
        Some(spec) => restoring.finish_for_up(spec, &plan.cluster_id)?,
        None => restoring.finish()?,
    }
    show(args, &plan, &backup, &found, output);
    Ok(Exit::Ok)
}

fn make(group: GroupId, snapshot: &Path, place: &Place, paused: Option<bool>) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::coded("NOT_RESTORED", format!("{}: {error}", place.data_dir.display()))
    };
    match group {
        GroupId::Shard(_) => {
            escrow_participant::offline::restore(snapshot, place).map_err(|error| failed(&error))
        }
        GroupId::Coordinator(partition) => {
            let made = escrow_coordinator::offline::restore(snapshot, partition.0, place, paused);
            made.map_err(|error| failed(&error))
        }
    }
}

/// So many terms of a coordinator are left out. The old one may have gone on after the backup, in terms that nothing in the backup knows,
/// and an external participant may have seen transactions of these: no transaction of the new one is taken for one of them.
const EPOCHS_LEFT_OUT: u64 = 1 << 20;

/// So many terms of a coordinator are left out for each minute since 2024: whatever is restored twice of one backup begins in other terms
/// each time, so that no xid of one is one of the other. They last until 2151.
const EPOCHS_A_MINUTE: u64 = 64;
const START_OF_2024_MS: u64 = 1_704_067_200_000;

/// The group begins in a newer term than this: than any that the backup knows of it. A coordinator's term is its epoch, and shards
/// refuse an epoch that is not newer than what they have seen.
fn begins_after(
    group: GroupId,
    held: &Found,
    written: &GroupBackup,
    all: &[(GroupId, Found)],
    now_ms: u64,
) -> Result<u64, Failure> {
    let newest = held.term.max(written.newest_term);
    let GroupId::Coordinator(partition) = group else { return Ok(newest) };
    let seen = all.iter().filter_map(|(_, shard)| shard.epochs.get(&partition)).map(|epoch| epoch.0).max();
    let newest = newest.max(seen.unwrap_or(0).into());
    let by_time = now_ms.saturating_sub(START_OF_2024_MS) / 60_000 * EPOCHS_A_MINUTE;
    let after = newest.saturating_add(EPOCHS_LEFT_OUT).max(by_time);
    // Epochs have 32 bits; as many are to be left for it to have.
    if after.saturating_add(EPOCHS_LEFT_OUT) > u32::MAX.into() {
        return Err(Failure::coded(
            "NOT_RESTORED",
            format!("{group}: too few terms are newer than {newest}"),
        ));
    }
    Ok(after)
}

/// Accounts are looked for where they are. Asked only where the backup does not say how they were dealt out.
fn check_slots(slots: &Slots, found: &[(GroupId, Found)]) -> Result<(), Failure> {
    let shard = |(group, held)| match group {
        &GroupId::Shard(shard) => Some((shard, held)),
        GroupId::Coordinator(_) => None,
    };
    let shards = || found.iter().map(|(group, held)| (group, held)).filter_map(shard);
    let routing = slots.routing(shards().map(|(shard, _)| shard).collect());
    let routing = routing.map_err(|error| Failure::bad_config(error.to_string()))?;
    for (shard, held) in shards() {
        let elsewhere = held.slots.iter().find(|(_, account)| routing.of(account.key()) != Some(shard));
        if let Some((Slot(slot), account)) = elsewhere {
            return Err(Failure::bad_input(format!(
                "account {account} of slot {slot} is on {}, and would be looked for on another shard: restore with --cluster-file, and \
                 the same [slots] as the cluster had that was backed up",
                GroupId::Shard(shard)
            )));
        }
    }
    Ok(())
}

/// One process of the new cluster.
struct Node {
    name: String,
    group: GroupId,
    member: Member,
}

/// What the new cluster is made of.
struct Plan {
    cluster_id: String,
    nodes: Vec<Node>,
    /// Which shard holds which accounts.
    slots: Slots,
    /// For `escrow up`.
    spec: Option<Spec>,
}

/// A member of a number that there was never before.
fn new_member(number: u32, endpoint: String) -> Member {
    let life = (Uuid::new_v4().as_u128() as u32).max(1);
    Member { id: MemberId::another(number, life), endpoint }
}

impl Plan {
    fn for_up(args: &Args, backup: &Backup, found: &[(GroupId, Found)]) -> Result<Self, Failure> {
        if backup.slots.as_ref().is_some_and(|slots| *slots != Slots::default()) {
            return Err(Failure::bad_input(
                "the cluster dealt its accounts out by [slots], which escrow up does not know: restore it with --cluster-file",
            ));
        }
        let replicas = args.replicas.unwrap_or(backup.replicas);
        if replicas == 1 {
            return Err(Failure::bad_input(
                "--replicas 1: a server without replicas keeps its log another way; take 3",
            ));
        }
        let coordinators = found.iter().filter(|(group, _)| group.is_coordinator()).count();
        let spec = Spec {
            participants: (found.len() - coordinators) as u16,
            coordinators: coordinators as u16,
            replicas,
            ..Spec::new(&args.data_dir)?
        };
        spec.check()?;
        if let Some(missing) = spec.groups().find(|group| !found.iter().any(|(other, _)| other == group)) {
            return Err(Failure::bad_input(format!(
                "{missing} is not in the backup, and escrow up numbers groups without a gap: restore it with --cluster-file"
            )));
        }
        let node = |id: NodeId| Node {
            name: id.to_string(),
            group: id.group(),
            // Where it listens is told when it starts.
            member: new_member(id.replica.into(), String::new()),
        };
        let nodes = spec.nodes().map(node).collect();
        Ok(Self {
            cluster_id: Uuid::now_v7().simple().to_string(),
            nodes,
            slots: Slots::default(),
            spec: Some(spec),
        })
    }

    fn of_file(file: &ClusterFile, backup: &Backup, found: &[(GroupId, Found)]) -> Result<Self, Failure> {
        if file.cluster_id == backup.cluster_id {
            return Err(Failure::bad_config(
                "the cluster file has the cluster_id of the cluster that was backed up: the new one needs its own, or the two could \
                 talk to each other",
            ));
        }
        if backup.slots.as_ref().is_some_and(|slots| *slots != file.slots) {
            return Err(Failure::bad_config(
                "the cluster file deals accounts out otherwise ([slots]) than the cluster that was backed up: they would not be found",
            ));
        }
        let mut nodes = Vec::new();
        for node in &file.node {
            let group = node.group_id();
            if !found.iter().any(|(other, _)| *other == group) {
                return Err(Failure::bad_config(format!("{}: {group} is not in the backup", node.name)));
            }
            let members = file.replication(node).map(|replication| replication.number);
            let number = members.ok_or_else(|| {
                Failure::bad_config(format!("{}: {group} has no replicas there, and had some", node.name))
            })?;
            let member = new_member(number, node.endpoint.clone());
            nodes.push(Node { name: node.name.clone(), group, member });
        }
        if let Some((group, _)) =
            found.iter().find(|(group, _)| !nodes.iter().any(|node| node.group == *group))
        {
            return Err(Failure::bad_config(format!("the cluster file has no server of {group}")));
        }
        Ok(Self { cluster_id: file.cluster_id.clone(), nodes, slots: file.slots.clone(), spec: None })
    }
}

fn show(args: &Args, plan: &Plan, backup: &Backup, found: &[(GroupId, Found)], output: &Output) {
    let dir = args.data_dir.display();
    output.json(&json!({
        "data_dir": args.data_dir,
        "cluster_id": plan.cluster_id,
        "restored_from": backup.cluster_id,
        "processes": plan.nodes.iter().map(|node| {
            json!({ "name": node.name, "group": node.group.to_string(), "member": node.member.id.to_string() })
        }).collect::<Vec<_>>(),
    }));
    output.line(format!(
        "cluster {} in {dir}, of the backup of cluster {}",
        plan.cluster_id, backup.cluster_id
    ));
    for (group, (_, held)) in backup.groups.iter().zip(found) {
        if group.salvaged.as_ref().is_some_and(|salvaged| salvaged.may_lack_acknowledged) {
            output.line(format!(
                "{} was salvaged, and may lack what was acknowledged in the end: run escrow verify",
                group.group
            ));
        }
        if group.paused.unwrap_or(held.is_paused) {
            output.line(format!("{} refuses new work, as it did: escrow operator resume", group.group));
        }
    }
    match &plan.spec {
        Some(Spec { coordinators, participants, replicas, .. }) => output.line(format!(
            "start it:  escrow up --data-dir {dir} --coordinators {coordinators} --participants {participants} --replicas {replicas}"
        )),
        None => output.line("bring each directory to its machine, and start the servers without --found"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    use escrow_types::{AccountId, Epoch, ParticipantId, Partition};

    fn found(term: u64, epochs: &[(u16, u32)]) -> Found {
        Found {
            index: 9,
            term,
            digest: String::new(),
            cluster_id: None,
            epochs: epochs.iter().map(|&(partition, epoch)| (Partition(partition), Epoch(epoch))).collect(),
            slots: BTreeMap::new(),
            unfinished: 0,
            is_paused: false,
        }
    }

    #[test]
    fn accounts_that_would_not_be_found_are_noticed() {
        let ids = (0..100).map(|number| AccountId::new(&format!("account-{number}")).unwrap());
        let (low, high): (BTreeMap<Slot, AccountId>, BTreeMap<Slot, AccountId>) =
            ids.map(|id| (Slot::of(id.key()), id)).partition(|(slot, _)| slot.0 < 1_000);
        let shard = |number, slots: &BTreeMap<Slot, AccountId>| {
            (GroupId::Shard(ParticipantId(number)), Found { slots: slots.clone(), ..found(1, &[]) })
        };
        let all = [(GroupId::Coordinator(Partition(0)), found(1, &[])), shard(0, &low), shard(1, &high)];
        let told = |runs: &[(&str, u16)]| {
            let runs: BTreeMap<String, u16> =
                runs.iter().map(|&(run, shard)| (run.to_owned(), shard)).collect();
            Slots::try_from(runs).unwrap()
        };
        assert!(check_slots(&told(&[("0-999", 0), ("1000-4095", 1)]), &all).is_ok());
        for wrong in [Slots::default(), told(&[("0-999", 1), ("1000-4095", 0)])] {
            let error = check_slots(&wrong, &all).unwrap_err();
            assert!(error.message.contains("would be looked for on another shard"), "{error:?}");
        }
        let error = check_slots(&told(&[("0-4095", 7)]), &all).unwrap_err();
        assert!(error.message.contains("shard 7, which is none"), "{error:?}");
    }

    #[test]
    fn a_coordinator_begins_above_every_epoch_that_a_shard_has_seen() {
        let coordinator = GroupId::Coordinator(Partition(1));
        let all = [
            (GroupId::Shard(ParticipantId(0)), found(50, &[(0, 90), (1, 7)])),
            (GroupId::Shard(ParticipantId(1)), found(2, &[(1, 8)])),
            (coordinator, found(5, &[])),
        ];
        let written = |newest_term| GroupBackup {
            group: String::new(),
            file: String::new(),
            bytes: 0,
            blake3: String::new(),
            index: 9,
            term: 5,
            newest_term,
            digest: String::new(),
            paused: None,
            salvaged: None,
        };
        let term = |group, held, newest| begins_after(group, held, &written(newest), &all, 0);
        assert_eq!(term(coordinator, &all[2].1, 6).unwrap(), 8 + EPOCHS_LEFT_OUT);
        assert_eq!(term(coordinator, &all[2].1, 60).unwrap(), 60 + EPOCHS_LEFT_OUT);
        assert_eq!(term(all[1].0, &all[1].1, 0).unwrap(), 2);
        let restored = |now_ms| begins_after(coordinator, &all[2].1, &written(6), &all, now_ms).unwrap();
        let once = START_OF_2024_MS + 1_000_000 * 60_000;
        assert_eq!(restored(once), 64_000_000);
        assert_eq!(restored(once + 600_000), 64_000_640, "restored again, it shares no term with the first");
        for newest in [u32::MAX.into(), u64::MAX, u64::from(u32::MAX) - EPOCHS_LEFT_OUT] {
            assert!(term(coordinator, &all[2].1, newest).is_err());
        }
    }
}
