//! Reserve, then confirm (in full or in part) or cancel, or let the hold expire.

use escrow_types::Answer;

use super::harness::{Desk, EXTERNAL, POOR, leg};
use crate::driver::Wait;

#[test]
fn reserved_is_told_when_all_branches_are_and_begin_is_durable() {
    let mut desk = Desk::new();
    desk.legs(1, true, vec![leg(0, '-', 30), leg(1, '+', 30)]);
    assert_eq!(desk.out(), "0<try 1-0 | 1<try 1-0", "tried while Begin is logged");
    desk.tried(0, "1-0", Answer::Reserved);
    desk.tried(1, "1-0", Answer::Reserved);
    assert_eq!(desk.out(), "", "would not survive a crash");
    desk.turn();
    assert_eq!(desk.out(), "#1 reserved");
    desk.legs(1, true, vec![leg(0, '-', 30), leg(1, '+', 30)]);
    assert_eq!(desk.out(), "#1 reserved", "the same again");
    assert!(!desk.append(), "nothing is decided");
}

#[test]
fn a_rejected_reservation_is_canceled() {
    let mut desk = Desk::new();
    desk.legs(1, true, vec![leg(0, '-', 30), leg(1, '+', 30)]);
    desk.turn();
    desk.out();
    desk.tried(0, "1-0", POOR);
    desk.turn();
    assert_eq!(desk.out(), "1<cancel 1-0 | #1 canceled INSUFFICIENT_FUNDS");
    assert_eq!(desk.confirm(2, "1-0", None), "ALREADY_DECIDED");
    assert_eq!(desk.cancel(3, "1-0"), "ok");
    desk.canceled(1, "1-0");
    assert_eq!(desk.out(), "#3 canceled INSUFFICIENT_FUNDS completed");
}

#[test]
fn confirm_in_full() {
    let mut desk = Desk::new();
    desk.hold(1);
    assert_eq!(desk.confirm(2, "1-0", None), "ok");
    assert_eq!(desk.confirm(3, "1-0", None), "ok", "deciding");
    desk.turn();
    assert_eq!(desk.out(), "0<confirm 1-0 | 1<confirm 1-0");
    assert_eq!(desk.confirm(4, "1-0", None), "ok", "decided");
    assert_eq!(desk.cancel(5, "1-0"), "ALREADY_DECIDED");
    desk.confirmed(0, "1-0");
    desk.confirmed(1, "1-0");
    assert_eq!(desk.out(), "#2 confirmed completed | #3 confirmed completed | #4 confirmed completed");
    assert_eq!(desk.confirm(6, "1-0", None), "ok", "landed");
    assert_eq!(desk.cancel(7, "1-0"), "ALREADY_DECIDED");
    assert_eq!(desk.out(), "#6 confirmed completed");
    desk.flush();
    assert_eq!(desk.confirm(8, "1-0", None), "TRANSACTION_NOT_FOUND", "ended: the remembered row answers");
}

#[test]
fn confirm_in_part() {
    let mut desk = Desk::new();
    desk.legs(1, true, vec![leg(0, '-', 30), leg(1, '+', 20), leg(0, '+', 10)]);
    desk.turn();
    desk.tried(0, "1-0", Answer::Reserved);
    desk.tried(1, "1-0", Answer::Reserved);
    desk.out();
    assert_eq!(desk.confirm(2, "1-0", Some(&[8, 8])), "INVALID_AMOUNT");
    assert_eq!(desk.confirm(2, "1-0", Some(&[31, 21, 10])), "INVALID_AMOUNT");
    assert_eq!(desk.confirm(2, "1-0", Some(&[0, 0, 0])), "AMOUNT_ZERO");
    assert_eq!(desk.confirm(2, "1-0", Some(&[8, 7, 0])), "LEGS_UNBALANCED");
    assert_eq!(desk.confirm(2, "1-0", Some(&[8, 7, 1])), "ok");
    desk.turn();
    assert_eq!(desk.out(), "0<confirm 1-0 of [8, 1] | 1<confirm 1-0 of [7]");
    let mut desk = desk.crash();
    desk.connect();
    assert_eq!(desk.out(), "0<confirm 1-0 of [8, 1] | 1<confirm 1-0 of [7]", "the log has the amounts");
    desk.check_replay();
}

