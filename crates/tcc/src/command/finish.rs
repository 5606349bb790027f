//! Ends of transactions. Logged lazily: a lost Finish only makes recovery ask participants once more.

use escrow_types::codec::{Malformed, Put as _, Take};
use escrow_types::{Epoch, Sequence};

use super::Decide;

/// Every branch of these transactions has acknowledged the decision.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Finish {
    /// The epoch in which they began.
    pub epoch: Epoch,
    /// Which transactions.
    pub sequences: Vec<Sequence>,
}

impl Finish {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(self.epoch.0);
        out.put_column_u64(&self.sequences);
    }

    pub(super) fn decode(take: &mut Take<'_>) -> Result<Self, Malformed> {
        Ok(Self { epoch: Epoch(take.u32()?), sequences: take.column_u64()? })
    }
}

/// Transactions of a single branch that ended by `TryAndConfirm`: the participant's answer is the decision.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FinishOnePhase {
    /// Which transactions, and what the participant answered.
    pub outcomes: Decide,
}

impl FinishOnePhase {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        self.outcomes.encode(out);
    }

    pub(super) fn decode(take: &mut Take<'_>) -> Result<Self, Malformed> {
        Ok(Self { outcomes: Decide::decode(take)? })
    }
}
