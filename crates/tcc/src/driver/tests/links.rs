//! Participants that come and go, that stall, that have too much to do; watermarks.

use escrow_types::{Answer, ParticipantId};

use super::harness::{Desk, POOR};
use crate::driver::{Config, LinkState, Wait};

#[test]
fn what_waits_for_a_participant_is_sent_again_when_it_is_back() {
    let mut desk = Desk::new();
    for tag in 0..3 {
        desk.transfer(tag, 0, 1);
    }
    desk.tried(0, "1-0", Answer::Reserved);
    desk.tried(1, "1-0", Answer::Reserved);
    desk.tried(0, "1-1", POOR);
    desk.turn();
    desk.out();
    desk.link(1, LinkState::Waiting);
    assert_eq!(desk.out(), "");
    desk.link(1, LinkState::Ready);
    assert_eq!(desk.out(), "1<confirm 1-0 | 1<cancel 1-1 | 1<try 1-2");
    desk.tried(1, "1-2", Answer::Reserved);
    desk.link(1, LinkState::Ready);
    assert_eq!(desk.out(), "1<confirm 1-0 | 1<cancel 1-1", "its reservation stands");
}

#[test]
fn work_for_a_participant_that_is_away_for_a_moment_waits() {
    let mut desk = Desk::new();
    desk.link(1, LinkState::Waiting);
    desk.transfer(1, 0, 1);
    desk.turn();
    assert_eq!(desk.out(), "0<try 1-0");
    desk.tried(0, "1-0", POOR);
    desk.turn();
    assert_eq!(
        desk.out(),
        "#1 canceled INSUFFICIENT_FUNDS completed",
        "never sent to 1: nothing to cancel there"
    );
    desk.transfer(2, 0, 1);
    desk.turn();
    desk.out();
    desk.link(1, LinkState::Ready);
    assert_eq!(desk.out(), "1<try 1-1");
}

#[test]
fn a_connection_that_breaks_before_begin_is_durable() {
    let mut desk = Desk::new();
    desk.transfer(1, 0, 1);
    desk.out();
    desk.link(1, LinkState::Waiting);
    desk.link(1, LinkState::Ready);
    assert_eq!(desk.out(), "", "the machine does not know the content yet");
    desk.turn();
    assert_eq!(desk.out(), "1<try 1-0");
}

/// Rows of one branch are neighbours in a message: sent twice in one message, a branch would hold, and then post, twice its money.
#[test]
fn a_connection_that_is_replaced_within_a_turn_gets_every_branch_once() {
    let mut desk = Desk::new();
    desk.transfer(1, 0, 1);
    desk.transfer(2, 0, 0);
    desk.turn();
    desk.out();
    for _ in 0..3 {
        desk.link(0, LinkState::Waiting);
        desk.link(0, LinkState::Ready);
    }
    assert_eq!(desk.rows_to(0), ["try 1-0", "try and confirm 1-1", "try and confirm 1-1"], "one row a leg");
    desk.link(0, LinkState::Ready);
    desk.link(0, LinkState::Waiting);
    assert_eq!(desk.out(), "", "what was meant for a connection goes with it");
}

#[test]
fn new_work_for_a_participant_that_is_down_is_refused_and_leaves_no_trace() {
    let mut desk = Desk::new();
    desk.link(1, LinkState::Down);
    desk.transfer(1, 0, 1);
    desk.transfer(2, 0, 2);
    assert_eq!(desk.out(), "0<try 1-0 | 2<try 1-0 | #1 refused PARTICIPANT_UNAVAILABLE");
    assert_eq!(desk.remembered(1), "nothing");
    desk.link(1, LinkState::Ready);
    desk.transfer(1, 0, 1);
    assert_eq!(desk.out(), "0<try 1-1 | 1<try 1-1");
}

#[test]
fn limits_refuse_before_anything_begins() {
    let mut desk = Desk::with(Config { in_flight_max: 3, per_participant_max: 2, ..Config::default() });
    desk.transfer(1, 0, 1);
    desk.transfer(2, 0, 1);
    desk.transfer(3, 1, 2);
    assert_eq!(desk.out(), "0<try 1-0,1-1 | 1<try 1-0,1-1 | #3 refused OVERLOADED");
    desk.transfer(4, 2, 2);
    desk.transfer(5, 2, 2);
    assert_eq!(desk.out(), "#5 refused OVERLOADED", "three in all");
    desk.transfer(1, 0, 1);
    assert_eq!(desk.out(), "", "what is running already is not new work");
    desk.turn();
    desk.tried_and_confirmed(2, "1-2", Answer::Confirmed);
    desk.transfer(6, 2, 2);
    assert_eq!(desk.out(), "2<try+confirm 1-2 | #4 confirmed completed");
}

#[test]
fn a_participant_that_stops_answering_takes_no_new_work_until_it_answers() {
    let mut desk = Desk::new();
    desk.submit(1, 1, 0, 1, 5, Wait::Completed, 60_000);
    desk.turn();
    desk.out();
    desk.tried(0, "1-0", Answer::Reserved);
    desk.pass(2_000);
    desk.transfer(2, 1, 2);
    assert_eq!(desk.out(), "1<try 1-1 | 2<try 1-1", "not yet");
    desk.pass(1);
    desk.transfer(3, 1, 2);
    desk.transfer(4, 0, 2);
    assert_eq!(desk.out(), "0<try 1-2 | 2<try 1-2 | #3 refused PARTICIPANT_UNAVAILABLE", "0 has answered");
    desk.tried(1, "1-0", Answer::Reserved);
    desk.transfer(5, 1, 2);
    assert_eq!(desk.out(), "0<confirm 1-0 | 1<confirm 1-0 | 1<try 1-3 | 2<try 1-3");
}

