//! A new leader: what the log says is taken up, and what it does not say never began.

use escrow_types::Answer;

use super::harness::{Desk, POOR, leg};
use crate::driver::{CallKind, LinkState, Wait};
use crate::machine::Decision;

#[test]
fn a_lost_begin_never_began() {
    let mut desk = Desk::new();
    desk.transfer(1, 0, 1);
    desk.append();
    desk.out();
    let mut desk = desk.crash();
    assert_eq!((desk.hello(0), desk.hello(1)), (String::new(), String::new()));
    desk.connect();
    assert_eq!(desk.out(), "");
    assert_eq!(desk.outcome("1-0"), "canceled DEADLINE_EXCEEDED");
    desk.asked(0, "1-0");
    assert_eq!(desk.out(), "0<cancel 1-0");
    desk.transfer(1, 0, 1);
    assert_eq!(desk.out(), "0<try 2-0 | 1<try 2-0", "the caller may try the same id again");
}

#[test]
fn undecided_is_tried_again_and_goes_on_to_its_own_deadline() {
    let mut desk = Desk::new();
    desk.transfer(1, 0, 1);
    desk.turn();
    desk.pass(1_000);
    let mut desk = desk.crash();
    assert_eq!((desk.hello(0), desk.hello(1), desk.hello(2)), ("1-0".into(), "1-0".into(), String::new()));
    assert_eq!(desk.outcome("1-0"), "pending");
    desk.link(1, LinkState::Ready);
    assert_eq!(desk.out(), "1<try 1-0");
    desk.tried(1, "1-0", Answer::Reserved);
    desk.link(0, LinkState::Ready);
    assert_eq!(desk.out(), "0<try 1-0");
    desk.tried(0, "1-0", Answer::Reserved);
    desk.turn();
    assert_eq!(desk.out(), "1<confirm 1-0 | 0<confirm 1-0");
    desk.check_replay();

    let mut desk = desk.crash_at(2);
    desk.connect();
    desk.out();
    desk.pass(3_999);
    assert!(!desk.append());
    desk.pass(1);
    desk.turn();
    assert_eq!(
        desk.out(),
        "0<fence 1-0 | 1<fence 1-0",
        "an earlier leader may have told the caller that it is confirmed"
    );
    desk.tried(0, "1-0", Answer::Reserved);
    assert!(!desk.append());
    desk.tried(1, "1-0", Answer::TryAfterCancel);
    desk.turn();
    assert_eq!(desk.out(), "0<cancel 1-0 | 1<cancel 1-0");
    assert_eq!(desk.outcome("1-0"), "canceled DEADLINE_EXCEEDED");
}

#[test]
fn decided_is_ended_again_everywhere() {
    for (answer, cancel) in [(Answer::Reserved, false), (POOR, true)] {
        let kind = if cancel { "cancel" } else { "confirm" };
        let mut desk = Desk::new();
        desk.transfer(1, 0, 1);
        desk.tried(0, "1-0", Answer::Reserved);
        desk.tried(1, "1-0", answer);
        desk.turn();
        desk.pass(250);
        desk.pass(250);
        desk.turn();
        let mut desk = desk.crash();
        assert_eq!((desk.hello(0), desk.hello(1)), ("1-0".into(), "1-0".into()));
        desk.connect();
        assert_eq!(
            desk.out(),
            format!("0<{kind} 1-0 | 1<{kind} 1-0"),
            "an earlier leader may have sent anything"
        );
        desk.submit(2, 1, 0, 1, 5, Wait::Decided, 0);
        assert!(desk.out().starts_with("#2 c"));
        let kind = if cancel { CallKind::Cancel } else { CallKind::Confirm };
        desk.ended(0, kind, "1-0", Answer::Finished);
        desk.ended(1, kind, "1-0", Answer::Finished);
        desk.flush();
        assert_eq!(desk.remembered(1), if cancel { "canceled INSUFFICIENT_FUNDS" } else { "confirmed" });
        desk.check_replay();
    }
}

