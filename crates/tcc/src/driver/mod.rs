//! The leader's volatile part: which branch answered what, who waits for which answer, what to send and retry.
//!
//! Requests, answers of participants, time and operators come in as method calls; what must happen goes out as
//! [`Driver::take_entry`] (commands to make durable) and [`Driver::take_outputs`] (messages and answers). Decisions are a
//! compare-and-set here, on the flight's phase, before they are logged: the first of branch answers, deadline, caller
//! and operator wins. What a decision *causes* happens in [`Driver::applied`], which the shell calls when the entry is
//! durable: no phase-2 message can leave earlier. A Confirm is not logged at all where durable Begin and reservations imply it
//! (docs/decisions/0021): then it is caused by the last answer, and the log says only how it ended.
//!
//! Nothing here is logged or restored: after a crash [`Driver::recover`] makes it anew from the [`Machine`].
//!
//! **Invariant:** no clock (time is an argument), no randomness (delays come from [`RetryDelays`]), no I/O.

mod answers;
mod caller;
mod ending;
mod flight;
mod inquiry;
mod links;
mod operator;
mod outbox;
mod submit;
mod tick;
mod view;
mod waiting;
mod watermark;

pub use caller::{Refusal, check_ended};
pub use flight::{BranchState, Phase};
pub use links::{Link, LinkKind, LinkState};
pub use outbox::{Call, CallKind, EndColumns, Send, TryColumns};
pub use submit::{LegsRequest, TransferRequest};
pub use view::{BranchView, Filter, View};

use std::collections::BTreeMap;

use escrow_invariants::{Canary, canary};
use escrow_types::{Amount, Epoch, Millis, ParticipantId, Partition, Reason, Sequence, Xid};

use crate::command::{Command, Decide, Finish, FinishImplied};
use crate::entry::Entry;
use crate::hash::KeyMap;
use crate::machine::{Decision, Machine};
use crate::routing::Routing;
use crate::window::Window;
use flight::Flight;
use links::Links;
use outbox::Outbox;
use waiting::Waiting;

/// Limits and times. All times in milliseconds.
#[derive(Debug, Clone)]
pub struct Config {
    /// The partition that this coordinator leads.
    pub partition: Partition,
    /// Unfinished transactions at a time; more are refused with OVERLOADED. Default 1,000,000.
    pub in_flight_max: usize,
    /// Unfinished branches of one participant at a time, so that a dead one cannot take all of the above.
    pub per_participant_max: usize,
    /// The deadline of a transaction whose caller named none.
    pub default_timeout_ms: Millis,
    /// How long a two-step reservation stands when its caller named nothing.
    pub default_hold_ms: Millis,
    /// The longest timeout or hold that a caller may ask for.
    pub timeout_ms_max: Millis,
    /// How long ended transactions are remembered.
    pub idempotency_window_ms: Millis,
    /// Unfinished for this long: in doubt.
    pub in_doubt_after_ms: Millis,
    /// A participant that answers nothing for this long, with work open, takes no new work until it answers.
    pub stalled_after_ms: Millis,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            partition: Partition(0),
            in_flight_max: 1_000_000,
            per_participant_max: 750_000,
            default_timeout_ms: 5_000,
            default_hold_ms: 60_000,
            timeout_ms_max: 30 * 24 * 3_600_000,
            idempotency_window_ms: 24 * 3_600_000,
            in_doubt_after_ms: 10_000,
            stalled_after_ms: 2_000,
        }
    }
}

/// Delays between attempts. The shell's are jittered; a simulation's come from its seed.
pub trait RetryDelays {
    /// How long to wait after the attempt with this number (from 1) failed, in milliseconds.
    fn delay_ms(&mut self, attempt: u32) -> Millis;
}

/// Stands in for a moment, while a driver is made anew.
struct NoDelays;

impl RetryDelays for NoDelays {
    fn delay_ms(&mut self, _: u32) -> Millis {
        unreachable!("nothing is retried while a driver is made anew")
    }
}

/// A caller's connection, as the shell knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct CallerId(pub u32);

/// When a caller wants its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// When the decision is durable.
    Decided,
    /// When every branch has acknowledged it.
    Completed,
    /// When every branch is reserved (two-step).
    Reserved,
}

/// Who waits for a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiter {
    /// Whose answer it is.
    pub caller: CallerId,
    /// The caller's name of the request.
    pub tag: u64,
    /// When it is wanted.
    pub wait: Wait,
}

/// Where a transaction stands, as its caller sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Begun; not decided, or not known to be.
    Pending,
    /// Two-step: all branches reserved.
    Reserved,
    /// Decided.
    Decided(Decision),
    /// Refused before it began.
    Refused(Reason),
}

