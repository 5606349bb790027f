//! What must hold, told from what is seen from outside: log entries, messages, effects on wallets, answers to callers.

use std::collections::{BTreeMap, BTreeSet};

use escrow_tcc::content::{Content, Direction};
use escrow_tcc::{Command as Logged, Entry};
use escrow_types::{AccountKey, Amount, Answer, Epoch, Sequence, TransactionKey};
use escrow_wallet::Command;

use crate::shard::{Effect, rows};

pub(crate) type Xid = (Epoch, Sequence);

#[derive(Default)]
pub(crate) struct Checks {
    /// Every transaction whose Begin was ever appended; later ones under an xid replace those that were lost.
    pub(crate) begun: BTreeMap<Xid, (TransactionKey, Content)>,
    /// Branches that were posted.
    pub(crate) confirmed: BTreeSet<(Xid, usize)>,
    canceled: BTreeSet<(Xid, usize)>,
    /// Posted balances as the effects add up.
    pub(crate) posted: BTreeMap<AccountKey, i128>,
    /// A Force was appended; it may have been lost. Only undecided ones are forced here, so all ends are atomic.
    pub(crate) forced: BTreeSet<Xid>,
}

impl Checks {
    pub(crate) fn appended(&mut self, epoch: Epoch, entry: &Entry) {
        for command in &entry.commands {
            match command {
                Logged::BeginTransfers(begin) => {
                    for row in 0..begin.len() {
                        let content = Content::Transfer(begin.transfer(row));
                        let xid = (epoch, begin.first + row as u64);
                        self.begun.insert(xid, (TransactionKey(begin.keys[row]), content));
                    }
                }
                Logged::BeginLegs(begin) => {
                    self.begun.insert((epoch, begin.sequence), (begin.key, begin.content()));
                }
                Logged::Force(force) => {
                    self.forced.insert((force.epoch, force.sequence));
                }
                Logged::Attention(attention) => {
                    panic!("a contradiction where nobody breaks the contract: {attention:?}")
                }
                _ => {}
            }
        }
    }

    pub(crate) fn effect(&mut self, shard: usize, effect: &Effect) {
        let rows = rows(&effect.answers);
        let invalid = rows.iter().find(|row| matches!(row.2, Answer::Invalid | Answer::Contradiction));
        assert_eq!(invalid, None, "{:?}", effect.command);
        match &effect.command {
            Command::Try(_) => {
                for &(epoch, sequence, _) in rows.iter().filter(|row| row.2 == Answer::Reserved) {
                    let xid = (epoch, sequence);
                    assert!(!self.canceled.contains(&(xid, shard)), "invariant 7: {xid:?} on {shard}");
                }
            }
            Command::TryAndConfirm(_) => {
                for &(epoch, sequence, _) in rows.iter().filter(|row| row.2 == Answer::Confirmed) {
                    self.confirm((epoch, sequence), shard, None);
                }
            }
            Command::Confirm(batch) => {
                let mut amounts = batch.partial().map(|partial| partial.amounts.as_slice());
                for (at, &(epoch, sequence, answer)) in rows.iter().enumerate() {
                    let own = amounts.map(|all| {
                        let count = batch.partial().expect("there are amounts").legs[at] as usize;
                        let (own, rest) = all.split_at(count);
                        amounts = Some(rest);
                        own
                    });
                    if answer == Answer::Confirmed {
                        self.confirm((epoch, sequence), shard, own);
                    }
                }
            }
            Command::Cancel(_) => {
                for &(epoch, sequence, _) in rows.iter().filter(|row| row.2 == Answer::Canceled) {
                    self.canceled.insert(((epoch, sequence), shard));
                }
            }
            _ => {}
        }
    }

    fn confirm(&mut self, xid: Xid, shard: usize, partial: Option<&[Amount]>) {
        if !self.confirmed.insert((xid, shard)) {
            return;
        }
        assert!(
            !self.canceled.contains(&(xid, shard)),
            "invariant 3: {xid:?} on {shard} canceled, then confirmed"
        );
        let (_, content) =
            self.begun.get(&xid).unwrap_or_else(|| panic!("{xid:?} was confirmed and never began"));
        let legs = content.legs().into_iter().filter(|leg| usize::from(leg.participant.0) == shard);
        for (at, leg) in legs.enumerate() {
            let amount = i128::from(partial.map_or(leg.amount, |amounts| amounts[at]));
            let change = if leg.direction == Direction::Debit { -amount } else { amount };
            *self.posted.entry(leg.account).or_default() += change;
        }
    }

    /// Once nothing is unfinished: invariants 1, 3 and 6.
    pub(crate) fn at_the_end(&self) {
        assert_eq!(self.posted.values().sum::<i128>(), 0, "invariant 1");
        let mut executions: BTreeMap<TransactionKey, BTreeSet<Xid>> = BTreeMap::new();
        for (xid, (key, content)) in &self.begun {
            let on = |shard: usize| self.confirmed.contains(&(*xid, shard));
            let shards: Vec<usize> = content.participants().iter().map(|id| usize::from(id.0)).collect();
            let confirmed = shards.iter().filter(|&&shard| on(shard)).count();
            let whole = confirmed == 0 || confirmed == shards.len();
            assert!(whole, "invariant 3: {xid:?} on {confirmed} of {shards:?}");
            if confirmed > 0 {
                executions.entry(*key).or_default().insert(*xid);
            }
        }
        for (key, xids) in executions {
            assert!(xids.len() == 1, "invariant 6: {key} was executed as {xids:?}");
        }
    }
}
