//! Who belongs to a group, and changes of that.
//!
//! A change is made by the leader, one at a time: a new member first catches up as a learner, then votes. A member that has lost its disk
//! comes back under another id and takes the place of what it was (see [`MemberId`](crate::MemberId)).
//!
//! **Invariant:** a member id never comes back with an empty log.

use std::collections::BTreeSet;
use std::time::Duration;

use escrow_proto::v1;
use escrow_proto::v1::call_request::Call;
use escrow_proto::v1::call_response::Answer;
use escrow_proto::v1::change_group_request::Change;
use openraft::RaftMetrics;
use openraft::async_runtime::watch::WatchReceiver as _;

use crate::error::NotLeader;
use crate::group::{Replica, member_id};
use crate::runtime;
use crate::types::{Address, Member, Types};
use crate::wire;

/// A learner that lacks no more than so many entries may vote.
const BEHIND_MAX: u64 = 64;
/// Between two looks at how far a learner is, or two requests to be taken in.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a request to be taken in may take.
const JOIN_WITHIN: Duration = Duration::from_secs(5);

/// Why a change was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Ask the leader.
    #[error(transparent)]
    NotLeader(#[from] NotLeader),
    /// It cannot be made.
    #[error("{0}")]
    Refused(String),
}

fn refused(error: impl std::fmt::Display) -> ChangeError {
    ChangeError::Refused(error.to_string())
}

/// The voter besides this replica that has most of the log.
pub(crate) fn successor(metrics: &RaftMetrics<Types>) -> Option<u64> {
    let voters = Replica::voters(metrics);
    let others = metrics.replication.as_ref()?.iter();
    let others = others.filter(|(id, _)| **id != metrics.id && voters.contains(id));
    others.max_by_key(|(_, matched)| **matched).map(|(id, _)| *id)
}

/// The members that are to vote when a change is over, of which only the first half is made: until the second is, everything needs the
/// majority of the old ones *and* of the new ones.
pub(crate) fn half_made(metrics: &RaftMetrics<Types>) -> Option<BTreeSet<u64>> {
    let stored = &metrics.membership_config;
    let configs = stored.membership().get_joint_config();
    let is_half = configs.len() > 1 && *stored == metrics.committed_membership_config;
    configs.last().filter(|_| is_half).cloned()
}

impl Replica {
    /// Changes the group; returns when the change is committed. Asking for what is so already is no error: a repetition is safe.
    pub async fn change(&self, change: Change) -> Result<(), ChangeError> {
        match change {
            Change::Add(member) => self.take_in(&wire::to_member(member), &[]).await,
            Change::Remove(id) => self.take_out(id).await,
            Change::Replace(replace) => {
                let new = replace.new.ok_or_else(|| refused("the new member is missing"))?;
                self.take_in(&wire::to_member(new), &[replace.old]).await
            }
            Change::Lead(id) => self.let_lead(id).await,
        }
    }

    fn lead_now(&self) -> Result<RaftMetrics<Types>, NotLeader> {
        let metrics = self.0.raft.metrics().borrow_watched().clone();
        // A leader that was removed goes on until that is committed; it must change nothing more.
        let leads = metrics.state.is_leader() && Replica::voters(&metrics).contains(&metrics.id);
        if leads { Ok(metrics) } else { Err(self.not_leader()) }
    }

    /// A leader does not remove itself: another leads, and is the one to ask.
    async fn step_aside(&self) -> Result<(), ChangeError> {
        self.let_lead(0).await?;
        Err(self.not_leader().into())
    }

    /// One step towards `new` being a voter and none of `old` a member. True when that is so.
    pub(crate) async fn step_in(&self, new: &Member, old: &[u64]) -> Result<bool, ChangeError> {
        let metrics = self.lead_now()?;
        let membership = metrics.membership_config.membership();
        let (voters, id) = (Replica::voters(&metrics), new.id.get());
        if membership.get_node(&id).is_none() {
            let address = Address(new.endpoint.clone());
            self.0.raft.add_learner(id, address, false).await.map_err(refused)?;
            return Ok(false);
        }
        let is_settled = metrics.membership_config == metrics.committed_membership_config
            && membership.get_joint_config().len() == 1;
        let left: BTreeSet<u64> =
            old.iter().copied().filter(|old| membership.get_node(old).is_some()).collect();
        if voters.contains(&id) && left.is_empty() {
            return Ok(is_settled);
        }
        if voters.contains(&id) && left.is_disjoint(&voters) && is_settled {
            // Lives that ended before they could vote.
            let change = openraft::ChangeMembers::RemoveNodes(left);
            self.0.raft.change_membership(change, false).await.map_err(refused)?;
            return Ok(true);
        }
        let matched = metrics.replication.as_ref().and_then(|all| all.get(&id).copied().flatten());
        let behind = metrics.last_log_index.unwrap_or(0).saturating_sub(matched.map_or(0, |id| id.index));
        if matched.is_none() || behind > BEHIND_MAX || !is_settled {
            return Ok(false);
        }
        if left.contains(&metrics.id) {
            self.step_aside().await?;
        }
        let mut wanted = voters.clone();
        wanted.insert(id);
        wanted.retain(|voter| !left.contains(voter));
        self.0.raft.change_membership(wanted, false).await.map_err(refused)?;
        // Those of them that did not vote are still to go.
        Ok(left.is_subset(&voters))
    }

