//! Money moves: accounts, transfers, transactions of many legs, the two-step form. No faults here.

#![allow(clippy::unwrap_used)] // helpers of tests are tests too

use std::collections::BTreeSet;
use std::time::Duration;

use escrow_client::report::TransactionFilter;
use escrow_client::{ClientError, Leg, OpenAccount, Outcome, Overdraft, State, Wait};
use escrow_tests::world::{TREASURY, USD, id, transfer, tx};
use escrow_tests::{World, until};
use escrow_types::{Currency, Reason};

fn confirmed(outcome: &Outcome) {
    assert_eq!((outcome.state, outcome.reason), (State::Confirmed, None), "{outcome:?}");
    assert!(outcome.xid.is_some(), "what began has an xid");
}

fn canceled(outcome: &Outcome, reason: Reason) {
    assert_eq!((outcome.state, outcome.reason), (State::Canceled, Some(reason)), "{outcome:?}");
}

fn refused<T: std::fmt::Debug>(result: Result<T, ClientError>, reason: Reason) {
    let error = result.expect_err("it is refused");
    assert_eq!(error.reason(), Some(reason), "{error:?}");
    assert!(error.has_no_effect());
}

#[tokio::test]
async fn an_account_is_opened_once_and_shown_as_it_is() {
    let world = World::start().await;
    let alice = id("alice");
    let open = [OpenAccount { account_id: alice.clone(), currency: USD, overdraft: Overdraft::Limit(500) }];
    assert!(world.client.open_accounts(&open).await.unwrap()[0].opened);
    let again = world.client.open_accounts(&open).await.unwrap();
    assert_eq!((again[0].opened, again[0].reason), (false, None), "opening again is the same");

    let account = world.client.get_account(&alice).await.unwrap();
    let shard = world.account(0, "alice") == alice;
    assert_eq!(account.participant, if shard { "0" } else { "1" }, "the account is where its slot is");
    assert!(!account.frozen);
    let balance = account.balances[0];
    assert_eq!((balance.posted, balance.available, balance.reserved, balance.incoming), (0, 0, 0, 0));
    assert_eq!(balance.overdraft, Overdraft::Limit(500));
    world.sound().await;
}

#[tokio::test]
async fn an_account_with_other_properties_is_not_overwritten() {
    let world = World::start().await;
    let open = |overdraft| [OpenAccount { account_id: id("alice"), currency: USD, overdraft }];
    world.client.open_accounts(&open(Overdraft::Forbidden)).await.unwrap();
    let other = world.client.open_accounts(&open(Overdraft::Unlimited)).await.unwrap();
    assert_eq!((other[0].opened, other[0].reason), (false, Some(Reason::AccountExists)));
    assert_eq!(world.balance(&id("alice")).await.overdraft, Overdraft::Forbidden);
}

#[tokio::test]
async fn one_refused_account_does_not_stop_the_others() {
    let world = World::start().await;
    let open = |account: &str, overdraft| OpenAccount { account_id: id(account), currency: USD, overdraft };
    let wanted = [
        open("alice", Overdraft::Forbidden),
        open(TREASURY, Overdraft::Forbidden),
        open("bob", Overdraft::Forbidden),
    ];
    let results = world.client.open_accounts(&wanted).await.unwrap();
    assert_eq!(results.iter().map(|result| result.opened).collect::<Vec<_>>(), [true, false, true]);
    assert_eq!(results[1].reason, Some(Reason::AccountExists));
}

#[tokio::test]
async fn an_account_holds_one_balance_a_currency() {
    let world = World::start().await;
    let open =
        |account: &str, currency, overdraft| OpenAccount { account_id: id(account), currency, overdraft };
    let wanted = [
        open("alice", USD, Overdraft::Forbidden),
        open("alice", Currency::EUR, Overdraft::Forbidden),
        open("bank", Currency::EUR, Overdraft::Unlimited),
    ];
    let opened = world.client.open_accounts(&wanted).await.unwrap();
    assert!(opened.iter().all(|result| result.opened), "{opened:?}");
    world.fund(&id("alice"), 700).await;
    let mut euros = transfer(&id("bank"), &id("alice"), 300);
    euros.currency = Currency::EUR;
    confirmed(&world.client.transfer(&euros).await.unwrap());
    let account = world.client.get_account(&id("alice")).await.unwrap();
    let posted =
        |currency| account.balances.iter().find(|balance| balance.currency == currency).unwrap().posted;
    assert_eq!((posted(USD), posted(Currency::EUR)), (700, 300));
    world.sound().await;
}

