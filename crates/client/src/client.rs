//! The client itself: connections, options, and which coordinator is asked.

use std::time::Duration;

use escrow_grpc::Channel;
use escrow_proto::v1 as proto;
use escrow_types::{TransactionId, TransactionKey, Xid};

use crate::call::{Budget, Subject, Whom, drive};
use crate::channel::{Pool, Route};
use crate::error::ClientError;
use crate::options::Options;

type Transfers = proto::transfer_service_client::TransferServiceClient<Channel>;
type Transactions = proto::transaction_service_client::TransactionServiceClient<Channel>;
type Accounts = proto::account_service_client::AccountServiceClient<Channel>;
type Operator = proto::operator_service_client::OperatorServiceClient<Channel>;

/// A client of one cluster. Cheap to clone; all clones share the connections.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) pool: Pool,
    pub(crate) options: Options,
}

impl Client {
    /// A client of the coordinators at `endpoints`, in the order of their partitions; one that has replicas names them all, as in
    /// `http://127.0.0.1:7400+http://127.0.0.1:7401`. Connects when first used, so it fails only for endpoints that are none. Must be called within a tokio runtime.
    pub fn connect<E: Into<String>>(
        endpoints: impl IntoIterator<Item = E>,
        options: Options,
    ) -> Result<Self, ClientError> {
        Ok(Self { pool: Pool::new(endpoints, &options)?, options })
    }

    /// How many coordinators this client knows.
    pub fn partitions(&self) -> usize {
        self.pool.len()
    }

    /// The endpoint of a coordinator, with all its replicas.
    pub fn endpoint(&self, partition: usize) -> &str {
        self.pool.endpoint(partition)
    }

    /// The coordinator of a transaction: that of its xid, or the one that its id's key names. Every call for one id goes
    /// to the same coordinator, or the same id could be executed twice.
    pub fn partition_of(&self, id: &str) -> usize {
        if self.partitions() == 1 {
            return 0;
        }
        if let Ok(xid) = id.parse::<Xid>() {
            return usize::from(xid.partition.0) % self.partitions();
        }
        TransactionId::new(id).map_or(0, |id| self.partition_of_key(id.key()))
    }

    /// The coordinator of a transaction, by its key.
    pub fn partition_of_key(&self, key: TransactionKey) -> usize {
        let (high, low) = key.halves();
        let mixed = (high ^ low.rotate_left(32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (mixed >> 32) as usize % self.partitions()
    }

    pub(crate) fn transfers(&self, route: Route) -> Transfers {
        let limit = self.options.message_bytes_max;
        Transfers::new(self.pool.channel(route))
            .max_decoding_message_size(limit)
            .max_encoding_message_size(limit)
    }

    pub(crate) fn transactions(&self, route: Route) -> Transactions {
        let limit = self.options.message_bytes_max;
        Transactions::new(self.pool.channel(route))
            .max_decoding_message_size(limit)
            .max_encoding_message_size(limit)
    }

    pub(crate) fn accounts(&self, route: Route) -> Accounts {
        let limit = self.options.message_bytes_max;
        Accounts::new(self.pool.channel(route))
            .max_decoding_message_size(limit)
            .max_encoding_message_size(limit)
    }

    pub(crate) fn operator(&self, route: Route) -> Operator {
        let limit = self.options.message_bytes_max;
        Operator::new(self.pool.channel(route))
            .max_decoding_message_size(limit)
            .max_encoding_message_size(limit)
    }

    /// Makes a call that always goes to one partition, within the client's own limits.
    pub(crate) async fn call<T, F>(
        &self,
        subject: Subject<'_>,
        partition: usize,
        attempt: impl FnMut(Route) -> F,
    ) -> Result<T, ClientError>
    where
        F: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        drive(subject, Budget::of(&self.options), &self.pool, Whom::Partition(partition), attempt).await
    }

    /// As [`Self::call`] about a transaction, within the limits of its own timeout if it has one.
    pub(crate) async fn call_within<T, F>(
        &self,
        transaction_id: &str,
        partition: usize,
        timeout: Option<Duration>,
        attempt: impl FnMut(Route) -> F,
    ) -> Result<T, ClientError>
    where
        F: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        let budget = Budget::for_timeout(&self.options, timeout);
        let subject = Subject::Transaction(transaction_id);
        drive(subject, budget, &self.pool, Whom::Partition(partition), attempt).await
    }

    /// Makes a call that any coordinator can answer: another one after each pause.
    pub(crate) async fn call_any<T, F>(&self, attempt: impl FnMut(Route) -> F) -> Result<T, ClientError>
    where
        F: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        drive(Subject::Idempotent, Budget::of(&self.options), &self.pool, Whom::Anybody, attempt).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::new_transaction_id;

    #[tokio::test]
    async fn a_transaction_has_one_coordinator_by_any_of_its_names() {
        let endpoints = ["http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:3"];
        let client = Client::connect(endpoints, Options::default()).unwrap();
        assert_eq!(client.partition_of("2-1-77"), 2);
        let mut counts = [0u32; 3];
        for _ in 0..3_000 {
            let id = new_transaction_id();
            let partition = client.partition_of(id.as_str());
            assert_eq!(partition, client.partition_of_key(id.key()));
            counts[partition] += 1;
        }
        assert!(counts.iter().all(|&count| count > 800), "spread evenly: {counts:?}");
    }
}