    async fn take_in(&self, new: &Member, old: &[u64]) -> Result<(), ChangeError> {
        while !self.step_in(new, old).await? {
            runtime::sleep(PAUSE).await;
        }
        Ok(())
    }

    async fn take_out(&self, id: u64) -> Result<(), ChangeError> {
        let metrics = self.lead_now()?;
        if metrics.membership_config.membership().get_node(&id).is_none() {
            return Ok(());
        }
        let mut voters = Replica::voters(&metrics);
        if voters.len() == 1 && voters.contains(&id) {
            return Err(refused("it is the last member of its group"));
        }
        if id == metrics.id {
            return self.step_aside().await;
        }
        if voters.remove(&id) {
            self.0.raft.change_membership(voters, false).await.map_err(refused)?;
        } else {
            let learners = BTreeSet::from([id]);
            let change = openraft::ChangeMembers::RemoveNodes(learners);
            self.0.raft.change_membership(change, false).await.map_err(refused)?;
        }
        Ok(())
    }

    async fn let_lead(&self, id: u64) -> Result<(), ChangeError> {
        let metrics = self.lead_now()?;
        let to = match id {
            0 => successor(&metrics).ok_or_else(|| refused("there is no other voter"))?,
            id if Replica::voters(&metrics).contains(&id) => id,
            id => return Err(refused(format!("{} is not a voter of this group", member_id(id)))),
        };
        if to == metrics.id {
            return Ok(());
        }
        let metrics = self.0.raft.metrics();
        let handing_over = async {
            loop {
                if self.0.standing.borrow().leads {
                    self.offer(to).await;
                }
                match metrics.borrow_watched().current_leader {
                    Some(leader) if leader == to => return Ok(()),
                    Some(leader) if leader != self.0.me.id.get() => {
                        return Err(refused(format!("{} took over instead", member_id(leader))));
                    }
                    _ => {}
                }
                runtime::sleep(PAUSE).await;
            }
        };
        let moved = runtime::within(Duration::from_secs(5), handing_over).await;
        moved.unwrap_or_else(|| Err(refused("the other did not take over in time")))
    }

    /// A process has lost its disk and asks to be taken in place of what it was: one step. Empty: it is a voter now.
    pub(crate) async fn admit(&self, new: &Member) -> v1::JoinAnswer {
        let refuse = |why: String| v1::JoinAnswer { refused: why, leader: String::new() };
        let metrics = match self.lead_now() {
            Ok(metrics) => metrics,
            Err(error) => {
                let leader = error.leader.clone().unwrap_or_default();
                return v1::JoinAnswer { refused: error.to_string(), leader };
            }
        };
        let members = metrics.membership_config.membership().nodes().map(|(&id, _)| id);
        let same: Vec<u64> = members.filter(|&id| member_id(id).number() == new.id.number()).collect();
        let old: Vec<u64> = same.iter().copied().filter(|&id| id != new.id.get()).collect();
        if same.is_empty() {
            return refuse(format!(
                "{} is not a member of {}: an operator must add it",
                new.id, self.0.group
            ));
        }
        match self.step_in(new, &old).await {
            Ok(true) => v1::JoinAnswer::default(),
            Ok(false) => refuse("catching up".into()),
            Err(error) => refuse(error.to_string()),
        }
    }
}

/// Asks until this member is a voter. For a replica whose log was empty and whose group is not new.
pub(crate) async fn join(replica: Replica) {
    let inner = &replica.0;
    let mut told = String::new();
    loop {
        let metrics = inner.raft.metrics().borrow_watched().clone();
        if metrics.running_state.is_err() || Replica::voters(&metrics).contains(&metrics.id) {
            tracing::info!(group = %inner.group, member = %inner.me.id, "taken in");
            return;
        }
        for (&number, endpoint) in inner.peers.directory.iter() {
            if number == inner.me.id.number() {
                continue;
            }
            let call = Call::Join(v1::JoinCall { member: Some(wire::member(&inner.me)) });
            // Whoever listens there may have any life.
            let answer = match inner.peers.call(u64::MAX, endpoint, call, JOIN_WITHIN).await {
                Ok(Answer::Join(answer)) if answer.refused.is_empty() => return,
                Ok(Answer::Join(answer)) => answer.refused,
                Ok(_) | Err(_) => continue,
            };
            if answer != told {
                tracing::info!(group = %inner.group, member = %inner.me.id, answer, "asking to be taken in");
                told = answer;
            }
        }
        runtime::sleep(PAUSE).await;
    }
}
