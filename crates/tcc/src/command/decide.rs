//! Decisions: made once, by compare-and-set on "undecided" before they are logged.

use escrow_types::codec::{Malformed, Put as _, Take};
use escrow_types::{Amount, Epoch, Reason, Sequence};

use crate::machine::Decision;

/// Decisions on transactions of one epoch, as columns of equal length.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decide {
    /// The epoch in which they began.
    pub epoch: Epoch,
    /// Which transactions.
    pub sequences: Vec<Sequence>,
    /// One byte each: 0 is Confirm, else the number of a Cancel's reason.
    pub decisions: Vec<u8>,
}

/// Reasons from here on refuse requests, and decide nothing.
const DECISION_REASONS_END: u8 = 32;

/// Confirm is 0, Cancel is the number of its reason.
pub(super) const fn decision_byte(decision: Decision) -> u8 {
    match decision {
        Decision::Confirm => 0,
        Decision::Cancel(reason) => reason as u8,
    }
}

/// The decision that a byte stands for.
pub(crate) const fn decision_of(byte: u8) -> Option<Decision> {
    if byte == 0 {
        return Some(Decision::Confirm);
    }
    match Reason::from_number(byte) {
        Some(reason) if byte < DECISION_REASONS_END => Some(Decision::Cancel(reason)),
        _ => None,
    }
}

impl Decide {
    /// Appends a row.
    pub fn push(&mut self, sequence: Sequence, decision: Decision) {
        self.sequences.push(sequence);
        self.decisions.push(decision_byte(decision));
    }

    /// The rows.
    pub fn iter(&self) -> impl Iterator<Item = (Sequence, Decision)> {
        let decisions =
            self.decisions.iter().map(|&byte| decision_of(byte).expect("checked by decode and push"));
        self.sequences.iter().copied().zip(decisions)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        // As many as they are where sequences are close, as they nearly always are.
        out.reserve(2 * self.sequences.len() + 16);
        out.put_u32(self.epoch.0);
        out.put_column_u64(&self.sequences);
        out.put_bytes(&self.decisions);
    }

    pub(super) fn decode(take: &mut Take<'_>) -> Result<Self, Malformed> {
        let decide = Self {
            epoch: Epoch(take.u32()?),
            sequences: take.column_u64()?,
            decisions: take.bytes()?.to_vec(),
        };
        if decide.sequences.len() != decide.decisions.len() {
            return Err(Malformed("columns of unequal length"));
        }
        if decide.decisions.iter().any(|&byte| decision_of(byte).is_none()) {
            return Err(Malformed("unknown decision"));
        }
        Ok(decide)
    }
}

/// A two-step transaction confirmed in part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecidePartial {
    /// The epoch in which it began.
    pub epoch: Epoch,
    /// Which transaction.
    pub sequence: Sequence,
    /// What to post, one amount a leg; the rest is released.
    pub amounts: Vec<Amount>,
}

impl DecidePartial {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(self.epoch.0);
        out.put_u64(self.sequence);
        out.put_column_u64(&self.amounts);
    }

    pub(super) fn decode(take: &mut Take<'_>) -> Result<Self, Malformed> {
        Ok(Self { epoch: Epoch(take.u32()?), sequence: take.u64()?, amounts: take.column_u64()? })
    }
}
