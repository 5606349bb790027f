//! `a` + u32 place → u32 length and bytes of the id, u8 frozen.

use escrow_types::AccountId;
use escrow_types::codec::{Malformed, Put as _, Take};

use super::Key;

pub(super) const LETTER: u8 = b'a';

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AccountRecord {
    pub(super) place: u32,
    pub(super) id: AccountId,
    pub(super) frozen: bool,
}

impl AccountRecord {
    pub(super) fn key(&self) -> Vec<u8> {
        [&[LETTER][..], &self.place.to_be_bytes()].concat()
    }

    pub(super) fn value(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(80);
        out.put_bytes(self.id.as_str().as_bytes());
        out.put_u8(u8::from(self.frozen));
        out
    }

    pub(super) fn decode(key: &[u8], value: &[u8]) -> Result<Self, Malformed> {
        let (mut key, mut take) = (Key::new(key), Take::new(value));
        let place = key.u32()?;
        let id = AccountId::new(take.text()?).map_err(|_| Malformed("an account record without an id"))?;
        let frozen = take.flag()?;
        key.finish()?;
        take.finish()?;
        Ok(Self { place, id, frozen })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes() {
        let record = AccountRecord { place: 258, id: AccountId::new("alice").unwrap(), frozen: true };
        assert_eq!(record.key(), b"a\x00\x00\x01\x02");
        super::super::check_record(&record, &record.key(), &record.value(), AccountRecord::decode);
    }
}
