//! What callers were told, and what must therefore be true in the end.
//!
//! A call ends in one of three ways: an outcome is acknowledged; it certainly had no effect; or nobody knows. In the end
//! the coordinator is asked for every id: what was acknowledged must be what it says, what had no effect must not be
//! there, and the balances must be what the confirmed transactions make of the first balances: no more, no less.
//!
//! A transaction takes about a hundred bytes, so that a run may have millions.
//!
//! **Invariant:** judges by what callers saw and what the servers answer, and never by what the servers ought to do.

mod ask;
mod judge;

pub use ask::{AskError, balances, outcomes};
pub use judge::{Figures, Judgement};

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use escrow_client::{ClientError, Outcome, State};
use escrow_types::{AccountId, Reason, TransactionKey};

/// A final answer: confirmed, or canceled for a reason.
pub type Final = (State, Option<Reason>);

/// An account of the load, by its place in the list of them.
pub type Account = u32;

/// What a transaction does to balances if it is confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// One debit and one credit of so much.
    Transfer {
        /// Who pays.
        from: Account,
        /// Who is paid.
        to: Account,
        /// How much.
        amount: u64,
    },
    /// Accounts with what is added to each.
    Legs(Box<[(Account, i64)]>),
}

impl Effect {
    /// What is added to each account.
    fn changes(&self) -> impl Iterator<Item = (Account, i64)> + '_ {
        let (transfer, legs) = match self {
            Self::Transfer { from, to, amount } => {
                (Some([(*from, -amount.cast_signed()), (*to, amount.cast_signed())]), &[][..])
            }
            Self::Legs(legs) => (None, &legs[..]),
        };
        transfer.into_iter().flatten().chain(legs.iter().copied())
    }
}

/// Everything known of one transaction.
#[derive(Debug)]
struct Known {
    key: TransactionKey,
    effect: Effect,
    /// Calls that might begin it, and how many of those certainly did not.
    calls: u16,
    without_effect: u16,
    /// The caller never asks to confirm it.
    never_confirmed: bool,
    acknowledged: Option<Final>,
}

#[derive(Debug, Default)]
struct Memory {
    known: Vec<Known>,
    by_key: HashMap<TransactionKey, u32>,
    /// Answers that contradict each other or the contract, as they came.
    told_wrong: Wrong,
    /// Other content that was taken under a known id.
    other_content: Wrong,
    /// How often other content was tried and refused as it must be.
    other_content_refused: u64,
}

/// Things that are wrong: how many, and the first few.
#[derive(Debug, Default, Clone)]
struct Wrong {
    count: u64,
    first: Vec<String>,
}

impl Wrong {
    /// Told in full.
    const SHOWN: usize = 5;

    fn push(&mut self, what: impl FnOnce() -> String) {
        self.count += 1;
        if self.first.len() < Self::SHOWN {
            self.first.push(what());
        }
    }
}

/// Remembers every transaction and every answer. All of its methods may be called from many tasks.
#[derive(Debug)]
pub struct Oracle {
    accounts: Vec<AccountId>,
    memory: Mutex<Memory>,
}

impl Oracle {
    /// Remembers nothing yet. `accounts` are all that the load moves money between.
    pub fn new(accounts: Vec<AccountId>) -> Self {
        Self { accounts, memory: Mutex::default() }
    }

    /// The accounts, in the order by which they are named here.
    pub fn accounts(&self) -> &[AccountId] {
        &self.accounts
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().expect("nothing panics while it is held")
    }

    /// A call is about to be made that may begin a transaction. The same id always has the same effect.
    pub fn begins(&self, key: TransactionKey, effect: Effect, never_confirmed: bool) {
        let memory = &mut *self.memory();
        let next = memory.known.len() as u32;
        let at = *memory.by_key.entry(key).or_insert(next);
        if at == next {
            let fresh =
                Known { key, effect, calls: 0, without_effect: 0, never_confirmed, acknowledged: None };
            memory.known.push(fresh);
        }
        memory.known[at as usize].calls += 1;
    }

    /// Such a call ended.
    pub fn ended(&self, key: TransactionKey, result: &Result<Outcome, ClientError>) {
        match result {
            Ok(outcome) => self.answered(key, outcome.state, outcome.reason),
            Err(error) if error.has_no_effect() => self.refused(key),
            Err(_) => {}
        }
    }

    /// It certainly did not begin by this call.
    pub fn refused(&self, key: TransactionKey) {
        let memory = &mut *self.memory();
        let at = memory.by_key[&key];
        memory.known[at as usize].without_effect += 1;
    }

    /// A state was acknowledged; only final ones bind.
    pub fn answered(&self, key: TransactionKey, state: State, reason: Option<Reason>) {
        match state {
            State::Confirmed | State::Canceled => {}
            State::Refused => return self.refused(key),
            State::Pending | State::Reserved | State::NotFound => return,
        }
        let memory = &mut *self.memory();
        let at = memory.by_key[&key];
        let before = *memory.known[at as usize].acknowledged.get_or_insert((state, reason));
        if before != (state, reason) {
            memory.told_wrong.push(|| format!("{key} was answered {before:?}, then {:?}", (state, reason)));
        }
    }

    /// Other content was sent under an id that is acknowledged already. Only a refusal is right; no answer says nothing.
    pub fn other_content(&self, key: TransactionKey, result: &Result<Outcome, ClientError>) {
        let memory = &mut *self.memory();
        match result {
            Ok(outcome) => {
                memory.other_content.push(|| format!("{key}: other content was answered {outcome:?}"));
            }
            Err(error) if error.reason() == Some(Reason::TransactionIdReused) => {
                memory.other_content_refused += 1;
            }
            Err(_) => {}
        }
    }

    /// How many transactions were announced so far.
    pub fn count(&self) -> usize {
        self.memory().known.len()
    }

    /// Every id that was announced, in that order.
    pub fn keys(&self) -> Vec<TransactionKey> {
        self.memory().known.iter().map(|known| known.key).collect()
    }
}
