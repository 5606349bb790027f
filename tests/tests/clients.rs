//! Callers that go away or do not read, and servers that are asked to stop.

#![allow(clippy::unwrap_used)] // helpers of tests are tests too

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use escrow_client::bulk::Batch;
use escrow_client::{IdSequence, Overdraft, State, Wait};
use escrow_cluster::{Event, NodeId};
use escrow_proto::v1::TransferColumnsRequest;
use escrow_proto::v1::transfer_service_client::TransferServiceClient;
use escrow_tests::scenario::Mix;
use escrow_tests::wait::{holds, until};
use escrow_tests::world::{USD, transfer};
use escrow_tests::{Trial, World};
use escrow_types::AccountId;
use rustix::process::{Pid, Signal, kill_process};
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

const FUNDS: u64 = 1_000_000_000;

async fn two() -> (World, AccountId, AccountId) {
    let world = World::start().await;
    let (alice, bob) = (world.rich(0, "alice", FUNDS).await, world.rich(1, "bob", FUNDS).await);
    (world, alice, bob)
}

#[tokio::test]
async fn a_caller_that_disconnects_in_the_middle_of_a_stream_leaves_whole_transfers() {
    let (world, alice, bob) = two().await;
    let mut ids = Vec::new();
    {
        let (sender, mut receiver) = world.client.transfer_stream(0).await.unwrap();
        for _ in 0..500 {
            ids.push(sender.send(&transfer(&alice, &bob, 1)).await.unwrap());
        }
        receiver.next().await.unwrap().expect("the first answer");
        // Both halves go with 499 answers unread: the stream is reset.
    }
    world.settled().await;
    let mut confirmed = 0;
    for id in &ids {
        let state = world.client.get_transaction(id.as_str()).await.unwrap().outcome.state;
        assert!(matches!(state, State::Confirmed | State::NotFound), "{id}: {state:?}");
        confirmed += i64::from(state == State::Confirmed);
    }
    assert!(confirmed > 0, "the first answer was of one of them");
    assert_eq!(world.posted(&bob).await, FUNDS.cast_signed() + confirmed);
    world.sound().await;
}

#[tokio::test]
async fn a_caller_that_disconnects_in_the_middle_of_a_bulk_stream_leaves_whole_transfers() {
    let (world, alice, bob) = two().await;
    let mut ids = IdSequence::new();
    let mut sent = Vec::new();
    {
        let (sender, mut receiver) = world.client.bulk_stream(0).await.unwrap();
        for message in 0..10 {
            let mut batch = Batch::new(200, USD, Wait::Decided, None);
            for _ in 0..200 {
                let id = ids.next_id();
                batch.push(id.key(), alice.key(), bob.key(), 1);
                sent.push(id);
            }
            sender.send(&mut batch, message * 200).await.unwrap();
        }
        receiver.next().await.unwrap().expect("the first answers");
    }
    world.settled().await;
    let mut confirmed = 0;
    for id in &sent {
        let state = world.client.get_transaction(id.as_str()).await.unwrap().outcome.state;
        assert!(matches!(state, State::Confirmed | State::NotFound), "{id}: {state:?}");
        confirmed += i64::from(state == State::Confirmed);
    }
    assert!(confirmed > 0, "the first answers were of some of them");
    assert_eq!(world.posted(&bob).await, FUNDS.cast_signed() + confirmed);
    world.sound().await;
}

