//! Why a coordinator does not start, or stops by itself.

use std::path::PathBuf;

use escrow_journal::JournalError;
use escrow_service::ListenError;

/// An operating error of the server. Nothing of this is retried inside: the supervisor decides.
#[derive(Debug, thiserror::Error)]
pub enum CoordinatorError {
    /// A setting cannot work.
    #[error("configuration: {0}")]
    Config(String),
    /// The listener cannot be bound.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The recovery log cannot be opened, or failed. A failed log stops the server: nothing may be acknowledged any more.
    #[error("recovery log: {0}")]
    Journal(#[from] JournalError),
    /// A file besides the log cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The directory is not a coordinator's, or another partition's.
    #[error("{path} is not the data directory of this coordinator: {why}")]
    Foreign {
        /// Which directory.
        path: PathBuf,
        /// What does not fit.
        why: String,
    },
    /// The directory is in use.
    #[error("{0} is in use by another process")]
    InUse(PathBuf),
    /// Bytes of the log are not what this version writes.
    #[error("entry {index} of the recovery log cannot be understood: {why}")]
    Entry {
        /// Which.
        index: u64,
        /// What is wrong.
        why: String,
    },
    /// The transport failed.
    #[error("server: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// A participant has seen a newer epoch: another process leads this partition.
    #[error("deposed: a participant has seen a newer epoch of partition {0}; another coordinator leads it")]
    Deposed(u16),
    /// Replication does not start, or has stopped.
    #[error(transparent)]
    Replica(#[from] escrow_replica::ReplicaError),
}