#[tokio::test]
async fn accounts_are_listed_page_by_page() {
    let world = World::start().await;
    let names: BTreeSet<String> = (0..25).map(|number| format!("account-{number}")).collect();
    let accounts: Vec<_> = names.iter().map(|name| id(name)).collect();
    world.open(accounts.iter().map(|account| (account, Overdraft::Forbidden))).await;
    let (mut seen, mut cursor, mut pages) = (Vec::new(), String::new(), 0);
    while pages < 20 {
        let (page, next) = world.client.list_accounts(4, &cursor).await.unwrap();
        assert!(page.len() <= 4, "a page is no longer than asked");
        seen.extend(page.into_iter().map(|account| account.account_id));
        (cursor, pages) = (next, pages + 1);
        if cursor.is_empty() {
            break;
        }
    }
    assert_eq!(cursor, "", "the list ends");
    assert_eq!(seen.len(), 26, "each once, the treasury included");
    let seen: BTreeSet<String> = seen.into_iter().collect();
    assert!(names.is_subset(&seen) && seen.contains(TREASURY));
}

#[tokio::test]
async fn a_transfer_moves_money_across_shards() {
    let world = World::start().await;
    let (alice, bob) = (world.rich(0, "alice", 1_000).await, world.poor(1, "bob").await);
    let outcome = world.transfer(&alice, &bob, 400).await;
    confirmed(&outcome);
    assert_eq!((world.posted(&alice).await, world.posted(&bob).await), (600, 400));
    let record = world.client.get_transaction(&outcome.transaction_id).await.unwrap();
    assert_eq!((record.outcome, record.completed), (outcome, true));
    world.sound().await;
}

#[tokio::test]
async fn a_transfer_moves_money_within_a_shard() {
    let world = World::start().await;
    let (alice, carol) = (world.rich(1, "alice", 1_000).await, world.poor(1, "carol").await);
    confirmed(&world.transfer(&alice, &carol, 1_000).await);
    assert_eq!((world.posted(&alice).await, world.posted(&carol).await), (0, 1_000));
    canceled(&world.transfer(&alice, &carol, 1).await, Reason::InsufficientFunds);
    world.sound().await;
}

#[tokio::test]
async fn a_transfer_answered_when_decided_completes_soon_after() {
    let world = World::start().await;
    let (alice, bob) = (world.rich(0, "alice", 1_000).await, world.poor(1, "bob").await);
    let outcome = world.client.transfer(&transfer(&alice, &bob, 10).with_wait(Wait::Decided)).await.unwrap();
    confirmed(&outcome);
    until("the transfer completes", Duration::from_secs(5), async || {
        let record = world.client.get_transaction(&outcome.transaction_id).await.unwrap();
        if record.completed { Ok(()) } else { Err(record) }
    })
    .await;
    assert_eq!(world.posted(&bob).await, 10);
}

#[tokio::test]
async fn the_same_id_has_the_same_answer_and_moves_nothing_twice() {
    let world = World::start().await;
    let (alice, bob) = (world.rich(0, "alice", 1_000).await, world.poor(1, "bob").await);
    let once = transfer(&alice, &bob, 100).with_id(tx("order-4711"));
    let first = world.client.transfer(&once).await.unwrap();
    for _ in 0..3 {
        assert_eq!(world.client.transfer(&once).await.unwrap(), first);
    }
    assert_eq!(world.posted(&bob).await, 100);
}

#[tokio::test]
async fn a_failed_transfer_stays_failed_when_money_comes_later() {
    let world = World::start().await;
    let (alice, bob) = (world.poor(0, "alice").await, world.poor(1, "bob").await);
    let once = transfer(&alice, &bob, 100).with_id(tx("order-4711"));
    let first = world.client.transfer(&once).await.unwrap();
    canceled(&first, Reason::InsufficientFunds);
    world.fund(&alice, 1_000).await;
    assert_eq!(world.client.transfer(&once).await.unwrap(), first, "a late duplicate does not succeed");
    assert_eq!(world.posted(&bob).await, 0);
}

