//! Confirm, Cancel and Fence: branches to end, or to fence.
//!
//! ```text
//! u16 partition, u32 sender's epoch, u32 epoch of the xids, column u64 sequences,
//! u8 1 for a partial confirmation, then column u32 legs of each branch, column u64 amounts of all legs; else u8 0
//! ```

use escrow_types::codec::{COLUMN_ROWS_MAX, Malformed, Put as _, Take};
use escrow_types::{Amount, Epoch, Sequence};

use super::{Sender, UnequalColumns};

/// Amounts of a partial confirmation; what is not confirmed is released.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partial {
    /// How many legs each branch has.
    pub legs: Vec<u32>,
    /// The amounts of all legs of all branches, in the order of Try.
    pub amounts: Vec<Amount>,
}

/// Branches to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndBatch {
    /// Who sends.
    pub sender: Sender,
    /// The epoch of the xids.
    pub epoch: Epoch,
    sequences: Vec<Sequence>,
    // When there: one count a sequence, whose sum is the number of amounts.
    partial: Option<Partial>,
}

impl EndBatch {
    /// Ends branches in full.
    pub fn new(sender: Sender, epoch: Epoch, sequences: Vec<Sequence>) -> Result<Self, UnequalColumns> {
        Self::with_partial(sender, epoch, sequences, None)
    }

    /// Ends branches in part, if `partial` is there. Only a Confirm may bear one.
    pub fn with_partial(
        sender: Sender,
        epoch: Epoch,
        sequences: Vec<Sequence>,
        partial: Option<Partial>,
    ) -> Result<Self, UnequalColumns> {
        let fits = sequences.len() <= COLUMN_ROWS_MAX
            && partial.as_ref().is_none_or(|partial| {
                let legs: u64 = partial.legs.iter().map(|&legs| u64::from(legs)).sum();
                partial.legs.len() == sequences.len()
                    && legs == partial.amounts.len() as u64
                    && partial.amounts.len() <= COLUMN_ROWS_MAX
            });
        if fits { Ok(Self { sender, epoch, sequences, partial }) } else { Err(UnequalColumns) }
    }

    /// The sequence of each branch.
    pub fn sequences(&self) -> &[Sequence] {
        &self.sequences
    }

    /// The amounts of a partial confirmation.
    pub const fn partial(&self) -> Option<&Partial> {
        self.partial.as_ref()
    }

    /// Of a command that knows no part of a branch.
    pub(super) fn decode_whole(take: &mut Take<'_>) -> Result<Self, Malformed> {
        let batch = Self::decode(take)?;
        if batch.partial.is_some() {
            return Err(Malformed("partial amounts in what is not a confirm"));
        }
        Ok(batch)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        self.sender.encode(out);
        out.put_u32(self.epoch.0);
        out.put_column_u64(&self.sequences);
        match &self.partial {
            None => out.put_u8(0),
            Some(partial) => {
                out.put_u8(1);
                out.put_column_u32(&partial.legs);
                out.put_column_u64(&partial.amounts);
            }
        }
    }

    pub(super) fn decode(take: &mut Take<'_>) -> Result<Self, Malformed> {
        let (sender, epoch, sequences) = (Sender::decode(take)?, Epoch(take.u32()?), take.column_u64()?);
        let partial = match take.u8()? {
            0 => None,
            1 => Some(Partial { legs: take.column_u32()?, amounts: take.column_u64()? }),
            _ => return Err(Malformed("neither a full nor a partial end")),
        };
        Self::with_partial(sender, epoch, sequences, partial)
            .map_err(|_| Malformed("an end with columns of unequal length"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Command, tests::check_codec};
    use escrow_types::Partition;

    const SENDER: Sender = Sender::new(Partition(1), Epoch(2));

    #[test]
    fn bytes() {
        check_codec(&Command::Confirm(EndBatch::new(SENDER, Epoch(1), vec![]).unwrap()));
        check_codec(&Command::Cancel(EndBatch::new(SENDER, Epoch(1), vec![3, u64::MAX]).unwrap()));
        check_codec(&Command::Fence(EndBatch::new(SENDER, Epoch(1), vec![3, 4]).unwrap()));
        let partial = Some(Partial { legs: vec![2, 0], amounts: vec![5, 6] });
        check_codec(&Command::Confirm(
            EndBatch::with_partial(SENDER, Epoch(1), vec![1, 2], partial).unwrap(),
        ));
    }

    #[test]
    fn only_a_confirm_may_be_partial() {
        for (kind, is_read) in [
            (Command::Confirm as fn(EndBatch) -> Command, true),
            (Command::Cancel, false),
            (Command::Fence, false),
        ] {
            let partial = Some(Partial { legs: vec![1], amounts: vec![5] });
            let mut bytes = Vec::new();
            kind(EndBatch::with_partial(SENDER, Epoch(1), vec![1], partial).unwrap()).encode(&mut bytes);
            assert_eq!(Command::decode(&mut Take::new(&bytes)).is_ok(), is_read);
        }
    }

    #[test]
    fn partial_columns_must_fit() {
        for (legs, amounts) in
            [(vec![1], vec![1]), (vec![1, 1], vec![1]), (vec![u32::MAX, u32::MAX], vec![1])]
        {
            let partial = Some(Partial { legs, amounts });
            assert_eq!(EndBatch::with_partial(SENDER, Epoch(1), vec![1, 2], partial), Err(UnequalColumns));
        }
    }
}
