//! The state that the recovery log gives: what is unfinished, and what is remembered of what ended.
//!
//! [`Machine::apply`] is the only way to change it, and it is given durable commands only. Replaying the same log gives
//! the same state; [`Machine::digest`] says so in 128 bits. (What a leader *expects* to be applied next is found here too, but
//! changes nothing: see [`Remembered`].)

mod checkpoint;
mod remembered;

pub use remembered::{Mark, Older, Outcome, Remembered, Row};

use escrow_invariants::{Invariant, hold};
use escrow_types::{Digest, Epoch, Millis, Reason, Sequence, TransactionKey};

use crate::command::{
    Attention, BeginLegs, BeginTransfers, Command, Decide, DecidePartial, Finish, FinishImplied, Force,
    GiveUp, NameOf,
};
use crate::content::Content;
use crate::entry::Entry;
use crate::window::Window;

/// Keys are looked up so many at a time: enough to overlap their cache misses, few enough to stay in the cache.
const LOOK_AHEAD_ROWS: usize = 32;

/// What was decided, once and for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Decision {
    /// Post every branch.
    Confirm,
    /// Release every branch.
    Cancel(Reason),
}

/// Ids that were given as text, for people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// The `transaction_id`.
    pub transaction_id: Option<Box<str>>,
    /// The account that pays, of a transfer.
    pub from: Option<Box<str>>,
    /// The account that is paid, of a transfer.
    pub to: Option<Box<str>>,
}

/// One unfinished transaction.
#[derive(Debug, Clone)]
pub struct Live {
    /// The caller's id.
    pub key: TransactionKey,
    /// What it moves.
    pub content: Content,
    /// None while the log says none: it is undecided, or what its branches answered implies it.
    pub decision: Option<Decision>,
    /// When it was logged.
    pub begun_ms: Millis,
    /// Undecided at this time: canceled.
    pub deadline_ms: Millis,
    /// When the decision was logged; 0 while undecided.
    pub decided_ms: Millis,
    /// An operator set or overrode the decision.
    pub forced: bool,
    /// A participant contradicted the decision.
    pub attention: bool,
    /// Ids as text, where they were given so and are no UUIDs.
    pub names: Option<Box<Names>>,
    fingerprint: u64,
    row: u32,
}

/// The coordinator's replicated state. See the module.
#[derive(Debug, Clone, Default)]
pub struct Machine {
    live: Window<Live>,
    remembered: Remembered,
    /// Room for what will be remembered after the next hand-over.
    spare: Option<Remembered>,
    /// How many rows there is room for from the first one on.
    room: usize,
    finished: Digest,
    finished_count: u64,
    paused: bool,
}

impl Machine {
    /// The state before the first command.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, but it forgets what ended: for replaying a whole log only to compare digests.
    pub fn forgetful() -> Self {
        Self { remembered: Remembered::forgetful(), ..Self::default() }
    }

    /// The epoch that is open; 0 before the first.
    pub fn epoch(&self) -> Epoch {
        self.live.epoch()
    }

    /// What is unfinished.
    pub fn live(&self) -> &Window<Live> {
        &self.live
    }

    /// What is remembered in memory, by key: unfinished and recently ended transactions.
    pub fn remembered(&self) -> &Remembered {
        &self.remembered
    }

    /// Hands over everything that is remembered, to be kept elsewhere from now on, and starts afresh with the unfinished
    /// transactions only. Costs what is unfinished, however much has ended.
    #[must_use = "these rows are the idempotency window"]
    pub fn hand_over(&mut self) -> Remembered {
        let afresh = self.spare.take().unwrap_or_else(|| Remembered::with_capacity(self.room));
        let (handed_over, expected) = self.remembered.hand_over(afresh);
        for (epoch, sequence, live) in self.live.iter_mut() {
            live.row = self.remembered.begin(live.key, epoch, sequence, live.fingerprint);
        }
        self.remembered.expect_again(expected);
        handed_over
    }

    /// So many rows will be remembered between two hand-overs, about. Tables that grow step by step copy what they have at each step,
    /// up to a tenth of a second of it at a time; memory that is asked for at once costs nothing before it is used.
    pub fn make_room(&mut self, rows: usize) {
        self.room = rows;
        self.remembered.make_room(rows);
    }

    /// What was handed over is kept elsewhere: its memory serves again.
    pub fn give_back(&mut self, handed_over: Remembered) {
        self.spare = Some(handed_over.emptied());
    }

    /// The log is about to say that this began under the open epoch, after everything that is expected already. Until then only
    /// [`Remembered::get`] knows it.
    #[inline]
    pub(crate) fn expect(&mut self, key: TransactionKey, sequence: Sequence, fingerprint: u64) {
        self.remembered.expect(key, self.live.epoch(), sequence, fingerprint);
    }

    /// Nothing of what is expected will be.
    pub(crate) fn forget_expected(&mut self) {
        self.remembered.forget_expected();
    }

    /// Whether an operator paused new work.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// How many transactions ended since the log began.
    pub fn finished_count(&self) -> u64 {
        self.finished_count
    }

