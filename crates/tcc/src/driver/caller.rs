//! What callers do to two-step transactions: confirm, in full or in part, and cancel.

use escrow_types::{Amount, Epoch, Reason, Sequence};

use super::flight::Phase;
use super::submit::is_balanced;
use super::{Decision, Driver, Waiter};
use crate::command::{Command, DecidePartial};
use crate::content::{Content, Leg};
use crate::machine::Row;

/// A verb that does not fit, with what to tell the one who tried it. Nothing changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The code.
    pub reason: Reason,
    /// For people.
    pub message: String,
}

pub(super) fn refuse<T>(reason: Reason, message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { reason, message: message.into() })
}

impl Driver {
    /// The caller of a two-step transaction confirms it, in full (`None`) or in part. The waiter is answered later unless
    /// this refuses. The same Confirm again is the same; one with other amounts is refused.
    pub fn confirm(
        &mut self,
        epoch: Epoch,
        sequence: Sequence,
        amounts: Option<Vec<Amount>>,
        waiter: Waiter,
    ) -> Result<(), Refusal> {
        let Some(flight) = self.flights.get(epoch, sequence) else {
            self.check_over(epoch, sequence, true)?;
            self.check_amounts(epoch, sequence, amounts.as_deref())?;
            self.answer_or_wait(epoch, sequence, waiter, 0);
            return Ok(());
        };
        if !flight.two_step {
            return refuse(Reason::NotReserved, "not a two-step transaction: it is decided by its branches");
        }
        match flight.phase {
            Phase::Trying => self.confirm_undecided(epoch, sequence, amounts)?,
            Phase::Deciding => self.check_amounts(epoch, sequence, amounts.as_deref())?,
            Phase::Ending(decision) => {
                check_same_end(decision, true)?;
                self.check_amounts(epoch, sequence, amounts.as_deref())?;
            }
        }
        self.answer_or_wait(epoch, sequence, waiter, self.default_answer_by());
        Ok(())
    }

    fn confirm_undecided(
        &mut self,
        epoch: Epoch,
        sequence: Sequence,
        amounts: Option<Vec<Amount>>,
    ) -> Result<(), Refusal> {
        const NOT_YET: &str = "not all branches are reserved yet: try again in a moment";
        let flight = self.flights.get_mut(epoch, sequence).expect("just seen");
        let Some(live) = self.machine.live().get(epoch, sequence).filter(|_| flight.begun) else {
            return refuse(Reason::NotReserved, NOT_YET);
        };
        let amounts = match amounts {
            Some(amounts) => part(&live.content, amounts)?,
            None => None,
        };
        if flight.confirm_wanted {
            return self.check_amounts(epoch, sequence, amounts.as_deref());
        }
        let all_reserved = flight.is_all_reserved();
        if !all_reserved && !flight.left_over {
            return refuse(Reason::NotReserved, NOT_YET);
        }
        // It may have been reserved before a crash: decided when the branches have said so again.
        flight.confirm_wanted = true;
        if let Some(amounts) = amounts {
            self.partial.insert((epoch, sequence), amounts);
        }
        if all_reserved {
            self.decide_as_wanted(epoch, sequence);
        }
        Ok(())
    }

    /// The caller wants it confirmed, and every branch is reserved.
    pub(super) fn decide_as_wanted(&mut self, epoch: Epoch, sequence: Sequence) {
        let Some(amounts) = self.partial.get(&(epoch, sequence)).cloned() else {
            self.decide(epoch, sequence, Decision::Confirm);
            return;
        };
        let Some(flight) = self.flights.get_mut(epoch, sequence) else { return };
        if flight.phase == Phase::Trying {
            flight.phase = Phase::Deciding;
            self.turn.marks.push(Command::DecidePartial(DecidePartial { epoch, sequence, amounts }));
        }
    }

