//! What can be set, with defaults that suit most, and the checks that refuse what cannot work.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use escrow_grpc::Endpoint;
use escrow_replica::Replication;
use escrow_service::Replicas;
use escrow_tcc::routing::Routing;
use escrow_types::{ParticipantId, SlotRange};
use serde::{Deserialize, Serialize};

use crate::error::CoordinatorError;

/// What becomes of log segments that a checkpoint has made superfluous for a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Archive {
    /// Kept as they are.
    Keep,
    /// Kept compressed: any past state can be rebuilt.
    #[default]
    Compress,
    /// Deleted: history is lost.
    Delete,
}

/// How a participant is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ParticipantKind {
    /// A wallet shard: columnar stream. Wallet shards share the account slots in the order of their ids.
    #[default]
    Stream,
    /// An external participant: unary Try, Confirm, Cancel. Addressed by its name in a leg.
    Unary,
}

/// One participant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParticipantConfig {
    /// Its number: part of the log, so it must never change.
    pub id: u16,
    /// Its name for people and, if external, for legs. Default: the number.
    #[serde(default)]
    pub name: String,
    /// Such as `http://127.0.0.1:7410`. That of a wallet shard with replicas names them all:
    /// `http://127.0.0.1:7410+http://127.0.0.1:7411`.
    pub endpoint: String,
    /// How it is spoken to.
    #[serde(default)]
    pub kind: ParticipantKind,
}

impl ParticipantConfig {
    /// Its replicas. Only wallet shards have some; the endpoint of an external participant is taken as it is.
    pub(crate) fn replicas(&self) -> Result<Replicas, String> {
        match self.kind {
            ParticipantKind::Stream => Replicas::parse(&self.endpoint),
            ParticipantKind::Unary => Ok(Replicas::alone(&self.endpoint)),
        }
    }

    fn check_endpoint(&self) -> Result<(), String> {
        let name = &self.name;
        let replicas = self.replicas().map_err(|why| format!("participants: of {name} {why}"))?;
        let wrong = replicas.endpoints().iter().find_map(|part| Endpoint::parse(part).err());
        wrong.map_or(Ok(()), |wrong| Err(format!("participants: of {name} {wrong}")))
    }
}

/// Which wallet shard holds which slots of accounts: in a file, runs of slots and the id of their shard, as in `0-2047 = 0`.
/// None: equal runs over the shards, in the order of their ids.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, u16>", into = "BTreeMap<String, u16>")]
pub struct Slots(Vec<SlotRange>);

impl Slots {
    /// How accounts find their shard. `shards` are the wallet shards; slots may only be given to these.
    pub fn routing(&self, shards: Vec<ParticipantId>) -> Result<Routing, CoordinatorError> {
        let wrong = |why: String| Err(CoordinatorError::Config(format!("slots: {why}")));
        if self.0.is_empty() {
            return Ok(Routing::new(shards));
        }
        if let Some(range) = self.0.iter().find(|range| !shards.contains(&range.shard)) {
            return wrong(format!("{} are given to shard {}, which is none", range.slots(), range.shard.0));
        }
        Routing::of_ranges(&self.0).or_else(|error| wrong(error.to_string()))
    }
}

impl TryFrom<BTreeMap<String, u16>> for Slots {
    type Error = String;

    fn try_from(runs: BTreeMap<String, u16>) -> Result<Self, String> {
        let range = |(slots, shard): (String, u16)| SlotRange::parse(&slots, ParticipantId(shard));
        let ranges: Result<_, _> = runs.into_iter().map(range).collect();
        ranges.map(Self).map_err(|error| error.to_string())
    }
}

impl From<Slots> for BTreeMap<String, u16> {
    fn from(slots: Slots) -> Self {
        slots.0.into_iter().map(|range| (range.slots(), range.shard.0)).collect()
    }
}

