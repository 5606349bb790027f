//! External participants: unary calls, Try only after Begin is durable, retries with growing pauses, a breaker.

use escrow_types::{Answer, Reason};

use super::harness::{Desk, EXTERNAL, leg};
use crate::driver::{CallKind, LinkState};

fn legs(desk: &mut Desk, tag: u64) {
    desk.legs(tag, false, vec![leg(0, '-', 30), leg(EXTERNAL, '+', 30)]);
}

#[test]
fn its_try_waits_for_begin_and_the_shards_does_not() {
    let mut desk = Desk::new();
    legs(&mut desk, 1);
    assert_eq!(desk.out(), "0<try 1-0");
    desk.tried(0, "1-0", Answer::Reserved);
    desk.append();
    assert_eq!(desk.out(), "");
    desk.durable();
    assert_eq!(desk.out(), "7<call try 1-0");
    desk.tried(EXTERNAL, "1-0", Answer::Reserved);
    desk.turn();
    assert_eq!(desk.out(), "0<confirm 1-0 | 7<call confirm 1-0");
    desk.confirmed(0, "1-0");
    desk.confirmed(EXTERNAL, "1-0");
    assert_eq!(desk.out(), "#1 confirmed completed");
}

#[test]
fn one_that_was_never_called_need_not_be_canceled() {
    let mut desk = Desk::new();
    legs(&mut desk, 1);
    desk.tried(0, "1-0", Answer::Rejected(Reason::AccountFrozen));
    desk.turn();
    assert_eq!(desk.out(), "0<try 1-0 | #1 canceled ACCOUNT_FROZEN completed");
}

#[test]
fn an_external_participant_alone_is_two_phase() {
    let mut desk = Desk::new();
    desk.legs(1, false, vec![leg(EXTERNAL, '-', 30), leg(EXTERNAL, '+', 30)]);
    desk.turn();
    assert_eq!(desk.out(), "7<call try 1-0");
    desk.tried(EXTERNAL, "1-0", Answer::Reserved);
    desk.turn();
    assert_eq!(desk.out(), "7<call confirm 1-0");
}

#[test]
fn a_failed_call_is_tried_again_after_a_growing_pause() {
    let mut desk = Desk::new();
    legs(&mut desk, 1);
    desk.tried(0, "1-0", Answer::Reserved);
    desk.turn();
    desk.out();
    desk.call_failed(EXTERNAL, CallKind::Try, "1-0");
    assert_eq!(desk.driver.next_wake_ms(), desk.now + 100);
    desk.pass(99);
    assert_eq!(desk.out(), "");
    desk.pass(1);
    assert_eq!(desk.out(), "7<call try 1-0");
    desk.pass(1_000);
    assert_eq!(desk.out(), "", "one call at a time");
    desk.call_failed(EXTERNAL, CallKind::Try, "1-0");
    desk.pass(199);
    assert_eq!(desk.out(), "");
    desk.pass(1);
    assert_eq!(desk.out(), "7<call try 1-0");
    desk.tried(EXTERNAL, "1-0", Answer::Reserved);
    desk.turn();
    assert_eq!(desk.out(), "0<confirm 1-0 | 7<call confirm 1-0");
    desk.call_failed(EXTERNAL, CallKind::Confirm, "1-0");
    let view = desk.driver.view(desk.now, escrow_types::Epoch(1), 0).unwrap();
    let branch = &view.branches[1];
    assert_eq!(
        (branch.attempts, &*branch.last_error),
        (1, "connection refused"),
        "counted anew in each phase"
    );
    assert_eq!((branch.last_attempt_ms, branch.next_attempt_ms), (desk.now, desk.now + 100));
    assert!(view.in_doubt);
    desk.pass(100);
    assert_eq!(desk.out(), "7<call confirm 1-0");
}

#[test]
fn a_failure_of_an_earlier_phase_changes_nothing() {
    let mut desk = Desk::new();
    legs(&mut desk, 1);
    desk.turn();
    desk.pass(5_000);
    desk.turn();
    assert_eq!(
        desk.out(),
        "0<try 1-0 | 0<cancel 1-0 | 7<call try 1-0 | 7<call cancel 1-0"
            .replace("0<try 1-0 | 0<cancel 1-0", "0<cancel 1-0 | 0<try 1-0")
    );
    desk.call_failed(EXTERNAL, CallKind::Try, "1-0");
    desk.tried(EXTERNAL, "1-0", Answer::Reserved);
    desk.pass(60_000);
    assert_eq!(desk.out(), "#1 canceled DEADLINE_EXCEEDED", "the cancel is still under way");
    desk.canceled(EXTERNAL, "1-0");
    desk.canceled(0, "1-0");
    desk.flush();
    assert_eq!(desk.remembered(1), "canceled DEADLINE_EXCEEDED");
}

