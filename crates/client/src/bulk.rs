//! Very many transfers over one stream: columns out, columns back, matched by tag.
//!
//! A [`Batch`] is a struct of arrays that is filled row by row and sent as one message; nothing is allocated for a row.
//! To a coordinator with replicas the stream outlives the one that leads: rows that were sent and not answered are sent again to
//! the next, with the same ids and tags, and answered once. To one without replicas nothing is retried here: when the stream
//! ends, rows that were sent and not answered are unknown, and the caller sends them again with the same ids on a new stream.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use escrow_proto::v1::{TransferColumnsRequest, TransferColumnsResponse};
use escrow_types::{AccountKey, Amount, Currency, Epoch, Partition, Reason, TransactionKey, Xid};
use tokio::sync::mpsc;

use crate::client::Client;
use crate::convert::{self, state_of};
use crate::error::ClientError;
use crate::model::{State, Wait};
use crate::resume::{self, Heard, Unanswered, is_farewell, open};

/// Messages that wait between [`BulkSender`] and the connection. Few: each may be megabytes.
const QUEUE: usize = 4;

impl Client {
    /// Opens a stream of columns to one coordinator. With several coordinators, put each row into the batch of its own:
    /// [`Client::partition_of_key`].
    pub async fn bulk_stream(&self, partition: usize) -> Result<(BulkSender, BulkReceiver), ClientError> {
        let (queue, answers) = open::<Rows>(self, partition, QUEUE).await?;
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
    answers: resume::Answers<TransferColumnsResponse>,
}

impl BulkReceiver {
    /// The next answers, in whatever order they come; `None` when the server has answered everything and ended.
    pub async fn next(&mut self) -> Result<Option<Answers>, ClientError> {
        let Some(columns) = self.answers.next().await? else { return Ok(None) };
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

/// Messages with rows that have no answer.
#[derive(Debug, Default)]
struct Rows {
    /// By first tag and number in the order of sending. Tags come again when they are answered, so that a message may have
    /// answered rows with the tags of a later one.
    messages: BTreeMap<(u64, u64), Sent>,
    /// How many were sent.
    count: u64,
}

/// A message that was sent.
#[derive(Debug)]
struct Sent {
    message: Arc<TransferColumnsRequest>,
    /// A bit for each row that has no answer.
    open: Box<[u64]>,
    /// How many have none.
    left: usize,
}

impl Sent {
    fn new(message: Arc<TransferColumnsRequest>) -> Self {
        let left = message.amount.len();
        let mut open = vec![u64::MAX; left.div_ceil(64)].into_boxed_slice();
        if let Some(last) = open.last_mut().filter(|_| !left.is_multiple_of(64)) {
            *last = (1 << (left % 64)) - 1;
        }
        Self { message, open, left }
    }

    /// The word and the bit of a tag; `None` if it is not of this message.
    fn place(&self, tag: u64) -> Option<(usize, u64)> {
        let row = tag.wrapping_sub(self.message.first_tag);
        let row = usize::try_from(row).ok().filter(|&row| row < self.message.amount.len())?;
        Some((row / 64, 1 << (row % 64)))
    }

    fn is_open(&self, tag: u64) -> bool {
        self.place(tag).is_some_and(|(word, bit)| self.open[word] & bit != 0)
    }

    /// Takes note of an answer; `false` if it is of none of these rows.
    fn take(&mut self, tag: u64) -> bool {
        let Some((word, bit)) = self.place(tag) else { return false };
        if self.open[word] & bit == 0 {
            return false;
        }
        self.open[word] &= !bit;
        self.left -= 1;
        true
    }

    /// The rows that have no answer, as messages with the same tags. The message itself, if that is all of them.
    fn again(&self) -> Vec<Arc<TransferColumnsRequest>> {
        let rows = self.message.amount.len();
        if self.left == rows {
            return vec![Arc::clone(&self.message)];
        }
        let is_open = |row: &usize| self.open[row / 64] >> (row % 64) & 1 == 1;
        let open: Vec<usize> = (0..rows).filter(is_open).collect();
        let runs = open.chunk_by(|one, next| one + 1 == *next);
        runs.map(|run| Arc::new(cut(&self.message, run[0]..run[0] + run.len()))).collect()
    }
}

/// Some rows of a message.
fn cut(message: &TransferColumnsRequest, rows: Range<usize>) -> TransferColumnsRequest {
    // A message whose columns are of unequal length is refused as a whole, so it is never cut.
    let column = |column: &[u64]| column.get(rows.clone()).unwrap_or_default().to_vec();
    TransferColumnsRequest {
        first_tag: message.first_tag.wrapping_add(rows.start as u64),
        transaction_id_high: column(&message.transaction_id_high),
        transaction_id_low: column(&message.transaction_id_low),
        from_account_high: column(&message.from_account_high),
        from_account_low: column(&message.from_account_low),
        to_account_high: column(&message.to_account_high),
        to_account_low: column(&message.to_account_low),
        amount: column(&message.amount),
        currency: message.currency,
        wait: message.wait,
        timeout_ms: message.timeout_ms,
    }
}

impl Rows {
    /// The message whose row waits for an answer with this tag. Nearly always the one that begins nearest below it.
    fn holder(&self, tag: u64) -> Option<(u64, u64)> {
        let mut below = self.messages.range(..=(tag, u64::MAX)).rev();
        below.find(|(_, sent)| sent.is_open(tag)).map(|(key, _)| *key)
    }

    fn note(&mut self, tags: &[u64]) {
        let mut rest = tags;
        while let Some(&tag) = rest.first() {
            let Some(key) = self.holder(tag) else {
                // Not asked, or answered before: for the caller to see.
                rest = &rest[1..];
                continue;
            };
            let sent = self.messages.get_mut(&key).expect("just found");
            let run = rest.iter().take_while(|&&tag| sent.take(tag)).count();
            rest = &rest[run..];
            if sent.left == 0 {
                self.messages.remove(&key);
            }
        }
    }
}

/// Takes out the rows that were refused only because the replica will not do them; `true` if there was one.
fn strip(answers: &mut TransferColumnsResponse) -> bool {
    let farewell = [Reason::NotLeader as u8, Reason::ShuttingDown as u8];
    if !farewell.iter().any(|reason| answers.reason.contains(reason)) {
        return false;
    }
    let whole = std::mem::take(answers);
    (answers.partition, answers.epoch) = (whole.partition, whole.epoch);
    let rows = whole.tag.iter().zip(&whole.state).zip(&whole.reason).zip(&whole.sequence);
    let before = whole.tag.len();
    for (((&tag, &state), &reason), &sequence) in rows {
        if !is_farewell(state, reason) {
            answers.tag.push(tag);
            answers.state.push(state);
            answers.reason.push(reason);
            answers.sequence.push(sequence);
        }
    }
    answers.tag.len() < before
}

impl Unanswered for Rows {
    type Request = TransferColumnsRequest;
    type Response = TransferColumnsResponse;
    const PATH: &'static str = "/escrow.v1.TransferService/TransferColumns";
    const ANSWERS_MAX: usize = 256;

    fn sent(&mut self, message: &Arc<TransferColumnsRequest>) {
        // A message without rows has no answer.
        if !message.amount.is_empty() {
            self.messages.insert((message.first_tag, self.count), Sent::new(Arc::clone(message)));
            self.count += 1;
        }
    }

    fn answered(&mut self, answers: &mut TransferColumnsResponse) -> Heard {
        let is_farewell = strip(answers);
        self.note(&answers.tag);
        Heard { is_answer: !answers.tag.is_empty() || !is_farewell, is_farewell }
    }

    fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    fn again(&mut self) -> Vec<Arc<TransferColumnsRequest>> {
        let mut messages: Vec<((u64, u64), Sent)> = std::mem::take(&mut self.messages).into_iter().collect();
        messages.sort_unstable_by_key(|((_, number), _)| *number);
        let again: Vec<_> = messages.iter().flat_map(|(_, sent)| sent.again()).collect();
        for message in &again {
            self.sent(message);
        }
        again
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

    fn message(first_tag: u64, rows: u64) -> Arc<TransferColumnsRequest> {
        let mut batch = Batch::new(rows as usize, Currency::EUR, Wait::Decided, None);
        for row in 0..rows {
            batch.push(TransactionKey(u128::from(1_000 + row)), AccountKey(1), AccountKey(2), row + 1);
        }
        Arc::new(batch.take(first_tag))
    }

    fn answers(rows: &[(u64, State, Option<Reason>)]) -> TransferColumnsResponse {
        TransferColumnsResponse {
            tag: rows.iter().map(|row| row.0).collect(),
            state: rows.iter().map(|row| if row.1 == State::Refused { REFUSED } else { CONFIRMED }).collect(),
            reason: rows.iter().map(|row| row.2.map_or(0, |reason| reason as u8)).collect(),
            sequence: rows.iter().map(|row| row.0).collect(),
            ..TransferColumnsResponse::default()
        }
    }

    const CONFIRMED: u8 = escrow_proto::v1::TransactionState::Confirmed as u8;
    const REFUSED: u8 = escrow_proto::v1::TransactionState::Refused as u8;

    /// First tag and amounts of what would be sent again.
    fn left(rows: &mut Rows) -> Vec<(u64, Vec<u64>)> {
        rows.again().iter().map(|message| (message.first_tag, message.amount.clone())).collect()
    }

    fn confirm(rows: &mut Rows, tags: impl IntoIterator<Item = u64>) -> Heard {
        let confirmed: Vec<_> = tags.into_iter().map(|tag| (tag, State::Confirmed, None)).collect();
        rows.answered(&mut answers(&confirmed))
    }

    #[test]
    fn only_rows_without_an_answer_are_sent_again_with_their_tags_and_ids() {
        let mut rows = Rows::default();
        rows.sent(&message(10, 5));
        rows.sent(&message(0, 2));
        confirm(&mut rows, [12, 0]);
        let again = rows.again();
        let ids: Vec<_> = again.iter().map(|message| message.transaction_id_low.clone()).collect();
        assert_eq!(ids, [vec![1_000, 1_001], vec![1_003, 1_004], vec![1_001]]);
        assert_eq!(left(&mut rows), [(10, vec![1, 2]), (13, vec![4, 5]), (1, vec![2])], "the same each time");
        confirm(&mut rows, [14, 1, 10, 13, 11]);
        assert!(rows.is_empty());
    }

    #[test]
    fn a_message_without_answers_is_not_copied() {
        let (mut rows, sent) = (Rows::default(), message(0, 130));
        rows.sent(&sent);
        assert!(Arc::ptr_eq(&rows.again()[0], &sent));
        confirm(&mut rows, 0..129);
        assert_eq!(left(&mut rows), [(129, vec![130])]);
        confirm(&mut rows, [129]);
        assert!(rows.is_empty());
    }

    #[test]
    fn tags_that_come_again_are_those_of_the_later_message() {
        let mut rows = Rows::default();
        rows.sent(&message(0, 4));
        confirm(&mut rows, [0, 1]);
        rows.sent(&message(0, 2));
        confirm(&mut rows, [1, 2]);
        assert_eq!(left(&mut rows), [(3, vec![4]), (0, vec![1])]);
    }

    #[test]
    fn what_was_not_asked_is_handed_on_and_changes_nothing() {
        let mut rows = Rows::default();
        rows.sent(&message(5, 1));
        rows.sent(&message(9, 0));
        assert_eq!(confirm(&mut rows, [4, 6, u64::MAX]), Heard { is_answer: true, is_farewell: false });
        assert_eq!(left(&mut rows), [(5, vec![1])]);
    }

    #[test]
    fn rows_that_a_replica_will_not_do_any_more_are_not_answered() {
        let mut rows = Rows::default();
        rows.sent(&message(0, 4));
        let mut mixed = answers(&[
            (0, State::Refused, Some(Reason::NotLeader)),
            (1, State::Confirmed, None),
            (2, State::Refused, Some(Reason::ShuttingDown)),
            (3, State::Refused, Some(Reason::SameAccount)),
        ]);
        assert_eq!(rows.answered(&mut mixed), Heard { is_answer: true, is_farewell: true });
        assert_eq!((mixed.tag, mixed.sequence), (vec![1, 3], vec![1, 3]));
        let mut nothing = answers(&[(0, State::Refused, Some(Reason::NotLeader))]);
        assert_eq!(rows.answered(&mut nothing), Heard { is_answer: false, is_farewell: true });
        assert_eq!(left(&mut rows), [(0, vec![1]), (2, vec![3])]);
    }
}
