//! The words of the journal's interface: index, group, entry.

use std::fmt;

/// Position of an entry in the journal: dense over all groups, the first entry is 1. 0 means "before the first".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Index(pub u64);

impl Index {
    /// Before the first entry.
    pub const ZERO: Index = Index(0);
    /// The first entry of every journal.
    pub const FIRST: Index = Index(1);

    /// The plain number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The index after this one.
    #[must_use]
    pub const fn next(self) -> Index {
        Index(self.0 + 1)
    }
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which state machine an entry belongs to. Groups share the journal and its fsync; the journal gives them no meaning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group(pub u16);

/// One durable entry, as read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Position in the journal.
    pub index: Index,
    /// The owner's group, as appended.
    pub group: Group,
    /// The bytes, as appended.
    pub payload: Vec<u8>,
}
