//! Whether a partition or shard serves, and whether one of its replicas can be spared.
//!
//! What is waited for here does not borrow the cluster, so that the supervisor goes on meanwhile.
//!
//! **Invariant:** asks only; changes nothing.

use std::time::Duration;

use escrow_client::{Client, Options, RetryPolicy, report};
use escrow_proto::v1;
use escrow_proto::v1::replica::Role;
use escrow_replica::GroupId;
use tokio::time::{Instant, sleep};

use crate::groups;
use crate::health::wait_serving;
use crate::spec::NodeId;

/// How long one look may take.
const LOOK: Duration = Duration::from_secs(2);
/// How long to wait between looks.
const PAUSE: Duration = Duration::from_millis(10);
/// A follower that lacks no more than so many entries has caught up: under load it is always a few behind, and the looks at it and
/// at its leader are not at one moment.
const BEHIND_MAX: u64 = 128;

/// What is missing, and on which process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unready {
    pub(crate) node: NodeId,
    pub(crate) why: String,
}

/// What a process says of its replica of one group.
type Answer = (NodeId, Result<v1::Replica, String>);

/// How much is asked of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// One replica leads and serves.
    Serves,
    /// And every other one could do so in its place.
    CanSpareOne,
}

/// The processes of one partition or shard, and where they listen.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    pub(crate) group: GroupId,
    pub(crate) processes: Vec<(NodeId, String)>,
}

impl Group {
    /// Who leads, if anybody is known to.
    pub(crate) async fn leader(&self) -> Option<NodeId> {
        if let [(only, _)] = self.processes.as_slice() {
            return Some(*only);
        }
        let answers = self.ask().await;
        let answered = answers.iter().filter_map(|(node, answer)| Some((*node, answer.as_ref().ok()?)));
        groups::leader(answered)
    }

    /// Waits until the group is as wanted, for at most `within`; gives who leads. Otherwise what was missing at the end.
    pub(crate) async fn wait(&self, wanted: Wanted, within: Duration) -> Result<NodeId, Unready> {
        let deadline = Instant::now() + within;
        loop {
            let missing = match self.look(wanted).await {
                Ok(leader) => return Ok(leader),
                Err(missing) => missing,
            };
            if Instant::now() >= deadline {
                return Err(missing);
            }
            sleep(PAUSE).await;
        }
    }

    async fn look(&self, wanted: Wanted) -> Result<NodeId, Unready> {
        let leader = match self.processes.as_slice() {
            [(only, endpoint)] => {
                let served = wait_serving(endpoint, Duration::ZERO).await;
                served.map(|()| *only).map_err(|why| Unready { node: *only, why })?
            }
            _ => judge(&self.ask().await, wanted)?,
        };
        if self.group.is_coordinator() {
            greeted(self.endpoint(leader)).await.map_err(|why| Unready { node: leader, why })?;
        }
        Ok(leader)
    }

    fn endpoint(&self, node: NodeId) -> &str {
        let process = self.processes.iter().find(|(other, _)| *other == node);
        process.map_or("", |(_, endpoint)| endpoint)
    }

    /// Asks all at once: a process that is silent must not make the others look old.
    async fn ask(&self) -> Vec<Answer> {
        let group = self.group;
        let asking: Vec<_> = self
            .processes
            .iter()
            .cloned()
            .map(|(node, endpoint)| (node, tokio::spawn(async move { groups::ask(&endpoint, LOOK).await })))
            .collect();
        let mut answers = Vec::with_capacity(asking.len());
        for (node, asked) in asking {
            let replicas = asked.await.unwrap_or_else(|error| Err(error.to_string()));
            let of_group = |replicas: Vec<v1::Replica>| {
                let mine = replicas.into_iter().find(|replica| groups::group_of(replica) == Some(group));
                mine.ok_or_else(|| format!("it has no replica of {group}"))
            };
            answers.push((node, replicas.and_then(of_group)));
        }
        answers
    }
}

/// Who leads a group that is as wanted.
fn judge(answers: &[Answer], wanted: Wanted) -> Result<NodeId, Unready> {
    let (leader, committed) = led(answers)?;
    if wanted == Wanted::CanSpareOne {
        for (node, answer) in answers.iter().filter(|(node, _)| *node != leader) {
            caught_up(answer, committed).map_err(|why| Unready { node: *node, why })?;
        }
    }
    Ok(leader)
}

/// The one that leads, and how much it knows to be committed.
fn led(answers: &[Answer]) -> Result<(NodeId, u64), Unready> {
    let leads = |(node, answer): &Answer| {
        let replica = answer.as_ref().ok().filter(|replica| replica.role() == Role::Leader)?;
        Some((*node, replica.committed))
    };
    let leaders: Vec<(NodeId, u64)> = answers.iter().filter_map(leads).collect();
    match leaders.as_slice() {
        [one] => Ok(*one),
        [] => {
            // Whoever does not answer is the likely reason.
            let silent = answers.iter().find(|(_, answer)| answer.is_err()).or(answers.first());
            let node = silent.expect("a group has processes").0;
            let why = answers.iter().map(told).collect::<Vec<_>>().join("; ");
            Err(Unready { node, why: format!("no replica leads: {why}") })
        }
        [(node, _), (other, _), ..] => {
            Err(Unready { node: *node, why: format!("{other} says that it leads, too") })
        }
    }
}