    /// What participants may forget of the open epoch: every sequence below the first, but for the second.
    pub fn watermark(&self) -> (Sequence, Vec<Sequence>) {
        (self.live.base(), self.live.lingering_of(self.epoch()).collect())
    }

    /// Applies one durable entry.
    pub fn apply_entry(&mut self, entry: &Entry) {
        for command in &entry.commands {
            self.apply(entry.time_ms, command);
        }
    }

    /// Applies one durable command. A command that does not fit is a broken invariant: it stops the process.
    pub fn apply(&mut self, time_ms: Millis, command: &Command) {
        match command {
            Command::OpenEpoch(epoch) => {
                hold!(
                    Invariant::DeposedChangesNothing,
                    *epoch > self.epoch(),
                    "{epoch:?} after {:?}",
                    self.epoch()
                );
                self.live.start_epoch(*epoch, 0);
            }
            Command::BeginTransfers(begin) => self.begin_transfers(time_ms, begin),
            Command::BeginLegs(begin) => self.begin_legs(time_ms, begin),
            Command::Decide(decide) => self.decide(time_ms, decide),
            Command::DecidePartial(decide) => self.decide_partial(time_ms, decide),
            Command::Finish(finish) => self.finish_all(time_ms, finish),
            Command::FinishImplied(finish) => self.finish_implied(time_ms, finish),
            Command::Attention(attention) => self.attention(attention),
            Command::Force(force) => self.force(time_ms, force),
            Command::GiveUp(give_up) => self.give_up(time_ms, give_up),
            Command::SetPaused(paused) => self.paused = *paused,
        }
    }

    /// Remembers what begins next; gives where.
    #[inline]
    fn remember(&mut self, key: TransactionKey, fingerprint: u64) -> u32 {
        self.remembered.begin(key, self.live.epoch(), self.live.next(), fingerprint)
    }

    fn begin_transfers(&mut self, time_ms: Millis, begin: &BeginTransfers) {
        hold!(
            Invariant::ReplayEquals,
            begin.first == self.live.next(),
            "sequences have a gap at {}",
            begin.first
        );
        let mut names = begin.names.iter().peekable();
        for row in 0..begin.len() {
            if row % LOOK_AHEAD_ROWS == 0 && self.remembered.expected() == 0 {
                let keys = &begin.keys[row..begin.len().min(row + LOOK_AHEAD_ROWS)];
                self.remembered.look_ahead(keys.iter().map(|&key| TransactionKey(key)));
            }
            let transfer = begin.transfer(row);
            let mut texts: Option<Box<Names>> = None;
            while let Some(name) = names.next_if(|name| name.row as usize == row) {
                let texts = texts.get_or_insert_default();
                let slot = match name.of {
                    NameOf::Transaction => &mut texts.transaction_id,
                    NameOf::From => &mut texts.from,
                    NameOf::To => &mut texts.to,
                };
                *slot = Some(name.text.clone());
            }
            let (key, fingerprint) = (TransactionKey(begin.keys[row]), transfer.fingerprint());
            let row_remembered = self.remember(key, fingerprint);
            self.live.push(Live {
                key,
                fingerprint,
                content: Content::Transfer(transfer),
                decision: None,
                begun_ms: time_ms,
                deadline_ms: begin.deadlines[row],
                decided_ms: 0,
                forced: false,
                attention: false,
                names: texts,
                row: row_remembered,
            });
        }
    }

    fn begin_legs(&mut self, time_ms: Millis, begin: &BeginLegs) {
        hold!(
            Invariant::ReplayEquals,
            begin.sequence == self.live.next(),
            "sequences have a gap at {}",
            begin.sequence
        );
        let content = begin.content();
        let named = begin.transaction_id.is_some();
        let fingerprint = content.fingerprint();
        let row = self.remember(begin.key, fingerprint);
        self.live.push(Live {
            key: begin.key,
            fingerprint,
            content,
            decision: None,
            begun_ms: time_ms,
            deadline_ms: begin.deadline,
            decided_ms: 0,
            forced: false,
            attention: false,
            names: named.then(|| {
                Box::new(Names { transaction_id: begin.transaction_id.clone(), ..Names::default() })
            }),
            row,
        });
    }

    fn unfinished(&mut self, epoch: Epoch, sequence: Sequence) -> &mut Live {
        self.live.get_mut(epoch, sequence).unwrap_or_else(|| is_not_unfinished(epoch, sequence))
    }

    fn decide(&mut self, time_ms: Millis, decide: &Decide) {
        for (sequence, decision) in decide.iter() {
            let live = self.unfinished(decide.epoch, sequence);
            hold!(
                Invariant::DecisionStands,
                live.decision.is_none(),
                "{:?} sequence {sequence} was {:?}, now {decision:?}",
                decide.epoch,
                live.decision
            );
            live.decision = Some(decision);
            live.decided_ms = time_ms;
        }
    }

