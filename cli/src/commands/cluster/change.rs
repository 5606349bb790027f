//! Changes of a group, asked of its leader, wherever that is by now.
//!
//! **Invariant:** one and the same change is asked for until one leader has answered: a repetition changes nothing.

use std::time::Duration;

use escrow_cluster::groups;
use escrow_proto::v1;
use escrow_proto::v1::change_group_request::Change;
use escrow_proto::v1::replica_service_client::ReplicaServiceClient;
use escrow_proto::{ERROR_DOMAIN, v1::ChangeGroupRequest};
use escrow_replica::{GroupId, MemberId};
use serde_json::json;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::transport::Endpoint;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::Subject;
use super::survey::{Group, Survey};
use crate::exit::{Exit, Failure};
use crate::output::Output;

/// Between two looks for a leader: an election takes longer.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a group may be without a leader before that is told.
const LEADERLESS_MAX: Duration = Duration::from_secs(10);

pub(super) async fn run(subject: &Subject, change: Change, output: &Output) -> Result<Exit, Failure> {
    let deadline = Instant::now() + subject.within;
    let mut patience = Instant::now() + LEADERLESS_MAX;
    let mut named: Option<String> = None;
    loop {
        let leader = match named.take() {
            Some(leader) => Some(leader),
            None => look_for_leader(subject, &change).await?,
        };
        let refusal = match leader {
            None => Refusal::NotLeader(None),
            Some(leader) => match ask(&leader, subject.group, &change, deadline).await {
                Ok(replica) => {
                    report(subject.group, &replica, output);
                    return Ok(Exit::Ok);
                }
                Err(refusal) => refusal,
            },
        };
        match refusal {
            Refusal::Final(failure) => return Err(failure),
            Refusal::NotLeader(Some(leader)) => named = Some(leader),
            Refusal::NotLeader(None) => {}
            Refusal::Broken => patience = Instant::now() + LEADERLESS_MAX,
        }
        if Instant::now() >= deadline.min(patience) {
            return Err(leaderless(subject.group));
        }
        // A follower may name a leader that is none any more, too.
        sleep(PAUSE).await;
    }
}

fn leaderless(group: GroupId) -> Failure {
    let message = format!("{group} has no leader: more than half of its members must be there");
    Failure { exit: Exit::Unavailable, code: "NOT_LEADER", message }
}

/// Where the leader of the group is; `None` while it has none. Refuses what makes no sense in the group as it is.
async fn look_for_leader(subject: &Subject, change: &Change) -> Result<Option<String>, Failure> {
    let survey = subject.processes.survey().await?;
    let groups = survey.groups();
    let Some(group) = groups.iter().find(|group| group.id == subject.group) else {
        return Err(unknown_group(subject.group, &groups, &survey));
    };
    check_member(group, change)?;
    Ok(group.leader().map(|(endpoint, _)| endpoint.to_owned()))
}

