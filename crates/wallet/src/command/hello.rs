//! Hello: a coordinator partition opens a newer epoch.
//!
//! ```text
//! u16 partition, u32 epoch, column u32 epochs, column u64 sequences
//! ```

use escrow_types::codec::{Malformed, Put as _, Take};
use escrow_types::{Epoch, Partition, Sequence};

/// A coordinator partition opens an epoch and names the older transactions that are not finished; every other
/// reservation of its older epochs is an orphan and is released.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Which partition.
    pub partition: Partition,
    /// The epoch; 0 is never accepted.
    pub epoch: Epoch,
    /// Transactions of older epochs that are not finished.
    pub unfinished: Vec<(Epoch, Sequence)>,
}

impl Hello {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u16(self.partition.0);
        out.put_u32(self.epoch.0);
        out.put_column_u32(&self.unfinished.iter().map(|xid| xid.0.0).collect::<Vec<_>>());
        out.put_column_u64(&self.unfinished.iter().map(|xid| xid.1).collect::<Vec<_>>());
    }

    pub(super) fn decode(take: &mut Take<'_>) -> Result<Self, Malformed> {
        let (partition, epoch) = (Partition(take.u16()?), Epoch(take.u32()?));
        let (epochs, sequences) = (take.column_u32()?, take.column_u64()?);
        if epochs.len() != sequences.len() {
            return Err(Malformed("a hello with columns of unequal length"));
        }
        let unfinished = epochs.into_iter().map(Epoch).zip(sequences).collect();
        Ok(Self { partition, epoch, unfinished })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Command, tests::check_codec};

    #[test]
    fn bytes() {
        for unfinished in [vec![], vec![(Epoch(1), 7), (Epoch(2), u64::MAX)]] {
            check_codec(&Command::Hello(Hello {
                partition: Partition(3),
                epoch: Epoch(u32::MAX),
                unfinished,
            }));
        }
    }
}
