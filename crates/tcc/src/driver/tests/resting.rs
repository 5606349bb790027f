//! Confirms for whose end nobody waits go with what comes next for their participant.

use escrow_types::Answer;

use super::harness::Desk;
use crate::driver::{LinkState, Wait};

/// Decided, and whoever waited for that is told.
fn decided(desk: &mut Desk, tag: u64, from: u16, to: u16, wait: Wait) -> String {
    desk.submit(tag, tag, from, to, 5, wait, 0);
    let tried = desk.urgent();
    let xid = format!("1-{}", tag - 1);
    desk.tried(from, &xid, Answer::Reserved);
    desk.tried(to, &xid, Answer::Reserved);
    desk.turn();
    tried
}

#[test]
fn a_confirm_that_nobody_waits_for_goes_ahead_of_the_next_try() {
    let mut desk = Desk::new();
    decided(&mut desk, 1, 0, 1, Wait::Decided);
    assert_eq!(desk.urgent(), "#1 confirmed");
    assert!(desk.driver.rests());
    assert_eq!(desk.urgent(), "", "it goes on resting");
    let tried = decided(&mut desk, 2, 1, 0, Wait::Decided);
    // What it releases or posts is there before the next Try asks for it.
    assert_eq!(tried, "0<confirm 1-0 | 0<try 1-1 | 1<confirm 1-0 | 1<try 1-1");
    assert_eq!(desk.urgent(), "#2 confirmed");
    assert_eq!(desk.out(), "0<confirm 1-1 | 1<confirm 1-1", "somebody saw to it in time");
    assert!(!desk.driver.rests());
    for xid in ["1-0", "1-1"] {
        desk.confirmed(0, xid);
        desk.confirmed(1, xid);
    }
    desk.flush();
    assert!(desk.driver.is_quiet());
    desk.check_replay();
}

#[test]
fn a_participant_that_nothing_else_goes_to_is_not_woken() {
    let mut desk = Desk::new();
    decided(&mut desk, 1, 0, 1, Wait::Decided);
    desk.urgent();
    assert_eq!(decided(&mut desk, 2, 1, 2, Wait::Decided), "1<confirm 1-0 | 1<try 1-1 | 2<try 1-1");
    assert_eq!(desk.urgent(), "#2 confirmed");
    assert_eq!(desk.out(), "0<confirm 1-0 | 1<confirm 1-1 | 2<confirm 1-1");
}

#[test]
fn whoever_waits_for_the_end_is_not_kept_waiting() {
    let mut desk = Desk::new();
    decided(&mut desk, 1, 0, 1, Wait::Completed);
    assert_eq!(desk.urgent(), "0<confirm 1-0 | 1<confirm 1-0");
    // Nor whoever asks again under the same id, and wants to know more.
    desk.submit(2, 2, 0, 1, 5, Wait::Decided, 0);
    desk.submit(3, 2, 0, 1, 5, Wait::Completed, 0);
    desk.urgent();
    desk.tried(0, "1-1", Answer::Reserved);
    desk.tried(1, "1-1", Answer::Reserved);
    desk.turn();
    assert_eq!(desk.urgent(), "0<confirm 1-1 | 1<confirm 1-1 | #2 confirmed");
    // One of many is enough.
    decided(&mut desk, 3, 0, 1, Wait::Decided);
    assert_eq!(desk.urgent(), "#3 confirmed");
    decided(&mut desk, 4, 0, 2, Wait::Completed);
    assert_eq!(desk.urgent(), "0<confirm 1-3 | 2<confirm 1-3");
    assert_eq!(desk.out(), "1<confirm 1-2", "shard 1 had nothing else");
}

/// It may rest already when somebody asks again under the same id and wants to hear of the end, or an operator has it sent again.
#[test]
fn whoever_begins_to_wait_is_not_kept_waiting() {
    let mut desk = Desk::new();
    decided(&mut desk, 1, 0, 1, Wait::Decided);
    assert_eq!(desk.urgent(), "#1 confirmed");
    desk.submit(2, 1, 0, 1, 5, Wait::Decided, 0);
    assert_eq!(desk.urgent(), "#2 confirmed", "who wants the decision has it");
    desk.submit(3, 1, 0, 1, 5, Wait::Completed, 0);
    assert_eq!(desk.urgent(), "0<confirm 1-0 | 1<confirm 1-0");
    decided(&mut desk, 2, 0, 1, Wait::Decided);
    assert_eq!(desk.urgent(), "#2 confirmed");
    desk.driver.retry(escrow_types::Epoch(1), 1).unwrap();
    assert_eq!(desk.urgent(), "0<confirm 1-1 | 1<confirm 1-1", "once");
}

#[test]
fn many_are_worth_a_message_of_their_own() {
    for (count, rest) in [(64, true), (65, false)] {
        let mut desk = Desk::new();
        for tag in 1..=count {
            desk.submit(tag, tag, 0, 1, 5, Wait::Decided, 0);
        }
        desk.urgent();
        for tag in 0..count {
            desk.tried(0, &format!("1-{tag}"), Answer::Reserved);
            desk.tried(1, &format!("1-{tag}"), Answer::Reserved);
        }
        desk.turn();
        assert_eq!(!desk.urgent().contains("confirm 1-"), rest, "{count}");
        assert_eq!(desk.driver.rests(), rest, "{count}");
    }
}

#[test]
fn cancels_never_rest() {
    let mut desk = Desk::new();
    desk.submit(1, 1, 0, 1, 5, Wait::Decided, 0);
    desk.urgent();
    desk.tried(0, "1-0", super::harness::POOR);
    desk.turn();
    assert_eq!(desk.urgent(), "1<cancel 1-0 | #1 canceled INSUFFICIENT_FUNDS");
}

/// What rests when a connection is lost goes out on the next one, once.
#[test]
fn what_rests_outlives_a_connection() {
    let mut desk = Desk::new();
    decided(&mut desk, 1, 0, 1, Wait::Decided);
    desk.urgent();
    desk.link(0, LinkState::Waiting);
    desk.link(0, LinkState::Ready);
    assert_eq!(desk.out(), "0<confirm 1-0 | 1<confirm 1-0");
    desk.confirmed(0, "1-0");
    desk.confirmed(1, "1-0");
    assert_eq!((desk.out().as_str(), desk.driver.in_flight()), ("", 0));
}
