//! A driver with a log in memory, and one line of text for whatever it does.
//!
//! An entry goes through the steps that it goes through in a server: taken, encoded, appended, durable, decoded,
//! applied. A crash loses what was appended but not durable.

use std::collections::BTreeMap;

use escrow_types::{
    AccountKey, Amount, Answer, Currency, Epoch, Millis, ParticipantId, Reason, TransactionKey, Xid,
};

use crate::content::{Direction, Leg};
use crate::driver::{
    CallKind, CallerId, Config, Driver, LegsRequest, LinkKind, LinkState, Outputs, Refusal, RetryDelays,
    Send, Standing, TransferRequest, TryColumns, Wait, Waiter,
};
use crate::entry::Entry;
use crate::machine::{Decision, Machine, Older, Row};
use crate::routing::Routing;

/// The time at which every story begins.
pub(super) const START: Millis = 1_000_000;

/// Wallet shards of every story; 7 and 8 are external participants.
pub(super) const SHARDS: [u16; 3] = [0, 1, 2];
pub(super) const EXTERNAL: u16 = 7;

/// Doubling from 100 ms, without jitter.
struct Doubling;

impl RetryDelays for Doubling {
    fn delay_ms(&mut self, attempt: u32) -> Millis {
        100 << (attempt - 1).min(5)
    }
}

/// Rows that a checkpoint took out of memory.
#[derive(Default)]
pub(super) struct Runs(pub(super) BTreeMap<TransactionKey, Row>);

impl Older for Runs {
    fn find(&self, key: TransactionKey) -> Option<Row> {
        self.0.get(&key).copied()
    }
}

/// A caller's id that is a hashed key.
pub(super) fn key(number: u128) -> TransactionKey {
    TransactionKey((number << 64) | 0b11 << 62)
}

/// An account on a shard.
pub(super) fn account(shard: u16, number: u64) -> AccountKey {
    let routing = Routing::new(SHARDS.map(ParticipantId).to_vec());
    let keys = (0..).map(|low: u64| AccountKey::from_halves(low, 0b11 << 62));
    let mut there = keys.filter(|&account| routing.of(account) == Some(ParticipantId(shard)));
    there.nth(number as usize).expect("accounts without end")
}

/// A leg: participant, direction (`'-'` debit, `'+'` credit), amount. Each participant has two accounts for this.
pub(super) fn leg(participant: u16, sign: char, amount: Amount) -> Leg {
    let number = u64::from(sign == '+');
    let account =
        if SHARDS.contains(&participant) { account(participant, number) } else { account(0, 9 + number) };
    let direction = if sign == '-' { Direction::Debit } else { Direction::Credit };
    let participant = ParticipantId(participant);
    Leg { participant, account, account_id: None, direction, amount, currency: Currency::USD }
}

pub(super) struct Desk {
    pub(super) driver: Driver,
    pub(super) config: Config,
    pub(super) now: Millis,
    pub(super) older: Runs,
    /// Everything appended, encoded.
    log: Vec<Vec<u8>>,
    durable: usize,
    applied: usize,
}

impl Desk {
    pub(super) fn new() -> Self {
        Self::with(Config::default())
    }

    /// Shards are connected and greeted.
    pub(super) fn with(config: Config) -> Self {
        let mut desk = Self::started(config, Vec::new(), Runs::default(), START);
        desk.connect();
        desk
    }

    fn started(config: Config, log: Vec<Vec<u8>>, older: Runs, now: Millis) -> Self {
        let mut machine = Machine::new();
        for bytes in &log {
            machine.apply_entry(&Entry::decode(bytes).unwrap());
        }
        let links = SHARDS.map(|id| (ParticipantId(id), LinkKind::Stream));
        let external = [EXTERNAL, EXTERNAL + 1].map(|id| (ParticipantId(id), LinkKind::Unary));
        let participants = links.into_iter().chain(external).collect();
        let routing = Routing::new(SHARDS.map(ParticipantId).to_vec());
        let driver = Driver::new(config.clone(), routing, participants, machine, Box::new(Doubling));
        let count = log.len();
        let mut desk = Self { driver, config, now, older, log, durable: count, applied: count };
        let open = Entry { time_ms: now, commands: vec![desk.driver.open_epoch()] };
        desk.log.push(open.encode());
        desk.durable();
        desk.driver.recover();
        desk
    }

    /// All shards are connected and greeted.
    pub(super) fn connect(&mut self) {
        for shard in SHARDS {
            self.link(shard, LinkState::Ready);
        }
    }

    pub(super) fn link(&mut self, participant: u16, state: LinkState) {
        self.driver.set_link(self.now, ParticipantId(participant), state);
    }

    /// Takes this turn's entry and appends it; whether there was one.
    pub(super) fn append(&mut self) -> bool {
        self.append_with(false)
    }

