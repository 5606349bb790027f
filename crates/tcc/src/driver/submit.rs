//! Requests of callers: validate, look the id up, begin.
//!
//! Precedence of refusals: the request itself (ids, accounts, currency, amounts), then what is remembered under its id,
//! then whether there is room. A refused request leaves no trace.

use escrow_invariants::{Canary, canary};
use escrow_types::{
    AccountKey, Amount, Currency, Epoch, Millis, ParticipantId, Reason, Sequence, TransactionKey,
};

use super::flight::Flight;
use super::{Driver, LinkKind, LinkState, Standing, Waiter};
use crate::command::{BeginLegs, BeginTransfers, Command, Name, NameOf};
use crate::content::{Content, Direction, LEGS_MAX, Leg, Legs, Transfer};
use crate::machine::{Names, Older, Row};

/// One transfer, as a caller asks for it.
#[derive(Debug, Clone, Copy)]
pub struct TransferRequest<'a> {
    /// The caller's id.
    pub key: TransactionKey,
    /// Who pays.
    pub from: AccountKey,
    /// Who is paid.
    pub to: AccountKey,
    /// Minor units.
    pub amount: Amount,
    /// Of the amount.
    pub currency: Currency,
    /// 0 for the default.
    pub timeout_ms: Millis,
    /// Ids as text, where they are not UUIDs.
    pub names: Option<&'a Names>,
}

/// A transaction of several legs, as a caller asks for it. The participant of a leg is its wallet shard or the
/// external participant that it names.
#[derive(Debug, Clone)]
pub struct LegsRequest {
    /// The caller's id.
    pub key: TransactionKey,
    /// The caller's id as text, where it is not a UUID.
    pub transaction_id: Option<Box<str>>,
    /// Whether the caller decides.
    pub two_step: bool,
    /// In the caller's order.
    pub legs: Vec<Leg>,
    /// Timeout, or how long the reservation stands; 0 for the default.
    pub timeout_ms: Millis,
}

impl Driver {
    /// Only for speed: these ids are submitted next, one after the other. Best in portions of some 32, because what is
    /// remembered of millions of ids is in no cache, and looking for many at once costs hardly more than for one.
    pub fn look_ahead(&self, keys: impl Iterator<Item = TransactionKey>) {
        self.machine.remembered().look_ahead(keys);
    }

    /// A transfer. Its answer comes by [`super::Outputs::answers`], now or later.
    pub fn submit_transfer(
        &mut self,
        now_ms: Millis,
        older: &dyn Older,
        request: &TransferRequest<'_>,
        waiter: Waiter,
    ) {
        if let Err(reason) = self.try_submit_transfer(now_ms, older, request, waiter) {
            self.answer(waiter, Epoch(0), 0, Standing::Refused(reason), false);
        }
    }

    fn try_submit_transfer(
        &mut self,
        now_ms: Millis,
        older: &dyn Older,
        request: &TransferRequest<'_>,
        waiter: Waiter,
    ) -> Result<(), Reason> {
        self.hear_time(now_ms);
        check_transfer(request)?;
        let from_participant = self.routing.of(request.from).ok_or(Reason::UnknownParticipant)?;
        let to_participant = self.routing.of(request.to).ok_or(Reason::UnknownParticipant)?;
        let transfer = Transfer {
            from: request.from,
            to: request.to,
            amount: request.amount,
            currency: request.currency,
            from_participant,
            to_participant,
        };
        let fingerprint = transfer.fingerprint();
        let timeout = self.timeout(request.timeout_ms, self.config.default_timeout_ms);
        let deadline_ms = now_ms + timeout;
        if self.answer_known(now_ms, older, request.key, fingerprint, waiter, deadline_ms)? {
            return Ok(());
        }
        let one = [from_participant];
        let two = [from_participant, to_participant];
        let participants: &[ParticipantId] = if from_participant == to_participant { &one } else { &two };
        self.admit(participants)?;

        let sequence = self.launch(participants, request.key, fingerprint, |flight| {
            (flight.deadline_ms, flight.answer_by_ms) = (deadline_ms, deadline_ms);
            flight.waiter = Some(waiter);
        });
        let begin = self.begin_transfers(sequence);
        let row = begin.len() as u32;
        begin.push(request.key, &transfer, deadline_ms);
        if let Some(names) = request.names {
            push_names(&mut begin.names, row, names);
        }
        self.try_now(sequence, &Content::Transfer(transfer));
        Ok(())
    }

