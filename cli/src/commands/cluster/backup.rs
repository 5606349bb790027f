//! `escrow cluster backup`: a snapshot of every group of a running cluster, all of one moment.
//!
//! No new work is let in, and nothing is unfinished, from before the first snapshot is made until after the last is: so what they hold
//! fits together. A snapshot is fetched when new work is let in again already.
//!
//! **Invariant:** whatever happens, new work is let in again before the command ends, unless an operator had paused it before.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use escrow_client::{Client, ClientError, report};
use escrow_cluster::{GroupId, groups};
use escrow_proto::v1;
use escrow_proto::v1::replica_service_client::ReplicaServiceClient;
use escrow_service::reason_of;
use escrow_types::{ParticipantId, Partition, Reason};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::transport::Endpoint;
use tonic::{Code, Status, Streaming};

use super::survey::{Group, Processes, Survey};
use super::tell;
use crate::args::Endpoints;
use crate::backup::{self, Backup, Found, GroupBackup, Target, at};
use crate::commands::servers::{hangups, shutdown};
use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::time::{format_millis, now_ms, parse_duration};

/// Between two looks at what is unfinished, or for a leader.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a group may be without a leader.
const LEADERLESS_MAX: Duration = Duration::from_secs(20);
/// How long a leader may take to write its state to a file, and how long between two chunks of it.
const EXPORT_WITHIN: Duration = Duration::from_secs(300);
/// So often it is tried: a leader may change on the way.
const ATTEMPTS: u32 = 3;
/// So many transactions are named that hold a backup up.
const NAMED_MAX: u32 = 10;
const LOOK: Duration = Duration::from_secs(2);

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
    let mut gate = Gate::new(&cluster, args.stay_paused).await?;
    let made = tokio::select! {
        made = make(&cluster, &mut gate, &mut target, args.drain_timeout) => made,
        () = interrupted => Err(Failure::coded("INTERRUPTED", "the backup was broken off")),
    };
    // Also when it went wrong. What went wrong first is told first. Signals do nothing from here on.
    if gate.closed_at.is_some() {
        tell("letting new work in again");
    }
    let opened = gate.open().await.map_err(|shut| shut.for_good(&gate.client));
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
            .filter(|(group, _)| matches!(group, GroupId::Coordinator(_)))
            .map(|(_, endpoints)| endpoints.join("+"))
            .collect();
        for (at, (group, _)) in found.iter().filter(|(group, _)| is_coordinator(*group)).enumerate() {
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

    fn partitions(&self) -> impl Iterator<Item = usize> + use<> {
        0..self.client.partitions()
    }
}

const fn is_coordinator(group: GroupId) -> bool {
    matches!(group, GroupId::Coordinator(_))
}

fn groups_of(survey: &Survey) -> Vec<(GroupId, Vec<String>)> {
    let endpoints = |group: &Group<'_>| {
        let members = group.members().map(|(_, endpoint, _)| endpoint.to_owned());
        let answered = group.replicas.iter().map(|(endpoint, _)| (*endpoint).to_owned());
        members.chain(answered).collect::<BTreeSet<String>>().into_iter().collect()
    };
    survey.groups().iter().map(|group| (group.id, endpoints(group))).collect()
}

/// What keeps new work out.
struct Gate {
    client: Client,
    /// By partition: an operator had paused it, and wants it so.
    was_paused: Vec<bool>,
    /// Since when it is closed, perhaps in part.
    closed_at: Option<Instant>,
    /// For how long it was closed in all.
    closed_for: Duration,
    /// Pauses that are being asked for. In tasks of their own: one that is broken off could take effect after the gate was opened.
    closing: Vec<JoinHandle<Result<bool, ClientError>>>,
}

const WHY: &str = "escrow cluster backup";

impl Gate {
    async fn new(cluster: &Cluster, stay_paused: bool) -> Result<Self, Failure> {
        let client = cluster.client.clone();
        let mut was_paused = Vec::new();
        for partition in cluster.partitions() {
            let status = client.status(partition).await?;
            let is_paused = status.coordinator.is_some_and(|coordinator| coordinator.paused);
            if is_paused && !stay_paused {
                return Err(Failure::coded(
                    "ALREADY_PAUSED",
                    format!(
                        "coordinator-{partition} refuses new work already: an operator has paused it, or another backup is being made, \
                         or was killed. Resume it (escrow operator resume), or leave it so with --stay-paused"
                    ),
                ));
            }
            was_paused.push(is_paused);
        }
        Ok(Self { client, was_paused, closed_at: None, closed_for: Duration::ZERO, closing: Vec::new() })
    }

