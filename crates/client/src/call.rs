//! One call: attempts, what each failure means, and how the call ends.
//!
//! What an attempt leaves behind decides everything: an attempt that never reached a server leaves nothing, a refusal
//! leaves nothing, a broken connection may have left a transaction. A call whose attempts may have left one ends as
//! "unknown", unless a later attempt is told an outcome, or is told that the request can never have been accepted.
//!
//! Where there are several replicas, each attempt also says where the next one goes: to the leader that a replica names, or
//! to the next replica when one cannot be reached, does not answer, or knows no leader.

use std::future::Future;

use escrow_service::{Course, leader_of, reason_of};
use escrow_types::Reason;
use tokio::time::{Duration, Instant, timeout};
use tonic::{Code, Response, Status};

use crate::channel::{Pool, Route};
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

/// Who can answer a call.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Whom {
    /// One partition.
    Partition(usize),
    /// Any of them: another one after each pause.
    Anybody,
}

/// The longest that any call may take: keeps sums of times in range.
const TOTAL_MAX: Duration = Duration::from_secs(24 * 3_600);

/// The time a call has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    attempt: Duration,
    /// As [`Options::replica_timeout`].
    replica: Duration,
    total: Duration,
    retry: RetryPolicy,
}

impl Budget {
    pub(crate) fn of(options: &Options) -> Self {
        Self {
            attempt: options.attempt_timeout,
            replica: options.replica_timeout,
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
                Self { attempt: total, replica: options.replica_timeout, total, retry: options.retry }
            }
        }
    }

    /// The same, with another time for all attempts together.
    pub(crate) fn in_all(self, total: Duration) -> Self {
        Self { total: total.min(TOTAL_MAX), ..self }
    }

    /// How long the replica that is asked now may take. A verb is never repeated for being slow, so it gets all the time.
    fn patience(&self, subject: Subject<'_>, course: &Course<'_>) -> Duration {
        match subject {
            Subject::Verb(_) => self.attempt,
            Subject::Transaction(_) | Subject::Idempotent => course.patience(self.replica, self.attempt),
        }
    }
}

/// What a failed attempt means.
pub(crate) enum Verdict {
    /// It never left: the connection could not be made.
    NotSent(String),
    /// A replica that does not lead said no, and perhaps who leads.
    NotLeader(Option<String>, String),
    /// The server said no, before anything began.
    Refused(Reason, String),
    /// The server or the transport said no in a way that no repetition changes.
    Rejected(Code, String),
    /// It may have been carried out.
    Perhaps(String),
    /// The same, and nobody has answered in time.
    TimedOut,
}

const TIMED_OUT: &str = "the time was over before an answer came";

impl Verdict {
    fn is_perhaps(&self) -> bool {
        matches!(self, Self::Perhaps(_) | Self::TimedOut)
    }

    /// Whether it makes sense, and is safe, to ask again.
    pub(crate) fn may_repeat(&self, subject: Subject<'_>) -> bool {
        match self {
            Self::NotSent(_) | Self::NotLeader(..) => true,
            Self::Refused(reason, _) => reason.is_retryable(),
            Self::Rejected(..) => false,
            Self::Perhaps(_) | Self::TimedOut => !matches!(subject, Subject::Verb(_)),
        }
    }

    /// How a stream ends that had been open, and on which this is the last word.
    pub(crate) fn into_stream_error(self) -> ClientError {
        match self {
            Self::Refused(reason, message) => ClientError::Refused { reason, message },
            Self::NotLeader(_, message) => ClientError::Refused { reason: Reason::NotLeader, message },
            Self::Rejected(code, message) => ClientError::Rejected { code, message },
            Self::TimedOut => ClientError::Closed(TIMED_OUT.to_owned()),
            Self::NotSent(message) | Self::Perhaps(message) => ClientError::Closed(message),
        }
    }

    /// Sets the course for the next attempt; `true` if that needs no pause: this one has done nothing, and another replica is asked.
    pub(crate) fn steer(&self, course: &mut Course<'_>) -> bool {
        match self {
            Self::NotSent(_) => course.unanswered(),
            Self::NotLeader(leader, _) => course.refused(leader.as_deref()),
            Self::TimedOut => {
                course.timed_out();
                false
            }
            Self::Perhaps(_) | Self::Refused(Reason::ShuttingDown, _) => {
                course.unanswered();
                false
            }
            Self::Refused(..) | Self::Rejected(..) => false,
        }
    }
}

pub(crate) fn classify(status: &Status) -> Verdict {
    let message = status.message().to_owned();
    match reason_of(status) {
        Some(Reason::OutcomeUnknown) => return Verdict::Perhaps(message),
        Some(Reason::NotLeader) => return Verdict::NotLeader(leader_of(status), message),
        Some(reason) => return Verdict::Refused(reason, message),
        None => {}
    }
    match escrow_grpc::was_not_sent(status) {
        Some(not_sent) if not_sent.is_for_good() => return Verdict::Rejected(status.code(), message),
        Some(_) => return Verdict::NotSent(message),
        None => {}
    }
    match status.code() {
        Code::Unimplemented
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::PermissionDenied
        | Code::Unauthenticated => Verdict::Rejected(status.code(), message),
        code => Verdict::Perhaps(if message.is_empty() { format!("{code:?}") } else { message }),
    }
}

