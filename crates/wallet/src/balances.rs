//! The balances: one row per account and currency, in a dense table with an index by key.
//!
//! Rows are 64 bytes, never move and are never removed, so that a row's number names it. All arithmetic is checked;
//! what a leg may do is decided in [`Balance::admits`], and from then on no step can fail.

use escrow_invariants::{Invariant, hold};
use escrow_types::codec::{Malformed, Put as _, Take};
use escrow_types::{AccountKey, Amount, Currency, KeyIndex, Reason};

use crate::chunks::{Chunks, rows_of};

/// How far a balance may go below zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overdraft {
    /// Not at all.
    Forbidden,
    /// By this much, in minor units.
    Limit(u64),
    /// To the end of the range; for external and treasury accounts.
    Unlimited,
}

impl Overdraft {
    /// As a policy number and a limit: the form in logs, checkpoints and digests.
    pub(crate) const fn to_numbers(self) -> (u8, u64) {
        match self {
            Self::Forbidden => (0, 0),
            Self::Limit(limit) => (1, limit),
            Self::Unlimited => (2, 0),
        }
    }

    const fn from_numbers(policy: u8, limit: u64) -> Option<Self> {
        match (policy, limit) {
            (0, 0) => Some(Self::Forbidden),
            (1, limit) => Some(Self::Limit(limit)),
            (2, 0) => Some(Self::Unlimited),
            _ => None,
        }
    }

    pub(crate) fn encode(self, out: &mut Vec<u8>) {
        let (policy, limit) = self.to_numbers();
        out.put_u8(policy);
        out.put_u64(limit);
    }

    pub(crate) fn decode(take: &mut Take<'_>) -> Result<Self, Malformed> {
        Self::from_numbers(take.u8()?, take.u64()?).ok_or(Malformed("not an overdraft policy"))
    }
}

/// No further balance of this account.
pub(crate) const NO_ROW: u32 = u32::MAX;

/// The most rows: the number of a row shares 32 bits with a flag.
pub(crate) const ROWS_MAX: usize = 1 << 31;

/// Both ends of the range of a balance.
const BALANCE_MAX: i128 = i64::MAX as i128;

/// One balance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Balance {
    pub(crate) key: AccountKey,
    /// Settled.
    pub(crate) posted: i64,
    /// Held by reservations.
    pub(crate) reserved: u64,
    /// Credits promised by reservations.
    pub(crate) incoming: u64,
    limit: u64,
    /// Place of the account.
    pub(crate) account: u32,
    /// The next balance of the same account, or [`NO_ROW`].
    pub(crate) next: u32,
    pub(crate) currency: Currency,
    policy: u8,
    /// A copy of the account's flag, so that a leg touches one row only.
    pub(crate) frozen: bool,
}

const _: () = assert!(size_of::<Balance>() == 64, "a balance is one cache line");

impl Balance {
    pub(crate) fn new(key: AccountKey, account: u32, currency: Currency, overdraft: Overdraft) -> Self {
        let (policy, limit) = overdraft.to_numbers();
        let (posted, reserved, incoming) = (0, 0, 0);
        let (next, frozen) = (NO_ROW, false);
        Self { key, posted, reserved, incoming, limit, account, next, currency, policy, frozen }
    }

    pub(crate) fn overdraft(&self) -> Overdraft {
        Overdraft::from_numbers(self.policy, self.limit).expect("a row is only made from a policy")
    }

    /// posted − reserved.
    pub(crate) fn available(&self) -> i128 {
        i128::from(self.posted) - i128::from(self.reserved)
    }

    /// Whether its overdraft policy allows that much to be available.
    fn allows(&self, available: i128) -> bool {
        match self.policy {
            0 => available >= 0,
            1 => available >= -i128::from(self.limit),
            _ => true,
        }
    }

    /// Whether it is below what its policy allows: never, unless there is a bug.
    pub(crate) fn is_overdrawn(&self) -> bool {
        !self.allows(self.available())
    }

    /// Whether it takes part in a leg. After a yes, reserving, releasing and posting it cannot fail.
    #[inline]
    pub(crate) fn admits(&self, credit: bool, amount: Amount) -> Result<(), Reason> {
        if self.frozen {
            return Err(Reason::AccountFrozen);
        }
        if credit {
            let highest = i128::from(self.posted) + i128::from(self.incoming) + i128::from(amount);
            return if highest > BALANCE_MAX { Err(Reason::BalanceOverflow) } else { Ok(()) };
        }
        let available = self.available() - i128::from(amount);
        if !self.allows(available) {
            return Err(Reason::InsufficientFunds);
        }
        if available < -BALANCE_MAX { Err(Reason::BalanceOverflow) } else { Ok(()) }
    }

