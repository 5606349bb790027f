//! The protocol holds within the bound that every change is checked with.
//!
//! A run counts only if no state was left, every sight was seen, and the number of states is the known one: none of
//! these tests can pass on an empty or a cut-off search.

#![allow(clippy::print_stdout)] // a report says more than an assertion

use escrow_model::properties::{self, Kind};
use escrow_model::{Bound, Search, run};

fn holds(bound: Bound) {
    for counted in bound.configs() {
        let report = run(counted.config, Search::All(2));
        println!("{report}");
        assert!(report.is_good(), "{report:#}");
        assert_eq!(report.states, counted.states, "{}: the model has changed: {report}", counted.config.name);
        let invariants =
            properties::ALL.iter().filter(|stated| matches!(stated.kind, Kind::Always(_))).count();
        assert_eq!(report.verdicts.iter().filter(|verdict| verdict.is_invariant).count(), invariants);
    }
}

#[test]
fn small_bound() {
    holds(Bound::Small);
}

#[test]
fn ci_bound() {
    holds(Bound::Ci);
}

/// Every sight is seen by some configuration of the bound.
#[test]
fn every_sight_is_expected_somewhere() {
    let expected: Vec<_> = Bound::Ci
        .configs()
        .iter()
        .flat_map(|counted| properties::of(&counted.config))
        .map(|it| it.name)
        .collect();
    for stated in &properties::ALL {
        assert!(expected.contains(&stated.name), "{} is never asked for", stated.name);
    }
}

/// The two ways to search agree on how many states there are.
#[test]
fn breadth_and_depth_count_the_same() {
    let small = Bound::Small.configs()[0];
    let (near, deep) = (run(small.config, Search::Shortest), run(small.config, Search::All(2)));
    assert_eq!((near.states, near.steps), (deep.states, deep.steps));
}
