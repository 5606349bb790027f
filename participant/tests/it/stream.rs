//! The columnar stream.

use escrow_participant::Config;
use escrow_proto::v1 as proto;
use escrow_types::{Answer, Reason};
use proto::exchange_request::Message as Ask;
use proto::exchange_response::Message as Told;
use tonic::Code;

use crate::fixture::{
    Exchange, LATER, USD, USD_CREDIT, check_refusal, columns, config, debit, ends, hello, start,
};

#[tokio::test]
async fn the_whole_protocol() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(config(dir.path())).await;
    server.fund().await;
    let mut exchange = server.exchange(0, 1).await;
    let rows = [
        (0, "alice", 100, USD),
        (1, "alice", 200, USD),
        (1, "bob", 200, USD_CREDIT),
        (2, "alice", 5_000, USD),
        (3, "nobody", 1, USD),
    ];
    exchange.send(Ask::Try(columns(1, LATER, &rows))).await;
    let rejected = Answer::Rejected;
    assert_eq!(
        exchange.answers().await,
        [
            (0, Answer::Reserved),
            (1, Answer::Reserved),
            (2, rejected(Reason::InsufficientFunds)),
            (3, rejected(Reason::AccountNotFound)),
        ]
    );
    // Pipelined: nothing waits for the answer before.
    exchange.send(Ask::Confirm(ends(1, &[0]))).await;
    let partial = proto::EndColumns { partial_legs: vec![2], partial_amount: vec![50, 50], ..ends(1, &[1]) };
    exchange.send(Ask::Confirm(partial)).await;
    exchange.send(Ask::Cancel(ends(1, &[2, 3, 4]))).await;
    exchange.send(Ask::TryAndConfirm(columns(1, LATER, &[(5, "bob", 20, USD)]))).await;
    assert_eq!(exchange.answers().await, [(0, Answer::Confirmed)]);
    assert_eq!(exchange.answers().await, [(1, Answer::Confirmed)]);
    assert_eq!(exchange.answers().await, [2, 3, 4].map(|sequence| (sequence, Answer::Canceled)));
    assert_eq!(exchange.answers().await, [(5, Answer::Confirmed)]);
    assert_eq!(server.balance("alice").await, (850, 0, 0));
    assert_eq!(server.balance("bob").await, (30, 0, 0));

    exchange.send(Ask::Watermark(proto::Watermark { epoch: 1, below: 6, except: vec![4] })).await;
    exchange.send(Ask::Cancel(ends(1, &[3, 4]))).await;
    assert_eq!(exchange.answers().await, [(3, Answer::Finished), (4, Answer::Canceled)]);
    server.stop().await;
}

/// Sequences without a gap are said by their first one, both ways.
#[tokio::test]
async fn a_message_without_gaps_is_that_with_each_sequence() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(config(dir.path())).await;
    server.fund().await;
    let mut exchange = server.exchange(0, 1).await;
    let rows: Vec<_> = (40..43).map(|sequence| (sequence, "alice", 10, USD)).collect();
    let tries = proto::TryColumns { sequence: vec![], first_sequence: 40, ..columns(1, LATER, &rows) };
    exchange.send(Ask::Try(tries)).await;
    let Told::Tried(told) = exchange.told().await else { panic!("another answer") };
    assert_eq!((told.sequence, told.first_sequence, told.answer.len()), (vec![], 40, 3));
    exchange.send(Ask::Confirm(dense_ends(40, 2))).await;
    exchange.send(Ask::Cancel(dense_ends(42, 1))).await;
    assert_eq!(exchange.answers().await, [40, 41].map(|sequence| (sequence, Answer::Confirmed)));
    assert_eq!(exchange.answers().await, [(42, Answer::Canceled)]);
    // With a gap, each is named.
    exchange.send(Ask::Cancel(ends(1, &[50, 52]))).await;
    let Told::Canceled(told) = exchange.told().await else { panic!("another answer") };
    assert_eq!((told.sequence, told.first_sequence), (vec![50, 52], 0));
    assert_eq!(server.balance("alice").await, (980, 0, 0));
    server.stop().await;
}

fn dense_ends(first: u64, rows: u32) -> proto::EndColumns {
    proto::EndColumns { first_sequence: first, rows, ..ends(1, &[]) }
}

/// Sends one message on a new stream and gives the status with which it ends.
async fn ended(exchange: Exchange, message: Ask) -> tonic::Status {
    exchange.send(message).await;
    exchange.end().await.unwrap_err()
}

type Change = fn(&mut proto::TryColumns);

