//! What one turn does with each input, and with what the driver puts out.

use escrow_proto::v1::AnswerColumns;
use escrow_proto::v1::exchange_response::Message;
use escrow_tcc::driver::{Answered, CallKind, LinkState, Send, Standing, TransferRequest, Waiter};
use escrow_tcc::{Command, Entry};
use escrow_types::{
    AccountKey, Answer, Currency, Epoch, Millis, ParticipantId, Reason, Sequence, TransactionKey,
};

use super::Owner;
use super::callers::UNARY;
use super::mailbox::{Input, Legs, LinkEvent, Transfer};
use crate::error::CoordinatorError;
use crate::failpoint;

/// Ids of a message are looked for so many at a time: enough to overlap their cache misses, few enough to stay in the cache.
const LOOK_AHEAD_ROWS: usize = 32;

impl Owner {
    pub(super) fn handle(&mut self, input: Input) {
        match input {
            Input::Register(caller, sink) => self.callers.register(caller, sink),
            Input::Unregister(caller) => self.callers.unregister(caller),
            Input::Transfer(transfer) => self.transfer(*transfer),
            Input::Transfers(transfers) => {
                for (row, transfer) in transfers.iter().enumerate() {
                    if row % LOOK_AHEAD_ROWS == 0 {
                        let ahead = transfers[row..].iter().take(LOOK_AHEAD_ROWS);
                        self.driver.look_ahead(ahead.map(|transfer| transfer.key));
                    }
                    self.submit(self.now(), &transfer.request(), transfer.waiter);
                }
            }
            Input::Columns(caller, currency, wait, columns) => {
                let (rows, now) = (columns.amount.len(), self.now());
                for row in 0..rows {
                    if row % LOOK_AHEAD_ROWS == 0 {
                        let ahead = row..rows.min(row + LOOK_AHEAD_ROWS);
                        self.driver.look_ahead(ahead.map(|row| key_of(&columns, row)));
                    }
                    let waiter = Waiter { caller, tag: columns.first_tag.wrapping_add(row as u64), wait };
                    let request = row_of(&columns, row, currency);
                    self.submit(now, &request, waiter);
                }
            }
            Input::Legs(legs) => self.legs(*legs),
            Input::Link(participant, event) => self.link(participant, event),
            Input::Answers(participant, message) => self.answers(participant, message),
            Input::Called(participant, kind, epoch, sequence, result) => {
                self.called(participant, kind, epoch, sequence, result);
            }
            Input::With(with) => {
                // Without an answer, if another leads: it is asked then.
                if self.serves() {
                    with(self);
                }
            }
            Input::WithAny(with) => with(self),
            Input::WithAt(index, with) => self.read_at(index, with),
            Input::OfTerm(term, input) => {
                if self.serving_term() == Some(term) {
                    self.handle(*input);
                }
            }
        }
    }

    /// As for the rows of a message, for calls of one transfer: looks for their ids once in so many inputs.
    pub(super) fn look_ahead(&mut self, at: usize, rest: &[Input]) {
        if at.is_multiple_of(LOOK_AHEAD_ROWS) {
            let key =
                |input: &Input| if let Input::Transfer(transfer) = input { Some(transfer.key) } else { None };
            self.driver.look_ahead(rest.iter().take(LOOK_AHEAD_ROWS).filter_map(key));
        }
    }

    fn submit(&mut self, now: Millis, request: &TransferRequest<'_>, waiter: Waiter) {
        if let Some(reason) = self.refuses_work() {
            self.refuse(waiter, reason);
            return;
        }
        self.driver.submit_transfer(now, &self.window, request, waiter);
    }

    fn refuses_work(&self) -> Option<Reason> {
        if !self.serves() {
            Some(Reason::NotLeader)
        } else if self.shutting_down {
            Some(self.vouched(Reason::ShuttingDown))
        } else {
            None
        }
    }

    fn refuse(&mut self, waiter: Waiter, reason: Reason) {
        let Waiter { caller, tag, .. } = waiter;
        let standing = Standing::Refused(reason);
        self.callers.deliver(vec![Answered {
            caller,
            tag,
            epoch: Epoch(0),
            sequence: 0,
            standing,
            completed: false,
        }]);
    }

    fn transfer(&mut self, mut transfer: Transfer) {
        let mut waiter = transfer.waiter;
        if let Some(reply) = transfer.reply.take() {
            waiter.caller = UNARY;
            waiter.tag = self.callers.expect(reply);
        }
        let request = transfer.request();
        self.submit(self.now(), &request, waiter);
    }

