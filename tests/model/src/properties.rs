//! The invariants, as the checker asks them of every state; and the list of all properties, with the [`sights`].
//!
//! Names begin with the id of the invariant in `escrow-invariants`.

use escrow_invariants::Invariant;
use stateright::Property;

use crate::config::Config;
use crate::coordinator::Durable;
use crate::messages::{Request, Say};
use crate::model::Escrow;
use crate::participant::{Participant, Slot};
use crate::settle;
use crate::sights;
use crate::state::State;
use crate::words::{Decision, Epoch, SHARDS, Shard, Transaction, Xid, XidSet};

/// What a property expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It holds in every state. The invariant whose statement it is, or is part of.
    Always(Invariant),
    /// Some state shows it.
    Sometimes,
    /// Some state shows it, if spent messages stay.
    SometimesIfKept,
}

/// One property.
pub struct Stated {
    /// Its name; begins with the id of the invariant, if it is one.
    pub name: &'static str,
    /// What is expected.
    pub kind: Kind,
    holds: fn(&State, &Config) -> bool,
    condition: fn(&Escrow, &State) -> bool,
}

macro_rules! stated {
    ($($number:literal $kind:expr, $name:literal, $holds:path;)*) => {
        /// All properties. The number is the place.
        pub static ALL: [Stated; [$($number),*].len()] = [$(Stated {
            name: $name,
            kind: $kind,
            holds: $holds,
            condition: |model, state| expected::<$number>(model, state),
        }),*];
    };
}

const fn always(invariant: Invariant) -> Kind {
    Kind::Always(invariant)
}

stated! {
    0 always(Invariant::Atomic), "3 Atomic", atomic;
    1 always(Invariant::Atomic), "3 Atomic: no branch contradicts", no_breach;
    2 always(Invariant::DecisionStands), "4 DecisionStands", decision_stands;
    3 always(Invariant::DecisionBeforePhaseTwo), "5 DecisionBeforePhaseTwo", decision_before_phase_two;
    4 always(Invariant::OneExecution), "6 OneExecution", one_execution;
    5 always(Invariant::EmptyCancelFences), "7 EmptyCancelFences", empty_cancel_fences;
    6 always(Invariant::EmptyCancelFences), "7 EmptyCancelFences: fences stand against any message", fences_stand;
    7 always(Invariant::ReservationsEnd), "8 ReservationsEnd", reservations_end;
    8 always(Invariant::ReservationsEnd), "8 ReservationsEnd: no orphan keeps funds from a retry", no_orphan_refuses;
    9 always(Invariant::DeposedChangesNothing), "11 DeposedChangesNothing", deposed_changes_nothing;
    10 Kind::Sometimes, "seen: confirmed by all", sights::confirmed;
    11 Kind::Sometimes, "seen: canceled by all", sights::canceled;
    12 Kind::Sometimes, "seen: finished, and every fence dropped", sights::dropped;
    13 Kind::Sometimes, "seen: a second leader ends what the first began", sights::taken_over;
    14 Kind::Sometimes, "seen: a second leader decides what the first began", sights::decided_later;
    15 Kind::Sometimes, "seen: the retry of a lost Begin, with an orphan of the first attempt", sights::retried;
    16 Kind::Sometimes, "seen: a deposed leader still sends", sights::deposed;
    17 Kind::Sometimes, "seen: an orphan about to be released by a hello", sights::orphan;
    18 Kind::Sometimes, "seen: an empty cancel", sights::empty_cancel;
    19 Kind::Sometimes, "seen: Cancel for what never began", sights::presumed;
    20 Kind::Sometimes, "seen: canceled, and a branch was never sent", sights::never_sent;
    21 Kind::Sometimes, "seen: confirmed, named by the hello, Finish lost", sights::finish_lost;
    22 Kind::SometimesIfKept, "seen: a late Try at the fence of an empty cancel", sights::late_try;
    23 Kind::SometimesIfKept, "seen: a late Try below the watermark", sights::late_try_below;
    24 Kind::SometimesIfKept, "seen: a late Confirm below the watermark", sights::late_confirm_below;
    25 Kind::SometimesIfKept, "seen: a message of a deposed leader at a newer hello", sights::stale;
    26 Kind::SometimesIfKept, "seen: Cancel for what has finished confirmed", sights::late_question;
    27 Kind::Sometimes, "seen: told confirmed, and its leader died before any log said so", sights::told_unlogged;
    28 Kind::Sometimes, "seen: a fence that finds a reservation", sights::fence_finds;
    29 Kind::Sometimes, "seen: a fence where nothing was reserved", sights::fence_instead;
}

