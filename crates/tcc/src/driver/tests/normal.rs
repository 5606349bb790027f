//! The normal case, rejection, the same request again.

use escrow_types::{Answer, Reason};

use super::harness::{Desk, POOR, key};
use crate::driver::{CallKind, Wait};

#[test]
fn a_transfer_is_tried_before_its_begin_is_durable_and_confirmed_after_its_decision_is() {
    let mut desk = Desk::new();
    desk.transfer(1, 0, 1);
    assert_eq!(desk.out(), "0<try 1-0 | 1<try 1-0");
    desk.tried(0, "1-0", Answer::Reserved);
    desk.tried(1, "1-0", Answer::Reserved);
    assert_eq!(desk.out(), "");
    assert!(desk.append(), "Begin and Decide in one entry");
    assert_eq!(desk.out(), "", "appended is not durable");
    desk.durable();
    assert_eq!(desk.out(), "0<confirm 1-0 | 1<confirm 1-0");
    desk.confirmed(0, "1-0");
    assert_eq!(desk.out(), "");
    desk.confirmed(1, "1-0");
    assert_eq!(desk.out(), "#1 confirmed completed");
    assert!(!desk.append(), "an end alone is not urgent");
    assert_eq!((desk.remembered(1), desk.driver.in_flight()), ("unfinished".to_owned(), 0));
    desk.flush();
    assert_eq!(desk.remembered(1), "confirmed");
    assert!(desk.driver.is_quiet());
    desk.check_replay();
}

#[test]
fn who_waits_for_the_decision_is_told_before_the_branches_have_ended() {
    let mut desk = Desk::new();
    desk.submit(1, 1, 0, 1, 5, Wait::Decided, 0);
    desk.tried(1, "1-0", Answer::Reserved);
    desk.tried(0, "1-0", Answer::Reserved);
    assert_eq!(desk.out(), "0<try 1-0 | 1<try 1-0");
    desk.turn();
    assert_eq!(desk.out(), "0<confirm 1-0 | 1<confirm 1-0 | #1 confirmed");
}

#[test]
fn one_rejection_cancels_and_only_the_other_branch_is_asked() {
    let mut desk = Desk::new();
    desk.transfer(1, 0, 1);
    desk.out();
    desk.tried(0, "1-0", POOR);
    desk.turn();
    assert_eq!(desk.out(), "1<cancel 1-0");
    desk.tried(1, "1-0", Answer::Reserved);
    assert_eq!(desk.out(), "", "the decision is made");
    desk.canceled(1, "1-0");
    assert_eq!(desk.out(), "#1 canceled INSUFFICIENT_FUNDS completed");
}

#[test]
fn the_first_rejection_gives_the_reason() {
    let mut desk = Desk::new();
    desk.transfer(1, 0, 1);
    desk.tried(1, "1-0", Answer::Rejected(Reason::AccountFrozen));
    desk.tried(0, "1-0", POOR);
    desk.out();
    desk.turn();
    assert_eq!(desk.out(), "0<cancel 1-0", "the second rejection came after the decision");
    desk.canceled(0, "1-0");
    assert_eq!(desk.out(), "#1 canceled ACCOUNT_FROZEN completed");
}

#[test]
fn an_unexpected_answer_to_try_cancels_everywhere() {
    use Answer::{Canceled, Confirmed, Contradiction, Finished, Invalid, TryAfterCancel};
    for answer in [TryAfterCancel, Contradiction, Finished, Invalid, Confirmed, Canceled] {
        let mut desk = Desk::new();
        desk.transfer(1, 0, 1);
        desk.out();
        desk.tried(0, "1-0", answer);
        desk.turn();
        assert_eq!(desk.out(), "0<cancel 1-0 | 1<cancel 1-0", "{answer:?}");
        desk.canceled(0, "1-0");
        desk.canceled(1, "1-0");
        assert_eq!(desk.out(), "#1 canceled PARTICIPANT_REJECTED completed");
    }
}

