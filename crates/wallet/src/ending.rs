//! Confirm and Cancel: from *reserved* to *confirmed* or *canceled*, and the fence of an empty cancel; Fence, which leaves
//! that fence and nothing else.

use escrow_invariants::{Canary, canary};
use escrow_types::{Amount, Answer, Sequence};

use crate::answers::BranchAnswers;
use crate::command::EndBatch;
use crate::ledger::Ledger;
use crate::partition::{PartitionState, Place};
use crate::slot::{Slot, State};
use crate::wallet::Wallet;

/// Balances are fetched this many branches at a time: enough to overlap their cache misses, few enough to stay in cache.
const FETCH_ROWS: usize = 32;

impl Wallet {
    pub(crate) fn confirm_batch(&mut self, batch: &EndBatch) -> BranchAnswers {
        let Some(partial) = batch.partial() else {
            return self.end_batch(batch, |ledger, partition, sequence| {
                confirm(ledger, partition, batch, sequence, None)
            });
        };
        let (mut legs, mut rest) = (partial.legs.iter(), partial.amounts.as_slice());
        self.end_batch(batch, |ledger, partition, sequence| {
            let count = *legs.next().expect("one count a branch: a batch is only made so") as usize;
            let (amounts, others) = rest.split_at(count);
            rest = others;
            confirm(ledger, partition, batch, sequence, Some(amounts))
        })
    }

    pub(crate) fn cancel_batch(&mut self, batch: &EndBatch) -> BranchAnswers {
        self.end_batch(batch, |ledger, partition, sequence| cancel(ledger, partition, batch, sequence))
    }

    /// Answered as a Try would be, but what is *unseen* is fenced instead of reserved.
    pub(crate) fn fence_batch(&mut self, batch: &EndBatch) -> BranchAnswers {
        self.end_batch(batch, |_, partition, sequence| fence(partition, batch, sequence))
    }

    fn end_batch(
        &mut self,
        batch: &EndBatch,
        mut end: impl FnMut(&mut Ledger, &mut PartitionState, Sequence) -> Answer,
    ) -> BranchAnswers {
        let mut answers = BranchAnswers::with_capacity(batch.epoch, batch.sequences().len());
        let admitted = self.admit(batch.sender, batch.epoch);
        match (admitted, self.partitions.get_mut(&batch.sender.partition)) {
            (Ok(()), Some(partition)) => {
                for sequences in batch.sequences().chunks(FETCH_ROWS) {
                    let held = |&sequence: &Sequence| match find(partition, batch, sequence) {
                        Ok((_, State::Reserved(branch))) => Some(branch),
                        _ => None,
                    };
                    self.ledger.fetch_ahead(sequences.iter().filter_map(held));
                    for &sequence in sequences {
                        let answer = end(&mut self.ledger, partition, sequence);
                        answers.push(sequence, answer);
                    }
                }
            }
            (Err(answer), _) => batch.sequences().iter().for_each(|&sequence| answers.push(sequence, answer)),
            (Ok(()), None) => unreachable!("a sender is admitted only after its partition's hello"),
        }
        answers
    }
}

/// The place and state of a branch, or the answer if it has no slot.
#[inline]
fn find(partition: &PartitionState, batch: &EndBatch, sequence: Sequence) -> Result<(Place, State), Answer> {
    let place = partition.place(batch.epoch, sequence);
    let slot = match place {
        Place::Finished => return Err(Answer::Finished),
        Place::Beyond => return Err(Answer::Invalid),
        Place::Window(at) => partition.window.get(at).copied().unwrap_or(Slot::UNSEEN),
        Place::Straggler => partition.stragglers[&(batch.epoch, sequence)],
    };
    Ok((place, slot.state()))
}

