//! openraft's types, as this house uses them.

use std::fmt;

use bytes::Bytes;
use escrow_types::{ParticipantId, Partition};
use openraft::impls::leader_id_std;

use crate::runtime::Runtime;

openraft::declare_raft_types!(
    /// Terms lead by one member each, so that a coordinator's epoch can be the term.
    pub Types:
        D = Commands,
        R = (),
        NodeId = u64,
        Node = Address,
        LeaderId = leader_id_std::LeaderId<u64, u64>,
        AsyncRuntime = Runtime,
);

/// One batch of commands of a state machine, as its owner encoded them.
#[derive(Clone, PartialEq, Eq)]
pub struct Commands {
    /// Counts the batches that one leader proposes in one term, from 1. openraft may refuse one (the lease has lapsed for a moment)
    /// and take the next: whatever does not follow the one before it is void, and proposed again.
    pub sequence: u64,
    /// The commands.
    pub bytes: Bytes,
}

impl fmt::Debug for Commands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} bytes", self.sequence, self.bytes.len())
    }
}

impl fmt::Display for Commands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Where a member listens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Address(pub String);

/// A member that there never is: a vote for it says only that no older term is to come back, and nobody leads by it.
pub(crate) const NOBODY: u64 = u64::MAX;

pub(crate) type LeaderId = leader_id_std::LeaderId<u64, u64>;
pub(crate) type Term = <LeaderId as openraft::vote::RaftLeaderId>::Committed;
pub(crate) type Vote = openraft::impls::Vote<LeaderId>;
pub(crate) type LogId = openraft::LogId<Term>;
pub(crate) type Payload = openraft::EntryPayload<Commands, u64, Address>;
pub(crate) type Entry = openraft::impls::Entry<Term, Payload>;
pub(crate) type Membership = openraft::Membership<u64, Address>;
pub(crate) type StoredMembership = openraft::StoredMembership<Term, u64, Address>;
pub(crate) type RaftSnapshot = openraft::Snapshot<Term, u64, Address, crate::machine::Snapshot>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<Term, u64, Address>;

/// A group of replicas: they hold one state machine together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GroupId {
    /// The partition of a coordinator.
    Coordinator(Partition),
    /// A wallet shard.
    Shard(ParticipantId),
}

impl GroupId {
    /// Whether it is the partition of a coordinator, and not a shard.
    pub const fn is_coordinator(self) -> bool {
        matches!(self, Self::Coordinator(_))
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Coordinator(partition) => write!(f, "coordinator-{}", partition.0),
            Self::Shard(shard) => write!(f, "shard-{}", shard.0),
        }
    }
}

/// One replica of a group, for as long as it keeps its disk. A process that has lost its disk comes back as another member: what it
/// had promised before is forgotten, so it must not vote under the old name (openraft, "node IDs must not be reused").
///
/// Written as `3`, or `3.9f21c07e` for a life after the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(u64);

impl MemberId {
    /// The first life of a numbered process.
    pub const fn first(number: u32) -> Self {
        Self((number as u64) << 32)
    }

    /// A later life, with a number drawn at random.
    pub const fn another(number: u32, life: u32) -> Self {
        Self(((number as u64) << 32) | life as u64)
    }

    /// As Raft counts members.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// From what [`MemberId::get`] gave.
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// The number of the process, over all its lives.
    pub const fn number(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Which of its lives; 0 is the first.
    pub const fn life(self) -> u32 {
        self.0 as u32
    }
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 as u32 {
            0 => write!(f, "{}", self.number()),
            life => write!(f, "{}.{life:08x}", self.number()),
        }
    }
}

impl std::str::FromStr for MemberId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is not a member: expected such as 3 or 3.9f21c07e");
        let (number, life) = match text.split_once('.') {
            None => (text, 0),
            Some((number, life)) => (number, u32::from_str_radix(life, 16).map_err(|_| wrong())?),
        };
        Ok(Self::another(number.parse().map_err(|_| wrong())?, life))
    }
}

/// A member and where it listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Which one.
    pub id: MemberId,
    /// Such as `http://10.0.0.3:7410`.
    pub endpoint: String,
}

/// Where a state machine is in the log of its group. Part of its checkpoints, and opaque there: [`Position::encode`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Position {
    pub(crate) last: Option<LogId>,
    pub(crate) membership: StoredMembership,
    /// Term and sequence of the last commands that were not void.
    pub(crate) sequence: (u64, u64),
}

impl Position {
    /// The last entry that is applied; 0 before the first.
    pub fn index(&self) -> u64 {
        // openraft counts from 0, the house from 1.
        self.last.map_or(0, |last| last.index + 1)
    }

    /// The term of that entry.
    pub fn term(&self) -> u64 {
        self.last.map_or(0, |last| last.leader_id.term)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_written_as_they_are_read() {
        for (id, text) in [(MemberId::first(3), "3"), (MemberId::another(3, 0x9f21), "3.00009f21")] {
            assert_eq!(id.to_string(), text);
            assert_eq!(text.parse(), Ok(id));
            assert_eq!((MemberId::from_raw(id.get()), id.number()), (id, 3));
        }
        for wrong in ["", "x", "1.", "1.x", "-1", "4294967296", "1.100000000"] {
            assert!(wrong.parse::<MemberId>().is_err(), "{wrong}");
        }
    }
}
