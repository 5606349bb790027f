//! Open-loop load: so many transactions a second of every kind, whether or not the servers keep up; every answer goes to
//! the oracle. Callers try again with the same id, as the client does by itself.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use escrow_client::bulk::{Batch, BulkReceiver, BulkSender};
use escrow_client::{Client, IdSequence, Leg, Options, RetryPolicy, State, Transfer, Wait};
use escrow_types::{AccountId, TransactionId};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::chance::Chance;
use crate::oracle::{Effect, Oracle};
use crate::world::USD;

/// Between two bursts of the open loop.
const BURST: Duration = Duration::from_millis(10);
/// Calls under way; beyond, the loop is not open any more and says so.
const UNDER_WAY_MAX: usize = 4_000;
/// Rows of bulk under way.
const ROWS_UNDER_WAY_MAX: usize = 4_096;
const ROWS_A_MESSAGE: usize = 64;
/// Rows that are unanswered when the load stops are sent again on so many streams.
const LAST_STREAMS: u32 = 100;
/// A two-step transaction that nobody ends is canceled after this.
const HOLD: Duration = Duration::from_secs(3);
const TIMEOUT: Duration = Duration::from_secs(5);
/// Some callers ask once, wait so long, and never hear what became of it.
const IMPATIENCE: Duration = Duration::from_millis(20);

/// What load is wanted.
#[derive(Debug, Clone)]
pub struct Load {
    /// Calls a second: transfers, many legs, two-step.
    pub calls_per_second: u64,
    /// Rows a second through a bulk stream.
    pub rows_per_second: u64,
    /// Accounts of each shard, all with money.
    pub accounts: Vec<Vec<AccountId>>,
    /// Chooses everything.
    pub seed: u64,
}

/// Load that runs.
#[derive(Debug)]
pub struct Running {
    stop: watch::Sender<bool>,
    calls: JoinHandle<u64>,
    rows: JoinHandle<()>,
}

impl Load {
    /// Starts it.
    pub fn start(self, client: &Client, oracle: &Arc<Oracle>) -> Running {
        let (stop, stopped) = watch::channel(false);
        let endpoints: Vec<String> =
            (0..client.partitions()).map(|at| client.endpoint(at).to_owned()).collect();
        let retry = RetryPolicy { attempts_max: 1, ..RetryPolicy::default() };
        let impatient =
            Options { attempt_timeout: IMPATIENCE, deadline: IMPATIENCE, retry, ..Options::default() };
        let impatient = Client::connect(endpoints, impatient).expect("they are endpoints");
        let caller = Caller { client: client.clone(), impatient, oracle: Arc::clone(oracle) };
        let calls = tokio::spawn(calls(self.clone(), caller.clone(), stopped.clone()));
        let rows = tokio::spawn(Bulk::new(&self, caller).run(self, stopped));
        Running { stop, calls, rows }
    }
}

impl Running {
    /// Makes no more transactions and waits until all calls have ended. Gives how many calls were held back because too
    /// many were under way.
    pub async fn stop(self) -> u64 {
        self.stop.send_replace(true);
        self.rows.await.expect("the bulk load does not panic");
        self.calls.await.expect("the load does not panic")
    }
}

async fn calls(load: Load, caller: Caller, stopped: watch::Receiver<bool>) -> u64 {
    let mut chance = Chance::new(load.seed);
    let mut ticks = interval(BURST);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut under_way, mut held_back, mut owed) = (JoinSet::new(), 0, 0);
    while !*stopped.borrow() {
        ticks.tick().await;
        owed += load.calls_per_second * BURST.as_millis() as u64;
        while owed >= 1_000 {
            owed -= 1_000;
            while under_way.try_join_next().is_some() {}
            if under_way.len() >= UNDER_WAY_MAX {
                held_back += 1;
                continue;
            }
            under_way.spawn(caller.clone().one(Plan::choose(&mut chance, &load.accounts)));
        }
    }
    under_way.join_all().await;
    held_back
}

/// One transaction of some kind.
enum Plan {
    Transfer { transfer: Transfer, twice: bool },
    Impatient(Transfer),
    Legs { id: TransactionId, legs: Vec<Leg>, wait: Wait },
    TwoStep { id: TransactionId, legs: Vec<Leg>, then: Then },
}

/// What becomes of a reservation.
enum Then {
    Confirm(Vec<u64>),
    Cancel,
    Leave,
}