    /// … even if only ends wait.
    pub(super) fn append_with(&mut self, lazy_too: bool) -> bool {
        let driver = &mut self.driver;
        let entry = if lazy_too { driver.flush_lazy(self.now) } else { driver.take_entry(self.now) };
        let found = entry.is_some();
        self.log.extend(entry.map(|entry| entry.encode()));
        found
    }

    /// Everything appended is durable now, and applied.
    pub(super) fn durable(&mut self) {
        self.durable = self.log.len();
        while self.applied < self.durable {
            let entry = Entry::decode(&self.log[self.applied]).unwrap();
            self.applied += 1;
            self.driver.applied(&entry);
        }
    }

    /// A whole turn: append, durable, applied.
    pub(super) fn turn(&mut self) {
        self.append();
        self.durable();
    }

    /// As a turn, with the ends that were left lying.
    pub(super) fn flush(&mut self) {
        self.append_with(true);
        self.durable();
    }

    /// Time passes, then a tick.
    pub(super) fn pass(&mut self, millis: Millis) {
        self.now += millis;
        self.driver.tick(self.now);
    }

    /// The process dies, and another starts from what is durable. Nobody is connected.
    pub(super) fn crash(self) -> Self {
        let durable = self.durable;
        self.crash_at(durable)
    }

    /// As if the process had died when only this many entries were durable.
    pub(super) fn crash_at(self, entries: usize) -> Self {
        let Self { mut log, config, older, now, .. } = self;
        log.truncate(entries);
        Self::started(config, log, older, now)
    }

    /// A checkpoint: rows of ended transactions leave the memory.
    pub(super) fn checkpoint(&mut self) {
        let rows = self.driver.machine_mut().hand_over();
        self.older.0.extend(rows.finished().map(|row| (row.key, *row)));
    }

    /// A transfer of 5 from the first account of a shard to the second of another; waits until completed.
    pub(super) fn transfer(&mut self, tag: u64, from: u16, to: u16) {
        self.submit(tag, tag, from, to, 5, Wait::Completed, 0);
    }

    #[expect(clippy::too_many_arguments, reason = "a request has that many parts")]
    pub(super) fn submit(
        &mut self,
        tag: u64,
        id: u64,
        from: u16,
        to: u16,
        amount: Amount,
        wait: Wait,
        timeout_ms: Millis,
    ) {
        let request = TransferRequest {
            key: key(u128::from(id)),
            from: account(from, 0),
            to: account(to, 1),
            amount,
            currency: Currency::USD,
            timeout_ms,
            names: None,
        };
        self.driver.submit_transfer(self.now, &self.older, &request, waiter(tag, wait));
    }

    /// As a transfer, under any key.
    pub(super) fn submit_key(&mut self, tag: u64, key: TransactionKey) {
        let request = TransferRequest {
            key,
            from: account(0, 0),
            to: account(1, 1),
            amount: 5,
            currency: Currency::USD,
            timeout_ms: 0,
            names: None,
        };
        self.driver.submit_transfer(self.now, &self.older, &request, waiter(tag, Wait::Completed));
    }

    pub(super) fn legs(&mut self, tag: u64, two_step: bool, legs: Vec<Leg>) {
        let wait = if two_step { Wait::Reserved } else { Wait::Completed };
        self.legs_waiting(tag, two_step, legs, wait);
    }

    pub(super) fn legs_waiting(&mut self, tag: u64, two_step: bool, legs: Vec<Leg>, wait: Wait) {
        let key = key(u128::from(tag));
        let request = LegsRequest { key, transaction_id: None, two_step, legs, timeout_ms: 0 };
        self.driver.submit_legs(self.now, &self.older, request, waiter(tag, wait));
    }

    /// As `legs_waiting`, two-step, under any id.
    pub(super) fn submit_legs(&mut self, tag: u64, id: u64, legs: Vec<Leg>, wait: Wait, timeout_ms: Millis) {
        let key = key(u128::from(id));
        let request = LegsRequest { key, transaction_id: None, two_step: true, legs, timeout_ms };
        self.driver.submit_legs(self.now, &self.older, request, waiter(tag, wait));
    }

    /// A two-step transaction of 30 between shards 0 and 1, reserved by both.
    pub(super) fn hold(&mut self, tag: u64) {
        self.legs(tag, true, vec![leg(0, '-', 30), leg(1, '+', 30)]);
        self.turn();
        let sequence = self.driver.machine().live().next() - 1;
        let epoch = self.driver.machine().epoch().0;
        let xid = format!("{epoch}-{sequence}");
        self.tried(0, &xid, Answer::Reserved);
        self.tried(1, &xid, Answer::Reserved);
        assert!(self.out().ends_with(&format!("#{tag} reserved")));
    }