/// Settings of one coordinator. Times in milliseconds, sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where journal, checkpoint and idempotency window live.
    pub data_dir: PathBuf,
    /// Where to listen; port 0 picks a free one.
    pub listen: SocketAddr,
    /// The partition that this coordinator leads.
    pub partition: u16,
    /// The cluster that this coordinator belongs to, 32 hex digits: the same for all coordinators of a cluster, since a
    /// participant serves one cluster only. Default: one is made up at the first start and kept.
    pub cluster_id: Option<String>,
    /// The participants.
    pub participants: Vec<ParticipantConfig>,
    /// Which of the wallet shards holds which accounts. Part of the data, as the set of shards is: accounts do not move.
    pub slots: Slots,
    /// Unfinished for this long: in doubt.
    pub in_doubt_after_ms: u64,
    /// Unfinished transactions at a time; more are refused with OVERLOADED.
    pub in_flight_max: usize,
    /// Deadline of a transaction whose caller names none.
    pub default_timeout_ms: u64,
    /// How long a two-step reservation stands when its caller names nothing.
    pub default_hold_ms: u64,
    /// How long ended transactions are remembered.
    pub idempotency_window_ms: u64,
    /// A checkpoint at least this often, while anything changes.
    pub checkpoint_interval_ms: u64,
    /// A checkpoint at least every so many bytes of log.
    pub checkpoint_bytes: u64,
    /// Size of a log segment.
    pub segment_bytes: u64,
    /// What becomes of old log segments.
    pub archive: Archive,
    /// The largest message taken.
    pub message_bytes_max: usize,
    /// How long open calls may take to end once shutdown began.
    pub drain_ms: u64,
    /// The other replicas, if there are any. Part of the data: a directory that was used with or without stays so.
    pub replication: Option<Replication>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("escrow-data/coordinator-0"),
            listen: SocketAddr::from(([127, 0, 0, 1], 7400)),
            partition: 0,
            cluster_id: None,
            participants: Vec::new(),
            slots: Slots::default(),
            in_doubt_after_ms: 10_000,
            in_flight_max: 1_000_000,
            default_timeout_ms: 5_000,
            default_hold_ms: 60_000,
            idempotency_window_ms: 24 * 3_600_000,
            checkpoint_interval_ms: 60_000,
            checkpoint_bytes: 256 << 20,
            segment_bytes: 64 << 20,
            archive: Archive::Compress,
            message_bytes_max: 64 << 20,
            drain_ms: 5_000,
            replication: None,
        }
    }
}

impl Config {
    /// How accounts find their wallet shard.
    pub fn routing(&self) -> Result<Routing, CoordinatorError> {
        let shards = self.participants.iter().filter(|one| one.kind == ParticipantKind::Stream);
        self.slots.routing(shards.map(|shard| ParticipantId(shard.id)).collect())
    }

