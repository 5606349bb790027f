//! What can go wrong with a replica.

use escrow_journal::JournalError;

/// A message, or what a disk gave, is not what it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed: {0}")]
pub struct Malformed(pub &'static str);

/// Why a replica does not start, or has stopped.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    /// The journal failed, or could not be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A record of the journal is wrong.
    #[error("entry {index} of the journal: {why}")]
    Record {
        /// Its index in the journal.
        index: u64,
        /// What is wrong.
        why: String,
    },
    /// An entry of the group's log is none that Raft could have put there.
    #[error("entry {index} of the group's log: {why}")]
    Entry {
        /// Its index in the group's log; the first is 1.
        index: u64,
        /// What is wrong.
        why: String,
    },
    /// Raft has stopped: a broken disk, or a broken promise.
    #[error("raft: {0}")]
    Raft(String),
    /// Settings that cannot work.
    #[error("replication: {0}")]
    Config(String),
}

/// The replica does not lead its group, or not any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this replica does not lead its group")]
pub struct NotLeader {
    /// Endpoint of the leader, if it is known.
    pub leader: Option<String>,
}
