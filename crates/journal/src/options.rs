//! How a journal is set up. Validated once, on open.

use crate::error::{JournalError, Result};
use crate::frame::FRAME_HEADER_BYTES;
use crate::segment::SEGMENT_HEADER_BYTES;
use std::path::PathBuf;
use std::time::Duration;

/// Smallest segment: header plus one block.
pub const SEGMENT_BYTES_MIN: u64 = 8 * 1024;
/// Largest segment.
pub const SEGMENT_BYTES_MAX: u64 = 1024 * 1024 * 1024;

const SEGMENT_BYTES_UNIT: u64 = 4096;

/// What becomes of segments that nobody needs for a restart any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Archive {
    /// Renamed, otherwise left as they are.
    Keep,
    /// Packed with LZ4; the original goes when the packed file is durable.
    #[default]
    Compress,
    /// Deleted. History can then no longer be rebuilt from the log alone.
    Delete,
}

/// Settings of a journal.
#[derive(Clone, Debug)]
pub struct Options {
    /// The journal's own directory; created if missing. Nothing else may live in it.
    pub dir: PathBuf,
    /// Size of new segments in bytes: a multiple of 4096 from [`SEGMENT_BYTES_MIN`] to [`SEGMENT_BYTES_MAX`]. May
    /// change from one start to the next. Bounds the size of a payload, see [`Options::payload_bytes_max`].
    pub segment_bytes: u64,
    /// What [`crate::Journal::trim`] does. May change from one start to the next.
    pub archive: Archive,
    /// How long [`crate::Journal::close`] waits for the last write.
    pub close_timeout: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            dir: PathBuf::from("journal"),
            segment_bytes: 64 * 1024 * 1024,
            archive: Archive::default(),
            close_timeout: Duration::from_secs(30),
        }
    }
}

impl Options {
    /// Defaults for a directory.
    pub fn new(dir: impl Into<PathBuf>) -> Options {
        Options { dir: dir.into(), ..Options::default() }
    }

    /// Largest payload in bytes: what is left of a segment after its header and one frame header.
    pub const fn payload_bytes_max(&self) -> usize {
        (self.segment_bytes - SEGMENT_HEADER_BYTES) as usize - FRAME_HEADER_BYTES
    }

    pub(crate) fn validate(&self) -> Result<()> {
        if self.dir.as_os_str().is_empty() {
            return Err(JournalError::InvalidOption("dir is empty"));
        }
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&self.segment_bytes) {
            return Err(JournalError::InvalidOption("segment_bytes must be from 8 KiB to 1 GiB"));
        }
        if !self.segment_bytes.is_multiple_of(SEGMENT_BYTES_UNIT) {
            return Err(JournalError::InvalidOption("segment_bytes must be a multiple of 4096"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_sizes_are_bounded() {
        Options::default().validate().unwrap();
        for segment_bytes in [0, 4096, SEGMENT_BYTES_MIN + 1, SEGMENT_BYTES_MAX + 4096] {
            let options = Options { segment_bytes, ..Options::default() };
            assert!(matches!(options.validate(), Err(JournalError::InvalidOption(_))), "{segment_bytes}");
        }
        assert!(Options::new("").validate().is_err());
    }
}
