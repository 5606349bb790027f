//! What callers were told, and what must therefore be true in the end.
//!
//! A call ends in one of three ways: an outcome is acknowledged; it certainly had no effect; or nobody knows. In the end
//! the coordinator is asked for every id: what was acknowledged must be what it says, what had no effect must not be
//! there, and the balances must be what the confirmed transactions make of the first balances: no more, no less.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex};

use escrow_client::{Client, ClientError, Outcome, State};
use escrow_types::{AccountId, Reason, TransactionId};
use tokio::task::JoinSet;

use crate::world::World;

/// Questions at a time when every id is asked for.
const ASKED_AT_ONCE: usize = 128;

/// A final answer: confirmed, or canceled for a reason.
pub type Final = (State, Option<Reason>);

/// What a transaction does to balances if it is confirmed: accounts with what is added.
pub type Effect = Vec<(AccountId, i64)>;

/// Everything known of one transaction.
#[derive(Debug)]
struct Known {
    effect: Effect,
    /// The caller never asks to confirm it.
    never_confirmed: bool,
    /// Calls that might begin it, and how many of those certainly did not.
    calls: u32,
    without_effect: u32,
    acknowledged: Option<Final>,
}

/// Remembers every transaction and every answer. All of its methods may be called from many tasks.
#[derive(Debug, Default)]
pub struct Oracle {
    known: Mutex<HashMap<String, Known>>,
    wrong: Mutex<Vec<String>>,
}

/// How a run came out.
#[derive(Debug, Default, Clone)]
pub struct Figures {
    /// Transactions.
    pub transactions: usize,
    /// Of them acknowledged with a final outcome.
    pub acknowledged: usize,
    /// Refused before they began.
    pub refused: usize,
    /// Without a final answer: callers who gave up, and reservations that their callers left.
    pub unknown: usize,
    /// Of the unknown, those that were executed all the same.
    pub unknown_confirmed: usize,
    /// What the coordinator says of all of them in the end.
    pub ends: BTreeMap<String, usize>,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { transactions, acknowledged, refused, unknown, unknown_confirmed, ends } = self;
        write!(
            f,
            "{transactions} transactions: {acknowledged} acknowledged, {refused} refused, {unknown} unknown "
        )?;
        write!(f, "(of which {unknown_confirmed} confirmed); in the end {ends:?}")
    }
}

impl Oracle {
    /// A call is about to be made that may begin a transaction. The same id always has the same effect.
    pub fn begins(&self, id: &TransactionId, effect: Effect, never_confirmed: bool) {
        let mut known = self.known.lock().expect("no test panics while it is held");
        let fresh = Known { effect, never_confirmed, calls: 0, without_effect: 0, acknowledged: None };
        known.entry(id.to_string()).or_insert(fresh).calls += 1;
    }

    /// Such a call ended.
    pub fn ended(&self, id: &TransactionId, result: &Result<Outcome, ClientError>) {
        match result {
            Ok(outcome) => self.answered(id, outcome.state, outcome.reason),
            Err(error) if error.has_no_effect() => self.refused(id),
            Err(_) => {}
        }
    }

    /// It certainly did not begin by this call.
    pub fn refused(&self, id: &TransactionId) {
        let mut known = self.known.lock().expect("no test panics while it is held");
        known.get_mut(id.as_str()).expect("it was announced").without_effect += 1;
    }

    /// A state was acknowledged; only final ones bind.
    pub fn answered(&self, id: &TransactionId, state: State, reason: Option<Reason>) {
        match state {
            State::Confirmed | State::Canceled => {}
            State::Refused => return self.refused(id),
            State::Pending | State::Reserved | State::NotFound => return,
        }
        let mut known = self.known.lock().expect("no test panics while it is held");
        let entry = known.get_mut(id.as_str()).expect("it was announced");
        let before = *entry.acknowledged.get_or_insert((state, reason));
        if before != (state, reason) {
            self.blame(format!("{id} was answered {before:?}, then {:?}", (state, reason)));
        }
    }

    fn blame(&self, what: String) {
        self.wrong.lock().expect("no test panics while it is held").push(what);
    }