fn two_accounts(
    chance: &mut Chance,
    accounts: &[Vec<AccountId>],
    same_shard: bool,
) -> (AccountId, AccountId) {
    let shard = chance.within(0..accounts.len() as u64) as usize;
    let other = if same_shard { shard } else { (shard + 1) % accounts.len() };
    let from = chance.one_of(&accounts[shard]).clone();
    loop {
        let to = chance.one_of(&accounts[other]);
        if *to != from {
            return (from, to.clone());
        }
    }
}

impl Plan {
    fn choose(chance: &mut Chance, accounts: &[Vec<AccountId>]) -> Self {
        let id = escrow_client::id::new_transaction_id();
        let wait = if chance.percent(50) { Wait::Decided } else { Wait::Completed };
        let kind = chance.within(0..100);
        let same_shard = (60..75).contains(&kind);
        let (from, to) = two_accounts(chance, accounts, same_shard);
        let amount = chance.within(1..100);
        let debit = |amount| Leg::debit(from.clone(), amount, USD);
        let credit = |amount| Leg::credit(to.clone(), amount, USD);
        match kind {
            0..80 => {
                // A few are far beyond what anybody has.
                let amount = if kind >= 75 { u64::MAX / 4 } else { amount };
                let transfer = Transfer::new(from, to, amount, USD).with_id(id).with_wait(wait);
                if chance.percent(5) {
                    return Self::Impatient(transfer);
                }
                Self::Transfer { transfer: transfer.with_timeout(TIMEOUT), twice: chance.percent(5) }
            }
            80..90 => {
                let (third, fourth) = two_accounts(chance, accounts, false);
                let mut legs = vec![debit(amount), credit(amount)];
                if third != from && third != to && fourth != from && fourth != to {
                    legs.extend([Leg::debit(third, amount + 1, USD), Leg::credit(fourth, amount + 1, USD)]);
                }
                Self::Legs { id, legs, wait }
            }
            _ => {
                let legs = vec![debit(amount), credit(amount)];
                let then = match chance.within(0..10) {
                    0..4 => Then::Confirm(vec![amount, amount]),
                    4..7 => Then::Confirm(vec![amount / 2, amount / 2]),
                    7..9 => Then::Cancel,
                    _ => Then::Leave,
                };
                Self::TwoStep { id, legs, then }
            }
        }
    }
}

/// What legs do, with these amounts instead of their own if there are any.
fn effect_of(legs: &[Leg], amounts: &[u64]) -> Effect {
    let amount = |at: usize| amounts.get(at).copied().unwrap_or(legs[at].amount).cast_signed();
    let signed = |at: usize| match legs[at].direction {
        escrow_client::Direction::Debit => -amount(at),
        escrow_client::Direction::Credit => amount(at),
    };
    (0..legs.len()).map(|at| (legs[at].account_id.clone(), signed(at))).collect()
}

fn effect(from: &AccountId, to: &AccountId, amount: u64) -> Effect {
    vec![(from.clone(), -amount.cast_signed()), (to.clone(), amount.cast_signed())]
}

/// Makes calls and reports how they end.
#[derive(Clone)]
struct Caller {
    client: Client,
    impatient: Client,
    oracle: Arc<Oracle>,
}

impl Caller {
    async fn one(self, plan: Plan) {
        match plan {
            Plan::Transfer { transfer, twice: true } => {
                tokio::join!(self.transfer(&self.client, &transfer), self.transfer(&self.client, &transfer));
            }
            Plan::Transfer { transfer, twice: false } => self.transfer(&self.client, &transfer).await,
            Plan::Impatient(transfer) => self.transfer(&self.impatient, &transfer).await,
            Plan::Legs { id, legs, wait } => {
                self.oracle.begins(&id, effect_of(&legs, &[]), false);
                let result = self.client.execute(Some(&id), &legs, wait, Some(TIMEOUT)).await;
                self.oracle.ended(&id, &result);
            }
            Plan::TwoStep { id, legs, then } => self.two_step(&id, &legs, then).await,
        }
    }

    async fn transfer(&self, client: &Client, transfer: &Transfer) {
        let id = transfer.transaction_id.as_ref().expect("plans have ids");
        self.oracle.begins(id, effect(&transfer.from, &transfer.to, transfer.amount), false);
        let result = client.transfer(transfer).await;
        self.oracle.ended(id, &result);
    }

