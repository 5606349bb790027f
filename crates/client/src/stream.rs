//! Many transfers over one stream: one message each, answered in any order, matched by transaction_id.
//!
//! To a coordinator with replicas the stream outlives the one that leads: what was sent and not answered is sent again to the
//! next, with the same ids, and answered once. To one without replicas nothing is retried here: when the stream ends, what was
//! sent and not answered is unknown, and the caller sends those transfers again with the same ids on a new stream (see
//! [`ClientError::Closed`]).

use std::borrow::Borrow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use escrow_proto::v1::{TransferRequest, TransferResponse};
use escrow_types::TransactionId;
use tokio::sync::mpsc;

use crate::client::Client;
use crate::convert;
use crate::error::ClientError;
use crate::id::new_transaction_id;
use crate::model::{Outcome, Transfer};
use crate::resume::{Answers, Heard, Unanswered, is_farewell, open};

impl Client {
    /// Opens a stream of transfers to one coordinator. With several coordinators, send each transfer on the stream of its
    /// own: [`Client::partition_of_key`].
    pub async fn transfer_stream(
        &self,
        partition: usize,
    ) -> Result<(TransferSender, TransferReceiver), ClientError> {
        let (queue, answers) = open::<Transfers>(self, partition, self.options.stream_queue).await?;
        Ok((TransferSender { queue }, TransferReceiver { answers }))
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
    answers: Answers<TransferResponse>,
}

impl TransferReceiver {
    /// The next answer, in whatever order they come; `None` when the server has answered everything and ended.
    pub async fn next(&mut self) -> Result<Option<Outcome>, ClientError> {
        let Some(answer) = self.next_message().await? else { return Ok(None) };
        convert::outcome("", answer.transaction_id, &answer.xid, answer.state, answer.reason).map(Some)
    }

    /// The next answer as it came over the wire.
    pub async fn next_message(&mut self) -> Result<Option<TransferResponse>, ClientError> {
        self.answers.next().await
    }
}

/// Transfers without an answer, by their ids.
#[derive(Debug, Default)]
struct Transfers {
    waiting: HashMap<ById, Waiting>,
    /// How many were sent.
    count: u64,
}

/// A request, to be found by the id that its answer bears.
#[derive(Debug)]
struct ById(Arc<TransferRequest>);

impl Borrow<str> for ById {
    fn borrow(&self) -> &str {
        &self.0.transaction_id
    }
}

impl Hash for ById {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.transaction_id.hash(state);
    }
}

impl PartialEq for ById {
    fn eq(&self, other: &Self) -> bool {
        self.0.transaction_id == other.0.transaction_id
    }
}

impl Eq for ById {}

/// What waits for answers under one id, each with its number in the order of sending.
#[derive(Debug)]
struct Waiting {
    first: (u64, Arc<TransferRequest>),
    /// Nearly never any: the same id again before it was answered, perhaps with other content.
    others: Vec<(u64, Arc<TransferRequest>)>,
}

impl Unanswered for Transfers {
    type Request = TransferRequest;
    type Response = TransferResponse;
    const PATH: &'static str = "/escrow.v1.TransferService/TransferStream";
    const ANSWERS_MAX: usize = 262_144;

    fn sent(&mut self, request: &Arc<TransferRequest>) {
        let sent = (self.count, Arc::clone(request));
        self.count += 1;
        match self.waiting.entry(ById(Arc::clone(request))) {
            Entry::Occupied(mut waiting) => waiting.get_mut().others.push(sent),
            Entry::Vacant(place) => {
                place.insert(Waiting { first: sent, others: Vec::new() });
            }
        }
    }

    fn answered(&mut self, answer: &mut TransferResponse) -> Heard {
        let byte = |number| u8::try_from(number).unwrap_or_default();
        if is_farewell(byte(answer.state), byte(answer.reason)) {
            return Heard { is_answer: false, is_farewell: true };
        }
        // Nearly always the only one of its id, so it is looked up once.
        if let Some((id, mut waiting)) = self.waiting.remove_entry(answer.transaction_id.as_str())
            && !waiting.others.is_empty()
        {
            waiting.first = waiting.others.remove(0);
            self.waiting.insert(id, waiting);
        }
        Heard { is_answer: true, is_farewell: false }
    }

    fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    fn again(&mut self) -> Vec<Arc<TransferRequest>> {
        let all =
            self.waiting.values().flat_map(|waiting| std::iter::once(&waiting.first).chain(&waiting.others));
        let mut all: Vec<&(u64, Arc<TransferRequest>)> = all.collect();
        all.sort_unstable_by_key(|(number, _)| *number);
        all.into_iter().map(|(_, request)| Arc::clone(request)).collect()
    }
}

#[cfg(test)]
mod tests {
    use escrow_proto::v1::TransactionState;
    use escrow_types::Reason;

    use super::*;

    fn request(id: &str, amount: u64) -> Arc<TransferRequest> {
        Arc::new(TransferRequest { transaction_id: id.to_owned(), amount, ..TransferRequest::default() })
    }

    fn answer(id: &str, state: TransactionState, reason: i32) -> TransferResponse {
        let (transaction_id, state) = (id.to_owned(), state.into());
        TransferResponse { transaction_id, state, reason, ..TransferResponse::default() }
    }

    fn left(transfers: &mut Transfers) -> Vec<(String, u64)> {
        transfers.again().iter().map(|request| (request.transaction_id.clone(), request.amount)).collect()
    }

    #[test]
    fn what_is_answered_is_not_sent_again_and_the_rest_is_in_order() {
        let mut transfers = Transfers::default();
        for (id, amount) in [("c", 1), ("a", 2), ("b", 3)] {
            transfers.sent(&request(id, amount));
        }
        let heard = transfers.answered(&mut answer("a", TransactionState::Confirmed, 0));
        assert_eq!(heard, Heard { is_answer: true, is_farewell: false });
        assert_eq!(left(&mut transfers), [("c".to_owned(), 1), ("b".to_owned(), 3)]);
    }

    #[test]
    fn an_id_that_was_sent_twice_is_answered_twice() {
        let mut transfers = Transfers::default();
        for amount in [1, 2] {
            transfers.sent(&request("a", amount));
        }
        transfers.answered(&mut answer("a", TransactionState::Confirmed, 0));
        assert_eq!(left(&mut transfers), [("a".to_owned(), 2)]);
        transfers.answered(&mut answer("a", TransactionState::Refused, Reason::TransactionIdReused as i32));
        assert!(transfers.is_empty());
    }

    #[test]
    fn the_word_of_a_replica_that_leads_no_more_is_no_answer() {
        for reason in [Reason::NotLeader, Reason::ShuttingDown] {
            let mut transfers = Transfers::default();
            transfers.sent(&request("a", 1));
            let heard = transfers.answered(&mut answer("a", TransactionState::Refused, reason as i32));
            assert_eq!(heard, Heard { is_answer: false, is_farewell: true });
            assert!(!transfers.is_empty());
        }
    }
}