/// An answer to a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answered {
    /// Whose.
    pub caller: CallerId,
    /// Of which request.
    pub tag: u64,
    /// Of which transaction; meaningless when refused.
    pub epoch: Epoch,
    /// Of which transaction; meaningless when refused.
    pub sequence: Sequence,
    /// What to say.
    pub standing: Standing,
    /// Whether every branch has acknowledged.
    pub completed: bool,
}

/// What is to happen outside. Everything here may leave at once: what had to wait for the log has waited.
#[derive(Debug, Default)]
pub struct Outputs {
    /// Messages on streams, in order per participant.
    pub sends: Vec<(ParticipantId, Send)>,
    /// Unary calls to external participants.
    pub calls: Vec<Call>,
    /// Answers to callers.
    pub answers: Vec<Answered>,
    /// A participant has seen a newer epoch of this partition: stop, another leader is in charge.
    pub deposed: bool,
}

/// Why a branch has not answered yet. Kept for branches with failed attempts only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// Failed attempts of the current phase.
    pub attempts: u32,
    /// What the last one ended with.
    pub last_error: Box<str>,
    /// When it failed.
    pub last_attempt_ms: Millis,
    /// When it is tried again; 0 while an attempt is under way.
    pub next_attempt_ms: Millis,
}

/// See the module.
pub struct Driver {
    config: Config,
    routing: Routing,
    machine: Machine,
    flights: Window<Flight>,
    links: Links,
    outbox: Outbox,
    turn: Turn,
    /// How one-phase transactions were canceled whose flight is over, until the log says so too. What else is over and
    /// undecided in the log was confirmed.
    landed: KeyMap<u128, Decision>,
    /// Flights whose decision the log does not say, although it is made.
    unlogged: usize,
    /// When it is time to look for those that are so for long.
    next_log_ms: Millis,
    /// Every unfinished transaction has its flight.
    is_recovered: bool,
    /// Amounts of partial Confirms that are being logged.
    partial: BTreeMap<(Epoch, Sequence), Vec<Amount>>,
    /// Callers beyond the first of a transaction.
    more_waiters: BTreeMap<(Epoch, Sequence), Vec<Waiting>>,
    troubles: BTreeMap<(Epoch, Sequence, ParticipantId), Trouble>,
    delays: Box<dyn RetryDelays + std::marker::Send>,
    answers: Vec<Answered>,
    calls: Vec<Call>,
    deposed: bool,
    /// No undecided transaction has an earlier deadline, and no waiter an earlier time to be answered.
    next_deadline_ms: Millis,
    /// Looking for passed deadlines costs a pass over all flights: the more there are, the rarer.
    next_pass_ms: Millis,
    /// The newest time that was heard of.
    now_ms: Millis,
    /// How many transfers the last turn began: room for as many in the next.
    last_begin_rows: usize,
    /// Older epochs with unfinished transactions when this leader started, and how many participants last heard of.
    older_epochs: Vec<(Epoch, usize)>,
}

/// Commands of this turn, to be logged as one entry.
#[derive(Default)]
struct Turn {
    begins: Vec<Command>,
    decides: Vec<Decide>,
    marks: Vec<Command>,
    /// Logged with the next entry, or by [`Driver::flush_lazy`].
    finishes: Vec<Finish>,
    implied: Vec<FinishImplied>,
    finish_rows: usize,
}

/// When this many ends wait to be logged they are not left waiting for other work.
const LAZY_ROWS_MAX: usize = 16_384;

impl Driver {
    /// A driver for a machine whose log is complete. The epoch must be opened with [`Driver::open_epoch`] before anything
    /// else.
    pub fn new(
        config: Config,
        routing: Routing,
        participants: Vec<(ParticipantId, LinkKind)>,
        machine: Machine,
        delays: Box<dyn RetryDelays + std::marker::Send>,
    ) -> Self {
        Self {
            links: Links::new(participants),
            outbox: Outbox::default(),
            flights: Window::default(),
            turn: Turn::default(),
            landed: KeyMap::default(),
            unlogged: 0,
            next_log_ms: 0,
            is_recovered: false,
            partial: BTreeMap::new(),
            more_waiters: BTreeMap::new(),
            troubles: BTreeMap::new(),
            answers: Vec::new(),
            calls: Vec::new(),
            deposed: false,
            next_deadline_ms: Millis::MAX,
            next_pass_ms: 0,
            now_ms: 0,
            last_begin_rows: 0,
            older_epochs: Vec::new(),
            config,
            routing,
            machine,
            delays,
        }
    }

