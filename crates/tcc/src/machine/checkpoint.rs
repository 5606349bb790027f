//! The machine's state as bytes: what a checkpoint holds besides the remembered rows of ended transactions.
//!
//! Layout: version, epoch, next sequence, digest and count of ended transactions, paused, then each unfinished
//! transaction, oldest first.

use escrow_types::codec::{Malformed, Put as _, Take};
use escrow_types::{AccountKey, Digest, Epoch, ParticipantId, TransactionKey};

use super::{Content, Decision, Live, Machine, Mark, Names, Outcome};
use crate::command::{decision_of, decode_legs, decode_text, encode_legs, encode_text};
use crate::content::{self, Transfer};

/// The version of the format (2: close columns; 1 had none). Readers refuse others.
const VERSION: u8 = 2;
/// Counting on from here never overflows: at ten million a second it would take more than ten thousand years.
const COUNT_MAX: u64 = 1 << 62;
const UNDECIDED: u8 = 0xFF;
const FORCED: u8 = 1;
const ATTENTION: u8 = 2;
const TRANSFER: u8 = 1;
const LEGS: u8 = 2;

impl Machine {
    /// The state as bytes, but for the rows that [`Machine::hand_over`] hands over.
    pub fn to_checkpoint(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.live.len() * 128);
        out.put_u8(VERSION);
        out.put_u32(self.epoch().0);
        out.put_u64(self.live.next());
        out.put_u128(self.finished.0);
        out.put_u64(self.finished_count);
        out.put_u8(u8::from(self.paused));
        out.put_u64(self.live.len() as u64);
        for (epoch, sequence, live) in self.live.iter() {
            out.put_u32(epoch.0);
            out.put_u64(sequence);
            live.encode(&mut out);
        }
        out
    }

    /// Rebuilds the state. The rows of ended transactions are not part of it.
    pub fn from_checkpoint(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut take = Take::new(bytes);
        if take.u8()? != VERSION {
            return Err(Malformed("unknown version of a checkpoint"));
        }
        let mut machine = Self::new();
        let (epoch, next) = (Epoch(take.u32()?), take.u64()?);
        machine.live.start_epoch(epoch, next);
        machine.finished = Digest(take.u128()?);
        machine.finished_count = take.u64()?;
        if next > COUNT_MAX || machine.finished_count > COUNT_MAX {
            return Err(Malformed("more transactions than any log can hold"));
        }
        machine.paused = take.flag()?;
        let mut before = None;
        for _ in 0..take.u64()? {
            let (of, sequence) = (Epoch(take.u32()?), take.u64()?);
            if before.replace((of, sequence)).is_some_and(|before| before >= (of, sequence)) {
                return Err(Malformed("unfinished transactions out of order, or one twice"));
            }
            if of > epoch || (of == epoch && sequence >= next) {
                return Err(Malformed("an unfinished transaction that has not begun"));
            }
            let mut live = Live::decode(&mut take)?;
            live.row = machine.remembered.begin(live.key, of, sequence, live.fingerprint);
            machine.live.insert_lingering(of, sequence, live);
        }
        take.finish()?;
        Ok(machine)
    }
}

impl Live {
    fn encode(&self, out: &mut Vec<u8>) {
        out.put_u128(self.key.0);
        out.put_u8(match self.decision {
            None => UNDECIDED,
            Some(decision) => Outcome { decision, mark: Mark::default() }.to_byte(),
        });
        out.put_u8(u8::from(self.forced) * FORCED + u8::from(self.attention) * ATTENTION);
        out.put_u64(self.begun_ms);
        out.put_u64(self.deadline_ms);
        out.put_u64(self.decided_ms);
        let names = self.names.as_deref().cloned().unwrap_or_default();
        encode_text(out, names.transaction_id.as_deref());
        encode_text(out, names.from.as_deref());
        encode_text(out, names.to.as_deref());
        match &self.content {
            Content::Transfer(transfer) => {
                out.put_u8(TRANSFER);
                out.put_u128(transfer.from.0);
                out.put_u128(transfer.to.0);
                out.put_u64(transfer.amount);
                out.put_u16(transfer.currency.numeric());
                out.put_u16(transfer.from_participant.0);
                out.put_u16(transfer.to_participant.0);
            }
            Content::Legs(legs) => {
                out.put_u8(LEGS);
                encode_legs(out, legs);
                out.put_u8(u8::from(legs.partial.is_some()));
                out.put_column_u64(legs.partial.as_deref().unwrap_or_default());
            }
        }
    }

    fn decode(take: &mut Take<'_>) -> Result<Self, Malformed> {
        let key = TransactionKey(take.u128()?);
        let decision: Option<Decision> = match take.u8()? {
            UNDECIDED => None,
            byte => Some(decision_of(byte).ok_or(Malformed("unknown decision"))?),
        };
        let flags = take.u8()?;
        if flags > (FORCED | ATTENTION) {
            return Err(Malformed("unknown marks"));
        }
        let (begun_ms, deadline_ms, decided_ms) = (take.u64()?, take.u64()?, take.u64()?);
        let names =
            Names { transaction_id: decode_text(take)?, from: decode_text(take)?, to: decode_text(take)? };
        let content = match take.u8()? {
            TRANSFER => Content::Transfer(Transfer {
                from: AccountKey(take.u128()?),
                to: AccountKey(take.u128()?),
                amount: take.u64()?,
                currency: content::currency_of(take.u16()?).ok_or(Malformed("unknown currency"))?,
                from_participant: ParticipantId(take.u16()?),
                to_participant: ParticipantId(take.u16()?),
            }),
            LEGS => {
                let mut legs = decode_legs(take)?;
                let partial = take.flag()?;
                let amounts = take.column_u64()?;
                if amounts.len() != if partial { legs.legs.len() } else { 0 } {
                    return Err(Malformed("partial amounts that are not one a leg"));
                }
                legs.partial = partial.then_some(amounts);
                Content::Legs(Box::new(legs))
            }
            _ => return Err(Malformed("unknown kind of content")),
        };
        Ok(Self {
            key,
            fingerprint: content.fingerprint(),
            content,
            decision,
            begun_ms,
            deadline_ms,
            decided_ms,
            forced: flags & FORCED != 0,
            attention: flags & ATTENTION != 0,
            names: (names != Names::default()).then(|| Box::new(names)),
            row: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Version and epoch come before the next sequence; the digest comes between it and the count of ended transactions.
    const COUNTS_AT: [usize; 2] = [5, 29];

    #[test]
    fn counts_that_could_overflow_are_refused() {
        for at in COUNTS_AT {
            let mut bytes = Machine::new().to_checkpoint();
            let read = |bytes: &[u8]| Machine::from_checkpoint(bytes).map(|machine| machine.to_checkpoint());
            for (count, fits) in [(COUNT_MAX, true), (COUNT_MAX + 1, false), (u64::MAX, false)] {
                bytes[at..at + 8].copy_from_slice(&count.to_le_bytes());
                assert_eq!(read(&bytes).ok(), fits.then(|| bytes.clone()), "{count} at {at}");
            }
        }
    }
}
