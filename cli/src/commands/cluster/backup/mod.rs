//! `escrow cluster backup`: a snapshot of every group of a running cluster, all of one moment.
//!
//! No new work is let in, and nothing is unfinished, from before the first snapshot is made until after the last is: so what they hold
//! fits together. A snapshot is fetched when new work is let in again already.
//!
//! - `gate`: keeps new work out, and lets it in again; `drain`: waits until nothing is unfinished
//! - `fetch`: has leaders make snapshots, and fetches them
//!
//! **Invariant:** whatever happens, new work is let in again before the command ends, unless an operator had paused it before.

mod drain;
mod fetch;
mod gate;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use escrow_client::Client;
use escrow_cluster::GroupId;
use escrow_types::{ParticipantId, Partition};
use serde_json::json;
use tokio::time::Instant;

use self::drain::{drain, unfinished};
use self::fetch::{find_leader, open_export};
use self::gate::{Gate, StillShut};
use super::survey::{Group, Processes, Survey};
use super::tell;
use crate::args::Endpoints;
use crate::backup::{self, Backup, Found, GroupBackup, Target};
use crate::commands::servers::{hangups, shutdown};
use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::time::{format_millis, parse_duration};

/// Between two looks at what is unfinished, or for a leader.
const PAUSE: Duration = Duration::from_millis(100);
/// So often it is tried: a leader may change on the way.
const ATTEMPTS: u32 = 3;

/// `escrow cluster backup`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the backup goes: an empty directory, or one that is made
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// How long unfinished transactions may take to end; new ones wait meanwhile
    #[arg(long, default_value = "30s", value_name = "SPAN", value_parser = parse_duration)]
    drain_timeout: Duration,
    /// The cluster is paused, and stays so; without this a paused cluster is refused, as another backup may be under way
    #[arg(long)]
    stay_paused: bool,
    #[command(flatten)]
    processes: Processes,
}

pub(super) async fn run(args: &Args, output: &Output) -> Result<Exit, Failure> {
    // Before anything is paused: a signal that comes early is heard, too.
    let interrupted = {
        let (shutdown, mut hangups) = (shutdown()?, hangups()?);
        async move {
            tokio::select! {
                () = shutdown => {}
                _ = hangups.recv() => {}
            }
        }
    };
    let mut target = Target::begin(&args.dir)?;
    let cluster = Cluster::find(&args.processes).await?;
    let mut gate = Gate::new(&cluster.client, args.stay_paused).await?;
    let made = tokio::select! {
        made = make(&cluster, &mut gate, &mut target, args.drain_timeout) => made,
        () = interrupted => Err(Failure::coded("INTERRUPTED", "the backup was broken off")),
    };
    // Also when it went wrong. What went wrong first is told first. Signals do nothing from here on.
    if gate.is_closed() {
        tell("letting new work in again");
    }
    let opened = gate.open().await.map_err(|shut| shut.for_good(&cluster.client));
    let made = match (made, opened) {
        (Ok(made), Ok(())) => made,
        (Err(failure), Ok(())) | (Ok(_), Err(failure)) => return Err(failure),
        (Err(failure), Err(also)) => {
            return Err(Failure { message: format!("{}; and {}", failure.message, also.message), ..failure });
        }
    };
    let Made { groups, found, cluster_id, paused_ms } = made;
    let mut backup = Backup::new(cluster_id, cluster.replicas, args.processes.slots()?);
    backup.groups = groups;
    target.finish(&backup, &found)?;
    show(&backup, &args.dir, paused_ms, &cluster.externals, output);
    Ok(Exit::Ok)
}

fn show(backup: &Backup, dir: &Path, paused_ms: u64, externals: &[String], output: &Output) {
    output.json(&json!({ "dir": dir, "paused_ms": paused_ms, "externals": externals, "backup": backup }));
    output.table(
        &["group", "entry", "term", "bytes", "digest"],
        backup.groups.iter().map(|group| {
            let GroupBackup { group, index, term, bytes, digest, .. } = group;
            vec![group.clone(), index.to_string(), term.to_string(), bytes.to_string(), digest.clone()]
        }),
    );
    for name in externals {
        output.line(format!("external participant {name} is not part of it: what it holds is its own"));
    }
    output.line(format!(
        "backup of cluster {} in {}; new work waited for {}",
        backup.cluster_id,
        dir.display(),
        format_millis(paused_ms)
    ));
}

