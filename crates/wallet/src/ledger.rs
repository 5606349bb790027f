//! The money: accounts, balances and what is reserved of them. Knows nothing of epochs, slots and answers.

use std::ops::Range;

use escrow_types::{AccountKey, Amount, Currency, Millis, Reason, Xid};

use crate::accounts::{Account, Accounts};
use crate::answers::Opened;
use crate::balances::{Balance, Balances, NO_ROW, Overdraft, hash};
use crate::branches::{Branches, Chain, Leg};
use crate::command::{CREDIT, OpenAccount, SetFrozen};

/// Accounts, balances and reserved branches of a shard.
#[derive(Debug, Clone)]
pub(crate) struct Ledger {
    pub(crate) accounts: Accounts,
    pub(crate) balances: Balances,
    pub(crate) branches: Branches,
    currencies: Currencies,
    /// The hashes of some rows of the batch at hand.
    hashes: Vec<u64>,
    /// The balances of those rows, or [`NO_ROW`], and the first of the rows.
    found: Vec<u32>,
    found_first: usize,
}

impl Default for Ledger {
    fn default() -> Self {
        let (accounts, balances, branches) = (Accounts::default(), Balances::default(), Branches::default());
        Self {
            accounts,
            balances,
            branches,
            currencies: Currencies::new(),
            hashes: Vec::new(),
            found: Vec::new(),
            found_first: 0,
        }
    }
}

/// Which numbers are currencies: a bit each, since every leg asks.
#[derive(Debug, Clone)]
struct Currencies([u64; 16]);

impl Currencies {
    fn new() -> Self {
        let mut bits = [0; 16];
        for code in (0..1024).filter(|&code| Currency::from_numeric(code).is_some()) {
            bits[usize::from(code / 64)] |= 1 << (code % 64);
        }
        Self(bits)
    }

    #[inline]
    fn has(&self, code: u16) -> bool {
        self.0.get(usize::from(code / 64)).is_some_and(|word| word >> (code % 64) & 1 == 1)
    }
}

impl Ledger {
    /// Whether a leg can be meant at all: an amount and a currency.
    #[inline]
    pub(crate) fn is_leg(&self, amount: Amount, kind: u16) -> bool {
        amount > 0 && self.currencies.has(kind & !CREDIT)
    }

    /// Finds the balances of some neighbouring branches, before any of them is looked at. Each costs a cache miss in the index and
    /// another in its row; in loops of their own the processor waits for many of them at once.
    #[inline]
    pub(crate) fn find_ahead(
        &mut self,
        first: usize,
        legs: impl Iterator<Item = (u128, Amount, u16)> + Clone,
    ) {
        let Self { balances, hashes, found, found_first, .. } = self;
        *found_first = first;
        hashes.clear();
        hashes.extend(legs.clone().map(|(account, _, kind)| hash(AccountKey(account), kind & !CREDIT)));
        for &hash in hashes.iter() {
            balances.look_ahead(hash);
        }
        let find = |(&hash, (account, _, kind)): (&u64, (u128, Amount, u16))| {
            balances.find_hashed(hash, AccountKey(account), kind & !CREDIT).unwrap_or(NO_ROW)
        };
        found.clear();
        found.extend(hashes.iter().zip(legs).map(find));
    }

    /// Fetches the balances of some reserved branches, before any of them is ended. As [`Ledger::find_ahead`].
    #[inline]
    pub(crate) fn fetch_ahead(&self, places: impl Iterator<Item = u32>) {
        for place in places {
            self.branches.legs(place).for_each(|leg| self.balances.fetch(leg.row()));
        }
    }

    /// Reserves all legs, or none. Each leg sees what those before it left. `rows` are among those
    /// found by [`Ledger::find_ahead`].
    #[inline]
    pub(crate) fn reserve(
        &mut self,
        xid: Xid,
        deadline_ms: Millis,
        rows: Range<usize>,
        legs: impl Iterator<Item = (u128, Amount, u16)>,
    ) -> Result<u32, Reason> {
        let mut chain = Chain::EMPTY;
        for (at, (account, amount, kind)) in rows.zip(legs) {
            match self.reserve_leg(self.found[at - self.found_first], AccountKey(account), amount, kind) {
                Ok(leg) => self.branches.push_leg(&mut chain, leg),
                Err(reason) => {
                    self.roll_back(chain);
                    return Err(reason);
                }
            }
        }
        Ok(self.branches.insert(xid, deadline_ms, chain))
    }

    #[inline]
    fn reserve_leg(&mut self, row: u32, key: AccountKey, amount: Amount, kind: u16) -> Result<Leg, Reason> {
        let credit = kind & CREDIT != 0;
        if row == NO_ROW {
            let known = self.accounts.find(key).is_some();
            return Err(if known { Reason::CurrencyNotHeld } else { Reason::AccountNotFound });
        }
        self.balances.get(row).admits(credit, amount)?;
        self.balances.change(row).reserve(credit, amount);
        Ok(Leg::new(row, credit, amount))
    }

