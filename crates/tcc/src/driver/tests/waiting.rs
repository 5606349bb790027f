//! Deadlines, and callers who have waited long enough: nobody waits for ever.

use escrow_types::Answer;

use super::harness::{Desk, POOR, leg};
use crate::driver::{LinkState, Wait};

#[test]
fn undecided_at_the_deadline_is_canceled() {
    let mut desk = Desk::new();
    desk.submit(1, 1, 0, 1, 5, Wait::Decided, 100);
    desk.turn();
    desk.tried(0, "1-0", Answer::Reserved);
    desk.out();
    desk.pass(99);
    assert!(!desk.append());
    desk.pass(1);
    desk.tried(1, "1-0", Answer::Reserved);
    desk.turn();
    assert_eq!(
        desk.out(),
        "0<cancel 1-0 | 1<cancel 1-0 | #1 canceled DEADLINE_EXCEEDED",
        "the deadline came first"
    );
}

#[test]
fn a_decision_stands_whatever_the_deadline() {
    let mut desk = Desk::new();
    desk.submit(1, 1, 0, 1, 5, Wait::Decided, 100);
    desk.out();
    desk.tried(0, "1-0", Answer::Reserved);
    desk.tried(1, "1-0", Answer::Reserved);
    desk.append();
    desk.pass(1_000);
    assert!(!desk.append(), "decided, only not durable yet");
    desk.durable();
    assert_eq!(desk.out(), "0<confirm 1-0 | 1<confirm 1-0 | #1 confirmed");
}

#[test]
fn a_caller_who_waits_for_completion_is_told_the_decision_when_the_time_is_up() {
    let mut desk = Desk::new();
    desk.submit(1, 1, 0, 1, 5, Wait::Completed, 100);
    desk.tried(0, "1-0", Answer::Reserved);
    desk.tried(1, "1-0", Answer::Reserved);
    desk.turn();
    desk.out();
    desk.pass(99);
    assert_eq!(desk.out(), "");
    desk.pass(1);
    assert_eq!(desk.out(), "#1 confirmed");
    desk.confirmed(0, "1-0");
    desk.confirmed(1, "1-0");
    assert_eq!(desk.out(), "", "told once");
}

#[test]
fn the_deadline_itself_is_told_although_a_branch_does_not_answer() {
    let mut desk = Desk::new();
    desk.submit(1, 1, 0, 1, 5, Wait::Completed, 100);
    desk.turn();
    desk.out();
    desk.pass(100);
    desk.turn();
    assert_eq!(desk.out(), "0<cancel 1-0 | 1<cancel 1-0");
    desk.canceled(0, "1-0");
    desk.pass(1);
    assert_eq!(desk.out(), "#1 canceled DEADLINE_EXCEEDED");
}

#[test]
fn every_caller_of_one_transaction_is_told_in_its_own_time() {
    let mut desk = Desk::new();
    desk.submit(1, 1, 0, 1, 5, Wait::Decided, 0);
    desk.pass(1_000);
    desk.submit(2, 1, 0, 1, 5, Wait::Completed, 0);
    desk.submit(3, 1, 0, 1, 5, Wait::Completed, 500);
    desk.tried(0, "1-0", Answer::Reserved);
    desk.tried(1, "1-0", Answer::Reserved);
    desk.turn();
    assert!(desk.out().ends_with("#1 confirmed"));
    desk.pass(499);
    assert_eq!(desk.out(), "");
    desk.pass(1);
    assert_eq!(desk.out(), "#3 confirmed");
    desk.pass(4_499);
    assert_eq!(desk.out(), "");
    desk.pass(1);
    assert_eq!(desk.out(), "#2 confirmed");
}

#[test]
fn who_asks_after_the_time_is_up_waits_anew() {
    let mut desk = Desk::new();
    desk.submit(1, 1, 0, 1, 5, Wait::Decided, 100);
    desk.tried(0, "1-0", Answer::Reserved);
    desk.tried(1, "1-0", Answer::Reserved);
    desk.turn();
    desk.out();
    desk.pass(10_000);
    desk.submit(2, 1, 0, 1, 5, Wait::Completed, 200);
    desk.wait_for(3, "1-0", Wait::Completed);
    assert_eq!(desk.out(), "");
    desk.pass(199);
    assert_eq!(desk.out(), "");
    desk.pass(1);
    assert_eq!(desk.out(), "#2 confirmed");
    desk.pass(4_800);
    assert_eq!(desk.out(), "#3 confirmed");
}

