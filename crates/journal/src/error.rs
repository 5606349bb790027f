//! Everything that can go wrong, each with a name and a place. Errors are cheap to clone, since one failure is told to
//! many waiters.

use crate::types::Index;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Result of a journal operation.
pub type Result<T, E = JournalError> = std::result::Result<T, E>;

/// Why a journal operation did not succeed.
///
/// Nothing here may be retried on the same handle, except [`JournalError::PayloadTooLarge`] with a smaller payload and
/// failures of a trim (the next trim starts over).
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// The operating system refused an operation.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// What was being done, as a verb.
        operation: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// The system's answer.
        source: Arc<io::Error>,
    },
    /// Another process (or another `Log` of this one) uses the directory.
    #[error("journal directory {} is in use by another process", .0.display())]
    Locked(PathBuf),
    /// The directory holds a file whose name is none of the journal's.
    #[error("{} is not a file of this journal; move it away", .0.display())]
    ForeignFile(PathBuf),
    /// A file with the right name belongs to another journal.
    #[error("{} belongs to journal {found:032x}, not to journal {expected:032x}", path.display())]
    ForeignJournal {
        /// The file.
        path: PathBuf,
        /// Id of the journal being opened.
        expected: u128,
        /// Id found in the file.
        found: u128,
    },
    /// A file with the right name does not start as such a file must.
    #[error("{} has a journal file's name but not its content (wrong magic)", .0.display())]
    WrongMagic(PathBuf),
    /// Written by a version that this one cannot read.
    #[error("{} has format version {found}; this build reads version {supported}", path.display())]
    UnknownVersion {
        /// The file.
        path: PathBuf,
        /// Version found.
        found: u32,
        /// Version this build reads.
        supported: u32,
    },
    /// Bytes that were durable once are no longer valid. The journal refuses to start.
    #[error("{} is damaged at offset {offset}, entry {index}: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Byte offset in the file (of the unpacked content, for a compressed file).
        offset: u64,
        /// First entry that cannot be read.
        index: Index,
        /// What was seen.
        reason: &'static str,
    },
    /// A segment between others (or the first one) is not there.
    #[error("a segment is missing in {}: nothing holds entry {expected}", dir.display())]
    MissingSegment {
        /// Journal directory.
        dir: PathBuf,
        /// First entry that no file holds.
        expected: Index,
    },
    /// There are segments but no `journal.meta`.
    #[error("{} holds segments but no journal.meta", .0.display())]
    MissingMeta(PathBuf),
    /// The journal ends before the index that the caller relies on: entries were lost.
    #[error(
        "the journal ends at entry {last}, but entries before {from} were relied upon (a checkpoint is newer)"
    )]
    BehindCheckpoint {
        /// The index asked for.
        from: Index,
        /// Last entry present.
        last: Index,
    },
    /// The entry was deleted by a trim (`Archive::Delete`).
    #[error("entry {index} was trimmed; the first one left is {first}")]
    Trimmed {
        /// The index asked for.
        index: Index,
        /// First index still there.
        first: Index,
    },
    /// A payload that would not fit into one segment. Nothing was appended.
    #[error("payload of {bytes} bytes; at most {bytes_max} fit into a segment")]
    PayloadTooLarge {
        /// Its size.
        bytes: usize,
        /// Largest possible size.
        bytes_max: usize,
    },
    /// An option outside its bounds.
    #[error("invalid option: {0}")]
    InvalidOption(&'static str),
    /// An earlier write or fsync failed; the journal takes nothing any more.
    #[error(transparent)]
    Failed(JournalFailure),
    /// The writer thread broke an invariant and ended.
    #[error("the journal's writer thread panicked")]
    WriterPanicked,
    /// The journal was closed.
    #[error("the journal is closed")]
    Closed,
    /// Close gave up waiting; whether the last entries are durable is unknown.
    #[error("the journal could not be closed in time; the outcome of entries after {durable} is unknown")]
    CloseTimedOut {
        /// Last index known to be durable.
        durable: Index,
    },
}

impl JournalError {
    pub(crate) fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> JournalError {
        move |source| JournalError::Io { operation, path: path.to_path_buf(), source: Arc::new(source) }
    }
}

/// The final failure of a journal: told to every callback and every later call.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the journal failed ({cause}); the outcome of entries after {durable} is unknown")]
pub struct JournalFailure {
    /// Entries up to here are durable. Those after it may or may not be found after a restart.
    pub durable: Index,
    /// The first error.
    pub cause: Arc<JournalError>,
}
