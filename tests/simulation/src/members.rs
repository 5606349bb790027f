//! Who belongs to groups, and how that changes: disks that are lost, members that are removed and added again, leads that move.
//!
//! Never more than a group can bear: a disk is lost only while all members of its groups vote, and so does each of them as it lives now.

use std::collections::BTreeSet;

use escrow_proto::v1;
use escrow_proto::v1::change_group_request::Change as Wanted;
use escrow_replica::{ChangeError, GroupId, MemberId, Replica};
use escrow_types::{ParticipantId, Partition};

use crate::time::{MS, Time};
use crate::trace::trace;
use crate::world::{Event, Node, World};

/// Between two attempts to add a member again.
const AGAIN: Time = 300 * MS;

/// A change that an operator has asked for.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    group: GroupId,
    pub(crate) wanted: Wanted,
}

impl World {
    fn all_groups(&self) -> Vec<GroupId> {
        let shards = (0..self.shards()).map(|shard| GroupId::Shard(ParticipantId(shard)));
        std::iter::once(GroupId::Coordinator(Partition(0))).chain(shards).collect()
    }

    fn groups_of(&self, node: Node) -> Vec<GroupId> {
        match node {
            Node::Coordinator(_) => vec![GroupId::Coordinator(Partition(0))],
            Node::Participant(at) => {
                let shards = self.participants[at].shards.iter();
                shards.map(|&shard| GroupId::Shard(ParticipantId(shard))).collect()
            }
        }
    }

    fn nodes_of(&self, group: GroupId) -> Vec<Node> {
        match group {
            GroupId::Coordinator(_) => (0..self.replicas).map(Node::Coordinator).collect(),
            GroupId::Shard(shard) => {
                let first = self.home[usize::from(shard.0)];
                (first..first + self.replicas).map(Node::Participant).collect()
            }
        }
    }

    fn leading(&self, group: GroupId) -> Option<Node> {
        match group {
            GroupId::Coordinator(_) => self.leader().map(Node::Coordinator),
            GroupId::Shard(shard) => self.leader_of(shard.0).map(Node::Participant),
        }
    }

    fn replica(&self, node: Node, group: GroupId) -> Option<&Replica> {
        match node {
            Node::Coordinator(at) => self.coordinators[at].server.as_ref()?.replicas().get(group),
            Node::Participant(at) => self.participants[at].server.as_ref()?.replicas().get(group),
        }
    }

    /// Whether all replicas of a group are up, and each of them knows all as voters.
    fn is_whole(&self, group: GroupId) -> bool {
        let replicas: Option<Vec<_>> =
            self.nodes_of(group).into_iter().map(|node| self.replica(node, group)).collect();
        let Some(replicas) = replicas else { return false };
        let all: BTreeSet<u64> = replicas.iter().map(|replica| replica.me().id.get()).collect();
        replicas.iter().all(|replica| {
            let members = replica.report().members;
            let voters = members.into_iter().filter(|member| member.voter).filter_map(|it| it.member);
            voters.map(|member| member.id).collect::<BTreeSet<_>>() == all
        })
    }

    /// How every replica stands, for people.
    pub(crate) fn standings(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for group in self.all_groups() {
            for node in self.nodes_of(group) {
                let Some(replica) = self.replica(node, group) else { continue };
                let report = replica.report();
                let members = report.members.iter().filter_map(|it| Some((it.member.as_ref()?, it.voter)));
                let members: Vec<_> = members
                    .map(|(member, votes)| {
                        format!("{}{}", MemberId::from_raw(member.id), if votes { "" } else { " (learns)" })
                    })
                    .collect();
                lines.push(format!(
                    "{group} {}: {:?} in term {}, last {}, committed {}, applied {}, purged {}, members {members:?}",
                    replica.me().id,
                    report.role(),
                    report.term,
                    report.last,
                    report.committed,
                    report.applied,
                    report.purged,
                ));
            }
        }
        lines
    }

    /// A process dies, and its disk is gone for good.
    pub(crate) fn lose_disk(&mut self) {
        let nodes = self.nodes();
        let node = nodes[self.chance.index(nodes.len())];
        let can_bear = |group: &GroupId| !self.removed.contains_key(group) && self.is_whole(*group);
        if !self.groups_of(node).iter().all(can_bear) {
            return;
        }
        trace!(self, "{node:?} loses its disk");
        self.dies(node);
        let seed = self.chance.next();
        match node {
            Node::Coordinator(at) => {
                self.coordinators[at].gets_an_empty_disk(seed);
                self.groups.coordinator.lost_disk(at);
            }
            Node::Participant(at) => {
                self.participants[at].gets_an_empty_disk(seed);
                for &shard in &self.participants[at].shards {
                    self.groups.shards[usize::from(shard)].lost_disk(at % self.replicas);
                }
            }
        }
    }

