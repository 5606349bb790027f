//! Everything that keeps a participant from starting or going on, each with a name and a place.

use std::path::PathBuf;
use std::sync::Arc;

use escrow_journal::{JournalError, JournalFailure};
use escrow_replica::ReplicaError;
use escrow_service::ListenError;

/// Why a participant does not start, or ends.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ParticipantError {
    /// A setting that cannot work.
    #[error("wrong configuration: {0}")]
    Config(String),
    /// Another process uses the directory.
    #[error("{} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// The directory holds something else, or belongs to other shards.
    #[error("{} is not the data directory of this participant: {why}", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// What it is instead.
        why: String,
    },
    /// The operating system refused a file operation.
    #[error("cannot use {}: {source}", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: Arc<std::io::Error>,
    },
    /// The log cannot be opened or read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// An entry of the log is not what this version writes.
    #[error("log entry {index} cannot be read: {why}")]
    Entry {
        /// Which entry.
        index: u64,
        /// What is wrong.
        why: String,
    },
    /// The log failed while running: the process must end.
    #[error(transparent)]
    LogFailed(#[from] JournalFailure),
    /// The view failed while running: the process must end. The log is whole.
    #[error("the view of shard {shard} in {} failed: {why}", path.display())]
    Store {
        /// Which shard.
        shard: u16,
        /// Its sled directory.
        path: PathBuf,
        /// What sled or the operating system said.
        why: String,
    },
    /// The address cannot be listened on.
    #[error(transparent)]
    Listen(Arc<ListenError>),
    /// The server's transport failed.
    #[error("the server failed: {0}")]
    Transport(String),
    /// Replication does not start, or has stopped: the process must end.
    #[error(transparent)]
    Replica(Arc<ReplicaError>),
    /// A snapshot that came from the leader, or was made for a follower, cannot be used.
    #[error("snapshot {}: {why}", path.display())]
    Snapshot {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A task or thread of the server ended before its time.
    #[error("{0} ended unexpectedly")]
    Ended(&'static str),
}

impl ParticipantError {
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source: Arc::new(source) }
    }
}

impl From<ListenError> for ParticipantError {
    fn from(error: ListenError) -> Self {
        Self::Listen(Arc::new(error))
    }
}

impl From<ReplicaError> for ParticipantError {
    fn from(error: ReplicaError) -> Self {
        Self::Replica(Arc::new(error))
    }
}
