//! The naive model: maps, and the rules of the protocol written down once more, as plainly as possible.

use std::collections::{BTreeMap, HashMap, HashSet};

use escrow_types::{AccountKey, Answer, Epoch, Reason};
use escrow_wallet::{
    Answers, BranchAnswers, Command, EndBatch, Opened, Overdraft, TryBatch, WINDOW_SLOTS_MAX, Wallet,
};

type Xid = (u16, u32, u64);
type Leg = (u128, u64, u16);

#[derive(Debug, Clone, PartialEq)]
enum Branch {
    Reserved(Vec<Leg>),
    Confirmed,
    Canceled,
    EmptyCanceled,
    Rejected(Reason),
}

#[derive(Debug, Clone)]
struct Balance {
    posted: i128,
    reserved: i128,
    incoming: i128,
    overdraft: Overdraft,
}

#[derive(Default)]
pub(crate) struct Model {
    frozen: HashMap<u128, bool>,
    balances: HashMap<(u128, u16), Balance>,
    epochs: HashMap<u16, u32>,
    bases: HashMap<u16, u64>,
    /// What was seen; anything else is unseen or finished.
    branches: BTreeMap<Xid, Branch>,
    /// Behind the open epoch or the watermark, and not finished.
    stragglers: HashSet<Xid>,
}

impl Model {
    pub(crate) fn epoch(&self, partition: u16) -> u32 {
        self.epochs.get(&partition).copied().unwrap_or(0)
    }

    pub(crate) fn base(&self, partition: u16) -> u64 {
        self.bases.get(&partition).copied().unwrap_or(0)
    }

    fn is_open(&self, (partition, epoch, sequence): Xid) -> bool {
        epoch == self.epoch(partition) && sequence >= self.base(partition)
    }

    fn is_finished(&self, xid: Xid) -> bool {
        !self.is_open(xid) && !self.stragglers.contains(&xid)
    }

    fn is_beyond(&self, xid: Xid) -> bool {
        self.is_open(xid) && xid.2 - self.base(xid.0) >= WINDOW_SLOTS_MAX as u64
    }

    pub(crate) fn apply(&mut self, command: &Command) -> Answers {
        match command {
            Command::Hello(hello) => {
                let (partition, epoch) = (hello.partition.0, hello.epoch.0);
                let open = self.epoch(partition);
                if epoch > open {
                    let named =
                        hello.unfinished.iter().map(|&(epoch, sequence)| (partition, epoch.0, sequence));
                    let older = named.filter(|xid| xid.1 < epoch);
                    // Of epochs that never said hello nothing can have finished.
                    let kept = older.filter(|&xid| xid.1 > open || !self.is_finished(xid)).collect();
                    self.epochs.insert(partition, epoch);
                    self.bases.insert(partition, 0);
                    self.forget_all_but(partition, None, &kept);
                }
                let newest = self.epoch(partition);
                Answers::Hello { accepted: epoch == newest && newest > 0, epoch: Epoch(newest) }
            }
            Command::Watermark(watermark) => {
                let (partition, epoch) = (watermark.sender.partition.0, watermark.epoch.0);
                let open = self.epoch(partition);
                let goes_on = epoch < open || watermark.below >= self.base(partition);
                if open > 0 && watermark.sender.epoch.0 == open && epoch <= open && goes_on {
                    let named = watermark.except.iter().map(|&sequence| (partition, epoch, sequence));
                    let passed = named.filter(|xid| epoch < open || xid.2 < watermark.below);
                    let kept = passed.filter(|&xid| !self.is_finished(xid)).collect();
                    if epoch == open {
                        self.bases.insert(partition, watermark.below);
                    }
                    self.forget_all_but(partition, Some(epoch), &kept);
                }
                Answers::Watermark
            }
            Command::Try(batch) => self.try_batch(batch, false),
            Command::TryAndConfirm(batch) => self.try_batch(batch, true),
            Command::Confirm(batch) => self.end_batch(batch, true),
            Command::Cancel(batch) => self.end_batch(batch, false),
            Command::Fence(batch) => self.fence_batch(batch),
            Command::OpenAccounts(rows) => Answers::Opened(
                rows.iter()
                    .map(|row| {
                        let key = row.id.key().0;
                        self.frozen.entry(key).or_insert(false);
                        match self.balances.get(&(key, row.currency.numeric())) {
                            Some(balance) if balance.overdraft == row.overdraft => Opened::Existed,
                            Some(_) => Opened::Differs,
                            None => {
                                let (posted, reserved, incoming) = (0, 0, 0);
                                let balance =
                                    Balance { posted, reserved, incoming, overdraft: row.overdraft };
                                self.balances.insert((key, row.currency.numeric()), balance);
                                Opened::Opened
                            }
                        }
                    })
                    .collect(),
            ),
            Command::SetFrozen(command) => {
                let found = self.frozen.contains_key(&command.account.0);
                if found {
                    self.frozen.insert(command.account.0, command.frozen);
                }
                Answers::Frozen { found }
            }
        }
    }

