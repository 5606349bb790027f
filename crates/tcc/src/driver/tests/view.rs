//! What people see of unfinished transactions.

use escrow_types::{Answer, Epoch, ParticipantId};

use super::harness::{Desk, EXTERNAL, account, leg};
use crate::driver::{BranchState, CallKind, Filter, LinkState, Phase};
use crate::machine::Decision;

fn selected(desk: &Desk, filter: &Filter, after: Option<(Epoch, u64)>) -> Vec<u64> {
    desk.driver.select(desk.now, filter, after).map(|view| view.sequence).collect()
}

#[test]
fn a_view_shows_phase_and_branches() {
    let mut desk = Desk::new();
    desk.transfer(1, 0, 1);
    assert!(desk.driver.view(desk.now, Epoch(1), 0).is_none(), "Begin is not durable");
    desk.turn();
    desk.tried(0, "1-0", Answer::Reserved);
    let states = |desk: &Desk| {
        let view = desk.driver.view(desk.now, Epoch(1), 0).unwrap();
        (view.phase, view.in_doubt, view.branches.iter().map(|branch| branch.state).collect::<Vec<_>>())
    };
    assert_eq!(states(&desk), (Phase::Trying, false, vec![BranchState::Reserved, BranchState::Trying]));
    desk.tried(1, "1-0", Answer::Reserved);
    desk.confirmed(1, "1-0");
    let ending = vec![BranchState::Ending, BranchState::Confirmed];
    assert_eq!(states(&desk), (Phase::Ending(Decision::Confirm), false, ending.clone()));
    desk.pass(desk.config.in_doubt_after_ms);
    assert_eq!(states(&desk), (Phase::Ending(Decision::Confirm), true, ending));
    assert!(desk.driver.view(desk.now, Epoch(1), 1).is_none());
}

#[test]
fn left_over_by_a_crash_is_in_doubt_and_a_hold_is_not() {
    let mut desk = Desk::new();
    desk.hold(1);
    desk.pass(20_000);
    assert!(!desk.driver.view(desk.now, Epoch(1), 0).unwrap().in_doubt, "its caller takes its time");
    let mut desk = desk.crash();
    assert!(desk.driver.view(desk.now, Epoch(1), 0).unwrap().in_doubt);
    desk.connect();
    desk.tried(0, "1-0", Answer::Reserved);
    desk.tried(1, "1-0", Answer::Reserved);
    let view = desk.driver.view(desk.now, Epoch(1), 0).unwrap();
    assert!(!view.in_doubt && view.is_reserved, "held again");
    desk.pass(desk.config.default_hold_ms);
    assert!(desk.driver.view(desk.now, Epoch(1), 0).unwrap().in_doubt, "past its time");
}

#[test]
fn a_branch_shows_why_it_does_not_answer() {
    let mut desk = Desk::new();
    desk.transfer(1, 0, 1);
    desk.turn();
    desk.link(1, LinkState::Waiting);
    desk.driver.link_failed(desk.now + 5, ParticipantId(1), "connection refused", desk.now + 55);
    let view = desk.driver.view(desk.now, Epoch(1), 0).unwrap();
    let branch = &view.branches[1];
    assert_eq!((branch.attempts, &*branch.last_error), (1, "connection refused"));
    assert_eq!((branch.last_attempt_ms, branch.next_attempt_ms), (desk.now + 5, desk.now + 55));
    assert!(view.in_doubt);
    assert_eq!(view.branches[0].attempts, 0);
    desk.out();
    desk.pass(2_001);
    let view = desk.driver.view(desk.now, Epoch(1), 0).unwrap();
    assert_eq!(&*view.branches[0].last_error, "connected, but it does not answer");
}

#[test]
fn filters_and_pages() {
    let mut desk = Desk::new();
    for (tag, (from, to)) in [(0, 1), (1, 2), (0, 2), (0, 1)].into_iter().enumerate() {
        desk.transfer(tag as u64, from, to);
        desk.pass(100);
    }
    desk.legs(9, false, vec![leg(0, '-', 5), leg(EXTERNAL, '+', 5)]);
    desk.turn();
    desk.transfer(10, 0, 1);
    desk.call_failed(EXTERNAL, CallKind::Try, "1-4");
    let all = Filter::default();
    assert_eq!(selected(&desk, &all, None), [0, 1, 2, 3, 4], "5 is not durable");
    assert_eq!(selected(&desk, &all, Some((Epoch(1), 1))), [2, 3, 4]);
    assert_eq!(selected(&desk, &all, Some((Epoch(0), 9))), [0, 1, 2, 3, 4]);
    assert_eq!(selected(&desk, &all, Some((Epoch(2), 0))), Vec::<u64>::new());
    let on = |id| Filter { participant: Some(ParticipantId(id)), ..Filter::default() };
    assert_eq!(selected(&desk, &on(2), None), [1, 2]);
    assert_eq!(selected(&desk, &on(EXTERNAL), None), [4]);
    assert_eq!(selected(&desk, &on(99), None), Vec::<u64>::new());
    assert_eq!(selected(&desk, &Filter { account: Some(account(1, 1)), ..Filter::default() }, None), [0, 3]);
    assert_eq!(selected(&desk, &Filter { min_attempts: 1, ..Filter::default() }, None), [4]);
    assert_eq!(selected(&desk, &Filter { in_doubt: true, ..Filter::default() }, None), [4]);
    desk.pass(50);
    let old = Filter { older_than_ms: 50, ..Filter::default() };
    assert_eq!(selected(&desk, &old, None), [0, 1, 2, 3, 4], "all were logged in one turn");
    desk.turn();
    assert_eq!(selected(&desk, &old, None), [0, 1, 2, 3, 4]);
    assert_eq!(selected(&desk, &Filter { older_than_ms: 51, ..Filter::default() }, None), Vec::<u64>::new());
}

#[test]
fn pages_go_on_over_epochs() {
    let mut desk = Desk::new();
    desk.transfer(1, 0, 1);
    desk.transfer(2, 0, 1);
    desk.turn();
    let mut desk = desk.crash();
    desk.transfer(3, 0, 1);
    desk.turn();
    let page = |after| {
        let all = Filter::default();
        let views = desk.driver.select(desk.now, &all, after);
        views.map(|view| (view.epoch.0, view.sequence)).collect::<Vec<_>>()
    };
    assert_eq!(page(None), [(1, 0), (1, 1), (2, 0)]);
    assert_eq!(page(Some((Epoch(1), 0))), [(1, 1), (2, 0)]);
    assert_eq!(page(Some((Epoch(1), 1))), [(2, 0)]);
}
