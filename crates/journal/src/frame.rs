//! One entry on disk: a frame.
//!
//! ```text
//! offset  bytes  field (little endian)
//!      0      4  magic
//!      4      1  format version
//!      5      1  flags, zero
//!      6      2  group
//!      8      8  index
//!     16      8  synced: the journal was durable up to here when the frame was made
//!     24      4  payload length
//!     28      4  CRC of the previous frame (the chain)
//!     32      4  life: random, new at every open of the journal
//!     36      4  CRC-32C over payload, padding and the 36 bytes above, in this order
//!     40      n  payload
//!   40+n   0..7  zero padding to a multiple of 8
//! ```
//! The CRC starts from a seed made of the journal's id, so that a frame of another journal (even one carried inside a
//! payload) is never valid here. The payload comes first in the CRC so that the appending thread can compute that part
//! while the writer is busy; the writer only adds the header.
//!
//! The life makes the chain of every process its own: a stale frame behind a torn tail can never continue a frame that was
//! written after the restart, even one with the same content. Zeroing the tail alone is not enough: if the sync of the zeros
//! fails, the next start sees zeros that are not on the disk.
//!
//! Knows nothing of files.

use crate::types::Group;

/// Bytes in front of every payload.
pub const FRAME_HEADER_BYTES: usize = 40;

pub(crate) const FRAME_VERSION: u8 = 1;
pub(crate) const FRAME_ALIGN: usize = 8;
const MAGIC: u32 = 0x464a_5345; // "ESJF"
const CRC_AT: usize = 36;
const ZEROS: [u8; FRAME_ALIGN] = [0; FRAME_ALIGN];

const _: () = assert!(FRAME_HEADER_BYTES.is_multiple_of(FRAME_ALIGN) && CRC_AT + 4 == FRAME_HEADER_BYTES);

/// Start value of every CRC of one journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seed(pub(crate) u32);

impl Seed {
    pub(crate) fn of(journal_id: u128) -> Seed {
        Seed(crc32c::crc32c(&journal_id.to_le_bytes()))
    }

    /// The payload's part of a frame's CRC, padding included.
    pub(crate) fn payload_crc(self, payload: &[u8]) -> u32 {
        let crc = crc32c::crc32c_append(self.0, payload);
        crc32c::crc32c_append(crc, &ZEROS[..padding(payload.len())])
    }
}

/// A frame's header, without CRC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) version: u8,
    pub(crate) group: Group,
    pub(crate) index: u64,
    pub(crate) synced: u64,
    pub(crate) payload_bytes: u32,
    pub(crate) previous_crc: u32,
    pub(crate) life: u32,
}

/// Whole length of a frame in bytes.
pub(crate) const fn frame_bytes(payload_bytes: usize) -> usize {
    FRAME_HEADER_BYTES + payload_bytes + padding(payload_bytes)
}

const fn padding(payload_bytes: usize) -> usize {
    (FRAME_ALIGN - payload_bytes % FRAME_ALIGN) % FRAME_ALIGN
}

