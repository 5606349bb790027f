//! Transactions of a single wallet shard: `TryAndConfirm`, only after Begin is durable.

use escrow_types::{Answer, Reason};

use super::harness::{Desk, POOR, leg};
use crate::driver::{CallKind, LinkState, Wait};

#[test]
fn it_is_sent_after_its_begin_is_durable_and_its_answer_is_the_decision() {
    let mut desk = Desk::new();
    desk.transfer(1, 0, 0);
    assert_eq!(desk.out(), "");
    desk.append();
    assert_eq!(desk.out(), "");
    desk.durable();
    assert_eq!(desk.out(), "0<try+confirm 1-0");
    desk.tried_and_confirmed(0, "1-0", Answer::Confirmed);
    assert_eq!(desk.out(), "#1 confirmed completed");
    assert_eq!(desk.outcome("1-0"), "confirmed", "landed, not logged");
    desk.flush();
    assert_eq!(desk.remembered(1), "confirmed");
    desk.check_replay();
}

#[test]
fn a_rejection_ends_it() {
    let mut desk = Desk::new();
    desk.transfer(1, 0, 0);
    desk.turn();
    desk.out();
    desk.tried_and_confirmed(0, "1-0", POOR);
    desk.flush();
    assert_eq!(desk.out(), "#1 canceled INSUFFICIENT_FUNDS completed");
    assert_eq!(desk.remembered(1), "canceled INSUFFICIENT_FUNDS");
}

#[test]
fn answers_by_kind() {
    let table = [
        (Answer::TryAfterCancel, "#1 canceled PARTICIPANT_REJECTED completed"),
        (Answer::Canceled, "#1 canceled PARTICIPANT_REJECTED completed"),
        (Answer::Invalid, "#1 canceled PARTICIPANT_REJECTED completed"),
        (Answer::Rejected(Reason::AccountFrozen), "#1 canceled ACCOUNT_FROZEN completed"),
        (Answer::HelloRequired, ""),
        (Answer::StaleEpoch, ""),
        (Answer::Reserved, ""),
        (Answer::Finished, ""),
        (Answer::Contradiction, ""),
    ];
    for (answer, expect) in table {
        let mut desk = Desk::new();
        desk.transfer(1, 0, 0);
        desk.turn();
        desk.out();
        desk.tried_and_confirmed(0, "1-0", answer);
        assert_eq!(desk.out(), expect, "{answer:?}");
        let odd = matches!(answer, Answer::Reserved | Answer::Finished | Answer::Contradiction);
        assert_eq!(desk.append(), odd, "needs attention after {answer:?}");
        assert_eq!(desk.driver.take_outputs().deposed, answer == Answer::StaleEpoch);
    }
}

#[test]
fn the_same_request_again_hears_the_same_while_the_end_is_being_logged() {
    let mut desk = Desk::new();
    desk.transfer(1, 0, 0);
    desk.turn();
    desk.tried_and_confirmed(0, "1-0", Answer::Confirmed);
    desk.out();
    desk.transfer(1, 0, 0);
    assert_eq!(desk.out(), "#1 confirmed completed", "not taken yet");
    desk.transfer(2, 0, 1);
    desk.append();
    desk.transfer(1, 0, 0);
    assert_eq!(desk.out(), "0<try 1-1 | 1<try 1-1 | #1 confirmed completed", "appended, not durable");
    assert_eq!(desk.outcome("1-0"), "confirmed");
    desk.durable();
    desk.transfer(1, 0, 0);
    assert_eq!(desk.out(), "#1 confirmed completed");
}

#[test]
fn a_crash_before_begin_is_durable_leaves_no_trace() {
    let mut desk = Desk::new();
    desk.transfer(1, 0, 0);
    desk.append();
    let mut desk = desk.crash();
    desk.connect();
    assert_eq!((desk.out(), desk.outcome("1-0")), (String::new(), "canceled DEADLINE_EXCEEDED".to_owned()));
    desk.transfer(1, 0, 0);
    desk.turn();
    assert_eq!(desk.out(), "0<try+confirm 2-0", "the same id, executed once");
}

#[test]
fn a_crash_after_it_was_sent_asks_again_and_hears_the_same() {
    let mut desk = Desk::new();
    desk.transfer(1, 0, 0);
    desk.turn();
    desk.tried_and_confirmed(0, "1-0", Answer::Confirmed);
    assert_eq!(desk.out(), "0<try+confirm 1-0 | #1 confirmed completed");
    let mut desk = desk.crash();
    assert_eq!(desk.hello(0), "1-0");
    assert_eq!(desk.hello(1), "");
    desk.connect();
    assert_eq!(desk.out(), "0<try+confirm 1-0");
    desk.transfer(1, 0, 0);
    desk.tried_and_confirmed(0, "1-0", Answer::Confirmed);
    assert_eq!(desk.out(), "#1 confirmed completed");
}

