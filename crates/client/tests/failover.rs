//! Streams to a group of replicas: the leader may change, each request is answered once.

mod fake;

use std::time::Duration;

use escrow_client::bulk::{Batch, BulkReceiver};
use escrow_client::stream::TransferSender;
use escrow_client::{Client, ClientError, IdSequence, Options, State, Wait};
use escrow_types::{AccountId, Currency, Reason};
use fake::{Fake, Role, Step, client, options, transfer};

/// Sends so many transfers and gives their ids, once all are sent.
async fn send(sender: TransferSender, how_many: usize) -> Vec<String> {
    let mut sent = Vec::new();
    for _ in 0..how_many {
        sent.push(sender.send(&transfer()).await.expect("it goes on").to_string());
    }
    sent
}

/// Sends transfers over a stream to the group and checks that each is confirmed once.
async fn streams_on(endpoints: &[String], how_many: usize) {
    let (sender, mut receiver) = client(&endpoints.join("+")).transfer_stream(0).await.expect("it opens");
    let sending = tokio::spawn(send(sender, how_many));
    let mut answered = Vec::new();
    while let Some(outcome) = receiver.next().await.expect("it goes on") {
        assert_eq!(outcome.state, State::Confirmed);
        answered.push(outcome.transaction_id);
    }
    assert_eq!(answered, sending.await.expect("no panic"), "each once, and in the order of this fake");
}

/// So many confirmations, and then this.
fn after(confirmations: usize, last: Step) -> Vec<Step> {
    let mut script = vec![Step::Confirm; confirmations];
    script.push(last);
    script
}

#[tokio::test]
async fn a_stream_outlives_a_leader_that_dies() {
    let ([a, b, c], endpoints) = Fake::group().await;
    a.set_script(&after(1_000, Step::Die));
    b.set_role(Role::Follows(Some(endpoints[0].clone())));
    c.set_role(Role::LeadsAfter(5));
    streams_on(&endpoints, 3_000).await;
    assert_eq!((a.seen().len(), b.seen().len()), (1_001, 0));
    assert!(c.seen().len() >= 2_000 && c.refused() == 5, "{} {}", c.seen().len(), c.refused());
}

#[tokio::test]
async fn a_stream_follows_a_leader_that_is_deposed() {
    for last in [
        Step::Refuse(Reason::NotLeader),
        Step::Refuse(Reason::ShuttingDown),
        Step::RefuseRow(Reason::NotLeader),
        Step::RefuseRow(Reason::ShuttingDown),
        Step::CutConnection,
        Step::Unavailable,
    ] {
        let ([a, b, c], endpoints) = Fake::group().await;
        a.set_script(&after(100, last));
        b.set_role(Role::Leads);
        c.set_role(Role::Follows(Some(endpoints[1].clone())));
        streams_on(&endpoints, 500).await;
        assert!(b.seen().len() >= 400, "{last:?}: {}", b.seen().len());
    }
}

#[tokio::test]
async fn a_stream_is_opened_where_a_follower_sends_it() {
    let ([a, b, _c], [a_at, b_at, c_at]) = Fake::group().await;
    streams_on(&[b_at, c_at, a_at], 10).await;
    assert_eq!((a.seen().len(), b.seen().len(), b.refused()), (10, 0, 1));
}

#[tokio::test]
async fn a_caller_that_sends_first_and_listens_then_is_not_held_up_by_a_failover() {
    let ([a, b, _c], endpoints) = Fake::group().await;
    a.set_script(&after(10, Step::Die));
    b.set_role(Role::Leads);
    let limits = Options { stream_queue: 8, ..options() };
    let client = Client::connect([endpoints.join("+")], limits).unwrap();
    let (sender, mut receiver) = client.transfer_stream(0).await.unwrap();
    // Far more than the queue holds, before the first answer is taken.
    let sent = send(sender, 5_000).await;
    let mut answered = Vec::new();
    while let Some(outcome) = receiver.next().await.unwrap() {
        answered.push(outcome.transaction_id);
    }
    assert_eq!(answered, sent);
}

#[tokio::test]
async fn a_stream_that_nobody_takes_over_ends_for_both_halves_at_the_deadline() {
    let ([a, b, c], endpoints) = Fake::group().await;
    let limits = Options { deadline: Duration::from_millis(300), ..options() };
    let client = Client::connect([endpoints.join("+")], limits).unwrap();
    let (sender, mut receiver) = client.transfer_stream(0).await.unwrap();
    a.set_script(&[Step::Die]);
    for follower in [&b, &c] {
        follower.set_role(Role::Follows(None));
    }
    sender.send(&transfer()).await.unwrap();
    let error = receiver.next().await.unwrap_err();
    assert!(matches!(error, ClientError::Closed(_)), "{error:?}");
    assert!(error.is_retryable() && !error.has_no_effect());
    assert!(sender.send(&transfer()).await.is_err());
    assert!(receiver.next().await.unwrap().is_none());
}

