//! Verification: it holds after checkpoints, trims and archives, and it notices what does not belong.

use escrow_participant::{Archive, Config};
use escrow_proto::v1 as proto;
use proto::exchange_request::Message as Ask;
use std::path::Path;

use crate::fixture::{LATER, USD, USD_CREDIT, columns, config, ends, start};

fn small(dir: &Path, archive: Archive) -> Config {
    Config { checkpoint_bytes: 4_096, segment_bytes: 16_384, archive, ..config(dir) }
}

#[tokio::test]
async fn checkpoint_and_archive_give_the_live_state() {
    for archive in [Archive::Compress, Archive::Keep, Archive::Delete] {
        let dir = tempfile::tempdir().unwrap();
        let server = start(small(dir.path(), archive)).await;
        server.fund().await;
        let mut exchange = server.exchange(0, 1).await;
        for sequence in 0..300 {
            let rows = [(sequence, "alice", 1, USD), (sequence, "bob", 1, USD_CREDIT)];
            exchange.send(Ask::Try(columns(1, LATER, &rows))).await;
            exchange.answers().await;
            if sequence % 3 == 0 {
                exchange.send(Ask::Confirm(ends(1, &[sequence]))).await;
                exchange.answers().await;
            }
            if sequence % 50 == 0 {
                let except = (0..sequence).filter(|sequence| sequence % 3 > 0).collect();
                exchange.send(Ask::Watermark(proto::Watermark { epoch: 1, below: sequence, except })).await;
            }
        }
        while server.log().await.trimmed == 0 {}
        let checks = server.verify().await;
        assert_eq!(checks.len(), 2);
        for (check, ok, detail) in &checks {
            assert!(ok, "{archive:?}, {check}: {detail}");
        }
        let whole = &checks[1].2;
        let deleted = archive == Archive::Delete;
        assert_eq!(whole.contains("not checked"), deleted, "{whole}");
        assert_eq!(whole.contains("from entry 1"), !deleted, "{whole}");
        server.stop().await;
        let server = start(small(dir.path(), archive)).await;
        assert_eq!(server.balance("bob").await, (100, 0, 200));
        assert!(server.verify().await.iter().all(|check| check.1));
        server.stop().await;
    }
}

/// sled lets go of its files on threads of its own, a moment after it was dropped.
fn open_when_free(path: &std::path::Path) -> sled::Db {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    loop {
        match sled::open(path) {
            Err(error) if error.to_string().contains("lock") && std::time::Instant::now() < deadline => {
                std::thread::yield_now();
            }
            opened => return opened.unwrap(),
        }
    }
}

#[tokio::test]
async fn money_moved_in_the_view_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(config(dir.path())).await;
    server.fund().await;
    server.stop().await;
    {
        // One cent from external (row 2) to bob (row 1): every sum is as before.
        let view = open_when_free(&dir.path().join("shard-0/sled"));
        let key = [b'b', 0, 0, 0, 0];
        let mut value = view.get(key).unwrap().unwrap().to_vec();
        for (row, change) in [(1, 1), (2, -1)] {
            let posted = &mut value[row * 39 + 15..row * 39 + 23];
            let changed = i64::from_le_bytes(posted.try_into().unwrap()) + change;
            posted.copy_from_slice(&changed.to_le_bytes());
        }
        view.insert(key, value).unwrap();
        view.flush().unwrap();
    }
    let server = start(config(dir.path())).await;
    assert_eq!(server.balance("bob").await, (1, 0, 0), "the view is believed at first");
    let checks = server.verify().await;
    assert!(checks[0].1, "the view agrees with the state that was made of it");
    assert!(!checks[1].1 && checks[1].2.contains("rebuilt"), "the log does not: {:?}", checks[1]);
    server.stop().await;
}

#[tokio::test]
async fn totals_are_conserved_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(config(dir.path())).await;
    server.fund().await;
    let mut exchange = server.exchange(0, 1).await;
    exchange.send(Ask::Try(columns(1, LATER, &[(0, "alice", 5, USD), (1, "bob", 5, USD_CREDIT)]))).await;
    exchange.answers().await;
    let totals =
        server.shards().get_totals(proto::GetTotalsRequest { participant: 0 }).await.unwrap().into_inner();
    let total = &totals.totals[0];
    assert_eq!((total.currency.as_str(), total.posted.as_str(), total.balances), ("USD", "0", 3));
    assert_eq!((total.reserved.as_str(), total.incoming.as_str(), totals.reservations), ("5", "5", 2));
    assert!(totals.overdrawn_account_ids.is_empty());
    server.stop().await;
}
