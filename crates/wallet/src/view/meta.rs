//! `m` → u32 format version, u64 newest time of an applied command.

use escrow_types::Millis;
use escrow_types::codec::{Malformed, Put as _, Take};

pub(super) const LETTER: u8 = b'm';
/// 1 had a record for each account, balance and reservation.
const VERSION: u32 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MetaRecord {
    pub(super) time_ms: Millis,
}

impl MetaRecord {
    pub(super) fn key() -> Vec<u8> {
        vec![LETTER]
    }

    pub(super) fn value(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(12);
        out.put_u32(VERSION);
        out.put_u64(self.time_ms);
        out
    }

    pub(super) fn decode(key: &[u8], value: &[u8]) -> Result<Self, Malformed> {
        let mut take = Take::new(value);
        if !key.is_empty() || take.u32()? != VERSION {
            return Err(Malformed("a view of an unknown format version"));
        }
        let record = Self { time_ms: take.u64()? };
        take.finish()?;
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes() {
        let record = MetaRecord { time_ms: 7 };
        super::super::check_record(&record, &MetaRecord::key(), &record.value(), &[], MetaRecord::decode);
    }
}