#[test]
fn a_lost_end_only_asks_once_more() {
    let mut desk = Desk::new();
    desk.transfer(1, 0, 1);
    desk.tried(0, "1-0", Answer::Reserved);
    desk.tried(1, "1-0", Answer::Reserved);
    desk.turn();
    desk.confirmed(0, "1-0");
    desk.confirmed(1, "1-0");
    assert!(desk.out().ends_with("#1 confirmed completed"));
    let mut desk = desk.crash();
    desk.connect();
    assert_eq!(desk.out(), "0<try 1-0 | 1<try 1-0");
    assert_eq!(desk.remembered(1), "unfinished");
}

#[test]
fn ended_is_remembered_and_not_driven() {
    let mut desk = Desk::new();
    desk.transfer(1, 0, 1);
    desk.tried(0, "1-0", Answer::Reserved);
    desk.tried(1, "1-0", Answer::Reserved);
    desk.turn();
    desk.confirmed(0, "1-0");
    desk.confirmed(1, "1-0");
    desk.flush();
    let mut desk = desk.crash();
    assert_eq!(desk.hello(0), "");
    desk.connect();
    desk.out();
    desk.transfer(1, 0, 1);
    assert_eq!(desk.out(), "#1 confirmed completed");
}

/// The story of one transfer, cut after every durable entry: whatever is cut off, it ends all the same.
#[test]
fn every_cut_of_a_log_ends_well() {
    let story = || {
        let mut desk = Desk::new();
        desk.transfer(1, 0, 1);
        desk.turn();
        desk.tried(0, "1-0", Answer::Reserved);
        desk.tried(1, "1-0", Answer::Reserved);
        desk.pass(250);
        desk.pass(250);
        desk.turn();
        desk.confirmed(0, "1-0");
        desk.confirmed(1, "1-0");
        desk.flush();
        desk
    };
    let expect = ["nothing", "nothing", "unfinished", "unfinished", "confirmed"];
    for (entries, expect) in expect.into_iter().enumerate() {
        let mut desk = story().crash_at(entries);
        assert_eq!(desk.remembered(1), expect, "{entries} entries");
        let epoch = desk.driver.machine().epoch().0;
        assert_eq!(epoch, if entries == 0 { 1 } else { 2 });
        desk.connect();
        desk.out();
        desk.transfer(1, 0, 1);
        let xid = if entries < 2 { format!("{epoch}-0") } else { "1-0".to_owned() };
        for shard in [0, 1] {
            desk.tried(shard, &xid, Answer::Reserved);
        }
        desk.turn();
        for shard in [0, 1] {
            desk.confirmed(shard, &xid);
        }
        desk.flush();
        assert!(desk.out().ends_with("#1 confirmed completed"), "{entries} entries");
        assert_eq!(desk.remembered(1), "confirmed");
        desk.check_replay();
    }
}

#[test]
fn a_hello_names_what_concerns_its_participant_over_all_older_epochs() {
    let mut desk = Desk::new();
    desk.transfer(1, 0, 1);
    desk.transfer(2, 1, 2);
    desk.turn();
    let mut desk = desk.crash();
    desk.connect();
    desk.legs(3, false, vec![leg(0, '-', 4), leg(2, '+', 4)]);
    desk.turn();
    assert_eq!((desk.hello(0), desk.hello(1), desk.hello(2)), ("1-0".into(), "1-0 1-1".into(), "1-1".into()));
    let desk = desk.crash();
    assert_eq!(
        (desk.hello(0), desk.hello(1), desk.hello(2)),
        ("1-0 2-0".into(), "1-0 1-1".into(), "1-1 2-0".into())
    );
}

#[test]
fn xids_that_nobody_can_know_yet_are_left_alone() {
    let mut desk = Desk::new();
    desk.transfer(1, 0, 1);
    desk.turn();
    desk.out();
    for future in ["1-1", "1-999", "2-0"] {
        assert_eq!(desk.outcome(future), "pending", "{future}");
        desk.asked(0, future);
        assert_eq!(desk.out(), "", "a Cancel would fence a transaction that is still to come");
    }
}