fn unknown_group(wanted: GroupId, groups: &[Group<'_>], survey: &Survey) -> Failure {
    if let Some((endpoint, why)) = survey.silent().next() {
        let message = format!("no process that answers has a replica of {wanted}; {endpoint}: {why}");
        return Failure { exit: Exit::Unavailable, code: "UNAVAILABLE", message };
    }
    let known: Vec<String> = groups.iter().map(|group| group.id.to_string()).collect();
    let known = if known.is_empty() { "no groups of replicas".to_owned() } else { known.join(", ") };
    Failure::bad_input(format!("there is no {wanted}: the cluster has {known}"))
}

/// A member that has lost its disk has come back under another id: whoever names the old one means the new one, or is mistaken.
fn check_member(group: &Group<'_>, change: &Change) -> Result<(), Failure> {
    let wanted = match change {
        Change::Remove(id) => *id,
        Change::Replace(replace) => replace.old,
        Change::Lead(id) if *id != 0 => *id,
        Change::Lead(_) | Change::Add(_) => return Ok(()),
    };
    let wanted = MemberId::from_raw(wanted);
    let members: Vec<MemberId> = group.members().map(|(id, ..)| id).collect();
    if members.contains(&wanted) {
        return Ok(());
    }
    match members.iter().find(|member| member.number() == wanted.number()) {
        Some(other) => {
            Err(Failure::bad_input(format!("{} has no member {wanted}; it has {other}", group.id)))
        }
        // It may have been taken out by the same command before: the leader knows.
        None => Ok(()),
    }
}

/// Why the change was not made.
enum Refusal {
    /// Another one leads, or none.
    NotLeader(Option<String>),
    /// A leader was asked and did not come to answer.
    Broken,
    /// It would be refused again.
    Final(Failure),
}

async fn ask(
    leader: &str,
    group: GroupId,
    change: &Change,
    deadline: Instant,
) -> Result<v1::Replica, Refusal> {
    let wrong = |error: tonic::transport::Error| Refusal::Final(Failure::bad_input(error.to_string()));
    let endpoint = Endpoint::from_shared(leader.to_owned()).map_err(wrong)?;
    let endpoint = endpoint.connect_timeout(Duration::from_secs(2));
    // Whoever led there is gone: the next one is looked for.
    let channel = endpoint.connect().await.map_err(|_| Refusal::NotLeader(None))?;
    let request = ChangeGroupRequest { group: Some(groups::name_of(group)), change: Some(change.clone()) };
    let mut client = ReplicaServiceClient::new(channel);
    match timeout_at(deadline, client.change_group(request)).await {
        Ok(Ok(answer)) => Ok(answer.into_inner().replica.unwrap_or_default()),
        Ok(Err(status)) => Err(refusal(group, &status)),
        Err(_) => Err(Refusal::Final(Failure {
            exit: Exit::Unknown,
            code: "OUTCOME_UNKNOWN",
            message: format!(
                "{group} has not made the change in time, and may still: see escrow cluster status, or ask again"
            ),
        })),
    }
}

fn refusal(group: GroupId, status: &Status) -> Refusal {
    let info = status.get_details_error_info().filter(|info| info.domain == ERROR_DOMAIN);
    if let Some(mut info) = info.filter(|info| info.reason == "NOT_LEADER") {
        return Refusal::NotLeader(info.metadata.remove("leader").filter(|leader| !leader.is_empty()));
    }
    let message = format!("{group}: {}", status.message());
    match status.code() {
        // The connection broke, or the server is about to end.
        Code::Unavailable | Code::Cancelled | Code::Unknown => Refusal::Broken,
        Code::InvalidArgument | Code::FailedPrecondition | Code::NotFound | Code::Unimplemented => {
            Refusal::Final(Failure { exit: Exit::BadInput, code: "REJECTED", message })
        }
        _ => Refusal::Final(Failure::internal(message)),
    }
}

fn report(group: GroupId, replica: &v1::Replica, output: &Output) {
    let members = replica.members.iter().filter_map(|member| {
        let known = member.member.as_ref()?;
        Some((MemberId::from_raw(known.id), known.endpoint.as_str(), member.voter))
    });
    let members: Vec<(MemberId, &str, bool)> = members.collect();
    let leader = members.iter().find(|(_, endpoint, _)| *endpoint == replica.leader).map(|(id, ..)| *id);
    output.json(&json!({
        "group": group.to_string(),
        "leader": leader.map(|id| id.to_string()),
        "term": replica.term,
        "members": members.iter().map(|(id, endpoint, voter)| {
            json!({ "member": id.to_string(), "endpoint": endpoint, "voter": voter })
        }).collect::<Vec<_>>(),
    }));
    let ids: Vec<String> = members.iter().map(|(id, ..)| id.to_string()).collect();
    let leads = leader.map_or_else(|| "nobody is known to lead".to_owned(), |id| format!("{id} leads"));
    output.line(format!("{group}: members {}; {leads}, term {}", ids.join(", "), replica.term));
}