    #[inline]
    pub(crate) fn reserve(&mut self, credit: bool, amount: Amount) {
        let held = if credit { &mut self.incoming } else { &mut self.reserved };
        *held = held.checked_add(amount).expect("admitted: what is held fits the range of a balance");
        if !credit {
            self.hold_overdraft();
        }
    }

    #[inline]
    pub(crate) fn release(&mut self, credit: bool, amount: Amount) {
        let held = if credit { &mut self.incoming } else { &mut self.reserved };
        let left = held.checked_sub(amount);
        hold!(Invariant::NoOverdraft, left.is_some(), "{} releases {amount} of {held}", self.key);
        *held = left.unwrap_or_default();
    }

    /// Ends a hold of `reserved` and moves `amount` of it.
    #[inline]
    pub(crate) fn post(&mut self, credit: bool, reserved: Amount, amount: Amount) {
        assert!(amount <= reserved, "no more is posted than was reserved");
        self.release(credit, reserved);
        let moved = if credit { i128::from(amount) } else { -i128::from(amount) };
        self.posted =
            i64::try_from(i128::from(self.posted) + moved).expect("admitted: the balance stays in range");
        if !credit {
            self.hold_overdraft();
        }
    }

    #[inline]
    fn hold_overdraft(&self) {
        hold!(
            Invariant::NoOverdraft,
            !self.is_overdrawn(),
            "{} has {} available",
            self.key,
            self.available()
        );
    }
}

/// All balances of a shard.
#[derive(Debug, Clone, Default)]
pub(crate) struct Balances {
    rows: Vec<Balance>,
    index: KeyIndex,
    pub(crate) chunks: Chunks<Vec<Balance>>,
}

/// A fixed hash: two rounds of multiply and fold. Keys are UUIDs or hashes already; the order of the index is never seen.
#[inline]
pub(crate) fn hash(key: AccountKey, currency: u16) -> u64 {
    const fn fold(a: u64, b: u64) -> u64 {
        let product = (a as u128).wrapping_mul(b as u128);
        (product as u64) ^ ((product >> 64) as u64)
    }
    let (high, low) = key.halves();
    let mixed = fold(high ^ 0x243F_6A88_85A3_08D3, 0x9E37_79B9_7F4A_7C15);
    fold(mixed ^ low ^ u64::from(currency).rotate_left(48), 0xD6E8_FEB8_6659_FD93)
}

impl Balances {
    pub(crate) fn find(&self, key: AccountKey, currency: u16) -> Option<u32> {
        self.find_hashed(hash(key, currency), key, currency)
    }

    /// As [`Balances::find`], with the [`hash`] of both.
    #[inline]
    pub(crate) fn find_hashed(&self, hash: u64, key: AccountKey, currency: u16) -> Option<u32> {
        self.index.find(hash, |row| {
            let balance = &self.rows[row as usize];
            balance.key == key && balance.currency.numeric() == currency
        })
    }

    /// Only for speed: this hash is looked for next. Many at once cost hardly more than one.
    #[inline]
    pub(crate) fn look_ahead(&self, hash: u64) {
        self.index.look_ahead(hash);
    }

    /// Only for speed: this row is changed next. As [`Balances::look_ahead`].
    #[inline]
    pub(crate) fn fetch(&self, row: u32) {
        std::hint::black_box(self.rows[row as usize].posted);
    }

    /// Adds a row, which must not be there yet.
    pub(crate) fn push(&mut self, balance: Balance) -> u32 {
        assert!(self.rows.len() < ROWS_MAX, "the number of a balance has 31 bits");
        let row = self.rows.len() as u32;
        let rows = &self.rows;
        self.index.insert(hash(balance.key, balance.currency.numeric()), row, |_| false);
        self.chunks.change(row, |chunk| copy(rows, chunk));
        self.rows.push(balance);
        row
    }

    #[inline]
    pub(crate) fn get(&self, row: u32) -> &Balance {
        &self.rows[row as usize]
    }

    /// To change it: it is part of the next checkpoint.
    #[inline]
    pub(crate) fn change(&mut self, row: u32) -> &mut Balance {
        let rows = &self.rows;
        self.chunks.change(row, |chunk| copy(rows, chunk));
        &mut self.rows[row as usize]
    }

    pub(crate) fn rows(&self) -> &[Balance] {
        &self.rows
    }

    /// Copies of what changed, by chunk: see [`Chunks::step`].
    pub(crate) fn copy_changes(&mut self, chunks_max: usize) -> Vec<(u32, Vec<Balance>)> {
        let rows = &self.rows;
        self.chunks.step(chunks_max, |chunk| copy(rows, chunk))
    }
}

