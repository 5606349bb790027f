//! Scenarios: what is done to a cluster while it works, as files that people read.
//!
//! A scenario is a TOML file: what it is called, does and proves; the shape of the cluster; the mix of the load; and a list of
//! faults. Those of `chaos/scenarios/` are in the binary ([`ALL`]); any other is run by its path. A key that is none is refused.
//!
//! **Invariant:** a scenario is data. What it does at which moment follows from it, the length of the run and the seed, and from
//! nothing else: see [`crate::schedule`].

mod catalogue;
mod fault;
mod span;

pub use catalogue::{ALL, find};
pub use fault::{Action, Direction, FaultPlan, How, Standing, Target, Whose};
pub use span::Span;

use std::path::Path;

use escrow_cluster::NodeId;
use serde::Deserialize;

use fault::node;

/// One scenario.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// How it is called on the command line.
    pub name: String,
    /// What is done, in a sentence.
    pub summary: String,
    /// What a run without violations shows.
    pub proves: String,
    /// How long it runs if nobody says otherwise.
    #[serde(default = "default_duration")]
    pub duration: Span,
    /// Transactions a second if nobody says otherwise.
    #[serde(default = "default_rate")]
    pub rate: u64,
    /// What is started.
    #[serde(default)]
    pub cluster: Shape,
    /// What callers do meanwhile.
    #[serde(default)]
    pub load: Mix,
    /// What is done to the cluster.
    #[serde(default)]
    pub faults: Vec<FaultPlan>,
    /// Whether every transaction must be confirmed: nothing that is done to the cluster may be seen by callers but as a delay.
    #[serde(default)]
    pub all_confirmed: bool,
}

const fn default_duration() -> Span {
    Span::secs(60)
}

const fn default_rate() -> u64 {
    5_000
}

/// The cluster of a scenario.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shape {
    /// Coordinators, each with a partition of its own.
    pub coordinators: u16,
    /// Participants, each with a wallet shard.
    pub participants: u16,
    /// Of each coordinator and participant so many processes, as replicas of each other.
    pub replicas: u16,
    /// How often servers write checkpoints. Short, so that runs see many.
    pub checkpoint_interval: Span,
    /// Size of the segments of participants' journals, in MiB. Small, so that they are trimmed and archived often. Those of
    /// coordinators have 16.
    pub segment_mib: u32,
    /// One process lives on a small file system of its own.
    pub small_disk: Option<SmallDisk>,
}

impl Default for Shape {
    fn default() -> Self {
        let checkpoint_interval = Span::secs(5);
        Self {
            coordinators: 1,
            participants: 2,
            replicas: 1,
            checkpoint_interval,
            segment_mib: 16,
            small_disk: None,
        }
    }
}

/// A file system that can be filled.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SmallDisk {
    /// Whose data is on it.
    #[serde(deserialize_with = "node")]
    pub of: NodeId,
    /// Its size, in MiB.
    pub mib: u32,
}

/// What callers do. Most transactions are rows of a bulk stream; the rest are calls of every kind.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mix {
    /// Of a hundred transactions, so many are calls of their own; the others are bulk rows.
    pub calls_percent: u8,
    /// Of a hundred calls, so many have two to four legs.
    pub legs_percent: u8,
    /// Of a hundred calls, so many are two-step: reserved, then confirmed (in full or in part), canceled, or left alone.
    pub two_step_percent: u8,
    /// Of a hundred transfers, so many stay on one shard.
    pub same_shard_percent: u8,
    /// Of a hundred transfers, so many ask for more than anybody has.
    pub too_much_percent: u8,
    /// Of a hundred transfers, so many pay to or from one and the same account.
    pub hot_percent: u8,
    /// Of a hundred calls that are transfers, so many are made twice at once with the same id.
    pub twice_percent: u8,
    /// Of a hundred calls that are transfers, so many are followed by other content under the same id.
    pub other_content_percent: u8,
    /// Of a hundred calls that are transfers, so many have a caller who waits 20 ms and never asks again.
    pub impatient_percent: u8,
    /// A transaction is canceled if not all is reserved by then.
    pub timeout: Span,
    /// A two-step transaction is canceled if it is not confirmed by then.
    pub hold: Span,
    /// Accounts of each shard.
    pub accounts: u32,
}

