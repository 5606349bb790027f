//! The wire's types to ours and back.

use std::time::Duration;

use escrow_proto::v1 as proto;
use escrow_types::{Currency, Reason, TransactionId, Xid};

use crate::error::ClientError;
use crate::model::{
    Account, Balance, Direction, Leg, OpenAccount, OpenedAccount, Outcome, Overdraft, State, Transfer, Wait,
};

pub(crate) const fn wait(wait: Wait) -> i32 {
    match wait {
        Wait::Decided => proto::Wait::Decided as i32,
        Wait::Completed => proto::Wait::Completed as i32,
    }
}

/// Milliseconds as the wire wants them: 0 means "the server's default", so a shorter time than 1 ms is 1 ms.
pub(crate) fn timeout_ms(timeout: Option<Duration>) -> u32 {
    timeout.map_or(0, |timeout| u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX).max(1))
}

pub(crate) fn transfer_request(
    transfer: &Transfer,
    transaction_id: &TransactionId,
) -> proto::TransferRequest {
    proto::TransferRequest {
        transaction_id: transaction_id.as_str().to_owned(),
        from_account_id: transfer.from.as_str().to_owned(),
        to_account_id: transfer.to.as_str().to_owned(),
        amount: transfer.amount,
        currency: transfer.currency.code().to_owned(),
        wait: wait(transfer.wait),
        timeout_ms: timeout_ms(transfer.timeout),
    }
}

pub(crate) fn leg(leg: &Leg) -> proto::Leg {
    let direction = match leg.direction {
        Direction::Debit => proto::Direction::Debit,
        Direction::Credit => proto::Direction::Credit,
    };
    proto::Leg {
        account_id: leg.account_id.as_str().to_owned(),
        direction: direction.into(),
        amount: leg.amount,
        currency: leg.currency.code().to_owned(),
        participant: leg.participant.clone().unwrap_or_default(),
    }
}

pub(crate) const fn state_of(number: u8) -> Option<State> {
    Some(match number {
        1 => State::Pending,
        2 => State::Reserved,
        3 => State::Confirmed,
        4 => State::Canceled,
        5 => State::NotFound,
        6 => State::Refused,
        _ => return None,
    })
}

/// A reason of the wire; unknown numbers (of a newer server) are no reason, not an error: the state says enough.
pub(crate) fn reason(number: i32) -> Option<Reason> {
    u8::try_from(number).ok().and_then(Reason::from_number)
}

/// Puts an answer together. `asked` stands in for an id that the server left out.
pub(crate) fn outcome(
    asked: &str,
    transaction_id: String,
    xid: &str,
    state: i32,
    reason_number: i32,
) -> Result<Outcome, ClientError> {
    let state = u8::try_from(state)
        .ok()
        .and_then(state_of)
        .ok_or_else(|| ClientError::Malformed(format!("{state} is not a state of a transaction")))?;
    Ok(Outcome {
        transaction_id: if transaction_id.is_empty() { asked.to_owned() } else { transaction_id },
        xid: parse_xid(xid)?,
        state,
        reason: reason(reason_number),
        position: String::new(),
    })
}

fn parse_xid(text: &str) -> Result<Option<Xid>, ClientError> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse()
        .map(Some)
        .map_err(|error: escrow_types::xid::XidError| ClientError::Malformed(error.to_string()))
}

pub(crate) fn open_account(account: &OpenAccount) -> proto::OpenAccount {
    use proto::overdraft::Policy;
    let policy = match account.overdraft {
        Overdraft::Forbidden => Policy::Forbidden(true),
        Overdraft::Limit(limit) => Policy::Limit(limit),
        Overdraft::Unlimited => Policy::Unlimited(true),
    };
    proto::OpenAccount {
        account_id: account.account_id.as_str().to_owned(),
        currency: account.currency.code().to_owned(),
        overdraft: Some(proto::Overdraft { policy: Some(policy) }),
    }
}

pub(crate) fn opened_account(result: proto::OpenAccountResult) -> OpenedAccount {
    OpenedAccount { account_id: result.account_id, opened: result.opened, reason: reason(result.reason) }
}

pub(crate) fn account(account: proto::Account) -> Result<Account, ClientError> {
    let balances = account.balances.iter().map(balance).collect::<Result<_, _>>()?;
    Ok(Account {
        account_id: account.account_id,
        frozen: account.frozen,
        balances,
        participant: account.participant,
    })
}

fn balance(balance: &proto::Balance) -> Result<Balance, ClientError> {
    let currency: Currency = balance
        .currency
        .parse()
        .map_err(|error: escrow_types::AmountError| ClientError::Malformed(error.to_string()))?;
    Ok(Balance {
        currency,
        posted: balance.posted,
        reserved: balance.reserved,
        available: balance.available,
        incoming: balance.incoming,
        overdraft: overdraft(balance.overdraft.as_ref()),
    })
}

fn overdraft(overdraft: Option<&proto::Overdraft>) -> Overdraft {
    use proto::overdraft::Policy;
    match overdraft.and_then(|overdraft| overdraft.policy.as_ref()) {
        Some(Policy::Limit(limit)) => Overdraft::Limit(*limit),
        Some(Policy::Unlimited(true)) => Overdraft::Unlimited,
        Some(Policy::Unlimited(false) | Policy::Forbidden(_)) | None => Overdraft::Forbidden,
    }
}

/// The message inside an answer that must have one.
pub(crate) fn required<T>(message: Option<T>, what: &str) -> Result<T, ClientError> {
    message.ok_or_else(|| ClientError::Malformed(format!("an answer without {what}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_have_the_numbers_of_the_contract() {
        for number in 0..=255u8 {
            let proto = proto::TransactionState::try_from(i32::from(number)).ok().filter(|_| number != 0);
            let name =
                proto.map(|state| state.as_str_name().trim_start_matches("TRANSACTION_STATE_").to_owned());
            assert_eq!(name.as_deref(), state_of(number).map(State::code), "{number}");
        }
    }

    #[test]
    fn a_timeout_never_becomes_the_servers_default_by_rounding() {
        assert_eq!(timeout_ms(None), 0);
        assert_eq!(timeout_ms(Some(Duration::from_micros(1))), 1);
        assert_eq!(timeout_ms(Some(Duration::MAX)), u32::MAX);
    }

    #[test]
    fn an_answer_that_makes_no_sense_is_said_to_be_so() {
        assert!(matches!(outcome("t", String::new(), "", 0, 0), Err(ClientError::Malformed(_))));
        assert!(matches!(outcome("t", String::new(), "x", 3, 0), Err(ClientError::Malformed(_))));
        let good = outcome("t", String::new(), "0-1-2", 4, 4).unwrap();
        assert_eq!(
            (good.transaction_id.as_str(), good.state, good.reason),
            ("t", State::Canceled, Some(Reason::InsufficientFunds))
        );
    }
}
