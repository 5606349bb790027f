//! The targets, one file a subject.

mod coordinator;
mod journal;
mod participant;
mod replica;
mod settings;
mod tcc;
mod types;
mod wallet;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::Target;

/// A folder on the real disk, for decoders that read nothing else; removed when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("escrow-fuzz-{name}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("the temporary directory can be written");
        Self(path)
    }

    fn path(&self) -> &Path {
        &self.0
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.0.join(name), bytes).expect("the temporary directory can be written");
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left of it is in the temporary directory, and nobody looks for it.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

macro_rules! targets {
    ($($subject:ident::$run:ident, $seeds:ident, $short_runs:literal, $name:ident;)*) => {
        pub(crate) const ALL: &[Target] = &[$(Target {
            name: stringify!($name),
            run: $subject::$run,
            seeds: $subject::$seeds,
            short_runs: $short_runs,
        },)*];
    };
}

targets! {
    types::codec, codec_seeds, 60_000, types_codec;
    types::text, text_seeds, 60_000, types_text;
    wallet::entry, entry_seeds, 12_000, wallet_entry;
    wallet::view, view_seeds, 12_000, wallet_view;
    tcc::entry, entry_seeds, 30_000, tcc_entry;
    tcc::checkpoint, checkpoint_seeds, 30_000, tcc_checkpoint;
    tcc::answers, answers_seeds, 9_000, tcc_answers;
    journal::damaged, damage_seeds, 6_000, journal_damage;
    journal::forged, forged_seeds, 6_000, journal_forged;
    participant::exchange, exchange_seeds, 12_000, participant_exchange;
    participant::unary, unary_seeds, 30_000, participant_unary;
    participant::files, files_seeds, 3_000, participant_files;
    coordinator::requests, requests_seeds, 30_000, coordinator_requests;
    coordinator::files, files_seeds, 12_000, coordinator_files;
    replica::log, log_seeds, 30_000, replica_log;
    replica::snapshot, snapshot_seeds, 3_000, replica_snapshot;
    settings::settings, settings_seeds, 12_000, settings;
}
