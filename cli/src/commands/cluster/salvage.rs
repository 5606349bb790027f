//! `escrow cluster salvage`: a backup of a cluster that is stopped, made of the disks that are left.
//!
//! Of every group the replica whose log is furthest is taken, with all of its log: as if it had been elected. If more than half of the
//! group's members are there, that is what an election would have done, and nothing that was acknowledged is lost. If not, nobody can know
//! what the lost members had agreed on after it: the command says so, and does nothing without `--accept-loss`.
//!
//! **Invariant:** the directories keep what they have, but for what every start repairs; nothing here votes or speaks to anybody.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use escrow_cluster::{GroupId, Spec, size_of};
use escrow_coordinator::{CoordinatorError, offline as coordinator};
use escrow_participant::{ParticipantError, offline as participant};
use escrow_replica::{MemberId, Position};
use escrow_types::{ParticipantId, Partition};
use serde_json::json;

use super::tell;
use crate::backup::{self, Backup, GroupBackup, Salvaged, Target};
use crate::cluster_file::{ClusterFile, Node};
use crate::exit::{Exit, Failure};
use crate::output::Output;

/// `escrow cluster salvage`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Data directories of servers that are stopped, or that of `escrow up` with all of them
    #[arg(value_name = "DATA_DIR", required = true)]
    data_dirs: Vec<PathBuf>,
    /// Where the backup goes: an empty directory, or one that is made
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Take what is left of groups that have lost more than half of their disks, although what was acknowledged may be missing
    #[arg(long)]
    accept_loss: bool,
    /// Which servers there were, so that no group is forgotten: needed but for the directory of `escrow up`
    #[arg(long, value_name = "FILE")]
    cluster_file: Option<PathBuf>,
}

pub(super) fn run(args: &Args, output: &Output) -> Result<Exit, Failure> {
    let mut expected = BTreeSet::new();
    let mut left = Vec::new();
    let mut unusable = Vec::new();
    for dir in server_dirs(&args.data_dirs, &mut expected)? {
        tell(&format!("looking at {}", dir.display()));
        match examine(&dir)? {
            Ok(found) => left.extend(found),
            Err(why) => {
                tell(&format!("{} cannot be used: {why}", dir.display()));
                unusable.push((dir, why));
            }
        }
    }
    let mut slots = None;
    if let Some(path) = &args.cluster_file {
        let file = ClusterFile::load(path)?;
        expected.extend(file.node.iter().map(Node::group_id));
        slots = Some(file.slots);
    }
    if expected.is_empty() {
        return Err(Failure::bad_input(
            "which groups there were is not known, and none must be forgotten: give --cluster-file, or the data directory of escrow up",
        ));
    }
    let groups = judge(left, &expected)?;
    let lost: Vec<&Judged> = groups.iter().filter(|group| !group.has_majority).collect();
    if !lost.is_empty() && !args.accept_loss {
        let lines: Vec<String> = lost.iter().map(|group| format!("  {}", group.loss())).collect();
        return Err(Failure::coded(
            "ACKNOWLEDGED_MAY_BE_LOST",
            format!(
                "not more than half of the disks is there:\n{}\nBring more of them, if they exist. If not, --accept-loss takes what is left",
                lines.join("\n")
            ),
        ));
    }
    let cluster_id = groups.iter().find_map(|group| group.best.cluster_id.clone());
    let cluster_id =
        cluster_id.ok_or_else(|| Failure::bad_input("no directory says which cluster it is of"))?;
    let mut target = Target::begin(&args.to)?;
    let replicas = groups.iter().map(|group| group.members).max().unwrap_or(0);
    let mut backup = Backup::new(cluster_id, replicas as u16, slots);
    let mut all_found = Vec::with_capacity(groups.len());
    for group in &groups {
        tell(&format!("{}: taking {}", group.group, group.best.dir.display()));
        let path = target.begin_file(group.group);
        group.best.salvage(&path)?;
        let found = backup::inspect(group.group, &path)?;
        let mut written = GroupBackup::of(group.group, &path, &found)?;
        target.keep(group.group, &path)?;
        written.newest_term = group.newest_term;
        written.salvaged = Some(Salvaged {
            member: group.best.me.to_string(),
            present: group.present,
            members: group.members,
            committed: group.best.committed,
            may_lack_acknowledged: !group.has_majority,
        });
        backup.groups.push(written);
        all_found.push((group.group, found));
    }
    target.finish(&backup, &all_found)?;
    show(args, &groups, &backup, &unusable, output);
    Ok(Exit::Ok)
}

