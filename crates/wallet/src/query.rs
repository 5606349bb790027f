//! What can be asked of a wallet. Nothing here changes it; pages are bounded by the caller's limit.

use std::collections::BTreeMap;
use std::ops::Bound::{Included, Unbounded};

use escrow_types::{AccountId, AccountKey, Amount, Currency, Epoch, Millis, Partition, Xid};

use crate::accounts::Account;
use crate::balances::Overdraft;
use crate::wallet::Wallet;

/// An account with its balances, in the order of their opening.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountView {
    /// The id as the caller gave it.
    pub id: String,
    /// Whether it refuses new work.
    pub frozen: bool,
    /// One a currency.
    pub balances: Vec<BalanceView>,
}

/// A balance, in minor units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BalanceView {
    /// Of this currency.
    pub currency: Currency,
    /// Settled.
    pub posted: i64,
    /// Held by reservations.
    pub reserved: Amount,
    /// Credits promised.
    pub incoming: Amount,
    /// posted − reserved; always in the range of `i64`.
    pub available: i64,
    /// How far it may go below zero.
    pub overdraft: Overdraft,
}

/// Sums over all balances of one currency.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CurrencyTotal {
    /// The currency.
    pub currency: Currency,
    /// Settled. Over all shards, with what is in transit, this is zero.
    pub posted: i128,
    /// Held by reservations.
    pub reserved: i128,
    /// Credits promised.
    pub incoming: i128,
    /// How many balances.
    pub balances: u64,
}

/// A reservation that is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReservationView {
    /// Whose.
    pub xid: Xid,
    /// When the shard may begin to ask; Unix milliseconds.
    pub deadline_ms: Millis,
    /// How many legs.
    pub legs: usize,
}

impl Wallet {
    /// One account.
    pub fn account(&self, key: AccountKey) -> Option<AccountView> {
        self.ledger.accounts.find(key).map(|place| self.account_view(self.ledger.accounts.get(place)))
    }

    /// Accounts in the order of their opening, from a place on; the second value is the place to go on from, if any
    /// are left. A place stays valid for ever.
    pub fn accounts(&self, from: u32, limit: usize) -> (Vec<AccountView>, Option<u32>) {
        let rows = self.ledger.accounts.rows();
        let start = (from as usize).min(rows.len());
        let end = start.saturating_add(limit).min(rows.len());
        let page = rows[start..end].iter().map(|account| self.account_view(account)).collect();
        (page, (end < rows.len()).then_some(end as u32))
    }