    pub(super) fn confirm(&mut self, tag: u64, xid: &str, amounts: Option<&[Amount]>) -> String {
        let (epoch, sequence) = parse(xid);
        let waiter = waiter(tag, Wait::Completed);
        said(self.driver.confirm(epoch, sequence, amounts.map(<[Amount]>::to_vec), waiter))
    }

    pub(super) fn cancel(&mut self, tag: u64, xid: &str) -> String {
        let (epoch, sequence) = parse(xid);
        said(self.driver.cancel(epoch, sequence, waiter(tag, Wait::Completed)))
    }

    pub(super) fn operator_cancel(&mut self, xid: &str) -> String {
        let (epoch, sequence) = parse(xid);
        said(self.driver.operator_cancel(epoch, sequence))
    }

    pub(super) fn force(&mut self, xid: &str, confirm: bool) -> String {
        let (epoch, sequence) = parse(xid);
        said(self.driver.force(epoch, sequence, confirm, "by phone"))
    }

    pub(super) fn give_up(&mut self, xid: &str) -> String {
        let (epoch, sequence) = parse(xid);
        said(self.driver.give_up(epoch, sequence, "shard is lost"))
    }

    pub(super) fn retry(&mut self, xid: &str) -> String {
        let (epoch, sequence) = parse(xid);
        said(self.driver.retry(epoch, sequence))
    }

    pub(super) fn wait_for(&mut self, tag: u64, xid: &str, wait: Wait) {
        let (epoch, sequence) = parse(xid);
        self.driver.wait_for(epoch, sequence, waiter(tag, wait));
    }

    pub(super) fn tried(&mut self, participant: u16, xid: &str, answer: Answer) {
        let (epoch, sequence) = parse(xid);
        self.driver.tried(self.now, ParticipantId(participant), epoch, &[sequence], &[answer.to_byte()]);
    }

    pub(super) fn tried_and_confirmed(&mut self, participant: u16, xid: &str, answer: Answer) {
        let ((epoch, sequence), participant) = (parse(xid), ParticipantId(participant));
        self.driver.tried_and_confirmed(self.now, participant, epoch, &[sequence], &[answer.to_byte()]);
    }

    pub(super) fn ended(&mut self, participant: u16, kind: CallKind, xid: &str, answer: Answer) {
        let ((epoch, sequence), participant) = (parse(xid), ParticipantId(participant));
        self.driver.ended(self.now, participant, kind, epoch, &[sequence], &[answer.to_byte()]);
    }

    pub(super) fn confirmed(&mut self, participant: u16, xid: &str) {
        self.ended(participant, CallKind::Confirm, xid, Answer::Confirmed);
    }

    pub(super) fn canceled(&mut self, participant: u16, xid: &str) {
        self.ended(participant, CallKind::Cancel, xid, Answer::Canceled);
    }

    pub(super) fn call_failed(&mut self, participant: u16, kind: CallKind, xid: &str) {
        let ((epoch, sequence), participant) = (parse(xid), ParticipantId(participant));
        self.driver.call_failed(self.now, participant, kind, epoch, sequence, "connection refused");
    }

    /// What a participant that asks is told.
    pub(super) fn outcome(&self, xid: &str) -> String {
        let (epoch, sequence) = parse(xid);
        self.driver.outcome(epoch, sequence).map_or("pending".to_owned(), decision_text)
    }

    pub(super) fn asked(&mut self, participant: u16, xid: &str) {
        self.driver.asked(ParticipantId(participant), &[parse(xid)]);
    }

    /// The xids that a hello to a participant names.
    pub(super) fn hello(&self, participant: u16) -> String {
        let list = self.driver.unfinished_for(ParticipantId(participant));
        list.iter().map(|xid| format!("{}-{}", xid.0.0, xid.1)).collect::<Vec<_>>().join(" ")
    }

    /// What the driver did since the last call, as text: messages, calls, answers. Watermarks are left out.
    pub(super) fn out(&mut self) -> String {
        let outputs = self.driver.take_outputs();
        text_of(outputs)
    }

    /// As [`Self::out`], without what may rest.
    pub(super) fn urgent(&mut self) -> String {
        let outputs = self.driver.take_urgent_outputs();
        text_of(outputs)
    }

    /// The rows of Trys sent to a participant since the last call, one a leg; other output is lost.
    pub(super) fn rows_to(&mut self, participant: u16) -> Vec<String> {
        let sends = self.driver.take_outputs().sends.into_iter().filter(|(to, _)| to.0 == participant);
        let rows = sends.flat_map(|(_, send)| match send {
            Send::Try(columns) => rows_text("try", &columns),
            Send::TryAndConfirm(columns) => rows_text("try and confirm", &columns),
            _ => Vec::new(),
        });
        rows.collect()
    }

