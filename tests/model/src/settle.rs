//! What happens when faults stop: one fair schedule of the ordinary steps, from any state.
//!
//! Everything under way is lost, deposed leaders fall silent, a dead coordinator is started again. Then the leader sends
//! what is open, everything arrives once in each round, and what is appended becomes durable. Invariant 8 says that
//! after a bounded number of such rounds nothing is reserved and everything that began has finished.

use crate::canary::Canary;
use crate::config::Config;
use crate::messages::{Message, Request};
use crate::participant::Slot;
use crate::state::State;
use crate::words::Xid;

/// Hello; Trys; Begin, Decide; phase 2; Finish: some of them in the same round. One more for good measure.
pub const ROUNDS: usize = 6;

/// The state after the rounds.
pub fn after(state: &State, config: &Config) -> State {
    let mut state = state.clone();
    state.network.clear();
    state.journals.iter_mut().for_each(Vec::clear);
    for epoch in 1..state.log.epoch {
        state.crash(epoch);
    }
    if state.log.epoch == 0 || !state.leader(state.log.epoch).alive {
        state.lead(config);
    }
    for _ in 0..ROUNDS {
        round(&mut state, config);
    }
    state
}

fn round(state: &mut State, config: &Config) {
    let epoch = state.log.epoch;
    for xid in Xid::before(epoch + 1) {
        for shard in config.branches().iter() {
            let is_held = state.participant(shard).slot(xid) == Slot::Reserved;
            let question = state.leader(epoch).is_asked(epoch, xid).filter(|_| is_held);
            let question = question.filter(|_| !config.breaks(Canary::NoHelloNoQuestions));
            for say in state.leader(epoch).tries(xid, shard, config).into_iter().chain(question) {
                state.network.send(Message::Request(Request { from: epoch, to: shard, say }));
            }
        }
    }
    state.settle_down(config);
    // Hellos come first in the order of messages; requests before replies.
    while let Some(message) = state.network.take_first() {
        state.deliver(&message, false, config);
        while !state.journals.iter().all(Vec::is_empty) {
            let shard = u8::from(state.journals[0].is_empty());
            state.store(shard, config);
        }
    }
    for xid in Xid::before(epoch + 1) {
        state.sync(epoch, xid, config);
    }
}
