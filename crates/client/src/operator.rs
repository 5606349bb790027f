//! `OperatorService`: looking at transactions, acting on them, the state of the servers.
//!
//! Reads are retried. Verbs leave an audit record each, so they are repeated only when the last attempt certainly did
//! nothing; see [`ClientError::OutcomeUnknown`].

use escrow_proto::v1 as proto;
use tokio::time::timeout;
use tonic::Streaming;

use crate::call::{Subject, stream_error};
use crate::client::Client;
use crate::convert::required;
use crate::error::ClientError;

const A_TRANSACTION: &str = "a transaction";

/// One verb of an operator on one transaction: same shape, other messages.
macro_rules! verb {
    ($self:ident, $id:ident, $method:ident, $request:expr) => {{
        let partition = $self.partition_of($id);
        let response = $self
            .call(Subject::Verb($id), partition, |route| {
                let (mut service, request) = ($self.operator(route), $request);
                async move { service.$method(request).await }
            })
            .await?;
        required(response.transaction, A_TRANSACTION)
    }};
}

impl Client {
    /// One page of the transactions of one coordinator that match, oldest first, and the cursor of the next page.
    pub async fn list_transactions(
        &self,
        partition: usize,
        filter: &proto::TransactionFilter,
        page_size: u32,
        cursor: &str,
    ) -> Result<(Vec<proto::Transaction>, String), ClientError> {
        let response = self
            .call(Subject::Idempotent, partition, |route| {
                let mut service = self.operator(route);
                let request = proto::ListTransactionsRequest {
                    filter: Some(filter.clone()),
                    page_size,
                    cursor: cursor.to_owned(),
                };
                async move { service.list_transactions(request).await }
            })
            .await?;
        Ok((response.transactions, response.next_cursor))
    }

    /// How many transactions of one coordinator match, and the age of the oldest in milliseconds.
    pub async fn count_transactions(
        &self,
        partition: usize,
        filter: &proto::TransactionFilter,
    ) -> Result<(u64, u64), ClientError> {
        let response = self
            .call(Subject::Idempotent, partition, |route| {
                let mut service = self.operator(route);
                let request = proto::CountTransactionsRequest { filter: Some(filter.clone()) };
                async move { service.count_transactions(request).await }
            })
            .await?;
        Ok((response.count, response.oldest_age_ms))
    }

    /// One transaction, by its id or xid, with branches, attempts and timeline.
    pub async fn describe_transaction(&self, id: &str) -> Result<proto::Transaction, ClientError> {
        let partition = self.partition_of(id);
        let response = self
            .call(Subject::Idempotent, partition, |route| {
                let mut service = self.operator(route);
                let request = proto::DescribeTransactionRequest { id: id.to_owned() };
                async move { service.describe_transaction(request).await }
            })
            .await?;
        required(response.transaction, A_TRANSACTION)
    }

    /// Transactions of one coordinator as they change: first what matches now, then every change.
    pub async fn watch_transactions(
        &self,
        partition: usize,
        filter: &proto::TransactionFilter,
    ) -> Result<Watch, ClientError> {
        let stream = self
            .call(Subject::Idempotent, partition, |route| {
                let mut service = self.operator(route);
                let request = proto::WatchTransactionsRequest { filter: Some(filter.clone()) };
                async move { service.watch_transactions(request).await }
            })
            .await?;
        Ok(Watch { stream })
    }

    /// Tries the unanswered branches of a transaction again now.
    pub async fn retry_transaction(&self, id: &str) -> Result<proto::Transaction, ClientError> {
        verb!(self, id, retry_transaction, proto::RetryTransactionRequest { id: id.to_owned() })
    }

    /// Cancels a transaction that is undecided. `reason` is for the audit record.
    pub async fn cancel_transaction(
        &self,
        id: &str,
        reason: &str,
    ) -> Result<proto::Transaction, ClientError> {
        verb!(
            self,
            id,
            cancel_transaction,
            proto::CancelTransactionRequest { id: id.to_owned(), reason: reason.to_owned() }
        )
    }

    /// Sets a decision, or overrides one after a contradiction. Leaves the FORCED mark for ever.
    pub async fn force_transaction(
        &self,
        id: &str,
        decision: proto::Decision,
        reason: &str,
    ) -> Result<proto::Transaction, ClientError> {
        verb!(
            self,
            id,
            force_transaction,
            proto::ForceTransactionRequest {
                id: id.to_owned(),
                decision: decision.into(),
                reason: reason.to_owned()
            }
        )
    }

    /// Ends a decided transaction although branches have not acknowledged. Leaves the MIXED mark for ever.
    pub async fn give_up_transaction(
        &self,
        id: &str,
        reason: &str,
    ) -> Result<proto::Transaction, ClientError> {
        verb!(
            self,
            id,
            give_up_transaction,
            proto::GiveUpTransactionRequest { id: id.to_owned(), reason: reason.to_owned() }
        )
    }

    /// Makes one coordinator refuse new transactions, or take them again. Gives what holds then.
    pub async fn set_paused(
        &self,
        partition: usize,
        paused: bool,
        reason: &str,
    ) -> Result<bool, ClientError> {
        let response = self
            .call(Subject::Idempotent, partition, |route| {
                let mut service = self.operator(route);
                let request = proto::SetPausedRequest { paused, reason: reason.to_owned() };
                async move { service.set_paused(request).await }
            })
            .await?;
        Ok(response.paused)
    }

    /// The state of one coordinator and of the participants as it sees them.
    pub async fn status(&self, partition: usize) -> Result<proto::GetStatusResponse, ClientError> {
        self.call(Subject::Idempotent, partition, |route| {
            let mut service = self.operator(route);
            async move { service.get_status(proto::GetStatusRequest {}).await }
        })
        .await
    }

    /// Has one coordinator check that checkpoint + log, and the whole log, give its live state.
    pub async fn verify(&self, partition: usize) -> Result<Verification, ClientError> {
        let stream = self
            .call(Subject::Idempotent, partition, |route| {
                let mut service = self.operator(route);
                async move { service.verify(proto::VerifyRequest {}).await }
            })
            .await?;
        Ok(Verification {
            stream,
            silence_max: self.options.deadline,
            endpoint: self.endpoint(partition).to_owned(),
        })
    }
}

/// Transactions as they change.
#[derive(Debug)]
pub struct Watch {
    stream: Streaming<proto::WatchTransactionsResponse>,
}

impl Watch {
    /// The next change; waits as long as there is none. `None` when the server ended the stream.
    pub async fn next(&mut self) -> Result<Option<proto::Transaction>, ClientError> {
        loop {
            match self.stream.message().await.map_err(|status| stream_error(&status))? {
                Some(response) if response.transaction.is_none() => {}
                Some(response) => return Ok(response.transaction),
                None => return Ok(None),
            }
        }
    }
}

/// The lines of a verification, as they come.
#[derive(Debug)]
pub struct Verification {
    pub(crate) stream: Streaming<proto::VerifyResponse>,
    pub(crate) silence_max: std::time::Duration,
    pub(crate) endpoint: String,
}

impl Verification {
    /// The next line; `None` after the last. A server that says nothing for the client's whole deadline has failed.
    pub async fn next(&mut self) -> Result<Option<proto::VerifyResponse>, ClientError> {
        match timeout(self.silence_max, self.stream.message()).await {
            Ok(line) => line.map_err(|status| stream_error(&status)),
            Err(_) => Err(ClientError::Unanswered {
                endpoint: self.endpoint.clone(),
                message: "the verification made no progress in time".to_owned(),
            }),
        }
    }
}
