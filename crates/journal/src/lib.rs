//! The durable log: group commit, segments, recovery, archive.
//!
//! One journal per process. Everything else that a server knows is derived from it, so it has one promise to keep:
//! **an index that was reported durable is there after any crash, unaltered, and what is there is always a prefix of
//! what was appended.**
//!
//! # On disk
//! One directory, locked by the process that uses it:
//! ```text
//! journal.meta                      id, format version, creation parameters, first index still kept
//! journal.lock                      advisory lock
//! <first index>.seg                 live segment: 4 KiB header, frames, then zeros or what was there before
//! <first index>-<last index>.kept   archived segment as it was          (Archive::Keep)
//! <first index>-<last index>.lz4    archived header and frames, packed  (Archive::Compress)
//! *.tmp                             unfinished, or archived and waiting to be recycled; removed on open
//! ```
//!
//! # Layout
//! - [`storage`]: the only code that touches files; the real disk and a simulated one.
//! - `frame`, `segment`, `meta`: the encodings. `walker`: reads and checks a chain of frames.
//! - `catalog`, `spare`, `trim`: which segments there are, the next one, and what becomes of old ones.
//! - `recovery`: opening. [`Log`]: the synchronous core. [`Reader`]: entries in order.
//! - [`Journal`]: handle, writer thread (`writer`) and background threads (`keeper`). [`background`]: threads that step back.
//!
//! # To ensure correctness
//! - Only `recovery` and `Log` write to live segments, and never at the same time.
//! - A failed write or fsync is final. Nothing here ever retries an fsync.
//! - Knows nothing of transactions, wallets, gRPC or async runtimes; payloads are opaque bytes.

pub mod background;
mod catalog;
mod cursors;
mod error;
mod frame;
mod journal;
mod keeper;
mod log;
mod meta;
mod options;
mod reader;
mod recovery;
mod segment;
mod spare;
mod stats;
pub mod storage;
mod trim;
mod types;
mod walker;
mod writer;

pub use crate::cursors::Cursors;
pub use crate::error::{JournalError, JournalFailure, Result};
pub use crate::frame::FRAME_HEADER_BYTES;
pub use crate::journal::{DurableCallback, Journal, Steps};
pub use crate::log::Log;
pub use crate::options::{Archive, Options, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};
pub use crate::reader::Reader;
pub use crate::recovery::{Opened, TornTail};
pub use crate::segment::SEGMENT_HEADER_BYTES;
pub use crate::stats::Stats;
pub use crate::types::{Entry, Group, Index};
