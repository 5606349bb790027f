//! Sights: states that the model must reach, so that "holds" never means "nothing happened".
//!
//! Each says of one state whether it shows something that the protocol is there for.

use crate::config::Config;
use crate::coordinator::{Durable, Phase};
use crate::messages::Say;
use crate::participant::Slot;
use crate::state::State;
use crate::words::{Decision, Xid};

pub(crate) fn confirmed(state: &State, config: &Config) -> bool {
    let confirmed =
        |xid: Xid| config.branches().iter().all(|shard| state.participant(shard).posted(xid) == 1);
    Xid::all().any(confirmed)
}

pub(crate) fn canceled(state: &State, config: &Config) -> bool {
    let canceled = |xid: Xid| {
        let mut branches = config.branches().iter().map(|shard| state.participant(shard).slot(xid));
        branches.clone().any(|slot| matches!(slot, Slot::Canceled | Slot::Rejected))
            && branches.all(Slot::is_released)
    };
    Xid::all().any(canceled)
}

pub(crate) fn dropped(state: &State, config: &Config) -> bool {
    let dropped = |xid: Xid| {
        let mut branches = config.branches().iter().map(|shard| state.participant(shard));
        matches!(state.log.of(xid), Durable::Finished(Decision::Confirm))
            && branches.all(|branch| branch.slot(xid) == Slot::Finished && branch.epoch == xid.epoch)
    };
    Xid::all().any(dropped)
}

/// What the newest leader, not the first, knows of xids of older epochs.
fn inherited(state: &State) -> impl Iterator<Item = Phase> {
    Xid::before(state.log.epoch).map(|xid| state.leader(state.log.epoch).phase(xid))
}

pub(crate) fn taken_over(state: &State, _: &Config) -> bool {
    inherited(state).any(|phase| matches!(phase, Phase::Landed(_)))
}

pub(crate) fn decided_later(state: &State, _: &Config) -> bool {
    inherited(state).any(|phase| match phase {
        Phase::Deciding { decision, .. } => decision == Decision::Confirm,
        Phase::Ending { decision, logged, .. } => decision == Decision::Confirm && !logged,
        _ => false,
    })
}

pub(crate) fn told_unlogged(state: &State, _: &Config) -> bool {
    Xid::before(state.log.epoch).any(|xid| {
        state.log.of(xid) == Durable::Begun
            && !state.leader(xid.epoch).alive
            && state.witness.words(xid.transaction).eq([Decision::Confirm])
    })
}

fn fence_at(state: &State, slot: Slot) -> bool {
    arrives(state, |say| matches!(say, Say::Fence(_)), |found| found == slot)
}

pub(crate) fn fence_finds(state: &State, _: &Config) -> bool {
    fence_at(state, Slot::Reserved)
}

pub(crate) fn fence_instead(state: &State, _: &Config) -> bool {
    fence_at(state, Slot::Unseen)
}

pub(crate) fn retried(state: &State, _: &Config) -> bool {
    // B has not heard of the new epoch yet, and still holds what it reserved for the first attempt.
    Xid::before(state.log.epoch).any(|first| {
        let retry = Xid { epoch: state.log.epoch, ..first };
        state.log.of(first) == Durable::Nothing
            && state.participant(0).slot(retry) == Slot::Reserved
            && state.participant(1).slot(first) == Slot::Reserved
    })
}

pub(crate) fn deposed(state: &State, _: &Config) -> bool {
    state.network.requests().any(|request| {
        request.from < state.log.epoch
            && matches!(request.say, Say::Try(_) | Say::TryAndConfirm(_))
            && state.participant(request.to).epoch == request.from
    })
}

pub(crate) fn orphan(state: &State, _: &Config) -> bool {
    state.network.requests().any(|request| {
        let participant = state.participant(request.to);
        let Say::Hello(named) = request.say else { return false };
        let orphan = |xid: &Xid| participant.slot(*xid) == Slot::Reserved && !named.has(*xid);
        request.from > participant.epoch && Xid::before(request.from).any(|xid| orphan(&xid))
    })
}

pub(crate) fn empty_cancel(state: &State, _: &Config) -> bool {
    state.participants.iter().any(|shard| Xid::all().any(|xid| shard.slot(xid) == Slot::EmptyCanceled))
}

pub(crate) fn presumed(state: &State, _: &Config) -> bool {
    let mut cancels = state.network.requests().filter(|request| {
        request
            .say
            .xid()
            .is_some_and(|xid| state.log.of(xid) == Durable::Nothing && request.say == Say::Cancel(xid))
    });
    cancels.any(|cancel| state.participant(cancel.to).epoch <= cancel.from)
}

pub(crate) fn never_sent(state: &State, config: &Config) -> bool {
    let unsent =
        |xid: Xid| config.branches().iter().any(|shard| state.participant(shard).slot(xid) == Slot::Unseen);
    Xid::all().any(|xid| state.log.of(xid) == Durable::Finished(Decision::Cancel) && unsent(xid))
}

pub(crate) fn finish_lost(state: &State, config: &Config) -> bool {
    let epoch = state.log.epoch;
    Xid::before(epoch).any(|xid| {
        let mut branches = config.branches().iter().map(|shard| state.participant(shard));
        !matches!(state.log.of(xid), Durable::Finished(_))
            && branches.all(|branch| branch.epoch == epoch && branch.slot(xid) == Slot::Confirmed)
    })
}

/// A message at a shard that knows its sender, of an xid with this slot.
fn arrives(state: &State, fits: impl Fn(Say) -> bool, slot: impl Fn(Slot) -> bool) -> bool {
    state.network.requests().any(|request| {
        let participant = state.participant(request.to);
        let about = request.say.xid().filter(|_| participant.epoch == request.from && fits(request.say));
        about.is_some_and(|xid| slot(participant.slot(xid)))
    })
}

fn is_try(say: Say) -> bool {
    matches!(say, Say::Try(_) | Say::TryAndConfirm(_))
}

pub(crate) fn late_try(state: &State, _: &Config) -> bool {
    arrives(state, is_try, |slot| slot == Slot::EmptyCanceled)
}

pub(crate) fn late_try_below(state: &State, _: &Config) -> bool {
    arrives(state, is_try, |slot| slot == Slot::Finished)
}

pub(crate) fn late_confirm_below(state: &State, _: &Config) -> bool {
    arrives(state, |say| matches!(say, Say::Confirm(_)), |slot| slot == Slot::Finished)
}

pub(crate) fn stale(state: &State, _: &Config) -> bool {
    state.network.requests().any(|request| {
        let participant = state.participant(request.to);
        request.from < participant.epoch && is_try(request.say)
    })
}

pub(crate) fn late_question(state: &State, _: &Config) -> bool {
    arrives(state, |say| matches!(say, Say::Cancel(_)), |slot| slot == Slot::Confirmed)
}