    async fn close(&mut self) -> Result<(), Failure> {
        self.closed_at.get_or_insert_with(Instant::now);
        for partition in 0..self.was_paused.len() {
            let client = self.client.clone();
            let closing = async move { client.set_paused(partition, true, WHY).await };
            self.closing.push(tokio::spawn(closing));
        }
        while let Some(closed) = self.closed_next().await {
            closed?;
        }
        Ok(())
    }

    /// The end of one of the pauses that are being asked for. May be dropped before it is there.
    async fn closed_next(&mut self) -> Option<Result<(), Failure>> {
        let ended = self.closing.last_mut()?.await;
        self.closing.pop();
        Some(match ended {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.into()),
            Err(error) => Err(Failure::internal(error.to_string())),
        })
    }

    /// Lets new work in again; tries for a while, since nothing works before that. May be dropped, and called again.
    async fn open(&mut self) -> Result<(), StillShut> {
        const WITHIN: Duration = Duration::from_secs(60);
        let Some(closed_at) = self.closed_at else { return Ok(()) };
        // What became of them does not matter now.
        while self.closed_next().await.is_some() {}
        let deadline = Instant::now() + WITHIN;
        let mut shut = None;
        for partition in (0..self.was_paused.len()).filter(|&partition| !self.was_paused[partition]) {
            if let Err(why) = self.open_one(partition, deadline).await {
                shut.get_or_insert(StillShut { partition, why });
            }
        }
        match shut {
            None => {
                self.closed_at = None;
                self.closed_for += closed_at.elapsed();
                Ok(())
            }
            Some(shut) => Err(shut),
        }
    }

    async fn open_one(&self, partition: usize, deadline: Instant) -> Result<(), String> {
        loop {
            match timeout_at(deadline, self.client.set_paused(partition, false, WHY)).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(error)) if Instant::now() >= deadline => return Err(error.to_string()),
                Ok(Err(_)) => sleep(PAUSE).await,
                Err(_) => return Err("no answer".to_owned()),
            }
        }
    }
}

/// A coordinator that could not be resumed.
struct StillShut {
    partition: usize,
    why: String,
}

impl StillShut {
    /// It is tried again.
    fn for_now(self) -> Failure {
        let Self { partition, why } = self;
        Failure::coded(
            "NOT_RESUMED",
            format!("coordinator-{partition} let no new work in for a minute: {why}"),
        )
    }

    /// Nobody tries again.
    fn for_good(self, client: &Client) -> Failure {
        let Self { partition, why } = self;
        Failure::coded(
            "STILL_PAUSED",
            format!(
                "coordinator-{partition} still refuses new work ({why}): when it can be reached, \
                 escrow operator resume --reason R --endpoint {}",
                client.endpoint(partition)
            ),
        )
    }
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
            made.paused = gate.was_paused.get(usize::from(partition.0)).copied();
        }
        tell(&format!("{group}: entry {}, {} bytes", made.index, made.bytes));
        cluster_id = cluster_id.or_else(|| found.cluster_id.clone());
        groups.push(made);
        all_found.push((group, found));
    }
    let cluster_id = cluster_id.ok_or_else(|| {
        Failure::internal("no shard says which cluster it is of: no coordinator has greeted it")
    })?;
    let paused_ms = gate.closed_for.as_millis() as u64;
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

/// Waits until nothing is unfinished.
async fn drain(client: &Client, within: Duration) -> Result<(), Failure> {
    let (deadline, mut progress) = (Instant::now() + within, Progress::begin());
    loop {
        let unfinished = unfinished(client).await?;
        if unfinished == 0 {
            return Ok(());
        }
        progress.tell(|| format!("{unfinished} transactions are unfinished: waiting for them to end"));
        if Instant::now() >= deadline {
            return Err(not_drained(client, unfinished, within).await);
        }
        sleep(PAUSE).await;
    }
}

/// As the newest leaders say. What nobody waits for any more may not be logged as finished yet, and a snapshot would have it still: the
/// state of a coordinator says so.
async fn unfinished(client: &Client) -> Result<u64, Failure> {
    let mut unfinished = 0;
    for partition in 0..client.partitions() {
        let all = report::TransactionFilter::default();
        let (mut here, _) = client.count_transactions(partition, &all).await?;
        if here == 0 {
            let status = client.status(partition).await?;
            here = status.coordinator.map_or(0, |coordinator| coordinator.unfinished);
        }
        unfinished += here;
    }
    Ok(unfinished)
}

async fn check_quiet(client: &Client) -> Result<(), Broken> {
    match unfinished(client).await? {
        0 => Ok(()),
        _ => Err(Broken::Again(Failure::coded("CHANGED", "new work was let in while snapshots were made"))),
    }
}

