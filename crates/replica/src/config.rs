//! What a server process is told of replication.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::ReplicaError;
use crate::group::{BYTES_KEPT, Times};
use crate::types::{Member, MemberId};

/// The processes that hold the same groups as this one. All groups of a process have the same members at first; later the group's own
/// log says who they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replication {
    /// The number of this process among them, from 1.
    pub number: u32,
    /// Where they listen, by their numbers, this one included: `http://10.0.0.3:7410`.
    pub members: BTreeMap<u32, String>,
    /// Whether the groups are new, and these are their first members. Only for the first start of a cluster: an empty data directory
    /// without it is a disk that was lost, or a member that is to be added, and gets everything from the others.
    #[serde(default)]
    pub found: bool,
    /// How often a leader says that it is there, in milliseconds.
    #[serde(default = "default_heartbeat_ms")]
    pub heartbeat_ms: u64,
    /// After how long without a leader a follower stands for election, in milliseconds; see [`Times`].
    #[serde(default = "default_election_ms")]
    pub election_ms: u64,
    /// Bytes of entries that are kept although a checkpoint includes them; see [`BYTES_KEPT`].
    #[serde(default = "default_bytes_kept")]
    pub bytes_kept: usize,
}

fn default_bytes_kept() -> usize {
    BYTES_KEPT
}

fn default_heartbeat_ms() -> u64 {
    Times::default().heartbeat_ms
}

fn default_election_ms() -> u64 {
    Times::default().election_ms
}

impl Replication {
    /// With the usual times.
    pub fn new(number: u32, members: BTreeMap<u32, String>, found: bool) -> Self {
        let Times { heartbeat_ms, election_ms } = Times::default();
        Self { number, members, found, heartbeat_ms, election_ms, bytes_kept: BYTES_KEPT }
    }

    /// Checks everything that can be checked without the others.
    pub fn validated(self) -> Result<Self, ReplicaError> {
        let wrong = |why: String| Err(ReplicaError::Config(why));
        if !self.members.contains_key(&self.number) {
            return wrong(format!("number {} is not among the members", self.number));
        }
        if self.members.contains_key(&0) {
            return wrong("members are numbered from 1".into());
        }
        for (number, endpoint) in &self.members {
            if let Err(error) = escrow_grpc::Endpoint::parse(endpoint) {
                return wrong(format!("of member {number} {error}"));
            }
            if self.members.iter().any(|(other, same)| other != number && same == endpoint) {
                return wrong(format!("'{endpoint}' is given for two members"));
            }
        }
        if self.heartbeat_ms == 0 || self.election_ms < self.heartbeat_ms * 3 {
            return wrong("election_ms must be at least three times heartbeat_ms, and that above 0".into());
        }
        Ok(self)
    }

    /// The times.
    pub fn times(&self) -> Times {
        Times { heartbeat_ms: self.heartbeat_ms, election_ms: self.election_ms }
    }

    /// This member, in a life of its own.
    pub fn me(&self, life: u32) -> Member {
        let endpoint = self.members.get(&self.number).cloned().unwrap_or_default();
        Member { id: MemberId::another(self.number, life), endpoint }
    }

    /// The members of new groups, this one as it lives.
    pub fn members(&self, life: u32) -> Vec<Member> {
        let life_of = |number| if number == self.number { life } else { 0 };
        let member = |(&number, endpoint): (&u32, &String)| Member {
            id: MemberId::another(number, life_of(number)),
            endpoint: endpoint.clone(),
        };
        self.members.iter().map(member).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(number: u32, members: &[(u32, &str)]) -> Result<Replication, String> {
        let members = members.iter().map(|&(number, endpoint)| (number, endpoint.to_owned())).collect();
        Replication::new(number, members, true).validated().map_err(|error| error.to_string())
    }

    #[test]
    fn what_cannot_work_is_named() {
        let good = [(1, "http://a:1"), (2, "http://b:1")];
        assert_eq!(of(2, &good).unwrap().me(7).id, MemberId::another(2, 7));
        assert!(of(3, &good).unwrap_err().contains("number 3 is not among"));
        assert!(of(1, &[(1, "a:1")]).unwrap_err().contains("is not an endpoint"));
        assert!(of(1, &[(1, "http://a:1"), (2, "http://a:1")]).unwrap_err().contains("two members"));
        assert!(of(0, &[(0, "http://a:1")]).unwrap_err().contains("from 1"));
        let hasty = Replication { heartbeat_ms: 100, election_ms: 200, ..of(1, &good).unwrap() };
        assert!(hasty.validated().unwrap_err().to_string().contains("election_ms"));
    }
}
