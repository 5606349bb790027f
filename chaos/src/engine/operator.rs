//! What the servers are asked while a run goes on: as an operator would, and never patiently.

use std::time::Duration;

use escrow_client::report::{Phase, TransactionFilter};
use escrow_client::{Client, ClientError, Options, ShardClient};
use escrow_cluster::Cluster;

/// A server that does not answer by then is not asked again in this round.
const WITHIN: Duration = Duration::from_millis(500);

/// Asks coordinators and participants.
#[derive(Debug)]
pub(super) struct Operator {
    client: Client,
    shards: Vec<ShardClient>,
}

/// All phases in which a transaction waits for servers. One that is reserved waits for its caller.
const WAITING_FOR_SERVERS: [Phase; 4] =
    [Phase::Trying, Phase::Confirming, Phase::Canceling, Phase::NeedsAttention];

impl Operator {
    pub(super) fn new(cluster: &Cluster) -> Result<Self, ClientError> {
        let options = Options::once(WITHIN);
        let client = Client::connect(cluster.coordinator_endpoints(), options.clone())?;
        let endpoints = cluster.participant_endpoints().into_iter();
        let shards = endpoints.map(|endpoint| ShardClient::connect(endpoint, options.clone()));
        let shards = shards.collect::<Result<_, _>>()?;
        Ok(Self { client, shards })
    }

    /// How many transactions match, over all coordinators. `None` if one does not answer.
    async fn count(&self, filter: &TransactionFilter) -> Option<u64> {
        let mut count = 0;
        for partition in 0..self.client.partitions() {
            count += self.client.count_transactions(partition, filter).await.ok()?.0;
        }
        Some(count)
    }

    /// Transactions that have begun and not ended.
    pub(super) async fn unfinished(&self) -> Option<u64> {
        self.count(&TransactionFilter::default()).await
    }

    /// Of them, those in doubt; on one participant, if that is named.
    pub(super) async fn in_doubt(&self, participant: &str) -> Option<u64> {
        let participant = participant.to_owned();
        self.count(&TransactionFilter { in_doubt: true, participant, ..TransactionFilter::default() }).await
    }

    /// Unfinished transactions that wait for servers and began so long ago; with a branch on one participant, if that is named.
    pub(super) async fn waiting(&self, participant: &str, older_than: Duration) -> Option<u64> {
        self.of_phases(&WAITING_FOR_SERVERS, participant, older_than).await
    }

    /// Unfinished transactions that wait for their callers.
    pub(super) async fn reserved(&self) -> Option<u64> {
        self.of_phases(&[Phase::Reserved], "", Duration::ZERO).await
    }

    async fn of_phases(&self, phases: &[Phase], participant: &str, older_than: Duration) -> Option<u64> {
        let filter = TransactionFilter {
            phases: phases.iter().map(|phase| i32::from(*phase)).collect(),
            participant: participant.to_owned(),
            older_than_ms: older_than.as_millis() as u64,
            ..TransactionFilter::default()
        };
        self.count(&filter).await
    }

    /// What the coordinators found unfinished when they started.
    pub(super) async fn unfinished_at_start(&self) -> Option<u64> {
        let mut count = 0;
        for partition in 0..self.client.partitions() {
            count += self.client.status(partition).await.ok()?.coordinator?.unfinished_at_start;
        }
        Some(count)
    }

    /// How many entries a shard has applied.
    pub(super) async fn applied(&self, shard: u16) -> Option<u64> {
        let totals = self.shards[usize::from(shard)].totals(shard.into()).await.ok()?;
        Some(totals.applied_index)
    }

    /// Reservations on all shards. `None` if one does not answer.
    pub(super) async fn reservations(&self) -> Option<u64> {
        let mut count = 0;
        for shard in &self.shards {
            let status = shard.status().await.ok()?;
            count += status.shards.iter().map(|shard| shard.reservations).sum::<u64>();
        }
        Some(count)
    }
}
