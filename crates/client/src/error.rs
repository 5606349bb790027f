//! What can go wrong with a call, and the two questions that matter then: may I retry, can it have had an effect?

use escrow_types::Reason;
use tonic::Code;

/// Why a call has no answer.
///
/// | variant | may retry | can have had an effect |
/// |---|---|---|
/// | [`Invalid`](Self::Invalid) | no | no: it was never sent |
/// | [`Refused`](Self::Refused) | if the reason says so | no: the server refused before anything began |
/// | [`Rejected`](Self::Rejected) | no | no: the call itself was not understood or not allowed |
/// | [`Unavailable`](Self::Unavailable) | yes | no: no attempt reached a server that took it |
/// | [`OutcomeUnknown`](Self::OutcomeUnknown) | yes, with the same id | yes |
/// | [`Unanswered`](Self::Unanswered) | yes | yes, where the call changes anything at all |
/// | [`Closed`](Self::Closed) | yes, with the same ids | yes: what was sent and not answered |
/// | [`Malformed`](Self::Malformed) | no | yes |
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// The call was never sent: an argument is wrong.
    #[error("{0}")]
    Invalid(String),
    /// The server refused the request before anything began.
    #[error("{message}")]
    Refused {
        /// Why, from the one catalogue.
        reason: Reason,
        /// For people.
        message: String,
    },
    /// The call was refused with a gRPC status that is not of our catalogue: not implemented, too large, not allowed.
    #[error("{code:?}: {message}")]
    Rejected {
        /// The gRPC code.
        code: Code,
        /// For people.
        message: String,
    },
    /// The server cannot be reached; no attempt was taken by it.
    #[error("cannot reach {endpoint}: {message}")]
    Unavailable {
        /// The last endpoint that was tried.
        endpoint: String,
        /// What the operating system or the transport said.
        message: String,
    },
    /// The transaction may have been executed: the connection broke or the time was over after it was sent. Ask for
    /// `transaction_id`, or make the same call again with it.
    #[error("the outcome of {transaction_id} is not known: {message}")]
    OutcomeUnknown {
        /// The id (or xid) to ask with.
        transaction_id: String,
        /// What the last attempt ended with.
        message: String,
    },
    /// A call that is not a transaction (accounts, reports) was sent and not answered. Repeating it is safe.
    #[error("no answer from {endpoint}: {message}")]
    Unanswered {
        /// The endpoint that was asked last.
        endpoint: String,
        /// What the last attempt ended with.
        message: String,
    },
    /// The stream is over; where there are replicas, none of them took it over in time. Transfers that were sent on it and not answered may have been executed.
    #[error("the stream is closed: {0}")]
    Closed(String),
    /// The answer is not what the contract says: a server of another version, or not Escrow at all.
    #[error("the server's answer makes no sense: {0}")]
    Malformed(String),
}

impl ClientError {
    /// Whether the same call may succeed later. A transfer must be retried with the same transaction_id.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Refused { reason, .. } => reason.is_retryable(),
            Self::Unavailable { .. }
            | Self::OutcomeUnknown { .. }
            | Self::Unanswered { .. }
            | Self::Closed(_) => true,
            Self::Invalid(_) | Self::Rejected { .. } | Self::Malformed(_) => false,
        }
    }

    /// Whether it is certain that nothing happened. `false` means: perhaps.
    pub const fn has_no_effect(&self) -> bool {
        match self {
            Self::Invalid(_) | Self::Refused { .. } | Self::Rejected { .. } | Self::Unavailable { .. } => {
                true
            }
            Self::OutcomeUnknown { .. } | Self::Unanswered { .. } | Self::Closed(_) | Self::Malformed(_) => {
                false
            }
        }
    }

    /// The reason from the catalogue, when the server gave one.
    pub const fn reason(&self) -> Option<Reason> {
        match self {
            Self::Refused { reason, .. } => Some(*reason),
            Self::OutcomeUnknown { .. } => Some(Reason::OutcomeUnknown),
            _ => None,
        }
    }

    /// A stable name for programs: the reason's code, or that of the variant.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Refused { reason, .. } => reason.code(),
            Self::Invalid(_) => Reason::InvalidArgument.code(),
            Self::OutcomeUnknown { .. } => Reason::OutcomeUnknown.code(),
            Self::Rejected { .. } => "REJECTED",
            Self::Unavailable { .. } => "UNAVAILABLE",
            Self::Unanswered { .. } => "UNANSWERED",
            Self::Closed(_) => "STREAM_CLOSED",
            Self::Malformed(_) => "MALFORMED_ANSWER",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_outcome_is_never_said_to_be_without_effect() {
        let unknown = ClientError::OutcomeUnknown { transaction_id: "t".into(), message: "m".into() };
        assert!(unknown.is_retryable() && !unknown.has_no_effect());
        assert!(unknown.to_string().contains('t'));
    }

    #[test]
    fn a_refusal_is_retryable_as_its_reason_says() {
        for &reason in Reason::ALL {
            let refused = ClientError::Refused { reason, message: String::new() };
            assert_eq!(refused.is_retryable(), reason.is_retryable());
            assert!(refused.has_no_effect());
            assert_eq!(refused.code(), reason.code());
        }
    }
}
