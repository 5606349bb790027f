//! What a restart keeps, and what it makes of a view that is lost or damaged.

use escrow_participant::Config;
use escrow_proto::v1 as proto;
use escrow_types::Answer;
use proto::exchange_request::Message as Ask;
use std::path::Path;

use crate::fixture::{LATER, Running, USD, columns, config, copy_dir, debit, ends, start};

/// Some of everything: a reservation, an end, a rejection, a fence.
async fn work(server: &Running) {
    server.fund().await;
    let mut exchange = server.exchange(0, 1).await;
    let rows = [(0, "alice", 10, USD), (1, "alice", 20, USD), (2, "alice", 9_999, USD)];
    exchange.send(Ask::Try(columns(1, LATER, &rows))).await;
    exchange.send(Ask::Confirm(ends(1, &[0]))).await;
    exchange.send(Ask::Cancel(ends(1, &[3]))).await;
    for _ in 0..3 {
        exchange.answers().await;
    }
}

/// That all of it is there still, and that the view and the log agree.
async fn check(server: &Running) {
    assert_eq!(server.balance("alice").await, (990, 20, 0));
    for (check, ok, detail) in server.verify().await {
        assert!(ok, "{check}: {detail}");
    }
    assert_eq!(server.try_leg(1, 3, debit("alice", 1)).await.unwrap(), Answer::TryAfterCancel);
    assert!(matches!(server.try_leg(1, 2, debit("alice", 1)).await.unwrap(), Answer::Rejected(_)));
    assert_eq!(server.confirm(0).await, Answer::Confirmed);
    let request = proto::ListReservationsRequest { participant: 0, page_size: 0, cursor: String::new() };
    let page = server.shards().list_reservations(request).await.unwrap().into_inner();
    assert_eq!(page.reservations.iter().map(|row| row.xid.as_str()).collect::<Vec<_>>(), ["0-1-1"]);
}

fn sled(dir: &Path) -> std::path::PathBuf {
    dir.join("shard-0/sled")
}

fn moved_aside(dir: &Path) -> bool {
    dir.join("shard-0/sled.corrupt-1").exists()
}

#[tokio::test]
async fn an_orderly_end_leaves_nothing_to_replay() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(config(dir.path())).await;
    work(&server).await;
    server.stop().await;
    let server = start(config(dir.path())).await;
    let log = server.log().await;
    assert_eq!((log.checkpointed, log.applied), (log.appended, log.appended));
    check(&server).await;
    server.stop().await;
    assert!(!moved_aside(dir.path()));
}

#[tokio::test]
async fn a_crash_loses_nothing_that_was_answered() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(config(dir.path())).await;
    work(&server).await;
    let crashed = tempfile::tempdir().unwrap();
    copy_dir(dir.path(), crashed.path());
    let again = start(config(crashed.path())).await;
    check(&again).await;
    again.stop().await;
    server.stop().await;
}

#[tokio::test]
async fn a_crash_between_checkpoints_replays_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(Config { checkpoint_bytes: 1, ..config(dir.path()) }).await;
    server.fund().await;
    assert!(server.checkpointed().await > 0);
    server.stop().await;
    let server = start(config(dir.path())).await;
    work(&server).await;
    let crashed = tempfile::tempdir().unwrap();
    copy_dir(dir.path(), crashed.path());
    let again = start(config(crashed.path())).await;
    let log = again.log().await;
    assert!(0 < log.checkpointed && log.checkpointed < log.applied, "{log:?}");
    assert_eq!(
        again.balance("alice").await,
        (1_990 - 1_000, 20, 0),
        "funding twice is answered, not done, twice"
    );
    again.stop().await;
    server.stop().await;
}

#[tokio::test]
async fn a_lost_view_is_rebuilt_from_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(config(dir.path())).await;
    work(&server).await;
    server.stop().await;
    std::fs::remove_dir_all(sled(dir.path())).unwrap();
    let server = start(config(dir.path())).await;
    check(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn a_damaged_view_is_moved_aside_and_rebuilt_from_log_and_archive() {
    let dir = tempfile::tempdir().unwrap();
    let small = Config { checkpoint_bytes: 8_192, segment_bytes: 16_384, ..config(dir.path()) };
    let server = start(small.clone()).await;
    work(&server).await;
    let mut exchange = server.exchange(1, 1).await;
    for sequence in 0..400 {
        exchange.send(Ask::TryAndConfirm(columns(1, LATER, &[(sequence, "external", 1, USD); 3]))).await;
        exchange.answers().await;
    }
    while server.log().await.trimmed == 0 {}
    server.stop().await;
    for name in ["db", "conf"] {
        let path = sled(dir.path()).join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        for byte in &mut bytes {
            *byte ^= 0xA5;
        }
        std::fs::write(&path, bytes).unwrap();
    }
    let server = start(small.clone()).await;
    assert!(moved_aside(dir.path()));
    check(&server).await;
    assert_eq!(server.balance("external").await.0, -1_000 - 1_200);
    server.stop().await;
    let server = start(small).await;
    check(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn an_unfinished_snapshot_of_sled_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(config(dir.path())).await;
    work(&server).await;
    server.stop().await;
    std::fs::write(sled(dir.path()).join("snap.00000000000000FF.generating"), "half").unwrap();
    let server = start(config(dir.path())).await;
    assert!(!moved_aside(dir.path()));
    check(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn a_view_of_another_log_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(config(dir.path())).await;
    work(&server).await;
    server.stop().await;
    std::fs::remove_dir_all(dir.path().join("journal")).unwrap();
    let error = crate::fixture::refused(config(dir.path())).await;
    assert!(error.contains("journal"), "{error}");
}