/// The properties of a configuration.
pub fn of(config: &Config) -> Vec<Property<Escrow>> {
    let stated = ALL.iter().filter(|stated| is_expected(stated, config));
    stated
        .map(|stated| match stated.kind {
            Kind::Always(_) => Property::always(stated.name, stated.condition),
            Kind::Sometimes | Kind::SometimesIfKept => Property::sometimes(stated.name, stated.condition),
        })
        .collect()
}

/// Whether a configuration can show it. With a broken rule only what it harms is of interest.
fn is_expected(stated: &Stated, config: &Config) -> bool {
    match stated.kind {
        Kind::Always(_) => config.canary.is_none_or(|canary| canary.harms() == stated.name),
        Kind::Sometimes => config.canary.is_none() && can_be_seen(stated.name, config),
        Kind::SometimesIfKept => {
            config.canary.is_none() && !config.forget_spent && can_be_seen(stated.name, config)
        }
    }
}

/// What a configuration can show at all: a single leader has no successor, and without two phases nothing is reserved.
fn can_be_seen(name: &str, config: &Config) -> bool {
    let two_phases = [
        "seen: a second leader decides what the first began",
        "seen: the retry of a lost Begin, with an orphan of the first attempt",
        "seen: an orphan about to be released by a hello",
        "seen: Cancel for what never began",
        "seen: a late Try at the fence of an empty cancel",
        "seen: a late Confirm below the watermark",
    ];
    let successors = [
        "seen: a second leader ends what the first began",
        "seen: confirmed, named by the hello, Finish lost",
        "seen: a message of a deposed leader at a newer hello",
    ];
    let implied = [
        "seen: told confirmed, and its leader died before any log said so",
        "seen: a fence that finds a reservation",
        "seen: a fence where nothing was reserved",
    ];
    let deposed = "seen: a deposed leader still sends";
    !(config.one_phase && two_phases.contains(&name))
        && (config.epochs > 1 || !(successors.contains(&name) || two_phases[..4].contains(&name)))
        && (config.implies() && config.epochs > 1 || !implied.contains(&name))
        && (config.deposed && config.epochs > 1 || name != deposed)
}

/// A condition as the checker wants it: an example is shown once. See [`Escrow::is_first`].
fn expected<const NUMBER: usize>(model: &Escrow, state: &State) -> bool {
    let stated = &ALL[NUMBER];
    match stated.kind {
        Kind::Always(_) => (stated.holds)(state, &model.config) || !model.is_first(NUMBER),
        Kind::Sometimes | Kind::SometimesIfKept => {
            !model.is_found(NUMBER) && (stated.holds)(state, &model.config) && model.is_first(NUMBER)
        }
    }
}

fn shards() -> impl Iterator<Item = Shard> {
    0..SHARDS as Shard
}

fn posted(state: &State, xid: Xid) -> impl Iterator<Item = u8> {
    state.participants.iter().map(move |participant| participant.posted(xid))
}

/// No branch is posted while another of the same xid ended without being posted.
fn atomic(state: &State, config: &Config) -> bool {
    let mixed = |xid: Xid| {
        let mut branches = config.branches().iter().map(|shard| state.participant(shard));
        posted(state, xid).any(|times| times > 0) && branches.any(|branch| branch.ended_unposted(xid))
    };
    !Xid::all().any(mixed)
}

/// No participant can but follow the decision: `NEEDS_ATTENTION` is never reached.
fn no_breach(state: &State, _: &Config) -> bool {
    !state.witness.breach
}

/// All that was ever durably decided of a transaction, told of it, or would be told by any living leader, is one word.
fn decision_stands(state: &State, config: &Config) -> bool {
    let one_word = |transaction: Transaction| {
        let xids = Xid::all().filter(move |xid| xid.transaction == transaction);
        let logged = xids.clone().filter_map(|xid| state.log.of(xid).decision());
        let words = state
            .leading()
            .flat_map(|epoch| xids.clone().filter_map(move |xid| state.leader(epoch).word(xid, config)));
        let mut all = logged.chain(words).chain(state.witness.words(transaction));
        let first = all.next();
        all.all(|word| Some(word) == first)
    };
    !state.witness.decision_changed && (0..config.transactions).all(one_word)
}

