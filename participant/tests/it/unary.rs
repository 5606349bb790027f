//! The plain protocol, one branch a call.

use escrow_proto::v1 as proto;
use escrow_types::{Answer, Reason};
use tonic::Code;

use crate::fixture::{check_refusal, config, debit, leg, start, xid};

#[tokio::test]
async fn the_whole_protocol() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(config(dir.path())).await;
    server.fund().await;
    assert_eq!(server.try_leg(1, 0, debit("alice", 10)).await.unwrap(), Answer::HelloRequired);
    assert!(server.hello(0, 1).await.unwrap().accepted);
    let credit = |amount| leg("bob", amount, proto::Direction::Credit);

    assert_eq!(server.try_leg(1, 0, debit("alice", 300)).await.unwrap(), Answer::Reserved);
    assert_eq!(server.try_leg(1, 0, debit("alice", 300)).await.unwrap(), Answer::Reserved, "a copy");
    assert_eq!(server.try_leg(1, 0, debit("alice", 301)).await.unwrap(), Answer::Contradiction);
    assert_eq!(server.try_leg(1, 1, credit(300)).await.unwrap(), Answer::Reserved);
    assert_eq!(server.balance("alice").await, (1_000, 300, 0));
    assert_eq!(server.balance("bob").await, (0, 0, 300));
    assert_eq!((server.confirm(0).await, server.confirm(1).await), (Answer::Confirmed, Answer::Confirmed));
    assert_eq!(server.confirm(0).await, Answer::Confirmed, "a copy");
    assert_eq!(server.cancel(0).await, Answer::Contradiction);
    assert_eq!(server.balance("alice").await, (700, 0, 0));
    assert_eq!(server.balance("bob").await, (300, 0, 0));

    let short = Answer::Rejected(Reason::InsufficientFunds);
    assert_eq!(server.try_leg(1, 2, debit("alice", 701)).await.unwrap(), short);
    assert_eq!(server.cancel(3).await, Answer::Canceled);
    assert_eq!(server.try_leg(1, 3, debit("alice", 1)).await.unwrap(), Answer::TryAfterCancel);
    assert_eq!(server.confirm(3).await, Answer::Contradiction);
    server.stop().await;
}

#[tokio::test]
async fn a_partial_confirm() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(config(dir.path())).await;
    server.fund().await;
    server.hello(0, 1).await.unwrap();
    assert_eq!(server.try_leg(1, 0, debit("alice", 300)).await.unwrap(), Answer::Reserved);
    let confirm = |amounts: &[u64]| {
        let mut branches = server.branches();
        let (xid, amounts) = (Some(xid(1, 0)), amounts.to_vec());
        let request = proto::ConfirmBranchRequest { xid, sender_epoch: 1, amounts, ..Default::default() };
        async move { branches.confirm(request).await.unwrap().into_inner().answer }
    };
    assert_eq!(confirm(&[301]).await, proto::Answer::Contradiction as i32);
    assert_eq!(confirm(&[120]).await, proto::Answer::Confirmed as i32);
    assert_eq!(server.balance("alice").await, (880, 0, 0));
    server.stop().await;
}

#[tokio::test]
async fn epochs_are_fenced() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(config(dir.path())).await;
    server.fund().await;
    server.hello(0, 1).await.unwrap();
    assert_eq!(server.try_leg(1, 0, debit("alice", 10)).await.unwrap(), Answer::Reserved);
    assert!(server.hello(0, 2).await.unwrap().accepted);
    assert_eq!(server.balance("alice").await, (1_000, 0, 0), "an orphan is released");
    assert_eq!(server.try_leg(1, 1, debit("alice", 10)).await.unwrap(), Answer::StaleEpoch);
    assert_eq!(server.try_leg(3, 1, debit("alice", 10)).await.unwrap(), Answer::HelloRequired);
    assert_eq!(server.try_leg(2, 0, debit("alice", 10)).await.unwrap(), Answer::Finished);
    let older = server.hello(0, 1).await.unwrap();
    assert!(!older.accepted && older.epoch == 2);
    server.stop().await;
}

