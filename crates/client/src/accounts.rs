//! `AccountService`. Every call here is the same when done twice, so all are retried.

use std::time::Duration;

use escrow_proto::v1 as proto;
use escrow_types::AccountId;

use crate::client::Client;
use crate::convert;
use crate::error::ClientError;
use crate::model::{Account, AccountAsOf, OpenAccount, OpenedAccount, ReadBounds};

/// How many accounts one message opens at most.
const OPEN_BATCH: usize = 10_000;

impl Client {
    /// Opens accounts, or adds currencies to them, however many: results in the order of `accounts`. Each has its own
    /// result; one refusal does not stop the others.
    pub async fn open_accounts(&self, accounts: &[OpenAccount]) -> Result<Vec<OpenedAccount>, ClientError> {
        let mut results = Vec::with_capacity(accounts.len());
        for batch in accounts.chunks(OPEN_BATCH) {
            let request =
                proto::OpenAccountsRequest { accounts: batch.iter().map(convert::open_account).collect() };
            let response = self
                .call_any(|route| {
                    let (mut service, request) = (self.accounts(route), request.clone());
                    async move { service.open_accounts(request).await }
                })
                .await?;
            if response.results.len() != batch.len() {
                return Err(ClientError::Malformed("not one result for each account".to_owned()));
            }
            results.extend(response.results.into_iter().map(convert::opened_account));
        }
        Ok(results)
    }

    /// One account with its balances. Not there: [`ClientError::Refused`] with `ACCOUNT_NOT_FOUND`.
    pub async fn get_account(&self, account_id: &AccountId) -> Result<Account, ClientError> {
        let response = self
            .call_any(|route| {
                let mut service = self.accounts(route);
                let account_id = account_id.as_str().to_owned();
                let request = proto::GetAccountRequest { account_id, bounds: None };
                async move { service.get_account(request).await }
            })
            .await?;
        convert::account(convert::required(response.account, "an account")?)
    }

    /// One account as of a state that keeps the bounds: any replica of its shard may answer, so that reads go on where no leader is, and
    /// do not load it. A bound of neither kind: as [`Client::get_account`].
    pub async fn get_account_within(
        &self,
        account_id: &AccountId,
        bounds: &ReadBounds,
    ) -> Result<AccountAsOf, ClientError> {
        let age_max_ms =
            bounds.age_max.map_or(0, |age| u32::try_from(age.as_millis()).unwrap_or(u32::MAX).max(1));
        let bounds = proto::ReadBounds { age_max_ms, position: bounds.position.clone() };
        let response = self
            .call_any(|route| {
                let mut service = self.accounts(route);
                let (account_id, bounds) = (account_id.as_str().to_owned(), Some(bounds.clone()));
                let request = proto::GetAccountRequest { account_id, bounds };
                async move { service.get_account(request).await }
            })
            .await?;
        Ok(AccountAsOf {
            account: convert::account(convert::required(response.account, "an account")?)?,
            position: response.position,
            age: response.age_ms.map(Duration::from_millis),
        })
    }

    /// One page of accounts: at most `page_size` (0: the server's default), after `cursor` (empty: from the beginning).
    /// Gives the cursor of the next page, empty after the last.
    pub async fn list_accounts(
        &self,
        page_size: u32,
        cursor: &str,
    ) -> Result<(Vec<Account>, String), ClientError> {
        let response = self
            .call_any(|route| {
                let mut service = self.accounts(route);
                let request = proto::ListAccountsRequest { page_size, cursor: cursor.to_owned() };
                async move { service.list_accounts(request).await }
            })
            .await?;
        let accounts = response.accounts.into_iter().map(convert::account).collect::<Result<_, _>>()?;
        Ok((accounts, response.next_cursor))
    }

    /// Freezes or unfreezes an account and gives it as it is then.
    pub async fn set_frozen(&self, account_id: &AccountId, frozen: bool) -> Result<Account, ClientError> {
        let response = self
            .call_any(|route| {
                let mut service = self.accounts(route);
                let request = proto::SetFrozenRequest { account_id: account_id.as_str().to_owned(), frozen };
                async move { service.set_frozen(request).await }
            })
            .await?;
        convert::account(convert::required(response.account, "an account")?)
    }
}