/// Of every Confirm under way the decision is durable, and it is Confirm; or it is implied: Begin is durable, and every branch is
/// reserved, or posted already. Of every Cancel the decision is durable, and it is Cancel; or its xid never
/// began and never will; or it has finished, and the Cancel answers a question that came late.
fn decision_before_phase_two(state: &State, config: &Config) -> bool {
    let is_implied = |xid: Xid| {
        let mut slots = config.branches().iter().map(|shard| state.participant(shard).slot(xid));
        config.implies()
            && state.log.of(xid) == Durable::Begun
            && slots.all(|slot| matches!(slot, Slot::Reserved | Slot::Confirmed))
    };
    state.network.requests().all(|request| match request.say {
        Say::Confirm(xid) => state.log.of(xid).decision() == Some(Decision::Confirm) || is_implied(xid),
        Say::Cancel(xid) => match state.log.of(xid) {
            Durable::Decided(decision) => decision == Decision::Cancel,
            Durable::Finished(_) => true,
            Durable::Nothing => xid.epoch < state.log.epoch,
            Durable::Begun => false,
        },
        _ => true,
    })
}

/// Of all xids of a transaction at most one is ever posted, and by each shard once.
fn one_execution(state: &State, config: &Config) -> bool {
    let executions = |transaction: Transaction| {
        let xids = Xid::all().filter(move |xid| xid.transaction == transaction);
        xids.filter(|&xid| posted(state, xid).any(|times| times > 0)).count()
    };
    (0..config.transactions).all(|transaction| executions(transaction) <= 1)
        && Xid::all().all(|xid| posted(state, xid).all(|times| times <= 1))
}

/// What a shard canceled before it had seen it, it never reserves or posts.
fn empty_cancel_fences(state: &State, _: &Config) -> bool {
    shards().all(|shard| {
        let canceled = state.witness.empty_canceled[usize::from(shard)];
        let participant = state.participant(shard);
        let empty = |xid: Xid| participant.slot(xid) != Slot::Reserved && participant.posted(xid) == 0;
        Xid::all().filter(|&xid| canceled.has(xid)).all(empty)
    })
}

/// Everything that a leader could ever send to a shard.
fn any_request(from: Epoch, to: Shard) -> impl Iterator<Item = Request> {
    let says = Xid::before(from + 1).flat_map(|xid| {
        let tries = [Say::Try(xid), Say::TryAndConfirm(xid), Say::Fence(xid)];
        tries.into_iter().chain([Say::Confirm(xid), Say::Cancel(xid), Say::Watermark(xid)])
    });
    let all: XidSet = Xid::before(from).collect();
    let hellos = [Say::Hello(XidSet::default()), Say::Hello(all)];
    says.chain(hellos).map(move |say| Request { from, to, say })
}

fn taken(participant: &Participant, request: Request, config: &Config) -> Participant {
    let mut after = participant.clone();
    after.takes(request, false, config);
    after
}

/// A branch that ended stays as it ended whatever the newest leader may send, but for a watermark, which drops its fence.
/// What has finished stays finished.
fn fences_stand(state: &State, config: &Config) -> bool {
    config.branches().iter().all(|shard| {
        let participant = state.participant(shard);
        let fences = Xid::all().filter(|&xid| participant.slot(xid).is_fence());
        let any = fences.clone().next().is_some();
        let fenced: Vec<_> = fences.collect();
        !any || any_request(participant.epoch.max(1), shard).all(|request| {
            let after = taken(participant, request, config);
            fenced.iter().all(|&xid| {
                let dropped = request.say == Say::Watermark(xid) && after.slot(xid) == Slot::Finished;
                (after.slot(xid) == participant.slot(xid) || dropped)
                    && after.posted(xid) == participant.posted(xid)
            })
        })
    })
}

/// From here, when faults stop, the rounds of [`settle`] end every reservation and every transaction.
fn reservations_end(state: &State, config: &Config) -> bool {
    settle::after(state, config).is_over(config)
}

/// No Try was ever refused for funds that an orphan of an older epoch held.
fn no_orphan_refuses(state: &State, _: &Config) -> bool {
    !state.witness.refused_for_orphan
}

/// Whatever an older leader than that of the newest hello it ever took could send changes nothing at a shard; and nothing that a
/// deposed leader appends becomes durable.
fn deposed_changes_nothing(state: &State, config: &Config) -> bool {
    let obeys = |shard: Shard| {
        let participant = state.participant(shard);
        let newest = state.witness.greeted[usize::from(shard)].max(participant.epoch);
        let mut older = (1..newest).flat_map(|epoch| any_request(epoch, shard));
        older.any(|request| taken(participant, request, config) != *participant)
    };
    !state.witness.deposed_appended && !config.branches().iter().any(obeys)
}
