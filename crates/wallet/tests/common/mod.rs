//! Accounts, words for commands and a store, shared by the tests.
#![allow(dead_code, clippy::unwrap_used, reason = "test code; each test binary uses its part")]

use std::collections::BTreeMap;

use escrow_types::{AccountId, Currency, Epoch, Partition};
use escrow_wallet::{Command, Hello, OpenAccount, Overdraft, Sender, TryBatch, Wallet};

/// One leg: account, amount, kind.
pub(crate) type Leg = (&'static str, u64, u16);

pub(crate) fn key(id: &str) -> u128 {
    AccountId::new(id).unwrap().key().0
}

pub(crate) fn open(id: &str, currency: Currency, overdraft: Overdraft) -> OpenAccount {
    OpenAccount { id: AccountId::new(id).unwrap(), currency, overdraft }
}

pub(crate) fn hello(partition: u16, epoch: u32, unfinished: &[(u32, u64)]) -> Command {
    let unfinished = unfinished.iter().map(|&(epoch, sequence)| (Epoch(epoch), sequence)).collect();
    Command::Hello(Hello { partition: Partition(partition), epoch: Epoch(epoch), unfinished })
}

pub(crate) fn sender(partition: u16, epoch: u32) -> Sender {
    Sender::new(Partition(partition), Epoch(epoch))
}

/// A batch of branches.
pub(crate) fn batch(sender: Sender, epoch: u32, branches: &[(u64, Vec<Leg>)]) -> TryBatch {
    let rows = || branches.iter().flat_map(|(sequence, legs)| legs.iter().map(move |leg| (*sequence, leg)));
    let sequences = rows().map(|row| row.0).collect();
    let accounts = rows().map(|row| key(row.1.0)).collect();
    let amounts = rows().map(|row| row.1.1).collect();
    let kinds = rows().map(|row| row.1.2).collect();
    TryBatch::new(sender, Epoch(epoch), 77, sequences, accounts, amounts, kinds).unwrap()
}

/// An ordered store that takes a wallet's changes, as sled does.
#[derive(Default)]
pub(crate) struct Store(pub(crate) BTreeMap<Vec<u8>, Vec<u8>>);

impl Store {
    pub(crate) fn take(&mut self, wallet: &mut Wallet) {
        for (key, value) in wallet.take_changes().records() {
            match value {
                Some(value) => drop(self.0.insert(key, value)),
                None => drop(self.0.remove(&key)),
            }
        }
    }

    pub(crate) fn restore(&self) -> Wallet {
        Wallet::from_view(&self.0).unwrap()
    }
}
