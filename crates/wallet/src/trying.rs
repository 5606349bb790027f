//! Try and TryAndConfirm: from *unseen* to *reserved*, *confirmed* or *rejected*.

use std::ops::Range;

use escrow_invariants::{Canary, canary};
use escrow_types::{Answer, Sequence, Xid};

use crate::answers::BranchAnswers;
use crate::command::{LEGS_MAX, TryBatch};
use crate::ledger::Ledger;
use crate::partition::{PartitionState, Place};
use crate::slot::{Slot, State};
use crate::wallet::Wallet;

/// Balances are looked up this many rows at a time: enough to overlap their cache misses, few enough to stay in cache.
const FIND_ROWS: usize = 32;

impl Wallet {
    /// Reserves the branches of a batch; posts them at once if `post`.
    pub(crate) fn try_batch(&mut self, batch: &TryBatch, post: bool) -> BranchAnswers {
        let mut answers = BranchAnswers::with_capacity(batch.epoch, batch.rows());
        let admitted = self.admit(batch.sender, batch.epoch);
        let partition = self.partitions.get_mut(&batch.sender.partition);
        match (admitted, partition) {
            (Ok(()), Some(partition)) => {
                let mut found = 0;
                for (sequence, rows) in batch.branches() {
                    if rows.end > found {
                        found = (rows.start + FIND_ROWS).max(rows.end).min(batch.rows());
                        self.ledger.find_ahead(rows.start, batch.legs(rows.start..found));
                    }
                    let answer = try_branch(&mut self.ledger, partition, batch, sequence, rows, post);
                    answers.push(sequence, answer);
                }
            }
            (Err(answer), _) => batch.branches().for_each(|(sequence, _)| answers.push(sequence, answer)),
            (Ok(()), None) => unreachable!("a sender is admitted only after its partition's hello"),
        }
        answers
    }
}

#[inline]
fn try_branch(
    ledger: &mut Ledger,
    partition: &mut PartitionState,
    batch: &TryBatch,
    sequence: Sequence,
    rows: Range<usize>,
    post: bool,
) -> Answer {
    if rows.len() > LEGS_MAX || !batch.legs(rows.clone()).all(|(_, amount, kind)| ledger.is_leg(amount, kind))
    {
        return Answer::Invalid;
    }
    let epoch = batch.epoch;
    let place = partition.place(epoch, sequence);
    let slot = match place {
        Place::Finished => return Answer::Finished,
        Place::Beyond => return Answer::Invalid,
        Place::Window(at) => partition.window.get(at).copied().unwrap_or(Slot::UNSEEN),
        Place::Straggler => partition.stragglers[&(epoch, sequence)],
    };
    match slot.state() {
        State::Unseen => {
            let xid = Xid::new(batch.sender.partition, epoch, sequence);
            let (state, answer) = match ledger.reserve(xid, batch.deadline_ms, rows.clone(), batch.legs(rows))
            {
                Err(reason) => (State::Rejected(reason), Answer::Rejected(reason)),
                Ok(branch) if post => {
                    ledger.post(branch);
                    (State::Confirmed, Answer::Confirmed)
                }
                Ok(branch) => (State::Reserved(branch), Answer::Reserved),
            };
            partition.set(place, epoch, sequence, Slot::of(state));
            answer
        }
        State::Reserved(branch) if !post && ledger.is_same(branch, batch.legs(rows)) => Answer::Reserved,
        State::Reserved(_) => Answer::Contradiction,
        // A copy that comes late gets the answer that the first one got.
        State::Confirmed if post => Answer::Confirmed,
        State::Confirmed => Answer::Reserved,
        State::Canceled | State::EmptyCanceled if canary::is_on(Canary::LateTryAnsweredReserved) => {
            Answer::Reserved
        }
        State::Canceled | State::EmptyCanceled => Answer::TryAfterCancel,
        State::Rejected(reason) => Answer::Rejected(reason),
    }
}

#[cfg(test)]
mod tests {
    use crate::command::Command;
    use crate::fixture::{Fixture, USD, USD_CREDIT};
    use escrow_types::{Answer, Epoch, Reason};

    const SHORT: Answer = Answer::Rejected(Reason::InsufficientFunds);

    /// What a Try and a TryAndConfirm of 10 answer after each history of sequence 0.
    #[test]
    fn answers_by_history() {
        type History = fn(&mut Fixture);
        let table: [(&str, History, Answer, Answer); 8] = [
            ("unseen", |_| {}, Answer::Reserved, Answer::Confirmed),
            ("reserved", |f| f.reserved(0), Answer::Reserved, Answer::Contradiction),
            ("reserved otherwise", |f| f.reserved_amount(0, 9), Answer::Contradiction, Answer::Contradiction),
            ("rejected", |f| f.rejected(0), SHORT, SHORT),
            ("confirmed", |f| f.confirmed(0), Answer::Reserved, Answer::Confirmed),
            ("canceled", |f| f.canceled(0), Answer::TryAfterCancel, Answer::TryAfterCancel),
            ("empty canceled", |f| f.empty_canceled(0), Answer::TryAfterCancel, Answer::TryAfterCancel),
            ("finished", |f| f.finished(0), Answer::Finished, Answer::Finished),
        ];
        for (name, history, tried, tried_and_confirmed) in table {
            let mut fixture = Fixture::new();
            history(&mut fixture);
            let (before, mut other) = (fixture.wallet.digest(), fixture.clone());
            assert_eq!(fixture.debit(0, 10), tried, "try after {name}");
            assert_eq!(other.debit_and_confirm(0, 10), tried_and_confirmed, "try and confirm after {name}");
            if name != "unseen" {
                assert_eq!(
                    (fixture.wallet.digest(), other.wallet.digest()),
                    (before, before),
                    "after {name}"
                );
            }
        }
    }