impl Default for Mix {
    fn default() -> Self {
        Self {
            calls_percent: 8,
            legs_percent: 10,
            two_step_percent: 10,
            same_shard_percent: 10,
            too_much_percent: 2,
            hot_percent: 0,
            twice_percent: 5,
            other_content_percent: 5,
            impatient_percent: 5,
            timeout: Span::secs(5),
            hold: Span::secs(3),
            accounts: 1_000,
        }
    }
}

/// Why a text is no scenario.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// No file, and none of ours.
    #[error("there is no scenario '{0}': see `escrow chaos list`, or give the path of a file")]
    Unknown(String),
    /// It cannot be read.
    #[error("{path}: {source}")]
    Unreadable {
        /// Which file.
        path: String,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// It does not parse, or makes no sense.
    #[error("{path}: {message}")]
    Wrong {
        /// Which file.
        path: String,
        /// What and where.
        message: String,
    },
}

impl Scenario {
    /// A scenario of ours by its name, or any other by the path of its file.
    pub fn load(name_or_path: &str) -> Result<Self, ScenarioError> {
        if let Some(text) = find(name_or_path) {
            return Self::parse(name_or_path, text);
        }
        let path = Path::new(name_or_path);
        if path.extension().is_none() && !path.exists() {
            return Err(ScenarioError::Unknown(name_or_path.to_owned()));
        }
        let text = std::fs::read_to_string(path)
            .map_err(|source| ScenarioError::Unreadable { path: name_or_path.to_owned(), source })?;
        Self::parse(name_or_path, &text)
    }

    /// A scenario from its text; `path` is for messages.
    pub fn parse(path: &str, text: &str) -> Result<Self, ScenarioError> {
        let wrong = |message: String| ScenarioError::Wrong { path: path.to_owned(), message };
        let scenario: Self =
            toml::from_str(text).map_err(|error| wrong(error.to_string().trim_end().to_owned()))?;
        scenario.check().map_err(wrong)?;
        Ok(scenario)
    }

    /// Every process, coordinators first.
    pub fn nodes(&self) -> Vec<NodeId> {
        let replicas = if self.is_replicated() { 1..=self.cluster.replicas } else { 0..=0 };
        let groups = self.groups().into_iter();
        groups.flat_map(|group| replicas.clone().map(move |replica| group.replica(replica))).collect()
    }

    /// What a process holds, as if there were one of each.
    pub(crate) fn groups(&self) -> Vec<NodeId> {
        let coordinators = (0..self.cluster.coordinators).map(NodeId::coordinator);
        coordinators.chain((0..self.cluster.participants).map(NodeId::participant)).collect()
    }

    /// Whether coordinators and participants have replicas.
    pub const fn is_replicated(&self) -> bool {
        self.cluster.replicas > 1
    }

    /// Whether processes must reach each other through proxies.
    pub fn needs_proxies(&self) -> bool {
        self.faults.iter().any(|fault| fault.action.is_of_the_network())
    }

    /// Whether servers are needed that can be told where to die, or what time it is.
    pub fn needs_failpoints(&self) -> bool {
        self.faults.iter().any(|fault| fault.action.needs_failpoints())
    }

