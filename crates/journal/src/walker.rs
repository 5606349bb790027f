//! Reads one segment from front to back and checks every frame: magic, CRC, dense index, chain.
//!
//! Stops at the first byte that is not the next frame, and does not judge why: the end of the segment, a torn tail and
//! damage all look the same from here. Callers know more. Must never return a frame that it did not check.

use crate::error::{JournalError, Result};
use crate::frame::{FRAME_HEADER_BYTES, FRAME_VERSION, FrameHeader, Seed, frame_crc};
use crate::segment::{SEGMENT_HEADER_BYTES, SegmentHeader};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Where a walk stands: the next frame must be here, with this index, after a frame with this CRC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) offset: u64,
    pub(crate) index: u64,
    pub(crate) chain: u32,
}

pub(crate) struct Walker<R> {
    source: R,
    path: PathBuf,
    seed: Seed,
    segment_bytes: u64,
    position: Position,
    /// The last valid frame, whole.
    frame: Vec<u8>,
}

impl<R: Read> Walker<R> {
    /// Reads the segment's header from the start of `source`. `first` is what the file's name says.
    pub(crate) fn from_header(
        mut source: R,
        path: &Path,
        journal_id: u128,
        first: u64,
    ) -> Result<(Walker<R>, SegmentHeader)> {
        let mut bytes = Vec::with_capacity(SEGMENT_HEADER_BYTES as usize);
        (&mut source)
            .take(SEGMENT_HEADER_BYTES)
            .read_to_end(&mut bytes)
            .or_else(|error| if is_unreadable(&error) { Ok(0) } else { Err(error) })
            .map_err(JournalError::io("read", path))?;
        let header = SegmentHeader::decode(&bytes, path, journal_id, first)?;
        let position = Position { offset: SEGMENT_HEADER_BYTES, index: first, chain: header.chain };
        Ok((Walker::at(source, path, Seed::of(journal_id), header.segment_bytes, position), header))
    }

    /// Goes on from a known position, to which `source` has been moved.
    pub(crate) fn at(
        source: R,
        path: &Path,
        seed: Seed,
        segment_bytes: u64,
        position: Position,
    ) -> Walker<R> {
        Walker { source, path: path.to_path_buf(), seed, segment_bytes, position, frame: Vec::new() }
    }

    pub(crate) fn position(&self) -> Position {
        self.position
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Payload of the last frame.
    pub(crate) fn payload(&self, header: &FrameHeader) -> &[u8] {
        &self.frame[FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + header.payload_bytes as usize]
    }

    pub(crate) fn into_source(self) -> R {
        self.source
    }

    /// The next frame's header, or `None` where there is no valid next frame.
    pub(crate) fn step(&mut self) -> Result<Option<FrameHeader>> {
        let room = self.segment_bytes.saturating_sub(self.position.offset);
        if room < FRAME_HEADER_BYTES as u64 || !self.fill(0, FRAME_HEADER_BYTES)? {
            return Ok(None);
        }
        let Some(header) = self.frame.first_chunk().and_then(FrameHeader::decode) else { return Ok(None) };
        let frame_bytes = header.frame_bytes();
        if header.index != self.position.index
            || header.previous_crc != self.position.chain
            || header.synced >= header.index
            || frame_bytes as u64 > room
            || !self.fill(FRAME_HEADER_BYTES, frame_bytes)?
        {
            return Ok(None);
        }
        let Some(crc) = frame_crc(&self.frame, self.seed) else { return Ok(None) };
        if header.version != FRAME_VERSION {
            let (path, found) = (self.path.clone(), u32::from(header.version));
            return Err(JournalError::UnknownVersion { path, found, supported: u32::from(FRAME_VERSION) });
        }
        self.position = Position {
            offset: self.position.offset + frame_bytes as u64,
            index: header.index + 1,
            chain: crc,
        };
        Ok(Some(header))
    }

    /// Reads the frame's bytes `from..to`; false if the source ends (or can't be unpacked) before.
    fn fill(&mut self, from: usize, to: usize) -> Result<bool> {
        self.frame.resize(to, 0);
        match self.source.read_exact(&mut self.frame[from..to]) {
            Ok(()) => Ok(true),
            Err(error) if is_unreadable(&error) => Ok(false),
            Err(error) => Err(JournalError::io("read", &self.path)(error)),
        }
    }
}

/// The bytes are there, but do not make sense (a short or damaged packed file). Anything else is the system's error.
fn is_unreadable(error: &io::Error) -> bool {
    error.raw_os_error().is_none()
        && matches!(
            error.kind(),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::Other
        )
}