    /// Of what is behind now (in one epoch or in all), only `kept` are not finished.
    fn forget_all_but(&mut self, partition: u16, epoch: Option<u32>, kept: &HashSet<Xid>) {
        let concerned = |xid: &Xid| xid.0 == partition && epoch.is_none_or(|epoch| xid.1 == epoch);
        self.stragglers.retain(|xid| !concerned(xid));
        self.stragglers.extend(kept);
        let seen: Vec<Xid> = self.branches.keys().copied().filter(|xid| concerned(xid)).collect();
        for xid in seen {
            if self.is_finished(xid)
                && let Some(Branch::Reserved(legs)) = self.branches.remove(&xid)
            {
                for &leg in &legs {
                    self.release(leg);
                }
            }
        }
    }

    fn gate(&self, partition: u16, sender: u32, epoch: u32) -> Option<Answer> {
        let open = self.epoch(partition);
        if sender < open {
            Some(Answer::StaleEpoch)
        } else if open == 0 || sender > open {
            Some(Answer::HelloRequired)
        } else if epoch > sender {
            Some(Answer::Invalid)
        } else {
            None
        }
    }

    fn try_batch(&mut self, batch: &TryBatch, post: bool) -> Answers {
        let mut answers = BranchAnswers { epoch: batch.epoch, ..BranchAnswers::default() };
        let gate = self.gate(batch.sender.partition.0, batch.sender.epoch.0, batch.epoch.0);
        for (sequence, rows) in batch.branches() {
            let xid = (batch.sender.partition.0, batch.epoch.0, sequence);
            let answer = gate.unwrap_or_else(|| self.try_branch(xid, batch.legs(rows).collect(), post));
            answers.sequences.push(sequence);
            answers.bytes.push(answer.to_byte());
        }
        Answers::Branches(answers)
    }

    fn try_branch(&mut self, xid: Xid, legs: Vec<Leg>, post: bool) -> Answer {
        let is_currency = |kind: u16| escrow_types::Currency::from_numeric(kind & 0x7FFF).is_some();
        if legs.len() > 64 || legs.iter().any(|&(_, amount, kind)| amount == 0 || !is_currency(kind)) {
            return Answer::Invalid;
        }
        if self.is_finished(xid) {
            return Answer::Finished;
        }
        if self.is_beyond(xid) {
            return Answer::Invalid;
        }
        match self.branches.get(&xid) {
            Some(Branch::Reserved(held)) if !post && *held == legs => Answer::Reserved,
            Some(Branch::Reserved(_)) => Answer::Contradiction,
            Some(Branch::Confirmed) => {
                if post {
                    Answer::Confirmed
                } else {
                    Answer::Reserved
                }
            }
            Some(Branch::Canceled | Branch::EmptyCanceled) => Answer::TryAfterCancel,
            Some(Branch::Rejected(reason)) => Answer::Rejected(*reason),
            None => {
                let before = self.balances.clone();
                for &leg in &legs {
                    if let Err(reason) = self.reserve(leg) {
                        self.balances = before;
                        self.branches.insert(xid, Branch::Rejected(reason));
                        return Answer::Rejected(reason);
                    }
                }
                if post {
                    for &leg in &legs {
                        self.post(leg, leg.1);
                    }
                    self.branches.insert(xid, Branch::Confirmed);
                    return Answer::Confirmed;
                }
                self.branches.insert(xid, Branch::Reserved(legs));
                Answer::Reserved
            }
        }
    }

    fn fence_batch(&mut self, batch: &EndBatch) -> Answers {
        let mut answers = BranchAnswers { epoch: batch.epoch, ..BranchAnswers::default() };
        let gate = self.gate(batch.sender.partition.0, batch.sender.epoch.0, batch.epoch.0);
        for &sequence in batch.sequences() {
            let xid = (batch.sender.partition.0, batch.epoch.0, sequence);
            let answer = gate.unwrap_or_else(|| self.fence_branch(xid));
            answers.sequences.push(sequence);
            answers.bytes.push(answer.to_byte());
        }
        Answers::Branches(answers)
    }

    fn fence_branch(&mut self, xid: Xid) -> Answer {
        if self.is_finished(xid) {
            return Answer::Finished;
        }
        if self.is_beyond(xid) {
            return Answer::Invalid;
        }
        match self.branches.entry(xid).or_insert(Branch::EmptyCanceled) {
            Branch::Reserved(_) | Branch::Confirmed => Answer::Reserved,
            Branch::Canceled | Branch::EmptyCanceled => Answer::TryAfterCancel,
            Branch::Rejected(reason) => Answer::Rejected(*reason),
        }
    }

    fn end_batch(&mut self, batch: &EndBatch, confirm: bool) -> Answers {
        let mut answers = BranchAnswers { epoch: batch.epoch, ..BranchAnswers::default() };
        let gate = self.gate(batch.sender.partition.0, batch.sender.epoch.0, batch.epoch.0);
        let mut start = 0;
        for (at, &sequence) in batch.sequences().iter().enumerate() {
            let amounts = batch.partial().map(|partial| {
                let amounts = partial.amounts[start..start + partial.legs[at] as usize].to_vec();
                start += amounts.len();
                amounts
            });
            let xid = (batch.sender.partition.0, batch.epoch.0, sequence);
            let answer = gate.unwrap_or_else(|| self.end_branch(xid, confirm, amounts));
            answers.sequences.push(sequence);
            answers.bytes.push(answer.to_byte());
        }
        Answers::Branches(answers)
    }

