//! `ReplicaService`: how the replicas of a partition or shard stand. All of them are asked, not only the one that leads.

use escrow_proto::v1 as proto;
use tokio::time::timeout;

use crate::call::stream_error;
use crate::channel::{Pool, Route};
use crate::client::Client;
use crate::error::ClientError;
use crate::options::Options;
use crate::shard::ShardClient;

type Service = proto::replica_service_client::ReplicaServiceClient<escrow_grpc::Channel>;

/// What one process said of the replicas that it holds.
#[derive(Debug)]
pub struct Told {
    /// Where it listens.
    pub endpoint: String,
    /// One for each group; none if it does not know of replicas.
    pub replicas: Result<Vec<proto::Replica>, ClientError>,
}

/// Asks all processes of a group at once, each once.
pub(crate) async fn ask_all(pool: &Pool, options: &Options, partition: usize) -> Vec<Told> {
    let within = options.replica_timeout;
    let asking: Vec<_> = (0..pool.replicas(partition).endpoints().len())
        .map(|replica| {
            let (pool, route) = (pool.clone(), Route { partition, replica });
            tokio::spawn(async move { timeout(within, ask(&pool, route)).await })
        })
        .collect();
    let mut told = Vec::with_capacity(asking.len());
    for (asked, endpoint) in asking.into_iter().zip(pool.replicas(partition).endpoints()) {
        let silent = || ClientError::Closed("it does not answer".to_owned());
        let replicas =
            asked.await.map_or_else(|_| Err(silent()), |answer| answer.unwrap_or_else(|_| Err(silent())));
        told.push(Told { endpoint: endpoint.clone(), replicas });
    }
    told
}

async fn ask(pool: &Pool, route: Route) -> Result<Vec<proto::Replica>, ClientError> {
    match Service::new(pool.channel(route)).get_replicas(proto::GetReplicasRequest {}).await {
        Ok(answer) => Ok(answer.into_inner().replicas),
        Err(status) if status.code() == tonic::Code::Unimplemented => Ok(Vec::new()),
        Err(status) => Err(stream_error(&status)),
    }
}

impl Client {
    /// How the replicas of a partition stand.
    pub async fn replicas(&self, partition: usize) -> Vec<Told> {
        ask_all(&self.pool, &self.options, partition).await
    }
}

impl ShardClient {
    /// How the replicas of the shards stand that the process holds.
    pub async fn replicas(&self) -> Vec<Told> {
        ask_all(&self.pool, &self.options, 0).await
    }
}