#[test]
fn the_deadline_does_not_decide_what_the_participant_may_have_decided() {
    let mut desk = Desk::new();
    desk.submit(1, 1, 0, 0, 5, Wait::Completed, 100);
    desk.turn();
    assert_eq!(desk.out(), "0<try+confirm 1-0");
    desk.link(0, LinkState::Waiting);
    desk.pass(100_000);
    assert!(!desk.append());
    assert_eq!(desk.out(), "#1 pending");
    desk.link(0, LinkState::Ready);
    assert_eq!(desk.out(), "0<try+confirm 1-0");
    desk.tried_and_confirmed(0, "1-0", Answer::Confirmed);
    desk.flush();
    assert_eq!(desk.remembered(1), "confirmed");
}

/// A caller was once told CANCELED before that was durable: after a crash the transfer was sent, and confirmed.
#[test]
fn one_that_was_never_sent_is_canceled_at_its_deadline_durably() {
    let mut desk = Desk::new();
    desk.link(0, LinkState::Waiting);
    desk.submit(1, 1, 0, 0, 5, Wait::Completed, 100);
    desk.turn();
    desk.pass(100);
    assert_eq!(desk.out(), "", "not told before it is durable");
    assert!(desk.append());
    desk.link(0, LinkState::Ready);
    assert_eq!(desk.out(), "", "not sent after it was canceled");
    desk.durable();
    assert_eq!(desk.out(), "#1 canceled DEADLINE_EXCEEDED completed");
    let mut desk = desk.crash();
    desk.connect();
    assert_eq!(desk.out(), "0<cancel 1-0", "the end was not durable: asked again");
    desk.canceled(0, "1-0");
    desk.flush();
    assert_eq!(desk.remembered(1), "canceled DEADLINE_EXCEEDED");
    desk.check_replay();
}

#[test]
fn a_deadline_before_begin_is_durable_cancels_too() {
    let mut desk = Desk::new();
    desk.submit(1, 1, 0, 0, 5, Wait::Completed, 100);
    desk.append();
    desk.pass(100);
    desk.append();
    desk.durable();
    assert_eq!(desk.out(), "#1 canceled DEADLINE_EXCEEDED completed");
}

#[test]
fn legs_on_one_shard_are_one_phase_too_unless_the_caller_decides() {
    let mut desk = Desk::new();
    desk.legs(1, false, vec![leg(2, '-', 9), leg(2, '+', 9)]);
    desk.legs(2, true, vec![leg(2, '-', 9), leg(2, '+', 9)]);
    desk.turn();
    assert_eq!(desk.out(), "2<try 1-1 | 2<try+confirm 1-0");
}

#[test]
fn an_operator_can_cancel_it_until_it_is_sent() {
    let mut desk = Desk::new();
    desk.link(0, LinkState::Waiting);
    desk.transfer(1, 0, 0);
    desk.turn();
    assert_eq!(desk.operator_cancel("1-0"), "ok");
    assert_eq!(desk.out(), "");
    desk.turn();
    assert_eq!(desk.out(), "#1 canceled CANCELED_BY_OPERATOR completed");
    desk.link(0, LinkState::Ready);
    desk.transfer(2, 0, 0);
    desk.turn();
    assert_eq!(desk.operator_cancel("1-1"), "ALREADY_DECIDED");
    assert_eq!(desk.out(), "0<try+confirm 1-1");
}

#[test]
fn one_that_contradicts_can_be_retried_or_forced() {
    let mut desk = Desk::new();
    desk.transfer(1, 0, 0);
    desk.transfer(2, 0, 0);
    desk.turn();
    desk.tried_and_confirmed(0, "1-0", Answer::Contradiction);
    desk.tried_and_confirmed(0, "1-1", Answer::Contradiction);
    desk.turn();
    desk.out();
    assert_eq!(desk.retry("1-0"), "ok");
    assert_eq!(desk.out(), "0<try+confirm 1-0");
    desk.tried_and_confirmed(0, "1-0", Answer::Confirmed);
    assert_eq!(desk.out(), "#1 confirmed completed");
    assert_eq!(desk.force("1-1", true), "NOT_RESERVED");
    assert_eq!(desk.force("1-1", false), "ok");
    desk.turn();
    assert_eq!(desk.out(), "0<cancel 1-1");
    desk.ended(0, CallKind::Cancel, "1-1", Answer::Finished);
    desk.flush();
    assert_eq!(desk.out(), "#2 canceled FORCED completed");
    assert_eq!(desk.remembered(2), "canceled FORCED FORCED");
}
