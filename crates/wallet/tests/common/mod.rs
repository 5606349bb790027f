//! Accounts, words for commands and a store, shared by the tests.
#![allow(dead_code, clippy::unwrap_used, reason = "test code; each test binary uses its part")]

use std::collections::BTreeMap;

use escrow_types::{AccountId, Currency, Digest, Epoch, Partition};
use escrow_wallet::{Command, Hello, OpenAccount, Overdraft, Record, Sender, TryBatch, Wallet};

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

/// An ordered store that takes a wallet's checkpoints, each as one, as sled does.
#[derive(Default)]
pub(crate) struct Store {
    pub(crate) records: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Of the checkpoint that is being copied.
    parts: Vec<Record>,
    /// What the wallet was when it began.
    begun: Option<Digest>,
}

impl Store {
    /// A whole checkpoint, after the one that was being copied.
    pub(crate) fn take(&mut self, wallet: &mut Wallet) {
        while self.begun.is_some() {
            self.step(wallet);
        }
        self.put(wallet.take_changes().records().collect());
    }

    /// Begins a checkpoint, or copies a part of it; what is whole is what the wallet was when it began.
    pub(crate) fn step(&mut self, wallet: &mut Wallet) {
        let Some(begun) = self.begun else {
            self.begun = Some(wallet.digest());
            self.parts = wallet.begin_changes().records().collect();
            assert!(!wallet.has_changes());
            return;
        };
        if let Some(part) = wallet.copy_changes(1) {
            self.parts.extend(part.records());
            return;
        }
        self.begun = None;
        let parts = std::mem::take(&mut self.parts);
        self.put(parts);
        assert_eq!(self.restore().digest(), begun);
    }

    fn put(&mut self, records: Vec<Record>) {
        for (key, value) in records {
            match value {
                Some(value) => drop(self.records.insert(key, value)),
                None => drop(self.records.remove(&key)),
            }
        }
    }

    pub(crate) fn restore(&self) -> Wallet {
        Wallet::from_view(&self.records).unwrap()
    }
}