    /// Trys that need not wait until Begin is durable. A single branch has no later decision to protect it: its
    /// `TryAndConfirm` waits. External participants wait too: they know no hello that would clear up after a lost Begin.
    fn try_now(&mut self, sequence: Sequence, content: &Content) {
        let epoch = self.flights.epoch();
        let flight = self.flights.get_mut(epoch, sequence).expect("just launched");
        if flight.one_phase && !canary::is_on(Canary::OnePhaseBeforeBeginIsDurable) {
            return;
        }
        for branch in flight.branches.as_mut_slice() {
            if self.links.is_ready_stream(branch.participant) {
                branch.ever_sent = true;
                branch.under_way = true;
                let columns = if flight.one_phase {
                    self.outbox.one_phase(branch.participant, epoch, flight.deadline_ms)
                } else {
                    self.outbox.tries(branch.participant, epoch, flight.deadline_ms)
                };
                content.for_each_leg_of(branch.participant, |account, amount, kind| {
                    columns.push(sequence, account, amount, kind);
                });
            }
        }
    }

    /// A transaction of several legs. Its answer comes by [`super::Outputs::answers`], now or later.
    pub fn submit_legs(&mut self, now_ms: Millis, older: &dyn Older, request: LegsRequest, waiter: Waiter) {
        if let Err(reason) = self.try_submit_legs(now_ms, older, request, waiter) {
            self.answer(waiter, Epoch(0), 0, Standing::Refused(reason), false);
        }
    }

    fn try_submit_legs(
        &mut self,
        now_ms: Millis,
        older: &dyn Older,
        request: LegsRequest,
        waiter: Waiter,
    ) -> Result<(), Reason> {
        self.hear_time(now_ms);
        check_legs(&request)?;
        let legs = Legs { two_step: request.two_step, legs: request.legs, partial: None };
        let content = Content::Legs(Box::new(legs.clone()));
        let fingerprint = content.fingerprint();
        let default_timeout = self.config.default_timeout_ms;
        let default = if request.two_step { self.config.default_hold_ms } else { default_timeout };
        let timeout = self.timeout(request.timeout_ms, default);
        let answer_by_ms = now_ms + if request.two_step { timeout.min(default_timeout) } else { timeout };
        if self.answer_known(now_ms, older, request.key, fingerprint, waiter, answer_by_ms)? {
            return Ok(());
        }
        let participants = content.participants();
        self.admit(&participants)?;

        let deadline_ms = now_ms + timeout;
        let sequence = self.launch(&participants, request.key, fingerprint, |flight| {
            (flight.deadline_ms, flight.answer_by_ms) = (deadline_ms, answer_by_ms);
            flight.waiter = Some(waiter);
            flight.two_step = request.two_step;
        });
        let (key, transaction_id) = (request.key, request.transaction_id);
        let begin = BeginLegs { sequence, key, transaction_id, deadline: deadline_ms, legs };
        self.turn.begins.push(Command::BeginLegs(begin));
        self.try_now(sequence, &content);
        Ok(())
    }

    fn timeout(&self, asked_ms: Millis, default_ms: Millis) -> Millis {
        if asked_ms == 0 { default_ms } else { asked_ms.min(self.config.timeout_ms_max) }
    }

    /// The batch of transfers that a new row may join: the last command of this turn, if it is one.
    fn begin_transfers(&mut self, sequence: Sequence) -> &mut BeginTransfers {
        if !matches!(self.turn.begins.last(), Some(Command::BeginTransfers(_))) {
            let begin = BeginTransfers::with_capacity(sequence, self.last_begin_rows);
            self.turn.begins.push(Command::BeginTransfers(begin));
        }
        match self.turn.begins.last_mut() {
            Some(Command::BeginTransfers(begin)) => begin,
            _ => unreachable!("just pushed"),
        }
    }

    /// A new flight over these participants. `fill` says the rest: times, who waits, whether the caller decides.
    #[inline]
    fn launch(
        &mut self,
        participants: &[ParticipantId],
        key: TransactionKey,
        fingerprint: u64,
        fill: impl FnOnce(&mut Flight),
    ) -> Sequence {
        let sequence = self.flights.push(Flight::BLANK);
        let flight = self.flights.last_mut().expect("just pushed");
        fill(flight);
        flight.set_branches(participants, &self.links);
        self.links.count(flight, 1);
        self.next_deadline_ms = self.next_deadline_ms.min(flight.answer_by_ms);
        self.machine.expect(key, sequence, fingerprint);
        sequence
    }