#[tokio::test]
async fn many_callers_with_one_id_are_one_transfer() {
    let world = World::start().await;
    let (alice, bob) = (world.rich(0, "alice", 1_000).await, world.poor(1, "bob").await);
    let once = transfer(&alice, &bob, 100);
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let (client, once) = (world.client.clone(), once.clone());
            tokio::spawn(async move { client.transfer(&once).await.unwrap() })
        })
        .collect();
    let mut outcomes = Vec::new();
    for call in calls {
        outcomes.push(call.await.unwrap());
    }
    confirmed(&outcomes[0]);
    assert!(outcomes.iter().all(|outcome| *outcome == outcomes[0]), "{outcomes:?}");
    assert_eq!(world.posted(&bob).await, 100);
}

#[tokio::test]
async fn a_transaction_is_found_by_its_xid_too() {
    let world = World::start().await;
    let (alice, bob) = (world.rich(0, "alice", 1_000).await, world.poor(1, "bob").await);
    let outcome = world.transfer(&alice, &bob, 100).await;
    let record = world.client.get_transaction(&outcome.xid.unwrap().to_string()).await.unwrap();
    assert_eq!(record.outcome, outcome);
}

#[tokio::test]
async fn an_unknown_transaction_is_not_found() {
    let world = World::start().await;
    let record = world.client.get_transaction("never-heard-of").await.unwrap();
    assert_eq!((record.outcome.state, record.outcome.xid, record.completed), (State::NotFound, None, false));
}

#[tokio::test]
async fn many_legs_on_many_shards_are_one_transaction() {
    let world = World::with(|spec| spec.participants = 3).await;
    let (alice, bob) = (world.rich(0, "alice", 1_000).await, world.rich(1, "bob", 500).await);
    let (shop, fees) = (world.poor(2, "shop").await, world.poor(0, "fees").await);
    let legs = [
        Leg::debit(alice.clone(), 300, USD),
        Leg::debit(bob.clone(), 200, USD),
        Leg::credit(shop.clone(), 490, USD),
        Leg::credit(fees.clone(), 10, USD),
    ];
    confirmed(&world.client.execute(None, &legs, Wait::Completed, None).await.unwrap());
    let mut posted = Vec::new();
    for account in [&alice, &bob, &shop, &fees] {
        posted.push(world.posted(account).await);
    }
    assert_eq!(posted, [700, 300, 490, 10]);
    world.sound().await;
}

#[tokio::test]
async fn one_leg_that_cannot_cancels_all() {
    let world = World::with(|spec| spec.participants = 3).await;
    let (alice, bob) = (world.rich(0, "alice", 1_000).await, world.rich(1, "bob", 100).await);
    let shop = world.poor(2, "shop").await;
    let legs = [
        Leg::debit(alice.clone(), 300, USD),
        Leg::debit(bob.clone(), 200, USD),
        Leg::credit(shop.clone(), 500, USD),
    ];
    canceled(
        &world.client.execute(None, &legs, Wait::Completed, None).await.unwrap(),
        Reason::InsufficientFunds,
    );
    assert_eq!(world.balance(&alice).await.available, 1_000, "what was reserved is free again");
    assert_eq!((world.posted(&bob).await, world.posted(&shop).await), (100, 0));
    assert_eq!(world.balance(&shop).await.incoming, 0);
    world.sound().await;
}

