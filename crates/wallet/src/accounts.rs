//! The accounts: their ids as callers gave them, in the order of their opening, with an index by key.

use escrow_types::{AccountId, AccountKey, KeyIndex};

use crate::balances;
use crate::chunks::{Chunks, rows_of};

/// One account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) id: AccountId,
    pub(crate) key: AccountKey,
    pub(crate) frozen: bool,
    /// The first of its balances; each names the next.
    pub(crate) first_row: u32,
}

/// All accounts of a shard.
#[derive(Debug, Clone, Default)]
pub(crate) struct Accounts {
    rows: Vec<Account>,
    index: KeyIndex,
    pub(crate) chunks: Chunks<Vec<Account>>,
}

/// As that of balances.
fn hash(key: AccountKey) -> u64 {
    balances::hash(key, 0)
}

impl Accounts {
    pub(crate) fn find(&self, key: AccountKey) -> Option<u32> {
        self.index.find(hash(key), |place| self.rows[place as usize].key == key)
    }

    /// Adds an account, which must not be there yet.
    pub(crate) fn push(&mut self, account: Account) -> u32 {
        let place = u32::try_from(self.rows.len()).expect("the place of an account has 32 bits");
        let rows = &self.rows;
        self.index.insert(hash(account.key), place, |_| false);
        self.chunks.change(place, |chunk| copy(rows, chunk));
        self.rows.push(account);
        place
    }

    pub(crate) fn get(&self, place: u32) -> &Account {
        &self.rows[place as usize]
    }

    /// To change it: it is part of the next checkpoint.
    pub(crate) fn change(&mut self, place: u32) -> &mut Account {
        let rows = &self.rows;
        self.chunks.change(place, |chunk| copy(rows, chunk));
        &mut self.rows[place as usize]
    }

    pub(crate) fn rows(&self) -> &[Account] {
        &self.rows
    }

    /// Copies of what changed, by chunk: see [`Chunks::step`].
    pub(crate) fn copy_changes(&mut self, chunks_max: usize) -> Vec<(u32, Vec<Account>)> {
        let rows = &self.rows;
        self.chunks.step(chunks_max, |chunk| copy(rows, chunk))
    }
}

fn copy(rows: &[Account], chunk: u32) -> Vec<Account> {
    rows[rows_of(chunk, rows.len())].to_vec()
}
