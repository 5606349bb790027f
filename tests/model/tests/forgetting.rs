//! To forget spent messages loses no state of coordinator, shards or callers: it only makes states equal that differ in messages
//! without effect.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use escrow_model::Config;
use escrow_model::model::Escrow;
use escrow_model::state::State;
use stateright::Model;

fn hashed(it: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    it.hash(&mut hasher);
    hasher.finish()
}

/// All states, but for what is under way or logged: of a log, a spent message is an entry without effect.
fn reached(config: Config) -> HashSet<u64> {
    let model = Escrow::new(config);
    let (mut seen, mut without_network) = (HashSet::new(), HashSet::new());
    let mut open = model.init_states();
    let mut actions = Vec::new();
    while let Some(state) = open.pop() {
        let mut system: State = state.clone();
        system.network.clear();
        system.journals.iter_mut().for_each(Vec::clear);
        system.shard_crashes = 0;
        without_network.insert(hashed(&system));
        model.actions(&state, &mut actions);
        for next in actions.drain(..).filter_map(|action| model.next_state(&state, action)) {
            if seen.insert(hashed(&next)) {
                open.push(next);
            }
        }
    }
    without_network
}

fn loses_nothing(config: Config, states: usize) {
    let forgetting = reached(Config { forget_spent: true, ..config });
    let keeping = reached(Config { forget_spent: false, ..config });
    assert!(forgetting == keeping, "{} and {} states", forgetting.len(), keeping.len());
    assert_eq!(forgetting.len(), states);
}

#[test]
fn nothing_is_lost_with_two_phases() {
    loses_nothing(Config::SMALL, 14_611);
}

#[test]
fn nothing_is_lost_with_one_phase() {
    loses_nothing(Config { one_phase: true, epochs: 3, ..Config::SMALL }, 2_593);
}

#[test]
fn nothing_is_lost_when_shards_crash() {
    let config = Config { shard_crashes: 1, journal_max: 1, epochs: 1, ..Config::SMALL };
    loses_nothing(config, 471);
}