    /// Fills in names that were left out and checks everything that can be checked without touching the disk.
    pub fn validated(mut self) -> Result<Self, CoordinatorError> {
        let wrong = |what: String| Err(CoordinatorError::Config(what));
        if self.data_dir.as_os_str().is_empty() {
            return wrong("data_dir is empty".into());
        }
        for participant in &mut self.participants {
            if participant.name.is_empty() {
                participant.name = participant.id.to_string();
            }
        }
        for (at, participant) in self.participants.iter().enumerate() {
            if self.participants[..at].iter().any(|other| other.id == participant.id) {
                return wrong(format!("participants: the id {} is given twice", participant.id));
            }
            if self.participants[..at].iter().any(|other| other.name == participant.name) {
                return wrong(format!("participants: the name '{}' is given twice", participant.name));
            }
            participant.check_endpoint().map_err(CoordinatorError::Config)?;
        }
        self.routing()?;
        if self.in_flight_max == 0 || self.in_flight_max > 16_000_000 {
            return wrong("in_flight_max must be from 1 to 16,000,000".into());
        }
        if self.default_timeout_ms == 0 || self.default_hold_ms == 0 {
            return wrong("default_timeout_ms and default_hold_ms must be above 0".into());
        }
        if self.message_bytes_max < 64 << 10 {
            return wrong("message_bytes_max must be at least 64 KiB".into());
        }
        if !(16 << 20..=1 << 30).contains(&self.segment_bytes) || !self.segment_bytes.is_multiple_of(4_096) {
            return wrong("segment_bytes must be a multiple of 4,096 from 16 MiB to 1 GiB".into());
        }
        if self.idempotency_window_ms == 0 || self.checkpoint_interval_ms == 0 || self.checkpoint_bytes == 0 {
            return wrong(
                "idempotency_window_ms, checkpoint_interval_ms and checkpoint_bytes must be above 0".into(),
            );
        }
        let is_id = |id: &String| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        if let Some(id) = self.cluster_id.as_ref().filter(|id| !is_id(id)) {
            return wrong(format!("cluster_id: '{id}' is not 32 hex digits"));
        }
        if self.replication.is_some() && self.cluster_id.is_none() {
            return wrong("replication needs a cluster_id".into());
        }
        self.replication = self
            .replication
            .map(Replication::validated)
            .transpose()
            .map_err(|error| CoordinatorError::Config(error.to_string()))?;
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn participant(id: u16, endpoint: &str) -> ParticipantConfig {
        let kind = ParticipantKind::Stream;
        ParticipantConfig { id, name: String::new(), endpoint: endpoint.into(), kind }
    }

    fn check(participants: Vec<ParticipantConfig>) -> Result<Config, String> {
        Config { participants, ..Config::default() }.validated().map_err(|error| error.to_string())
    }

    #[test]
    fn names_default_to_ids() {
        let config = check(vec![participant(3, "http://127.0.0.1:1")]).unwrap();
        assert_eq!(config.participants[0].name, "3");
    }

    #[test]
    fn replicas_are_a_wallet_shards() {
        let list = "http://127.0.0.1:1+http://127.0.0.1:2";
        let config = check(vec![participant(3, list)]).unwrap();
        assert_eq!(config.participants[0].replicas().unwrap().endpoints().len(), 2);
        let external = ParticipantConfig { kind: ParticipantKind::Unary, ..participant(4, list) };
        assert!(check(vec![external]).unwrap_err().contains("is not an endpoint"));
    }

    #[test]
    fn what_cannot_work_is_named() {
        let twice = vec![participant(3, "http://127.0.0.1:1"), participant(3, "http://127.0.0.1:2")];
        assert!(check(twice).unwrap_err().contains("the id 3 is given twice"));
        assert!(check(vec![participant(0, "127.0.0.1:1")]).unwrap_err().contains("is not an endpoint"));
        let no_part = vec![participant(0, "http://127.0.0.1:1+")];
        assert!(check(no_part).unwrap_err().contains("of 0 '' is not an endpoint"));
        let one_part = vec![participant(0, "http://127.0.0.1:1+127.0.0.1:2")];
        assert!(check(one_part).unwrap_err().contains("of 0 '127.0.0.1:2' is not an endpoint"));
        let replica = vec![participant(0, "http://127.0.0.1:1+http://127.0.0.1:2+http://127.0.0.1:1")];
        assert!(check(replica).unwrap_err().contains("the replica 'http://127.0.0.1:1' is given twice"));
        let none = Config { in_flight_max: 0, ..Config::default() };
        assert!(none.validated().unwrap_err().to_string().contains("in_flight_max"));
    }
    #[test]
    fn slots_are_dealt_to_the_shards_that_there_are() {
        let with = |runs: &[(&str, u16)]| {
            let runs: BTreeMap<String, u16> =
                runs.iter().map(|&(run, shard)| (run.to_owned(), shard)).collect();
            let slots = Slots::try_from(runs.clone())?;
            assert_eq!(BTreeMap::from(slots.clone()), runs, "written as it was read");
            let participants =
                vec![participant(0, "http://127.0.0.1:1"), participant(1, "http://127.0.0.1:2")];
            let config = Config { participants, slots, ..Config::default() }.validated();
            config.map(|config| config.routing().unwrap()).map_err(|error| error.to_string())
        };
        let equal = Routing::new(vec![ParticipantId(0), ParticipantId(1)]);
        assert_eq!(with(&[]).unwrap(), equal);
        assert_eq!(with(&[("0-99", 1), ("100-4095", 0)]).unwrap().shards(), equal.shards());
        assert!(with(&[("0-99", 1), ("100-4095", 2)]).unwrap_err().contains("shard 2, which is none"));
        assert!(with(&[("0-99", 1), ("99-4095", 0)]).unwrap_err().contains("slot 99 is given twice"));
        assert!(with(&[("0-4094", 1)]).unwrap_err().contains("slot 4095 is given to no shard"));
        assert!(with(&[("0-4096", 1)]).unwrap_err().contains("'0-4096' is not a run"));
    }
}
