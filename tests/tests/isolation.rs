//! One dead participant of three costs the other two nothing but its own transactions.

#![allow(clippy::unwrap_used)] // helpers of tests are tests too

use std::time::{Duration, Instant};

use escrow_client::report::TransactionFilter;
use escrow_client::{ClientError, Options, RetryPolicy, State};
use escrow_cluster::NodeId;
use escrow_tests::wait::{holds, until};
use escrow_tests::world::{options, transfer};
use escrow_tests::{World, escrow_at};
use escrow_types::{AccountId, Reason};

async fn three() -> (World, [AccountId; 3]) {
    let world = World::with(|spec| spec.participants = 3).await;
    let accounts = [
        world.rich(0, "alice", 10_000).await,
        world.rich(1, "bob", 10_000).await,
        world.rich(2, "carol", 10_000).await,
    ];
    (world, accounts)
}

#[tokio::test]
async fn transfers_among_the_living_go_on() {
    let (mut world, [alice, bob, carol]) = three().await;
    let dead = NodeId::participant(2);
    world.cluster.kill(dead).await.unwrap();
    // One transaction hangs on the dead participant the whole time.
    let hanging = transfer(&alice, &carol, 1).with_timeout(Duration::from_secs(30));
    let client = world.client.clone();
    let id = hanging.transaction_id.clone().unwrap();
    let waiting = tokio::spawn(async move { client.transfer(&hanging).await });

    let (mut slowest, begun) = (Duration::ZERO, Instant::now());
    while begun.elapsed() < Duration::from_secs(3) {
        let one = Instant::now();
        let (from, to) = if slowest.as_nanos() % 2 == 0 { (&alice, &bob) } else { (&bob, &alice) };
        assert_eq!(world.transfer(from, to, 1).await.state, State::Confirmed);
        slowest = slowest.max(one.elapsed());
    }
    assert!(slowest < Duration::from_secs(1), "nobody waits for the dead: {slowest:?}");

    world.restart(dead).await;
    let outcome = waiting.await.unwrap().expect("it is answered after all");
    assert_eq!((outcome.state, outcome.transaction_id.as_str()), (State::Confirmed, id.as_str()));
    world.settled().await;
    world.sound().await;
}

#[tokio::test]
async fn a_dead_participant_is_told_at_once() {
    let (mut world, [alice, _, carol]) = three().await;
    world.cluster.kill(NodeId::participant(2)).await.unwrap();
    let once = RetryPolicy { attempts_max: 1, ..RetryPolicy::default() };
    let impatient =
        escrow_client::Client::connect([world.endpoint()], Options { retry: once, ..options() }).unwrap();
    let refusal = until("the breaker opens", Duration::from_secs(10), async || {
        let one = transfer(&alice, &carol, 1).with_timeout(Duration::from_millis(200));
        match impatient.transfer(&one).await {
            Err(refusal @ ClientError::Refused { .. }) => Ok(refusal),
            other => Err(other),
        }
    })
    .await;
    assert_eq!(refusal.reason(), Some(Reason::ParticipantUnavailable));
    assert!(refusal.has_no_effect() && refusal.is_retryable());
    let status = world.status().await;
    let dead = status.participants.iter().find(|participant| participant.id == 2).unwrap();
    assert!(!dead.ready && dead.failed_attempts > 0 && !dead.last_error.is_empty(), "{dead:?}");

    world.restart(NodeId::participant(2)).await;
    assert_eq!(world.transfer(&alice, &carol, 1).await.state, State::Confirmed, "the breaker closes again");
    world.settled().await;
    world.sound().await;
}

#[tokio::test]
async fn what_waits_for_a_dead_participant_is_in_doubt_with_attempts_and_error() {
    let (mut world, [alice, _, carol]) = three().await;
    world.cluster.kill(NodeId::participant(2)).await.unwrap();
    let client = world.client.clone();
    let waiting = transfer(&alice, &carol, 7).with_timeout(Duration::from_secs(30));
    let id = waiting.transaction_id.clone().unwrap();
    let call = tokio::spawn(async move { client.transfer(&waiting).await });

    let in_doubt =
        TransactionFilter { in_doubt: true, participant: "2".into(), ..TransactionFilter::default() };
    let seen = until("it is in doubt", Duration::from_secs(10), async || {
        let (found, _) = world.client.list_transactions(0, &in_doubt, 10, "").await.unwrap();
        let failing = |transaction: &escrow_client::report::Transaction| {
            transaction.branches.iter().any(|branch| branch.participant == "2" && branch.attempts > 0)
        };
        found.iter().find(|transaction| failing(transaction)).cloned().ok_or(found)
    })
    .await;
    assert_eq!(seen.transaction_id, id.as_str());
    let branch = seen.branches.iter().find(|branch| branch.participant == "2").unwrap();
    assert!(
        !branch.last_error.is_empty() && branch.last_attempt_ms > 0 && branch.next_attempt_ms > 0,
        "{branch:?}"
    );
    let listed = escrow_at(&world, "tx list --in-doubt --participant 2").await.exits(0).json();
    assert_eq!(listed["transactions"][0]["transaction_id"], id.as_str());

    world.restart(NodeId::participant(2)).await;
    assert_eq!(call.await.unwrap().unwrap().state, State::Confirmed);
    until("nothing is in doubt", Duration::from_secs(10), async || {
        let (count, _) = world.client.count_transactions(0, &in_doubt).await.unwrap();
        holds(count == 0, count)
    })
    .await;
    world.settled().await;
    world.sound().await;
}

#[tokio::test]
async fn an_operator_cancels_what_waits_for_a_dead_participant() {
    let (mut world, [alice, _, carol]) = three().await;
    world.cluster.kill(NodeId::participant(2)).await.unwrap();
    let client = world.client.clone();
    let waiting = transfer(&alice, &carol, 7)
        .with_timeout(Duration::from_secs(30))
        .with_wait(escrow_client::Wait::Decided);
    let id = waiting.transaction_id.clone().unwrap();
    let call = tokio::spawn(async move { client.transfer(&waiting).await });
    until("it has begun", Duration::from_secs(10), async || {
        let record = world.client.get_transaction(id.as_str()).await.unwrap();
        holds(record.outcome.state == State::Pending, record)
    })
    .await;
    escrow_at(&world, &format!("tx cancel {id} --reason ticket-77")).await.exits(0);
    let outcome = call.await.unwrap().unwrap();
    assert_eq!((outcome.state, outcome.reason), (State::Canceled, Some(Reason::CanceledByOperator)));
    until("the payer has its money back", Duration::from_secs(5), async || {
        let available = world.balance(&alice).await.available;
        holds(available == 10_000, available)
    })
    .await;
    world.restart(NodeId::participant(2)).await;
    world.settled().await;
    assert_eq!(world.posted(&carol).await, 10_000);
    world.sound().await;
}
