//! `escrow cluster`: the replicas of every partition and shard, and changes of who they are.
//!
//! - `survey`: which processes there are, and what they say
//! - `status`: that as a table and as a document
//! - `change`: what the leader of a group is asked to do
//! - `init`: a cluster file for several machines
//! - `backup`, `restore`: all groups of one moment, and a new cluster of that; `salvage`: the same of disks that are left

mod backup;
mod change;
mod init;
mod restore;
mod salvage;
mod status;
mod survey;

use std::io::Write as _;
use std::time::Duration;

use clap::Subcommand;
use escrow_cluster::groups::parse_group;
use escrow_proto::v1::Member;
use escrow_proto::v1::change_group_request::{Change, Replace};
use escrow_replica::{GroupId, MemberId};

use self::survey::Processes;
use crate::config::parse_numbered_url;
use crate::exit::{Exit, Failure, with_exit_codes};
use crate::output::{Output, printable};
use crate::time::parse_duration;

/// What is done about the replicas of a cluster.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show every group: its members, who leads, and how far each is
    #[command(after_help = with_exit_codes!("Examples:
  escrow cluster status
  escrow cluster status --data-dir ./escrow-data
  escrow cluster status --endpoint http://10.0.0.1:7400+http://10.0.0.2:7400+http://10.0.0.3:7400
  escrow cluster status --process http://10.0.0.1:7410 -o json | jq '.groups[] | select(.leader == null)'

LAST to PURGED are places in the log of the group, each as that member knows it: the newest entry, what a
majority has, what its state includes, its checkpoint, and what its log does not hold any more. LAG is
how many entries the leader has that the member is not known to have; SILENT since when the leader has
heard nothing of it."))]
    Status {
        #[command(flatten)]
        processes: Processes,
    },
    /// Add a replica to a group: it catches up, then it votes
    #[command(after_help = with_exit_codes!("Examples:
  escrow cluster add --group shard-0 --member 4=http://10.0.0.4:7410
  escrow cluster add --group coordinator-0 --member 4=http://10.0.0.4:7400 --within 1h

Start the new process first, with --replica-number 4, --replica for every member and itself, and without
--found. Asking again for what is so already changes nothing."))]
    Add {
        /// The new member: its number and where it listens
        #[arg(long, value_name = "N=URL", value_parser = parse_numbered_url::<MemberId>)]
        member: (MemberId, String),
        #[command(flatten)]
        subject: Subject,
    },
    /// Take a replica out of its group
    #[command(after_help = with_exit_codes!("Examples:
  escrow cluster remove --group shard-0 --member 2
  escrow cluster remove --group shard-0 --member 2.9f21c07e

The process may be gone already. Asking again for what is so already changes nothing."))]
    Remove {
        /// The member, as `escrow cluster status` shows it
        #[arg(long, value_name = "MEMBER")]
        member: MemberId,
        #[command(flatten)]
        subject: Subject,
    },
    /// Add a replica, and take another out when the new one has caught up
    #[command(after_help = with_exit_codes!("Examples:
  escrow cluster replace --group shard-0 --old 2 --new 4=http://10.0.0.4:7410

For a machine that does not come back. Start the new process first, as for `escrow cluster add`."))]
    Replace {
        /// The member that goes, as `escrow cluster status` shows it
        #[arg(long, value_name = "MEMBER")]
        old: MemberId,
        /// The new member: its number and where it listens
        #[arg(long, value_name = "N=URL", value_parser = parse_numbered_url::<MemberId>)]
        new: (MemberId, String),
        #[command(flatten)]
        subject: Subject,
    },
    /// Print a cluster file for several machines
    #[command(after_help = "Examples:
  escrow cluster init --shards 2 --coordinators 1 --replicas 3 --host a --host b --host c > cluster.toml
  escrow cluster init --replicas 1 --host 10.0.0.1 --base-port 7000

Replicas of a group are on different hosts. On each host, every server of it is then started by
  escrow coordinator --cluster-file cluster.toml --node coordinator-0.1
  escrow participant --cluster-file cluster.toml --node participant-0.1
