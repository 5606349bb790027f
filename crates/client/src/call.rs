//! One call: attempts, what each failure means, and how the call ends.
//!
//! What an attempt leaves behind decides everything: an attempt that never reached a server leaves nothing, a refusal
//! leaves nothing, a broken connection may have left a transaction. A call whose attempts may have left one ends as
//! "unknown", unless a later attempt is told an outcome, or is told that the request can never have been accepted.

use std::error::Error as _;
use std::future::Future;

use escrow_service::reason_of;
use escrow_types::Reason;
use tokio::time::{Duration, Instant, timeout};
use tonic::{Code, ConnectError, Response, Status};

use crate::error::ClientError;
use crate::options::{Options, RetryPolicy};
use crate::retry::Retry;

/// What a call is about: says how it may be repeated, and what its unknown end is called.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Subject<'a> {
    /// A transaction, by its id: repeated freely, always with the same id.
    Transaction(&'a str),
    /// An operator's verb on a transaction: each repetition is an act of its own in the audit record, so it is repeated
    /// only when the last attempt certainly did nothing.
    Verb(&'a str),
    /// A read, or a change that is the same when done twice.
    Idempotent,
}

/// The longest that any call may take: keeps sums of times in range.
const TOTAL_MAX: Duration = Duration::from_secs(24 * 3_600);

/// The time a call has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    attempt: Duration,
    total: Duration,
    retry: RetryPolicy,
}

impl Budget {
    pub(crate) fn of(options: &Options) -> Self {
        Self {
            attempt: options.attempt_timeout,
            total: options.deadline.min(TOTAL_MAX),
            retry: options.retry,
        }
    }

    /// For a transaction with a timeout of its own: that and the grace, and an attempt may use all of it.
    pub(crate) fn for_timeout(options: &Options, transaction: Option<Duration>) -> Self {
        match transaction {
            None => Self::of(options),
            Some(within) => {
                let total = within.saturating_add(options.grace).min(TOTAL_MAX);
                Self { attempt: total, total, retry: options.retry }
            }
        }
    }
}

/// What a failed attempt means.
enum Verdict {
    /// It never left: the connection could not be made.
    NotSent(String),
    /// The server said no, before anything began.
    Refused(Reason, String),
    /// The server or the transport said no in a way that no repetition changes.
    Rejected(Code, String),
    /// It may have been carried out.
    Perhaps(String),
}

fn classify(status: &Status) -> Verdict {
    let message = status.message().to_owned();
    match reason_of(status) {
        Some(Reason::OutcomeUnknown) => return Verdict::Perhaps(message),
        Some(reason) => return Verdict::Refused(reason, message),
        None => {}
    }
    if let Some(cause) = connect_error(status) {
        return Verdict::NotSent(cause);
    }
    match status.code() {
        Code::Unimplemented
        | Code::InvalidArgument
        | Code::OutOfRange
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::PermissionDenied
        | Code::Unauthenticated => Verdict::Rejected(status.code(), message),
        code => Verdict::Perhaps(if message.is_empty() { format!("{code:?}") } else { message }),
    }
}

/// The deepest cause of a connection that could not be made.
fn connect_error(status: &Status) -> Option<String> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = status.source();
    let mut connecting = false;
    let mut deepest = None;
    while let Some(error) = cause {
        connecting |= error.is::<ConnectError>();
        deepest = Some(error.to_string());
        cause = error.source();
    }
    if connecting { deepest } else { None }
}

/// Whether this refusal also says that no earlier attempt of the same call can have been accepted: the same request is
/// refused in the same way every time.
const fn refuses_for_ever(reason: Reason) -> bool {
    !reason.is_retryable() && !matches!(reason, Reason::TransactionIdExpired)
}

/// Makes attempts until one is answered, refused for good, or the time is over. `attempt` is given the number of the
/// attempt, from 0; `endpoint` names the peer of an attempt, for messages.
pub(crate) async fn drive<T, F>(
    subject: Subject<'_>,
    budget: Budget,
    endpoint: impl Fn(usize) -> String,
    mut attempt: impl FnMut(usize) -> F,
) -> Result<T, ClientError>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    let mut retry = Retry::new(budget.retry, Instant::now() + budget.total);
    // Whether any attempt so far may have had an effect.
    let mut perhaps = false;
    for number in 0.. {
        let verdict = match timeout(budget.attempt.min(retry.remaining()), attempt(number)).await {
            Ok(Ok(response)) => return Ok(response.into_inner()),
            Ok(Err(status)) => classify(&status),
            Err(_) => Verdict::Perhaps("the time was over before an answer came".to_owned()),
        };
        perhaps |= matches!(verdict, Verdict::Perhaps(_));
        let repeat = match &verdict {
            Verdict::NotSent(_) => true,
            Verdict::Refused(reason, _) => reason.is_retryable(),
            Verdict::Rejected(..) => false,
            Verdict::Perhaps(_) => !matches!(subject, Subject::Verb(_)),
        };
        if repeat && let Some(pause) = retry.next_pause() {
            tracing::debug!(attempt = number, pause_ms = pause.as_millis() as u64, "trying again");
            tokio::time::sleep(pause).await;
            continue;
        }
        return Err(end(subject, verdict, perhaps, endpoint(number)));
    }
    unreachable!("the numbers of attempts do not end")
}

