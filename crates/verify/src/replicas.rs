//! Replicas: all that a partition or shard has are voters of its group, have applied the same entries, and made the same of them.
//!
//! Replicas are asked at different moments, so they are comparable only when they have applied equally much; when that does not happen
//! in time, because they work or because one is missing or behind, the answer is neither yes nor no.

use std::collections::BTreeMap;

use escrow_client::replicas::Told;
use escrow_client::report::{Replica, group_name, replica};
use tokio::time::Instant;

use super::{Check, CheckResult, Scene};

const NAME: &str = "all replicas hold the same state";
/// The pause between looks.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// What a replica said, and where it listens.
type Answer = (String, Result<Replica, String>);

/// Why the replicas are not all the same.
#[derive(Debug, PartialEq, Eq)]
enum Missing {
    /// The same entries gave different states: no time heals that.
    Differs(String),
    /// It cannot be said now.
    Open(String),
}

/// One check for each partition and shard that has replicas.
pub(super) async fn check(scene: &Scene<'_>) -> Vec<Check> {
    let mut checks = Vec::new();
    for (position, &partition) in scene.partitions.iter().enumerate() {
        let subject = format!("coordinator {partition}");
        let kind = group_name::Kind::Coordinator;
        let ask = async || of_group(scene.client.replicas(position).await, kind, partition);
        checks.extend(check_group(scene, &subject, ask).await);
    }
    for shard in &scene.shards {
        let ask = async || of_group(shard.client.replicas().await, group_name::Kind::Shard, shard.id);
        checks.extend(check_group(scene, &shard.subject(), ask).await);
    }
    checks
}