#[tokio::test]
async fn wrong_messages_end_the_stream_and_are_not_logged() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(config(dir.path())).await;
    server.fund().await;
    let good = || columns(1, LATER, &[(0, "alice", 1, USD), (1, "alice", 1, USD)]);
    let status = ended(server.silent().await, Ask::Try(good())).await;
    check_refusal(&status, Code::InvalidArgument, Reason::InvalidArgument);
    let elsewhere = proto::HelloRequest { participant: 7, ..hello(0, 1, &[]) };
    let status = ended(server.silent().await, Ask::Hello(elsewhere)).await;
    check_refusal(&status, Code::NotFound, Reason::UnknownParticipant);
    let unequal = proto::HelloRequest { unfinished_epoch: vec![1], ..hello(0, 2, &[]) };
    let status = ended(server.silent().await, Ask::Hello(unequal)).await;
    check_refusal(&status, Code::InvalidArgument, Reason::InvalidArgument);

    let unequal: [Change; 6] = [
        |columns| columns.sequence.truncate(1),
        |columns| columns.account_high.truncate(1),
        |columns| columns.account_low.clear(),
        |columns| columns.amount.push(1),
        |columns| columns.kind.truncate(2),
        |columns| columns.kind.truncate(3),
    ];
    for (at, change) in unequal.into_iter().enumerate() {
        let (exchange, mut columns) = (server.exchange(0, 1).await, good());
        let before = server.log().await.appended;
        change(&mut columns);
        let status = ended(exchange, Ask::Try(columns)).await;
        check_refusal(&status, Code::InvalidArgument, Reason::InvalidArgument);
        assert_eq!(server.log().await.appended, before, "case {at} logged nothing");
    }
    let beyond = proto::TryColumns { sequence: vec![], first_sequence: u64::MAX, ..good() };
    let status = ended(server.exchange(0, 1).await, Ask::Try(beyond)).await;
    check_refusal(&status, Code::InvalidArgument, Reason::InvalidArgument);
    let status = ended(server.exchange(0, 1).await, Ask::Cancel(dense_ends(u64::MAX, 2))).await;
    check_refusal(&status, Code::InvalidArgument, Reason::InvalidArgument);
    let status = ended(server.exchange(0, 1).await, Ask::Cancel(dense_ends(0, u32::MAX))).await;
    check_refusal(&status, Code::ResourceExhausted, Reason::MessageTooLarge);
    let mut columns = good();
    columns.kind = [1u16, 1].iter().flat_map(|kind| kind.to_le_bytes()).collect();
    let status = ended(server.exchange(0, 1).await, Ask::Try(columns)).await;
    check_refusal(&status, Code::InvalidArgument, Reason::InvalidCurrency);
    let partial = proto::EndColumns { partial_legs: vec![2], partial_amount: vec![1], ..ends(1, &[0]) };
    let status = ended(server.exchange(0, 1).await, Ask::Confirm(partial.clone())).await;
    check_refusal(&status, Code::InvalidArgument, Reason::InvalidArgument);
    let status = ended(server.exchange(0, 1).await, Ask::Cancel(partial)).await;
    check_refusal(&status, Code::InvalidArgument, Reason::InvalidArgument);
    let status = ended(server.exchange(0, 1).await, Ask::Hello(hello(0, 1, &[]))).await;
    check_refusal(&status, Code::InvalidArgument, Reason::InvalidArgument);

    let mut exchange = server.exchange(0, 1).await;
    exchange.send(Ask::Try(good())).await;
    assert_eq!(exchange.answers().await.len(), 2, "and it serves on");
    server.stop().await;
}

#[tokio::test]
async fn a_hello_of_an_older_epoch_ends_the_stream() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(config(dir.path())).await;
    server.hello(0, 5).await.unwrap();
    let mut exchange = server.silent().await;
    exchange.send(Ask::Hello(hello(0, 4, &[]))).await;
    assert_eq!(exchange.told().await, Told::Hello(proto::HelloResponse { accepted: false, epoch: 5 }));
    exchange.end().await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_new_leader_takes_over() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(config(dir.path())).await;
    server.fund().await;
    let mut old = server.exchange(0, 1).await;
    old.send(Ask::Try(columns(
        1,
        LATER,
        &[(0, "alice", 1, USD), (1, "alice", 2, USD), (2, "alice", 4, USD)],
    )))
    .await;
    assert_eq!(old.answers().await.len(), 3);
    let mut new = server.exchange_with(hello(0, 2, &[(1, 1), (1, 9)])).await;
    assert_eq!(server.balance("alice").await, (1_000, 2, 0), "0 and 2 were orphans");
    old.send(Ask::Confirm(ends(1, &[1]))).await;
    assert_eq!(old.answers().await, [(1, Answer::StaleEpoch)]);
    old.send(Ask::Watermark(proto::Watermark { epoch: 1, below: 9, except: vec![] })).await;
    new.send(Ask::Try(columns(1, LATER, &[(9, "alice", 8, USD), (2, "alice", 4, USD)]))).await;
    assert_eq!(new.answers().await, [(9, Answer::Reserved), (2, Answer::Finished)]);
    new.send(Ask::Confirm(ends(1, &[0, 1, 9]))).await;
    let expect = [(0, Answer::Finished), (1, Answer::Confirmed), (9, Answer::Confirmed)];
    assert_eq!(new.answers().await, expect, "the deposed leader's watermark changed nothing");
    assert_eq!(server.balance("alice").await, (990, 0, 0));
    server.stop().await;
}