/// Says which transactions hold it up, and how each is ended.
async fn not_drained(client: &Client, unfinished: u64, within: Duration) -> Failure {
    let mut lines = Vec::new();
    for partition in 0..client.partitions() {
        let all = report::TransactionFilter::default();
        let listed = client.list_transactions(partition, &all, NAMED_MAX, "").await;
        let (transactions, _) = listed.unwrap_or_default();
        lines.extend(transactions.iter().map(held_up_by));
    }
    lines.truncate(NAMED_MAX as usize);
    let named = lines.len() as u64;
    if named < unfinished {
        lines.push(format!("  and {} more: escrow tx list", unfinished - named));
    }
    let message = format!(
        "{unfinished} transactions did not end within {}; new work is let in again, and there is no backup. Unfinished:\n{}\nEnd \
         them, or give them longer with --drain-timeout",
        format_millis(within.as_millis() as u64),
        lines.join("\n")
    );
    Failure::coded("NOT_DRAINED", message)
}

fn held_up_by(transaction: &report::Transaction) -> String {
    let report::Transaction { transaction_id: id, xid, .. } = transaction;
    let age = format_millis(now_ms().saturating_sub(transaction.begun_at_ms));
    let (phase, what) = match transaction.phase() {
        report::Phase::Reserved => {
            let left = format_millis(transaction.deadline_ms.saturating_sub(now_ms()));
            (
                "RESERVED",
                format!("escrow confirm {id}, or escrow cancel {id}; by itself it is canceled in {left}"),
            )
        }
        report::Phase::Trying => ("TRYING", format!("escrow tx cancel {xid} --reason R, or its deadline")),
        report::Phase::NeedsAttention => {
            ("NEEDS_ATTENTION", format!("escrow tx show {xid}, and the runbook"))
        }
        _ => ("decided", format!("bring back whom it waits for: escrow tx show {xid}")),
    };
    format!("  {xid} {id}: {phase}, {age} old: {what}")
}

/// The state of every coordinator, as its leader has it.
async fn digests(cluster: &Cluster) -> Result<Vec<(GroupId, String)>, Broken> {
    let mut digests = Vec::new();
    for (group, endpoints) in cluster.groups.iter().filter(|(group, _)| is_coordinator(*group)) {
        let (_, leader) = find_leader(*group, endpoints).await.map_err(Broken::Again)?;
        digests.push((*group, leader.digest));
    }
    Ok(digests)
}

fn check_found(group: GroupId, found: &Found, digests: &[(GroupId, String)]) -> Result<(), Broken> {
    if !is_coordinator(group) {
        return Ok(());
    }
    let is_same = digests.iter().any(|(other, digest)| *other == group && *digest == found.digest);
    if is_same && found.is_paused && found.unfinished == 0 {
        return Ok(());
    }
    Err(Broken::Again(Failure::coded("CHANGED", format!("{group} changed while its snapshot was made"))))
}

/// The replica that leads, and where; waits a while for one.
async fn find_leader(group: GroupId, endpoints: &[String]) -> Result<(String, v1::Replica), Failure> {
    let deadline = Instant::now() + LEADERLESS_MAX;
    loop {
        let mut asking = Vec::new();
        for endpoint in endpoints.iter().cloned() {
            asking.push(tokio::spawn(async move { (groups::ask(&endpoint, LOOK).await, endpoint) }));
        }
        let mut replicas = Vec::new();
        for asked in asking {
            let Ok((Ok(answer), endpoint)) = asked.await else { continue };
            let mine = answer.into_iter().find(|replica| groups::group_of(replica) == Some(group));
            replicas.extend(mine.map(|replica| (endpoint, replica)));
        }
        let leader = groups::leader(replicas.iter().enumerate().map(|(at, (_, replica))| (at, replica)));
        if let Some(leader) = leader {
            return Ok(replicas.swap_remove(leader));
        }
        if Instant::now() >= deadline {
            let message = format!("{group} has no leader: more than half of its members must be there");
            return Err(Failure { exit: Exit::Unavailable, code: "NOT_LEADER", message });
        }
        sleep(PAUSE).await;
    }
}

/// A snapshot that its leader has made; it is still to be fetched.
struct Export {
    group: GroupId,
    bytes: u64,
    first: Vec<u8>,
    stream: Streaming<v1::ExportGroupResponse>,
}

/// Why a leader was not heard to have made a snapshot.
#[derive(Debug)]
enum NotOpened {
    /// It leads no more, or has gone: another may do it.
    Elsewhere(String),
    /// It could not, and another that is asked makes it no better.
    Failed(String),
}

impl NotOpened {
    fn of(status: &Status) -> Self {
        let why = status.message().to_owned();
        // What comes from no server is of the transport.
        let is_lost = || matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled);
        match reason_of(status) {
            Some(Reason::NotLeader) => Self::Elsewhere(why),
            None if is_lost() => Self::Elsewhere(why),
            _ => Self::Failed(why),
        }
    }
}