#[test]
fn a_second_confirm_with_other_amounts_is_refused() {
    let mut desk = Desk::new();
    desk.hold(1);
    assert_eq!(desk.confirm(2, "1-0", Some(&[8, 8])), "ok");
    assert_eq!(desk.confirm(3, "1-0", Some(&[9, 9])), "ALREADY_DECIDED", "deciding");
    assert_eq!(desk.confirm(3, "1-0", None), "ALREADY_DECIDED");
    assert_eq!(desk.confirm(4, "1-0", Some(&[8, 8])), "ok");
    desk.turn();
    desk.out();
    assert_eq!(desk.confirm(5, "1-0", Some(&[9, 9])), "ALREADY_DECIDED", "decided");
    assert_eq!(desk.confirm(5, "1-0", None), "ALREADY_DECIDED");
    assert_eq!(desk.confirm(6, "1-0", Some(&[8, 8])), "ok");
    desk.confirmed(0, "1-0");
    desk.confirmed(1, "1-0");
    assert_eq!(desk.out(), "#2 confirmed completed | #4 confirmed completed | #6 confirmed completed");
    desk.flush();
    desk.hold(7);
    assert_eq!(desk.confirm(8, "1-1", None), "ok");
    assert_eq!(desk.confirm(8, "1-1", Some(&[8, 8])), "ALREADY_DECIDED");
    assert_eq!(desk.confirm(9, "1-1", Some(&[30, 30])), "ok", "all of it is not a part");
}

#[test]
fn confirm_before_all_is_reserved_is_refused() {
    let mut desk = Desk::new();
    desk.legs(1, true, vec![leg(0, '-', 30), leg(1, '+', 30)]);
    assert_eq!(desk.confirm(2, "1-0", None), "NOT_RESERVED");
    desk.turn();
    desk.tried(0, "1-0", Answer::Reserved);
    assert_eq!(desk.confirm(2, "1-0", None), "NOT_RESERVED");
    assert_eq!(desk.confirm(2, "1-0", Some(&[1, 1])), "NOT_RESERVED");
    assert_eq!(desk.confirm(2, "9-9", None), "TRANSACTION_NOT_FOUND");
}

#[test]
fn cancel_at_every_stage() {
    let mut desk = Desk::new();
    desk.legs(1, true, vec![leg(0, '-', 30), leg(1, '+', 30)]);
    assert_eq!(desk.cancel(2, "1-0"), "ok", "before Begin is durable");
    desk.turn();
    assert_eq!(
        desk.out(),
        "0<cancel 1-0 | 0<try 1-0 | 1<cancel 1-0 | 1<try 1-0 | #1 canceled CANCELED_BY_CALLER",
        "a late Try is refused"
    );
    desk.hold(3);
    assert_eq!(desk.cancel(4, "1-1"), "ok");
    assert_eq!(desk.cancel(5, "1-1"), "ok", "deciding");
    assert_eq!(desk.confirm(6, "1-1", None), "ok", "deciding: will hear what was decided");
    desk.turn();
    desk.canceled(0, "1-1");
    desk.canceled(1, "1-1");
    let all = "#4 canceled CANCELED_BY_CALLER completed | #5 canceled CANCELED_BY_CALLER completed | \
               #6 canceled CANCELED_BY_CALLER completed";
    assert_eq!(desk.out(), format!("0<cancel 1-1 | 1<cancel 1-1 | {all}"));
}

#[test]
fn a_hold_expires() {
    let mut desk = Desk::new();
    desk.hold(1);
    desk.pass(desk.config.default_hold_ms - 1);
    assert!(!desk.append());
    desk.pass(1);
    desk.turn();
    assert_eq!(desk.out(), "0<cancel 1-0 | 1<cancel 1-0");
    assert_eq!(desk.confirm(2, "1-0", None), "ALREADY_DECIDED");
}

