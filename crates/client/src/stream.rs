//! Many transfers over one stream: one message each, answered in any order, matched by transaction_id.
//!
//! Nothing is retried here: when the stream ends, what was sent and not answered is unknown, and the caller sends those
//! transfers again with the same ids on a new stream (see [`ClientError::Closed`]).

use escrow_proto::v1::{TransferRequest, TransferResponse};
use escrow_types::TransactionId;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::call::stream_error;
use crate::client::Client;
use crate::convert;
use crate::error::ClientError;
use crate::id::new_transaction_id;
use crate::model::{Outcome, Transfer};

impl Client {
    /// Opens a stream of transfers to one coordinator. With several coordinators, send each transfer on the stream of its
    /// own: [`Client::partition_of_key`].
    pub async fn transfer_stream(
        &self,
        partition: usize,
    ) -> Result<(TransferSender, TransferReceiver), ClientError> {
        let (queue, requests) = mpsc::channel(self.options.stream_queue);
        let mut service = self.transfers(self.pool.leader(partition));
        let opening = service.transfer_stream(ReceiverStream::new(requests));
        let answers = opened(self, partition, opening).await?;
        Ok((TransferSender { queue }, TransferReceiver { answers }))
    }
}

/// Waits for a stream to open; nothing was sent on it yet, so a failure has no effect.
pub(crate) async fn opened<T>(
    client: &Client,
    partition: usize,
    opening: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, ClientError> {
    let unavailable = |message: String| ClientError::Unavailable {
        endpoint: client.endpoint(partition).to_owned(),
        message,
    };
    match timeout(client.options.attempt_timeout, opening).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(match stream_error(&status) {
            ClientError::Closed(message) => unavailable(message),
            refused => refused,
        }),
        Err(_) => Err(unavailable("the stream did not open in time".to_owned())),
    }
}

/// The sending half. Dropping it tells the server that no more will come; answers still arrive.
#[derive(Debug, Clone)]
pub struct TransferSender {
    queue: mpsc::Sender<TransferRequest>,
}

impl TransferSender {
    /// Sends a transfer, waiting while the connection is full, and gives the id it has (made here when it had none).
    ///
    /// `Ok` says only that it is under way. `Err` is [`ClientError::Closed`]: this one was not sent.
    pub async fn send(&self, transfer: &Transfer) -> Result<TransactionId, ClientError> {
        let transaction_id = transfer.transaction_id.clone().unwrap_or_else(new_transaction_id);
        self.send_message(convert::transfer_request(transfer, &transaction_id)).await?;
        Ok(transaction_id)
    }

    /// Sends a message of the wire as it is, without the checks of the types.
    pub async fn send_message(&self, message: TransferRequest) -> Result<(), ClientError> {
        self.queue
            .send(message)
            .await
            .map_err(|_| ClientError::Closed("the receiving half or the server ended it".to_owned()))
    }
}

/// The receiving half. Dropping it ends the stream.
#[derive(Debug)]
pub struct TransferReceiver {
    answers: Streaming<TransferResponse>,
}

impl TransferReceiver {
    /// The next answer, in whatever order they come; `None` when the server has answered everything and ended.
    pub async fn next(&mut self) -> Result<Option<Outcome>, ClientError> {
        let Some(answer) = self.next_message().await? else { return Ok(None) };
        convert::outcome("", answer.transaction_id, &answer.xid, answer.state, answer.reason).map(Some)
    }

    /// The next answer as it came over the wire.
    pub async fn next_message(&mut self) -> Result<Option<TransferResponse>, ClientError> {
        self.answers.message().await.map_err(|status| stream_error(&status))
    }
}