    fn legs(&mut self, legs: Legs) {
        let tag = self.callers.expect(legs.reply);
        let waiter = Waiter { caller: UNARY, tag, wait: legs.wait };
        if let Some(reason) = self.refuses_work() {
            self.refuse(waiter, reason);
            return;
        }
        let request = escrow_tcc::driver::LegsRequest {
            key: legs.key,
            transaction_id: legs.transaction_id,
            two_step: legs.two_step,
            legs: legs.rows,
            timeout_ms: legs.timeout_ms,
        };
        let now = self.now();
        self.driver.submit_legs(now, &self.window, request, waiter);
    }

    /// A place for the answer of a unary call, for verbs that wait (two-step ends).
    pub(crate) fn waiter_for(
        &mut self,
        reply: super::mailbox::Reply,
        wait: escrow_tcc::driver::Wait,
    ) -> Waiter {
        Waiter { caller: UNARY, tag: self.callers.expect(reply), wait }
    }

    /// Takes a place back whose verb was refused: no answer will come.
    pub(crate) fn forget(&mut self, waiter: Waiter) {
        self.callers.forget(waiter.tag);
    }

    fn link(&mut self, participant: ParticipantId, event: LinkEvent) {
        let now = self.now();
        match event {
            LinkEvent::Ready(sender) => {
                tracing::info!(participant = participant.0, "participant ready");
                self.links.set(participant, Some(sender));
                self.driver.set_link(now, participant, LinkState::Ready);
            }
            LinkEvent::Lost(error) => {
                tracing::warn!(participant = participant.0, error, "participant lost");
                self.links.set(participant, None);
                self.driver.set_link(now, participant, LinkState::Waiting);
                self.driver.link_failed(now, participant, &error, now);
            }
            LinkEvent::Failed { error, next_in_ms, breaker_open } => {
                self.driver.link_failed(now, participant, &error, now + next_in_ms);
                let state = if breaker_open { LinkState::Down } else { LinkState::Waiting };
                self.driver.set_link(now, participant, state);
            }
            LinkEvent::Overdue => self.driver.set_link(now, participant, LinkState::Down),
            LinkEvent::Deposed => self.checkpointing.deposed = true,
        }
    }

    fn answers(&mut self, participant: ParticipantId, message: Message) {
        let now = self.now();
        match message {
            Message::Hello(_) => {}
            Message::Tried(columns) => {
                let AnswerColumns { epoch, sequence: sequences, answer: answers, .. } = columns;
                let epoch = Epoch(epoch);
                self.stages.tried(epoch, &sequences);
                self.driver.tried(now, participant, epoch, &sequences, &answers);
            }
            Message::TriedAndConfirmed(columns) => {
                let AnswerColumns { epoch, sequence: sequences, answer: answers, .. } = columns;
                let epoch = Epoch(epoch);
                self.stages.tried(epoch, &sequences);
                self.driver.tried_and_confirmed(now, participant, epoch, &sequences, &answers);
            }
            Message::Confirmed(columns) => {
                let AnswerColumns { epoch, sequence: sequences, answer: answers, .. } = columns;
                let epoch = Epoch(epoch);
                self.driver.ended(now, participant, CallKind::Confirm, epoch, &sequences, &answers);
            }
            Message::Canceled(columns) => {
                let AnswerColumns { epoch, sequence: sequences, answer: answers, .. } = columns;
                let epoch = Epoch(epoch);
                self.driver.ended(now, participant, CallKind::Cancel, epoch, &sequences, &answers);
            }
            Message::OutcomeQuery(query) => {
                let asked: Vec<(Epoch, Sequence)> = query
                    .epoch
                    .iter()
                    .map(|&epoch| Epoch(epoch))
                    .zip(query.sequence.iter().copied())
                    .collect();
                self.driver.asked(participant, &asked);
            }
        }
    }

    fn called(
        &mut self,
        participant: ParticipantId,
        kind: CallKind,
        epoch: Epoch,
        sequence: Sequence,
        result: Result<u8, String>,
    ) {
        let now = self.now();
        // Epochs are for wallet shards: an external participant cannot depose a leader, nor ask it for a hello.
        let result = result.and_then(|answer| match Answer::from_byte(answer) {
            Some(Answer::StaleEpoch | Answer::HelloRequired) => {
                Err("it answered STALE_EPOCH or HELLO_REQUIRED, which only wallet shards may".to_owned())
            }
            _ => Ok(answer),
        });
        match result {
            Ok(answer) if kind == CallKind::Try => {
                self.driver.tried(now, participant, epoch, &[sequence], &[answer]);
            }
            Ok(answer) => self.driver.ended(now, participant, kind, epoch, &[sequence], &[answer]),
            Err(error) => self.driver.call_failed(now, participant, kind, epoch, sequence, &error),
        }
    }

