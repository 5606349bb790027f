//! What is refused before anything begins, and in which order.

use escrow_types::{AccountKey, Currency, ParticipantId, TransactionKey};

use super::harness::{Desk, account, key, leg, waiter};
use crate::content::Leg;
use crate::driver::{LegsRequest, TransferRequest, Wait};

#[test]
fn transfers() {
    let good = TransferRequest {
        key: key(1),
        from: account(0, 0),
        to: account(1, 0),
        amount: 5,
        currency: Currency::USD,
        timeout_ms: 0,
        names: None,
    };
    let bad_id = TransferRequest { key: TransactionKey(1), ..good };
    let table = [
        (TransferRequest { from: AccountKey(7), amount: 0, ..bad_id }, "INVALID_TRANSACTION_ID"),
        (TransferRequest { from: AccountKey(7), to: AccountKey(7), amount: 0, ..good }, "INVALID_ACCOUNT_ID"),
        (TransferRequest { to: AccountKey(7), ..good }, "INVALID_ACCOUNT_ID"),
        (TransferRequest { to: good.from, amount: 0, ..good }, "SAME_ACCOUNT"),
        (TransferRequest { amount: 0, ..good }, "AMOUNT_ZERO"),
    ];
    let mut desk = Desk::new();
    for (request, expect) in table {
        desk.driver.submit_transfer(desk.now, &desk.older, &request, waiter(1, Wait::Completed));
        assert_eq!(desk.out(), format!("#1 refused {expect}"));
    }
    assert!(desk.driver.is_quiet() && !desk.append());
}

#[test]
fn legs() {
    let two = || vec![leg(0, '-', 5), leg(1, '+', 5)];
    let with = |change: fn(&mut Vec<Leg>)| {
        let mut legs = two();
        change(&mut legs);
        legs
    };
    let table = [
        (with(|legs| legs[0].account = AccountKey(1)), "INVALID_ACCOUNT_ID"),
        (with(|legs| legs.truncate(1)), "INVALID_LEGS"),
        (vec![], "INVALID_LEGS"),
        (vec![leg(0, '-', 5); 65], "INVALID_LEGS"),
        (
            with(|legs| {
                legs[1].participant = legs[0].participant;
                legs[1].account = legs[0].account;
            }),
            "SAME_ACCOUNT",
        ),
        (with(|legs| legs[0].amount = 0), "AMOUNT_ZERO"),
        (with(|legs| legs[0].amount = 6), "LEGS_UNBALANCED"),
        (with(|legs| legs[0].currency = Currency::EUR), "LEGS_UNBALANCED"),
        (with(|legs| legs[0].participant = ParticipantId(99)), "UNKNOWN_PARTICIPANT"),
    ];
    let mut desk = Desk::new();
    for (legs, expect) in table {
        desk.legs(1, false, legs);
        assert_eq!(desk.out(), format!("#1 refused {expect}"));
    }
    let request = LegsRequest {
        key: TransactionKey(3),
        transaction_id: None,
        two_step: false,
        legs: two(),
        timeout_ms: 0,
    };
    desk.driver.submit_legs(desk.now, &desk.older, request, waiter(1, Wait::Completed));
    assert_eq!(desk.out(), "#1 refused INVALID_TRANSACTION_ID");
    assert!(desk.driver.is_quiet() && !desk.append());
}

#[test]
fn legs_at_the_extremes_add_up() {
    let mut desk = Desk::new();
    let mut legs = vec![leg(0, '-', u64::MAX); 32];
    legs.extend(vec![leg(1, '+', u64::MAX); 32]);
    desk.legs(1, false, legs);
    assert_eq!(desk.out(), "0<try 1-0 | 1<try 1-0");
}

#[test]
fn a_timeout_is_capped() {
    let mut desk = Desk::new();
    desk.submit(1, 1, 0, 1, 5, Wait::Decided, u64::MAX);
    assert_eq!(desk.driver.next_wake_ms(), desk.now + desk.config.timeout_ms_max);
}

#[test]
fn transfers_and_legs_keep_their_order_in_the_log() {
    let mut desk = Desk::new();
    desk.transfer(1, 0, 1);
    desk.legs(2, false, vec![leg(0, '-', 5), leg(2, '+', 5)]);
    desk.transfer(3, 0, 1);
    desk.turn();
    let keys: Vec<_> =
        desk.driver.machine().live().iter().map(|(_, sequence, live)| (sequence, live.key)).collect();
    assert_eq!(keys, [(0, key(1)), (1, key(2)), (2, key(3))]);
    desk.check_replay();
}

#[test]
fn names_are_kept_for_people() {
    use crate::machine::Names;
    let mut desk = Desk::new();
    desk.transfer(9, 0, 1);
    let names = Names { transaction_id: Some("rent".into()), from: None, to: Some("bob".into()) };
    let request = TransferRequest {
        key: key(1),
        from: account(0, 0),
        to: account(1, 0),
        amount: 5,
        currency: Currency::USD,
        timeout_ms: 0,
        names: Some(&names),
    };
    desk.driver.submit_transfer(desk.now, &desk.older, &request, waiter(1, Wait::Completed));
    desk.turn();
    let desk = desk.crash();
    let live = desk.driver.machine().live().get(escrow_types::Epoch(1), 1).unwrap();
    assert_eq!((live.transaction_id().as_str(), live.names.as_deref()), ("rent", Some(&names)));
    let unnamed = desk.driver.machine().live().get(escrow_types::Epoch(1), 0).unwrap();
    assert_eq!(unnamed.names, None);
    desk.check_replay();
}