#[test]
fn answers_that_do_not_fit_change_nothing() {
    let mut desk = Desk::new();
    desk.transfer(1, 0, 1);
    desk.out();
    desk.tried(0, "1-0", Answer::Reserved);
    desk.tried(0, "1-0", POOR);
    desk.tried(2, "1-0", POOR);
    desk.tried(1, "1-1", POOR);
    desk.tried(1, "2-0", POOR);
    desk.tried_and_confirmed(1, "1-0", POOR);
    desk.confirmed(1, "1-0");
    desk.canceled(1, "1-0");
    desk.turn();
    assert_eq!(desk.out(), "");
    desk.tried(1, "1-0", Answer::Reserved);
    desk.turn();
    assert_eq!(desk.out(), "0<confirm 1-0 | 1<confirm 1-0");
    desk.canceled(0, "1-0");
    desk.confirmed(0, "1-0");
    desk.confirmed(0, "1-0");
    assert_eq!(desk.out(), "");
    desk.ended(1, CallKind::Confirm, "1-0", Answer::Finished);
    assert_eq!(desk.out(), "#1 confirmed completed");
    desk.confirmed(1, "1-0");
    desk.flush();
    assert_eq!((desk.out(), desk.remembered(1)), (String::new(), "confirmed".to_owned()));
}

#[test]
fn the_same_request_again_waits_or_is_answered_as_the_first() {
    let mut desk = Desk::new();
    desk.transfer(1, 0, 1);
    desk.out();
    desk.submit(2, 1, 0, 1, 5, Wait::Decided, 0);
    desk.append();
    desk.submit(3, 1, 0, 1, 5, Wait::Completed, 0);
    desk.durable();
    desk.submit(4, 1, 0, 1, 5, Wait::Decided, 0);
    desk.tried(0, "1-0", Answer::Reserved);
    desk.tried(1, "1-0", Answer::Reserved);
    assert_eq!(desk.out(), "0<confirm 1-0 | 1<confirm 1-0 | #2 confirmed | #4 confirmed", "all waited");
    desk.submit(5, 1, 0, 1, 5, Wait::Decided, 0);
    assert_eq!(desk.out(), "#5 confirmed", "nothing is sent twice");
    assert!(!desk.append(), "nothing needs to be logged for it");
    desk.submit(6, 1, 0, 1, 5, Wait::Decided, 0);
    assert_eq!(desk.out(), "#6 confirmed", "decided");
    desk.confirmed(0, "1-0");
    desk.confirmed(1, "1-0");
    assert_eq!(desk.out(), "#1 confirmed completed | #3 confirmed completed");
    desk.submit(7, 1, 0, 1, 5, Wait::Completed, 0);
    assert_eq!(desk.out(), "#7 confirmed completed", "landed, not logged");
    desk.flush();
    desk.submit(8, 1, 0, 1, 5, Wait::Completed, 0);
    assert_eq!(desk.out(), "#8 confirmed completed", "ended");
    desk.checkpoint();
    desk.submit(9, 1, 0, 1, 5, Wait::Completed, 0);
    assert_eq!(desk.out(), "#9 confirmed completed", "ended and handed over");
}

#[test]
fn other_content_under_the_same_id_is_refused_at_every_stage() {
    let mut desk = Desk::new();
    let other = |desk: &mut Desk| {
        desk.submit(2, 1, 0, 1, 6, Wait::Completed, 0);
        assert_eq!(desk.out(), "#2 refused TRANSACTION_ID_REUSED");
    };
    desk.transfer(1, 0, 1);
    desk.out();
    other(&mut desk);
    desk.append();
    other(&mut desk);
    desk.durable();
    other(&mut desk);
    desk.tried(0, "1-0", POOR);
    other(&mut desk);
    desk.turn();
    desk.out();
    other(&mut desk);
    desk.canceled(1, "1-0");
    assert_eq!(desk.out(), "#1 canceled INSUFFICIENT_FUNDS completed");
    other(&mut desk);
    desk.flush();
    other(&mut desk);
    desk.checkpoint();
    other(&mut desk);
    assert!(desk.driver.is_quiet());
}