#[test]
fn phase_two_is_retried_for_ever() {
    let mut desk = Desk::new();
    legs(&mut desk, 1);
    desk.turn();
    desk.tried(0, "1-0", Answer::Reserved);
    desk.tried(EXTERNAL, "1-0", Answer::Reserved);
    desk.turn();
    desk.confirmed(0, "1-0");
    desk.out();
    for _ in 0..50 {
        desk.call_failed(EXTERNAL, CallKind::Confirm, "1-0");
        desk.pass(3_200);
        assert!(desk.out().starts_with("7<call confirm 1-0"));
    }
    desk.confirmed(EXTERNAL, "1-0");
    desk.flush();
    assert_eq!(desk.remembered(1), "confirmed");
}

#[test]
fn three_failures_in_a_row_open_the_breaker_for_a_second_at_a_time() {
    let mut desk = Desk::new();
    legs(&mut desk, 1);
    desk.turn();
    for _ in 0..2 {
        desk.call_failed(EXTERNAL, CallKind::Try, "1-0");
        desk.pass(200);
    }
    legs(&mut desk, 2);
    desk.turn();
    desk.out();
    desk.call_failed(EXTERNAL, CallKind::Try, "1-0");
    legs(&mut desk, 3);
    assert_eq!(desk.out(), "#3 refused PARTICIPANT_UNAVAILABLE");
    desk.transfer(4, 0, 1);
    assert_eq!(desk.out(), "0<try 1-2 | 1<try 1-2", "the others go on");
    desk.pass(999);
    legs(&mut desk, 5);
    assert!(desk.out().ends_with("#5 refused PARTICIPANT_UNAVAILABLE"));
    desk.pass(1);
    legs(&mut desk, 6);
    desk.turn();
    assert_eq!(desk.out(), "0<try 1-3 | 7<call try 1-3", "half open: one may find out");
    desk.call_failed(EXTERNAL, CallKind::Try, "1-3");
    legs(&mut desk, 7);
    assert_eq!(desk.out(), "#7 refused PARTICIPANT_UNAVAILABLE");
    desk.tried(EXTERNAL, "1-1", Answer::Reserved);
    legs(&mut desk, 8);
    assert_eq!(desk.out(), "0<try 1-4", "any answer closes it");
}

#[test]
fn after_a_crash_its_calls_go_out_again_without_being_asked_for() {
    let mut desk = Desk::new();
    legs(&mut desk, 1);
    legs(&mut desk, 2);
    desk.turn();
    desk.tried(0, "1-1", Answer::Reserved);
    desk.tried(EXTERNAL, "1-1", Answer::Reserved);
    desk.turn();
    let mut desk = desk.crash();
    assert_eq!(desk.out(), "7<call try 1-0 | 7<call confirm 1-1");
    desk.connect();
    assert_eq!(desk.out(), "0<confirm 1-1 | 0<try 1-0");
}

#[test]
fn an_operators_retry_does_not_double_a_call_that_is_under_way() {
    let mut desk = Desk::new();
    legs(&mut desk, 1);
    desk.turn();
    desk.out();
    assert_eq!(desk.retry("1-0"), "ok");
    assert_eq!(desk.out(), "0<try 1-0", "only the stream");
    desk.call_failed(EXTERNAL, CallKind::Try, "1-0");
    assert_eq!(desk.retry("1-0"), "ok");
    assert_eq!(desk.out(), "0<try 1-0 | 7<call try 1-0", "at once");
    desk.pass(100);
    assert_eq!(desk.out(), "", "and not again when the pause is over");
}

#[test]
fn its_link_never_needs_a_stream() {
    let mut desk = Desk::new();
    assert_eq!(
        desk.driver.links().get(escrow_types::ParticipantId(EXTERNAL)).unwrap().state,
        LinkState::Ready
    );
    desk.driver.send_watermark();
    assert!(!desk.watermarks().contains("7<"));
}