/// The groups of a cluster, and how they are reached.
struct Cluster {
    /// With the endpoints of their members.
    groups: Vec<(GroupId, Vec<String>)>,
    /// How many members of a group vote.
    replicas: u16,
    client: Client,
    externals: Vec<String>,
}

impl Cluster {
    async fn find(processes: &Processes) -> Result<Self, Failure> {
        let survey = processes.survey().await?;
        if let Some(alone) = survey.alone().next() {
            return Err(Failure::bad_input(format!(
                "{alone} has no replicas: stop it, and copy its directory (docs/operations.md)"
            )));
        }
        let found = groups_of(&survey);
        let coordinators: Vec<String> = found
            .iter()
            .filter(|(group, _)| group.is_coordinator())
            .map(|(_, endpoints)| endpoints.join("+"))
            .collect();
        for (at, (group, _)) in found.iter().filter(|(group, _)| group.is_coordinator()).enumerate() {
            if *group != GroupId::Coordinator(Partition(at as u16)) {
                return Err(Failure::bad_input(format!("coordinator-{at} was not found, but {group} was")));
            }
        }
        if coordinators.is_empty() {
            return Err(Failure::bad_input("no coordinator was found: name one of its processes, too"));
        }
        let client = Client::connect(coordinators, Endpoints::options())?;
        let status = client.status(0).await?;
        let (shards, externals): (Vec<_>, Vec<_>) =
            status.participants.into_iter().partition(|participant| participant.kind == "stream");
        for shard in &shards {
            let group = u16::try_from(shard.id).map(|id| GroupId::Shard(ParticipantId(id)));
            if !found.iter().any(|(other, _)| group == Ok(*other)) {
                let message = format!("shard-{} at {} does not answer", shard.id, shard.endpoint);
                return Err(Failure { exit: Exit::Unavailable, code: "UNAVAILABLE", message });
            }
        }
        let externals = externals.into_iter().map(|participant| participant.name).collect();
        let voters = |group: &Group<'_>| group.members().filter(|(.., member)| member.voter).count();
        let replicas = survey.groups().iter().map(voters).max().unwrap_or(0) as u16;
        Ok(Self { groups: found, replicas, client, externals })
    }
}

fn groups_of(survey: &Survey) -> Vec<(GroupId, Vec<String>)> {
    let endpoints = |group: &Group<'_>| {
        let members = group.members().map(|(_, endpoint, _)| endpoint.to_owned());
        let answered = group.replicas.iter().map(|(endpoint, _)| (*endpoint).to_owned());
        members.chain(answered).collect::<BTreeSet<String>>().into_iter().collect()
    };
    survey.groups().iter().map(|group| (group.id, endpoints(group))).collect()
}

/// What was made.
struct Made {
    groups: Vec<GroupBackup>,
    /// What they hold.
    found: Vec<(GroupId, Found)>,
    cluster_id: String,
    paused_ms: u64,
}

/// Why an attempt came to nothing.
enum Broken {
    /// It may go better next time: a leader has changed.
    Again(Failure),
    Final(Failure),
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Self {
        Self::Final(failure)
    }
}

async fn make(
    cluster: &Cluster,
    gate: &mut Gate,
    target: &mut Target,
    drain_timeout: Duration,
) -> Result<Made, Failure> {
    let mut attempt = 1;
    loop {
        match make_once(cluster, gate, target, drain_timeout).await {
            Ok(made) => return Ok(made),
            Err(Broken::Again(failure)) if attempt < ATTEMPTS => {
                gate.open().await.map_err(StillShut::for_now)?;
                target.clear();
                tell(&format!("{failure}: trying again"));
                attempt += 1;
            }
            Err(Broken::Again(failure) | Broken::Final(failure)) => return Err(failure),
        }
    }
}