    #[test]
    fn a_branch_is_all_or_nothing() {
        let mut fixture = Fixture::new();
        let legs = [("alice", 60, USD), ("bob", 5, USD_CREDIT), ("alice", 41, USD)];
        assert_eq!(fixture.try_legs(0, &legs), SHORT);
        assert_eq!(fixture.posted_reserved_incoming("alice"), (100, 0, 0));
        assert_eq!(fixture.posted_reserved_incoming("bob"), (0, 0, 0));
        let legs = [("alice", 60, USD), ("bob", 5, USD_CREDIT), ("alice", 40, USD)];
        assert_eq!(fixture.try_legs(0, &legs), SHORT, "a rejected branch stays rejected");
        assert_eq!(fixture.try_legs(1, &legs), Answer::Reserved);
        assert_eq!(fixture.posted_reserved_incoming("alice"), (100, 100, 0));
        assert_eq!(fixture.posted_reserved_incoming("bob"), (0, 0, 5));
    }

    #[test]
    fn a_promised_credit_cannot_be_spent() {
        let mut fixture = Fixture::new();
        assert_eq!(fixture.try_legs(0, &[("bob", 5, USD_CREDIT), ("bob", 5, USD)]), SHORT);
        assert_eq!(fixture.try_legs(1, &[("bob", 5, USD_CREDIT)]), Answer::Reserved);
        assert_eq!(fixture.try_legs(2, &[("bob", 5, USD)]), SHORT);
    }

    #[test]
    fn reasons_have_an_order() {
        let rejected = |reason| Answer::Rejected(reason);
        let mut fixture = Fixture::new();
        fixture.freeze("frozen");
        let legs = [
            (("nobody", u64::MAX, USD), rejected(Reason::AccountNotFound)),
            (("alice", 1, 392), rejected(Reason::CurrencyNotHeld)),
            (("frozen", 1, 392), rejected(Reason::CurrencyNotHeld)),
            (("frozen", u64::MAX, USD), rejected(Reason::AccountFrozen)),
            (("alice", u64::MAX, USD), rejected(Reason::InsufficientFunds)),
            (("alice", u64::MAX, USD_CREDIT), rejected(Reason::BalanceOverflow)),
            (("external", u64::MAX, USD), rejected(Reason::BalanceOverflow)),
            (("nobody", 0, USD), Answer::Invalid),
            (("nobody", 1, 1), Answer::Invalid),
            (("nobody", 1, 0x7FFF), Answer::Invalid),
        ];
        for (sequence, (leg, expect)) in (0..).zip(legs) {
            assert_eq!(fixture.try_legs(sequence, &[leg]), expect, "{leg:?}");
        }
        assert_eq!(
            fixture.try_legs(90, &[("nobody", 1, USD), ("alice", 0, USD)]),
            Answer::Invalid,
            "form comes first"
        );
        assert_eq!(
            fixture.try_legs(90, &[("alice", 1, USD)]),
            Answer::Reserved,
            "after invalid it is unseen still"
        );
    }

    #[test]
    fn legs_and_window_are_bounded() {
        let mut fixture = Fixture::new();
        let leg = ("alice", 1, USD);
        assert_eq!(fixture.try_legs(0, &[leg; 65]), Answer::Invalid);
        assert_eq!(fixture.try_legs(0, &[leg; 64]), Answer::Reserved);
        assert_eq!(fixture.debit(1 << 24, 1), Answer::Invalid);
        assert_eq!(fixture.debit(u64::MAX, 1), Answer::Invalid);
        fixture.watermark(1, &[0]);
        assert_eq!(fixture.debit(1 << 24, 1), Answer::Reserved);
    }

    #[test]
    fn only_the_newest_epoch_speaks() {
        let mut fixture = Fixture::new();
        let expect = [(1, Answer::StaleEpoch), (2, Answer::Reserved), (3, Answer::HelloRequired)];
        for (sender, expect) in expect {
            let batch = fixture.batch(sender, 2, 0, &[("alice", 1, USD)]);
            assert_eq!(fixture.one(&Command::Try(batch)), expect, "sender of epoch {sender}");
        }
        let newer = fixture.batch(2, 3, 0, &[("alice", 1, USD)]);
        assert_eq!(fixture.one(&Command::Try(newer)), Answer::Invalid);
        let closed = fixture.batch(2, 1, 0, &[("alice", 1, USD)]);
        assert_eq!(fixture.one(&Command::Try(closed)), Answer::Finished);
    }

    #[test]
    fn before_any_hello_nobody_speaks() {
        let mut fixture = Fixture::new();
        for epoch in [0, 1] {
            let mut batch = fixture.batch(epoch, 0, 0, &[("alice", 1, USD)]);
            batch.sender.partition.0 = 9;
            batch.epoch = Epoch(0);
            assert_eq!(fixture.one(&Command::Try(batch)), Answer::HelloRequired);
        }
    }

    #[test]
    fn frozen_accounts_refuse_new_work_and_end_the_old() {
        let mut fixture = Fixture::new();
        fixture.reserved(0);
        fixture.freeze("alice");
        assert_eq!(fixture.debit(1, 1), Answer::Rejected(Reason::AccountFrozen));
        assert_eq!(fixture.confirm(0), Answer::Confirmed);
        assert_eq!(fixture.posted_reserved_incoming("alice"), (90, 0, 0));
    }
}