#[test]
fn transactions_that_decide_themselves_are_not_the_callers_to_end() {
    let mut desk = Desk::new();
    desk.transfer(1, 0, 1);
    desk.transfer(2, 0, 0);
    desk.turn();
    for xid in ["1-0", "1-1"] {
        assert_eq!(desk.confirm(3, xid, None), "NOT_RESERVED");
        assert_eq!(desk.cancel(3, xid), "NOT_RESERVED");
    }
    desk.tried_and_confirmed(0, "1-1", Answer::Confirmed);
    assert_eq!(desk.confirm(3, "1-1", None), "NOT_RESERVED", "landed");
    assert_eq!(desk.cancel(3, "1-1"), "NOT_RESERVED");
}

#[test]
fn after_a_crash_a_confirm_waits_until_the_branches_have_said_reserved_again() {
    let mut desk = Desk::new();
    desk.hold(1);
    let mut desk = desk.crash();
    assert_eq!(desk.confirm(2, "1-0", None), "ok");
    assert!(!desk.append());
    desk.connect();
    assert_eq!(desk.out(), "0<try 1-0 | 1<try 1-0");
    desk.tried(0, "1-0", Answer::Reserved);
    desk.tried(1, "1-0", Answer::Reserved);
    desk.turn();
    assert_eq!(desk.out(), "0<confirm 1-0 | 1<confirm 1-0");
    desk.confirmed(0, "1-0");
    desk.confirmed(1, "1-0");
    assert_eq!(desk.out(), "#2 confirmed completed");
}

#[test]
fn after_a_crash_a_confirm_in_part_waits_too_and_keeps_its_amounts() {
    let mut desk = Desk::new();
    desk.hold(1);
    let mut desk = desk.crash();
    assert_eq!(desk.confirm(2, "1-0", Some(&[5, 5])), "ok");
    assert_eq!(desk.confirm(3, "1-0", Some(&[6, 6])), "ALREADY_DECIDED", "the caller has said otherwise");
    assert_eq!(desk.confirm(3, "1-0", None), "ALREADY_DECIDED");
    assert_eq!(desk.confirm(4, "1-0", Some(&[5, 5])), "ok", "the same again");
    desk.connect();
    assert_eq!(desk.out(), "0<try 1-0 | 1<try 1-0");
    desk.tried(0, "1-0", Answer::Reserved);
    desk.tried(1, "1-0", Answer::Reserved);
    desk.turn();
    assert_eq!(desk.out(), "0<confirm 1-0 of [5] | 1<confirm 1-0 of [5]");
    desk.check_replay();
}

#[test]
fn a_confirm_in_part_that_waits_can_lose_to_the_deadline() {
    let mut desk = Desk::new();
    desk.hold(1);
    let mut desk = desk.crash();
    assert_eq!(desk.confirm(2, "1-0", Some(&[5, 5])), "ok");
    desk.pass(desk.config.default_hold_ms);
    assert!(desk.append());
    desk.turn();
    assert_eq!(desk.confirm(3, "1-0", Some(&[5, 5])), "ALREADY_DECIDED", "canceled");
}

#[test]
fn after_a_crash_the_hold_goes_on_to_its_own_deadline() {
    let mut desk = Desk::new();
    desk.hold(1);
    desk.pass(1_000);
    let mut desk = desk.crash();
    desk.connect();
    desk.tried(0, "1-0", Answer::Reserved);
    desk.tried(1, "1-0", Answer::Reserved);
    desk.pass(desk.config.default_hold_ms - 1_001);
    assert!(!desk.append());
    desk.pass(1);
    assert!(desk.append());
}

#[test]
fn an_external_participant_can_hold_too() {
    let mut desk = Desk::new();
    desk.legs_waiting(1, true, vec![leg(0, '-', 30), leg(EXTERNAL, '+', 30)], Wait::Reserved);
    desk.turn();
    assert_eq!(desk.out(), "0<try 1-0 | 7<call try 1-0");
    desk.tried(0, "1-0", Answer::Reserved);
    desk.tried(EXTERNAL, "1-0", Answer::Reserved);
    assert_eq!(desk.out(), "#1 reserved");
    assert_eq!(desk.confirm(2, "1-0", Some(&[4, 4])), "ok");
    desk.turn();
    assert_eq!(desk.out(), "0<confirm 1-0 of [4] | 7<call confirm 1-0");
}
