//! `escrow cluster status`: the groups as a table and as a document.

use escrow_proto::v1;
use escrow_proto::v1::replica::Role;
use escrow_replica::MemberId;
use serde_json::{Value, json};

use super::survey::{Group, Processes, Survey};
use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::time::format_millis;

pub(super) async fn run(processes: &Processes, output: &Output) -> Result<Exit, Failure> {
    let survey = processes.survey().await?;
    let groups = survey.groups();
    output.json(&json!({
        "groups": groups.iter().map(|group| group_json(group, &survey)).collect::<Vec<_>>(),
        "without_replicas": survey.alone().collect::<Vec<_>>(),
        "silent": survey.silent().map(|(endpoint, error)| json!({ "endpoint": endpoint, "error": error }))
            .collect::<Vec<_>>(),
    }));
    show(&groups, &survey, output);
    Ok(Exit::Ok)
}

/// One member of a group, or a process that is about to become one.
struct Row<'a> {
    id: MemberId,
    endpoint: &'a str,
    /// As the group knows it; `None`: it is no member.
    member: Option<&'a v1::ReplicaMember>,
    /// What it says of itself.
    replica: Option<&'a v1::Replica>,
    /// Entries of the leader that it is not known to have.
    lag: Option<u64>,
    /// Why it says nothing.
    error: Option<String>,
}

fn rows<'a>(group: &Group<'a>, survey: &'a Survey) -> Vec<Row<'a>> {
    let leader = group.leader().map(|(_, replica)| replica);
    let replica_of = |id: MemberId| group.replicas.iter().find(|(_, replica)| replica.id == id.get());
    let mut rows: Vec<Row<'a>> = group
        .members()
        .map(|(id, endpoint, member)| {
            let leads = leader.is_some_and(|leader| leader.id == id.get());
            let lag = |leader: &v1::Replica| Some(leader.last.saturating_sub(member.matched?));
            Row {
                id,
                endpoint,
                member: Some(member),
                replica: replica_of(id).map(|(_, replica)| *replica),
                lag: leader.filter(|_| !leads).and_then(lag),
                error: silence(group, survey, id, endpoint),
            }
        })
        .collect();
    for (endpoint, replica) in &group.replicas {
        if !rows.iter().any(|row| row.id.get() == replica.id) {
            let id = MemberId::from_raw(replica.id);
            rows.push(Row { id, endpoint, member: None, replica: Some(replica), lag: None, error: None });
        }
    }
    rows
}

/// Why a member does not say how it stands; `None` if it does.
fn silence(group: &Group<'_>, survey: &Survey, id: MemberId, endpoint: &str) -> Option<String> {
    if let Some(why) = survey.silence_of(endpoint) {
        return Some(why.to_owned());
    }
    // Its process has lost its disk, and is not taken in yet.
    let (_, there) = group.replicas.iter().find(|(other, _)| *other == endpoint)?;
    (there.id != id.get()).then(|| format!("it is {} now", MemberId::from_raw(there.id)))
}

impl Row<'_> {
    fn role(&self) -> &'static str {
        match self.replica.map(v1::Replica::role) {
            None => "down",
            Some(_) if self.member.is_none() => "no member",
            Some(Role::Leader) => "leader",
            Some(Role::Follower) => "follower",
            Some(Role::Learner) => "learner",
            Some(Role::Candidate) => "candidate",
            Some(Role::Stopped) => "stopped",
            Some(Role::Unspecified) => "unknown",
        }
    }

    /// A leader hears of itself when it hears of others: that says nothing.
    fn silent_ms(&self) -> Option<u64> {
        self.member.filter(|_| self.role() != "leader").and_then(|member| member.silent_ms)
    }
}

fn group_json(group: &Group<'_>, survey: &Survey) -> Value {
    let leader = group.leader().map(|(_, replica)| MemberId::from_raw(replica.id).to_string());
    json!({
        "group": group.id.to_string(),
        "leader": leader,
        "term": group.best_informed().term,
        "members": rows(group, survey).iter().map(row_json).collect::<Vec<_>>(),
    })
}

fn row_json(row: &Row<'_>) -> Value {
    let replica = |field: fn(&v1::Replica) -> Value| row.replica.map_or(Value::Null, field);
    json!({
        "member": row.id.to_string(),
        "endpoint": row.endpoint,
        "role": row.role().replace(' ', "_"),
        "voter": row.member.is_some_and(|member| member.voter),
        "term": replica(|replica| replica.term.into()),
        "last": replica(|replica| replica.last.into()),
        "committed": replica(|replica| replica.committed.into()),
        "applied": replica(|replica| replica.applied.into()),
        "checkpointed": replica(|replica| replica.checkpointed.into()),
        "purged": replica(|replica| replica.purged.into()),
        "digest": replica(|replica| if replica.digest.is_empty() { Value::Null } else { replica.digest.as_str().into() }),
        "lag": row.lag,
        "silent_ms": row.silent_ms(),
        "error": row.error,
    })
}

fn show(groups: &[Group<'_>], survey: &Survey, output: &Output) {
    let header = [
        "group",
        "member",
        "endpoint",
        "role",
        "term",
        "last",
        "committed",
        "applied",
        "checkpoint",
        "purged",
        "lag",
        "silent",
    ];
    let of_group = |group: &Group<'_>| -> Vec<Vec<String>> {
        rows(group, survey).iter().map(|row| cells(group, row)).collect()
    };
    if !groups.is_empty() {
        output.table(&header, groups.iter().flat_map(of_group));
    }
    for group in groups.iter().filter(|group| group.leader().is_none()) {
        let (answer, members) = (group.replicas.len(), group.members().count());
        output.line(format!("\n{} HAS NO LEADER: {answer} of {members} members answer", group.id));
    }
    for endpoint in survey.alone() {
        output.line(format!("{endpoint} has no replicas"));
    }
}

fn cells(group: &Group<'_>, row: &Row<'_>) -> Vec<String> {
    let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let replica = |field: fn(&v1::Replica) -> u64| number(row.replica.map(field));
    let role = match &row.error {
        Some(error) if row.replica.is_none() => format!("DOWN\n{error}"),
        _ => row.role().to_owned(),
    };
    vec![
        group.id.to_string(),
        row.id.to_string(),
        row.endpoint.to_owned(),
        role,
        replica(|replica| replica.term),
        replica(|replica| replica.last),
        replica(|replica| replica.committed),
        replica(|replica| replica.applied),
        replica(|replica| replica.checkpointed),
        replica(|replica| replica.purged),
        number(row.lag),
        row.silent_ms().map_or_else(|| "-".to_owned(), format_millis),
    ]
}