fn show(args: &Args, groups: &[Judged], backup: &Backup, unusable: &[(PathBuf, String)], output: &Output) {
    output.json(&json!({
        "dir": args.to,
        "unusable": unusable.iter().map(|(dir, why)| json!({ "data_dir": dir, "error": why })).collect::<Vec<_>>(),
        "backup": backup,
    }));
    for group in groups {
        let Judged { group: id, best, present, members, .. } = group;
        output.line(format!(
            "{id}: entry {} of replica {}, {present} of {members} members were there. {}",
            best.position.index(),
            best.me,
            if group.has_majority { "Nothing acknowledged is lost".to_owned() } else { group.loss() }
        ));
    }
    output.line(format!("salvaged to {}; next: escrow cluster restore", args.to.display()));
}

/// What one replica has.
#[derive(Debug, Clone)]
struct Left {
    dir: PathBuf,
    group: GroupId,
    me: MemberId,
    cluster_id: Option<String>,
    term: u64,
    committed: u64,
    position: Position,
}

impl Left {
    /// As elections compare logs; of two that are alike, the one that knows more of it to be agreed on.
    fn furthest(&self) -> (u64, u64, u64) {
        (self.position.term(), self.position.index(), self.committed)
    }

    fn salvage(&self, to: &Path) -> Result<(), Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::coded("NOT_SALVAGED", error.to_string());
        let position = match self.group {
            GroupId::Shard(shard) => {
                participant::salvage(&self.dir, shard.0, to).map_err(|error| failed(&error))?.position
            }
            GroupId::Coordinator(_) => {
                coordinator::salvage(&self.dir, to).map_err(|error| failed(&error))?.position
            }
        };
        if position == self.position {
            return Ok(());
        }
        Err(failed(&format!("{} was used meanwhile: stop all servers first", self.dir.display())))
    }
}

/// The data directories of single servers. Notes which groups there must be, where that is known.
fn server_dirs(given: &[PathBuf], expected: &mut BTreeSet<GroupId>) -> Result<Vec<PathBuf>, Failure> {
    let mut dirs = Vec::new();
    for dir in given {
        let Some((coordinators, participants, replicas)) = size_of(dir)? else {
            dirs.push(dir.clone());
            continue;
        };
        let spec = Spec { coordinators, participants, replicas, ..Spec::new(dir)? };
        expected.extend(spec.groups());
        // Those that are gone are what this is about.
        dirs.extend(
            spec.nodes().map(|node| spec.node_dir(node)).filter(|dir| dir.join("identity.json").exists()),
        );
    }
    Ok(dirs)
}

/// What the replicas of a directory have, or why they cannot be used. An error if a server runs there: it is not to be passed over.
fn examine(dir: &Path) -> Result<Result<Vec<Left>, String>, Failure> {
    match examine_stopped(dir) {
        Ok(left) => Ok(Ok(left)),
        Err(Unusable::InUse) => Err(Failure::coded(
            "IN_USE",
            format!("{} is in use by another process: stop all servers first", dir.display()),
        )),
        Err(Unusable::Broken(why)) => Ok(Err(why)),
    }
}

enum Unusable {
    InUse,
    Broken(String),
}

impl From<String> for Unusable {
    fn from(why: String) -> Self {
        Self::Broken(why)
    }
}