#[tokio::test]
async fn a_stream_that_is_refused_for_good_ends_at_once() {
    let ([a, b, _c], endpoints) = Fake::group().await;
    a.set_script(&[Step::Refuse(Reason::InvalidArgument)]);
    let (sender, mut receiver) = client(&endpoints.join("+")).transfer_stream(0).await.unwrap();
    sender.send(&transfer()).await.unwrap();
    let error = receiver.next().await.unwrap_err();
    assert!(matches!(error, ClientError::Refused { reason: Reason::InvalidArgument, .. }), "{error:?}");
    assert_eq!((a.seen().len(), b.refused()), (1, 0));
}

#[tokio::test]
async fn a_group_without_a_leader_opens_no_stream_and_has_no_effect() {
    let ([a, _b, _c], endpoints) = Fake::group().await;
    a.set_role(Role::Follows(None));
    let limits = Options { deadline: Duration::from_millis(200), ..options() };
    let client = Client::connect([endpoints.join("+")], limits).unwrap();
    let error = client.transfer_stream(0).await.unwrap_err();
    assert!(error.has_no_effect() && error.is_retryable(), "{error:?}");
}

#[tokio::test]
async fn a_sending_half_hears_that_the_receiving_half_is_gone() {
    let (_fakes, endpoints) = Fake::group().await;
    let (sender, receiver) = client(&endpoints.join("+")).transfer_stream(0).await.unwrap();
    drop(receiver);
    while let Ok(_id) = sender.send(&transfer()).await {
        tokio::task::yield_now().await;
    }
}

const ROWS: u64 = 100;

/// The tags of all answers; each must be confirmed.
async fn tags(mut receiver: BulkReceiver) -> Vec<u64> {
    let mut tags = Vec::new();
    while let Some(answers) = receiver.next().await.expect("it goes on") {
        for answer in answers.iter() {
            let answer = answer.expect("it makes sense");
            assert_eq!(answer.state, State::Confirmed);
            tags.push(answer.tag);
        }
    }
    tags
}

/// Sends messages over a bulk stream, checks that each row is answered once, and gives the low halves of the ids.
async fn bulk_on(endpoints: &[String], messages: u64) -> Vec<u64> {
    let (sender, receiver) = client(&endpoints.join("+")).bulk_stream(0).await.expect("it opens");
    let sending = tokio::spawn(async move {
        let account = |name: &str| AccountId::new(name).expect("a good id").key();
        let mut ids = IdSequence::new();
        let mut batch = Batch::new(ROWS as usize, Currency::USD, Wait::Completed, None);
        let mut sent = Vec::new();
        for message in 0..messages {
            for _ in 0..ROWS {
                let key = ids.next_key();
                sent.push(key.halves().1);
                batch.push(key, account("alice"), account("bob"), 1);
            }
            sender.send(&mut batch, message * ROWS).await.expect("it goes on");
        }
        sent
    });
    assert_eq!(tags(receiver).await, (0..messages * ROWS).collect::<Vec<u64>>());
    sending.await.expect("no panic")
}

/// The fake answers a message in two parts, so it also dies between them.
#[tokio::test]
async fn a_bulk_stream_outlives_a_leader_that_dies() {
    for answered in [0, 1, 6, 7] {
        let ([a, b, _c], endpoints) = Fake::group().await;
        a.set_script(&after(answered, Step::Die));
        b.set_role(Role::LeadsAfter(2));
        let sent = bulk_on(&endpoints, 10).await;
        let (first, then) = (a.rows_seen(), b.rows_seen());
        assert_eq!(first.len() as u64, (answered as u64 + 1) * ROWS / 2);
        assert!(sent.starts_with(&first) && sent.ends_with(&then), "the same ids, and in order");
        assert!(first.len() + then.len() >= sent.len() + ROWS as usize / 2, "what had no answer came again");
    }
}

#[tokio::test]
async fn a_bulk_stream_follows_a_leader_that_is_deposed() {
    for last in [Step::Refuse(Reason::NotLeader), Step::RefuseRow(Reason::NotLeader), Step::CutConnection] {
        let ([a, b, _c], endpoints) = Fake::group().await;
        a.set_script(&after(5, last));
        b.set_role(Role::Leads);
        let sent = bulk_on(&endpoints, 20).await;
        assert!(sent.ends_with(&b.rows_seen()) && !b.rows_seen().is_empty(), "{last:?}");
    }
}
