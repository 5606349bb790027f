//! What the recovery log says, entry by entry.

use escrow_tcc::content::Content;
use escrow_tcc::machine::Decision;
use escrow_tcc::{Command, Entry};
use escrow_types::{Epoch, TransactionKey};

use super::{Begun, Branch, Facts, Xid};
use crate::violation::{Step, Violation, check};

impl Facts {
    /// One durable entry of the recovery log.
    pub(crate) fn logged(&mut self, payload: &[u8]) -> Step {
        let entry = Entry::decode(payload).map_err(|error| Violation::other(format!("an entry: {error}")))?;
        entry.commands.iter().try_for_each(|command| self.command(command))
    }

    fn command(&mut self, command: &Command) -> Step {
        match command {
            Command::OpenEpoch(epoch) => {
                check!(DeposedChangesNothing, *epoch > self.epoch, "{epoch:?} after {:?}", self.epoch);
                self.epoch = *epoch;
            }
            Command::BeginTransfers(begin) => {
                for row in 0..begin.len() {
                    let content = Content::Transfer(begin.transfer(row));
                    let xid = (self.epoch, begin.first + row as u64);
                    self.begin(xid, TransactionKey(begin.keys[row]), content)?;
                }
            }
            Command::BeginLegs(begin) => {
                self.begin((self.epoch, begin.sequence), begin.key, begin.content())?;
            }
            Command::Decide(decide) => {
                for (sequence, decision) in decide.iter() {
                    self.decided((decide.epoch, sequence), decision)?;
                }
            }
            Command::DecidePartial(decide) => {
                self.decided((decide.epoch, decide.sequence), Decision::Confirm)?;
            }
            Command::Finish(finish) => {
                for &sequence in &finish.sequences {
                    self.finished((finish.epoch, sequence))?;
                }
            }
            Command::FinishImplied(finish) => {
                for (sequence, decision) in finish.outcomes.iter() {
                    let xid = (finish.outcomes.epoch, sequence);
                    self.set_decision(xid, decision)?;
                    self.finished(xid)?;
                }
            }
            Command::Attention(attention) => {
                let xid = (attention.epoch, attention.sequence);
                let excused = self.begun.get(&xid).is_some_and(|begun| begun.forced || begun.given_up);
                check!(Atomic, excused, "a contradiction where nobody breaks the contract: {attention:?}");
            }
            Command::Force(force) => {
                let xid = (force.epoch, force.sequence);
                let begun = self.begun(xid)?;
                begun.forced = true;
                (begun.decision, begun.implied) = (None, false);
                self.set_decision(xid, force.decision)?;
            }
            Command::GiveUp(give_up) => {
                let begun = self.begun((give_up.epoch, give_up.sequence))?;
                begun.given_up = true;
                begun.finished = true;
            }
            Command::SetPaused(_) => {}
        }
        Ok(())
    }

    pub(super) fn begun(&mut self, xid: Xid) -> Step<&mut Begun> {
        let unknown = || Violation::other(format!("the log speaks of {xid:?}, which never began"));
        self.begun.get_mut(&xid).ok_or_else(unknown)
    }

    fn begin(&mut self, xid: Xid, key: TransactionKey, content: Content) -> Step {
        let begun = Begun {
            key,
            content,
            decision: None,
            implied: false,
            finished: false,
            forced: false,
            given_up: false,
        };
        let before = self.begun.insert(xid, begun);
        check!(OneExecution, before.is_none(), "{xid:?} began twice");
        check!(OneExecution, xid.0 > Epoch(0), "{xid:?} began before any epoch");
        Ok(())
    }

    pub(super) fn set_decision(&mut self, xid: Xid, decision: Decision) -> Step {
        let begun = self.begun(xid)?;
        let before = begun.decision.replace(decision);
        let is_said_again = begun.implied && before == Some(decision);
        begun.implied = false;
        check!(
            DecisionStands,
            before.is_none() || is_said_again,
            "{xid:?} was decided {before:?}, then {decision:?}"
        );
        if decision == Decision::Confirm { self.executed(xid) } else { Ok(()) }
    }

    /// A Confirm needs that every branch holds its reservation, durably. (Or has posted it, if that was implied before.)
    fn decided(&mut self, xid: Xid, decision: Decision) -> Step {
        let implied = self.begun(xid)?.implied;
        self.set_decision(xid, decision)?;
        if decision == Decision::Confirm {
            for id in self.begun(xid)?.content.participants() {
                let branch = self.branch(xid, id.0);
                check!(
                    Atomic,
                    branch == Some(Branch::Held) || (implied && branch == Some(Branch::Confirmed)),
                    "{xid:?} was confirmed while {id:?} is {branch:?}"
                );
            }
        }
        Ok(())
    }

    /// Every branch has really ended as decided.
    fn finished(&mut self, xid: Xid) -> Step {
        let begun = self.begun(xid)?;
        begun.finished = true;
        let (decision, participants) = (begun.decision, begun.content.participants());
        check!(DecisionStands, decision.is_some(), "{xid:?} finished undecided");
        for id in participants {
            let branch = self.branch(xid, id.0);
            let ended = match decision {
                Some(Decision::Confirm) => branch == Some(Branch::Confirmed),
                _ => !matches!(branch, Some(Branch::Held | Branch::Confirmed)),
            };
            check!(Atomic, ended, "{xid:?} finished as {decision:?} while {id:?} is {branch:?}");
        }
        Ok(())
    }
}