#[test]
fn a_contradiction_does_not_keep_its_caller_waiting() {
    let mut desk = Desk::new();
    desk.submit(1, 1, 0, 1, 5, Wait::Completed, 100);
    desk.tried(0, "1-0", Answer::Reserved);
    desk.tried(1, "1-0", Answer::Reserved);
    desk.turn();
    desk.ended(0, crate::driver::CallKind::Confirm, "1-0", Answer::Contradiction);
    desk.turn();
    desk.out();
    desk.pass(100);
    assert_eq!(desk.out(), "#1 confirmed");
}

#[test]
fn a_one_phase_transfer_that_does_not_answer_is_pending() {
    let mut desk = Desk::new();
    desk.submit(1, 1, 0, 0, 5, Wait::Decided, 100);
    desk.turn();
    assert_eq!(desk.out(), "0<try+confirm 1-0");
    desk.pass(100);
    assert_eq!(desk.out(), "#1 pending");
    desk.submit(2, 1, 0, 0, 5, Wait::Decided, 100);
    desk.pass(99);
    assert_eq!(desk.out(), "");
    desk.pass(1);
    assert_eq!(desk.out(), "#2 pending");
    desk.submit(3, 1, 0, 0, 5, Wait::Decided, 100);
    desk.tried_and_confirmed(0, "1-0", POOR);
    assert_eq!(desk.out(), "#3 canceled INSUFFICIENT_FUNDS completed");
}

#[test]
fn the_caller_of_a_reservation_that_does_not_come_is_told_pending_and_the_hold_goes_on() {
    let mut desk = Desk::new();
    desk.legs(1, true, vec![leg(0, '-', 30), leg(1, '+', 30)]);
    desk.turn();
    desk.tried(0, "1-0", Answer::Reserved);
    desk.out();
    desk.pass(5_000);
    assert_eq!(desk.out(), "#1 pending");
    desk.tried(1, "1-0", Answer::Reserved);
    desk.legs(1, true, vec![leg(0, '-', 30), leg(1, '+', 30)]);
    assert_eq!(desk.out(), "#1 reserved");
    desk.legs_waiting(1, true, vec![leg(0, '-', 30), leg(1, '+', 30)], Wait::Completed);
    desk.pass(5_000);
    assert_eq!(desk.out(), "#1 reserved", "where it stands");
}

#[test]
fn who_confirms_a_reservation_waits_from_then_on() {
    let mut desk = Desk::new();
    desk.hold(1);
    desk.pass(20_000);
    assert_eq!(desk.confirm(2, "1-0", None), "ok");
    desk.pass(1);
    assert_eq!(desk.out(), "");
    desk.turn();
    desk.pass(1);
    assert_eq!(desk.out(), "0<confirm 1-0 | 1<confirm 1-0");
    desk.pass(4_998);
    assert_eq!(desk.out(), "#2 confirmed");
}

#[test]
fn a_transfer_that_could_not_be_sent_is_canceled_at_its_deadline_without_asking() {
    let mut desk = Desk::new();
    desk.link(0, LinkState::Waiting);
    desk.link(1, LinkState::Waiting);
    desk.submit(1, 1, 0, 1, 5, Wait::Completed, 100);
    desk.turn();
    assert_eq!(desk.out(), "");
    desk.pass(100);
    desk.turn();
    assert_eq!(desk.out(), "#1 canceled DEADLINE_EXCEEDED completed");
    desk.connect();
    assert_eq!(desk.out(), "", "never sent as Try after the decision");
}

#[test]
fn a_driver_with_nothing_to_do_says_so() {
    let mut desk = Desk::new();
    assert_eq!(desk.driver.next_wake_ms(), u64::MAX);
    desk.submit(1, 1, 0, 1, 5, Wait::Decided, 100);
    assert_eq!(desk.driver.next_wake_ms(), desk.now + 100);
    desk.pass(100);
    assert_eq!(desk.driver.next_wake_ms(), u64::MAX, "the decision is being logged");
}
