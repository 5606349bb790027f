//! The simulation can fail: every deliberate bug is caught, as a breach of an invariant that it breaks.

use escrow_invariants::Invariant::{
    self, AcknowledgedSurvives, Atomic, DecisionBeforePhaseTwo, DecisionStands, DeposedChangesNothing,
    EmptyCancelFences, OneExecution, ReplayEquals, ReservationsEnd,
};
use escrow_simulation::{Canary, command, first_catch, replicas_for};

/// Each must be caught within so many seeds.
const SEEDS_MAX: u64 = 2_000;

/// What a canary may be caught by; nothing: by an assertion of the servers themselves.
const fn expected(canary: Canary) -> &'static [Invariant] {
    match canary {
        Canary::AcknowledgeBeforeSync | Canary::VoteNotPersisted => &[AcknowledgedSurvives],
        Canary::AnswerBeforeDurable => &[AcknowledgedSurvives, DecisionStands, Atomic, OneExecution],
        Canary::ConfirmBeforeDecisionIsDurable | Canary::ImpliedBeforeBeginIsDurable => {
            &[DecisionBeforePhaseTwo, OneExecution, DecisionStands]
        }
        Canary::DeadlineCancelsWhatMayBeDecided => &[DecisionStands, Atomic],
        Canary::OnePhaseBeforeBeginIsDurable => &[OneExecution],
        // Two executions end in two ways, and callers hear of both.
        Canary::RetryWithNewXid => &[OneExecution, DecisionStands],
        Canary::NoFenceForEmptyCancel | Canary::LateTryAnsweredReserved | Canary::FenceDroppedByAge => {
            &[EmptyCancelFences]
        }
        Canary::RecoveryForgetsDecided => &[ReservationsEnd],
        Canary::OrphanReleasedWhileConfirmed | Canary::HelloNamesNothing => &[Atomic],
        Canary::ReservationExpiresByItself => &[Atomic, EmptyCancelFences],
        Canary::DeposedLeaderIsHeard => &[DeposedChangesNothing],
        Canary::TimeoutOverridesDecision => &[DecisionStands],
        Canary::CheckpointSkipsAnEntry => &[ReplayEquals],
        Canary::AppliedBeforeCommitted => {
            &[Atomic, OneExecution, DecisionStands, ReplayEquals, DecisionBeforePhaseTwo]
        }
        Canary::DeposedLeaderAnswers => &[AcknowledgedSurvives, DecisionStands],
    }
}

/// Canaries that an assertion of the servers stops before an invariant of the list can break.
const STOPPED_BY_THEMSELVES: [Canary; 2] = [Canary::CheckpointSkipsAnEntry, Canary::TimeoutOverridesDecision];

#[test]
fn every_canary_is_caught() {
    let mut missed = Vec::new();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    for &canary in Canary::ALL {
        match first_catch(canary, 0..SEEDS_MAX, threads) {
            None => missed.push(canary),
            Some((seed, violation)) => {
                eprintln!("canary {canary}: caught by seed {seed}: {violation:.120}");
                let fits = match violation.invariant {
                    Some(invariant) => expected(canary).contains(&invariant),
                    None => STOPPED_BY_THEMSELVES.contains(&canary),
                };
                assert!(
                    fits,
                    "{canary} by {violation}\nagain: {} --canary {canary}",
                    command(seed, replicas_for(canary))
                );
            }
        }
    }
    assert!(missed.is_empty(), "not caught within {SEEDS_MAX} seeds: {missed:?}");
    assert!(Canary::ALL.len() >= 8);
}