#[inline]
fn confirm(
    ledger: &mut Ledger,
    partition: &mut PartitionState,
    batch: &EndBatch,
    sequence: Sequence,
    partial: Option<&[Amount]>,
) -> Answer {
    let (place, state) = match find(partition, batch, sequence) {
        Ok(found) => found,
        Err(answer) => return answer,
    };
    match state {
        State::Reserved(branch) => {
            match partial {
                None => ledger.post(branch),
                Some(amounts) => {
                    if !ledger.post_partial(branch, amounts) {
                        return Answer::Contradiction;
                    }
                }
            }
            partition.set(place, batch.epoch, sequence, Slot::of(State::Confirmed));
            Answer::Confirmed
        }
        State::Confirmed => Answer::Confirmed,
        State::Unseen | State::Rejected(_) | State::Canceled | State::EmptyCanceled => Answer::Contradiction,
    }
}

#[inline]
fn cancel(
    ledger: &mut Ledger,
    partition: &mut PartitionState,
    batch: &EndBatch,
    sequence: Sequence,
) -> Answer {
    let (place, state) = match find(partition, batch, sequence) {
        Ok(found) => found,
        Err(answer) => return answer,
    };
    match state {
        State::Reserved(branch) => {
            ledger.release(branch);
            partition.set(place, batch.epoch, sequence, Slot::of(State::Canceled));
            Answer::Canceled
        }
        State::Unseen if canary::is_on(Canary::NoFenceForEmptyCancel) => Answer::Canceled,
        State::Unseen => {
            partition.set(place, batch.epoch, sequence, Slot::of(State::EmptyCanceled));
            Answer::Canceled
        }
        State::Rejected(_) | State::Canceled | State::EmptyCanceled => Answer::Canceled,
        State::Confirmed => Answer::Contradiction,
    }
}

#[inline]
fn fence(partition: &mut PartitionState, batch: &EndBatch, sequence: Sequence) -> Answer {
    let (place, state) = match find(partition, batch, sequence) {
        Ok(found) => found,
        Err(answer) => return answer,
    };
    match state {
        State::Unseen => {
            partition.set(place, batch.epoch, sequence, Slot::of(State::EmptyCanceled));
            Answer::TryAfterCancel
        }
        State::Reserved(_) | State::Confirmed => Answer::Reserved,
        State::Canceled | State::EmptyCanceled => Answer::TryAfterCancel,
        State::Rejected(reason) => Answer::Rejected(reason),
    }
}

#[cfg(test)]
mod tests {
    use crate::fixture::{Fixture, USD, USD_CREDIT};
    use escrow_types::{Answer, Reason};

    #[test]
    fn answers_by_history() {
        type History = fn(&mut Fixture);
        let table: [(&str, History, Answer, Answer); 7] = [
            ("unseen", |_| {}, Answer::Contradiction, Answer::Canceled),
            ("reserved", |f| f.reserved(0), Answer::Confirmed, Answer::Canceled),
            ("rejected", |f| f.rejected(0), Answer::Contradiction, Answer::Canceled),
            ("confirmed", |f| f.confirmed(0), Answer::Confirmed, Answer::Contradiction),
            ("canceled", |f| f.canceled(0), Answer::Contradiction, Answer::Canceled),
            ("empty canceled", |f| f.empty_canceled(0), Answer::Contradiction, Answer::Canceled),
            ("finished", |f| f.finished(0), Answer::Finished, Answer::Finished),
        ];
        for (name, history, confirmed, canceled) in table {
            let mut fixture = Fixture::new();
            history(&mut fixture);
            let (before, mut other) = (fixture.wallet.digest(), fixture.clone());
            assert_eq!(fixture.confirm(0), confirmed, "confirm after {name}");
            assert_eq!(other.cancel(0), canceled, "cancel after {name}");
            if name != "reserved" {
                assert_eq!(fixture.wallet.digest(), before, "confirm after {name}");
            }
            if name != "reserved" && name != "unseen" {
                assert_eq!(other.wallet.digest(), before, "cancel after {name}");
            }
        }
    }