#[test]
fn an_ended_id_is_remembered_for_the_window_and_no_longer() {
    let mut desk = Desk::new();
    desk.transfer(1, 0, 1);
    desk.tried(0, "1-0", POOR);
    desk.turn();
    desk.canceled(1, "1-0");
    desk.flush();
    desk.out();
    desk.now += desk.config.idempotency_window_ms;
    desk.transfer(2, 0, 1);
    desk.submit(3, 1, 0, 1, 5, Wait::Completed, 0);
    assert_eq!(desk.out(), "0<try 1-1 | 1<try 1-1 | #3 canceled INSUFFICIENT_FUNDS completed");
    desk.now += 1;
    desk.submit(4, 1, 0, 1, 5, Wait::Completed, 0);
    assert_eq!(desk.out(), "0<try 1-2 | 1<try 1-2", "the window is the documented limit");
}

#[test]
fn an_expired_uuid_v7_is_refused_unless_it_is_remembered() {
    let window = Desk::new().config.idempotency_window_ms;
    let uuid = |millis: u64, low: u128| {
        escrow_types::TransactionKey((u128::from(millis) << 80) | (7 << 76) | (0b10 << 62) | low)
    };
    let mut desk = Desk::new();
    desk.now = 10 * window;
    let (fresh, edge, old) = (uuid(desk.now, 1), uuid(9 * window, 2), uuid(9 * window - 1, 3));
    for (tag, id) in [(1, fresh), (2, edge), (3, old)] {
        desk.submit_key(tag, id);
    }
    assert_eq!(desk.out(), "0<try 1-0,1-1 | 1<try 1-0,1-1 | #3 refused TRANSACTION_ID_EXPIRED");
    for xid in ["1-0", "1-1"] {
        desk.tried(0, xid, POOR);
        desk.tried(1, xid, POOR);
    }
    desk.turn();
    desk.canceled(1, "1-0");
    desk.canceled(1, "1-1");
    desk.flush();
    assert_eq!(
        desk.out(),
        "1<cancel 1-0,1-1 | #1 canceled INSUFFICIENT_FUNDS completed | #2 canceled INSUFFICIENT_FUNDS completed"
    );
    desk.now += 1;
    desk.submit_key(4, edge);
    assert_eq!(
        desk.out(),
        "#4 canceled INSUFFICIENT_FUNDS completed",
        "expired by its own age, but remembered"
    );
    desk.checkpoint();
    desk.submit_key(5, edge);
    assert_eq!(desk.out(), "#5 canceled INSUFFICIENT_FUNDS completed", "wherever it is remembered");
    desk.now += window;
    desk.submit_key(6, edge);
    desk.submit_key(7, fresh);
    assert_eq!(desk.out(), "#6 refused TRANSACTION_ID_EXPIRED | #7 refused TRANSACTION_ID_EXPIRED");
}

#[test]
fn many_in_one_turn_travel_together() {
    let mut desk = Desk::new();
    for tag in 0..3 {
        desk.transfer(tag, 0, 1);
    }
    desk.transfer(3, 1, 2);
    assert_eq!(desk.out(), "0<try 1-0,1-1,1-2 | 1<try 1-0,1-1,1-2,1-3 | 2<try 1-3");
    desk.turn();
    for xid in ["1-0", "1-1", "1-2", "1-3"] {
        for shard in 0..3 {
            desk.tried(shard, xid, if xid == "1-1" { POOR } else { Answer::Reserved });
        }
    }
    desk.turn();
    assert_eq!(desk.out(), "0<confirm 1-0,1-2 | 1<confirm 1-0,1-2,1-3 | 1<cancel 1-1 | 2<confirm 1-3");
    desk.check_replay();
}

#[test]
fn a_transaction_is_found_from_its_first_moment() {
    let mut desk = Desk::new();
    assert_eq!(desk.remembered(1), "nothing");
    desk.transfer(1, 0, 1);
    assert_eq!(desk.remembered(1), "unfinished");
    let row = desk.driver.find(&desk.older, key(1)).unwrap();
    assert_eq!(row.xid(desk.config.partition).to_string(), "0-1-0");
    desk.turn();
    assert_eq!(desk.remembered(1), "unfinished");
}