#[tokio::test]
async fn wrong_requests_are_refused_by_name_and_not_logged() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(config(dir.path())).await;
    server.fund().await;
    server.hello(0, 1).await.unwrap();
    let before = server.log().await.appended;
    let good = debit("alice", 1);
    let table = [
        (proto::Leg { currency: "XXX".into(), ..good.clone() }, Reason::InvalidCurrency),
        (proto::Leg { account_id: String::new(), ..good.clone() }, Reason::InvalidAccountId),
        (proto::Leg { amount: 0, ..good.clone() }, Reason::AmountZero),
        (proto::Leg { direction: 0, ..good.clone() }, Reason::InvalidLegs),
    ];
    for (leg, reason) in table {
        let status = server.try_leg(1, 0, leg).await.unwrap_err();
        check_refusal(&status, Code::InvalidArgument, reason);
    }
    let request = |legs: usize, xid| proto::TryRequest {
        xid,
        sender_epoch: 1,
        legs: vec![good.clone(); legs],
        ..Default::default()
    };
    for legs in [0, 65] {
        let status = server.branches().r#try(request(legs, Some(xid(1, 0)))).await.unwrap_err();
        check_refusal(&status, Code::InvalidArgument, Reason::InvalidLegs);
    }
    let status = server.branches().r#try(request(1, None)).await.unwrap_err();
    check_refusal(&status, Code::InvalidArgument, Reason::InvalidArgument);
    let elsewhere = proto::TryRequest { participant: "7".into(), ..request(1, Some(xid(1, 0))) };
    let status = server.branches().r#try(elsewhere).await.unwrap_err();
    check_refusal(&status, Code::NotFound, Reason::UnknownParticipant);
    let status = server.hello(0, 0).await.unwrap_err();
    check_refusal(&status, Code::InvalidArgument, Reason::InvalidArgument);
    assert_eq!(server.log().await.appended, before, "nothing was logged");
    assert_eq!(server.try_leg(1, 0, good).await.unwrap(), Answer::Reserved, "and it serves on");
    server.stop().await;
}

#[tokio::test]
async fn one_cluster_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(config(dir.path())).await;
    server.hello(0, 1).await.unwrap();
    let other = proto::HelloRequest { cluster_id: "f".repeat(32), ..crate::fixture::hello(0, 2, &[]) };
    let status = server.branches().hello(other.clone()).await.unwrap_err();
    check_refusal(&status, Code::InvalidArgument, Reason::InvalidArgument);
    let unnamed = proto::HelloRequest { cluster_id: String::new(), ..other.clone() };
    assert!(server.branches().hello(unnamed).await.unwrap().into_inner().accepted);
    server.stop().await;
    let server = start(config(dir.path())).await;
    assert!(
        server.branches().hello(proto::HelloRequest { epoch: 3, ..other }).await.is_err(),
        "after a restart too"
    );
    server.stop().await;
}

#[tokio::test]
async fn new_work_is_refused_when_there_is_no_room_and_ends_never_are() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(escrow_participant::Config { mailbox_bytes_max: 1_024, ..config(dir.path()) }).await;
    server.fund().await;
    server.hello(0, 1).await.unwrap();
    let server = std::sync::Arc::new(server);
    let mut calls = tokio::task::JoinSet::new();
    for sequence in 0..64 {
        let server = std::sync::Arc::clone(&server);
        calls.spawn(async move { (sequence, server.try_leg(1, sequence, debit("alice", 1)).await) });
    }
    let mut reserved = Vec::new();
    for (sequence, outcome) in calls.join_all().await {
        match outcome {
            Ok(answer) => {
                assert_eq!(answer, Answer::Reserved);
                reserved.push(sequence);
            }
            Err(status) => check_refusal(&status, Code::ResourceExhausted, Reason::Overloaded),
        }
    }
    assert!((1..64).contains(&reserved.len()), "{} of 64 found room", reserved.len());
    assert_eq!(server.status().await.reservations, reserved.len() as u64, "what was refused has no effect");
    let mut calls = tokio::task::JoinSet::new();
    for sequence in reserved {
        let server = std::sync::Arc::clone(&server);
        calls.spawn(async move { server.confirm(sequence).await });
    }
    assert!(calls.join_all().await.into_iter().all(|answer| answer == Answer::Confirmed));
    std::sync::Arc::into_inner(server).unwrap().stop().await;
}
