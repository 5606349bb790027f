//! Accounts of a run, and what is on them in the beginning.

use escrow_client::{Client, ClientError, Leg, OpenAccount, Overdraft, State, Wait};
use escrow_types::AccountId;

use super::RunError;
use crate::oracle::Account;
use crate::scenario::{Mix, Shape};
use crate::world::{TREASURY, USD, account_on, id};

/// What everybody begins with: more than a run can take away.
const FUNDS: u64 = 10_000_000;
/// Accounts funded by one transaction: its legs are bounded, and one is the treasury's.
const FUNDED_AT_ONCE: usize = 63;

/// Accounts with money.
pub(super) struct Money {
    /// All of them, by which the oracle names them.
    pub(super) accounts: Vec<AccountId>,
    /// Those of each shard, by their place in the list.
    pub(super) shards: Vec<Vec<Account>>,
}

impl Money {
    /// Opens them on every shard and pays from the treasury.
    pub(super) async fn make(client: &Client, shape: &Shape, mix: &Mix) -> Result<Self, RunError> {
        let (mut accounts, mut shards) = (Vec::new(), Vec::new());
        for shard in 0..shape.participants {
            let first = accounts.len() as Account;
            accounts.extend(
                (0..mix.accounts).map(|number| {
                    account_on(shard, shape.participants, &format!("account-{shard}-{number}"))
                }),
            );
            shards.push((first..accounts.len() as Account).collect());
        }
        let treasury = id(TREASURY);
        open(client, std::slice::from_ref(&treasury), Overdraft::Unlimited).await?;
        open(client, &accounts, Overdraft::Forbidden).await?;
        for some in accounts.chunks(FUNDED_AT_ONCE) {
            let mut legs = vec![Leg::debit(treasury.clone(), FUNDS * some.len() as u64, USD)];
            legs.extend(some.iter().map(|account| Leg::credit(account.clone(), FUNDS, USD)));
            let outcome = client.execute(None, &legs, Wait::Completed, None).await?;
            if outcome.state != State::Confirmed {
                return Err(RunError::Cannot(format!("accounts were not funded: {outcome:?}")));
            }
        }
        Ok(Self { accounts, shards })
    }
}

async fn open(client: &Client, accounts: &[AccountId], overdraft: Overdraft) -> Result<(), ClientError> {
    let open = |account: &AccountId| OpenAccount { account_id: account.clone(), currency: USD, overdraft };
    let wanted: Vec<OpenAccount> = accounts.iter().map(open).collect();
    for opened in client.open_accounts(&wanted).await? {
        if let Some(reason) = opened.reason {
            return Err(ClientError::Refused { reason, message: format!("{}: {reason}", opened.account_id) });
        }
    }
    Ok(())
}
