//! The coordinator's name of a transaction: `(partition, epoch, sequence)`.

use std::fmt;
use std::str::FromStr;

/// A coordinator partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Partition(pub u16);

/// The epoch of the leader that began a transaction, or that sends a message. Starts at 1; 0 means "none yet".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch(pub u32);

/// The dense number of a transaction within its epoch, from 0.
pub type Sequence = u64;

/// The coordinator's name of a transaction. Written `partition-epoch-sequence`, for example `0-3-1042`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Xid {
    /// The partition that coordinates it.
    pub partition: Partition,
    /// The epoch in which it began.
    pub epoch: Epoch,
    /// Its dense number within that epoch.
    pub sequence: Sequence,
}

impl Xid {
    /// Puts the three parts together.
    pub const fn new(partition: Partition, epoch: Epoch, sequence: Sequence) -> Self {
        Self { partition, epoch, sequence }
    }
}

impl fmt::Display for Xid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.partition.0, self.epoch.0, self.sequence)
    }
}

impl fmt::Debug for Xid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not of the form `partition-epoch-sequence`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an xid: expected PARTITION-EPOCH-SEQUENCE, such as 0-3-1042")]
pub struct XidError(String);

impl FromStr for Xid {
    type Err = XidError;

    fn from_str(text: &str) -> Result<Self, XidError> {
        let parse = || {
            let mut parts = text.splitn(3, '-');
            let partition = Partition(parts.next()?.parse().ok()?);
            let epoch = Epoch(parts.next()?.parse().ok()?);
            let sequence = parts.next()?.parse().ok()?;
            Some(Self { partition, epoch, sequence })
        };
        parse().ok_or_else(|| XidError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        let xid = Xid::new(Partition(2), Epoch(7), u64::MAX);
        assert_eq!(xid.to_string().parse(), Ok(xid));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "1", "1-2", "1-2-", "a-b-c", "70000-1-1", "1-2-3-4", "-1-2-3"] {
            assert!(text.parse::<Xid>().is_err(), "{text}");
        }
    }
}