    async fn two_step(&self, id: &TransactionId, legs: &[Leg], then: Then) {
        let amounts = if let Then::Confirm(amounts) = &then { amounts.as_slice() } else { &[] };
        self.oracle.begins(id, effect_of(legs, amounts), !matches!(then, Then::Confirm(_)));
        let reserved =
            self.client.reserve(Some(id), legs, Some(HOLD)).await.map(|reservation| reservation.outcome);
        self.oracle.ended(id, &reserved);
        if !reserved.is_ok_and(|outcome| outcome.state == State::Reserved) {
            return;
        }
        let ended = match then {
            Then::Confirm(amounts) => self.client.confirm(id.as_str(), &amounts, Wait::Completed).await,
            Then::Cancel => self.client.cancel(id.as_str(), Wait::Completed).await,
            Then::Leave => return,
        };
        // A refusal says only that this came too late: the reservation has ended otherwise.
        if let Ok(outcome) = ended {
            self.oracle.answered(id, outcome.state, outcome.reason);
        }
    }
}

/// A bulk stream that is opened again whenever it breaks; rows without an answer are sent again with the same ids.
struct Bulk {
    caller: Caller,
    chance: Chance,
    ids: IdSequence,
    next_tag: u64,
    open: HashMap<u64, Row>,
}

#[derive(Clone)]
struct Row {
    id: TransactionId,
    from: AccountId,
    to: AccountId,
    amount: u64,
}

impl Bulk {
    fn new(load: &Load, caller: Caller) -> Self {
        let chance = Chance::new(!load.seed);
        Self { caller, chance, ids: IdSequence::new(), next_tag: 0, open: HashMap::new() }
    }

    async fn run(mut self, load: Load, stopped: watch::Receiver<bool>) {
        if load.rows_per_second == 0 {
            return;
        }
        let mut last_streams = 0;
        while !*stopped.borrow() || (!self.open.is_empty() && last_streams < LAST_STREAMS) {
            last_streams += u32::from(*stopped.borrow());
            match self.caller.client.bulk_stream(0).await {
                // Its end is no news: rows without an answer go into the next one.
                Ok((sender, receiver)) => self.one_stream(&load, sender, receiver, &stopped).await,
                Err(_) => sleep(BURST * 5).await,
            }
        }
    }

    async fn one_stream(
        &mut self,
        load: &Load,
        sender: BulkSender,
        mut receiver: BulkReceiver,
        stopped: &watch::Receiver<bool>,
    ) {
        let again: Vec<Row> = self.open.drain().map(|(_, row)| row).collect();
        for rows in again.chunks(ROWS_A_MESSAGE) {
            if !self.send(&sender, rows).await {
                return;
            }
        }
        let mut ticks =
            interval(Duration::from_micros(1_000_000 * ROWS_A_MESSAGE as u64 / load.rows_per_second));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if *stopped.borrow() && self.open.is_empty() {
                return;
            }
            let may_send = !*stopped.borrow() && self.open.len() < ROWS_UNDER_WAY_MAX;
            tokio::select! {
                answers = timeout(TIMEOUT * 2, receiver.next()) => match answers {
                    Ok(Ok(Some(answers))) => self.take(&answers),
                    _ => return,
                },
                _ = ticks.tick(), if may_send => {
                    let rows: Vec<Row> = (0..ROWS_A_MESSAGE).map(|_| self.choose(&load.accounts)).collect();
                    if !self.send(&sender, &rows).await {
                        return;
                    }
                }
            }
        }
    }

    fn choose(&mut self, accounts: &[Vec<AccountId>]) -> Row {
        let (from, to) = two_accounts(&mut self.chance, accounts, false);
        self.ids.refresh_clock();
        Row { id: self.ids.next_id(), from, to, amount: self.chance.within(1..50) }
    }

    /// Sends rows; they stay open until they are answered. `false` when the stream is over.
    async fn send(&mut self, sender: &BulkSender, rows: &[Row]) -> bool {
        let mut batch = Batch::new(rows.len(), USD, Wait::Decided, Some(TIMEOUT));
        let first = self.next_tag;
        for row in rows {
            self.caller.oracle.begins(&row.id, effect(&row.from, &row.to, row.amount), false);
            batch.push(row.id.key(), row.from.key(), row.to.key(), row.amount);
            self.open.insert(self.next_tag, row.clone());
            self.next_tag += 1;
        }
        sender.send(&mut batch, first).await.is_ok()
    }

    fn take(&mut self, answers: &escrow_client::bulk::Answers) {
        for answer in answers.iter() {
            let answer = answer.expect("states are states");
            let row = self.open.remove(&answer.tag).expect("only what was asked is answered, and once");
            self.caller.oracle.answered(&row.id, answer.state, answer.reason);
        }
    }
}