    #[cold]
    fn roll_back(&mut self, chain: Chain) {
        for leg in self.branches.chain_legs(chain) {
            self.balances.change(leg.row()).release(leg.is_credit(), leg.amount);
        }
        self.branches.drop_chain(chain);
    }

    /// Releases what a branch holds.
    #[inline]
    pub(crate) fn release(&mut self, place: u32) {
        for leg in self.branches.legs(place) {
            self.balances.change(leg.row()).release(leg.is_credit(), leg.amount);
        }
        self.branches.remove(place);
    }

    /// Posts a branch in full.
    #[inline]
    pub(crate) fn post(&mut self, place: u32) {
        for leg in self.branches.legs(place) {
            self.balances.change(leg.row()).post(leg.is_credit(), leg.amount, leg.amount);
        }
        self.branches.remove(place);
    }

    /// Posts a branch in part: one amount a leg. Changes nothing and says no if they do not fit.
    pub(crate) fn post_partial(&mut self, place: u32, amounts: &[Amount]) -> bool {
        let fits = amounts.len() == self.branches.legs_count(place)
            && self.branches.legs(place).zip(amounts).all(|(leg, &amount)| amount <= leg.amount);
        if fits {
            for (leg, &amount) in self.branches.legs(place).zip(amounts) {
                self.balances.change(leg.row()).post(leg.is_credit(), leg.amount, amount);
            }
            self.branches.remove(place);
        }
        fits
    }

    /// Whether a reserved branch has exactly these legs.
    pub(crate) fn is_same(
        &self,
        place: u32,
        legs: impl ExactSizeIterator<Item = (u128, Amount, u16)>,
    ) -> bool {
        legs.len() == self.branches.legs_count(place)
            && self.branches.legs(place).zip(legs).all(|(leg, (account, amount, kind))| {
                let balance = self.balances.get(leg.row());
                leg.amount == amount
                    && leg.is_credit() == (kind & CREDIT != 0)
                    && balance.key.0 == account
                    && balance.currency.numeric() == kind & !CREDIT
            })
    }

    /// Opens an account, or a further currency of one.
    pub(crate) fn open(&mut self, row: &OpenAccount) -> Opened {
        let key = row.id.key();
        let account = match self.accounts.find(key) {
            Some(place) if self.accounts.get(place).id != row.id => return Opened::Differs,
            Some(place) => place,
            None => {
                let (id, first_row) = (row.id.clone(), NO_ROW);
                self.accounts.push(Account { id, key, frozen: false, first_row })
            }
        };
        if let Some(existing) = self.balances.find(key, row.currency.numeric()) {
            let same = self.balances.get(existing).overdraft() == row.overdraft;
            return if same { Opened::Existed } else { Opened::Differs };
        }
        self.add_balance(account, row.currency, row.overdraft);
        Opened::Opened
    }

    /// Adds an empty balance to an account, after those it has.
    pub(crate) fn add_balance(&mut self, account: u32, currency: Currency, overdraft: Overdraft) -> u32 {
        let Account { key, frozen, first_row, .. } = *self.accounts.change(account);
        let row = self.balances.push(Balance::new(key, account, currency, overdraft));
        self.balances.change(row).frozen = frozen;
        if first_row == NO_ROW {
            self.accounts.change(account).first_row = row;
        } else {
            let last = self.rows_of(first_row).last().expect("it begins with the first row");
            self.balances.change(last).next = row;
        }
        row
    }

    /// The rows of an account, from its first.
    pub(crate) fn rows_of(&self, first_row: u32) -> impl Iterator<Item = u32> + '_ {
        let some = |row: u32| (row != NO_ROW).then_some(row);
        std::iter::successors(some(first_row), move |&row| some(self.balances.get(row).next))
    }

    /// Freezes or unfreezes; says whether there is such an account.
    pub(crate) fn set_frozen(&mut self, command: SetFrozen) -> bool {
        let Some(place) = self.accounts.find(command.account) else { return false };
        if self.accounts.get(place).frozen != command.frozen {
            self.accounts.change(place).frozen = command.frozen;
            let rows: Vec<u32> = self.rows_of(self.accounts.get(place).first_row).collect();
            for row in rows {
                self.balances.change(row).frozen = command.frozen;
            }
        }
        true
    }

    /// Whether anything changed since the newest checkpoint began.
    pub(crate) const fn has_changes(&self) -> bool {
        let Self { accounts, balances, branches, .. } = self;
        accounts.chunks.has_changes() || balances.chunks.has_changes() || branches.chunks.has_changes()
    }

    /// Whether everything of the checkpoint at hand was copied.
    pub(crate) const fn is_copied(&self) -> bool {
        let Self { accounts, balances, branches, .. } = self;
        accounts.chunks.is_copied() && balances.chunks.is_copied() && branches.chunks.is_copied()
    }
}