#[test]
fn a_participant_that_asks_gets_the_decision_again() {
    let mut desk = Desk::new();
    desk.transfer(1, 0, 1);
    desk.turn();
    desk.out();
    desk.asked(0, "1-0");
    assert_eq!((desk.out(), desk.outcome("1-0")), (String::new(), "pending".to_owned()));
    desk.tried(0, "1-0", Answer::Reserved);
    desk.tried(1, "1-0", Answer::Reserved);
    assert_eq!(
        (desk.outcome("1-0"), desk.out()),
        ("confirmed".into(), "0<confirm 1-0 | 1<confirm 1-0".into())
    );
    desk.asked(0, "1-0");
    assert_eq!(desk.out(), "0<confirm 1-0");
    desk.confirmed(0, "1-0");
    desk.confirmed(1, "1-0");
    assert_eq!(desk.outcome("1-0"), "confirmed", "landed");
    desk.asked(0, "1-0");
    assert_eq!(desk.out(), "#1 confirmed completed", "it has given its word already");
    desk.flush();
    desk.asked(0, "1-0");
    assert_eq!(desk.out(), "0<cancel 1-0", "unknown: changes nothing at a participant that has ended it");
}

#[test]
fn a_newer_epoch_elsewhere_deposes() {
    for phase_two in [false, true] {
        let mut desk = Desk::new();
        desk.transfer(1, 0, 1);
        desk.turn();
        if phase_two {
            desk.tried(0, "1-0", Answer::Reserved);
            desk.tried(1, "1-0", Answer::Reserved);
            desk.turn();
            desk.ended(1, CallKind::Confirm, "1-0", Answer::StaleEpoch);
        } else {
            desk.tried(1, "1-0", Answer::StaleEpoch);
        }
        assert!(!desk.append());
        assert!(desk.driver.take_outputs().deposed);
    }
}

#[test]
fn a_shard_that_wants_a_hello_first_is_asked_again_later() {
    let mut desk = Desk::new();
    desk.transfer(1, 0, 1);
    desk.turn();
    desk.out();
    desk.tried(0, "1-0", Answer::HelloRequired);
    desk.tried(1, "1-0", Answer::Reserved);
    assert!(!desk.append());
    desk.pass(100);
    assert_eq!(desk.out(), "0<try 1-0");
    desk.tried(0, "1-0", Answer::Reserved);
    desk.turn();
    desk.out();
    desk.ended(0, CallKind::Confirm, "1-0", Answer::HelloRequired);
    desk.pass(100);
    assert_eq!(desk.out(), "0<confirm 1-0");
}

#[test]
fn a_shard_that_is_no_longer_configured_decides_its_one_phase_transactions_all_the_same() {
    use crate::driver::{Config, Driver, LinkKind, RetryDelays};
    struct No;
    impl RetryDelays for No {
        fn delay_ms(&mut self, _attempt: u32) -> u64 {
            1
        }
    }
    let mut desk = Desk::new();
    desk.transfer(1, 0, 0);
    desk.turn();
    let mut machine = desk.driver.machine().clone();
    machine.apply(0, &desk.driver.open_epoch());
    let only = vec![(escrow_types::ParticipantId(1), LinkKind::Stream)];
    let routing = crate::routing::Routing::new(vec![escrow_types::ParticipantId(1)]);
    let mut driver = Driver::new(Config::default(), routing, only, machine, Box::new(No));
    driver.recover();
    driver.tick(desk.now + 1_000_000);
    assert!(
        driver.take_entry(desk.now).is_none(),
        "it may have been confirmed: the deadline must not cancel it"
    );
    assert_eq!(driver.in_flight(), 1);
}