    /// Lets out what the driver has put out: everything in it may leave. `all`: also what could rest until there is something else
    /// for its participant.
    pub(super) fn let_out(&mut self, all: bool) -> Result<(), CoordinatorError> {
        let outputs = if all { self.driver.take_outputs() } else { self.driver.take_urgent_outputs() };
        if outputs.deposed || self.checkpointing.deposed {
            self.checkpointing.deposed = false;
            return self.deposed();
        }
        if outputs.sends.iter().any(|(_, send)| is_phase_two(send)) {
            failpoint::die_at("coordinator::before_phase_two_sent");
        }
        self.stages.let_out(&outputs.sends, &outputs.answers);
        let mut phase_two = false;
        for (participant, send) in outputs.sends {
            phase_two |= is_phase_two(&send);
            self.links.send(participant, send);
        }
        for call in outputs.calls {
            phase_two |= call.kind != CallKind::Try;
            let Some(live) = self.driver.machine().live().get(call.epoch, call.sequence) else { continue };
            self.links.call(call, live, self.driver.machine().epoch());
        }
        if phase_two {
            die_soon_at("coordinator::after_phase_two_sent");
        }
        let mut answers = outputs.answers;
        if self.is_replica() {
            for answered in &mut answers {
                if let Standing::Refused(reason) = &mut answered.standing {
                    *reason = self.vouched(*reason);
                }
            }
        }
        self.callers.deliver(answers);
        Ok(())
    }

    /// What is due by time alone.
    pub(crate) fn tick(&mut self) -> Result<(), CoordinatorError> {
        /// Every fifth tick: ten times a second.
        const WATERMARK_TICKS: u64 = 5;
        self.ticks += 1;
        if !self.serves() {
            self.checkpoint_if_due();
            return Ok(());
        }
        let now = self.now();
        self.driver.tick(now);
        if self.ticks.is_multiple_of(WATERMARK_TICKS) {
            let machine = self.driver.machine();
            let mark = (machine.live().base(), machine.live().lingering().count());
            if self.watermark_sent != mark {
                self.watermark_sent = mark;
                self.driver.send_watermark();
            }
        }
        self.end_turn(true)?;
        self.checkpoint_if_due();
        Ok(())
    }
}

fn key_of(columns: &escrow_proto::v1::TransferColumnsRequest, row: usize) -> TransactionKey {
    TransactionKey::from_halves(columns.transaction_id_high[row], columns.transaction_id_low[row])
}

fn row_of(
    columns: &escrow_proto::v1::TransferColumnsRequest,
    row: usize,
    currency: Currency,
) -> TransferRequest<'static> {
    TransferRequest {
        key: key_of(columns, row),
        from: AccountKey::from_halves(columns.from_account_high[row], columns.from_account_low[row]),
        to: AccountKey::from_halves(columns.to_account_high[row], columns.to_account_low[row]),
        amount: columns.amount[row],
        currency,
        timeout_ms: u64::from(columns.timeout_ms),
        names: None,
    }
}

const fn is_phase_two(send: &Send) -> bool {
    matches!(send, Send::Confirm(_) | Send::Cancel(_))
}

fn holds(entry: &Entry, kind: impl Fn(&Command) -> bool) -> bool {
    entry.commands.iter().any(kind)
}

const fn is_begin(command: &Command) -> bool {
    matches!(command, Command::BeginTransfers(_) | Command::BeginLegs(_))
}

const fn is_decide(command: &Command) -> bool {
    matches!(command, Command::Decide(_) | Command::DecidePartial(_))
}

const fn is_finish(command: &Command) -> bool {
    matches!(command, Command::Finish(_) | Command::FinishImplied(_))
}

/// Crash tests: an entry that never reaches the disk, nor does any after it, and the end of the process a moment later, so that
/// messages which left beside it arrive.
pub(super) fn is_lost_to_a_failpoint(entry: &Entry) -> bool {
    let lost = failpoint::is_losing()
        || (holds(entry, is_begin) && failpoint::is_set("coordinator::before_begin_durable"))
        || (holds(entry, is_decide) && failpoint::is_set("coordinator::before_decide_durable"))
        || (holds(entry, is_finish) && failpoint::is_set("coordinator::before_finish_durable"));
    if lost && !failpoint::lose_from_now_on() {
        die_soon();
    }
    lost
}

/// Crash tests: the entry is durable, and nothing that it causes has happened.
pub(super) fn die_before_applied(entry: &Entry) {
    if holds(entry, is_begin) {
        failpoint::die_at("coordinator::after_begin_durable");
    }
    if holds(entry, is_decide) {
        failpoint::die_at("coordinator::after_decide_durable");
    }
}

fn die_soon_at(name: &str) {
    if failpoint::is_set(name) {
        die_soon();
    }
}

fn die_soon() {
    const MOMENT: std::time::Duration = std::time::Duration::from_millis(100);
    std::thread::spawn(|| {
        std::thread::sleep(MOMENT);
        std::process::abort();
    });
}
