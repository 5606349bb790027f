//! Groups of replicas as their processes tell of them, and as people name them: `shard-1`, `coordinator-0`.
//!
//! **Invariant:** asks only; changes nothing.

use std::time::Duration;

use escrow_proto::v1::replica::Role;
use escrow_proto::v1::replica_service_client::ReplicaServiceClient;
use escrow_proto::v1::{self, group_name};
use escrow_replica::GroupId;
use escrow_types::{ParticipantId, Partition};
use tokio::time::timeout;
use tonic::Code;
use tonic::transport::Endpoint;

/// Asks the process at `endpoint` how its replicas stand; none if it has no replicas. What is wrong, for people, if it does not
/// answer within that time.
pub async fn ask(endpoint: &str, within: Duration) -> Result<Vec<v1::Replica>, String> {
    timeout(within, look(endpoint)).await.unwrap_or_else(|_| Err("no answer".to_owned()))
}

async fn look(endpoint: &str) -> Result<Vec<v1::Replica>, String> {
    let endpoint = Endpoint::from_shared(endpoint.to_owned()).map_err(|error| error.to_string())?;
    let channel = endpoint.connect().await.map_err(|_| "it does not listen".to_owned())?;
    let answer = ReplicaServiceClient::new(channel).get_replicas(v1::GetReplicasRequest {}).await;
    match answer {
        Ok(answer) => Ok(answer.into_inner().replicas),
        Err(status) if status.code() == Code::Unimplemented => Ok(Vec::new()),
        Err(status) => Err(format!("{}: {}", status.code(), status.message())),
    }
}

/// The name of a group on the wire.
pub fn name_of(group: GroupId) -> v1::GroupName {
    let (kind, number) = match group {
        GroupId::Coordinator(partition) => (group_name::Kind::Coordinator, partition.0),
        GroupId::Shard(shard) => (group_name::Kind::Shard, shard.0),
    };
    v1::GroupName { kind: kind.into(), number: number.into() }
}

/// The group of a replica; `None` if it is none that this version knows.
pub fn group_of(replica: &v1::Replica) -> Option<GroupId> {
    let name = replica.group?;
    let number = u16::try_from(name.number).ok()?;
    match name.kind() {
        group_name::Kind::Coordinator => Some(GroupId::Coordinator(Partition(number))),
        group_name::Kind::Shard => Some(GroupId::Shard(ParticipantId(number))),
        group_name::Kind::Unspecified => None,
    }
}

/// Reads a group as people write it, and as it is printed.
pub fn parse_group(text: &str) -> Result<GroupId, String> {
    let wrong = || format!("'{text}' is not a group: expected such as shard-0 or coordinator-0");
    let (kind, number) = text.split_once('-').ok_or_else(wrong)?;
    let number = number.parse().map_err(|_| wrong())?;
    match kind {
        "coordinator" => Ok(GroupId::Coordinator(Partition(number))),
        "shard" => Ok(GroupId::Shard(ParticipantId(number))),
        _ => Err(wrong()),
    }
}

/// Of the replicas of one group, the one that leads: that of the newest term, since an old leader may not know yet that it is none.
pub fn leader<'a, K: Copy>(replicas: impl IntoIterator<Item = (K, &'a v1::Replica)>) -> Option<K> {
    let leading = replicas.into_iter().filter(|(_, replica)| replica.role() == Role::Leader);
    leading.max_by_key(|(_, replica)| replica.term).map(|(key, _)| key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_written_as_they_are_read() {
        for text in ["shard-0", "shard-4095", "coordinator-9"] {
            let group = parse_group(text).unwrap();
            assert_eq!(group.to_string(), text);
            let replica = v1::Replica { group: Some(name_of(group)), ..v1::Replica::default() };
            assert_eq!(group_of(&replica), Some(group));
        }
        for wrong in ["", "shard", "shard-", "shard-x", "shard-65536", "participant-0", "0"] {
            assert!(parse_group(wrong).unwrap_err().contains("such as shard-0"), "{wrong}");
        }
    }

    #[test]
    fn a_group_that_this_version_does_not_know_is_none() {
        for name in [
            None,
            Some(v1::GroupName { kind: 0, number: 1 }),
            Some(v1::GroupName { kind: 7, number: 1 }),
            Some(v1::GroupName { kind: 1, number: 70_000 }),
        ] {
            assert_eq!(group_of(&v1::Replica { group: name, ..v1::Replica::default() }), None, "{name:?}");
        }
    }

    #[test]
    fn the_leader_of_the_newest_term_leads() {
        let replica = |role: Role, term| v1::Replica { role: role.into(), term, ..v1::Replica::default() };
        let all = [replica(Role::Leader, 3), replica(Role::Follower, 5), replica(Role::Leader, 4)];
        assert_eq!(leader(all.iter().enumerate()), Some(2));
        assert_eq!(leader(all[1..2].iter().enumerate()), None);
    }
}