    /// Answers a request whose id is known; `false` when it is new.
    fn answer_known(
        &mut self,
        now_ms: Millis,
        older: &dyn Older,
        key: TransactionKey,
        fingerprint: u64,
        waiter: Waiter,
        answer_by_ms: Millis,
    ) -> Result<bool, Reason> {
        let window = self.config.idempotency_window_ms;
        let row = self.machine.remembered().get(key).copied().or_else(|| older.find(key));
        let row = row.filter(|row| row.finished_ms == 0 || !canary::is_on(Canary::RetryWithNewXid));
        if let Some(row) =
            row.filter(|row| row.finished_ms == 0 || row.finished_ms.saturating_add(window) >= now_ms)
        {
            self.answer_row(row, fingerprint, waiter, answer_by_ms)?;
            return Ok(true);
        }
        // A UUIDv7 says its own age: one older than the window may have been executed and forgotten.
        if key.uuid_v7_millis().is_some_and(|born| born.saturating_add(window) < now_ms) {
            return Err(Reason::TransactionIdExpired);
        }
        Ok(false)
    }

    fn answer_row(
        &mut self,
        row: Row,
        fingerprint: u64,
        waiter: Waiter,
        answer_by_ms: Millis,
    ) -> Result<(), Reason> {
        if row.fingerprint != fingerprint {
            return Err(Reason::TransactionIdReused);
        }
        match row.outcome() {
            Some(outcome) => {
                self.answer(waiter, row.epoch, row.sequence, Standing::Decided(outcome.decision), true);
            }
            None => self.answer_or_wait(row.epoch, row.sequence, waiter, answer_by_ms),
        }
        Ok(())
    }

    /// Whether there is room for one more transaction on these participants.
    fn admit(&self, participants: &[ParticipantId]) -> Result<(), Reason> {
        if self.machine.is_paused() {
            return Err(Reason::Paused);
        }
        if self.flights.len() >= self.config.in_flight_max {
            return Err(Reason::Overloaded);
        }
        for &participant in participants {
            let link = self.links.get(participant).ok_or(Reason::UnknownParticipant)?;
            if link.state == LinkState::Down || (link.stalled && link.kind == LinkKind::Stream) {
                return Err(Reason::ParticipantUnavailable);
            }
            if link.open >= self.config.per_participant_max {
                return Err(Reason::Overloaded);
            }
        }
        Ok(())
    }
}

fn check_transfer(request: &TransferRequest<'_>) -> Result<(), Reason> {
    if !request.key.is_valid() {
        return Err(Reason::InvalidTransactionId);
    }
    if !request.from.is_valid() || !request.to.is_valid() {
        return Err(Reason::InvalidAccountId);
    }
    if request.from == request.to {
        return Err(Reason::SameAccount);
    }
    if request.amount == 0 {
        return Err(Reason::AmountZero);
    }
    Ok(())
}

fn check_legs(request: &LegsRequest) -> Result<(), Reason> {
    if !request.key.is_valid() {
        return Err(Reason::InvalidTransactionId);
    }
    let legs = &request.legs;
    if legs.iter().any(|leg| !leg.account.is_valid()) {
        return Err(Reason::InvalidAccountId);
    }
    if legs.len() < 2 || legs.len() > LEGS_MAX {
        return Err(Reason::InvalidLegs);
    }
    let both_sides = |leg: &Leg| {
        let same = |other: &&Leg| {
            other.account == leg.account
                && other.participant == leg.participant
                && other.currency == leg.currency
                && other.direction == Direction::Credit
        };
        leg.direction == Direction::Debit && legs.iter().any(|other| same(&other))
    };
    if legs.iter().any(both_sides) {
        return Err(Reason::SameAccount);
    }
    if legs.iter().any(|leg| leg.amount == 0) {
        return Err(Reason::AmountZero);
    }
    let amounts: Vec<Amount> = legs.iter().map(|leg| leg.amount).collect();
    if is_balanced(legs, &amounts) { Ok(()) } else { Err(Reason::LegsUnbalanced) }
}

/// Whether debits and credits are equal in each currency. At most 64 legs of 64 bits: 128 bits cannot overflow.
pub(super) fn is_balanced(legs: &[Leg], amounts: &[Amount]) -> bool {
    legs.iter().all(|leg| {
        let rows = legs.iter().zip(amounts).filter(|(other, _)| other.currency == leg.currency);
        let sum: i128 = rows
            .map(|(other, &amount)| match other.direction {
                Direction::Debit => -i128::from(amount),
                Direction::Credit => i128::from(amount),
            })
            .sum();
        sum == 0
    })
}

fn push_names(list: &mut Vec<Name>, row: u32, names: &Names) {
    let all =
        [(NameOf::Transaction, &names.transaction_id), (NameOf::From, &names.from), (NameOf::To, &names.to)];
    for (of, text) in all {
        if let Some(text) = text {
            list.push(Name { row, of, text: text.clone() });
        }
    }
}