    /// The command that opens the next epoch. It must be durable and applied before [`Driver::recover`].
    pub fn open_epoch(&self) -> Command {
        Command::OpenEpoch(Epoch(self.machine.epoch().0 + 1))
    }

    /// As [`Driver::open_epoch`], where epochs are given: terms of a group of replicas.
    pub fn open_epoch_as(&self, epoch: Epoch) -> Command {
        assert!(epoch > self.machine.epoch(), "{epoch:?} after {:?}", self.machine.epoch());
        Command::OpenEpoch(epoch)
    }

    /// Applies an entry that another leader logged, of whose volatile state nothing is here. Nothing is caused by it.
    pub fn follow(&mut self, entry: &Entry) {
        self.hear_time(entry.time_ms);
        self.machine.apply_entry(entry);
    }

    /// Forgets everything volatile: another leads, or this one is about to and knows nothing yet.
    pub fn step_down(&mut self) {
        let participants = self.links.iter().map(|link| (link.id, link.kind)).collect();
        let mut machine = std::mem::take(&mut self.machine);
        machine.forget_expected();
        let delays = std::mem::replace(&mut self.delays, Box::new(NoDelays));
        let (config, routing, now_ms) = (self.config.clone(), self.routing.clone(), self.now_ms);
        *self = Self { now_ms, ..Self::new(config, routing, participants, machine, delays) };
    }

    /// Replaces the replicated state, by that of a snapshot. Nothing volatile may be left.
    pub fn replace(&mut self, machine: Machine) {
        self.machine = machine;
        self.step_down();
    }

    /// Makes the volatile state anew for every unfinished transaction, once the new epoch is applied. External
    /// participants are called at once; wallet shards when they are greeted.
    pub fn recover(&mut self) {
        // What was taken under another epoch bears its sequences: nothing may be, before this one is open.
        assert!(
            self.machine.remembered().expected() == 0 && self.flights.is_empty(),
            "work was taken before its epoch was open"
        );
        let epoch = self.machine.epoch();
        self.flights = Window::default();
        self.flights.start_epoch(epoch, self.machine.live().next());
        let live = self.machine.live().iter();
        let recovered: Vec<_> =
            live.map(|(of, sequence, live)| (of, sequence, Flight::recovered(live, &self.links))).collect();
        for (of, sequence, flight) in recovered {
            self.links.count(&flight, 1);
            if canary::is_on(Canary::RecoveryForgetsDecided) && flight.phase != flight::Phase::Trying {
                continue;
            }
            self.next_deadline_ms = self.next_deadline_ms.min(flight.deadline_ms);
            self.flights.insert_lingering(of, sequence, flight);
            match self.older_epochs.last_mut() {
                Some((last, count)) if *last == of => *count += 1,
                _ => self.older_epochs.push((of, 1)),
            }
            self.send_open_branches(of, sequence, None);
        }
        self.is_recovered = true;
    }

    /// The replicated state.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The replicated state, for handing over rows at a checkpoint.
    pub fn machine_mut(&mut self) -> &mut Machine {
        &mut self.machine
    }

    /// The participants.
    pub fn links(&self) -> &Links {
        &self.links
    }

    /// Accounts to participants.
    pub fn routing(&self) -> &Routing {
        &self.routing
    }

    /// Limits and times.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The name of a transaction.
    pub fn xid(&self, epoch: Epoch, sequence: Sequence) -> Xid {
        Xid::new(self.config.partition, epoch, sequence)
    }

    /// The commands of this turn, as one entry to make durable; `None` when nothing needs to be. Ends that were not
    /// logged yet ride along.
    pub fn take_entry(&mut self, now_ms: Millis) -> Option<Entry> {
        let turn = &self.turn;
        let urgent = !turn.begins.is_empty() || !turn.decides.is_empty() || !turn.marks.is_empty();
        if !urgent && turn.finish_rows < LAZY_ROWS_MAX {
            return None;
        }
        self.entry_of_all(now_ms)
    }

    /// As [`Driver::take_entry`], but also when only ends wait: for quiet moments and shutdown.
    pub fn flush_lazy(&mut self, now_ms: Millis) -> Option<Entry> {
        let turn = &self.turn;
        let nothing = turn.begins.is_empty() && turn.decides.is_empty() && turn.marks.is_empty();
        if nothing && turn.finish_rows == 0 {
            return None;
        }
        self.entry_of_all(now_ms)
    }

