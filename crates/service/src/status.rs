//! Refusals as gRPC statuses: a code, a text for people, and `google.rpc.ErrorInfo` with the reason for programs.

use std::collections::HashMap;
use std::time::Duration;

use escrow_proto::ERROR_DOMAIN;
use escrow_types::Reason;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// How long a refused caller should wait before it tries again.
const RETRY_DELAY: Duration = Duration::from_millis(50);
/// Where `ErrorInfo` of a NOT_LEADER says who leads.
const LEADER_METADATA: &str = "leader";

/// The gRPC code of a refusal.
pub const fn code_of(reason: Reason) -> Code {
    match reason {
        Reason::TransactionNotFound | Reason::AccountNotFound => Code::NotFound,
        Reason::TransactionIdReused | Reason::AccountExists => Code::AlreadyExists,
        Reason::Overloaded | Reason::MessageTooLarge => Code::ResourceExhausted,
        Reason::ParticipantUnavailable | Reason::ShuttingDown | Reason::Paused | Reason::NotLeader => {
            Code::Unavailable
        }
        Reason::OutcomeUnknown => Code::Unknown,
        Reason::TransactionIdExpired
        | Reason::AlreadyDecided
        | Reason::NotReserved
        | Reason::NotInDoubt
        | Reason::CurrencyNotHeld
        | Reason::AccountFrozen
        | Reason::InsufficientFunds
        | Reason::BalanceOverflow
        | Reason::ParticipantRejected
        | Reason::DeadlineExceeded
        | Reason::CanceledByCaller
        | Reason::CanceledByOperator
        | Reason::Forced => Code::FailedPrecondition,
        Reason::InvalidTransactionId
        | Reason::InvalidAccountId
        | Reason::SameAccount
        | Reason::InvalidCurrency
        | Reason::AmountZero
        | Reason::InvalidAmount
        | Reason::LegsUnbalanced
        | Reason::InvalidLegs
        | Reason::UnknownParticipant
        | Reason::InvalidArgument => Code::InvalidArgument,
    }
}

/// A refusal: the code that fits the reason, `message` for people, `ErrorInfo` for programs, `RetryInfo` when a retry
/// may help.
pub fn refusal(reason: Reason, message: impl Into<String>) -> Status {
    refusal_with(reason, message, HashMap::new())
}

/// What a replica answers that does not lead: NOT_LEADER, with the endpoint of the one that does, such as
/// `http://127.0.0.1:7411`, if it is known.
pub fn not_leader(leader: Option<&str>) -> Status {
    let message = match leader {
        Some(leader) => format!("this replica does not lead its group: {leader} does"),
        None => "this replica does not lead its group, and knows nobody who does".to_owned(),
    };
    let metadata = leader.map(|leader| (LEADER_METADATA.to_owned(), leader.to_owned()));
    refusal_with(Reason::NotLeader, message, metadata.into_iter().collect())
}

/// What a replica answers that stopped leading before the outcome of a request was known: OUTCOME_UNKNOWN, with the endpoint of the one
/// that leads, if it is known.
pub fn unknown_outcome(message: impl Into<String>, leader: Option<&str>) -> Status {
    let metadata = leader.map(|leader| (LEADER_METADATA.to_owned(), leader.to_owned()));
    refusal_with(Reason::OutcomeUnknown, message, metadata.into_iter().collect())
}

fn refusal_with(reason: Reason, message: impl Into<String>, metadata: HashMap<String, String>) -> Status {
    let mut details = ErrorDetails::with_error_info(reason.code(), ERROR_DOMAIN, metadata);
    if reason.is_retryable() {
        details.set_retry_info(Some(RETRY_DELAY));
    }
    Status::with_error_details(code_of(reason), message, details)
}

/// The reason that a status of ours bears; `None` for statuses of transports and of others.
pub fn reason_of(status: &Status) -> Option<Reason> {
    let info = status.get_details_error_info()?;
    if info.domain != ERROR_DOMAIN {
        return None;
    }
    Reason::from_code(&info.reason)
}

/// The endpoint of the leader that a NOT_LEADER, or an OUTCOME_UNKNOWN, names; `None` if it names none, and for any other status.
pub fn leader_of(status: &Status) -> Option<String> {
    if !matches!(reason_of(status)?, Reason::NotLeader | Reason::OutcomeUnknown) {
        return None;
    }
    status.get_details_error_info()?.metadata.remove(LEADER_METADATA).filter(|leader| !leader.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_keeps_its_reason() {
        for &reason in Reason::ALL {
            let status = refusal(reason, "why");
            assert_eq!(reason_of(&status), Some(reason));
            assert_eq!(status.message(), "why");
            assert_eq!(status.get_details_retry_info().is_some(), reason.is_retryable());
        }
    }

    #[test]
    fn a_replica_that_does_not_lead_says_who_does() {
        let leader = "http://127.0.0.1:7411";
        for known in [Some(leader), None, Some("")] {
            let status = not_leader(known);
            assert_eq!((status.code(), reason_of(&status)), (Code::Unavailable, Some(Reason::NotLeader)));
            assert_eq!(leader_of(&status).as_deref(), known.filter(|known| !known.is_empty()));
            assert!(status.get_details_retry_info().is_some());
        }
        assert_eq!(leader_of(&refusal(Reason::Paused, leader)), None);
        assert_eq!(leader_of(&Status::unavailable(leader)), None);
    }

    #[test]
    fn a_foreign_status_has_no_reason() {
        assert_eq!(reason_of(&Status::internal("no")), None);
    }

    /// The catalogue in Rust and that in the .proto files are one: same numbers, same names.
    #[test]
    fn the_proto_catalogue_is_the_same() {
        for number in 0..=255u8 {
            let proto = escrow_proto::v1::Reason::try_from(i32::from(number)).ok().filter(|_| number != 0);
            let ours = Reason::from_number(number);
            let proto_name =
                proto.map(|reason| reason.as_str_name().trim_start_matches("REASON_").to_owned());
            assert_eq!(proto_name.as_deref(), ours.map(Reason::code), "number {number}");
        }
    }
}
