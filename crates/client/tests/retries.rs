//! A flaky server: what is retried, with which id, for how long, and how a call ends that nobody answers.

mod fake;

use std::time::{Duration, Instant};

use escrow_client::{Client, ClientError, Options, RetryPolicy, State};
use escrow_types::Reason;
use fake::{Fake, Step, client, options, transfer};

#[tokio::test]
async fn unavailable_is_retried_with_the_same_id() {
    let (fake, endpoint) = Fake::start(&[Step::Unavailable, Step::Refuse(Reason::Overloaded)]).await;
    let outcome = client(&endpoint).transfer(&transfer()).await.unwrap();
    assert_eq!(outcome.state, State::Confirmed);
    assert_eq!(fake.seen(), vec![outcome.transaction_id; 3]);
}

#[tokio::test]
async fn a_connection_that_breaks_after_the_request_was_taken_is_retried_with_the_same_id() {
    let (fake, endpoint) = Fake::start(&[Step::CutConnection, Step::CutConnection]).await;
    let given = transfer().with_id("mine".parse().unwrap());
    let outcome = client(&endpoint).transfer(&given).await.unwrap();
    assert_eq!((outcome.state, outcome.transaction_id.as_str()), (State::Confirmed, "mine"));
    assert_eq!(fake.seen(), ["mine"; 3]);
}

#[tokio::test]
async fn a_refusal_for_good_is_not_retried() {
    let (fake, endpoint) = Fake::start(&[Step::Refuse(Reason::SameAccount)]).await;
    let error = client(&endpoint).transfer(&transfer()).await.unwrap_err();
    assert!(matches!(error, ClientError::Refused { reason: Reason::SameAccount, .. }), "{error:?}");
    assert!(error.has_no_effect() && !error.is_retryable());
    assert_eq!(fake.seen().len(), 1);
}

#[tokio::test]
async fn a_server_that_never_answers_leaves_the_outcome_unknown_within_the_deadline() {
    let (fake, endpoint) = Fake::start(&[Step::Hang; 100]).await;
    let begun = Instant::now();
    let limits = Options { deadline: Duration::from_millis(900), ..options() };
    let client = Client::connect([endpoint], limits).unwrap();
    let error = client.transfer(&transfer()).await.unwrap_err();
    let ClientError::OutcomeUnknown { transaction_id, .. } = &error else { panic!("{error:?}") };
    assert!(!error.has_no_effect() && error.is_retryable());
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert!(
        fake.seen().iter().all(|seen| seen == transaction_id) && fake.seen().len() > 1,
        "{:?}",
        fake.seen()
    );
}

#[tokio::test]
async fn a_transfers_own_timeout_bounds_its_call() {
    let (_fake, endpoint) = Fake::start(&[Step::Hang; 100]).await;
    let limits =
        Options { deadline: Duration::from_secs(600), grace: Duration::from_millis(100), ..options() };
    let client = Client::connect([endpoint], limits).unwrap();
    let begun = Instant::now();
    let error = client.transfer(&transfer().with_timeout(Duration::from_millis(200))).await.unwrap_err();
    assert!(matches!(error, ClientError::OutcomeUnknown { .. }), "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn nobody_listening_has_no_effect() {
    let limits = Options { deadline: Duration::from_millis(300), ..options() };
    let client = Client::connect(["http://127.0.0.1:1"], limits).unwrap();
    let error = client.transfer(&transfer()).await.unwrap_err();
    assert!(
        matches!(&error, ClientError::Unavailable { endpoint, .. } if endpoint.contains("127.0.0.1:1")),
        "{error:?}"
    );
    assert!(error.has_no_effect() && error.is_retryable());
}

#[tokio::test]
async fn one_attempt_when_the_policy_says_so() {
    let (fake, endpoint) = Fake::start(&[Step::Unavailable]).await;
    let limits = Options { retry: RetryPolicy::never(), ..options() };
    let error = Client::connect([endpoint], limits).unwrap().transfer(&transfer()).await.unwrap_err();
    assert!(!error.has_no_effect(), "the server took it: {error:?}");
    assert_eq!(fake.seen().len(), 1);
}

#[tokio::test]
async fn a_read_that_is_not_answered_is_not_called_an_unknown_outcome() {
    let (_fake, endpoint) = Fake::start(&[Step::Hang; 100]).await;
    let limits = Options { deadline: Duration::from_millis(500), ..options() };
    let error = Client::connect([endpoint], limits).unwrap().get_transaction("t").await.unwrap_err();
    assert!(matches!(error, ClientError::Unanswered { .. }), "{error:?}");
}

#[tokio::test]
async fn a_service_that_is_not_offered_is_an_error_at_once() {
    let (_fake, endpoint) = Fake::start(&[]).await;
    let error = client(&endpoint).status(0).await.unwrap_err();
    assert!(matches!(error, ClientError::Rejected { code: tonic::Code::Unimplemented, .. }), "{error:?}");
}

#[tokio::test]
async fn a_transaction_that_nobody_remembers_is_not_an_error() {
    let (_fake, endpoint) = Fake::start(&[]).await;
    let record = client(&endpoint).get_transaction("t").await.unwrap();
    assert_eq!((record.outcome.state, record.outcome.xid), (State::NotFound, None));
}
