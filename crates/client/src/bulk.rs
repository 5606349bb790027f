//! Very many transfers over one stream: columns out, columns back, matched by tag.
//!
//! A [`Batch`] is a struct of arrays that is filled row by row and sent as one message; nothing is allocated for a row.
//! Nothing is retried here: when the stream ends, rows that were sent and not answered are unknown, and the caller sends
//! them again with the same ids on a new stream.

use std::time::Duration;

use escrow_proto::v1::{TransferColumnsRequest, TransferColumnsResponse};
use escrow_types::{AccountKey, Amount, Currency, Epoch, Partition, Reason, TransactionKey, Xid};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::call::stream_error;
use crate::client::Client;
use crate::convert::{self, state_of};
use crate::error::ClientError;
use crate::model::{State, Wait};
use crate::stream::opened;

/// Messages that wait between [`BulkSender`] and the connection. Few: each may be megabytes.
const QUEUE: usize = 4;

impl Client {
    /// Opens a stream of columns to one coordinator. With several coordinators, put each row into the batch of its own:
    /// [`Client::partition_of_key`].
    pub async fn bulk_stream(&self, partition: usize) -> Result<(BulkSender, BulkReceiver), ClientError> {
        let (queue, requests) = mpsc::channel(QUEUE);
        let mut service = self.transfers(self.pool.leader(partition));
        let opening = service.transfer_columns(ReceiverStream::new(requests));
        let answers = opened(self, partition, opening).await?;
        Ok((BulkSender { queue }, BulkReceiver { answers }))
    }
}

/// Rows to be sent as one message.
#[derive(Debug)]
pub struct Batch {
    columns: TransferColumnsRequest,
    capacity: usize,
}

impl Batch {
    /// An empty batch for about `rows` rows of one currency.
    pub fn new(rows: usize, currency: Currency, wait: Wait, timeout: Option<Duration>) -> Self {
        let mut batch = Self {
            columns: TransferColumnsRequest {
                currency: u32::from(currency.numeric()),
                wait: convert::wait(wait),
                timeout_ms: convert::timeout_ms(timeout),
                ..TransferColumnsRequest::default()
            },
            capacity: rows,
        };
        batch.reserve();
        batch
    }

    fn reserve(&mut self) {
        let columns = &mut self.columns;
        for column in [
            &mut columns.transaction_id_high,
            &mut columns.transaction_id_low,
            &mut columns.from_account_high,
            &mut columns.from_account_low,
            &mut columns.to_account_high,
            &mut columns.to_account_low,
            &mut columns.amount,
        ] {
            column.reserve_exact(self.capacity);
        }
    }

    /// Adds a row.
    #[inline]
    pub fn push(&mut self, id: TransactionKey, from: AccountKey, to: AccountKey, amount: Amount) {
        let columns = &mut self.columns;
        let ((id_high, id_low), (from_high, from_low), (to_high, to_low)) =
            (id.halves(), from.halves(), to.halves());
        columns.transaction_id_high.push(id_high);
        columns.transaction_id_low.push(id_low);
        columns.from_account_high.push(from_high);
        columns.from_account_low.push(from_low);
        columns.to_account_high.push(to_high);
        columns.to_account_low.push(to_low);
        columns.amount.push(amount);
    }

    /// Rows so far.
    pub fn len(&self) -> usize {
        self.columns.amount.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.columns.amount.is_empty()
    }

    /// The message, and this batch empty again with room for as many rows.
    fn take(&mut self, first_tag: u64) -> TransferColumnsRequest {
        let empty = TransferColumnsRequest {
            currency: self.columns.currency,
            wait: self.columns.wait,
            timeout_ms: self.columns.timeout_ms,
            ..TransferColumnsRequest::default()
        };
        let mut message = std::mem::replace(&mut self.columns, empty);
        message.first_tag = first_tag;
        self.reserve();
        message
    }
}

/// The sending half. Dropping it tells the server that no more will come; answers still arrive.
#[derive(Debug, Clone)]
pub struct BulkSender {
    queue: mpsc::Sender<TransferColumnsRequest>,
}

impl BulkSender {
    /// Sends a batch, waiting while the connection is full, and leaves it empty for the next rows. Row `i` has the tag
    /// `first_tag + i`; tags must be unique among rows that are not answered yet.
    pub async fn send(&self, batch: &mut Batch, first_tag: u64) -> Result<(), ClientError> {
        self.send_message(batch.take(first_tag)).await
    }

