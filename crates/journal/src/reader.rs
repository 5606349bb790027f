//! Reads entries in order, over archived and live segments, while the log goes on being written and trimmed.
//!
//! Holds one open file and one frame at a time. Must never return an entry that was not durable when the reader was made.

use crate::catalog::{Place, Shared};
use crate::error::{JournalError, Result};
use crate::storage::SequentialRead;
use crate::types::{Entry, Index};
use crate::walker::{Position, Walker};
use lz4_flex::frame::FrameDecoder;
use std::io::{self, BufReader, Read};
use std::sync::Arc;

const BUFFER_BYTES: usize = 256 * 1024;

/// A segment changes its name at most once while it is being opened; more tries would hide a missing file.
const OPEN_ATTEMPTS: u32 = 3;

type Source = Box<dyn Read + Send>;

/// Iterator over the entries from an index up to what was durable when it was made. Ends after the first error.
///
/// While it lives, nothing that it has not read yet is deleted by a trim (`Archive::Delete`); archiving does not disturb
/// it.
pub struct Reader {
    shared: Arc<Shared>,
    number: u64,
    next: u64,
    /// Last entry to return.
    until: u64,
    segment: Option<OpenSegment>,
    /// End of the segment before, where the next one must go on.
    chain: Option<u32>,
    failed: bool,
}

struct OpenSegment {
    walker: Walker<Source>,
    last: u64,
}

impl Reader {
    pub(crate) fn new(shared: &Arc<Shared>, from: Index) -> Result<Reader> {
        let until = shared.durable();
        let mut catalog = shared.catalog();
        let first = catalog.first_index();
        if from.get() < first {
            return Err(JournalError::Trimmed { index: from, first: Index(first) });
        }
        let number = catalog.enter_reader(from.get());
        drop(catalog);
        Ok(Reader {
            shared: Arc::clone(shared),
            number,
            next: from.get(),
            until,
            segment: None,
            chain: None,
            failed: false,
        })
    }

    fn read_next(&mut self) -> Result<Entry> {
        loop {
            let segment = match &mut self.segment {
                Some(segment) => segment,
                None => self.segment.insert(open_segment(&self.shared, self.next, self.chain)?),
            };
            if self.next > segment.last {
                self.chain = Some(segment.walker.position().chain);
                self.segment = None;
                continue;
            }
            let Some(header) = segment.walker.step()? else {
                let position = segment.walker.position();
                return Err(JournalError::Damaged {
                    path: segment.walker.path().to_path_buf(),
                    offset: position.offset,
                    index: Index(position.index),
                    reason: "a frame that was durable is not valid",
                });
            };
            if header.index == self.next {
                let payload = segment.walker.payload(&header).to_vec();
                return Ok(Entry { index: Index(header.index), group: header.group, payload });
            }
        }
    }
}

impl Iterator for Reader {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Result<Entry>> {
        if self.failed || self.next > self.until {
            return None;
        }
        let result = self.read_next();
        if let Ok(entry) = &result {
            assert_eq!(entry.index.get(), self.next);
            if self.segment.as_ref().is_some_and(|segment| segment.last == self.next)
                || self.next == self.until
            {
                self.shared.catalog().move_reader(self.number, self.next + 1);
            }
            self.next += 1;
        } else {
            self.failed = true;
        }
        Some(result)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.shared.catalog().leave_reader(self.number);
    }
}

fn open_segment(shared: &Shared, index: u64, chain: Option<u32>) -> Result<OpenSegment> {
    let mut attempt = 1;
    loop {
        let (segment, mark) = {
            let catalog = shared.catalog();
            let segment = catalog.segment_with(index).expect("a reader starts at or after the first index");
            (segment.clone_without_marks(), segment.mark_before(index))
        };
        let path = shared.path(&segment.name());
        let file = match shared.disk.open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound && attempt < OPEN_ATTEMPTS => {
                attempt += 1;
                continue;
            }
            Err(error) => return Err(JournalError::io("open", &path)(error)),
        };
        let last = segment.last.unwrap_or(u64::MAX);
        if let (Place::Live, Some(mark)) = (segment.place, mark.filter(|mark| mark.index > segment.first)) {
            let segment_bytes = file.size().map_err(JournalError::io("read", &path))?;
            let source: Source = buffered(SequentialRead::new(file, mark.offset));
            let walker = Walker::at(source, &path, shared.seed(), segment_bytes, mark);
            return Ok(OpenSegment { walker, last });
        }
        let raw = buffered(SequentialRead::new(file, 0));
        let source = match segment.place {
            Place::Live | Place::Kept => raw,
            Place::Compressed => Box::new(FrameDecoder::new(raw)),
        };
        let (walker, header) = Walker::from_header(source, &path, shared.journal_id, segment.first)?;
        if chain.is_some_and(|chain| chain != header.chain) {
            let Position { offset, index, .. } = walker.position();
            let reason = "the segment does not continue the one before it";
            return Err(JournalError::Damaged { path, offset, index: Index(index), reason });
        }
        return Ok(OpenSegment { walker, last });
    }
}

fn buffered(source: SequentialRead) -> Source {
    Box::new(BufReader::with_capacity(BUFFER_BYTES, source))
}