    /// The ids of all accounts, in the order of their opening.
    pub fn account_ids(&self) -> impl Iterator<Item = &AccountId> + '_ {
        self.ledger.accounts.rows().iter().map(|account| &account.id)
    }

    fn account_view(&self, account: &Account) -> AccountView {
        let balance = |row| {
            let balance = self.ledger.balances.get(row);
            BalanceView {
                currency: balance.currency,
                posted: balance.posted,
                reserved: balance.reserved,
                incoming: balance.incoming,
                available: i64::try_from(balance.available())
                    .expect("a debit is admitted only within the range"),
                overdraft: balance.overdraft(),
            }
        };
        AccountView {
            id: account.id.as_str().to_owned(),
            frozen: account.frozen,
            balances: self.ledger.rows_of(account.first_row).map(balance).collect(),
        }
    }

    /// Sums per currency, in the order of their numbers.
    pub fn totals(&self) -> Vec<CurrencyTotal> {
        let mut totals = BTreeMap::new();
        for balance in self.ledger.balances.rows() {
            let currency = balance.currency;
            let empty = CurrencyTotal { currency, posted: 0, reserved: 0, incoming: 0, balances: 0 };
            let total = totals.entry(currency).or_insert(empty);
            // 2^31 rows of 64 bits are far from 127 bits.
            total.posted += i128::from(balance.posted);
            total.reserved += i128::from(balance.reserved);
            total.incoming += i128::from(balance.incoming);
            total.balances += 1;
        }
        totals.into_values().collect()
    }

    /// Ids of accounts below what their overdraft allows, at most `limit`: must be empty.
    pub fn overdrawn(&self, limit: usize) -> Vec<String> {
        let overdrawn = self.ledger.balances.rows().iter().filter(|balance| balance.is_overdrawn());
        let id = |account| self.ledger.accounts.get(account).id.as_str().to_owned();
        overdrawn.map(|balance| id(balance.account)).take(limit).collect()
    }

    /// How many accounts there are.
    pub fn accounts_count(&self) -> usize {
        self.ledger.accounts.rows().len()
    }

    /// How many reservations are held.
    pub fn reservations_held(&self) -> usize {
        self.ledger.branches.live()
    }

    /// Reservations that are held, in the order of their xids, after one of them.
    pub fn reservations(&self, after: Option<Xid>, limit: usize) -> Vec<ReservationView> {
        let from = after.map_or(Unbounded, |xid| Included(xid.partition));
        let partitions = self.partitions.range((from, Unbounded));
        let views = partitions.flat_map(|(&partition, _)| self.reservations_of(partition, after));
        views.take(limit).collect()
    }

    /// Reservations of one coordinator partition that are past their deadline, in the order of their xids, after one
    /// of them. To ask about all of them in bounded portions, go on after the last, and begin anew at the end.
    pub fn overdue(
        &self,
        partition: Partition,
        now_ms: Millis,
        after: Option<Xid>,
        limit: usize,
    ) -> Vec<ReservationView> {
        if self.ledger.branches.live() == 0 {
            return Vec::new();
        }
        self.reservations_of(partition, after).filter(|view| view.deadline_ms < now_ms).take(limit).collect()
    }

    fn reservations_of(
        &self,
        partition: Partition,
        after: Option<Xid>,
    ) -> impl Iterator<Item = ReservationView> + '_ {
        let after = after.filter(|xid| xid.partition == partition).map(|xid| (xid.epoch, xid.sequence));
        let state = self.partitions.get(&partition);
        state.into_iter().flat_map(move |state| state.reserved_after(after)).map(|(_, _, place)| {
            let branch = self.ledger.branches.get(place);
            let legs = self.ledger.branches.legs_count(place);
            ReservationView { xid: branch.xid, deadline_ms: branch.deadline_ms, legs }
        })
    }

    /// The newest epoch that a coordinator partition opened here, if any.
    pub fn epoch(&self, partition: Partition) -> Option<Epoch> {
        self.partitions.get(&partition).map(|state| state.epoch)
    }

    /// The newest epoch of every coordinator partition that ever opened one here.
    pub fn epochs(&self) -> impl Iterator<Item = (Partition, Epoch)> + '_ {
        self.partitions.iter().map(|(&partition, state)| (partition, state.epoch))
    }

    /// The newest time of an applied command.
    pub const fn time_ms(&self) -> Millis {
        self.time_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Fixture, USD};

    #[test]
    fn accounts_page_in_the_order_of_their_opening() {
        let wallet = Fixture::new().wallet;
        let ids = |page: &[AccountView]| page.iter().map(|view| view.id.clone()).collect::<Vec<_>>();
        let (first, next) = wallet.accounts(0, 3);
        assert_eq!(ids(&first), ["alice", "bob", "frozen"]);
        let (second, end) = wallet.accounts(next.unwrap(), 3);
        assert_eq!((ids(&second), end), (vec!["external".to_owned()], None));
        assert_eq!(wallet.accounts(u32::MAX, usize::MAX), (vec![], None));
    }

    #[test]
    fn totals_conserve() {
        let mut fixture = Fixture::new();
        fixture.reserved(0);
        let totals = fixture.wallet.totals();
        assert_eq!(totals.len(), 1);
        assert_eq!((totals[0].posted, totals[0].reserved, totals[0].balances), (0, 10, 4));
        assert!(fixture.wallet.overdrawn(10).is_empty());
    }

    #[test]
    fn overdue_are_past_their_deadline_and_page() {
        let mut fixture = Fixture::new();
        for sequence in 0..3 {
            fixture.reserved(sequence);
        }
        let overdue = |now, after, limit| {
            let views = fixture.wallet.overdue(Partition(0), now, after, limit);
            views.iter().map(|view| view.xid.sequence).collect::<Vec<_>>()
        };
        let xid = |sequence| Xid::new(Partition(0), Epoch(2), sequence);
        assert_eq!(overdue(1_000, None, 9), Vec::<u64>::new(), "at the deadline is not past it");
        assert_eq!(overdue(1_001, None, 2), [0, 1]);
        assert_eq!(overdue(1_001, Some(xid(1)), 2), [2]);
        assert_eq!(fixture.wallet.overdue(Partition(1), 1_001, None, 9), []);
        let all = fixture.wallet.reservations(Some(xid(0)), 9);
        assert_eq!(all.iter().map(|view| view.xid).collect::<Vec<_>>(), [xid(1), xid(2)]);
    }

    #[test]
    fn an_account_shows_all_its_currencies() {
        use crate::command::{Command, OpenAccount};
        use escrow_types::AccountId;
        let mut fixture = Fixture::new();
        let id = AccountId::new("alice").unwrap();
        let euro = OpenAccount { id: id.clone(), currency: Currency::EUR, overdraft: Overdraft::Limit(5) };
        fixture.wallet.apply(0, &Command::OpenAccounts(vec![euro]));
        fixture.freeze("alice");
        let view = fixture.wallet.account(id.key()).unwrap();
        let currencies: Vec<_> = view.balances.iter().map(|balance| balance.currency.numeric()).collect();
        assert_eq!((currencies, view.frozen), (vec![USD, 978], true));
        assert_eq!(fixture.try_legs(0, &[("alice", 1, 978)]).to_byte(), 0x40 | 3);
    }
}
