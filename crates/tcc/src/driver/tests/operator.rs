//! Operators: cancel, force, give up, retry, pause.

use escrow_types::Answer;

use super::harness::{Desk, POOR};
use crate::driver::CallKind;

/// A transfer that both confirmed, but for shard 1, which contradicts.
fn contradicted() -> Desk {
    let mut desk = Desk::new();
    desk.transfer(1, 0, 1);
    desk.tried(0, "1-0", Answer::Reserved);
    desk.tried(1, "1-0", Answer::Reserved);
    desk.turn();
    desk.ended(1, CallKind::Confirm, "1-0", Answer::Contradiction);
    desk.turn();
    desk.out();
    desk
}

#[test]
fn cancel_only_while_it_is_undecided() {
    let mut desk = Desk::new();
    desk.transfer(1, 0, 1);
    desk.transfer(2, 0, 1);
    assert_eq!(desk.operator_cancel("1-0"), "ok");
    assert_eq!(desk.operator_cancel("1-0"), "ALREADY_DECIDED");
    desk.turn();
    assert!(desk.out().contains("0<cancel 1-0"));
    desk.tried(0, "1-1", Answer::Reserved);
    desk.tried(1, "1-1", Answer::Reserved);
    assert_eq!(desk.operator_cancel("1-1"), "ALREADY_DECIDED", "deciding");
    desk.turn();
    assert_eq!(desk.operator_cancel("1-1"), "ALREADY_DECIDED", "decided");
    assert_eq!(desk.operator_cancel("1-7"), "ALREADY_DECIDED", "not unfinished");
    desk.canceled(0, "1-0");
    desk.canceled(1, "1-0");
    assert!(desk.out().ends_with("#1 canceled CANCELED_BY_OPERATOR completed"));
}

#[test]
fn force_of_an_undecided_one_is_checked_against_what_is_held() {
    let mut desk = Desk::new();
    desk.transfer(1, 0, 1);
    assert_eq!(desk.force("1-0", false), "NOT_IN_DOUBT", "Begin is not durable");
    desk.turn();
    desk.tried(0, "1-0", Answer::Reserved);
    desk.out();
    assert_eq!(desk.force("1-0", true), "NOT_RESERVED");
    assert_eq!(desk.force("1-0", false), "ok");
    assert_eq!(desk.force("1-0", false), "NOT_IN_DOUBT", "being logged");
    desk.tried(1, "1-0", POOR);
    desk.pass(10_000);
    desk.turn();
    assert_eq!(desk.out(), "0<cancel 1-0 | 1<cancel 1-0");
    desk.pass(1);
    assert_eq!(desk.out(), "#1 canceled FORCED");
    assert_eq!(desk.force("1-0", true), "NOT_IN_DOUBT", "decided, and nobody contradicts");
    desk.canceled(0, "1-0");
    desk.canceled(1, "1-0");
    desk.flush();
    assert_eq!(desk.remembered(1), "canceled FORCED FORCED");
    assert_eq!(desk.force("1-0", true), "ALREADY_DECIDED");
    desk.check_replay();
}

#[test]
fn force_confirm_of_a_held_reservation() {
    let mut desk = Desk::new();
    desk.hold(1);
    assert_eq!(desk.force("1-0", true), "ok");
    assert_eq!(desk.cancel(2, "1-0"), "ok", "deciding: will hear");
    desk.turn();
    assert_eq!(desk.out(), "0<confirm 1-0 | 1<confirm 1-0");
    desk.confirmed(0, "1-0");
    desk.confirmed(1, "1-0");
    desk.flush();
    assert_eq!(
        (desk.out(), desk.remembered(1)),
        ("#2 confirmed completed".into(), "confirmed FORCED".into())
    );
}

#[test]
fn a_contradiction_raises_an_alarm_once_and_changes_nothing() {
    let mut desk = Desk::new();
    desk.transfer(1, 0, 1);
    desk.tried(0, "1-0", Answer::Reserved);
    desk.tried(1, "1-0", Answer::Reserved);
    desk.turn();
    desk.ended(1, CallKind::Confirm, "1-0", Answer::Contradiction);
    assert!(desk.append(), "the mark is logged");
    desk.durable();
    desk.ended(1, CallKind::Confirm, "1-0", Answer::Contradiction);
    assert!(!desk.append());
    assert!(desk.driver.machine().live().get(escrow_types::Epoch(1), 0).unwrap().attention);
    desk.confirmed(0, "1-0");
    desk.flush();
    assert_eq!(desk.remembered(1), "unfinished", "a branch is ended only by its participant's word");
    desk.out();
    let mut desk = desk.crash();
    desk.connect();
    assert_eq!(desk.out(), "0<confirm 1-0 | 1<confirm 1-0");
    desk.ended(1, CallKind::Confirm, "1-0", Answer::Contradiction);
    assert!(!desk.append(), "marked already");
    assert_eq!(desk.force("1-0", false), "ok", "0 has not answered in this epoch");
}

#[test]
fn a_contradiction_can_be_retried() {
    let mut desk = contradicted();
    assert_eq!(desk.retry("1-0"), "ok");
    assert_eq!(desk.out(), "0<confirm 1-0 | 1<confirm 1-0");
    desk.confirmed(0, "1-0");
    desk.confirmed(1, "1-0");
    assert_eq!(desk.out(), "#1 confirmed completed");
    assert_eq!(desk.retry("1-0"), "ALREADY_DECIDED");
}