async fn make_once(
    cluster: &Cluster,
    gate: &mut Gate,
    target: &mut Target,
    drain_timeout: Duration,
) -> Result<Made, Broken> {
    for (group, endpoints) in &cluster.groups {
        // Nothing waits for a group that cannot be backed up anyway.
        find_leader(*group, endpoints).await?;
    }
    tell("pausing new work");
    gate.close().await?;
    drain(&cluster.client, drain_timeout).await?;
    tell("nothing is unfinished: making snapshots");
    let before = digests(cluster).await?;
    let mut opening = Vec::new();
    for (group, endpoints) in &cluster.groups {
        opening.push((*group, tokio::spawn(open_export(*group, endpoints.clone()))));
    }
    let mut exports = Vec::new();
    for (group, opening) in opening {
        let opened = opening.await.map_err(|error| Failure::internal(error.to_string()))?;
        exports.push((group, opened.map_err(Broken::Again)?));
    }
    // Whoever reads this reads what a majority confirms; and the digests are equal only if nothing began, and nobody else led.
    check_quiet(&cluster.client).await?;
    if digests(cluster).await? != before {
        return Err(Broken::Again(Failure::coded(
            "CHANGED",
            "a coordinator changed while snapshots were made",
        )));
    }
    gate.open().await.map_err(StillShut::for_now)?;
    tell("new work goes on: fetching the snapshots");
    let (mut groups, mut all_found, mut cluster_id) = (Vec::new(), Vec::new(), None);
    for (group, export) in exports {
        let path = target.begin_file(group);
        export.fetch(&path).await.map_err(Broken::Again)?;
        let checked = tokio::task::spawn_blocking(move || {
            let found = backup::inspect(group, &path)?;
            Ok::<_, Failure>((GroupBackup::of(group, &path, &found)?, found, path))
        });
        let checked = checked.await.map_err(|error| Failure::internal(error.to_string()))?;
        let (mut made, found, path) = checked?;
        check_found(group, &found, &before)?;
        target.keep(group, &path)?;
        if let GroupId::Coordinator(partition) = group {
            made.paused = gate.was_paused(partition);
        }
        tell(&format!("{group}: entry {}, {} bytes", made.index, made.bytes));
        cluster_id = cluster_id.or_else(|| found.cluster_id.clone());
        groups.push(made);
        all_found.push((group, found));
    }
    let cluster_id = cluster_id.ok_or_else(|| {
        Failure::internal("no shard says which cluster it is of: no coordinator has greeted it")
    })?;
    let paused_ms = gate.closed_for().as_millis() as u64;
    Ok(Made { groups, found: all_found, cluster_id, paused_ms })
}

/// Says now and then how far something is that may take long.
struct Progress(Instant);

impl Progress {
    const EVERY: Duration = Duration::from_secs(2);

    fn begin() -> Self {
        Self(Instant::now())
    }

    fn tell(&mut self, text: impl FnOnce() -> String) {
        if self.0.elapsed() >= Self::EVERY {
            self.0 = Instant::now();
            tell(&text());
        }
    }
}

async fn check_quiet(client: &Client) -> Result<(), Broken> {
    match unfinished(client).await? {
        0 => Ok(()),
        _ => Err(Broken::Again(Failure::coded("CHANGED", "new work was let in while snapshots were made"))),
    }
}

/// The state of every coordinator, as its leader has it.
async fn digests(cluster: &Cluster) -> Result<Vec<(GroupId, String)>, Broken> {
    let mut digests = Vec::new();
    for (group, endpoints) in cluster.groups.iter().filter(|(group, _)| group.is_coordinator()) {
        let (_, leader) = find_leader(*group, endpoints).await.map_err(Broken::Again)?;
        digests.push((*group, leader.digest));
    }
    Ok(digests)
}

fn check_found(group: GroupId, found: &Found, digests: &[(GroupId, String)]) -> Result<(), Broken> {
    if !group.is_coordinator() {
        return Ok(());
    }
    let is_same = digests.iter().any(|(other, digest)| *other == group && *digest == found.digest);
    if is_same && found.is_paused && found.unfinished == 0 {
        return Ok(());
    }
    Err(Broken::Again(Failure::coded("CHANGED", format!("{group} changed while its snapshot was made"))))
}