    /// The watermarks sent since the last call; other output is lost.
    pub(super) fn watermarks(&mut self) -> String {
        let sends = self.driver.take_outputs().sends;
        let marks = sends.iter().filter(|(_, send)| matches!(send, Send::Watermark { .. }));
        marks.map(|(to, send)| format!("{}<{}", to.0, send_text(send))).collect::<Vec<_>>().join(" | ")
    }

    /// What is remembered under an id.
    pub(super) fn remembered(&self, id: u64) -> String {
        let Some(row) = self.driver.find(&self.older, key(u128::from(id))) else {
            return "nothing".to_owned();
        };
        let Some(outcome) = row.outcome() else { return "unfinished".to_owned() };
        let forced = if outcome.mark.forced { " FORCED" } else { "" };
        let mixed = if outcome.mark.mixed { " MIXED" } else { "" };
        format!("{}{forced}{mixed}", decision_text(outcome.decision))
    }

    /// The state is what the whole log gives, and what a checkpoint of it gives.
    pub(super) fn check_replay(&self) {
        let mut again = Machine::forgetful();
        for bytes in &self.log[..self.applied] {
            again.apply_entry(&Entry::decode(bytes).unwrap());
        }
        let live = self.driver.machine();
        assert_eq!(again.digest(), live.digest());
        assert_eq!(Machine::from_checkpoint(&live.to_checkpoint()).unwrap().digest(), live.digest());
    }
}

pub(super) fn waiter(tag: u64, wait: Wait) -> Waiter {
    Waiter { caller: CallerId(1), tag, wait }
}

pub(super) fn parse(xid: &str) -> (Epoch, u64) {
    let xid: Xid = format!("0-{xid}").parse().unwrap();
    (xid.epoch, xid.sequence)
}

fn said(result: Result<(), Refusal>) -> String {
    result.map_or_else(|refusal| refusal.reason.to_string(), |()| "ok".to_owned())
}

fn decision_text(decision: Decision) -> String {
    match decision {
        Decision::Confirm => "confirmed".to_owned(),
        Decision::Cancel(reason) => format!("canceled {reason}"),
    }
}

fn kind_text(kind: CallKind) -> &'static str {
    match kind {
        CallKind::Try => "try",
        CallKind::Confirm => "confirm",
        CallKind::Cancel => "cancel",
    }
}

fn tries(columns: &TryColumns) -> String {
    let mut sequences = columns.sequences.clone();
    sequences.dedup();
    xids(columns.epoch, &sequences)
}

fn xids(epoch: Epoch, sequences: &[u64]) -> String {
    sequences.iter().map(|sequence| format!("{}-{sequence}", epoch.0)).collect::<Vec<_>>().join(",")
}

fn send_text(send: &Send) -> String {
    match send {
        Send::Try(columns) => format!("try {}", tries(columns)),
        Send::TryAndConfirm(columns) => format!("try+confirm {}", tries(columns)),
        Send::Confirm(columns) if columns.partial_legs.is_empty() => {
            format!("confirm {}", xids(columns.epoch, &columns.sequences))
        }
        Send::Confirm(columns) => {
            format!("confirm {} of {:?}", xids(columns.epoch, &columns.sequences), columns.partial_amounts)
        }
        Send::Cancel(columns) => format!("cancel {}", xids(columns.epoch, &columns.sequences)),
        Send::Fence(columns) => format!("fence {}", xids(columns.epoch, &columns.sequences)),
        Send::Watermark { epoch, below, except } => format!("watermark {}-{below} but {except:?}", epoch.0),
    }
}

/// A branch reason, short.
pub(super) const POOR: Answer = Answer::Rejected(Reason::InsufficientFunds);

fn rows_text(kind: &str, columns: &crate::driver::TryColumns) -> Vec<String> {
    columns.sequences.iter().map(|sequence| format!("{kind} {}-{sequence}", columns.epoch.0)).collect()
}

/// Watermarks are left out.
fn text_of(outputs: Outputs) -> String {
    let sends = outputs.sends.iter().filter(|(_, send)| !matches!(send, Send::Watermark { .. }));
    let mut lines: Vec<String> = sends.map(|(to, send)| format!("{}<{}", to.0, send_text(send))).collect();
    for call in outputs.calls {
        let kind = kind_text(call.kind);
        lines.push(format!("{}<call {kind} {}-{}", call.participant.0, call.epoch.0, call.sequence));
    }
    for answer in outputs.answers {
        let text = match answer.standing {
            Standing::Pending => "pending".to_owned(),
            Standing::Reserved => "reserved".to_owned(),
            Standing::Refused(reason) => format!("refused {reason}"),
            Standing::Decided(decision) => decision_text(decision),
        };
        lines.push(format!("#{} {text}{}", answer.tag, if answer.completed { " completed" } else { "" }));
    }
    lines.join(" | ")
}
