//! Asks the servers what the judgement needs: the outcome of every transaction and every balance.

use std::collections::HashMap;

use escrow_client::{Client, ClientError};
use escrow_types::{AccountId, TransactionKey};
use tokio::task::JoinSet;

use super::Final;

/// Questions at a time when every id is asked for.
const ASKED_AT_ONCE: usize = 256;
/// Accounts a page.
const PAGE: u32 = 1_000;

/// Why there is nothing to judge by.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// A server does not answer.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// An account is not there any more.
    #[error("account {0} is gone")]
    Gone(AccountId),
    /// A task ended before its time.
    #[error("the questions were not all asked: {0}")]
    Ended(#[from] tokio::task::JoinError),
}

/// What the coordinators say of these transactions, in their order.
pub async fn outcomes(client: &Client, keys: &[TransactionKey]) -> Result<Vec<Final>, AskError> {
    let mut asking = JoinSet::new();
    let part = keys.len().div_ceil(ASKED_AT_ONCE).max(1);
    for (number, keys) in keys.chunks(part).enumerate() {
        let (client, keys) = (client.clone(), keys.to_vec());
        asking.spawn(async move {
            let mut ends = Vec::with_capacity(keys.len());
            for key in keys {
                let record = client.get_transaction(&key.to_string()).await?;
                ends.push((record.outcome.state, record.outcome.reason));
            }
            Ok::<_, ClientError>((number, ends))
        });
    }
    let mut parts = Vec::new();
    while let Some(ended) = asking.join_next().await {
        parts.push(ended??);
    }
    parts.sort_by_key(|(number, _)| *number);
    Ok(parts.into_iter().flat_map(|(_, ends)| ends).collect())
}

/// What is posted on these accounts, in their order, each in the first of its currencies.
pub async fn balances(client: &Client, accounts: &[AccountId]) -> Result<Vec<i64>, AskError> {
    let (mut all, mut cursor) = (HashMap::new(), String::new());
    loop {
        let (page, next) = client.list_accounts(PAGE, &cursor).await?;
        all.extend(page.into_iter().map(|account| {
            let posted = account.balances.first().map_or(0, |balance| balance.posted);
            (account.account_id, posted)
        }));
        if next.is_empty() || next == cursor {
            break;
        }
        cursor = next;
    }
    let balance = |account: &AccountId| {
        all.get(account.as_str()).copied().ok_or_else(|| AskError::Gone(account.clone()))
    };
    accounts.iter().map(balance).collect()
}
