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

/// Every branch of these transactions has ended, and no decision was logged: what their participants answered is the decision.
/// That of one-phase transactions is the answer to `TryAndConfirm`; others were confirmed, because every branch was reserved.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FinishImplied {
    /// Which transactions, and how they ended.
    pub outcomes: Decide,
}

impl FinishImplied {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        self.outcomes.encode(out);
    }

    pub(super) fn decode(take: &mut Take<'_>) -> Result<Self, Malformed> {
        Ok(Self { outcomes: Decide::decode(take)? })
    }
}