    fn entry_of_all(&mut self, now_ms: Millis) -> Option<Entry> {
        let turn = std::mem::take(&mut self.turn);
        if let Some(Command::BeginTransfers(begin)) = turn.begins.last() {
            self.last_begin_rows = begin.len();
        }
        let mut commands = turn.begins;
        commands.extend(turn.decides.into_iter().map(Command::Decide));
        commands.extend(turn.marks);
        commands.extend(turn.implied.into_iter().map(Command::FinishImplied));
        commands.extend(turn.finishes.into_iter().map(Command::Finish));
        (!commands.is_empty()).then_some(Entry { time_ms: now_ms, commands })
    }

    /// Applies an entry that is durable, and does what it causes. Entries come in the order of the log.
    pub fn applied(&mut self, entry: &Entry) {
        self.hear_time(entry.time_ms);
        for command in &entry.commands {
            self.machine.apply(entry.time_ms, command);
            match command {
                Command::BeginTransfers(begin) => {
                    for row in 0..begin.len() as u64 {
                        self.begun(begin.first + row);
                    }
                }
                Command::BeginLegs(begin) => {
                    self.begun(begin.sequence);
                }
                Command::Decide(decide) => {
                    for (sequence, decision) in decide.iter() {
                        if !self.partial.is_empty() {
                            // Wanted in part, but something else won.
                            self.partial.remove(&(decide.epoch, sequence));
                        }
                        self.decided(decide.epoch, sequence, decision);
                    }
                }
                Command::DecidePartial(decide) => {
                    self.partial.remove(&(decide.epoch, decide.sequence));
                    self.decided(decide.epoch, decide.sequence, Decision::Confirm);
                }
                // Nearly always empty, and then nothing need be looked up.
                Command::FinishImplied(finish) if !self.landed.is_empty() => {
                    for &sequence in &finish.outcomes.sequences {
                        self.landed.remove(&landed_key(finish.outcomes.epoch, sequence));
                    }
                }
                Command::Force(force) => self.forced(force.epoch, force.sequence, force.decision),
                Command::GiveUp(give_up) => self.given_up(give_up.epoch, give_up.sequence),
                Command::OpenEpoch(_)
                | Command::Finish(_)
                | Command::FinishImplied(_)
                | Command::Attention(_)
                | Command::SetPaused(_) => {}
            }
        }
    }

    /// What is to happen outside, since the last call.
    pub fn take_outputs(&mut self) -> Outputs {
        self.outputs(true)
    }

    /// The same without a few Confirms for whose end nobody waits, where there is nothing else for their participant: they go with
    /// what comes next for it, ahead of it, and cost no message and no sync of their own. While something [`rests`](Self::rests),
    /// whoever calls this has to call [`take_outputs`](Self::take_outputs) soon.
    pub fn take_urgent_outputs(&mut self) -> Outputs {
        self.outputs(false)
    }

    /// Whether something was left by [`take_urgent_outputs`](Self::take_urgent_outputs).
    pub fn rests(&self) -> bool {
        self.outbox.rests()
    }

    fn outputs(&mut self, all: bool) -> Outputs {
        let sends = self.outbox.take(all);
        for (participant, send) in &sends {
            if !matches!(send, Send::Watermark { .. }) {
                self.links.asked(*participant, self.now_ms);
            }
        }
        Outputs {
            sends,
            calls: std::mem::take(&mut self.calls),
            // Room for as many the next time: tables that grow step by step copy what they have at each step.
            answers: match self.answers.len() {
                0 => Vec::new(),
                rows => std::mem::replace(&mut self.answers, Vec::with_capacity(rows.max(4))),
            },
            deposed: self.deposed,
        }
    }

    /// Whether there is nothing unfinished and nothing to log or send: everything may stop without loss of comfort.
    pub fn is_quiet(&self) -> bool {
        self.flights.is_empty() && self.turn.finish_rows == 0 && self.turn.marks.is_empty()
    }

    /// Whether nothing is unfinished but reservations that wait for their callers. They may do so for days, and a restart takes
    /// them up as they are: nobody who stops should wait for them.
    pub fn is_drained(&self) -> bool {
        self.flights.iter().all(|(_, _, flight)| flight.phase == flight::Phase::Trying && flight.is_held())
    }

    /// How many transactions are unfinished here.
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// Time never goes back here, whatever the clock does.
    fn hear_time(&mut self, now_ms: Millis) {
        self.now_ms = self.now_ms.max(now_ms);
    }
}

/// An xid of this partition as one key.
fn landed_key(epoch: Epoch, sequence: Sequence) -> u128 {
    (u128::from(epoch.0) << 64) | u128::from(sequence)
}

#[cfg(test)]
mod tests;