    #[test]
    fn a_fence_keeps_what_is_reserved_and_lets_nothing_new_be() {
        type History = fn(&mut Fixture);
        let short = Answer::Rejected(Reason::InsufficientFunds);
        let table: [(&str, History, Answer, Answer); 7] = [
            ("unseen", |_| {}, Answer::TryAfterCancel, Answer::TryAfterCancel),
            ("reserved", |f| f.reserved(0), Answer::Reserved, Answer::Reserved),
            ("rejected", |f| f.rejected(0), short, short),
            ("confirmed", |f| f.confirmed(0), Answer::Reserved, Answer::Reserved),
            ("canceled", |f| f.canceled(0), Answer::TryAfterCancel, Answer::TryAfterCancel),
            ("empty canceled", |f| f.empty_canceled(0), Answer::TryAfterCancel, Answer::TryAfterCancel),
            ("finished", |f| f.finished(0), Answer::Finished, Answer::Finished),
        ];
        for (name, history, fenced, tried) in table {
            let mut fixture = Fixture::new();
            history(&mut fixture);
            let before = fixture.wallet.digest();
            assert_eq!(fixture.fence(0), fenced, "fence after {name}");
            assert_eq!(fixture.wallet.digest() == before, name != "unseen", "fence after {name}");
            assert_eq!(fixture.debit(0, 10), tried, "try after {name} and a fence");
        }
    }

    #[test]
    fn beyond_the_window_is_invalid() {
        let mut fixture = Fixture::new();
        assert_eq!(fixture.confirm(1 << 24), Answer::Invalid);
        assert_eq!(fixture.cancel(1 << 24), Answer::Invalid);
        assert_eq!(fixture.cancel((1 << 24) - 1), Answer::Canceled);
    }

    #[test]
    fn confirm_posts_and_cancel_releases() {
        let mut fixture = Fixture::new();
        let legs = [("alice", 30, USD), ("bob", 30, USD_CREDIT)];
        for sequence in 0..2 {
            assert_eq!(fixture.try_legs(sequence, &legs), Answer::Reserved);
        }
        assert_eq!(fixture.posted_reserved_incoming("alice"), (100, 60, 0));
        assert_eq!(fixture.confirm(0), Answer::Confirmed);
        assert_eq!(fixture.posted_reserved_incoming("alice"), (70, 30, 0));
        assert_eq!(fixture.posted_reserved_incoming("bob"), (30, 0, 30));
        assert_eq!(fixture.cancel(1), Answer::Canceled);
        assert_eq!(fixture.posted_reserved_incoming("alice"), (70, 0, 0));
        assert_eq!(fixture.posted_reserved_incoming("bob"), (30, 0, 0));
        assert_eq!(fixture.wallet.reservations_held(), 0);
    }

    #[test]
    fn a_partial_confirm_releases_the_rest() {
        let legs = [("alice", 30, USD), ("bob", 30, USD_CREDIT)];
        let table: [(&[u64], Answer, i64, u64); 6] = [
            (&[30, 30], Answer::Confirmed, 70, 0),
            (&[10, 10], Answer::Confirmed, 90, 0),
            (&[0, 0], Answer::Confirmed, 100, 0),
            (&[31, 30], Answer::Contradiction, 100, 30),
            (&[30], Answer::Contradiction, 100, 30),
            (&[30, 30, 0], Answer::Contradiction, 100, 30),
        ];
        for (amounts, expect, posted, reserved) in table {
            let mut fixture = Fixture::new();
            assert_eq!(fixture.try_legs(0, &legs), Answer::Reserved);
            assert_eq!(fixture.confirm_partial(0, amounts), expect, "{amounts:?}");
            assert_eq!(fixture.posted_reserved_incoming("alice"), (posted, reserved, 0), "{amounts:?}");
            assert_eq!(fixture.posted_reserved_incoming("bob"), (100 - posted, 0, reserved), "{amounts:?}");
        }
    }
}
