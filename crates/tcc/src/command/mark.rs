//! Marks that participants' contradictions and operators leave on a transaction, for ever.

use escrow_types::codec::{Malformed, Put as _, Take};
use escrow_types::{Epoch, ParticipantId, Sequence};

use super::begin::decode_text;
use super::decide::{decision_byte, decision_of};
use crate::machine::Decision;

/// A participant contradicted the decision: an operator must look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attention {
    /// The epoch in which it began.
    pub epoch: Epoch,
    /// Which transaction.
    pub sequence: Sequence,
    /// Who contradicted.
    pub participant: ParticipantId,
}

/// An operator set a decision, or overrode one after a contradiction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Force {
    /// The epoch in which it began.
    pub epoch: Epoch,
    /// Which transaction.
    pub sequence: Sequence,
    /// What it is now.
    pub decision: Decision,
    /// Why, in the operator's words.
    pub reason: Box<str>,
}

/// An operator ended a decided transaction although branches have not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GiveUp {
    /// The epoch in which it began.
    pub epoch: Epoch,
    /// Which transaction.
    pub sequence: Sequence,
    /// Why, in the operator's words.
    pub reason: Box<str>,
}

impl Attention {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(self.epoch.0);
        out.put_u64(self.sequence);
        out.put_u16(self.participant.0);
    }

    pub(super) fn decode(take: &mut Take<'_>) -> Result<Self, Malformed> {
        Ok(Self { epoch: Epoch(take.u32()?), sequence: take.u64()?, participant: ParticipantId(take.u16()?) })
    }
}

impl Force {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(self.epoch.0);
        out.put_u64(self.sequence);
        out.put_u8(decision_byte(self.decision));
        out.put_bytes(self.reason.as_bytes());
    }

    pub(super) fn decode(take: &mut Take<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            epoch: Epoch(take.u32()?),
            sequence: take.u64()?,
            decision: decision_of(take.u8()?).ok_or(Malformed("unknown decision"))?,
            reason: decode_text(take)?.unwrap_or_default(),
        })
    }
}

impl GiveUp {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(self.epoch.0);
        out.put_u64(self.sequence);
        out.put_bytes(self.reason.as_bytes());
    }

    pub(super) fn decode(take: &mut Take<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            epoch: Epoch(take.u32()?),
            sequence: take.u64()?,
            reason: decode_text(take)?.unwrap_or_default(),
        })
    }
}
