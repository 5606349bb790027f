//! Watermark: what has finished, so that its slots can be dropped.
//!
//! ```text
//! u16 partition, u32 sender's epoch, u32 epoch of the xids, u64 below, column u64 except
//! ```

use escrow_types::codec::{Malformed, Put as _, Take};
use escrow_types::{Epoch, Sequence};

use super::Sender;

/// Every xid of `epoch` below `below` has finished, but for those in `except`. For an epoch older than the sender's,
/// `below` says nothing: all of that epoch has finished but for those in `except`.
///
/// It bears its sender because a watermark of a deposed leader must change nothing: the new leader may have taken over
/// transactions that the old one did not know to be unfinished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watermark {
    /// Who sends.
    pub sender: Sender,
    /// The epoch of the xids.
    pub epoch: Epoch,
    /// All below have finished.
    pub below: Sequence,
    /// But for these.
    pub except: Vec<Sequence>,
}

impl Watermark {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        self.sender.encode(out);
        out.put_u32(self.epoch.0);
        out.put_u64(self.below);
        out.put_column_u64(&self.except);
    }

    pub(super) fn decode(take: &mut Take<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            sender: Sender::decode(take)?,
            epoch: Epoch(take.u32()?),
            below: take.u64()?,
            except: take.column_u64()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Command, tests::check_codec};
    use escrow_types::Partition;

    #[test]
    fn bytes() {
        for except in [vec![], vec![1, u64::MAX]] {
            let sender = Sender::new(Partition(1), Epoch(2));
            check_codec(&Command::Watermark(Watermark { sender, epoch: Epoch(1), below: 7, except }));
        }
    }
}
