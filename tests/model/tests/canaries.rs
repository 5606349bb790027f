//! Every rule that is broken on purpose is found, by the invariant that it harms.

use escrow_model::{Canary, Search, run};

/// How many steps the shortest way to harm has.
fn steps(canary: Canary) -> usize {
    match canary {
        Canary::PhaseTwoBeforeDurable => 4,
        Canary::DeposedObeyed | Canary::NoHelloNoQuestions | Canary::HelloNotLogged => 5,
        Canary::NoHello => 8,
        Canary::NoFence | Canary::LateTryTaken | Canary::WatermarkBeforeFinish => 9,
        Canary::HelloReleasesNothing | Canary::TryAndConfirmBeforeBegin | Canary::ImpliedBeforeBegin => 10,
        Canary::ToldBeforeDurable | Canary::ExpiresByItself | Canary::WatermarkPassesUnfinished => 13,
        Canary::HelloNamesNothing
        | Canary::FinishWithoutAnswers
        | Canary::DeadlineCancelsImplied
        | Canary::RecoveryDecidesAgain
        | Canary::DeposedAppends => 14,
        Canary::FenceDroppedByAge => 15,
        Canary::AnswerBeforeDurable => 16,
        Canary::CancelAfterConfirm => 18,
        Canary::RetryGetsNewXid => 22,
        Canary::RecoveryForgetsDecided => 25,
    }
}

#[test]
fn every_broken_rule_is_found() {
    for &canary in Canary::ALL {
        let report = run(canary.config(), Search::Shortest);
        println!("{}: {}\n{report}", canary.name(), canary.text());
        let broken = report.broken();
        assert_eq!(broken.len(), 1, "{}: {report}", canary.name());
        assert_eq!(broken[0].name, canary.harms());
        let way = broken[0].example.as_ref().expect("broken, so there is a way");
        assert_eq!(way.len(), steps(canary), "{}: {report}", canary.name());
    }
}

/// The same bound without the broken rule holds: it is the rule that makes the difference.
#[test]
fn without_the_break_the_same_bound_holds() {
    for &canary in Canary::ALL {
        let config = escrow_model::Config { canary: None, forget_spent: true, ..canary.config() };
        let report = run(config, Search::All(2));
        assert!(report.is_good(), "{}: {report:#}", canary.name());
    }
}

#[test]
fn names_are_found_again() {
    for &canary in Canary::ALL {
        assert_eq!(Canary::named(canary.name()), Some(canary));
    }
    assert_eq!(Canary::named("nothing"), None);
}