fn told((node, answer): &Answer) -> String {
    match answer {
        Ok(replica) => {
            let role = replica.role().as_str_name().trim_start_matches("ROLE_");
            format!("{node} is {role} in term {}", replica.term)
        }
        Err(why) => format!("{node}: {why}"),
    }
}

/// Whether a replica could lead at once if the leader went.
fn caught_up(answer: &Result<v1::Replica, String>, committed: u64) -> Result<(), String> {
    let replica = answer.as_ref().map_err(Clone::clone)?;
    if replica.role() != Role::Follower {
        return Err("it does not follow its leader yet".to_owned());
    }
    match committed.saturating_sub(replica.committed) {
        0..=BEHIND_MAX => Ok(()),
        behind => Err(format!("it is {behind} entries behind its leader")),
    }
}

/// Whether a coordinator has greeted every wallet shard: then the next transfer finds all of them.
async fn greeted(endpoint: &str) -> Result<(), String> {
    let options = Options { retry: RetryPolicy::never(), ..Options::within(LOOK) };
    let client = Client::connect([endpoint], options).map_err(|error| error.to_string())?;
    let status = client.status(0).await.map_err(|error| error.to_string())?;
    let missing =
        |participant: &&report::ParticipantStatus| participant.kind == "stream" && !participant.ready;
    match status.participants.iter().find(missing) {
        None => Ok(()),
        Some(participant) => {
            Err(format!("it has not greeted {}: {}", participant.name, participant.last_error))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn node(replica: u16) -> NodeId {
        NodeId::participant(0).replica(replica)
    }

    fn answer(number: u16, role: Role, term: u64, committed: u64) -> Answer {
        let replica = v1::Replica { role: role.into(), term, committed, ..v1::Replica::default() };
        (node(number), Ok(replica))
    }

    #[test]
    fn a_group_serves_when_one_leads() {
        let two = [answer(1, Role::Follower, 2, 9), answer(2, Role::Leader, 2, 9)];
        assert_eq!(judge(&two, Wanted::Serves), Ok(node(2)));
        let none = [answer(1, Role::Follower, 2, 9), (node(2), Err("it does not listen".to_owned()))];
        let missing = judge(&none, Wanted::Serves).unwrap_err();
        assert_eq!(missing.node, node(2), "the silent one is to blame");
        assert_eq!(
            missing.why,
            "no replica leads: participant-0.1 is FOLLOWER in term 2; participant-0.2: it does not listen"
        );
        let both = [answer(1, Role::Leader, 2, 9), answer(2, Role::Leader, 3, 9)];
        assert!(judge(&both, Wanted::Serves).unwrap_err().why.contains("participant-0.2 says"));
    }

    #[test]
    fn a_group_can_spare_one_when_all_others_have_caught_up() {
        let with = |third: Answer| {
            let answers = [answer(1, Role::Leader, 2, 1_000), answer(2, Role::Follower, 2, 990), third];
            judge(&answers, Wanted::CanSpareOne).map_err(|missing| (missing.node, missing.why))
        };
        assert_eq!(with(answer(3, Role::Follower, 2, 1_000 - BEHIND_MAX)), Ok(node(1)));
        // It may know more than the leader knew when that was asked.
        assert_eq!(with(answer(3, Role::Follower, 2, 1_010)), Ok(node(1)));
        let behind = with(answer(3, Role::Follower, 2, 1_000 - BEHIND_MAX - 1)).unwrap_err();
        assert_eq!(behind, (node(3), format!("it is {} entries behind its leader", BEHIND_MAX + 1)));
        for role in [Role::Learner, Role::Candidate, Role::Stopped] {
            assert_eq!(with(answer(3, role, 2, 1_000)).unwrap_err().0, node(3), "{role:?}");
        }
        assert_eq!(with((node(3), Err("gone".to_owned()))).unwrap_err(), (node(3), "gone".to_owned()));
    }

    #[tokio::test]
    async fn a_process_that_is_not_there_is_told_after_the_time() {
        let nowhere = |replica| (node(replica), "http://127.0.0.1:1".to_owned());
        let group = Group { group: node(1).group(), processes: vec![nowhere(1), nowhere(2), nowhere(3)] };
        let missing = group.wait(Wanted::Serves, Duration::from_millis(20)).await.unwrap_err();
        assert!(missing.why.contains("participant-0.3: it does not listen"), "{missing:?}");
        assert_eq!(group.leader().await, None);
        let alone = Group { group: node(0).group(), processes: vec![nowhere(0)] };
        assert!(alone.wait(Wanted::CanSpareOne, Duration::ZERO).await.is_err());
        assert_eq!(alone.leader().await, Some(node(0)), "nobody else could");
    }
}