impl FrameHeader {
    /// Appends the frame to `buffer`; returns its CRC. `payload_crc` is [`Seed::payload_crc`] of `payload`.
    pub(crate) fn encode(&self, payload: &[u8], payload_crc: u32, buffer: &mut Vec<u8>) -> u32 {
        assert_eq!(self.payload_bytes as usize, payload.len());
        assert!(self.synced < self.index, "a frame cannot be durable before it is written");
        let mut bytes = [0; FRAME_HEADER_BYTES];
        bytes[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4] = self.version;
        bytes[6..8].copy_from_slice(&self.group.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.index.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.synced.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.payload_bytes.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.previous_crc.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.life.to_le_bytes());
        let crc = crc32c::crc32c_append(payload_crc, &bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        buffer.extend_from_slice(&bytes);
        buffer.extend_from_slice(payload);
        buffer.extend_from_slice(&ZEROS[..padding(payload.len())]);
        crc
    }

    /// Reads a header; `None` without the magic. The fields can be trusted only after [`frame_crc`] agreed.
    pub(crate) fn decode(bytes: &[u8; FRAME_HEADER_BYTES]) -> Option<FrameHeader> {
        if u32_at(bytes, 0) != MAGIC {
            return None;
        }
        Some(FrameHeader {
            version: bytes[4],
            group: Group(u16::from_le_bytes([bytes[6], bytes[7]])),
            index: u64_at(bytes, 8),
            synced: u64_at(bytes, 16),
            payload_bytes: u32_at(bytes, 24),
            previous_crc: u32_at(bytes, 28),
            life: u32_at(bytes, 32),
        })
    }

    /// Whole length of the frame in bytes.
    pub(crate) const fn frame_bytes(&self) -> usize {
        frame_bytes(self.payload_bytes as usize)
    }
}

/// The CRC of a whole frame if it is the one that the frame bears.
pub(crate) fn frame_crc(frame: &[u8], seed: Seed) -> Option<u32> {
    let (header, body) = frame.split_at_checked(FRAME_HEADER_BYTES)?;
    let crc = crc32c::crc32c_append(crc32c::crc32c_append(seed.0, body), &header[..CRC_AT]);
    (crc == u32_at(header, CRC_AT)).then_some(crc)
}

/// Looks for a frame that proves that entry `index` was durable once: valid, not before it, and made when the journal
/// was durable up to it or further. Returns its offset in `bytes`, which start at a frame boundary.
pub(crate) fn find_proof(bytes: &[u8], index: u64, seed: Seed) -> Option<usize> {
    let magic = MAGIC.to_le_bytes();
    for at in (0..bytes.len()).step_by(FRAME_ALIGN) {
        let rest = &bytes[at..];
        if !rest.starts_with(&magic) {
            continue;
        }
        let Some(header) = rest.first_chunk().and_then(FrameHeader::decode) else { continue };
        if header.index < index || header.synced < index || header.synced >= header.index {
            continue;
        }
        if !may_be_at(&header, at, index) {
            continue;
        }
        if rest.get(..header.frame_bytes()).is_some_and(|frame| frame_crc(frame, seed).is_some()) {
            return Some(at);
        }
    }
    None
}

/// Whether a frame may be so far behind the place of the entry `index`: those between have a header each. Payloads are what callers
/// choose; what looks like a frame in them must not cost a checksum of megabytes each time.
fn may_be_at(header: &FrameHeader, offset: usize, index: u64) -> bool {
    header.index <= index.saturating_add((offset / FRAME_HEADER_BYTES) as u64)
}

/// Whether `bytes`, in which no frame with this index begins, are what a recycled segment held before: the first whole frame in
/// them is older than `first`, the first of the segment. A frame that was begun here is no such thing.
pub(crate) fn is_stale(bytes: &[u8], index: u64, first: u64, seed: Seed) -> bool {
    let begun = bytes.first_chunk().and_then(FrameHeader::decode);
    if begun.is_some_and(|header| header.index == index) {
        return false;
    }
    let magic = MAGIC.to_le_bytes();
    let frames = (0..bytes.len()).step_by(FRAME_ALIGN).map(|at| (at, &bytes[at..]));
    let mut whole = frames.filter(|(_, rest)| rest.starts_with(&magic)).filter_map(|(at, rest)| {
        let header = rest.first_chunk().and_then(FrameHeader::decode)?;
        let frame = rest.get(..header.frame_bytes()).filter(|_| may_be_at(&header, at, index))?;
        frame_crc(frame, seed).map(|_| header)
    });
    whole.next().is_some_and(|header| header.index < first)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a slice of four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("a slice of eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(index: u64, synced: u64, payload: &[u8]) -> Vec<u8> {
        let header = FrameHeader {
            version: FRAME_VERSION,
            group: Group(7),
            index,
            synced,
            payload_bytes: payload.len() as u32,
            previous_crc: 99,
            life: 1234,
        };
        let mut buffer = Vec::new();
        header.encode(payload, Seed::of(5).payload_crc(payload), &mut buffer);
        let decoded = FrameHeader::decode(buffer.first_chunk().unwrap()).unwrap();
        assert_eq!(decoded, header);
        assert_eq!(decoded.frame_bytes(), buffer.len());
        assert_eq!(buffer.len() % FRAME_ALIGN, 0);
        buffer
    }

    #[test]
    fn every_length_round_trips() {
        for length in 0..40 {
            let frame = encoded(3, 1, &vec![0xab; length]);
            assert!(frame_crc(&frame, Seed::of(5)).is_some(), "{length}");
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let frame = encoded(3, 1, b"thirteen byte");
        for bit in 0..frame.len() * 8 {
            let mut damaged = frame.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(frame_crc(&damaged, Seed::of(5)), None, "bit {bit}");
        }
    }

    #[test]
    fn a_frame_of_another_journal_is_not_valid() {
        assert_eq!(frame_crc(&encoded(3, 1, b"x"), Seed::of(6)), None);
    }

    #[test]
    fn stale_is_what_begins_with_an_older_frame_and_not_with_a_begun_one() {
        let stale = |bytes: &[u8]| is_stale(bytes, 30, 20, Seed::of(5));
        let (older, newer) = (encoded(7, 5, b"of the segment before"), encoded(31, 29, b"of the last batch"));
        let cut = [&[0xab; 16][..], &older].concat();
        assert!(stale(&older) && stale(&cut) && stale(&[&cut[..], &newer].concat()));
        let lost = [0; FRAME_HEADER_BYTES];
        assert!(!stale(&[&lost, &newer[..], &cut].concat()), "a batch whose first frame was lost");
        assert!(stale(&[&newer[..], &cut].concat()), "there is no room for the frame between");
        let begun = &encoded(30, 29, b"the frame that was being written")[..FRAME_HEADER_BYTES];
        assert!(!stale(&[begun, &older].concat()));
        assert!(!stale(&[]) && !stale(&[0; 64]) && !stale(&older[..older.len() - 8]));
        assert!(!is_stale(&older, 30, 20, Seed::of(6)), "a frame of another journal");
    }

    #[test]
    fn only_a_frame_synced_at_or_after_the_index_proves_it() {
        let mut bytes = vec![0xff; 64];
        bytes.extend(encoded(11, 9, b"made before 10 was durable"));
        assert_eq!(find_proof(&bytes, 10, Seed::of(5)), None);
        let at = bytes.len();
        bytes.extend(encoded(12, 10, b"made after"));
        assert_eq!(find_proof(&bytes, 10, Seed::of(5)), Some(at));
        assert_eq!(
            find_proof(&bytes, 13, Seed::of(5)),
            None,
            "stale frames prove nothing about later entries"
        );
    }
}
