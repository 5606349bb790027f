//! `a` + u32 chunk → each account of it: u32 length and bytes of the id, u8 frozen. A chunk has the accounts from place
//! `chunk * CHUNK_ROWS` on; only the last one may have fewer than [`CHUNK_ROWS`].

use escrow_types::AccountId;
use escrow_types::codec::{Malformed, Put as _, Take};

use super::{Key, check_count};
use crate::accounts::Account;

pub(super) const LETTER: u8 = b'a';

pub(super) fn key(chunk: u32) -> Vec<u8> {
    [&[LETTER][..], &chunk.to_be_bytes()].concat()
}

pub(super) fn value(accounts: &[Account]) -> Vec<u8> {
    let mut out = Vec::with_capacity(accounts.len() * 41);
    for account in accounts {
        out.put_bytes(account.id.as_str().as_bytes());
        out.put_u8(u8::from(account.frozen));
    }
    out
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AccountsRecord {
    pub(super) chunk: u32,
    /// Id, frozen.
    pub(super) accounts: Vec<(AccountId, bool)>,
}

impl AccountsRecord {
    pub(super) fn decode(key: &[u8], value: &[u8]) -> Result<Self, Malformed> {
        let (mut key, mut take) = (Key::new(key), Take::new(value));
        let chunk = key.u32()?;
        key.finish()?;
        let mut accounts = Vec::new();
        while take.remaining() > 0 {
            let id =
                AccountId::new(take.text()?).map_err(|_| Malformed("an account record without an id"))?;
            accounts.push((id, take.flag()?));
        }
        check_count(accounts.len())?;
        Ok(Self { chunk, accounts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balances::NO_ROW;

    #[test]
    fn bytes() {
        let account = |text: &str, frozen| {
            let id = AccountId::new(text).unwrap();
            Account { key: id.key(), id, frozen, first_row: NO_ROW }
        };
        let accounts = [account("alice", true), account("bob", false)];
        let record = AccountsRecord {
            chunk: 258,
            accounts: accounts.iter().map(|account| (account.id.clone(), account.frozen)).collect(),
        };
        assert_eq!(key(258), b"a\x00\x00\x01\x02");
        let whole = value(&accounts);
        super::super::check_record(
            &record,
            &key(258),
            &whole,
            &[value(&accounts[..1]).len()],
            AccountsRecord::decode,
        );
        let many = vec![accounts[0].clone(); crate::chunks::CHUNK_ROWS + 1];
        assert!(AccountsRecord::decode(&key(258)[1..], &value(&many)).is_err());
    }
}