/// Whether this refusal also says that no earlier attempt of the same call can have been accepted: the same request is
/// refused in the same way every time.
const fn refuses_for_ever(reason: Reason) -> bool {
    !reason.is_retryable() && !matches!(reason, Reason::TransactionIdExpired)
}

/// Makes attempts until one is answered, refused for good, or the time is over. `attempt` is given where it goes.
pub(crate) async fn drive<T, F>(
    subject: Subject<'_>,
    budget: Budget,
    pool: &Pool,
    whom: Whom,
    mut attempt: impl FnMut(Route) -> F,
) -> Result<T, ClientError>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    let mut retry = Retry::new(budget.retry, Instant::now() + budget.total);
    let mut partition = if let Whom::Partition(partition) = whom { partition } else { 0 };
    let mut course = Course::new(pool.replicas(partition));
    // Whether any attempt so far may have had an effect.
    let mut perhaps = false;
    loop {
        let route = Route { partition, replica: course.at() };
        let patience = budget.patience(subject, &course).min(retry.remaining());
        let verdict = match timeout(patience, attempt(route)).await {
            Ok(Ok(response)) => {
                course.answered();
                return Ok(response.into_inner());
            }
            Ok(Err(status)) => classify(&status),
            Err(_) => Verdict::TimedOut,
        };
        perhaps |= verdict.is_perhaps();
        let moved = verdict.steer(&mut course);
        if !verdict.may_repeat(subject) {
            return Err(end(subject, verdict, perhaps, pool.endpoint_at(route)));
        }
        if moved && !retry.remaining().is_zero() {
            continue;
        }
        let Some(pause) = retry.next_pause() else {
            return Err(end(subject, verdict, perhaps, pool.endpoint_at(route)));
        };
        tracing::debug!(?route, pause_ms = pause.as_millis() as u64, "trying again");
        tokio::time::sleep(pause).await;
        if retry.remaining().is_zero() {
            // The pause took longer than it was meant to. An attempt without time would only blur what is known.
            return Err(end(subject, verdict, perhaps, pool.endpoint_at(route)));
        }
        course.paused();
        if matches!(whom, Whom::Anybody) && pool.len() > 1 {
            partition = (partition + 1) % pool.len();
            course = Course::new(pool.replicas(partition));
        }
    }
}