    /// An operator moves a lead, or removes a member for a while.
    pub(crate) fn change_members(&mut self) {
        let groups = self.all_groups();
        let group = groups[self.chance.index(groups.len())];
        let Some(leader) = self.leading(group) else { return };
        if self.chance.one_in(2) {
            trace!(self, "{leader:?} is to let another lead {group}");
            self.change(leader, group, Wanted::Lead(0));
            if self.chance.one_in(2) {
                // So that it does not hear for a while that another does: no lease keeps the others from that.
                let (after, lasts) = (self.chance.below(30 * MS), self.chance.between(200 * MS, 2_000 * MS));
                self.at(after, Event::Isolate(leader, lasts));
            }
            return;
        }
        if self.removed.contains_key(&group) || !self.is_whole(group) {
            return;
        }
        let nodes = self.nodes_of(group);
        let node = nodes[self.chance.index(nodes.len())];
        let id = self.replica(node, group).expect("all are up").me().id.get();
        trace!(self, "{node:?} is to be removed from {group}, by {leader:?}");
        self.removed.insert(group, id);
        self.change(leader, group, Wanted::Remove(id));
        let after = self.chance.between(10 * MS, 1_000 * MS);
        self.at(after, Event::PutBack(group, node));
    }

    fn change(&mut self, leader: Node, group: GroupId, wanted: Wanted) {
        let Some(replica) = self.replica(leader, group).cloned() else { return };
        self.runtime(leader).change(Change { group, wanted }, replica);
        match leader {
            Node::Coordinator(at) => self.coordinator_turn_due(at),
            Node::Participant(at) => self.participant_turn_due(at),
        }
    }

    /// A change has ended.
    pub(crate) fn changed(&mut self, change: &Change, result: &Result<(), ChangeError>) {
        trace!(self, "{}: {:?} has ended: {result:?}", change.group, change.wanted);
        let group = change.group;
        // A member that has lost its disk is another, in the same place.
        let place = |id: u64| MemberId::from_raw(id).number();
        match (&change.wanted, result) {
            (Wanted::Add(member), Ok(()))
                if self.removed.get(&group).copied().map(place) == Some(place(member.id)) =>
            {
                self.removed.remove(&group);
            }
            // It may have been added, which changed nothing, before it was removed at last.
            (&Wanted::Remove(id), Ok(())) if self.removed.insert(group, id).is_none() => {
                let node = self.nodes_of(group)[place(id) as usize - 1];
                self.at(AGAIN, Event::PutBack(group, node));
            }
            _ => {}
        }
    }

    /// From now on whoever is missing is added again: a removal may take effect when nobody waits for it any more.
    pub(crate) fn look_after_members(&mut self) {
        if self.replicas == 1 {
            return;
        }
        for group in self.all_groups() {
            for node in self.nodes_of(group) {
                self.at(AGAIN, Event::PutBack(group, node));
            }
        }
    }

    /// Whether the leader of a group counts a replica among its voters, if it can be asked.
    fn is_voter(&self, group: GroupId, node: Node) -> Option<bool> {
        let leader = self.leading(group).and_then(|leader| self.replica(leader, group))?;
        let id = self.replica(node, group)?.me().id.get();
        let is_it = |member: &v1::Member| member.id == id;
        Some(leader.report().members.iter().any(|it| it.voter && it.member.as_ref().is_some_and(is_it)))
    }

    /// A member that was removed is added again, as often as it takes.
    pub(crate) fn put_back(&mut self, group: GroupId, node: Node) {
        if self.is_calm {
            self.at(AGAIN, Event::PutBack(group, node));
            match self.is_voter(group, node) {
                None => return,
                Some(false) => {}
                Some(true) => {
                    let place = self.nodes_of(group).iter().position(|other| *other == node);
                    let is_it = |id: &u64| Some(MemberId::from_raw(*id).number() as usize - 1) == place;
                    if self.removed.get(&group).is_some_and(is_it) {
                        self.removed.remove(&group);
                    }
                    return;
                }
            }
        } else if !self.removed.contains_key(&group) {
            return;
        } else {
            self.at(AGAIN, Event::PutBack(group, node));
        }
        let Some(member) = self.replica(node, group).map(|replica| replica.me().clone()) else { return };
        let Some(leader) = self.leading(group) else { return };
        let member = v1::Member { id: member.id.get(), endpoint: member.endpoint };
        self.change(leader, group, Wanted::Add(member));
    }
}
