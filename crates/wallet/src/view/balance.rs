//! `b` + u32 chunk → each balance of it: u32 account, u16 currency, u8 overdraft policy, u64 limit, i64 posted, u64
//! reserved, u64 incoming. A chunk has the rows from `chunk * CHUNK_ROWS` on; only the last one may have fewer than
//! [`CHUNK_ROWS`].

use escrow_types::Currency;
use escrow_types::codec::{Malformed, Put as _, Take};

use super::{Key, check_count};
use crate::balances::{Balance, Overdraft};

pub(super) const LETTER: u8 = b'b';

pub(super) fn key(chunk: u32) -> Vec<u8> {
    [&[LETTER][..], &chunk.to_be_bytes()].concat()
}

pub(super) fn value(balances: &[Balance]) -> Vec<u8> {
    let mut out = Vec::with_capacity(balances.len() * 39);
    for balance in balances {
        out.put_u32(balance.account);
        out.put_u16(balance.currency.numeric());
        balance.overdraft().encode(&mut out);
        out.put_u64(balance.posted.cast_unsigned());
        out.put_u64(balance.reserved);
        out.put_u64(balance.incoming);
    }
    out
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BalancesRecord {
    pub(super) chunk: u32,
    pub(super) balances: Vec<BalanceRecord>,
}

/// One balance of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BalanceRecord {
    pub(super) account: u32,
    pub(super) currency: Currency,
    pub(super) overdraft: Overdraft,
    pub(super) posted: i64,
    pub(super) reserved: u64,
    pub(super) incoming: u64,
}

impl BalancesRecord {
    pub(super) fn decode(key: &[u8], value: &[u8]) -> Result<Self, Malformed> {
        let (mut key, mut take) = (Key::new(key), Take::new(value));
        let chunk = key.u32()?;
        key.finish()?;
        let mut balances = Vec::new();
        while take.remaining() > 0 {
            balances.push(BalanceRecord {
                account: take.u32()?,
                currency: Currency::from_numeric(take.u16()?)
                    .ok_or(Malformed("a balance record without a currency"))?,
                overdraft: Overdraft::decode(&mut take)?,
                posted: take.u64()?.cast_signed(),
                reserved: take.u64()?,
                incoming: take.u64()?,
            });
        }
        check_count(balances.len())?;
        Ok(Self { chunk, balances })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use escrow_types::AccountKey;

    #[test]
    fn bytes() {
        let mut balance = Balance::new(AccountKey(9), 2, Currency::EUR, Overdraft::Limit(3));
        (balance.posted, balance.reserved, balance.incoming) = (-4, u64::MAX, 5);
        let record = BalanceRecord {
            account: 2,
            currency: Currency::EUR,
            overdraft: Overdraft::Limit(3),
            posted: -4,
            reserved: u64::MAX,
            incoming: 5,
        };
        let record = BalancesRecord { chunk: 1, balances: vec![record; 2] };
        assert_eq!(key(1), b"b\x00\x00\x00\x01");
        super::super::check_record(&record, &key(1), &value(&[balance; 2]), &[39], BalancesRecord::decode);
        assert!(BalancesRecord::decode(&key(1)[1..], &value(&[balance; 65])).is_err());
    }
}