/// A world with 1,000 on alice (shard 0), nothing on bob (shard 1), and 400 of it reserved for bob as `order`.
async fn reserved(hold: Duration) -> (World, [Leg; 2]) {
    let world = World::start().await;
    let (alice, bob) = (world.rich(0, "alice", 1_000).await, world.poor(1, "bob").await);
    let legs = [Leg::debit(alice.clone(), 400, USD), Leg::credit(bob.clone(), 400, USD)];
    let reservation = world.client.reserve(Some(&tx("order")), &legs, Some(hold)).await.unwrap();
    assert_eq!(reservation.outcome.state, State::Reserved);
    let balance = world.balance(&alice).await;
    assert_eq!((balance.posted, balance.reserved, balance.available), (1_000, 400, 600));
    assert_eq!((world.balance(&bob).await.incoming, world.posted(&bob).await), (400, 0));
    (world, legs)
}

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn reserved_money_is_posted_when_confirmed() {
    let (world, [debit, credit]) = reserved(LONG).await;
    let outcome = world.client.confirm("order", &[], Wait::Completed).await.unwrap();
    confirmed(&outcome);
    assert_eq!((world.posted(&debit.account_id).await, world.posted(&credit.account_id).await), (600, 400));
    assert_eq!(world.client.confirm("order", &[], Wait::Completed).await.unwrap(), outcome, "twice is once");
    world.settled().await;
    world.sound().await;
}

#[tokio::test]
async fn what_is_not_confirmed_of_a_reservation_is_released() {
    let (world, [debit, credit]) = reserved(LONG).await;
    confirmed(&world.client.confirm("order", &[150, 150], Wait::Completed).await.unwrap());
    assert_eq!((world.posted(&debit.account_id).await, world.posted(&credit.account_id).await), (850, 150));
    assert_eq!(world.balance(&debit.account_id).await.available, 850);
    world.settled().await;
    world.sound().await;
}

#[tokio::test]
async fn no_more_than_what_was_reserved_is_confirmed() {
    let (world, [debit, _]) = reserved(LONG).await;
    refused(world.client.confirm("order", &[500, 500], Wait::Completed).await, Reason::InvalidAmount);
    refused(world.client.confirm("order", &[100, 99], Wait::Completed).await, Reason::LegsUnbalanced);
    assert_eq!(world.balance(&debit.account_id).await.reserved, 400, "it is still reserved");
    confirmed(&world.client.confirm("order", &[400, 400], Wait::Completed).await.unwrap());
}

#[tokio::test]
async fn a_canceled_reservation_frees_the_money() {
    let (world, [debit, credit]) = reserved(LONG).await;
    let outcome = world.client.cancel("order", Wait::Completed).await.unwrap();
    canceled(&outcome, Reason::CanceledByCaller);
    assert_eq!(
        (world.balance(&debit.account_id).await.available, world.posted(&credit.account_id).await),
        (1_000, 0)
    );
    assert_eq!(world.client.cancel("order", Wait::Completed).await.unwrap(), outcome, "twice is once");
    world.settled().await;
    world.sound().await;
}

#[tokio::test]
async fn a_reservation_that_nobody_ends_expires() {
    let (world, [debit, _]) = reserved(Duration::from_millis(500)).await;
    until("it expires", Duration::from_secs(10), async || {
        let record = world.client.get_transaction("order").await.unwrap();
        if record.completed { Ok(()) } else { Err(record) }
    })
    .await;
    let record = world.client.get_transaction("order").await.unwrap();
    canceled(&record.outcome, Reason::DeadlineExceeded);
    assert_eq!(world.balance(&debit.account_id).await.available, 1_000);
    refused(world.client.confirm("order", &[], Wait::Completed).await, Reason::AlreadyDecided);
}

#[tokio::test]
async fn reserving_again_with_the_same_id_is_the_same_reservation() {
    let (world, legs) = reserved(LONG).await;
    let again = world.client.reserve(Some(&tx("order")), &legs, Some(LONG)).await.unwrap();
    assert_eq!(again.outcome.state, State::Reserved);
    assert_eq!(world.balance(&legs[0].account_id).await.reserved, 400);
}

#[tokio::test]
async fn a_frozen_account_takes_part_in_nothing_new() {
    let world = World::start().await;
    let (alice, bob) = (world.rich(0, "alice", 1_000).await, world.poor(1, "bob").await);
    assert!(world.client.set_frozen(&alice, true).await.unwrap().frozen);
    canceled(&world.transfer(&alice, &bob, 1).await, Reason::AccountFrozen);
    canceled(&world.transfer(&id(TREASURY), &alice, 1).await, Reason::AccountFrozen);
    assert!(!world.client.set_frozen(&alice, false).await.unwrap().frozen);
    confirmed(&world.transfer(&alice, &bob, 1).await);
    world.sound().await;
}