    /// A Confirm again: with the amounts of the first.
    fn check_amounts(
        &self,
        epoch: Epoch,
        sequence: Sequence,
        amounts: Option<&[Amount]>,
    ) -> Result<(), Refusal> {
        let live = self.machine.live().get(epoch, sequence);
        let legs: &[Leg] = match live.map(|live| &live.content) {
            Some(Content::Legs(legs)) => &legs.legs,
            _ => &[],
        };
        let logged = match live.map(|live| &live.content) {
            Some(Content::Legs(legs)) => legs.partial.as_ref(),
            _ => None,
        };
        let first = logged.or_else(|| self.partial.get(&(epoch, sequence))).map(Vec::as_slice);
        let is_all = |amounts: &[Amount]| amounts.iter().eq(legs.iter().map(|leg| &leg.amount));
        if first == amounts.filter(|amounts| !is_all(amounts)) {
            return Ok(());
        }
        refuse(Reason::AlreadyDecided, "another decision, or one with other amounts, was made")
    }

    /// The caller of a two-step transaction cancels it.
    pub fn cancel(&mut self, epoch: Epoch, sequence: Sequence, waiter: Waiter) -> Result<(), Refusal> {
        let Some(flight) = self.flights.get(epoch, sequence) else {
            self.check_over(epoch, sequence, false)?;
            self.answer_or_wait(epoch, sequence, waiter, 0);
            return Ok(());
        };
        if !flight.two_step {
            return refuse(Reason::NotReserved, "not a two-step transaction: only an operator can cancel it");
        }
        match flight.phase {
            Phase::Trying => {
                self.decide(epoch, sequence, Decision::Cancel(Reason::CanceledByCaller));
            }
            Phase::Deciding => {}
            Phase::Ending(decision) => check_same_end(decision, false)?,
        }
        self.answer_or_wait(epoch, sequence, waiter, self.default_answer_by());
        Ok(())
    }

    /// Its flight has landed, but the log does not say so yet: the decision stands.
    fn check_over(&self, epoch: Epoch, sequence: Sequence, confirm: bool) -> Result<(), Refusal> {
        let Some(live) = self.machine.live().get(epoch, sequence) else {
            return refuse(Reason::TransactionNotFound, "no such transaction");
        };
        if !live.content.is_two_step() {
            return refuse(Reason::NotReserved, "not a two-step transaction: it was decided by its branches");
        }
        check_same_end(self.landed(epoch, sequence).expect("a flight lands with its decision"), confirm)
    }
}

/// Whether a second request to end agrees with how it ended.
fn check_same_end(decision: Decision, confirm: bool) -> Result<(), Refusal> {
    match (decision, confirm) {
        (Decision::Confirm, true) | (Decision::Cancel(_), false) => Ok(()),
        (Decision::Confirm, false) => {
            refuse(Reason::AlreadyDecided, "it was confirmed and cannot be canceled")
        }
        (Decision::Cancel(reason), true) => {
            refuse(Reason::AlreadyDecided, format!("it was canceled ({reason}) and cannot be confirmed"))
        }
    }
}

/// Whether a request to end a transaction agrees with how it ended, for transactions that are only remembered. The
/// amounts of a partial Confirm are not remembered, and not compared.
pub fn check_ended(row: &Row, confirm: bool) -> Result<Decision, Refusal> {
    let outcome = row.outcome().expect("only rows of ended transactions");
    check_same_end(outcome.decision, confirm).map(|()| outcome.decision)
}

/// Checks the amounts of a partial Confirm; `None` if they are all that is reserved.
fn part(content: &Content, amounts: Vec<Amount>) -> Result<Option<Vec<Amount>>, Refusal> {
    let Content::Legs(legs) = content else {
        return refuse(Reason::NotReserved, "not a two-step transaction");
    };
    if amounts.len() != legs.legs.len() {
        let message = format!("{} amounts for {} legs", amounts.len(), legs.legs.len());
        return refuse(Reason::InvalidAmount, message);
    }
    if let Some(at) = legs.legs.iter().zip(&amounts).position(|(leg, &amount)| amount > leg.amount) {
        let message = format!("leg {at}: {} is more than the {} reserved", amounts[at], legs.legs[at].amount);
        return refuse(Reason::InvalidAmount, message);
    }
    if amounts.iter().all(|&amount| amount == 0) {
        return refuse(Reason::AmountZero, "nothing to confirm: cancel instead");
    }
    if !is_balanced(&legs.legs, &amounts) {
        return refuse(Reason::LegsUnbalanced, "debits and credits of a currency differ");
    }
    let all = legs.legs.iter().zip(&amounts).all(|(leg, &amount)| leg.amount == amount);
    Ok((!all).then_some(amounts))
}
