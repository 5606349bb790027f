//! Try and TryAndConfirm: branches to reserve, as columns, one row a leg.
//!
//! ```text
//! u16 partition, u32 sender's epoch, u32 epoch of the xids, u64 deadline,
//! column u64 sequences, column u128 account keys, column u64 amounts, column u16 kinds
//! ```

use std::ops::Range;

use escrow_types::codec::{COLUMN_ROWS_MAX, Malformed, Put as _, Take};
use escrow_types::{Amount, Currency, Epoch, Millis, Sequence};

use super::{Sender, UnequalColumns};

/// The most legs of a branch.
pub const LEGS_MAX: usize = 64;

/// The bit of a kind that says credit.
pub(crate) const CREDIT: u16 = 0x8000;

/// The kind of a leg as it travels in columns: the currency's numeric code, with bit 15 set for a credit.
pub const fn kind_of(currency: Currency, credit: bool) -> u16 {
    if credit { currency.numeric() | CREDIT } else { currency.numeric() }
}

/// Branches to reserve. Neighbouring rows with the same sequence are the legs of one branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TryBatch {
    /// Who sends.
    pub sender: Sender,
    /// The epoch of the xids.
    pub epoch: Epoch,
    /// When the shard may begin to ask for the outcome; Unix milliseconds.
    pub deadline_ms: Millis,
    // Of equal length, which `new` and `decode` see to.
    sequences: Vec<Sequence>,
    accounts: Vec<u128>,
    amounts: Vec<Amount>,
    kinds: Vec<u16>,
}

impl TryBatch {
    /// Columns of equal length, or a refusal. Nothing else is checked before it is applied.
    pub fn new(
        sender: Sender,
        epoch: Epoch,
        deadline_ms: Millis,
        sequences: Vec<Sequence>,
        accounts: Vec<u128>,
        amounts: Vec<Amount>,
        kinds: Vec<u16>,
    ) -> Result<Self, UnequalColumns> {
        let rows = sequences.len();
        if rows > COLUMN_ROWS_MAX || accounts.len() != rows || amounts.len() != rows || kinds.len() != rows {
            return Err(UnequalColumns);
        }
        Ok(Self { sender, epoch, deadline_ms, sequences, accounts, amounts, kinds })
    }

    /// How many legs, over all branches.
    pub fn rows(&self) -> usize {
        self.sequences.len()
    }

    /// The sequence of each row.
    pub fn sequences(&self) -> &[Sequence] {
        &self.sequences
    }

    /// The legs of some rows: account key, amount, kind.
    pub fn legs(
        &self,
        rows: Range<usize>,
    ) -> impl ExactSizeIterator<Item = (u128, Amount, u16)> + Clone + '_ {
        let (accounts, amounts) = (&self.accounts[rows.clone()], &self.amounts[rows.clone()]);
        accounts
            .iter()
            .zip(amounts)
            .zip(&self.kinds[rows])
            .map(|((&account, &amount), &kind)| (account, amount, kind))
    }

    /// The branches: the sequence of each, and its rows.
    pub fn branches(&self) -> impl Iterator<Item = (Sequence, Range<usize>)> + '_ {
        let mut start = 0;
        std::iter::from_fn(move || {
            let &sequence = self.sequences.get(start)?;
            let mut end = start + 1;
            while self.sequences.get(end) == Some(&sequence) {
                end += 1;
            }
            let rows = start..end;
            start = end;
            Some((sequence, rows))
        })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        self.sender.encode(out);
        out.put_u32(self.epoch.0);
        out.put_u64(self.deadline_ms);
        out.put_column_u64(&self.sequences);
        out.put_column_u128(&self.accounts);
        out.put_column_u64(&self.amounts);
        out.put_column_u16(&self.kinds);
    }

    pub(super) fn decode(take: &mut Take<'_>) -> Result<Self, Malformed> {
        let (sender, epoch, deadline_ms) = (Sender::decode(take)?, Epoch(take.u32()?), take.u64()?);
        let (sequences, accounts) = (take.column_u64()?, take.column_u128()?);
        let (amounts, kinds) = (take.column_u64()?, take.column_u16()?);
        Self::new(sender, epoch, deadline_ms, sequences, accounts, amounts, kinds)
            .map_err(|_| Malformed("a try with columns of unequal length"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Command, tests::check_codec};
    use escrow_types::Partition;

    fn batch(sequences: &[u64]) -> TryBatch {
        let rows = sequences.len();
        let sender = Sender::new(Partition(1), Epoch(2));
        let kinds = vec![kind_of(Currency::USD, true); rows];
        TryBatch::new(sender, Epoch(1), 5, sequences.to_vec(), vec![9; rows], vec![8; rows], kinds).unwrap()
    }

    #[test]
    fn bytes() {
        check_codec(&Command::Try(batch(&[])));
        check_codec(&Command::Try(batch(&[1, 1, 2])));
        check_codec(&Command::TryAndConfirm(batch(&[u64::MAX])));
    }

    #[test]
    fn neighbours_with_one_sequence_are_one_branch() {
        let batch = batch(&[4, 4, 5, 4]);
        let branches: Vec<_> = batch.branches().collect();
        assert_eq!(branches, [(4, 0..2), (5, 2..3), (4, 3..4)]);
    }

    #[test]
    fn unequal_columns_are_refused() {
        let sender = Sender::new(Partition(0), Epoch(1));
        let made = TryBatch::new(sender, Epoch(1), 0, vec![1, 2], vec![1, 2], vec![1], vec![840, 840]);
        assert_eq!(made, Err(UnequalColumns));
    }
}