fn copy(rows: &[Balance], chunk: u32) -> Vec<Balance> {
    rows[rows_of(chunk, rows.len())].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use escrow_types::Slot;

    fn balance(posted: i64, overdraft: Overdraft) -> Balance {
        Balance { posted, ..Balance::new(AccountKey(1), 0, Currency::USD, overdraft) }
    }

    #[track_caller]
    fn check(balance: Balance, credit: bool, amount: u64, expect: Result<(), Reason>) {
        assert_eq!(balance.admits(credit, amount), expect, "{amount} of {balance:?}");
    }

    #[test]
    fn debits_stop_at_the_overdraft() {
        let short = Err(Reason::InsufficientFunds);
        check(balance(10, Overdraft::Forbidden), false, 10, Ok(()));
        check(balance(10, Overdraft::Forbidden), false, 11, short);
        check(balance(10, Overdraft::Limit(5)), false, 15, Ok(()));
        check(balance(10, Overdraft::Limit(5)), false, 16, short);
        check(balance(0, Overdraft::Limit(0)), false, 1, short);
        check(Balance { reserved: 4, ..balance(10, Overdraft::Forbidden) }, false, 7, short);
        check(Balance { incoming: 4, ..balance(10, Overdraft::Forbidden) }, false, 11, short);
        check(balance(i64::MAX, Overdraft::Forbidden), false, u64::MAX, short);
    }

    #[test]
    fn balances_stay_in_range() {
        let overflow = Err(Reason::BalanceOverflow);
        check(balance(i64::MAX - 1, Overdraft::Forbidden), true, 1, Ok(()));
        check(balance(i64::MAX, Overdraft::Forbidden), true, 1, overflow);
        check(Balance { incoming: i64::MAX as u64, ..balance(0, Overdraft::Forbidden) }, true, 1, overflow);
        check(balance(-i64::MAX, Overdraft::Unlimited), true, u64::MAX - 1, Ok(()));
        check(balance(-i64::MAX, Overdraft::Unlimited), true, u64::MAX, overflow);
        check(balance(0, Overdraft::Unlimited), false, i64::MAX as u64, Ok(()));
        check(balance(0, Overdraft::Unlimited), false, 1 << 63, overflow);
        check(balance(0, Overdraft::Limit(u64::MAX)), false, u64::MAX, overflow);
        check(balance(i64::MAX, Overdraft::Unlimited), false, u64::MAX - 1, Ok(()));
        check(
            Balance { reserved: u64::MAX - 1, ..balance(i64::MAX, Overdraft::Unlimited) },
            false,
            1,
            overflow,
        );
    }

    #[test]
    fn a_frozen_balance_says_so_first() {
        check(
            Balance { frozen: true, ..balance(0, Overdraft::Forbidden) },
            false,
            1,
            Err(Reason::AccountFrozen),
        );
    }

    #[test]
    #[should_panic(expected = "invariant 2")]
    fn releasing_more_than_is_held_stops_the_process() {
        balance(0, Overdraft::Forbidden).release(false, 1);
    }

    /// The index places rows by the highest bits of their hash; a shard has accounts of its own slots only.
    #[test]
    fn keys_that_count_anywhere_spread_over_the_index_of_each_shard() {
        for shift in 0..116 {
            let mut places = [vec![0u32; 4_096], vec![0u32; 4_096]];
            for number in 0..8_192u128 {
                let key = AccountKey((number << shift) | (0b11 << 62));
                let shard = usize::from(Slot::of(key).shard_of(2));
                places[shard][(hash(key, Currency::USD.numeric()) >> 52) as usize] += 1;
            }
            let fullest = places.iter().flatten().max();
            // The mean is 1. Neighbours that are as full as that make a look-up longer, by some words of a cache line or two.
            assert!(fullest.is_some_and(|&count| count <= 32), "shift {shift}: {fullest:?}");
        }
    }

    #[test]
    fn rows_are_found_by_account_and_currency() {
        let mut balances = Balances::default();
        for number in 0..1_000u32 {
            let key = AccountKey(u128::from(number / 2));
            let currency = if number % 2 == 0 { Currency::USD } else { Currency::EUR };
            assert_eq!(balances.push(Balance::new(key, 0, currency, Overdraft::Forbidden)), number);
        }
        assert_eq!(balances.find(AccountKey(250), Currency::EUR.numeric()), Some(501));
        assert_eq!(balances.find(AccountKey(500), Currency::EUR.numeric()), None);
        assert_eq!(balances.find(AccountKey(1), 392), None);
    }
}