    /// Sends a message of the wire as it is, without the checks of the types.
    pub async fn send_message(&self, message: TransferColumnsRequest) -> Result<(), ClientError> {
        self.queue
            .send(message)
            .await
            .map_err(|_| ClientError::Closed("the receiving half or the server ended it".to_owned()))
    }
}

/// The receiving half. Dropping it ends the stream.
#[derive(Debug)]
pub struct BulkReceiver {
    answers: Streaming<TransferColumnsResponse>,
}

impl BulkReceiver {
    /// The next answers, in whatever order they come; `None` when the server has answered everything and ended.
    pub async fn next(&mut self) -> Result<Option<Answers>, ClientError> {
        let Some(columns) = self.answers.message().await.map_err(|status| stream_error(&status))? else {
            return Ok(None);
        };
        Answers::new(columns).map(Some)
    }
}

/// Answers to rows, as columns of equal length.
#[derive(Debug)]
pub struct Answers {
    columns: TransferColumnsResponse,
}

/// The answer to one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowAnswer {
    /// Which row.
    pub tag: u64,
    /// What became of it.
    pub state: State,
    /// Why it was canceled or refused.
    pub reason: Option<Reason>,
    /// The coordinator's name of it; `None` when it was refused.
    pub xid: Option<Xid>,
}

impl Answers {
    /// Checks that all columns are of one length.
    fn new(columns: TransferColumnsResponse) -> Result<Self, ClientError> {
        let rows = columns.tag.len();
        if [columns.state.len(), columns.reason.len(), columns.sequence.len()] != [rows; 3] {
            return Err(ClientError::Malformed("answers whose columns are of unequal length".to_owned()));
        }
        Ok(Self { columns })
    }

    /// How many rows are answered.
    pub fn len(&self) -> usize {
        self.columns.tag.len()
    }

    /// Whether no row is answered.
    pub fn is_empty(&self) -> bool {
        self.columns.tag.is_empty()
    }

    /// The tags, and beside each the number of its state and of its reason as they travel: for those who count millions.
    pub fn raw(&self) -> (&[u64], &[u8], &[u8]) {
        (&self.columns.tag, &self.columns.state, &self.columns.reason)
    }

    /// The answers one by one.
    pub fn iter(&self) -> impl Iterator<Item = Result<RowAnswer, ClientError>> + '_ {
        let columns = &self.columns;
        (0..self.len()).map(move |row| {
            let number = columns.state[row];
            let state = state_of(number)
                .ok_or_else(|| ClientError::Malformed(format!("{number} is not a state of a transaction")))?;
            let partition = Partition(columns.partition as u16);
            let xid = Xid::new(partition, Epoch(columns.epoch), columns.sequence[row]);
            let began = !matches!(state, State::Refused | State::NotFound);
            Ok(RowAnswer {
                tag: columns.tag[row],
                state,
                reason: Reason::from_number(columns.reason[row]),
                xid: began.then_some(xid),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_empty_after_it_was_taken_and_keeps_its_terms() {
        let mut batch = Batch::new(2, Currency::EUR, Wait::Decided, Some(Duration::from_secs(3)));
        batch.push(TransactionKey(1), AccountKey(2 << 64 | 3), AccountKey(4), 5);
        let first = batch.take(100);
        assert!(batch.is_empty());
        batch.push(TransactionKey(6), AccountKey(7), AccountKey(8), 9);
        let second = batch.take(101);
        for message in [&first, &second] {
            assert_eq!((message.currency, message.timeout_ms, message.amount.len()), (978, 3_000, 1));
            assert_eq!(message.wait, convert::wait(Wait::Decided));
        }
        assert_eq!((first.first_tag, second.first_tag), (100, 101));
        assert_eq!((first.from_account_high[0], first.from_account_low[0]), (2, 3));
    }

    #[test]
    fn unequal_columns_are_malformed() {
        let columns = TransferColumnsResponse { tag: vec![1], ..TransferColumnsResponse::default() };
        assert!(matches!(Answers::new(columns), Err(ClientError::Malformed(_))));
    }

    #[test]
    fn answers_come_one_by_one() {
        let columns = TransferColumnsResponse {
            tag: vec![7, 8],
            state: vec![3, 6],
            reason: vec![0, Reason::SameAccount as u8],
            sequence: vec![41, 0],
            partition: 0,
            epoch: 2,
        };
        let answers: Vec<RowAnswer> =
            Answers::new(columns).unwrap().iter().collect::<Result<_, _>>().unwrap();
        assert_eq!(answers[0].xid.unwrap().to_string(), "0-2-41");
        assert_eq!(
            (answers[1].state, answers[1].reason, answers[1].xid),
            (State::Refused, Some(Reason::SameAccount), None)
        );
    }
}
