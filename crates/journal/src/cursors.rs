//! How far the journal has come: four cursors and the order between them.

use crate::types::Index;

/// Snapshot of a journal's progress. Each cursor is the last index that got that far.
///
/// ```text
///  1 ........ trimmed ........ durable ...... written ...... appended
///  | archived or  |   live segments   | in flight to | only in    |
///  | deleted      |   survives a crash| the disk     | memory     |
///  |              |                   |              |            |
///  |<-- readers (first index .. durable) -->|   may be lost in a crash
/// ```
///
/// - `appended`: has an index, waits in memory.
/// - `written`: handed to the operating system, not yet synced. Survives a kill, not a power loss.
/// - `durable`: synced. Only these are reported, read, and relied upon.
/// - `trimmed`: in archived or deleted segments; a restart does not read them.
///
/// Always `appended >= written >= durable >= trimmed`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursors {
    /// Last index given out.
    pub appended: Index,
    /// Last index written.
    pub written: Index,
    /// Last index synced.
    pub durable: Index,
    /// Last index that left the live segments.
    pub trimmed: Index,
}

impl Cursors {
    /// Stops the process if the order is broken: going on could report what is not durable.
    pub(crate) fn assert_ordered(&self) {
        assert!(
            self.appended >= self.written && self.written >= self.durable && self.durable >= self.trimmed,
            "cursors out of order: {self:?}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "cursors out of order")]
    fn durable_ahead_of_written_is_refused() {
        Cursors { appended: Index(3), written: Index(1), durable: Index(2), trimmed: Index(0) }
            .assert_ordered();
    }
}
