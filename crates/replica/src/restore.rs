//! A group that begins with a state that it was given: restored from a snapshot. And what is left of a group, when more than half of
//! it is lost.
//!
//! The log of such a replica says that everything up to the snapshot is purged, and that it has voted in a term before: so Raft goes on
//! from there, elects a leader among the new members in a newer term, and a replica that is empty later is sent a snapshot. It is never
//! sent entries from the first on, which would lack what was restored.
//!
//! **Invariant:** for servers that are stopped only. A replica that is restored has a life of its own, so that no promise of a former
//! member is broken by it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use escrow_journal::{Group, Journal};
use escrow_proto::v1;
use escrow_proto::v1::log_record::{Base, Record};
use prost::Message as _;

use crate::error::ReplicaError;
use crate::log::GroupLog;
use crate::machine::Committed;
use crate::types::{Member, MemberId, Membership, NOBODY, Position, StoredMembership};
use crate::wire;

/// What a replica is to be whose state is restored.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its data directory: empty, or not there yet.
    pub data_dir: PathBuf,
    /// The cluster that it is of.
    pub cluster_id: String,
    /// Which of the members it is.
    pub me: MemberId,
    /// The members of its group. Where they listen is only a hint: processes are told when they start.
    pub members: Vec<Member>,
    /// Its group begins in a newer term than this.
    pub term: u64,
}

/// Size of the segment that holds nothing but the first record: those that follow have the size that the server is told.
pub const FIRST_SEGMENT_BYTES: u64 = 1 << 20;

/// Writes the first record of the log of a replica whose state is restored: it goes on after a position, in terms after `term`. The
/// journal is new; whoever calls this makes it durable.
pub fn begin_log(
    journal: &Journal,
    group: Group,
    position: &Position,
    term: u64,
) -> Result<(), ReplicaError> {
    let last = position.last.map(wire::log_id);
    let vote = v1::Ballot { term: term.max(position.term()), member: NOBODY, committed: false };
    let base = Base { vote: Some(vote), purged: last, committed: last };
    let record = v1::LogRecord { record: Some(Record::Base(base)) };
    journal.append(group, record.encode_to_vec())?;
    Ok(())
}

impl Position {
    /// The same place in the log, with these members, all of them voters, in place of those of the past.
    pub fn with_members(&self, members: &[Member]) -> Result<Self, ReplicaError> {
        if self.last.is_none() {
            return Err(ReplicaError::Config("a state without an entry is none of a group".into()));
        }
        let voters: BTreeSet<u64> = members.iter().map(|member| member.id.get()).collect();
        let nodes = members.iter().map(|member| {
            let address = crate::types::Address(member.endpoint.clone());
            (member.id.get(), address)
        });
        let nodes: std::collections::BTreeMap<_, _> = nodes.collect();
        let membership = Membership::new(vec![voters], nodes)
            .map_err(|error| ReplicaError::Config(format!("the members: {error}")))?;
        Ok(Self { membership: StoredMembership::new(self.last, membership), ..self.clone() })
    }

    /// The members that vote, as of this place.
    pub fn voters(&self) -> BTreeSet<MemberId> {
        self.membership.membership().voter_ids().map(MemberId::from_raw).collect()
    }

    /// Whether these members could have elected a leader: then one of them has everything that was ever acknowledged.
    pub fn is_majority(&self, present: &BTreeSet<MemberId>) -> bool {
        let configs = self.membership.membership().get_joint_config();
        !configs.is_empty()
            && configs.iter().all(|voters| {
                let there = voters.iter().filter(|&&id| present.contains(&MemberId::from_raw(id)));
                there.count() * 2 > voters.len()
            })
    }
}

/// What the log of a stopped replica has beyond its checkpoint.
#[derive(Debug)]
pub struct Remainder {
    /// The newest term that the replica knows: it may have voted in it.
    pub term: u64,
    /// Up to here the replica knows that its group had agreed.
    pub committed: u64,
    /// What comes after a position, in order.
    pub entries: Vec<Committed>,
}

impl GroupLog {
    /// What comes after a position. The entries are not known to be committed, but for those up to [`Remainder::committed`].
    ///
    /// Refused if they cannot be what Raft put there: it appends without gaps, and terms never go back. Nobody else checks a log that is
    /// applied without a leader.
    pub fn remainder(&self, position: &Position) -> Result<Remainder, ReplicaError> {
        let (vote_term, committed, entries) = self.after(position.index());
        let mut last = (position.index(), position.term());
        for entry in &entries {
            let (index, term) = (entry.index(), entry.term());
            let wrong = |why| Err(ReplicaError::Entry { index, why });
            if index != last.0 + 1 {
                return wrong(format!("it comes after entry {}", last.0));
            }
            if term < last.1 {
                return wrong(format!("it is of term {term}, and the one before it of term {}", last.1));
            }
            last = (index, term);
        }
        let (term, committed) = (vote_term.max(last.1), committed.max(position.index()));
        Ok(Remainder { term, committed, entries })
    }
}
