//! Transfers that go on while things happen, and what their callers were told.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use escrow_client::{Client, ClientError, OpenAccount, Overdraft, State, Transfer};
use escrow_types::{AccountId, Amount, Currency, Reason, TransactionId};
use tokio::time::Instant;

use crate::world::{World, pass, until};

/// Accounts of each shard; the first of them may be overdrawn without limit.
pub const ACCOUNTS: usize = 4;

/// One transfer, and what is known of it.
#[derive(Debug, Clone)]
pub struct Made {
    /// Who pays.
    pub from: AccountId,
    /// Who is paid.
    pub to: AccountId,
    /// How much.
    pub amount: Amount,
    /// What the caller was told, once it was told something final.
    pub told: Option<(State, Option<Reason>)>,
}

/// Every transfer of a story, by its id. Clones are the same.
#[derive(Clone, Default)]
pub struct Load {
    made: Rc<RefCell<BTreeMap<String, Made>>>,
    stop: Rc<Cell<bool>>,
    running: Rc<Cell<usize>>,
    /// The longest that a call took.
    longest: Rc<Cell<Duration>>,
}

impl Load {
    /// Opens the accounts. To be called once, before anything else.
    pub async fn prepare(world: &World, client: &Client) -> Self {
        let mut accounts = Vec::new();
        for shard in 0..world.shards() {
            for which in 0..ACCOUNTS {
                let overdraft = if which == 0 { Overdraft::Unlimited } else { Overdraft::Forbidden };
                let account_id = world.account(shard, which);
                accounts.push(OpenAccount { account_id, currency: Currency::EUR, overdraft });
            }
        }
        until("the accounts are open", Duration::from_secs(20), async || {
            client.open_accounts(&accounts).await.is_ok()
        })
        .await;
        Self::default()
    }

    /// Opens the accounts and starts callers; gives the load once transfers are confirmed.
    pub async fn begin(world: &World, callers: usize) -> Self {
        let client = world.client(|_| ());
        let load = Self::prepare(world, &client).await;
        load.start(world, &client, callers);
        load.more(20).await;
        load
    }

    /// Waits until so many more transfers are confirmed: life goes on.
    pub async fn more(&self, how_many: usize) {
        let before = self.confirmed();
        let goes_on = async || self.confirmed() >= before + how_many;
        until("transfers are confirmed again", Duration::from_secs(40), goes_on).await;
    }

    /// Everything that was tried so far.
    pub fn made(&self) -> BTreeMap<String, Made> {
        self.made.borrow().clone()
    }

    /// How many callers were told that theirs is confirmed.
    pub fn confirmed(&self) -> usize {
        let confirmed = |made: &&Made| matches!(made.told, Some((State::Confirmed, _)));
        self.made.borrow().values().filter(confirmed).count()
    }

    /// The longest that a call took so far.
    pub fn longest(&self) -> Duration {
        self.longest.get()
    }

    /// A transfer between two shards, or within one: not made yet.
    pub fn between(&self, world: &World, from: u16, to: u16) -> Transfer {
        let number = world.inner.transfers.replace(world.inner.transfers.get() + 1);
        let (payer, payee) = (world.below(2) as usize, 2 + world.below(2) as usize);
        // The first may always pay, so that something is confirmed; the second is often out of funds.
        let (from, to) = (world.account(from, payer), world.account(to, payee));
        let id = TransactionId::new(&format!("transfer-{number}")).expect("a good id");
        let transfer = Transfer::new(from, to, 1 + world.below(100), Currency::EUR).with_id(id);
        transfer.with_timeout(Duration::from_secs(3))
    }

    /// A transfer between shards that chance picks.
    pub fn any(&self, world: &World) -> Transfer {
        let shards = u64::from(world.shards());
        self.between(world, world.below(shards) as u16, world.below(shards) as u16)
    }

    /// Remembers a transfer that is about to be made, if it is not by [`Load::call`]. Gives its id.
    pub fn note(&self, transfer: &Transfer) -> String {
        let id = transfer.transaction_id.as_ref().expect("given by the load").to_string();
        let (from, to, amount) = (transfer.from.clone(), transfer.to.clone(), transfer.amount);
        self.made.borrow_mut().entry(id.clone()).or_insert(Made { from, to, amount, told: None });
        id
    }

    /// Makes one call, and remembers what was told.
    pub async fn call(&self, client: &Client, transfer: &Transfer) -> Result<State, ClientError> {
        let id = self.note(transfer);
        let begun = Instant::now();
        let result = client.transfer(transfer).await;
        self.longest.set(self.longest.get().max(begun.elapsed()));
        tracing::debug!(id, ?result, "told");
        let outcome = result?;
        if matches!(outcome.state, State::Confirmed | State::Canceled) {
            let now = (outcome.state, outcome.reason);
            let mut made = self.made.borrow_mut();
            let before = made.get_mut(&id).expect("just put there").told.replace(now);
            assert!(before.is_none_or(|before| before == now), "{id}: told {before:?}, then {now:?}");
        }
        Ok(outcome.state)
    }

    /// Calls again and again until something final is told, or the load is stopped.
    pub async fn insist(&self, client: &Client, transfer: &Transfer) -> Option<State> {
        loop {
            match self.call(client, transfer).await {
                Ok(state @ (State::Confirmed | State::Canceled)) => return Some(state),
                Ok(_) => {}
                Err(error) => assert!(error.is_retryable(), "{transfer:?}: {error}"),
            }
            if self.stop.get() {
                return None;
            }
            pass(Duration::from_millis(50)).await;
        }
    }

    /// Starts callers that make one transfer after the other. To be called on the host of the client.
    pub fn start(&self, world: &World, client: &Client, callers: usize) {
        self.stop.set(false);
        for _ in 0..callers {
            let (load, world, client) = (self.clone(), world.clone(), client.clone());
            self.running.set(self.running.get() + 1);
            tokio::task::spawn_local(async move {
                while !load.stop.get() {
                    let transfer = load.any(&world);
                    load.insist(&client, &transfer).await;
                    pass(world.within_ms(1, 30)).await;
                }
                load.running.set(load.running.get() - 1);
            });
        }
    }

    /// Stops the callers, and waits for their last calls.
    pub async fn stop(&self) {
        self.stop.set(true);
        until("the callers have stopped", Duration::from_secs(40), async || self.running.get() == 0).await;
    }
}
