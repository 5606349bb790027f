//! Exit codes, and errors as users and programs see them.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done; a transaction is confirmed; every check holds |
//! | 1 | a check failed, a server could not start or stopped with an error |
//! | 2 | bad input: the command line, a configuration file, or a request that the server refused for what it is |
//! | 3 | the transaction was canceled; the reason is told |
//! | 4 | the outcome of the transaction is not known yet: ask again with the same id |
//! | 5 | a server is unavailable; nothing happened |
//! | 6 | `chaos`: something that must hold does not; data and logs are kept |
//! | 7 | `chaos`: a scenario cannot be run by this program or on this machine; nothing was found wrong |

use std::process::ExitCode;

use escrow_client::{ClientError, State};
use escrow_cluster::ClusterError;
use escrow_cluster::child::FollowError;
use escrow_types::Reason;
use escrow_verify::CheckResult;

/// The text under `--help` of a command whose exit codes matter.
macro_rules! with_exit_codes {
    ($text:literal) => {
        concat!(
            $text,
            "\n\nExit codes: 0 ok or confirmed, 1 a check or a server failed, 2 bad input, 3 canceled,\n",
            "4 outcome not known yet, 5 server unavailable."
        )
    };
}
pub(crate) use with_exit_codes;

/// How a command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done; confirmed; all checks hold.
    Ok = 0,
    /// A check failed, or something that should not have.
    Failed = 1,
    /// The input is wrong.
    BadInput = 2,
    /// The transaction was canceled.
    Canceled = 3,
    /// The outcome is not known yet.
    Unknown = 4,
    /// A server is unavailable; nothing happened.
    Unavailable = 5,
    /// A chaos run found something wrong.
    Violated = 6,
    /// A chaos run could not be made here.
    Skipped = 7,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

impl Exit {
    /// How a command ends whose checks came to this.
    pub const fn of_checks(result: CheckResult) -> Self {
        match result {
            CheckResult::Failed => Self::Failed,
            CheckResult::NotQuiescent => Self::Unknown,
            CheckResult::Ok | CheckResult::Skipped => Self::Ok,
        }
    }

    /// How a command about one transaction ends that is in this state.
    pub const fn of_state(state: State) -> Self {
        match state {
            State::Confirmed | State::Reserved => Self::Ok,
            State::Canceled => Self::Canceled,
            State::Pending => Self::Unknown,
            State::NotFound | State::Refused => Self::BadInput,
        }
    }

    const fn of_reason(reason: Reason) -> Self {
        match reason {
            Reason::OutcomeUnknown => Self::Unknown,
            reason if reason.is_retryable() => Self::Unavailable,
            _ => Self::BadInput,
        }
    }
}

/// Why a command failed: printed to stderr, and as `{"error":{"code","message"}}` to stdout with `-o json`.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// How the process ends.
    pub exit: Exit,
    /// A stable name for programs.
    pub code: &'static str,
    /// For people.
    pub message: String,
}

impl Failure {
    /// The command line or a file is wrong.
    pub fn bad_input(message: impl Into<String>) -> Self {
        Self { exit: Exit::BadInput, code: Reason::InvalidArgument.code(), message: message.into() }
    }

    /// A configuration file is wrong.
    pub fn bad_config(message: impl Into<String>) -> Self {
        Self { exit: Exit::BadInput, code: "CONFIG_INVALID", message: message.into() }
    }

    /// Something failed that should not have.
    pub fn internal(message: impl Into<String>) -> Self {
        Self { exit: Exit::Failed, code: "FAILED", message: message.into() }
    }

    /// A failure with a code of its own.
    pub fn coded(code: &'static str, message: impl Into<String>) -> Self {
        Self { exit: Exit::Failed, code, message: message.into() }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = match &error {
            ClientError::Invalid(_) | ClientError::Rejected { .. } => Exit::BadInput,
            ClientError::Refused { reason, .. } => Exit::of_reason(*reason),
            ClientError::OutcomeUnknown { .. } | ClientError::Closed(_) => Exit::Unknown,
            ClientError::Unavailable { .. } | ClientError::Unanswered { .. } => Exit::Unavailable,
            ClientError::Malformed(_) => Exit::Failed,
        };
        Self { exit, code: error.code(), message: error.to_string() }
    }
}

impl From<ClusterError> for Failure {
    fn from(error: ClusterError) -> Self {
        let exit = match error {
            ClusterError::Invalid(_) | ClusterError::Topology { .. } => Exit::BadInput,
            _ => Exit::Failed,
        };
        Self { exit, code: error.code(), message: error.to_string() }
    }
}

impl From<FollowError> for Failure {
    fn from(error: FollowError) -> Self {
        match error {
            FollowError::NotAPid(_) => Self::bad_input(error.to_string()),
            FollowError::Refused(_) | FollowError::SupervisorDied => Self::internal(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_error_has_the_documented_code() {
        let refused = |reason| Failure::from(ClientError::Refused { reason, message: "m".to_owned() }).exit;
        assert_eq!(refused(Reason::SameAccount), Exit::BadInput);
        assert_eq!(refused(Reason::TransactionIdReused), Exit::BadInput);
        assert_eq!(refused(Reason::Overloaded), Exit::Unavailable);
        assert_eq!(refused(Reason::Paused), Exit::Unavailable);
        assert_eq!(refused(Reason::OutcomeUnknown), Exit::Unknown);
        let unknown = ClientError::OutcomeUnknown { transaction_id: "t".to_owned(), message: "m".to_owned() };
        assert_eq!(Failure::from(unknown).exit, Exit::Unknown);
        let unavailable = ClientError::Unavailable { endpoint: "e".to_owned(), message: "m".to_owned() };
        assert_eq!(Failure::from(unavailable).exit, Exit::Unavailable);
    }

    #[test]
    fn states_end_as_the_contract_says() {
        assert_eq!(Exit::of_state(State::Confirmed) as u8, 0);
        assert_eq!(Exit::of_state(State::Canceled) as u8, 3);
        assert_eq!(Exit::of_state(State::Pending) as u8, 4);
    }
}
