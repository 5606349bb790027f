//! What callers want: each has an id and a content, and asks again until it knows.

use escrow_tcc::content::{Direction, Leg};
use escrow_tcc::driver::{LegsRequest, TransferRequest};
use escrow_tcc::machine::Decision;
use escrow_types::{AccountId, AccountKey, Amount, Currency, TransactionKey};

use crate::coordinator::routing;
use crate::prng::Prng;

/// The first may go below zero without limit, the last does not exist.
pub(crate) const ACCOUNTS: [&str; 8] = ["bank", "a", "b", "c", "d", "e", "f", "nobody"];

pub(crate) fn account(index: usize) -> AccountKey {
    AccountId::new(ACCOUNTS[index]).expect("a good id").key()
}

pub(crate) enum Plan {
    Transfer { from: usize, to: usize, amount: Amount },
    Legs { two_step: bool, legs: Vec<(usize, Direction, Amount)> },
}

/// What the caller of a two-step transaction does when it is reserved.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    Confirm,
    Half,
    Cancel,
    Nothing,
}

pub(crate) struct Job {
    pub(crate) key: TransactionKey,
    pub(crate) plan: Plan,
    pub(crate) then: Then,
    pub(crate) reserved: bool,
    pub(crate) told: Option<Decision>,
}

impl Job {
    pub(crate) fn new(number: u64, prng: &mut Prng) -> Self {
        let pick = |prng: &mut Prng| if prng.one_in(40) { 7 } else { prng.index(7) };
        let from = if prng.one_in(3) { 0 } else { pick(prng) };
        let mut other = || loop {
            let to = pick(prng);
            if to != from {
                break to;
            }
        };
        let (to, also) = (other(), other());
        let amount = 2 * (1 + prng.below(40));
        let plan = match prng.below(4) {
            0 | 1 => Plan::Transfer { from, to, amount },
            kind => {
                let debit = (from, Direction::Debit, amount * 2);
                let legs = vec![debit, (to, Direction::Credit, amount), (also, Direction::Credit, amount)];
                Plan::Legs { two_step: kind == 2, legs }
            }
        };
        let then = [Then::Confirm, Then::Half, Then::Cancel, Then::Nothing][prng.index(4)];
        let key = TransactionKey((u128::from(number) << 64) | 0b11 << 62);
        Self { key, plan, then, reserved: false, told: None }
    }

    pub(crate) fn is_two_step(&self) -> bool {
        matches!(self.plan, Plan::Legs { two_step: true, .. })
    }

    pub(crate) fn transfer(&self, timeout_ms: u64) -> Option<TransferRequest<'static>> {
        let Plan::Transfer { from, to, amount } = self.plan else { return None };
        Some(TransferRequest {
            key: self.key,
            from: account(from),
            to: account(to),
            amount,
            currency: Currency::USD,
            timeout_ms,
            names: None,
        })
    }

    pub(crate) fn legs(&self, shards: usize, timeout_ms: u64) -> Option<LegsRequest> {
        let Plan::Legs { two_step, legs } = &self.plan else { return None };
        let routing = routing(shards);
        let leg = |&(index, direction, amount): &(usize, Direction, Amount)| Leg {
            participant: routing.of(account(index)).expect("there are shards"),
            account: account(index),
            account_id: Some(ACCOUNTS[index].into()),
            direction,
            amount,
            currency: Currency::USD,
        };
        let (key, two_step, legs) = (self.key, *two_step, legs.iter().map(leg).collect());
        Some(LegsRequest { key, transaction_id: None, two_step, legs, timeout_ms })
    }

    /// The amounts of a Confirm in half.
    pub(crate) fn half(&self) -> Vec<Amount> {
        match &self.plan {
            Plan::Legs { legs, .. } => legs.iter().map(|leg| leg.2 / 2).collect(),
            Plan::Transfer { .. } => Vec::new(),
        }
    }
}