/// Twice in one message, a branch would hold, and then post, twice its money.
#[test]
fn a_retry_does_not_repeat_what_leaves_in_the_same_turn() {
    let mut desk = Desk::new();
    desk.transfer(1, 0, 1);
    desk.transfer(2, 0, 0);
    desk.append();
    desk.out();
    // The one-phase transfer leaves now that its Begin is durable.
    desk.durable();
    for _ in 0..2 {
        assert_eq!((desk.retry("1-0"), desk.retry("1-1")), ("ok".to_owned(), "ok".to_owned()));
    }
    assert_eq!(desk.rows_to(0), ["try 1-0", "try and confirm 1-1", "try and confirm 1-1"], "one row a leg");
    assert_eq!(desk.retry("1-1"), "ok");
    assert_eq!(
        desk.rows_to(0),
        ["try and confirm 1-1", "try and confirm 1-1"],
        "in a later turn it is sent again"
    );
}

#[test]
fn a_contradiction_can_be_overridden_unless_someone_has_ended_the_other_way() {
    let mut desk = contradicted();
    assert_eq!(desk.force("1-0", false), "ok");
    desk.turn();
    assert_eq!(desk.out(), "0<cancel 1-0 | 1<cancel 1-0");
    desk.confirmed(0, "1-0");
    desk.canceled(1, "1-0");
    desk.ended(0, CallKind::Cancel, "1-0", Answer::Contradiction);
    desk.turn();
    assert_eq!(desk.force("1-0", true), "ALREADY_DECIDED", "1 has canceled");
    assert_eq!(desk.force("1-0", false), "ok", "the same again asks all again");
    desk.turn();
    assert_eq!(desk.out(), "0<cancel 1-0 | 1<cancel 1-0");

    let mut desk = contradicted();
    desk.confirmed(0, "1-0");
    assert_eq!(desk.force("1-0", false), "ALREADY_DECIDED");
    assert_eq!(desk.force("1-0", true), "ok");
    desk.turn();
    assert_eq!(desk.out(), "0<confirm 1-0 | 1<confirm 1-0");
}

#[test]
fn giving_up_is_the_last_verb_and_leaves_its_mark() {
    let mut desk = Desk::new();
    desk.transfer(1, 0, 1);
    desk.turn();
    assert_eq!(desk.give_up("1-0"), "NOT_IN_DOUBT", "undecided");
    desk.tried(0, "1-0", Answer::Reserved);
    desk.tried(1, "1-0", Answer::Reserved);
    desk.confirmed(0, "1-0");
    desk.out();
    assert_eq!(desk.give_up("1-0"), "ok");
    assert_eq!(desk.out(), "");
    desk.turn();
    assert_eq!((desk.out(), desk.remembered(1)), ("#1 confirmed completed".into(), "confirmed MIXED".into()));
    assert_eq!(desk.give_up("1-0"), "ALREADY_DECIDED");
    desk.check_replay();
}

/// Each of these once logged a second end, and applying that stopped the process.
#[test]
fn nothing_ends_what_is_being_given_up() {
    type Then = fn(&mut Desk);
    let then: [Then; 6] = [
        |desk| assert_eq!(desk.give_up("1-0"), "NOT_IN_DOUBT"),
        |desk| assert_eq!(desk.force("1-0", true), "NOT_IN_DOUBT"),
        |desk| assert_eq!(desk.retry("1-0"), "NOT_IN_DOUBT"),
        |desk| {
            desk.confirmed(0, "1-0");
            desk.confirmed(1, "1-0");
        },
        |desk| desk.ended(0, CallKind::Confirm, "1-0", Answer::Contradiction),
        |desk| {
            desk.asked(0, "1-0");
            desk.connect();
            desk.pass(100_000);
        },
    ];
    for (at, then) in then.into_iter().enumerate() {
        for appended in [false, true] {
            let mut desk = contradicted();
            assert_eq!(desk.give_up("1-0"), "ok");
            if appended {
                desk.append();
            }
            then(&mut desk);
            desk.confirmed(0, "1-0");
            desk.confirmed(1, "1-0");
            desk.flush();
            desk.flush();
            assert_eq!(desk.remembered(1), "confirmed MIXED", "case {at}");
            assert!(desk.driver.is_quiet(), "case {at}");
        }
    }
}

#[test]
fn pause_refuses_new_work_only_and_survives_a_crash() {
    let mut desk = Desk::new();
    desk.transfer(1, 0, 1);
    desk.driver.set_paused(true);
    desk.turn();
    desk.transfer(2, 0, 1);
    desk.transfer(1, 0, 1);
    assert_eq!(desk.out(), "0<try 1-0 | 1<try 1-0 | #2 refused PAUSED");
    desk.tried(0, "1-0", Answer::Reserved);
    desk.tried(1, "1-0", Answer::Reserved);
    desk.turn();
    assert!(desk.out().starts_with("0<confirm 1-0"));
    let mut desk = desk.crash();
    desk.connect();
    desk.out();
    desk.transfer(2, 0, 1);
    assert_eq!(desk.out(), "#2 refused PAUSED");
    desk.driver.set_paused(false);
    desk.turn();
    desk.transfer(2, 0, 1);
    assert_eq!(desk.out(), "0<try 2-0 | 1<try 2-0");
}

#[test]
fn the_last_word_of_a_turn_counts() {
    let mut desk = Desk::new();
    desk.driver.set_paused(true);
    desk.driver.set_paused(false);
    desk.turn();
    assert!(!desk.driver.machine().is_paused());
    desk.driver.set_paused(true);
    desk.append();
    desk.driver.set_paused(false);
    desk.turn();
    assert!(!desk.driver.machine().is_paused());
}
