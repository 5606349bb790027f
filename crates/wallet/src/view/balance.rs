//! `b` + u32 row → u32 account, u16 currency, u8 overdraft policy, u64 limit, i64 posted, u64 reserved, u64 incoming.

use escrow_types::Currency;
use escrow_types::codec::{Malformed, Put as _, Take};

use super::Key;
use crate::balances::Overdraft;

pub(super) const LETTER: u8 = b'b';

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BalanceRecord {
    pub(super) row: u32,
    pub(super) account: u32,
    pub(super) currency: Currency,
    pub(super) overdraft: Overdraft,
    pub(super) posted: i64,
    pub(super) reserved: u64,
    pub(super) incoming: u64,
}

impl BalanceRecord {
    pub(super) fn key(&self) -> Vec<u8> {
        [&[LETTER][..], &self.row.to_be_bytes()].concat()
    }

    pub(super) fn value(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(39);
        out.put_u32(self.account);
        out.put_u16(self.currency.numeric());
        self.overdraft.encode(&mut out);
        out.put_u64(self.posted.cast_unsigned());
        out.put_u64(self.reserved);
        out.put_u64(self.incoming);
        out
    }

    pub(super) fn decode(key: &[u8], value: &[u8]) -> Result<Self, Malformed> {
        let (mut key, mut take) = (Key::new(key), Take::new(value));
        let record = Self {
            row: key.u32()?,
            account: take.u32()?,
            currency: Currency::from_numeric(take.u16()?)
                .ok_or(Malformed("a balance record without a currency"))?,
            overdraft: Overdraft::decode(&mut take)?,
            posted: take.u64()?.cast_signed(),
            reserved: take.u64()?,
            incoming: take.u64()?,
        };
        key.finish()?;
        take.finish()?;
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes() {
        let record = BalanceRecord {
            row: 1,
            account: 2,
            currency: Currency::EUR,
            overdraft: Overdraft::Limit(3),
            posted: -4,
            reserved: u64::MAX,
            incoming: 5,
        };
        assert_eq!(record.key(), b"b\x00\x00\x00\x01");
        super::super::check_record(&record, &record.key(), &record.value(), BalanceRecord::decode);
    }
}