    fn check(&self) -> Result<(), String> {
        // It names a directory of reports.
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if self.name.is_empty() || !self.name.bytes().all(is_plain) {
            return Err("name: lower-case letters, digits and '-' only".to_owned());
        }
        let load = &self.load;
        let calls = [load.legs_percent + load.two_step_percent, load.calls_percent, load.same_shard_percent];
        let transfers = [load.too_much_percent, load.hot_percent];
        let transfers_too = load.twice_percent + load.other_content_percent + load.impatient_percent;
        if calls.iter().chain(&transfers).chain([&transfers_too]).any(|&percent| percent > 100) {
            return Err("load: more than a hundred of a hundred".to_owned());
        }
        if self.rate == 0 || load.accounts < 8 || self.cluster.segment_mib == 0 {
            return Err(
                "rate, load.accounts (at least 8) and cluster.segment_mib must not be so small".to_owned()
            );
        }
        if !(1..=10).contains(&self.cluster.coordinators) || self.cluster.participants < 2 {
            return Err("cluster: 1 to 10 coordinators and at least 2 participants".to_owned());
        }
        escrow_cluster::check_replicas(self.cluster.replicas).map_err(|error| format!("cluster: {error}"))?;
        let nodes = self.nodes();
        let small_disk = self.cluster.small_disk.map(|disk| disk.of);
        if let Some(unknown) = small_disk.filter(|node| !nodes.contains(node)) {
            return Err(format!("cluster.small_disk: there is no {unknown}"));
        }
        self.faults.iter().try_for_each(|fault| fault.check(&nodes, small_disk))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "name = 'n'\nsummary = 's'\nproves = 'p'\n";

    fn refusal(rest: &str) -> String {
        Scenario::parse("some.toml", &format!("{GOOD}{rest}")).expect_err(rest).to_string()
    }

    #[test]
    fn what_is_not_said_has_its_default() {
        let scenario = Scenario::parse("some.toml", GOOD).unwrap();
        assert_eq!((scenario.rate, scenario.cluster.participants, scenario.load.accounts), (5_000, 2, 1_000));
        assert!(!scenario.needs_proxies() && !scenario.needs_failpoints());
    }

    #[test]
    fn unknown_keys_are_refused_with_file_and_place() {
        for (rest, key) in [
            ("participants = 3", "participants"),
            ("[cluster]\nshards = 3", "shards"),
            ("[load]\nspeed = 3", "speed"),
            (
                "[[faults]]\nat = '1s'\nwhen = '2s'\ntarget = 'everything'\ndo = { kill = { down_for = '1s' } }",
                "when",
            ),
            (
                "[[faults]]\nat = '1s'\ntarget = 'everything'\ndo = { kill = { down_for = '1s', hard = true } }",
                "hard",
            ),
            ("[[faults]]\nat = '1s'\ntarget = 'everything'\ndo = { tickle = { lasts = '1s' } }", "tickle"),
        ] {
            let message = refusal(rest);
            assert!(message.contains("some.toml") && message.contains(key), "{message}");
        }
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        for (rest, why) in [
            ("[cluster]\nparticipants = 1", "participants"),
            ("[load]\nhot_percent = 101", "hundred"),
            (
                "[[faults]]\nat = '1s'\ntarget = 'participant-7'\ndo = { kill = { down_for = '1s' } }",
                "participant-7",
            ),
            ("[[faults]]\nat = '1s'\ntarget = 'somebody'\ndo = { kill = { down_for = '1s' } }", "somebody"),
            (
                "[[faults]]\nat = '1s'\ntarget = 'participant-0'\ndo = { fill_disk = { within = '9s' } }",
                "small_disk",
            ),
            (
                "[[faults]]\nat = '1s'\ntarget = 'coordinator-0'\ndo = { partition = { lasts = '1s', how = 'hold' } }",
                "participants",
            ),
            (
                "[[faults]]\nat = '1s'\ntarget = 'its owner'\ndo = { failpoints = { points = ['nowhere'] } }",
                "nowhere",
            ),
            ("[cluster]\nreplicas = 4", "take 3 or 5"),
            (
                "[[faults]]\nat = '1s'\ntarget = 'a leader'\ndo = { kill = { down_for = '1s' } }",
                "cluster.replicas",
            ),
            (
                "[cluster]\nreplicas = 3\n[[faults]]\nat = '1s'\ntarget = 'a leader of participant-7'\ndo = { kill = { down_for = '1s' } }",
                "participant-7",
            ),
            (
                "[cluster]\nreplicas = 3\n[[faults]]\nat = '1s'\ntarget = 'a follower'\ndo = { rolling_restart = { within = '1s' } }",
                "everything",
            ),
            (
                "[[faults]]\nat = '1s'\ntarget = 'participant-0'\ndo = { wipe = { down_for = '1s' } }",
                "cluster.replicas",
            ),
        ] {
            let message = refusal(rest);
            assert!(message.contains(why), "{message}");
        }
    }

    #[test]
    fn a_name_that_is_none_says_where_to_look() {
        assert!(Scenario::load("no-such").unwrap_err().to_string().contains("escrow chaos list"));
        assert!(Scenario::load("no/such.toml").unwrap_err().to_string().contains("no/such.toml"));
    }
}
