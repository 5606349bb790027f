//! A coordinator with replicas: calls find the leader, and a failover is nothing but a delay.

mod fake;

use std::time::{Duration, Instant};

use escrow_client::{Client, ClientError, Options, ShardClient, State};
use escrow_types::Reason;
use fake::{Fake, Role, Step, client, options, transfer};

#[tokio::test]
async fn the_leader_that_a_follower_names_is_asked_and_remembered() {
    let ([a, b, c], [a_at, b_at, c_at]) = Fake::group().await;
    let client = client(&format!("{b_at}+{c_at}+{a_at}"));
    for _ in 0..3 {
        assert_eq!(client.transfer(&transfer()).await.unwrap().state, State::Confirmed);
    }
    assert_eq!([&a, &b, &c].map(|fake| fake.seen().len()), [3, 0, 0]);
    assert_eq!([&a, &b, &c].map(Fake::refused), [0, 1, 0], "one redirect for all calls");
}

#[tokio::test]
async fn a_leader_that_is_not_in_the_list_is_not_gone_to() {
    let ([a, b, c], endpoints) = Fake::group().await;
    let (stranger, stranger_at) = Fake::start(&[]).await;
    a.set_role(Role::Follows(Some(stranger_at.clone())));
    b.set_role(Role::Follows(Some("nonsense".to_owned())));
    c.set_role(Role::Leads);
    let outcome = client(&endpoints.join("+")).transfer(&transfer()).await.unwrap();
    assert_eq!((outcome.state, c.seen().len()), (State::Confirmed, 1));
    assert!(stranger.seen().is_empty());
}

#[tokio::test]
async fn a_leader_that_dies_in_the_middle_of_a_call_delays_it_only() {
    let ([a, b, c], endpoints) = Fake::group().await;
    a.set_script(&[Step::Die]);
    // Nobody has noticed yet; then c wins.
    b.set_role(Role::Follows(Some(endpoints[0].clone())));
    c.set_role(Role::LeadsAfter(3));
    let given = transfer().with_id("mine".parse().unwrap());
    let outcome = client(&endpoints.join("+")).transfer(&given).await.unwrap();
    assert_eq!((outcome.state, outcome.transaction_id.as_str()), (State::Confirmed, "mine"));
    assert_eq!((a.seen(), b.seen().len(), c.seen()), (vec!["mine".to_owned()], 0, vec!["mine".to_owned()]));
}

#[tokio::test]
async fn a_leader_that_hangs_does_not_hold_a_call_until_its_deadline() {
    let ([a, b, _c], endpoints) = Fake::group().await;
    a.set_script(&[Step::Hang; 100]);
    b.set_role(Role::Leads);
    let patient = Options {
        attempt_timeout: Duration::from_secs(60),
        deadline: Duration::from_secs(60),
        replica_timeout: Duration::from_millis(100),
        ..options()
    };
    let begun = Instant::now();
    let client = Client::connect([endpoints.join("+")], patient).unwrap();
    assert_eq!(client.transfer(&transfer()).await.unwrap().state, State::Confirmed);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_group_without_a_leader_is_asked_until_there_is_one() {
    let ([a, b, c], endpoints) = Fake::group().await;
    for fake in [&a, &b, &c] {
        fake.set_role(Role::LeadsAfter(10));
    }
    let outcome = client(&endpoints.join("+")).transfer(&transfer()).await.unwrap();
    assert_eq!(outcome.state, State::Confirmed);
    assert_eq!(a.seen().len() + b.seen().len() + c.seen().len(), 1);
}

#[tokio::test]
async fn a_group_that_never_has_a_leader_has_done_nothing() {
    let ([a, b, c], endpoints) = Fake::group().await;
    for fake in [&a, &b, &c] {
        fake.set_role(Role::Follows(None));
    }
    let limits = Options { deadline: Duration::from_millis(300), ..options() };
    let client = Client::connect([endpoints.join("+")], limits).unwrap();
    let error = client.transfer(&transfer()).await.unwrap_err();
    assert!(matches!(error, ClientError::Refused { reason: Reason::NotLeader, .. }), "{error:?}");
    assert!(error.has_no_effect() && error.is_retryable());
}

#[tokio::test]
async fn a_replica_alone_that_does_not_lead_is_asked_again() {
    let (fake, endpoint) = Fake::start(&[]).await;
    fake.set_role(Role::LeadsAfter(3));
    assert_eq!(client(&endpoint).transfer(&transfer()).await.unwrap().state, State::Confirmed);
    assert_eq!((fake.refused(), fake.seen().len()), (3, 1));
}

#[tokio::test]
async fn a_shard_may_be_a_group_too() {
    assert!(ShardClient::connect("http://127.0.0.1:1+http://127.0.0.1:2", options()).is_ok());
    let error = ShardClient::connect("http://127.0.0.1:1+http://127.0.0.1:1", options()).unwrap_err();
    assert!(error.to_string().contains("given twice"), "{error}");
}