/// How a call ends whose last attempt failed with `verdict`.
fn end(subject: Subject<'_>, verdict: Verdict, perhaps: bool, endpoint: &str) -> ClientError {
    let endpoint = endpoint.to_owned();
    let message = match verdict {
        Verdict::Refused(reason, message) if !perhaps || refuses_for_ever(reason) => {
            return ClientError::Refused { reason, message };
        }
        Verdict::Rejected(code, message) if !perhaps => return ClientError::Rejected { code, message },
        Verdict::NotLeader(_, message) if !perhaps => {
            return ClientError::Refused { reason: Reason::NotLeader, message };
        }
        Verdict::NotSent(message) if !perhaps => return ClientError::Unavailable { endpoint, message },
        Verdict::TimedOut => TIMED_OUT.to_owned(),
        Verdict::NotSent(message)
        | Verdict::NotLeader(_, message)
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
    classify(status).into_stream_error()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use escrow_service::{not_leader, refusal};

    use super::*;

    const BUDGET: Budget = Budget {
        attempt: Duration::from_secs(1),
        replica: Duration::from_millis(100),
        total: Duration::from_secs(10),
        retry: RetryPolicy {
            first: Duration::from_millis(10),
            cap: Duration::from_millis(50),
            attempts_max: 1_000,
        },
    };

    /// What one attempt comes to.
    #[derive(Debug, Clone, Copy)]
    enum Step {
        Answers(u8),
        Refuses(Reason),
        NotLeader(Option<&'static str>),
        Hangs,
    }
    use Step::{Answers, Hangs, NotLeader, Refuses};

    const GROUP: &str = "http://a:1+http://b:1+http://c:1";

    fn pool(endpoints: &[&str]) -> Pool {
        Pool::new(endpoints.iter().copied(), &Options::default()).unwrap()
    }

    /// Answers attempts from a script; what is beyond it hangs. Gives the routes that were taken.
    async fn call_on(
        pool: &Pool,
        whom: Whom,
        subject: Subject<'_>,
        script: &[Step],
    ) -> (Result<u8, ClientError>, Vec<Route>) {
        let routes = RefCell::new(Vec::new());
        let attempt = |route| {
            let step = script.get(routes.borrow().len()).copied().unwrap_or(Hangs);
            routes.borrow_mut().push(route);
            async move {
                match step {
                    Answers(value) => Ok(Response::new(value)),
                    Refuses(reason) => Err(refusal(reason, "scripted")),
                    NotLeader(leader) => Err(not_leader(leader)),
                    Hangs => std::future::pending().await,
                }
            }
        };
        let result = drive(subject, BUDGET, pool, whom, attempt).await;
        (result, routes.into_inner())
    }

    /// As [`call_on`], to a single server; gives how many attempts were made.
    async fn call(subject: Subject<'_>, script: &[Result<u8, Reason>]) -> (Result<u8, ClientError>, usize) {
        let script: Vec<Step> = script
            .iter()
            .map(|step| match *step {
                Ok(value) => Answers(value),
                Err(reason) => Refuses(reason),
            })
            .collect();
        let (result, routes) = call_on(&pool(&["http://test:1"]), Whom::Partition(0), subject, &script).await;
        (result, routes.len())
    }

    fn replicas(routes: &[Route]) -> Vec<usize> {
        routes.iter().map(|route| route.replica).collect()
    }

    /// "Too large", or anything else that is said of an answer, comes after the server has done what it was asked for.
    #[test]
    fn only_what_cannot_have_been_carried_out_is_rejected() {
        for code in [Code::OutOfRange, Code::Internal, Code::Unavailable, Code::DataLoss, Code::Aborted] {
            assert!(classify(&Status::new(code, "of an answer")).is_perhaps(), "{code:?}");
        }
        assert!(matches!(classify(&Status::invalid_argument("no")), Verdict::Rejected(..)));
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

    #[tokio::test(start_paused = true)]
    async fn a_hint_is_followed_without_a_pause_and_kept_for_later_calls() {
        let pool = pool(&[GROUP]);
        let begun = Instant::now();
        let script = [NotLeader(Some("http://c:1")), Answers(7)];
        let (result, routes) = call_on(&pool, Whom::Partition(0), Subject::Transaction("t"), &script).await;
        assert_eq!((result.unwrap(), replicas(&routes)), (7, vec![0, 2]));
        assert_eq!(begun.elapsed(), Duration::ZERO);
        let (_, routes) = call_on(&pool, Whom::Partition(0), Subject::Verb("t"), &[Answers(7)]).await;
        assert_eq!(replicas(&routes), [2]);
    }

    #[tokio::test(start_paused = true)]
    async fn replicas_that_send_each_other_the_call_are_not_asked_in_a_tight_loop() {
        let pool = pool(&["http://a:1+http://b:1"]);
        let to_and_fro = [NotLeader(Some("http://b:1")), NotLeader(Some("http://a:1"))];
        let begun = Instant::now();
        let (result, routes) =
            call_on(&pool, Whom::Partition(0), Subject::Transaction("t"), &to_and_fro.repeat(100_000)).await;
        assert!(
            matches!(&result, Err(ClientError::Refused { reason: Reason::NotLeader, .. })),
            "nothing was ever begun: {result:?}"
        );
        assert!(routes.len() < 2_000, "{} attempts in ten seconds", routes.len());
        assert!(begun.elapsed() <= BUDGET.total);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_leads_for_a_while() {
        let mut script = vec![NotLeader(None); 40];
        script.push(Answers(7));
        let (result, routes) =
            call_on(&pool(&[GROUP]), Whom::Partition(0), Subject::Transaction("t"), &script).await;
        assert_eq!((result.unwrap(), routes.len()), (7, 41));
        assert!(routes.windows(2).all(|pair| pair[0] != pair[1]), "in turn");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_replica_does_not_use_up_the_attempt() {
        let begun = Instant::now();
        let script = [Hangs, NotLeader(Some("http://a:1")), Answers(7)];
        let (result, routes) =
            call_on(&pool(&[GROUP]), Whom::Partition(0), Subject::Idempotent, &script).await;
        assert_eq!((result.unwrap(), replicas(&routes)), (7, vec![0, 1, 2]));
        assert!(begun.elapsed() < BUDGET.attempt, "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_verb_follows_refusals_but_is_not_repeated_for_being_slow() {
        let pool = pool(&[GROUP]);
        let verb = Subject::Verb("0-1-2");
        let script = [NotLeader(Some("http://b:1")), Answers(7)];
        let (result, routes) = call_on(&pool, Whom::Partition(0), verb, &script).await;
        assert_eq!((result.unwrap(), replicas(&routes)), (7, vec![0, 1]));
        let begun = Instant::now();
        let (result, routes) = call_on(&pool, Whom::Partition(0), verb, &[Hangs, Answers(7)]).await;
        assert!(matches!(result, Err(ClientError::OutcomeUnknown { .. })), "{result:?}");
        assert_eq!((routes.len(), begun.elapsed()), (1, BUDGET.attempt));
    }

    #[tokio::test(start_paused = true)]
    async fn anybody_is_another_partition_after_a_pause_and_another_replica_without() {
        let pool = pool(&["http://a:1+http://b:1", "http://c:1"]);
        let script =
            [NotLeader(Some("http://b:1")), Refuses(Reason::Overloaded), Refuses(Reason::Paused), Answers(7)];
        let (result, routes) = call_on(&pool, Whom::Anybody, Subject::Idempotent, &script).await;
        let taken: Vec<_> = routes.iter().map(|route| (route.partition, route.replica)).collect();
        assert_eq!((result.unwrap(), taken), (7, vec![(0, 0), (0, 1), (1, 0), (0, 1)]));
    }
}
