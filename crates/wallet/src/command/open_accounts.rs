//! OpenAccounts: accounts, or further currencies of accounts, to open.
//!
//! ```text
//! u32 rows, then each: u32 length and bytes of the id, u16 currency, overdraft (u8 policy, u64 limit)
//! ```

use escrow_types::codec::{COLUMN_ROWS_MAX, Malformed, Put as _, Take};
use escrow_types::{AccountId, Currency};

use crate::balances::Overdraft;

/// One account in one currency to open. Opening it again with the same properties changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenAccount {
    /// The account.
    pub id: AccountId,
    /// The currency to hold.
    pub currency: Currency,
    /// How far this balance may go below zero.
    pub overdraft: Overdraft,
}

pub(super) fn encode(rows: &[OpenAccount], out: &mut Vec<u8>) {
    out.put_u32(u32::try_from(rows.len()).expect("bounded by the message size"));
    for row in rows {
        out.put_bytes(row.id.as_str().as_bytes());
        out.put_u16(row.currency.numeric());
        row.overdraft.encode(out);
    }
}

pub(super) fn decode(take: &mut Take<'_>) -> Result<Vec<OpenAccount>, Malformed> {
    let rows = take.u32()? as usize;
    if rows > COLUMN_ROWS_MAX {
        return Err(Malformed("an opening with too many rows"));
    }
    // Not sized by the count that was read: it may be a lie.
    let mut accounts = Vec::new();
    for _ in 0..rows {
        let id = AccountId::new(take.text()?).map_err(|_| Malformed("not an account id"))?;
        let currency = Currency::from_numeric(take.u16()?).ok_or(Malformed("not a currency"))?;
        accounts.push(OpenAccount { id, currency, overdraft: Overdraft::decode(take)? });
    }
    Ok(accounts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Command, tests::check_codec};

    #[test]
    fn bytes() {
        let row = |id: &str, overdraft| OpenAccount {
            id: AccountId::new(id).unwrap(),
            currency: Currency::USD,
            overdraft,
        };
        check_codec(&Command::OpenAccounts(vec![]));
        check_codec(&Command::OpenAccounts(vec![
            row("a", Overdraft::Forbidden),
            row(&"x".repeat(64), Overdraft::Limit(u64::MAX)),
            row("ü", Overdraft::Unlimited),
        ]));
    }
}
