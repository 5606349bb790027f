//! Rows of a bulk stream to one coordinator. The stream is opened again whenever it breaks; rows without an answer are sent
//! again with the same ids, those that became due meanwhile after them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use escrow_client::bulk::{Answers, Batch, BulkReceiver, BulkSender};
use escrow_client::{Client, IdSequence, State, Wait};
use escrow_types::TransactionKey;
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep};

use super::pace::{Pace, TICK};
use super::plan::Payment;
use super::{Ears, Ending, Load, Stopped};
use crate::chance::Chance;
use crate::world::USD;

/// Rows that wait or are under way; beyond, the loop is not open any more and says so.
const OPEN_MAX: usize = 400_000;
const ROWS_A_MESSAGE: usize = 1_024;
/// A stream that owes answers and says nothing for so long is left.
const SILENCE_MAX: Duration = Duration::from_secs(8);
/// Between two attempts to open a stream.
const PAUSE: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, Copy)]
struct Row {
    key: TransactionKey,
    payment: Payment,
    due: Instant,
}

/// The rows for one coordinator.
pub(super) struct Rows {
    client: Client,
    partition: usize,
    ears: Ears,
    /// The shard of each account.
    homes: Arc<[u32]>,
    chance: Chance,
    ids: IdSequence,
    next_tag: u64,
    /// Due, and not sent on the stream there is.
    waiting: VecDeque<Row>,
    /// Sent on it, by tag.
    open: HashMap<u64, Row>,
}

impl Rows {
    pub(super) fn new(load: &Load, client: Client, partition: usize, ears: Ears) -> Self {
        Self {
            client,
            partition,
            ears,
            homes: load.homes(),
            chance: Chance::new(!load.seed ^ ((partition as u64) << 32)),
            ids: IdSequence::new(),
            next_tag: 0,
            waiting: VecDeque::new(),
            open: HashMap::new(),
        }
    }

    pub(super) async fn run(mut self, load: Arc<Load>, per_second: f64, stopped: Stopped) {
        let mut pace = Pace::new(per_second);
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.goes_on(&stopped) {
            let (client, partition) = (self.client.clone(), self.partition);
            let mut opening = std::pin::pin!(async move { client.bulk_stream(partition).await });
            let opened = loop {
                tokio::select! {
                    opened = &mut opening => break opened,
                    _ = ticks.tick() => self.make_due(&mut pace, &load, &stopped),
                }
                if !self.goes_on(&stopped) {
                    break Err(escrow_client::ClientError::Closed("the load has stopped".to_owned()));
                }
            };
            match opened {
                // Its end is no news: rows without an answer go into the next one.
                Ok(stream) => self.one_stream(stream, &mut pace, &mut ticks, &load, &stopped).await,
                Err(_) => sleep(PAUSE).await,
            }
            self.wait_again();
        }
        for row in self.waiting.drain(..) {
            self.ears.meter.ended(Ending::Unknown, row.due);
        }
    }

    /// Whether there is, or may come, something to send.
    fn goes_on(&self, stopped: &Stopped) -> bool {
        match *stopped.borrow() {
            None => true,
            Some(until) => !(self.waiting.is_empty() && self.open.is_empty()) && Instant::now() < until,
        }
    }

    /// Rows that were sent on a stream that ended wait again, the oldest first.
    fn wait_again(&mut self) {
        let mut again: Vec<(u64, Row)> = self.open.drain().collect();
        again.sort_unstable_by_key(|(tag, _)| std::cmp::Reverse(*tag));
        for (_, row) in again {
            self.waiting.push_front(row);
        }
    }

    fn make_due(&mut self, pace: &mut Pace, load: &Load, stopped: &Stopped) {
        if stopped.borrow().is_some() {
            return;
        }
        self.ids.refresh_clock();
        let now = Instant::now();
        let before = self.waiting.len();
        while let Some(due) = pace.due(now) {
            if self.waiting.len() + self.open.len() >= OPEN_MAX {
                self.ears.meter.held_back();
                continue;
            }
            let key = loop {
                let key = self.ids.next_key();
                if self.client.partition_of_key(key) == self.partition {
                    break key;
                }
            };
            let payment = Payment::choose(&mut self.chance, load);
            self.waiting.push_back(Row { key, payment, due });
        }
        self.ears.meter.submitted((self.waiting.len() - before) as u64);
    }

    async fn one_stream(
        &mut self,
        (sender, mut receiver): (BulkSender, BulkReceiver),
        pace: &mut Pace,
        ticks: &mut Interval,
        load: &Load,
        stopped: &Stopped,
    ) {
        // Sending may wait for the server; answers are taken meanwhile. What is queued here is bounded by OPEN_MAX.
        let (queue, mut queued) = mpsc::unbounded_channel::<(Batch, u64)>();
        let sending = async move {
            while let Some((mut batch, first_tag)) = queued.recv().await {
                if sender.send(&mut batch, first_tag).await.is_err() {
                    return;
                }
            }
        };
        let mut sending = std::pin::pin!(sending);
        let mut heard = Instant::now();
        while self.goes_on(stopped) {
            tokio::select! {
                answers = receiver.next() => match answers {
                    Ok(Some(answers)) => {
                        heard = Instant::now();
                        self.take(&answers);
                    }
                    _ => return,
                },
                () = &mut sending => return,
                _ = ticks.tick() => {
                    self.make_due(pace, load, stopped);
                    if self.open.is_empty() {
                        heard = Instant::now();
                    }
                    self.send_waiting(&queue, load);
                    if heard.elapsed() > SILENCE_MAX {
                        return;
                    }
                }
            }
        }
    }

    fn send_waiting(&mut self, queue: &mpsc::UnboundedSender<(Batch, u64)>, load: &Load) {
        let oracle = &self.ears.oracle;
        while !self.waiting.is_empty() {
            let rows = self.waiting.len().min(ROWS_A_MESSAGE);
            let mut batch = Batch::new(rows, USD, Wait::Decided, Some(load.mix.timeout.0));
            let first_tag = self.next_tag;
            for row in self.waiting.drain(..rows) {
                let Payment { from, to, amount } = row.payment;
                let account = |account: u32| oracle.accounts()[account as usize].key();
                oracle.begins(row.key, row.payment.effect(), false);
                batch.push(row.key, account(from), account(to), amount);
                self.open.insert(self.next_tag, row);
                self.next_tag += 1;
            }
            // Its other end lives as long as this stream.
            let _ = queue.send((batch, first_tag));
        }
    }

    fn take(&mut self, answers: &Answers) {
        for answer in answers.iter() {
            // What makes no sense is no answer: the row is asked again on the next stream.
            let Ok(answer) = answer else { continue };
            let Some(row) = self.open.remove(&answer.tag) else { continue };
            self.ears.oracle.answered(row.key, answer.state, answer.reason);
            let ending = match answer.state {
                State::Confirmed => {
                    self.tell_sentinel(&row);
                    Ending::Confirmed
                }
                State::Canceled => Ending::Canceled,
                State::Refused => Ending::Refused,
                // Begun and not decided: asked again later.
                State::Pending | State::Reserved | State::NotFound => {
                    self.waiting.push_back(row);
                    continue;
                }
            };
            self.ears.meter.ended(ending, row.due);
        }
    }

    fn tell_sentinel(&self, row: &Row) {
        if self.ears.sentinel.is_awaited() {
            let shards =
                [row.payment.from, row.payment.to].map(|account| self.homes[account as usize] as usize);
            self.ears.sentinel.confirmed(self.partition, shards, row.key, row.due);
        }
    }
}
