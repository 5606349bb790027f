//! openraft's types as messages, for the network and for the journal.
//!
//! **Invariant:** what comes from outside is refused with an error, never trusted and never a panic.

use std::collections::{BTreeMap, BTreeSet};

use escrow_proto::v1;
use escrow_types::{ParticipantId, Partition};
use openraft::vote::{RaftLeaderId as _, RaftVote as _};
use prost::Message as _;

use crate::error::Malformed;
use crate::types::{
    Address, Commands, Entry, GroupId, LeaderId, LogId, Member, MemberId, Membership, Payload, Position,
    StoredMembership, Term, Vote,
};

pub(crate) fn log_id(id: LogId) -> v1::LogId {
    v1::LogId { term: id.leader_id.term, index: id.index }
}

/// No term, index or sequence is as large: whoever counts on from one does not overflow.
const COUNT_MAX: u64 = 1 << 62;

fn counted(count: u64) -> Result<u64, Malformed> {
    if count < COUNT_MAX { Ok(count) } else { Err(Malformed("a term, index or sequence beyond all")) }
}

pub(crate) fn to_log_id(id: v1::LogId) -> Result<LogId, Malformed> {
    Ok(LogId { leader_id: Term::new(counted(id.term)?), index: counted(id.index)? })
}

/// The same of one that may be absent.
pub(crate) fn to_place(id: Option<v1::LogId>) -> Result<Option<LogId>, Malformed> {
    id.map(to_log_id).transpose()
}

pub(crate) fn ballot(vote: &Vote) -> v1::Ballot {
    let leader = vote.leader_id();
    v1::Ballot { term: leader.term, member: leader.voted_for, committed: vote.is_committed() }
}

pub(crate) fn to_vote(ballot: v1::Ballot) -> Result<Vote, Malformed> {
    Ok(Vote::from_leader_id(LeaderId::new(counted(ballot.term)?, ballot.member), ballot.committed))
}

pub(crate) fn wanted_vote(ballot: Option<v1::Ballot>) -> Result<Vote, Malformed> {
    to_vote(ballot.ok_or(Malformed("a vote is missing"))?)
}

pub(crate) fn entry(entry: &Entry) -> v1::LogEntry {
    use v1::log_entry::Payload as Message;
    let payload = match &entry.payload {
        Payload::Blank => None,
        Payload::Normal(commands) => Some(Message::Commands(commands.bytes.clone())),
        Payload::Membership(change) => Some(Message::Membership(membership(change))),
    };
    let sequence = match &entry.payload {
        Payload::Normal(commands) => commands.sequence,
        _ => 0,
    };
    v1::LogEntry { id: Some(log_id(entry.log_id)), payload, sequence }
}

pub(crate) fn to_entry(message: v1::LogEntry) -> Result<Entry, Malformed> {
    use v1::log_entry::Payload as Message;
    let id = message.id.ok_or(Malformed("an entry without a place"))?;
    let payload = match message.payload {
        None => Payload::Blank,
        Some(Message::Commands(bytes)) => {
            Payload::Normal(Commands { sequence: counted(message.sequence)?, bytes })
        }
        Some(Message::Membership(message)) => Payload::Membership(to_membership(message)?),
    };
    Ok(Entry { log_id: to_log_id(id)?, payload })
}

fn membership(membership: &Membership) -> v1::Membership {
    let configs = membership.get_joint_config().iter();
    let configs = configs.map(|voters| v1::membership::Voters { ids: voters.iter().copied().collect() });
    let members =
        membership.nodes().map(|(&id, Address(endpoint))| v1::Member { id, endpoint: endpoint.clone() });
    v1::Membership { configs: configs.collect(), members: members.collect() }
}

fn to_membership(message: v1::Membership) -> Result<Membership, Malformed> {
    let configs: Vec<BTreeSet<u64>> =
        message.configs.into_iter().map(|voters| voters.ids.into_iter().collect()).collect();
    let members: BTreeMap<u64, Address> =
        message.members.into_iter().map(|member| (member.id, Address(member.endpoint))).collect();
    if configs.is_empty() && members.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configs, members).map_err(|_| Malformed("a membership whose voters are no members"))
}

pub(crate) fn stored(stored: &StoredMembership) -> v1::StoredMembership {
    let id = stored.log_id().map(log_id);
    v1::StoredMembership { id, membership: Some(membership(stored.membership())) }
}

pub(crate) fn to_stored(message: v1::StoredMembership) -> Result<StoredMembership, Malformed> {
    let membership = message.membership.unwrap_or_default();
    Ok(StoredMembership::new(to_place(message.id)?, to_membership(membership)?))
}

pub(crate) fn group(group: GroupId) -> v1::GroupName {
    let (kind, number) = match group {
        GroupId::Coordinator(partition) => (v1::group_name::Kind::Coordinator, partition.0),
        GroupId::Shard(shard) => (v1::group_name::Kind::Shard, shard.0),
    };
    v1::GroupName { kind: kind.into(), number: number.into() }
}

pub(crate) fn to_group(name: Option<v1::GroupName>) -> Result<GroupId, Malformed> {
    let name = name.ok_or(Malformed("no group is named"))?;
    let number = u16::try_from(name.number).map_err(|_| Malformed("no group has such a number"))?;
    match name.kind() {
        v1::group_name::Kind::Coordinator => Ok(GroupId::Coordinator(Partition(number))),
        v1::group_name::Kind::Shard => Ok(GroupId::Shard(ParticipantId(number))),
        v1::group_name::Kind::Unspecified => Err(Malformed("no such kind of group")),
    }
}

pub(crate) fn member(member: &Member) -> v1::Member {
    v1::Member { id: member.id.get(), endpoint: member.endpoint.clone() }
}

pub(crate) fn to_member(message: v1::Member) -> Member {
    Member { id: MemberId::from_raw(message.id), endpoint: message.endpoint }
}

pub(crate) fn position(position: &Position) -> v1::Position {
    v1::Position {
        last: position.last.map(log_id),
        membership: Some(stored(&position.membership)),
        sequence_term: position.sequence.0,
        sequence: position.sequence.1,
    }
}

pub(crate) fn to_position(message: v1::Position) -> Result<Position, Malformed> {
    Ok(Position {
        last: to_place(message.last)?,
        membership: to_stored(message.membership.unwrap_or_default())?,
        sequence: (counted(message.sequence_term)?, counted(message.sequence)?),
    })
}

impl Position {
    /// The bytes of it, to be kept with a checkpoint.
    pub fn encode(&self) -> Vec<u8> {
        position(self).encode_to_vec()
    }

    /// What [`Position::encode`] gave.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        to_position(v1::Position::decode(bytes).map_err(|_| Malformed("not a position"))?)
    }
}
