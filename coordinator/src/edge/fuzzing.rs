//! The forms of the edge as functions of bytes: see `crate::fuzzing`.

use escrow_proto::v1;
use escrow_tcc::driver::{CallerId, Wait, Waiter};
use escrow_tcc::machine::Names;
use escrow_types::{AccountKey, Currency, Epoch, Sequence, TransactionKey};
use prost::Message as _;

use super::{columns, form, operator, transfer};

/// What a `TransferRequest` asks for, once its form was checked.
#[derive(Debug, Clone)]
pub struct Parsed {
    /// The caller's id.
    pub key: TransactionKey,
    /// Who pays.
    pub from: AccountKey,
    /// Who is paid.
    pub to: AccountKey,
    /// Minor units.
    pub amount: u64,
    /// Of the amount.
    pub currency: Currency,
    /// 0 for the default.
    pub timeout_ms: u64,
    /// Ids as text, where they are not UUIDs.
    pub names: Option<Box<Names>>,
}

/// A `TransferRequest`; `None` if it is refused.
pub fn transfer(bytes: &[u8]) -> Option<Parsed> {
    let waiter = Waiter { caller: CallerId(0), tag: 0, wait: Wait::Completed };
    let parsed = transfer::parse(&v1::TransferRequest::decode(bytes).ok()?, waiter).ok()?;
    let transfer = crate::owner::Transfer { reply: None, ..parsed };
    let crate::owner::Transfer { key, from, to, amount, currency, timeout_ms, names, .. } = transfer;
    Some(Parsed { key, from, to, amount, currency, timeout_ms, names })
}

/// A `TransferColumnsRequest`, as it is handed to the owner; `None` if it is refused.
pub fn columns(bytes: &[u8]) -> Option<(Currency, v1::TransferColumnsRequest)> {
    let columns = v1::TransferColumnsRequest::decode(bytes).ok()?;
    let currency = columns::check(&columns).ok()?;
    Some((currency, columns))
}

/// A cursor of `ListTransactions`; `None` if it is refused.
pub fn cursor(text: &str) -> Option<Option<(Epoch, Sequence)>> {
    operator::position(text).ok()
}

/// Whether a text names a transaction, by its id or by its xid.
pub fn is_name(text: &str) -> bool {
    form::named(text).is_ok()
}
