//! The form of requests: text to types, with the reason of every refusal.

use escrow_proto::v1;
use escrow_service::refusal;
use escrow_tcc::content::{Direction, Leg};
use escrow_tcc::driver::Wait;
use escrow_tcc::machine::Names;
use escrow_types::{AccountId, Currency, IdError, ParticipantId, Reason, TransactionId, TransactionKey, Xid};
use tonic::Status;

use super::Service;
use crate::config::ParticipantKind;

/// A refusal before it is a status: streams answer with it in a row.
pub(super) type Refused = (Reason, String);

pub(super) fn status((reason, message): Refused) -> Status {
    refusal(reason, message)
}

pub(super) fn transaction_id(text: &str) -> Result<TransactionId, Refused> {
    TransactionId::new(text)
        .map_err(|error: IdError| (Reason::InvalidTransactionId, format!("transaction_id: {error}")))
}

pub(super) fn account_id(field: &str, text: &str) -> Result<AccountId, Refused> {
    AccountId::new(text).map_err(|error: IdError| (Reason::InvalidAccountId, format!("{field}: {error}")))
}

pub(super) fn currency(text: &str) -> Result<Currency, Refused> {
    text.parse().map_err(|error: escrow_types::AmountError| (Reason::InvalidCurrency, error.to_string()))
}

pub(super) fn wait(wait: v1::Wait) -> Wait {
    match wait {
        v1::Wait::Decided => Wait::Decided,
        v1::Wait::Unspecified | v1::Wait::Completed => Wait::Completed,
    }
}

/// The text of an id, where the key alone does not say it.
pub(super) fn name(is_uuid: bool, text: &str) -> Option<Box<str>> {
    if is_uuid { None } else { Some(text.into()) }
}

pub(super) fn names(id: &TransactionId, from: &AccountId, to: &AccountId) -> Option<Box<Names>> {
    let names = Names {
        transaction_id: name(id.key().is_uuid(), id.as_str()),
        from: name(from.key().is_uuid(), from.as_str()),
        to: name(to.key().is_uuid(), to.as_str()),
    };
    (names != Names::default()).then(|| Box::new(names))
}

/// What a caller names: a transaction by its id, or by its xid.
pub(super) enum Named {
    Id(TransactionKey),
    Xid(Xid),
}

/// An xid looks like `0-3-1042`; anything else is a transaction_id. A transaction_id of that form must be looked up by xid.
pub(super) fn named(text: &str) -> Result<Named, Refused> {
    if let Ok(xid) = text.parse::<Xid>() {
        return Ok(Named::Xid(xid));
    }
    transaction_id(text).map(|id| Named::Id(id.key()))
}

impl Service {
    /// The legs of a request, each with the participant that holds its account.
    pub(super) fn legs(&self, legs: &[v1::Leg]) -> Result<Vec<Leg>, Refused> {
        legs.iter().enumerate().map(|(at, leg)| self.leg(at, leg)).collect()
    }

    fn leg(&self, at: usize, leg: &v1::Leg) -> Result<Leg, Refused> {
        let account = account_id(&format!("legs[{at}].account_id"), &leg.account_id)?;
        let direction = match leg.direction() {
            v1::Direction::Debit => Direction::Debit,
            v1::Direction::Credit => Direction::Credit,
            v1::Direction::Unspecified => {
                let message = format!("legs[{at}].direction: DEBIT or CREDIT is needed");
                return Err((Reason::InvalidLegs, message));
            }
        };
        let currency = currency(&leg.currency)
            .map_err(|(reason, message)| (reason, format!("legs[{at}].currency: {message}")))?;
        let amount = leg.amount;
        if leg.participant.is_empty() {
            let key = account.key();
            let no_shards = || (Reason::UnknownParticipant, "no wallet shard is configured".to_owned());
            let participant = self.routing.of(key).ok_or_else(no_shards)?;
            let account_id = name(key.is_uuid(), account.as_str());
            return Ok(Leg { participant, account: key, account_id, direction, amount, currency });
        }
        // The external participant is given the text; the key only tells accounts apart here.
        let participant = self.named_participant(at, &leg.participant)?;
        let key = account.key().on_external(participant);
        let account_id = Some(account.as_str().into());
        Ok(Leg { participant, account: key, account_id, direction, amount, currency })
    }

    fn named_participant(&self, at: usize, name: &str) -> Result<ParticipantId, Refused> {
        // Wallet accounts are found by their slot: a caller cannot place one elsewhere.
        let mut all = self.config.participants.iter();
        let external = all.find(|it| it.kind == ParticipantKind::Unary && it.name == name);
        external.map(|external| ParticipantId(external.id)).ok_or_else(|| {
            let shown: String = name.chars().take(64).collect();
            (
                Reason::UnknownParticipant,
                format!("legs[{at}].participant: no external participant is named '{shown}'"),
            )
        })
    }
}

/// What a reason means, for people, where no better message is at hand.
pub(super) const fn explain(reason: Reason) -> &'static str {
    match reason {
        Reason::InvalidTransactionId => "transaction_id: 1-64 bytes without control characters are needed",
        Reason::InvalidAccountId => "account_id: 1-64 bytes without control characters are needed",
        Reason::SameAccount => "the same account is on both sides",
        Reason::InvalidCurrency => "currency: an ISO 4217 code such as USD is needed",
        Reason::AmountZero => "amount: must be above zero",
        Reason::InvalidAmount => "amount: not valid",
        Reason::LegsUnbalanced => "legs: debits and credits of a currency differ",
        Reason::InvalidLegs => "legs: 2 to 64 are needed",
        Reason::UnknownParticipant => "no such participant is configured",
        Reason::TransactionIdReused => "transaction_id: it belongs to a transaction with other content",
        Reason::TransactionIdExpired => "transaction_id: the UUIDv7 is older than the idempotency window",
        Reason::Overloaded => "as much is unfinished as this server takes: retry after a pause",
        Reason::ParticipantUnavailable => {
            "a shard that holds one of the accounts cannot be reached now; nothing began"
        }
        Reason::ShuttingDown => "the server is shutting down; nothing began",
        Reason::Paused => "an operator has paused new work; nothing began",
        Reason::NotLeader => "this replica does not lead its group; nothing began",
        Reason::OutcomeUnknown => "the outcome is not known yet: ask again with the same transaction_id",
        Reason::TransactionNotFound => "no transaction with this id is remembered",
        _ => "refused",
    }
}