async fn check_group(scene: &Scene<'_>, subject: &str, ask: impl AsyncFn() -> Vec<Answer>) -> Option<Check> {
    let deadline = Instant::now() + scene.settings.quiescent_within;
    loop {
        let answers = ask().await;
        if answers.len() < 2 {
            return None;
        }
        let (result, detail) = match judge(&answers) {
            Ok(detail) => (CheckResult::Ok, detail),
            Err(Missing::Differs(detail)) => (CheckResult::Failed, detail),
            Err(Missing::Open(_)) if Instant::now() < deadline => {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            Err(Missing::Open(detail)) => (CheckResult::NotQuiescent, detail),
        };
        return Some(Check::new(subject, NAME, result, detail));
    }
}

/// What the processes of a group say of their replicas of it.
fn of_group(told: Vec<Told>, kind: group_name::Kind, number: u32) -> Vec<Answer> {
    let is_meant = |replica: &Replica| {
        replica.group.as_ref().is_some_and(|group| group.kind() == kind && group.number == number)
    };
    let answer = |told: Told| {
        let replica = told.replicas.map_err(|error| error.to_string()).and_then(|replicas| {
            replicas.into_iter().find(&is_meant).ok_or_else(|| "it holds no replica of the group".to_owned())
        });
        (told.endpoint, replica)
    };
    told.into_iter().map(answer).collect()
}

fn judge(answers: &[Answer]) -> Result<String, Missing> {
    let mut replicas = Vec::with_capacity(answers.len());
    for (endpoint, answer) in answers {
        match answer {
            Ok(replica) => replicas.push((endpoint.as_str(), replica)),
            Err(why) => return Err(Missing::Open(format!("{endpoint}: {why}"))),
        }
    }
    same_digests(&replicas)?;
    all_vote(&replicas)?;
    let (_, first) = replicas[0];
    if let Some((endpoint, other)) = replicas.iter().find(|(_, replica)| replica.applied != first.applied) {
        return Err(Missing::Open(format!(
            "{endpoint} has applied {} entries, {} {}",
            other.applied, replicas[0].0, first.applied
        )));
    }
    Ok(format!("{} replicas, digest {} at entry {}", replicas.len(), first.digest, first.applied))
}

/// Replicas that have applied equally much have the same digest.
fn same_digests(replicas: &[(&str, &Replica)]) -> Result<(), Missing> {
    let mut seen: BTreeMap<u64, (&str, &Replica)> = BTreeMap::new();
    for &(endpoint, replica) in replicas {
        if replica.digest.is_empty() {
            return Err(Missing::Open(format!("{endpoint} does not tell its digest")));
        }
        let (other, first) = *seen.entry(replica.applied).or_insert((endpoint, replica));
        if first.digest != replica.digest {
            return Err(Missing::Differs(format!(
                "at entry {}: digest {} on {other}, but {} on {endpoint}",
                replica.applied, first.digest, replica.digest
            )));
        }
    }
    Ok(())
}

/// One leads, and those that were asked are its voters, all of them.
fn all_vote(replicas: &[(&str, &Replica)]) -> Result<(), Missing> {
    let leaders = replicas.iter().filter(|(_, replica)| replica.role() == replica::Role::Leader);
    let Some((_, leader)) = leaders.max_by_key(|(_, replica)| replica.term) else {
        return Err(Missing::Open("no replica leads".to_owned()));
    };
    let voters: Vec<u64> = leader.members.iter().filter(|member| member.voter).map(id_of).collect();
    if let Some((endpoint, _)) = replicas.iter().find(|(_, replica)| !voters.contains(&replica.id)) {
        return Err(Missing::Open(format!("{endpoint} does not vote")));
    }
    if voters.len() != replicas.len() {
        return Err(Missing::Open(format!("{} vote, but {} were asked", voters.len(), replicas.len())));
    }
    Ok(())
}

fn id_of(member: &escrow_client::report::ReplicaMember) -> u64 {
    member.member.as_ref().map_or(0, |member| member.id)
}

#[cfg(test)]
mod tests {
    use escrow_client::report::{Member, ReplicaMember};

    use super::*;

    fn answer(id: u64, applied: u64, digest: &str) -> Answer {
        let role = if id == 1 { replica::Role::Leader } else { replica::Role::Follower };
        let member = |id| ReplicaMember {
            member: Some(Member { id, endpoint: String::new() }),
            voter: true,
            ..ReplicaMember::default()
        };
        let replica = Replica {
            id,
            role: role.into(),
            applied,
            digest: digest.to_owned(),
            members: (1..=3).map(member).collect(),
            ..Replica::default()
        };
        (format!("http://{id}"), Ok(replica))
    }

    fn open(answers: &[Answer]) -> String {
        match judge(answers) {
            Err(Missing::Open(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_same_state_at_the_same_place_holds() {
        let detail = judge(&[answer(1, 9, "a"), answer(2, 9, "a"), answer(3, 9, "a")]).unwrap();
        assert_eq!(detail, "3 replicas, digest a at entry 9");
    }

    #[test]
    fn another_state_at_the_same_place_fails_whatever_else_there_is() {
        let differs = judge(&[answer(1, 9, "a"), answer(2, 8, "a"), answer(3, 9, "b")]).unwrap_err();
        let Missing::Differs(why) = differs else { panic!("{differs:?}") };
        assert_eq!(why, "at entry 9: digest a on http://1, but b on http://3");
    }

    #[test]
    fn whoever_is_missing_or_behind_or_does_not_vote_leaves_it_open() {
        let all = || [answer(1, 9, "a"), answer(2, 9, "a"), answer(3, 9, "a")];
        assert_eq!(open(&[answer(1, 9, "a"), answer(2, 8, "c"), answer(3, 9, "a")]).as_str(), {
            "http://2 has applied 8 entries, http://1 9"
        });
        let mut silent = all();
        silent[1].1 = Err("no answer".to_owned());
        assert_eq!(open(&silent), "http://2: no answer");
        assert_eq!(open(&all()[1..]), "no replica leads");
        assert_eq!(open(&all()[..2]), "3 vote, but 2 were asked");
        let stranger = [answer(1, 9, "a"), answer(2, 9, "a"), answer(7, 9, "a")];
        assert_eq!(open(&stranger), "http://7 does not vote");
    }
}