    /// How many transactions were announced so far.
    pub fn count(&self) -> usize {
        self.known.lock().expect("no test panics while it is held").len()
    }

    /// Asks for every transaction, and for every balance. `first` are the balances before the first transaction. Call it
    /// when everything has settled. Panics with whatever is wrong.
    pub async fn check(self: Arc<Self>, world: &World, first: &BTreeMap<String, i64>) -> Figures {
        let ends = self.ask_all(&world.client).await;
        let mut expected = first.clone();
        let mut figures = Figures::default();
        let known = std::mem::take(&mut *self.known.lock().expect("nobody else is left"));
        for (id, known) in &known {
            let end = ends[id];
            self.judge(id, known, end);
            figures.count(known, end);
            if end.0 == State::Confirmed {
                for (account, change) in &known.effect {
                    *expected.get_mut(account.as_str()).expect("an account of this test") += change;
                }
            }
        }
        let real = balances(&world.client).await;
        for (account, expected) in &expected {
            let real = real[account];
            if real != *expected {
                self.blame(format!("{account} has {real}, but confirmed transactions make it {expected}"));
            }
        }
        let wrong = self.wrong.lock().expect("nobody else is left");
        let shown: Vec<&String> = wrong.iter().take(20).collect();
        assert!(wrong.is_empty(), "{} things are wrong, the first: {shown:#?}\n{figures}", wrong.len());
        figures
    }

    fn judge(&self, id: &str, known: &Known, end: Final) {
        let (state, _) = end;
        if !matches!(state, State::Confirmed | State::Canceled | State::NotFound) {
            self.blame(format!("{id} has not ended: {end:?}"));
        }
        if let Some(acknowledged) = known.acknowledged
            && acknowledged != end
        {
            self.blame(format!("{id} was acknowledged {acknowledged:?}, but is {end:?}"));
        }
        if known.calls == known.without_effect && state != State::NotFound {
            self.blame(format!("{id} was refused by all {} calls, but is {end:?}", known.calls));
        }
        if known.never_confirmed && state == State::Confirmed {
            self.blame(format!("{id} is confirmed, but nobody asked for that"));
        }
    }

    async fn ask_all(&self, client: &Client) -> HashMap<String, Final> {
        let ids: Vec<String> =
            self.known.lock().expect("no test panics while it is held").keys().cloned().collect();
        let mut asking = JoinSet::new();
        for part in ids.chunks(ids.len().div_ceil(ASKED_AT_ONCE).max(1)) {
            let (client, part) = (client.clone(), part.to_vec());
            asking.spawn(async move {
                let mut ends = Vec::with_capacity(part.len());
                for id in part {
                    let record = client.get_transaction(&id).await.expect("the coordinator answers");
                    ends.push((id, (record.outcome.state, record.outcome.reason)));
                }
                ends
            });
        }
        asking.join_all().await.into_iter().flatten().collect()
    }
}

impl Figures {
    fn count(&mut self, known: &Known, end: Final) {
        self.transactions += 1;
        let name =
            end.1.map_or_else(|| end.0.code().to_owned(), |reason| format!("{}({reason})", end.0.code()));
        *self.ends.entry(name).or_default() += 1;
        if known.acknowledged.is_some() {
            self.acknowledged += 1;
        } else if known.calls == known.without_effect {
            self.refused += 1;
        } else {
            self.unknown += 1;
            self.unknown_confirmed += usize::from(end.0 == State::Confirmed);
        }
    }
}

/// What is posted on every account, in the first of its currencies.
pub async fn balances(client: &Client) -> BTreeMap<String, i64> {
    let (mut all, mut cursor) = (BTreeMap::new(), String::new());
    loop {
        let (page, next) = client.list_accounts(1_000, &cursor).await.expect("accounts are listed");
        all.extend(page.into_iter().map(|account| {
            let posted = account.balances.first().map_or(0, |balance| balance.posted);
            (account.account_id, posted)
        }));
        if next.is_empty() {
            return all;
        }
        assert_ne!(next, cursor, "a page leads on");
        cursor = next;
    }
}