/// Has the leader make a snapshot; asks another one when that is none any more.
async fn open_export(group: GroupId, endpoints: Vec<String>) -> Result<Export, Failure> {
    let deadline = Instant::now() + LEADERLESS_MAX;
    loop {
        let (endpoint, _) = find_leader(group, &endpoints).await?;
        match timeout(EXPORT_WITHIN, ask_for(group, &endpoint)).await {
            Ok(Ok(export)) => return Ok(export),
            Ok(Err(NotOpened::Elsewhere(_))) if Instant::now() < deadline => sleep(PAUSE).await,
            Ok(Err(NotOpened::Elsewhere(why) | NotOpened::Failed(why))) => return Err(lost(group, &why)),
            Err(_) => return Err(lost(group, "its leader does not get its snapshot done")),
        }
    }
}

fn lost(group: GroupId, why: &str) -> Failure {
    Failure::coded("EXPORT_FAILED", format!("{group}: {why}"))
}

async fn ask_for(group: GroupId, endpoint: &str) -> Result<Export, NotOpened> {
    let endpoint = Endpoint::from_shared(endpoint.to_owned());
    let endpoint = endpoint.map_err(|error| NotOpened::Failed(error.to_string()))?;
    let endpoint = endpoint
        .connect_timeout(LOOK)
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(10));
    let gone = |_| NotOpened::Elsewhere("its leader has gone".to_owned());
    let channel = endpoint.connect().await.map_err(gone)?;
    let request = v1::ExportGroupRequest { group: Some(groups::name_of(group)) };
    let asked = ReplicaServiceClient::new(channel).export_group(request).await;
    let mut stream = asked.map_err(|status| NotOpened::of(&status))?.into_inner();
    let first = stream.message().await.map_err(|status| NotOpened::of(&status))?;
    let first = first.ok_or_else(|| NotOpened::Failed("an empty snapshot".to_owned()))?;
    Ok(Export { group, bytes: first.bytes, first: first.chunk, stream })
}

impl Export {
    async fn fetch(mut self, path: &Path) -> Result<(), Failure> {
        let failed = |why: &str| lost(self.group, why);
        let mut file = File::create_new(path).map_err(at(path))?;
        let (mut bytes, mut progress) = (self.first.len() as u64, Progress::begin());
        file.write_all(&self.first).map_err(at(path))?;
        loop {
            let next = timeout(EXPORT_WITHIN, self.stream.message()).await;
            let next = next.map_err(|_| failed("its snapshot stopped on the way"))?;
            let Some(next) = next.map_err(|status| failed(status.message()))? else { break };
            bytes += next.chunk.len() as u64;
            file.write_all(&next.chunk).map_err(at(path))?;
            progress.tell(|| format!("{}: {} of {} MiB", self.group, bytes >> 20, self.bytes >> 20));
        }
        if bytes != self.bytes {
            return Err(failed(&format!("{bytes} of {} bytes came", self.bytes)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_does_not_lead_or_has_gone_is_asked_again() {
        let is_elsewhere = |status: &Status| matches!(NotOpened::of(status), NotOpened::Elsewhere(_));
        assert!(is_elsewhere(&escrow_service::not_leader(None)));
        for code in [Code::Unavailable, Code::Unknown, Code::Cancelled] {
            assert!(is_elsewhere(&Status::new(code, "transport error")), "{code:?}");
        }
        for status in [
            Status::internal("the snapshot cannot be made: no space left on device"),
            Status::failed_precondition("no replica of shard-0 is here"),
            escrow_service::refusal(Reason::Overloaded, "not now"),
        ] {
            assert!(!is_elsewhere(&status), "{status:?}");
        }
    }

    #[test]
    fn whoever_holds_a_backup_up_is_told_with_the_way_to_end_it() {
        let of = |phase: report::Phase| {
            held_up_by(&report::Transaction {
                transaction_id: "booking-7".to_owned(),
                xid: "0-3-9".to_owned(),
                phase: phase.into(),
                begun_at_ms: now_ms(),
                deadline_ms: now_ms() + 60_000,
                ..report::Transaction::default()
            })
        };
        for (phase, part) in [
            (report::Phase::Reserved, "escrow confirm booking-7, or escrow cancel booking-7"),
            (report::Phase::Trying, "escrow tx cancel 0-3-9"),
            (report::Phase::Confirming, "escrow tx show 0-3-9"),
            (report::Phase::NeedsAttention, "the runbook"),
        ] {
            let line = of(phase);
            assert!(line.contains(part) && line.contains("0-3-9 booking-7"), "{line}");
        }
    }
}
