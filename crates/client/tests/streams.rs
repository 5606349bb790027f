//! Streams: what is sent is answered, the end is seen by both sides, a broken connection is told.

mod fake;

use escrow_client::bulk::Batch;
use escrow_client::{ClientError, IdSequence, State, Wait};
use escrow_types::{AccountId, Currency};
use fake::{Fake, Step, client, transfer};

#[tokio::test]
async fn every_transfer_of_a_stream_is_answered_and_the_end_is_seen() {
    let (_fake, endpoint) = Fake::start(&[]).await;
    let (sender, mut receiver) = client(&endpoint).transfer_stream(0).await.unwrap();
    let sending = tokio::spawn(async move {
        let mut sent = Vec::new();
        for _ in 0..3_000 {
            sent.push(sender.send(&transfer()).await.unwrap().to_string());
        }
        sent
    });
    let mut answered = Vec::new();
    while let Some(outcome) = receiver.next().await.unwrap() {
        assert_eq!(outcome.state, State::Confirmed);
        answered.push(outcome.transaction_id);
    }
    assert_eq!(answered, sending.await.unwrap());
}

#[tokio::test]
async fn a_stream_that_breaks_says_so_to_both_halves() {
    let (_fake, endpoint) = Fake::start(&[Step::CutConnection]).await;
    let (sender, mut receiver) = client(&endpoint).transfer_stream(0).await.unwrap();
    sender.send(&transfer()).await.unwrap();
    let error = receiver.next().await.unwrap_err();
    assert!(matches!(error, ClientError::Closed(_)), "{error:?}");
    assert!(error.is_retryable() && !error.has_no_effect());
    drop(receiver);
    // The queue takes a few more until the transport has let go of its end; then it refuses.
    while let Ok(_id) = sender.send(&transfer()).await {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn nobody_listening_is_told_before_anything_is_sent() {
    let error = client("http://127.0.0.1:1").transfer_stream(0).await.unwrap_err();
    assert!(matches!(error, ClientError::Unavailable { .. }), "{error:?}");
}

#[tokio::test]
async fn columns_go_out_and_come_back() {
    let (_fake, endpoint) = Fake::start(&[]).await;
    let (sender, mut receiver) = client(&endpoint).bulk_stream(0).await.unwrap();
    let (alice, bob) = (AccountId::new("alice").unwrap().key(), AccountId::new("bob").unwrap().key());
    let mut ids = IdSequence::new();
    let mut batch = Batch::new(1_000, Currency::USD, Wait::Completed, None);
    for first_tag in [0, 1_000, 2_000] {
        for _ in 0..1_000 {
            batch.push(ids.next_key(), alice, bob, 1);
        }
        sender.send(&mut batch, first_tag).await.unwrap();
        assert!(batch.is_empty());
    }
    drop(sender);
    let mut tags = Vec::new();
    while let Some(answers) = receiver.next().await.unwrap() {
        for answer in answers.iter() {
            let answer = answer.unwrap();
            assert_eq!(answer.state, State::Confirmed);
            tags.push(answer.tag);
        }
    }
    assert_eq!(tags, (0..3_000).collect::<Vec<u64>>());
}
