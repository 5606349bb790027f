//! The conversions of the edge as functions of messages: see `crate::fuzzing`.

use escrow_proto::v1 as proto;
use escrow_proto::v1::exchange_request::Message;
use escrow_wallet::{Command, Sender};
use prost::Message as _;

use super::convert;

/// What an `Exchange` stream hands to the owner of the shard for a message; `None` if it is refused.
pub fn exchange(request: proto::ExchangeRequest, sender: Sender) -> Option<Command> {
    Some(match request.message? {
        Message::Hello(hello) => Command::Hello(convert::hello(&hello).ok()?),
        Message::Try(columns) => Command::Try(convert::try_columns(sender, columns).ok()?),
        Message::TryAndConfirm(columns) => {
            Command::TryAndConfirm(convert::try_columns(sender, columns).ok()?)
        }
        Message::Confirm(columns) => Command::Confirm(convert::end_columns(sender, columns, true).ok()?),
        Message::Cancel(columns) => Command::Cancel(convert::end_columns(sender, columns, false).ok()?),
        Message::Fence(columns) => Command::Fence(convert::end_columns(sender, columns, false).ok()?),
        Message::Watermark(watermark) => Command::Watermark(convert::watermark(sender, watermark).ok()?),
    })
}

/// What a unary call hands to the owner of the shard; `call` says which it is. `None` if it is refused.
pub fn unary(call: u8, bytes: &[u8]) -> Option<Command> {
    Some(match call % 5 {
        0 => Command::Try(convert::try_request(&proto::TryRequest::decode(bytes).ok()?).ok()?),
        1 => convert::confirm_request(proto::ConfirmBranchRequest::decode(bytes).ok()?).ok()?,
        2 => convert::cancel_request(&proto::CancelBranchRequest::decode(bytes).ok()?).ok()?,
        3 => Command::Hello(convert::hello(&proto::HelloRequest::decode(bytes).ok()?).ok()?),
        _ => {
            let request = proto::OpenAccountsRequest::decode(bytes).ok()?;
            let rows = request.accounts.iter().map(convert::open_account);
            Command::OpenAccounts(rows.filter_map(Result::ok).collect())
        }
    })
}