/// Nothing is logged for a decision that Begin and the reservations imply: the branches are asked, and say the same again.
#[test]
fn a_decision_that_is_implied_is_found_by_asking() {
    for deadline_has_passed in [false, true] {
        let mut desk = Desk::new();
        desk.submit(1, 1, 0, 1, 5, Wait::Decided, 1_000);
        desk.turn();
        desk.out();
        desk.tried(0, "1-0", Answer::Reserved);
        desk.tried(1, "1-0", Answer::Reserved);
        assert_eq!(desk.out(), "0<confirm 1-0 | 1<confirm 1-0 | #1 confirmed");
        assert!(!desk.append());
        if deadline_has_passed {
            desk.now += 1_000;
        }
        let mut desk = desk.crash();
        desk.connect();
        let asked = if deadline_has_passed { "fence" } else { "try" };
        assert_eq!(desk.out(), format!("0<{asked} 1-0 | 1<{asked} 1-0"));
        desk.tried(0, "1-0", Answer::Reserved);
        assert_eq!(desk.outcome("1-0"), "pending", "one does not know of the other");
        assert_eq!(desk.operator_cancel("1-0"), "ok", "if it can be");
        desk.pass(5_000);
        assert!(!desk.append(), "neither deadline nor operator may decide: its caller was told");
        desk.out();
        desk.tried(1, "1-0", Answer::Reserved);
        assert_eq!(desk.out(), "0<confirm 1-0 | 1<confirm 1-0");
        desk.confirmed(0, "1-0");
        desk.confirmed(1, "1-0");
        desk.flush();
        assert_eq!(desk.remembered(1), "confirmed");
        desk.check_replay();
    }
}

/// An answer that says neither yes nor no must not cancel what may be confirmed.
#[test]
fn a_left_over_branch_that_makes_no_sense_needs_attention() {
    for answer in [Answer::Contradiction, Answer::Finished, Answer::Invalid] {
        let mut desk = Desk::new();
        desk.transfer(1, 0, 1);
        desk.turn();
        let mut desk = desk.crash();
        desk.connect();
        desk.tried(0, "1-0", answer);
        desk.turn();
        assert_eq!(desk.outcome("1-0"), "pending", "{answer:?}");
        assert!(desk.driver.machine().live().get(escrow_types::Epoch(1), 0).unwrap().attention);
    }
}

/// It is said in the log when a branch stays away: or the caller, who was told, would be told to wait after a crash.
#[test]
fn an_implied_decision_is_logged_when_a_branch_stays_away() {
    let mut desk = Desk::new();
    desk.submit(1, 1, 0, 1, 5, Wait::Decided, 1_000);
    desk.turn();
    desk.tried(0, "1-0", Answer::Reserved);
    desk.tried(1, "1-0", Answer::Reserved);
    desk.confirmed(0, "1-0");
    desk.pass(249);
    assert!(!desk.append());
    desk.pass(250);
    assert!(desk.append());
    desk.durable();
    let decision =
        |desk: &Desk| desk.driver.machine().live().get(escrow_types::Epoch(1), 0).unwrap().decision;
    assert_eq!(decision(&desk), Some(Decision::Confirm));
    desk.out();
    let mut again = desk.crash();
    assert_eq!(again.outcome("1-0"), "confirmed");
    again.connect();
    assert_eq!(again.out(), "0<confirm 1-0 | 1<confirm 1-0");
    again.confirmed(0, "1-0");
    again.confirmed(1, "1-0");
    again.flush();
    assert_eq!(again.remembered(1), "confirmed");
    again.check_replay();
}

/// Forced against what its branches imply it would be mixed. Only where nobody can ask them is that an operator's to risk.
#[test]
fn what_may_be_decided_is_forced_only_where_it_cannot_be_asked_for() {
    let mut desk = Desk::new();
    desk.transfer(1, 0, 1);
    desk.turn();
    let mut desk = desk.crash();
    assert_eq!(desk.force("1-0", false), "NOT_IN_DOUBT", "on its way back");
    desk.link(0, LinkState::Ready);
    desk.tried(0, "1-0", Answer::Reserved);
    assert_eq!(desk.force("1-0", false), "NOT_IN_DOUBT");
    desk.link(1, LinkState::Down);
    assert_eq!(desk.force("1-0", true), "NOT_RESERVED");
    assert_eq!(desk.force("1-0", false), "ok");
    desk.turn();
    assert_eq!(desk.outcome("1-0"), "canceled FORCED");
}
