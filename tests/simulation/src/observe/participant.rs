//! What the log of a shard says: its commands, applied to a wallet of the observer's own.

use std::collections::BTreeSet;

use escrow_tcc::machine::Decision;
use escrow_types::{Answer, Epoch, Partition};
use escrow_wallet::{Answers, Command, Entry, Wallet};

use super::{Branch, Facts, Xid};
use crate::violation::{Step, Violation, check};

/// The partition of the one coordinator.
const PARTITION: Partition = Partition(0);

/// The observer of one shard.
#[derive(Default)]
pub(crate) struct ShardObserver {
    pub(crate) shard: u16,
    pub(crate) wallet: Wallet,
    held: BTreeSet<Xid>,
}

impl ShardObserver {
    pub(crate) fn new(shard: u16) -> Self {
        Self { shard, ..Self::default() }
    }

    /// One durable entry of the shard's log.
    pub(crate) fn logged(&mut self, payload: &[u8], facts: &mut Facts) -> Step {
        let entry = Entry::decode(payload).map_err(|error| Violation::other(format!("an entry: {error}")))?;
        for command in &entry.commands {
            let newest = self.wallet.epoch(PARTITION).unwrap_or(Epoch(0));
            let answers = self.wallet.apply(entry.time_ms, command);
            Self::check_sender(newest, command, &answers)?;
            self.effects(command, &answers, facts)?;
            self.check_held(command, facts)?;
        }
        let overdrawn = self.wallet.overdrawn(1);
        check!(NoOverdraft, overdrawn.is_empty(), "{overdrawn:?}");
        Ok(())
    }

    /// Invariant 11: to a deposed leader there is one answer.
    fn check_sender(newest: Epoch, command: &Command, answers: &Answers) -> Step {
        let sender = match command {
            Command::Try(batch) | Command::TryAndConfirm(batch) => batch.sender,
            Command::Confirm(batch) | Command::Cancel(batch) | Command::Fence(batch) => batch.sender,
            _ => return Ok(()),
        };
        let heard = rows(answers).any(|(_, answer)| answer != Answer::StaleEpoch);
        let deposed = sender.epoch < newest;
        check!(
            DeposedChangesNothing,
            !(deposed && heard),
            "{newest:?} is open, but {command:?} got {answers:?}"
        );
        Ok(())
    }

    fn effects(&mut self, command: &Command, answers: &Answers, facts: &mut Facts) -> Step {
        let shard = self.shard;
        for (at, (xid, answer)) in rows(answers).enumerate() {
            let broken = matches!(answer, Answer::Invalid | Answer::Contradiction);
            let begun = facts.begun.get(&xid);
            // The answer to a question that was asked before the end, and came after it.
            let late = matches!(command, Command::Cancel(_)) && begun.is_some_and(|begun| begun.finished);
            let excused = late || begun.is_some_and(|begun| begun.forced || begun.given_up);
            check!(Atomic, !broken || excused, "{xid:?} on {shard}: {answer:?} to {command:?}");
            let branch = facts.branch(xid, shard);
            match (command, answer) {
                (Command::Try(_), Answer::Reserved) => {
                    let canceled = branch == Some(Branch::Canceled);
                    check!(
                        EmptyCancelFences,
                        !canceled,
                        "{xid:?} on {shard}: reserved after it was canceled"
                    );
                    if branch.is_none() {
                        facts.branches.insert((xid, shard), Branch::Held);
                        self.held.insert(xid);
                    }
                }
                (Command::TryAndConfirm(_), Answer::Confirmed) => {
                    let canceled = branch == Some(Branch::Canceled);
                    check!(EmptyCancelFences, !canceled, "{xid:?} on {shard}: posted after it was canceled");
                    facts.confirm(xid, shard, None)?;
                }
                (Command::Confirm(batch), Answer::Confirmed) => {
                    facts.imply(xid)?;
                    let decision = facts.begun.get(&xid).and_then(|begun| begun.decision);
                    let confirmed = decision == Some(Decision::Confirm);
                    check!(
                        DecisionBeforePhaseTwo,
                        confirmed,
                        "{xid:?} was posted, its durable decision is {decision:?}"
                    );
                    let amounts = batch.partial().map(|partial| {
                        let before: u32 = partial.legs[..at].iter().sum();
                        &partial.amounts[before as usize..][..partial.legs[at] as usize]
                    });
                    self.held.remove(&xid);
                    facts.confirm(xid, shard, amounts)?;
                }
                (Command::Cancel(_), Answer::Canceled) => {
                    check!(
                        Atomic,
                        branch != Some(Branch::Confirmed),
                        "{xid:?} on {shard}: confirmed, then canceled"
                    );
                    self.released(xid, facts)?;
                }
                (Command::Fence(_), Answer::Reserved) => {
                    let held = matches!(branch, Some(Branch::Held | Branch::Confirmed));
                    check!(Atomic, held, "{xid:?} on {shard}: said to be reserved, and is {branch:?}");
                }
                (Command::Fence(_), Answer::TryAfterCancel) if branch.is_none() => {
                    facts.branches.insert((xid, shard), Branch::Canceled);
                }
                (_, Answer::Rejected(_)) => {
                    facts.branches.insert((xid, shard), Branch::Canceled);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A branch is released, or never will be. A confirmed transaction must not lose one.
    fn released(&mut self, xid: Xid, facts: &mut Facts) -> Step {
        self.held.remove(&xid);
        facts.branches.insert((xid, self.shard), Branch::Canceled);
        let lost = facts.begun.get(&xid).is_some_and(|begun| {
            begun.decision == Some(Decision::Confirm) && !begun.given_up && !begun.forced
        });
        check!(Atomic, !lost, "{xid:?} is confirmed, but shard {} has released it", self.shard);
        Ok(())
    }

    /// A reservation goes only by the word of a coordinator: by a Confirm, a Cancel, a hello or a watermark.
    fn check_held(&mut self, command: &Command, facts: &mut Facts) -> Step {
        if self.wallet.reservations_held() == self.held.len() {
            return Ok(());
        }
        let views = self.wallet.reservations(None, usize::MAX);
        let now: BTreeSet<Xid> = views.iter().map(|view| (view.xid.epoch, view.xid.sequence)).collect();
        let more: Vec<_> = now.difference(&self.held).collect();
        check!(EmptyCancelFences, more.is_empty(), "{more:?} are held after {command:?}");
        let gone: Vec<Xid> = self.held.difference(&now).copied().collect();
        let may = matches!(command, Command::Hello(_) | Command::Watermark(_));
        check!(Atomic, may, "{gone:?} on {} were released by {command:?}", self.shard);
        gone.into_iter().try_for_each(|xid| self.released(xid, facts))
    }
}

fn rows(answers: &Answers) -> impl Iterator<Item = (Xid, Answer)> + '_ {
    let branches = answers.branches();
    branches.into_iter().flat_map(|branches| {
        branches.iter().map(move |(sequence, answer)| ((branches.epoch, sequence), answer))
    })
}
