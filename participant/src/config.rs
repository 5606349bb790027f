//! What can be set, with defaults that suit most, and the checks that refuse what cannot work.

use std::net::SocketAddr;
use std::path::PathBuf;

use escrow_replica::Replication;
use serde::{Deserialize, Serialize};

use crate::error::ParticipantError;

/// What becomes of log segments that a checkpoint has made superfluous for a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Archive {
    /// Kept as they are.
    Keep,
    /// Kept compressed: any past state can be rebuilt.
    #[default]
    Compress,
    /// Deleted: a lost view can then not be rebuilt any more.
    Delete,
}

/// Settings of one participant process. Times in milliseconds, sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where journal and views live.
    pub data_dir: PathBuf,
    /// Where to listen; port 0 picks a free one.
    pub listen: SocketAddr,
    /// The shards that this process holds, by participant id. Part of the data: they cannot change later.
    pub shards: Vec<u16>,
    /// A checkpoint at least this often, while anything changes.
    pub checkpoint_interval_ms: u64,
    /// A checkpoint after so many bytes of log; after up to four times as many if the last one was large, and the shard has no
    /// other replicas.
    pub checkpoint_bytes: u64,
    /// Size of a log segment.
    pub segment_bytes: u64,
    /// What becomes of old log segments.
    pub archive: Archive,
    /// Memory for sled's cache, of each shard.
    pub sled_cache_bytes: u64,
    /// The largest message taken.
    pub message_bytes_max: usize,
    /// Commands of one shard that are received and not answered yet; beyond that a stream is not read from.
    pub mailbox_commands_max: usize,
    /// The same in bytes.
    pub mailbox_bytes_max: usize,
    /// Answers of one stream, in rows, that its peer has not taken; beyond that the stream is not read from.
    pub stream_answers_max: usize,
    /// How often reservations past their deadline are asked about, on each stream.
    pub outcome_interval_ms: u64,
    /// How many of them are asked about at a time.
    pub outcome_rows_max: usize,
    /// How long open calls may take to end once shutdown began.
    pub drain_ms: u64,
    /// The cluster that is served, 32 hex digits; needed with replication. Default: that of the first coordinator that says hello.
    pub cluster_id: Option<String>,
    /// The other replicas, if there are any. Part of the data: a directory that was used with or without stays so.
    pub replication: Option<Replication>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("escrow-data/participant-0"),
            listen: SocketAddr::from(([127, 0, 0, 1], 7410)),
            shards: vec![0],
            checkpoint_interval_ms: 60_000,
            checkpoint_bytes: 256 << 20,
            segment_bytes: 64 << 20,
            archive: Archive::Compress,
            sled_cache_bytes: 64 << 20,
            message_bytes_max: 64 << 20,
            mailbox_commands_max: 65_536,
            mailbox_bytes_max: 256 << 20,
            stream_answers_max: 1 << 20,
            outcome_interval_ms: 1_000,
            outcome_rows_max: 1_000,
            drain_ms: 5_000,
            cluster_id: None,
            replication: None,
        }
    }
}

impl Config {
    /// Checks everything that can be checked without touching the disk.
    pub fn validated(mut self) -> Result<Self, ParticipantError> {
        let wrong = |what: &str| Err(ParticipantError::Config(what.to_owned()));
        if self.data_dir.as_os_str().is_empty() {
            return wrong("data_dir is empty");
        }
        self.shards.sort_unstable();
        if self.shards.is_empty() {
            return wrong("shards is empty: name at least one participant id");
        }
        if self.shards.windows(2).any(|pair| pair[0] == pair[1]) {
            return wrong("shards names a participant id twice");
        }
        if self.checkpoint_interval_ms == 0 || self.checkpoint_bytes == 0 {
            return wrong("checkpoint_interval_ms and checkpoint_bytes must be above 0");
        }
        if !(4_096..=1 << 30).contains(&self.message_bytes_max) {
            return wrong("message_bytes_max must be from 4 KiB to 1 GiB");
        }
        if self.mailbox_commands_max == 0 || self.mailbox_bytes_max < 1_024 || self.stream_answers_max == 0 {
            return wrong(
                "mailbox_commands_max and stream_answers_max must be above 0, mailbox_bytes_max at least 1 KiB",
            );
        }
        if self.mailbox_bytes_max > 1 << 36 || self.stream_answers_max > 1 << 28 {
            return wrong("mailbox_bytes_max must be at most 64 GiB, stream_answers_max at most 2^28");
        }
        if self.outcome_interval_ms == 0 || !(1..=10_000).contains(&self.outcome_rows_max) {
            return wrong("outcome_interval_ms must be above 0, outcome_rows_max from 1 to 10,000");
        }
        let is_id = |id: &String| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        if let Some(id) = self.cluster_id.as_ref().filter(|id| !is_id(id)) {
            return Err(ParticipantError::Config(format!("cluster_id: '{id}' is not 32 hex digits")));
        }
        if self.replication.is_some() && self.cluster_id.is_none() {
            return wrong("replication needs a cluster_id");
        }
        self.replication = self
            .replication
            .map(Replication::validated)
            .transpose()
            .map_err(|error| ParticipantError::Config(error.to_string()))?;
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid() {
        assert_eq!(Config::default().validated().unwrap(), Config::default());
    }

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        type Change = fn(&mut Config);
        let table: [(Change, &str); 6] = [
            (|config| config.data_dir = PathBuf::new(), "data_dir"),
            (|config| config.shards = vec![], "shards"),
            (|config| config.shards = vec![2, 1, 2], "twice"),
            (|config| config.checkpoint_bytes = 0, "checkpoint_bytes"),
            (|config| config.message_bytes_max = 0, "message_bytes_max"),
            (|config| config.outcome_rows_max = 0, "outcome_rows_max"),
        ];
        for (change, expect) in table {
            let mut config = Config::default();
            change(&mut config);
            let error = config.validated().unwrap_err().to_string();
            assert!(error.contains(expect), "{error}");
        }
    }

    #[test]
    fn unknown_settings_are_refused() {
        assert!(serde_json::from_str::<Config>(r#"{"shard": 1}"#).is_err());
        let config: Config = serde_json::from_str(r#"{"shards": [3], "archive": "keep"}"#).unwrap();
        assert_eq!((config.shards, config.archive), (vec![3], Archive::Keep));
    }
}