#[tokio::test]
async fn a_caller_that_never_reads_its_answers_is_not_read_from_and_holds_up_nobody_else() {
    const ROWS: u64 = 8_192;
    /// What a stream may have unanswered, in messages of so many rows.
    const TAKEN: u64 = 262_144 / ROWS;
    let (world, alice, bob) = two().await;
    // A connection with small windows: what its caller does not read, the server cannot put there.
    let (sender, requests) = tokio::sync::mpsc::channel(1);
    let mut client = TransferServiceClient::new(world.channel().await);
    let deaf = client.transfer_columns(tokio_stream::wrappers::ReceiverStream::new(requests)).await.unwrap();
    let sent = Arc::new(AtomicU64::new(0));
    let (count, payer, payee) = (Arc::clone(&sent), alice.key().halves(), bob.key().halves());
    let sending = tokio::spawn(async move {
        let mut ids = IdSequence::new();
        for message in 0..1_000 {
            let keys: Vec<(u64, u64)> = (0..ROWS).map(|_| ids.next_key().halves()).collect();
            let column = |value: u64| vec![value; ROWS as usize];
            let columns = TransferColumnsRequest {
                first_tag: message * ROWS,
                transaction_id_high: keys.iter().map(|key| key.0).collect(),
                transaction_id_low: keys.iter().map(|key| key.1).collect(),
                from_account_high: column(payer.0),
                from_account_low: column(payer.1),
                to_account_high: column(payee.0),
                to_account_low: column(payee.1),
                amount: column(1),
                currency: u32::from(USD.numeric()),
                wait: 0,
                timeout_ms: 60_000,
            };
            if sender.send(columns).await.is_err() {
                return;
            }
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    // It has done what it takes of it when nothing has changed for many looks in a row.
    let (mut before, mut unchanged) = ((0, 0), 0);
    until("the server has done what it takes of it", Duration::from_secs(60), async || {
        let coordinator = world.status().await.coordinator.unwrap();
        let now = (coordinator.remembered, sent.load(Ordering::Relaxed));
        unchanged = if now == before && coordinator.unfinished == 0 { unchanged + 1 } else { 0 };
        before = now;
        holds(unchanged >= 50 && sent.load(Ordering::Relaxed) > TAKEN, (now, coordinator.unfinished))
    })
    .await;

    let mut slowest = Duration::ZERO;
    for _ in 0..200 {
        let one = Instant::now();
        assert_eq!(world.transfer(&alice, &bob, 1).await.state, State::Confirmed);
        slowest = slowest.max(one.elapsed());
    }
    println!("slowest transfer beside a deaf caller: {slowest:?}");
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    // What else was sent lies in the windows of its own connection.
    let messages = sent.load(Ordering::Relaxed);
    assert!(!sending.is_finished() && messages < 4 * TAKEN, "it is not read from any more: {messages}");
    let moved = world.posted(&bob).await.cast_unsigned() - FUNDS;
    assert!(moved < 4 * TAKEN * ROWS, "bounded by what may be unanswered or in buffers: {moved}");
    sending.abort();
    drop(deaf);
    world.settled().await;
    world.sound().await;
}

/// SIGTERM to one of our children.
fn terminate(world: &World, node: NodeId) {
    let pid = world.cluster.pid(node).expect("it runs");
    let pid = Pid::from_raw(pid.cast_signed()).expect("a pid");
    kill_process(pid, Signal::TERM).expect("it is ours");
}

/// Sends SIGTERM and waits for the end; how it ended, and after how long.
async fn terminated(world: &mut World, node: NodeId) -> (std::process::ExitStatus, Duration) {
    let begun = Instant::now();
    terminate(world, node);
    let (seen, mut ended) = tokio::sync::mpsc::unbounded_channel();
    let mut status = None;
    let stop = async {
        let within = Duration::from_secs(20);
        status = tokio::time::timeout(within, ended.recv()).await.expect("it ends within its bound");
    };
    world
        .cluster
        .supervise(stop, |event| {
            if let Event::Ended { node: which, status, .. } = event
                && which == node
            {
                // The receiver lives as long as this.
                let _ = seen.send(status);
            }
        })
        .await
        .expect("the supervisor goes on");
    (status.expect("its end was seen"), begun.elapsed())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_asked_to_stop_under_load_loses_nothing_and_ends_in_time() {
    for node in [NodeId::coordinator(0), NodeId::participant(0)] {
        let mut world = World::start().await;
        let mut accounts = Vec::new();
        for shard in 0..2 {
            let names: Vec<AccountId> =
                (0..5).map(|at| world.account(shard, &format!("account-{shard}-{at}"))).collect();
            world.open(names.iter().map(|account| (account, Overdraft::Forbidden))).await;
            for account in &names {
                world.fund(account, 1_000_000).await;
            }
            accounts.push(names);
        }
        let trial = Trial::begin(&world, &accounts, 1_300, Mix::default(), 7).await;
        until("load runs", Duration::from_secs(10), async || holds(trial.count() > 1_000, trial.count()))
            .await;

        let (status, took) = terminated(&mut world, node).await;
        println!("{node} ended {took:?} after SIGTERM");
        assert!(status.success(), "{node}: {status}");
        assert!(took < Duration::from_secs(12), "{node} took {took:?}: drain 5 s, and a checkpoint");

        world.restart(node).await;
        let figures = trial.end(&world).await;
        assert!(figures.confirmed > 500, "{figures}");
        world.sound().await;
    }
}

#[tokio::test]
async fn health_says_serving_and_then_not_serving() {
    let (world, _, _) = two().await;
    for node in world.nodes() {
        let endpoint = Endpoint::from_shared(world.cluster.endpoint(node)).unwrap();
        let mut health = HealthClient::new(endpoint.connect().await.unwrap());
        let request = || HealthCheckRequest { service: String::new() };
        assert_eq!(
            health.check(request()).await.unwrap().into_inner().status(),
            ServingStatus::Serving,
            "{node}"
        );
        let mut watch = health.watch(request()).await.unwrap().into_inner();
        assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
        terminate(&world, node);
        let next =
            tokio::time::timeout(Duration::from_secs(10), watch.message()).await.expect("it is told in time");
        assert_eq!(
            next.unwrap().expect("before the connection closes").status(),
            ServingStatus::NotServing,
            "{node}"
        );
        drop((watch, health));
        world.dead(node).await;
    }
}

#[tokio::test]
async fn a_stopped_coordinator_refuses_new_work_but_not_by_silence() {
    let (mut world, alice, bob) = two().await;
    world.cluster.kill(NodeId::participant(1)).await.unwrap();
    // Hangs, so that the coordinator has something to drain.
    let (client, hanging) =
        (world.client.clone(), transfer(&alice, &bob, 5).with_timeout(Duration::from_secs(30)));
    let id = hanging.transaction_id.clone().unwrap();
    let waiting = tokio::spawn(async move { client.transfer(&hanging).await });
    until("it has begun", Duration::from_secs(5), async || {
        let state = world.client.get_transaction(id.as_str()).await.unwrap().outcome.state;
        holds(state == State::Pending, state)
    })
    .await;
    let (status, took) = terminated(&mut world, NodeId::coordinator(0)).await;
    assert!(status.success() && took < Duration::from_secs(12), "{status} after {took:?}");
    for node in [NodeId::participant(1), NodeId::coordinator(0)] {
        world.cluster.start_node(node).await.unwrap();
    }
    let outcome = waiting.await.unwrap().expect("the caller kept asking");
    assert_eq!((outcome.state, outcome.transaction_id.as_str()), (State::Confirmed, id.as_str()));
    world.settled().await;
    world.sound().await;
}

#[tokio::test]
async fn answers_of_a_stream_are_one_for_each_transfer() {
    let (world, alice, bob) = two().await;
    let (sender, mut receiver) = world.client.transfer_stream(0).await.unwrap();
    let mut ids = HashSet::new();
    for _ in 0..1_000 {
        ids.insert(sender.send(&transfer(&alice, &bob, 1)).await.unwrap().to_string());
    }
    drop(sender);
    while let Some(answer) = receiver.next().await.unwrap() {
        assert_eq!(answer.state, State::Confirmed);
        assert!(ids.remove(&answer.transaction_id), "{answer:?} was not asked, or is answered twice");
    }
    assert!(ids.is_empty(), "{} are not answered", ids.len());
    assert_eq!(world.posted(&bob).await, FUNDS.cast_signed() + 1_000);
}