#[tokio::test]
async fn overdue_reservations_are_asked_about_and_never_released() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(Config { outcome_rows_max: 2, ..config(dir.path()) }).await;
    server.fund().await;
    let mut exchange = server.exchange(0, 1).await;
    let rows: Vec<_> = (0..5).map(|sequence| (sequence, "alice", 1, USD)).collect();
    exchange.send(Ask::Try(columns(1, 1, &rows))).await;
    exchange.send(Ask::Try(columns(1, LATER, &[(5, "alice", 1, USD)]))).await;
    let mut asked = std::collections::BTreeSet::new();
    while asked.len() < 5 {
        if let Told::OutcomeQuery(query) = exchange.told().await {
            assert!(query.sequence.len() <= 2 && query.epoch == vec![1; query.sequence.len()]);
            asked.extend(query.sequence);
        }
    }
    assert_eq!(asked.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4], "not 5: it has time yet");
    assert_eq!(server.balance("alice").await, (1_000, 6, 0));
    // The answer to a question is an ordinary Cancel or Confirm.
    exchange.send(Ask::Cancel(ends(1, &[0, 1, 2, 3, 4]))).await;
    assert_eq!(exchange.answers().await.len(), 5);
    assert_eq!(server.balance("alice").await, (1_000, 1, 0));
    server.stop().await;
}

#[tokio::test]
async fn a_peer_that_does_not_read_costs_the_others_nothing() {
    const BATCHES: u64 = 200;
    const ROWS: u64 = 1_000;
    let dir = tempfile::tempdir().unwrap();
    let server = start(Config { stream_answers_max: 2_000, ..config(dir.path()) }).await;
    server.fund().await;
    server.hello(0, 1).await.unwrap();
    let mut slow = server.exchange_with_small_window(1, 1).await;
    let feeder = slow.sender.clone();
    let fed = tokio::spawn(async move {
        for batch in 0..BATCHES {
            let rows: Vec<_> = (0..ROWS).map(|row| (batch * ROWS + row, "external", 1, USD)).collect();
            let message = Some(Ask::Try(columns(1, LATER, &rows)));
            feeder.send(proto::ExchangeRequest { message }).await.unwrap();
        }
    });
    let (mut held, mut unchanged, mut sequence) = (0, 0, 0);
    while unchanged < 50 {
        assert_eq!(server.try_leg(1, sequence, debit("alice", 1)).await.unwrap(), Answer::Reserved);
        sequence += 1;
        let now = server.status().await.reservations - sequence;
        unchanged = if now == held && now > 0 { unchanged + 1 } else { 0 };
        held = now;
        assert!(sequence < 900, "alice's money is enough");
    }
    assert!(held < BATCHES * ROWS / 2, "{held} rows were taken from a peer that reads no answers");
    // Once it reads, it gets everything.
    let mut answered = 0;
    while answered < BATCHES * ROWS {
        answered += slow.answers().await.len() as u64;
    }
    fed.await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_peer_that_goes_away_loses_nothing_that_was_logged() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(config(dir.path())).await;
    server.fund().await;
    let exchange = server.exchange(0, 1).await;
    let before = server.log().await.appended;
    exchange.send(Ask::Try(columns(1, LATER, &[(0, "alice", 7, USD)]))).await;
    // Logged, perhaps not answered yet, and then gone.
    while server.log().await.appended == before {}
    drop(exchange);
    let mut again = server.exchange(0, 1).await;
    again.send(Ask::Try(columns(1, LATER, &[(0, "alice", 7, USD)]))).await;
    assert_eq!(again.answers().await, [(0, Answer::Reserved)]);
    assert_eq!(server.balance("alice").await, (1_000, 7, 0), "once");
    server.stop().await;
}

#[tokio::test]
async fn messages_above_the_limit_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server =
        start(Config { message_bytes_max: 8_192, segment_bytes: 1 << 20, ..config(dir.path()) }).await;
    server.fund().await;
    let exchange = server.exchange(0, 1).await;
    let rows: Vec<_> = (0..1_000).map(|sequence| (sequence, "alice", 1, USD)).collect();
    let status = ended(exchange, Ask::Try(columns(1, LATER, &rows))).await;
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    server.hello(0, 2).await.unwrap();
    server.stop().await;
    // A message that is allowed, but does not fit into one entry of the log.
    let dir = tempfile::tempdir().unwrap();
    let server = start(Config { segment_bytes: 16_384, ..config(dir.path()) }).await;
    server.fund().await;
    let exchange = server.exchange(0, 1).await;
    let status = ended(exchange, Ask::Try(columns(1, LATER, &rows))).await;
    check_refusal(&status, Code::ResourceExhausted, Reason::MessageTooLarge);
    server.stop().await;
}
