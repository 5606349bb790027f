//! `TransactionService`: many legs, and the two-step form.

use std::time::Duration;

use escrow_proto::v1 as proto;
use escrow_types::{Amount, TransactionId};

use crate::call::Subject;
use crate::client::Client;
use crate::convert;
use crate::error::ClientError;
use crate::id::new_transaction_id;
use crate::model::{Leg, Outcome, Reservation, Wait};

impl Client {
    /// Runs a transaction of 2-64 legs to its end. Debits and credits must be equal in each currency. Retried and
    /// answered as [`Client::transfer`] is.
    pub async fn execute(
        &self,
        transaction_id: Option<&TransactionId>,
        legs: &[Leg],
        wait: Wait,
        timeout: Option<Duration>,
    ) -> Result<Outcome, ClientError> {
        let transaction_id = transaction_id.cloned().unwrap_or_else(new_transaction_id);
        let id = transaction_id.as_str();
        let partition = self.partition_of(id);
        let request = proto::ExecuteRequest {
            transaction_id: id.to_owned(),
            legs: legs.iter().map(convert::leg).collect(),
            wait: convert::wait(wait),
            timeout_ms: convert::timeout_ms(timeout),
        };
        let response = self
            .call_within(id, partition, timeout, |route| {
                let (mut service, request) = (self.transactions(route), request.clone());
                async move { service.execute(request).await }
            })
            .await?;
        convert::outcome(id, response.transaction_id, &response.xid, response.state, response.reason)
    }

    /// Reserves all legs; the caller confirms or cancels within `hold` (`None`: the server's default), or it is canceled.
    pub async fn reserve(
        &self,
        transaction_id: Option<&TransactionId>,
        legs: &[Leg],
        hold: Option<Duration>,
    ) -> Result<Reservation, ClientError> {
        let transaction_id = transaction_id.cloned().unwrap_or_else(new_transaction_id);
        let id = transaction_id.as_str();
        let partition = self.partition_of(id);
        let request = proto::ReserveRequest {
            transaction_id: id.to_owned(),
            legs: legs.iter().map(convert::leg).collect(),
            hold_ms: hold.map_or(0, |hold| u64::try_from(hold.as_millis()).unwrap_or(u64::MAX).max(1)),
        };
        let response = self
            .call(Subject::Transaction(id), partition, |route| {
                let (mut service, request) = (self.transactions(route), request.clone());
                async move { service.reserve(request).await }
            })
            .await?;
        let outcome =
            convert::outcome(id, response.transaction_id, &response.xid, response.state, response.reason)?;
        Ok(Reservation { outcome, expires_at_ms: response.expires_at_ms })
    }

    /// Posts a reserved transaction, by its id or xid: all of it when `amounts` is empty, else one amount for each leg in
    /// the order of [`Client::reserve`]. Doing it twice is answered twice with the same.
    pub async fn confirm(&self, id: &str, amounts: &[Amount], wait: Wait) -> Result<Outcome, ClientError> {
        let partition = self.partition_of(id);
        let response = self
            .call(Subject::Transaction(id), partition, |route| {
                let mut service = self.transactions(route);
                let request = proto::ConfirmRequest {
                    transaction_id: id.to_owned(),
                    amounts: amounts.to_vec(),
                    wait: convert::wait(wait),
                };
                async move { service.confirm(request).await }
            })
            .await?;
        convert::outcome(id, response.transaction_id, &response.xid, response.state, response.reason)
    }

    /// Releases a reserved transaction, by its id or xid. Doing it twice is answered twice with the same.
    pub async fn cancel(&self, id: &str, wait: Wait) -> Result<Outcome, ClientError> {
        let partition = self.partition_of(id);
        let response = self
            .call(Subject::Transaction(id), partition, |route| {
                let mut service = self.transactions(route);
                let request =
                    proto::CancelRequest { transaction_id: id.to_owned(), wait: convert::wait(wait) };
                async move { service.cancel(request).await }
            })
            .await?;
        convert::outcome(id, response.transaction_id, &response.xid, response.state, response.reason)
    }
}
