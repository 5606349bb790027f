//! `TransferService`, unary: one transfer, and what became of one.

use escrow_proto::v1 as proto;
use tonic::Response;
use tonic::codegen::http::uri::PathAndQuery;

use crate::call::Subject;
use crate::client::Client;
use crate::convert;
use crate::error::ClientError;
use crate::id::new_transaction_id;
use crate::model::{Outcome, Record, Transfer};

/// The method of which there are many calls: it is called without the layers of tonic (docs/decisions/0023).
const TRANSFER: &str = "/escrow.v1.TransferService/Transfer";

impl Client {
    /// Moves money from one account to another.
    ///
    /// Retried with the same transaction_id while that may help. `Ok` is an outcome: confirmed, canceled for a reason, or
    /// (rarely) still pending. Errors: see [`ClientError`]; after [`ClientError::OutcomeUnknown`] ask
    /// [`Client::get_transaction`], or call again with the id that the error names.
    pub async fn transfer(&self, transfer: &Transfer) -> Result<Outcome, ClientError> {
        let transaction_id = transfer.transaction_id.clone().unwrap_or_else(new_transaction_id);
        let id = transaction_id.as_str();
        let partition = self.partition_of_key(transaction_id.key());
        let request = convert::transfer_request(transfer, &transaction_id);
        let response = self
            .call_within(id, partition, transfer.timeout, |route| {
                let (channel, request) = (self.pool.channel(route), &request);
                let bytes_max = self.options.message_bytes_max;
                async move {
                    let path = PathAndQuery::from_static(TRANSFER);
                    channel.unary(path, request, bytes_max).await.map(Response::new)
                }
            })
            .await?;
        let response: proto::TransferResponse = response;
        let outcome =
            convert::outcome(id, response.transaction_id, &response.xid, response.state, response.reason)?;
        Ok(Outcome { position: response.position, ..outcome })
    }

    /// What became of a transaction, by its id or xid. A transaction that nobody remembers is [`crate::State::NotFound`],
    /// not an error. Changes nothing.
    pub async fn get_transaction(&self, id: &str) -> Result<Record, ClientError> {
        let partition = self.partition_of(id);
        let response = self
            .call(Subject::Idempotent, partition, |route| {
                let mut service = self.transfers(route);
                let request = proto::GetTransactionRequest { id: id.to_owned() };
                async move { service.get_transaction(request).await }
            })
            .await?;
        let outcome =
            convert::outcome(id, response.transaction_id, &response.xid, response.state, response.reason)?;
        Ok(Record { outcome, completed: response.completed })
    }
}