    fn end_branch(&mut self, xid: Xid, confirm: bool, amounts: Option<Vec<u64>>) -> Answer {
        if self.is_finished(xid) {
            return Answer::Finished;
        }
        if self.is_beyond(xid) {
            return Answer::Invalid;
        }
        match (self.branches.get(&xid).cloned(), confirm) {
            (Some(Branch::Reserved(legs)), true) => {
                let amounts = amounts.unwrap_or_else(|| legs.iter().map(|leg| leg.1).collect());
                if amounts.len() != legs.len()
                    || amounts.iter().zip(&legs).any(|(&amount, leg)| amount > leg.1)
                {
                    return Answer::Contradiction;
                }
                legs.iter().zip(amounts).for_each(|(&leg, amount)| self.post(leg, amount));
                self.branches.insert(xid, Branch::Confirmed);
                Answer::Confirmed
            }
            (Some(Branch::Confirmed), true) => Answer::Confirmed,
            (Some(Branch::Confirmed), false) | (_, true) => Answer::Contradiction,
            (Some(Branch::Reserved(legs)), false) => {
                for &leg in &legs {
                    self.release(leg);
                }
                self.branches.insert(xid, Branch::Canceled);
                Answer::Canceled
            }
            (None, false) => {
                self.branches.insert(xid, Branch::EmptyCanceled);
                Answer::Canceled
            }
            (Some(_), false) => Answer::Canceled,
        }
    }

    fn reserve(&mut self, (account, amount, kind): Leg) -> Result<(), Reason> {
        let frozen = *self.frozen.get(&account).ok_or(Reason::AccountNotFound)?;
        let balance = self.balances.get_mut(&(account, kind & 0x7FFF)).ok_or(Reason::CurrencyNotHeld)?;
        if frozen {
            return Err(Reason::AccountFrozen);
        }
        let (amount, highest) = (i128::from(amount), i128::from(i64::MAX));
        if kind & 0x8000 != 0 {
            if balance.posted + balance.incoming + amount > highest {
                return Err(Reason::BalanceOverflow);
            }
            balance.incoming += amount;
        } else {
            let left = balance.posted - balance.reserved - amount;
            let enough = match balance.overdraft {
                Overdraft::Forbidden => left >= 0,
                Overdraft::Limit(limit) => left >= -i128::from(limit),
                Overdraft::Unlimited => true,
            };
            if !enough {
                return Err(Reason::InsufficientFunds);
            }
            if left < -highest {
                return Err(Reason::BalanceOverflow);
            }
            balance.reserved += amount;
        }
        Ok(())
    }

    fn release(&mut self, (account, amount, kind): Leg) {
        let balance = self.balances.get_mut(&(account, kind & 0x7FFF)).unwrap();
        let held = if kind & 0x8000 != 0 { &mut balance.incoming } else { &mut balance.reserved };
        *held -= i128::from(amount);
    }

    fn post(&mut self, leg: Leg, amount: u64) {
        self.release(leg);
        let balance = self.balances.get_mut(&(leg.0, leg.2 & 0x7FFF)).unwrap();
        balance.posted += if leg.2 & 0x8000 != 0 { i128::from(amount) } else { -i128::from(amount) };
    }

    /// Same balances, same reservations, nobody overdrawn.
    pub(crate) fn check(&self, wallet: &Wallet, accounts: &[&str]) {
        for id in accounts {
            let key = crate::common::key(id);
            let view = wallet.account(AccountKey(key));
            assert_eq!(view.as_ref().map(|view| view.frozen), self.frozen.get(&key).copied());
            for balance in view.iter().flat_map(|view| &view.balances) {
                let expected = &self.balances[&(key, balance.currency.numeric())];
                assert_eq!(i128::from(balance.posted), expected.posted, "{id}");
                assert_eq!(i128::from(balance.reserved), expected.reserved, "{id}");
                assert_eq!(i128::from(balance.incoming), expected.incoming, "{id}");
                assert_eq!(i128::from(balance.available), expected.posted - expected.reserved, "{id}");
            }
        }
        for total in wallet.totals() {
            let of = |(key, _): &(&(u128, u16), &Balance)| key.1 == total.currency.numeric();
            assert_eq!(
                self.balances.iter().filter(of).map(|(_, balance)| balance.posted).sum::<i128>(),
                total.posted
            );
        }
        let held = self.branches.iter().filter(|(_, branch)| matches!(branch, Branch::Reserved(_)));
        let held: Vec<Xid> = held.map(|(&xid, _)| xid).collect();
        let listed: Vec<Xid> = wallet
            .reservations(None, usize::MAX)
            .iter()
            .map(|view| (view.xid.partition.0, view.xid.epoch.0, view.xid.sequence))
            .collect();
        assert_eq!(listed, held);
        assert_eq!(wallet.reservations_held(), held.len());
        assert!(wallet.overdrawn(1).is_empty());
    }
}