    fn decide_partial(&mut self, time_ms: Millis, decide: &DecidePartial) {
        let live = self.unfinished(decide.epoch, decide.sequence);
        hold!(Invariant::DecisionStands, live.decision.is_none(), "sequence {} was decided", decide.sequence);
        live.decision = Some(Decision::Confirm);
        live.decided_ms = time_ms;
        match &mut live.content {
            Content::Legs(legs) if legs.two_step && legs.legs.len() == decide.amounts.len() => {
                legs.partial = Some(decide.amounts.clone());
            }
            _ => escrow_invariants::broken(
                Invariant::ReplayEquals,
                format_args!("a partial Confirm does not fit sequence {}", decide.sequence),
            ),
        }
    }

    fn finish_all(&mut self, time_ms: Millis, finish: &Finish) {
        for &sequence in &finish.sequences {
            self.finish(time_ms, finish.epoch, sequence, None, false);
        }
    }

    fn finish_implied(&mut self, time_ms: Millis, finish: &FinishImplied) {
        for (sequence, decision) in finish.outcomes.iter() {
            self.finish(time_ms, finish.outcomes.epoch, sequence, Some(decision), false);
        }
    }

    fn finish(
        &mut self,
        time_ms: Millis,
        epoch: Epoch,
        sequence: Sequence,
        outcome: Option<Decision>,
        mixed: bool,
    ) {
        let Self { live, finished, finished_count, remembered, .. } = self;
        let ended = live.end(epoch, sequence, |live| {
            let decision = match (live.decision, outcome) {
                (Some(decision), None) | (None, Some(decision)) => decision,
                (Some(decision), Some(outcome)) => {
                    hold!(
                        Invariant::DecisionStands,
                        decision == outcome,
                        "{epoch:?} sequence {sequence} was {decision:?}, ended {outcome:?}"
                    );
                    decision
                }
                (None, None) => escrow_invariants::broken(
                    Invariant::DecisionBeforePhaseTwo,
                    format_args!("{epoch:?} sequence {sequence} finished undecided"),
                ),
            };
            let outcome = Outcome { decision, mark: Mark { forced: live.forced, mixed } };
            let (high, low) = live.key.halves();
            finished.add(Digest::of(&[
                3,
                u64::from(epoch.0),
                sequence,
                high,
                low,
                live.fingerprint,
                u64::from(outcome.to_byte()),
            ]));
            *finished_count += 1;
            remembered.finish(live.row, live.key, outcome, time_ms);
        });
        ended.unwrap_or_else(|| is_not_unfinished(epoch, sequence));
    }

    fn attention(&mut self, attention: &Attention) {
        self.unfinished(attention.epoch, attention.sequence).attention = true;
    }

    fn force(&mut self, time_ms: Millis, force: &Force) {
        let live = self.unfinished(force.epoch, force.sequence);
        live.decision = Some(force.decision);
        live.decided_ms = time_ms;
        live.forced = true;
        live.attention = false;
    }

    fn give_up(&mut self, time_ms: Millis, give_up: &GiveUp) {
        self.finish(time_ms, give_up.epoch, give_up.sequence, None, true);
    }

    /// The digest of the logical state: equal for equal histories, however the state was reached.
    pub fn digest(&self) -> Digest {
        let mut digest = self.finished;
        digest.add(Digest::of(&[
            1,
            u64::from(self.epoch().0),
            self.live.next(),
            self.finished_count,
            u64::from(self.paused),
        ]));
        for (epoch, sequence, live) in self.live.iter() {
            digest.add(live.digest(epoch, sequence));
        }
        digest
    }
}

#[cold]
fn is_not_unfinished(epoch: Epoch, sequence: Sequence) -> ! {
    escrow_invariants::broken(
        Invariant::ReplayEquals,
        format_args!("{epoch:?} sequence {sequence} is not unfinished"),
    )
}

impl Live {
    /// A 64-bit hash of the content as the caller asked for it.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// The caller's id as people read it.
    pub fn transaction_id(&self) -> String {
        let name = self.names.as_ref().and_then(|names| names.transaction_id.as_deref());
        name.map_or_else(|| self.key.to_string(), str::to_owned)
    }

    fn digest(&self, epoch: Epoch, sequence: Sequence) -> Digest {
        let (high, low) = self.key.halves();
        let decision = match self.decision {
            None => 0,
            Some(decision) => 1 + u64::from(Outcome { decision, mark: Mark::default() }.to_byte()),
        };
        let flags = u64::from(self.forced) | (u64::from(self.attention) << 1);
        let mut words = vec![2, u64::from(epoch.0), sequence, high, low, self.fingerprint];
        words.extend([decision, flags, self.begun_ms, self.deadline_ms, self.decided_ms]);
        words.extend(self.content.participants().iter().map(|participant| u64::from(participant.0)));
        if let Content::Legs(legs) = &self.content {
            words.extend(legs.partial.iter().flatten());
        }
        let names = self.names.iter().flat_map(|names| [&names.transaction_id, &names.from, &names.to]);
        for (kind, name) in names.enumerate() {
            words.extend(name.as_deref().map(|text| Digest::of_text(kind as u64, text).0 as u64));
        }
        Digest::of(&words)
    }
}

#[cfg(test)]
mod tests;