/// How a call ends whose last attempt failed with `verdict`.
fn end(subject: Subject<'_>, verdict: Verdict, perhaps: bool, endpoint: String) -> ClientError {
    let message = match verdict {
        Verdict::Refused(reason, message) if !perhaps || refuses_for_ever(reason) => {
            return ClientError::Refused { reason, message };
        }
        Verdict::Rejected(code, message) if !perhaps => return ClientError::Rejected { code, message },
        Verdict::NotSent(message) if !perhaps => return ClientError::Unavailable { endpoint, message },
        Verdict::NotSent(message)
        | Verdict::Refused(_, message)
        | Verdict::Rejected(_, message)
        | Verdict::Perhaps(message) => message,
    };
    match subject {
        Subject::Transaction(id) | Subject::Verb(id) => {
            ClientError::OutcomeUnknown { transaction_id: id.to_owned(), message }
        }
        Subject::Idempotent => ClientError::Unanswered { endpoint, message },
    }
}

/// The failure of a stream that had been open.
pub(crate) fn stream_error(status: &Status) -> ClientError {
    match classify(status) {
        Verdict::Refused(reason, message) => ClientError::Refused { reason, message },
        Verdict::Rejected(code, message) => ClientError::Rejected { code, message },
        Verdict::NotSent(message) | Verdict::Perhaps(message) => ClientError::Closed(message),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use escrow_service::refusal;

    use super::*;

    const BUDGET: Budget = Budget {
        attempt: Duration::from_secs(1),
        total: Duration::from_secs(10),
        retry: RetryPolicy {
            first: Duration::from_millis(10),
            cap: Duration::from_millis(50),
            attempts_max: 1_000,
        },
    };

    /// Answers attempts from a script; what is beyond it hangs.
    async fn call(subject: Subject<'_>, script: &[Result<u8, Reason>]) -> (Result<u8, ClientError>, usize) {
        let made = Cell::new(0);
        let result = drive(
            subject,
            BUDGET,
            |_| "http://test".to_owned(),
            |number| {
                made.set(number + 1);
                let step = script.get(number).copied();
                async move {
                    match step {
                        Some(Ok(value)) => Ok(Response::new(value)),
                        Some(Err(reason)) => Err(refusal(reason, "scripted")),
                        None => std::future::pending().await,
                    }
                }
            },
        )
        .await;
        (result, made.get())
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_retryable_is_retried() {
        let script = [Err(Reason::Overloaded), Err(Reason::ShuttingDown), Ok(7)];
        let (result, made) = call(Subject::Transaction("t"), &script).await;
        assert_eq!((result.unwrap(), made), (7, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_for_good_is_not_retried() {
        let (result, made) = call(Subject::Transaction("t"), &[Err(Reason::SameAccount), Ok(7)]).await;
        let error = result.unwrap_err();
        assert!(matches!(error, ClientError::Refused { reason: Reason::SameAccount, .. }), "{error:?}");
        assert_eq!(made, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_bounds_a_server_that_never_answers() {
        let begun = Instant::now();
        let (result, made) = call(Subject::Transaction("t"), &[]).await;
        let error = result.unwrap_err();
        assert!(
            matches!(&error, ClientError::OutcomeUnknown { transaction_id, .. } if transaction_id == "t"),
            "{error:?}"
        );
        assert!(begun.elapsed() <= BUDGET.total, "{:?}", begun.elapsed());
        assert!(made > 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_after_a_perhaps_leaves_the_outcome_unknown() {
        let mut script = vec![Err(Reason::OutcomeUnknown)];
        script.extend(vec![Err(Reason::Overloaded); 2_000]);
        let (result, _) = call(Subject::Transaction("t"), &script).await;
        assert!(matches!(result, Err(ClientError::OutcomeUnknown { .. })), "{result:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_for_good_after_a_perhaps_is_believed() {
        let script = [Err(Reason::OutcomeUnknown), Err(Reason::TransactionIdReused)];
        let (result, _) = call(Subject::Transaction("t"), &script).await;
        assert!(
            matches!(result, Err(ClientError::Refused { reason: Reason::TransactionIdReused, .. })),
            "{result:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_expired_id_after_a_perhaps_may_have_been_executed() {
        let script = [Err(Reason::OutcomeUnknown), Err(Reason::TransactionIdExpired)];
        let (result, _) = call(Subject::Transaction("t"), &script).await;
        assert!(matches!(result, Err(ClientError::OutcomeUnknown { .. })), "{result:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_operators_verb_is_not_repeated_blindly() {
        let (result, made) = call(Subject::Verb("0-1-2"), &[Err(Reason::OutcomeUnknown), Ok(7)]).await;
        assert!(matches!(result, Err(ClientError::OutcomeUnknown { .. })), "{result:?}");
        assert_eq!(made, 1);
        let (result, made) = call(Subject::Verb("0-1-2"), &[Err(Reason::Overloaded), Ok(7)]).await;
        assert_eq!((result.unwrap(), made), (7, 2));
    }
}