for the first time with --found, and never with it again.")]
    Init(init::Args),
    /// Make a backup of the whole cluster while it runs: new transactions wait for a moment
    #[command(after_help = with_exit_codes!("Examples:
  escrow cluster backup /backup/2026-11-22
  escrow cluster backup /backup/2026-11-22 --data-dir ./escrow-data --drain-timeout 2m
  escrow cluster backup /backup/2026-11-22 --cluster-file cluster.toml -o json

New transactions are refused (PAUSED) until those that run have ended and every group has
written its state to a file; then they are let in, and the files are fetched. They are let in
again also when it fails or is stopped with Ctrl-C. Only kill -9 leaves the cluster paused:
escrow operator resume. Reserved transactions that wait for their callers hold a backup up:
those that do are named."))]
    Backup(backup::Args),
    /// Make the data directories of a new cluster of a backup
    #[command(after_help = with_exit_codes!("Examples:
  escrow cluster restore /backup/2026-11-22 --data-dir ./restored
  escrow up --data-dir ./restored --replicas 3 --base-port 8400
  escrow cluster restore /backup/2026-11-22 --data-dir ./restored --cluster-file new-cluster.toml

The new cluster has an id and members of its own, so it can run beside the old one, and nothing
of it is taken for the old one's. Transaction ids of before the backup are known there. What was
acknowledged after the backup is not. External participants are not part of a backup: stop the
old cluster for good before the new one is given the same ones."))]
    Restore(restore::Args),
    /// Make a backup of a stopped cluster of the disks that are left
    #[command(after_help = with_exit_codes!("Examples:
  escrow cluster salvage ./escrow-data --to /backup/salvaged
  escrow cluster salvage /disks/*/participant-* /disks/*/coordinator-* \\
      --cluster-file cluster.toml --to /backup/salvaged --accept-loss

For a cluster of which a group has lost more than half of its disks for good. Stop all servers
first, and give every directory that is left, of all groups. Of each group the replica that is
furthest is taken, with all of its log. Where more than half of a group is there, nothing that
was acknowledged is lost. Then: escrow cluster restore, escrow up, escrow verify."))]
    Salvage(salvage::Args),
    /// Let another replica lead its group
    #[command(after_help = with_exit_codes!("Examples:
  escrow cluster lead --group shard-0
  escrow cluster lead --group coordinator-0 --to 2"))]
    Lead {
        /// The member that is to lead (default: whichever is furthest)
        #[arg(long, value_name = "MEMBER")]
        to: Option<MemberId>,
        #[command(flatten)]
        subject: Subject,
    },
}

/// Which group is changed, and how long that may take.
#[derive(Debug, clap::Args)]
pub struct Subject {
    /// The group: shard-N or coordinator-N
    #[arg(long, value_name = "GROUP", value_parser = parse_group)]
    group: GroupId,
    /// How long to wait: a new member may have to get everything first
    #[arg(long, default_value = "5m", value_name = "SPAN", value_parser = parse_duration)]
    within: Duration,
    #[command(flatten)]
    processes: Processes,
}

pub(super) async fn run(command: Command, output: &Output) -> Result<Exit, Failure> {
    let member = |(id, endpoint): (MemberId, String)| Member { id: id.get(), endpoint };
    let (subject, change) = match command {
        Command::Init(args) => return init::run(args, output),
        Command::Backup(args) => return backup::run(&args, output).await,
        Command::Restore(args) => return restore::run(&args, output),
        Command::Salvage(args) => return salvage::run(&args, output),
        Command::Status { processes } => return status::run(&processes, output).await,
        Command::Add { member: new, subject } => (subject, Change::Add(member(new))),
        Command::Remove { member, subject } => (subject, Change::Remove(member.get())),
        Command::Replace { old, new, subject } => {
            (subject, Change::Replace(Replace { old: old.get(), new: Some(member(new)) }))
        }
        Command::Lead { to, subject } => (subject, Change::Lead(to.map_or(0, MemberId::get))),
    };
    change::run(&subject, change, output).await
}

/// Tells people on stderr how far it is.
fn tell(text: &str) {
    // Nobody may be reading; it goes on.
    let _ = writeln!(std::io::stderr(), "{}", printable(text));
}