#[tokio::test]
async fn what_was_reserved_before_a_freeze_still_ends() {
    let (world, [debit, credit]) = reserved(LONG).await;
    world.client.set_frozen(&debit.account_id, true).await.unwrap();
    confirmed(&world.client.confirm("order", &[], Wait::Completed).await.unwrap());
    assert_eq!(world.posted(&credit.account_id).await, 400);
}

#[tokio::test]
async fn an_overdraft_goes_to_its_limit_and_no_further() {
    let world = World::start().await;
    let (alice, bob) = (world.account(0, "alice"), world.poor(1, "bob").await);
    world.open([(&alice, Overdraft::Limit(300))]).await;
    confirmed(&world.transfer(&alice, &bob, 300).await);
    canceled(&world.transfer(&alice, &bob, 1).await, Reason::InsufficientFunds);
    assert_eq!(world.posted(&alice).await, -300);
    world.sound().await;
}

#[tokio::test]
async fn reserved_money_cannot_be_spent_again() {
    let (world, [debit, credit]) = reserved(LONG).await;
    canceled(&world.transfer(&debit.account_id, &credit.account_id, 601).await, Reason::InsufficientFunds);
    confirmed(&world.transfer(&debit.account_id, &credit.account_id, 600).await);
    confirmed(&world.client.confirm("order", &[], Wait::Completed).await.unwrap());
    assert_eq!((world.posted(&debit.account_id).await, world.posted(&credit.account_id).await), (0, 1_000));
}

#[tokio::test]
async fn a_promised_credit_cannot_be_spent() {
    let (world, [debit, credit]) = reserved(LONG).await;
    canceled(&world.transfer(&credit.account_id, &debit.account_id, 1).await, Reason::InsufficientFunds);
}

#[tokio::test]
async fn concurrent_transfers_never_overspend_and_conserve_money() {
    let world = World::start().await;
    let (alice, bob) = (world.rich(0, "alice", 1_000).await, world.poor(1, "bob").await);
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let (client, one) = (world.client.clone(), transfer(&alice, &bob, 100));
            tokio::spawn(async move { client.transfer(&one).await.unwrap().state })
        })
        .collect();
    let mut confirmed = 0;
    for call in calls {
        confirmed += i64::from(call.await.unwrap() == State::Confirmed);
    }
    assert_eq!(confirmed, 10, "as many as there is money for");
    assert_eq!((world.posted(&alice).await, world.posted(&bob).await), (0, 1_000));
    world.settled().await;
    world.sound().await;
}

#[tokio::test]
async fn unfinished_transactions_are_listed_counted_and_described() {
    let (world, _) = reserved(LONG).await;
    let (listed, next) =
        world.client.list_transactions(0, &TransactionFilter::default(), 10, "").await.unwrap();
    assert_eq!((listed.len(), next.as_str()), (1, ""));
    assert_eq!((listed[0].transaction_id.as_str(), listed[0].two_step), ("order", true));
    assert_eq!(world.client.count_transactions(0, &TransactionFilter::default()).await.unwrap().0, 1);
    let described = world.client.describe_transaction("order").await.unwrap();
    assert_eq!(described.branches.len(), 2);
    assert!(described.timeline.iter().any(|event| event.what == "begun"), "{:?}", described.timeline);
}

#[tokio::test]
async fn several_coordinators_share_the_shards() {
    let world = World::with(|spec| spec.coordinators = 2).await;
    let (alice, bob) = (world.rich(0, "alice", 1_000).await, world.poor(1, "bob").await);
    let mut partitions = BTreeSet::new();
    for _ in 0..20 {
        let outcome = world.transfer(&alice, &bob, 10).await;
        confirmed(&outcome);
        partitions.insert(outcome.xid.unwrap().partition.0);
    }
    assert_eq!(partitions, BTreeSet::from([0, 1]), "both took part");
    assert_eq!(world.posted(&bob).await, 200);
    world.settled().await;
    world.sound().await;
}