/// The silence of a participant that was asked nothing once counted: a lone caller was refused now and then.
#[test]
fn a_participant_that_was_asked_nothing_has_not_stalled() {
    let mut desk = Desk::new();
    for _ in 0..3 {
        desk.pass(1_900);
    }
    desk.transfer(1, 0, 1);
    desk.out();
    desk.pass(300);
    desk.transfer(2, 0, 1);
    assert_eq!(desk.out(), "0<try 1-1 | 1<try 1-1", "asked for 300 ms only");
    desk.pass(1_701);
    desk.transfer(3, 0, 1);
    assert_eq!(desk.out(), "#3 refused PARTICIPANT_UNAVAILABLE");
}

#[test]
fn a_stalled_participant_that_reconnects_is_taken_at_its_word() {
    let mut desk = Desk::new();
    desk.transfer(1, 0, 1);
    desk.turn();
    desk.out();
    desk.pass(2_001);
    assert!(desk.driver.links().get(ParticipantId(1)).unwrap().stalled);
    desk.link(1, LinkState::Ready);
    assert!(!desk.driver.links().get(ParticipantId(1)).unwrap().stalled);
}

#[test]
fn the_watermark_is_what_the_log_says() {
    let mut desk = Desk::new();
    for tag in 0..3 {
        desk.transfer(tag, 0, 1);
        let xid = format!("1-{tag}");
        desk.tried(0, &xid, POOR);
        desk.tried(1, &xid, POOR);
    }
    desk.driver.send_watermark();
    assert!(desk.watermarks().starts_with("0<watermark 1-0 but []"), "begun, not durable");
    desk.turn();
    for xid in ["1-0", "1-2"] {
        desk.canceled(1, xid);
    }
    desk.append();
    desk.driver.send_watermark();
    assert!(desk.watermarks().starts_with("0<watermark 1-0 but []"), "ended, not logged");
    let entry = desk.driver.flush_lazy(desk.now).unwrap();
    desk.driver.send_watermark();
    assert!(desk.watermarks().starts_with("0<watermark 1-0 but []"), "ended, not durable");
    desk.driver.applied(&entry);
    desk.driver.send_watermark();
    let all = (0..3).map(|shard| format!("{shard}<watermark 1-1 but []")).collect::<Vec<_>>().join(" | ");
    assert_eq!(desk.watermarks(), all, "1-1 holds it back");
}

#[test]
fn a_transaction_that_lingers_is_excepted() {
    let mut desk = Desk::new();
    desk.transfer(1, 0, 1);
    desk.turn();
    desk.out();
    let count = crate::window::DENSE_MAX as u64;
    for sequence in 1..=count {
        desk.submit(2, 1_000 + sequence, 0, 0, 5, Wait::Decided, 0);
        if sequence % 50_000 == 0 || sequence == count {
            desk.turn();
            let first = sequence - (sequence - 1) % 50_000;
            let sequences: Vec<u64> = (first..=sequence).collect();
            let answers = vec![POOR.to_byte(); sequences.len()];
            let epoch = escrow_types::Epoch(1);
            desk.driver.tried_and_confirmed(desk.now, ParticipantId(0), epoch, &sequences, &answers);
            desk.flush();
            desk.driver.take_outputs();
        }
    }
    desk.driver.send_watermark();
    assert!(desk.watermarks().starts_with(&format!("0<watermark 1-{} but [0]", count + 1)));
    desk.check_replay();
}

#[test]
fn a_participant_that_is_back_hears_the_watermark_before_any_new_work() {
    let mut desk = Desk::new();
    desk.transfer(1, 0, 1);
    desk.transfer(2, 0, 1);
    desk.tried(0, "1-0", POOR);
    desk.tried(1, "1-0", POOR);
    desk.turn();
    desk.canceled(1, "1-0");
    desk.flush();
    desk.out();
    desk.link(0, LinkState::Ready);
    let sends = desk.driver.take_outputs().sends;
    let kinds: Vec<_> =
        sends.iter().map(|(_, send)| matches!(send, crate::driver::Send::Watermark { .. })).collect();
    assert_eq!(kinds, [true, false], "its window may be far behind");
}

#[test]
fn epochs_that_are_over_are_closed_when_their_last_transaction_ends() {
    let mut desk = Desk::new();
    desk.transfer(1, 0, 1);
    desk.transfer(2, 0, 1);
    desk.turn();
    let mut desk = desk.crash();
    desk.connect();
    desk.out();
    let expect = ["0<watermark 2-0 but []", "0<watermark 1-0 but [1] | 0<watermark 2-0 but []"];
    for (xid, expect) in ["1-0", "1-1"].into_iter().zip(expect) {
        desk.driver.send_watermark();
        assert!(desk.watermarks().starts_with(expect), "when half has ended");
        desk.tried(0, xid, POOR);
        desk.turn();
        desk.canceled(1, xid);
        desk.flush();
        desk.out();
    }
    desk.driver.send_watermark();
    assert!(desk.watermarks().starts_with("0<watermark 1-0 but [] | 0<watermark 2-0 but []"));
    desk.driver.send_watermark();
    assert!(!desk.watermarks().contains("watermark 1-"), "said once");
    desk.link(1, LinkState::Ready);
    assert_eq!(desk.watermarks(), "1<watermark 1-0 but [] | 1<watermark 2-0 but []", "and to who was away");
}
