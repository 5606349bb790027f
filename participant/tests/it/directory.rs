//! Directories and ports that are somebody else's.

use escrow_participant::Config;

use crate::fixture::{config, refused, start};

#[tokio::test]
async fn a_directory_in_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(config(dir.path())).await;
    let error = refused(config(dir.path())).await;
    assert!(
        error.contains("in use by another process") && error.contains(dir.path().to_str().unwrap()),
        "{error}"
    );
    server.stop().await;
    start(config(dir.path())).await.stop().await;
}

#[tokio::test]
async fn a_port_in_use_is_refused_and_the_directory_stays_free() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = start(config(first.path())).await;
    let error = refused(Config { listen: server.address, ..config(second.path()) }).await;
    assert!(error.contains(&server.address.to_string()), "{error}");
    start(config(second.path())).await.stop().await;
    server.stop().await;
}

#[tokio::test]
async fn foreign_directories_are_refused() {
    let coordinators = tempfile::tempdir().unwrap();
    let identity = r#"{"format":1,"kind":"escrow-coordinator","partition":0,"cluster_id":"00"}"#;
    std::fs::write(coordinators.path().join("identity.json"), identity).unwrap();
    let error = refused(config(coordinators.path())).await;
    assert!(error.contains("escrow-coordinator"), "{error}");

    let anybodys = tempfile::tempdir().unwrap();
    std::fs::write(anybodys.path().join("letter.txt"), "dear").unwrap();
    let error = refused(config(anybodys.path())).await;
    assert!(error.contains("letter.txt"), "{error}");
}

#[tokio::test]
async fn the_shards_of_a_directory_cannot_change() {
    let dir = tempfile::tempdir().unwrap();
    start(config(dir.path())).await.stop().await;
    let error = refused(Config { shards: vec![0, 1], ..config(dir.path()) }).await;
    assert!(error.contains("holds the shards [0], not [0, 1]"), "{error}");
}

#[tokio::test]
async fn a_damaged_log_is_refused_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(config(dir.path())).await;
    server.fund().await;
    server.stop().await;
    let journal = dir.path().join("journal");
    let segment = std::fs::read_dir(&journal).unwrap().map(|entry| entry.unwrap().path());
    let segment =
        segment.into_iter().find(|path| path.extension().is_some_and(|name| name == "seg")).unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[4_096 + 60] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let error = refused(config(dir.path())).await;
    assert!(error.contains("damaged at offset"), "{error}");
}

#[tokio::test]
async fn wrong_settings_are_refused_before_anything_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let error = refused(Config { shards: vec![], ..config(&dir.path().join("new")) }).await;
    assert!(error.contains("shards"), "{error}");
    assert!(!dir.path().join("new").exists());
}