impl From<ParticipantError> for Unusable {
    fn from(error: ParticipantError) -> Self {
        match error {
            ParticipantError::InUse(_) => Self::InUse,
            error => Self::Broken(error.to_string()),
        }
    }
}

impl From<CoordinatorError> for Unusable {
    fn from(error: CoordinatorError) -> Self {
        match error {
            CoordinatorError::InUse(_) => Self::InUse,
            error => Self::Broken(error.to_string()),
        }
    }
}

fn examine_stopped(dir: &Path) -> Result<Vec<Left>, Unusable> {
    let text = fs::read_to_string(dir.join("identity.json"))
        .map_err(|error| format!("it is no data directory of a server: identity.json: {error}"))?;
    let identity: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| format!("identity.json: {error}"))?;
    let cluster_id = identity["cluster_id"].as_str().map(str::to_owned);
    match identity["kind"].as_str() {
        Some("escrow-participant") => {
            let found = participant::examine(dir)?;
            let left = |found: participant::Left| Left {
                dir: dir.to_owned(),
                group: GroupId::Shard(ParticipantId(found.shard)),
                me: found.me,
                cluster_id: cluster_id.clone(),
                term: found.term,
                committed: found.committed,
                position: found.position,
            };
            Ok(found.into_iter().map(left).collect())
        }
        Some("escrow-coordinator") => {
            let found = coordinator::examine(dir)?;
            Ok(vec![Left {
                dir: dir.to_owned(),
                group: GroupId::Coordinator(Partition(found.partition)),
                me: found.me,
                cluster_id,
                term: found.term,
                committed: found.committed,
                position: found.position,
            }])
        }
        kind => Err(Unusable::Broken(format!("it is of {}", kind.unwrap_or("nothing known")))),
    }
}

/// What is left of one group, and what that is worth.
#[derive(Debug)]
struct Judged {
    group: GroupId,
    best: Left,
    newest_term: u64,
    present: usize,
    members: usize,
    has_majority: bool,
}

impl Judged {
    fn loss(&self) -> String {
        let Self { group, best, present, members, .. } = self;
        format!(
            "{group}: {present} of {members} members: what was acknowledged after entry {} of replica {} is LOST, if there was anything. \
             (It knew that entries up to {} were agreed on; those after it were in its log, and may not have been.)",
            best.position.index(),
            best.me,
            best.committed
        )
    }
}

/// Of each group the replica whose log is furthest.
fn judge(left: Vec<Left>, expected: &BTreeSet<GroupId>) -> Result<Vec<Judged>, Failure> {
    let mut clusters: BTreeSet<String> = BTreeSet::new();
    let mut groups: BTreeMap<GroupId, Vec<Left>> = BTreeMap::new();
    for one in left {
        clusters.extend(one.cluster_id.clone());
        groups.entry(one.group).or_default().push(one);
    }
    if clusters.len() > 1 {
        let clusters: Vec<String> = clusters.into_iter().collect();
        return Err(Failure::bad_input(format!(
            "the directories are of several clusters: {}",
            clusters.join(", ")
        )));
    }
    if let Some(missing) = expected.iter().find(|group| !groups.contains_key(group)) {
        return Err(Failure::coded(
            "GROUP_LOST",
            format!("nothing is left of {missing}: a cluster cannot be made without it"),
        ));
    }
    let judged = |(group, all): (GroupId, Vec<Left>)| {
        let newest_term = all.iter().map(|one| one.term).max().unwrap_or(0);
        let there: BTreeSet<MemberId> = all.iter().map(|one| one.me).collect();
        let best =
            all.into_iter().max_by_key(Left::furthest).expect("a group is known by what is left of it");
        let voters = best.position.voters();
        let present = voters.intersection(&there).count();
        let has_majority = best.position.is_majority(&there);
        Judged { group, newest_term, present, members: voters.len(), has_majority, best }
    };
    let judged: Vec<Judged> = groups.into_iter().map(judged).collect();
    if judged.is_empty() {
        return Err(Failure::bad_input("no data directory of a replica can be used"));
    }
    Ok(judged)
}
