//! Groups of replicas as real processes: leaders die, followers lose their disks, members come and go, quorums are lost and found.

use std::time::Duration;

use escrow_client::report::change_group_request::Change;
use escrow_client::report::{self, Member};
use escrow_client::{
    Client, ClientError, Leg, Options, ReadBounds, RetryPolicy, ShardClient, State, Transfer, Wait,
};
use escrow_cluster::{GroupId, NodeId};
use escrow_service::{leader_of, reason_of};
use escrow_tests::World;
use escrow_tests::wait::{holds, until};
use escrow_tests::world::{USD, group, transfer, tx};
use escrow_types::{AccountId, Reason};
use tokio::task::JoinSet;

/// A group has all its replicas again by then, on a machine that has other things to do.
const WHOLE_WITHIN: Duration = Duration::from_secs(60);
const FUNDS: u64 = 1_000;

async fn world() -> (World, AccountId, AccountId) {
    World::replicated(FUNDS).await
}

/// Asks one process once.
fn impatient() -> Options {
    Options::once(Duration::from_secs(2))
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn a_leader_that_dies_at_any_point_of_a_transfer_is_succeeded_and_the_transfer_made_once() {
    use escrow_tests::world::role_of;

    let points = [
        "coordinator::before_begin_durable",
        "coordinator::after_begin_durable",
        "coordinator::before_phase_two_sent",
        "coordinator::after_phase_two_sent",
        "coordinator::before_finish_durable",
        "participant::before_try_durable",
        "participant::after_try_durable",
        "participant::before_confirm_durable",
        "participant::after_confirm_durable",
    ];
    let (mut world, alice, bob) = world().await;
    for (made, point) in (1..).zip(points) {
        let group = NodeId { role: role_of(point), number: 0, replica: 0 }.group();
        let node = world.followers(group).await[0];
        world.arm(node, point).await;
        world.let_lead(node).await;
        let transfer = transfer(&alice, &bob, 1).with_timeout(Duration::from_secs(20));
        let outcome =
            world.client.transfer(&transfer).await.unwrap_or_else(|error| panic!("{point}: {error}"));
        assert_eq!(outcome.state, State::Confirmed, "{point}: {outcome:?}");
        world.dead(node).await;
        let again = world.client.transfer(&transfer).await.expect("it is known");
        assert_eq!((again.xid, again.state), (outcome.xid, outcome.state), "{point}");
        world.settled().await;
        assert_eq!(world.posted(&bob).await, FUNDS.cast_signed() + made, "{point}");
        world.cluster.kill(node).await.expect("it is dead");
        world.restart(node).await;
    }
    world.whole().await;
    world.sound().await;
}

#[tokio::test]
async fn a_follower_refuses_and_says_who_leads() {
    let (world, alice, bob) = world().await;
    for name in ["coordinator-0", "shard-1"] {
        let group = group(name);
        let leader = world.cluster.endpoint(world.leader(group).await);
        for node in world.followers(group).await {
            let endpoint = world.cluster.endpoint(node);
            let channel = tonic::transport::Endpoint::from_shared(endpoint).expect("an endpoint");
            let channel = channel.connect().await.expect("it listens");
            let status = match group {
                GroupId::Coordinator(_) => {
                    let request = report::TransferRequest {
                        transaction_id: format!("to-{node}"),
                        from_account_id: alice.as_str().to_owned(),
                        to_account_id: bob.as_str().to_owned(),
                        amount: 1,
                        currency: "USD".to_owned(),
                        ..report::TransferRequest::default()
                    };
                    let mut service = report::transfer_service_client::TransferServiceClient::new(channel);
                    service.transfer(request).await.expect_err("it does not lead")
                }
                GroupId::Shard(shard) => {
                    let request = report::GetTotalsRequest { participant: shard.0.into() };
                    let mut service = report::shard_service_client::ShardServiceClient::new(channel);
                    service.get_totals(request).await.expect_err("it does not lead")
                }
            };
            assert_eq!(reason_of(&status), Some(Reason::NotLeader), "{node}: {status:?}");
            assert_eq!(leader_of(&status).as_deref(), Some(leader.as_str()), "{node}");
        }
    }
}

/// Asks one process alone for an account.
async fn read_at(
    world: &World,
    node: NodeId,
    account: &AccountId,
    bounds: Option<report::ReadBounds>,
) -> Result<report::GetAccountResponse, tonic::Status> {
    let channel = tonic::transport::Endpoint::from_shared(world.cluster.endpoint(node)).expect("an endpoint");
    let channel = channel.connect().await.expect("it listens");
    let mut accounts = report::account_service_client::AccountServiceClient::new(channel);
    let request = report::GetAccountRequest { account_id: account.as_str().to_owned(), bounds };
    accounts.get_account(request).await.map(tonic::Response::into_inner)
}

fn posted(response: &report::GetAccountResponse) -> i64 {
    response.account.as_ref().expect("an account").balances[0].posted
}

#[tokio::test]
async fn followers_answer_reads_with_bounds_and_show_what_was_written_before() {
    let (world, alice, bob) = world().await;
    let of_bob = group("shard-1");
    let followers = world.followers(of_bob).await;
    for made in 1..=20 {
        let outcome = world.transfer(&alice, &bob, 1).await;
        assert!(outcome.position.contains("1@"), "a completed transfer says where it is: {outcome:?}");
        let bounds = ReadBounds { position: outcome.position, ..ReadBounds::default() };
        // In turn, so that each replica is asked.
        for _ in 0..3 {
            let seen = world.client.get_account_within(&bob, &bounds).await.expect("it is answered");
            assert_eq!(seen.account.balances[0].posted, FUNDS.cast_signed() + made, "{seen:?}");
        }
    }
    let unbounded = read_at(&world, followers[0], &bob, None).await.expect_err("it does not lead");
    assert_eq!(reason_of(&unbounded), Some(Reason::NotLeader));
    let within = |ms| Some(report::ReadBounds { age_max_ms: ms, position: String::new() });
    for &follower in &followers {
        let seen = read_at(&world, follower, &bob, within(5_000)).await.expect("it is not that old");
        assert!(seen.age_ms.is_some_and(|age| (1..=5_000).contains(&age)), "{seen:?}");
        assert!(posted(&seen) <= FUNDS.cast_signed() + 20);
    }
    for nonsense in ["there", "1@18446744073709551615"] {
        let bounds = ReadBounds { position: nonsense.to_owned(), ..ReadBounds::default() };
        let refused = world.client.get_account_within(&bob, &bounds).await.expect_err(nonsense);
        assert!(
            matches!(&refused, ClientError::Refused { reason: Reason::InvalidArgument, .. }),
            "{nonsense}: {refused:?}"
        );
    }
}

#[tokio::test]
async fn a_replica_that_is_left_alone_answers_only_whoever_takes_what_is_old() {
    let (mut world, _, bob) = world().await;
    let of_bob = group("shard-1");
    let last = world.followers(of_bob).await[0];
    let others: Vec<NodeId> = world.cluster.spec().replicas_of(of_bob).filter(|node| *node != last).collect();
    for node in others {
        world.cluster.kill(node).await.expect("it is killed");
    }
    let within = |ms| Some(report::ReadBounds { age_max_ms: ms, position: String::new() });
    until("it is too old for a second", WHOLE_WITHIN, async || {
        let refused =
            read_at(&world, last, &bob, within(1_000)).await.err().and_then(|status| reason_of(&status));
        holds(refused == Some(Reason::NotLeader), refused)
    })
    .await;
    let seen = read_at(&world, last, &bob, within(600_000)).await.expect("it is not that old");
    assert!(seen.age_ms.is_some_and(|age| age >= 1_000), "{seen:?}");
    assert_eq!(posted(&seen), FUNDS.cast_signed());
}

#[tokio::test]
async fn a_follower_that_lost_its_disk_comes_back_as_another_member() {
    let (mut world, alice, bob) = world().await;
    for name in ["shard-0", "coordinator-0"] {
        let node = world.followers(group(name)).await[0];
        let before = world.member(node).await;
        world.cluster.kill(node).await.expect("it is killed");
        std::fs::remove_dir_all(world.cluster.spec().node_dir(node)).expect("its data can be removed");
        assert_eq!(world.transfer(&alice, &bob, 1).await.state, State::Confirmed, "two of three are enough");
        world.restart(node).await;
        world.whole().await;
        let after = world.replica(node).await.expect("it answers");
        assert_ne!(
            after.id, before,
            "{node} has forgotten what it promised, so it must not vote under its old name"
        );
        assert_eq!(after.members.len(), 3, "{node} is in the place of what it was: {after:?}");
    }
    assert_eq!(world.transfer(&alice, &bob, 1).await.state, State::Confirmed);
    world.settled().await;
    world.sound().await;
}

#[tokio::test]
async fn a_member_is_taken_out_and_another_taken_in_while_transfers_go_on() {
    let (mut world, alice, bob) = world().await;
    for name in ["shard-1", "coordinator-0"] {
        let group = group(name);
        let node = world.followers(group).await[0];
        let old = world.member(node).await;
        // Twice: a repetition is safe.
        for _ in 0..2 {
            world.change_group(group, Change::Remove(old)).await.expect("it is taken out");
        }
        let leader = world.leader(group).await;
        let members = world.replica(leader).await.expect("it answers").members;
        assert_eq!(members.len(), 2, "{members:?}");
        assert_eq!(world.transfer(&alice, &bob, 1).await.state, State::Confirmed);
        // The other has an empty disk, and is not a member until an operator says so.
        world.cluster.kill(node).await.expect("it is killed");
        std::fs::remove_dir_all(world.cluster.spec().node_dir(node)).expect("its data can be removed");
        world.cluster.start_node(node).await.expect("it starts");
        let new = Member { id: world.member(node).await, endpoint: world.cluster.endpoint(node) };
        assert_ne!(new.id, old);
        world.change_group(group, Change::Add(new)).await.expect("it is taken in");
        world.whole().await;
    }
    assert_eq!(world.transfer(&alice, &bob, 1).await.state, State::Confirmed);
    world.settled().await;
    world.sound().await;
}

/// Asks the one replica that is left: it accepts nothing, and answers no read.
async fn ask_alone(world: &World, alone: NodeId, transfer: &Transfer) -> Vec<ClientError> {
    let endpoint = world.cluster.endpoint(alone);
    match alone.group() {
        GroupId::Coordinator(_) => {
            let client = Client::connect([endpoint], impatient()).expect("an endpoint");
            client.get_transaction("any").await.expect_err("it answers no read");
            client.describe_transaction("any").await.expect_err("it answers no read");
            vec![client.transfer(transfer).await.expect_err("it accepts nothing")]
        }
        GroupId::Shard(shard) => {
            let client = ShardClient::connect(endpoint, impatient()).expect("an endpoint");
            client.totals(shard.0.into()).await.expect_err("it answers no read");
            Vec::new()
        }
    }
}

#[tokio::test]
async fn without_a_quorum_nothing_is_accepted_or_read_and_with_it_everything_goes_on() {
    let (mut world, alice, bob) = world().await;
    let mut attempts = Vec::new();
    for name in ["shard-0", "coordinator-0"] {
        let leader = world.leader(group(name)).await;
        let followers = world.followers(group(name)).await;
        for &node in &followers {
            world.cluster.kill(node).await.expect("it is killed");
        }
        // At once, while it may still take itself for the leader, and later, when it has given up.
        for _ in 0..2 {
            let attempt = transfer(&alice, &bob, 1);
            let errors = ask_alone(&world, leader, &attempt).await;
            attempts.extend(errors.into_iter().map(|error| (attempt.clone(), error)));
            until(&format!("{leader} gives up"), WHOLE_WITHIN, async || {
                let replica = world.replica(leader).await?;
                holds(replica.role() != report::replica::Role::Leader, format!("{:?}", replica.role()))
            })
            .await;
        }
        let (client, waiting) = (world.client.clone(), transfer(&alice, &bob, 1));
        let waiting = waiting.with_timeout(Duration::from_secs(40));
        let caller = tokio::spawn(async move { client.transfer(&waiting).await });
        for node in followers {
            world.restart_quietly(node).await;
        }
        let outcome = caller.await.expect("it does not panic").expect("it is answered");
        assert_eq!(outcome.state, State::Confirmed, "{name}: {outcome:?}");
    }
    world.connected().await;
    world.settled().await;
    let mut made = 2;
    for (attempt, error) in attempts {
        let id = attempt.transaction_id.expect("it has one");
        let state = world.client.get_transaction(id.as_str()).await.expect("it is known now").outcome.state;
        // Whoever still took itself for the leader may have logged it, and says so; a successor then makes it.
        assert!(!error.has_no_effect() || state == State::NotFound, "{state:?} after {error:?}");
        made += i64::from(state == State::Confirmed);
    }
    assert_eq!(world.posted(&bob).await, FUNDS.cast_signed() + made, "what was refused was not made");
    world.whole().await;
    world.sound().await;
}

#[tokio::test]
async fn a_rolling_restart_fails_no_transfer() {
    let (mut world, alice, bob) = world().await;
    let pids: Vec<Option<u32>> = world.nodes().into_iter().map(|node| world.cluster.pid(node)).collect();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let (client, from, to) = (world.client.clone(), alice.clone(), bob.clone());
    let callers = tokio::spawn(async move {
        let mut made = 0_i64;
        while !*stopped.borrow() {
            let transfer = transfer(&from, &to, 1).with_timeout(Duration::from_secs(20));
            let outcome = client.transfer(&transfer).await.unwrap_or_else(|error| panic!("{made}: {error}"));
            assert_eq!(outcome.state, State::Confirmed, "{made}: {outcome:?}");
            let back =
                client.transfer(&escrow_tests::world::transfer(&to, &from, 1)).await.expect("an answer");
            assert_eq!(back.state, State::Confirmed, "{made}: {back:?}");
            made += 1;
        }
        made
    });
    world.cluster.rolling_restart(|_| ()).await.expect("every process comes back");
    stop.send_replace(true);
    let made = callers.await.expect("no transfer fails");
    assert!(made > 0);
    for (node, pid) in world.nodes().into_iter().zip(pids) {
        assert_ne!(world.cluster.pid(node), pid, "{node} was restarted");
    }
    world.settled().await;
    assert_eq!(world.posted(&bob).await, FUNDS.cast_signed());
    world.whole().await;
    world.sound().await;
}

/// What an old leader said of what its successor has done: `Ok` as it must be, or that it does not know; else in words.
fn not_of_the_past(asked: Result<State, ClientError>, right: &[State]) -> Result<(), String> {
    match asked {
        Ok(state) if right.contains(&state) => Ok(()),
        Err(error) if error.reason() != Some(Reason::TransactionNotFound) => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

#[tokio::test]
async fn a_leader_that_was_paused_answers_nothing_out_of_its_past() {
    /// At once, so that some are before whatever tells it that it is deposed.
    const CALLERS: usize = 8;
    let (world, alice, bob) = world().await;
    let leader = world.leader(group("coordinator-0")).await;
    let patient = Options { retry: RetryPolicy::never(), ..Options::default() };
    let old = Client::connect([world.cluster.endpoint(leader)], patient).expect("an endpoint");
    old.get_transaction("any").await.expect("it leads");
    world.cluster.freeze(leader);

    let made = transfer(&alice, &bob, 1);
    let made = made.with_timeout(Duration::from_secs(20));
    assert_eq!(world.client.transfer(&made).await.expect("an answer").state, State::Confirmed);
    let legs = [Leg::debit(alice.clone(), 1, USD), Leg::credit(bob.clone(), 1, USD)];
    let mut callers = JoinSet::new();
    for number in 0..CALLERS {
        let booking = tx(&format!("booking-{number}"));
        let reserved = world.client.reserve(Some(&booking), &legs, Some(Duration::from_secs(60))).await;
        assert_eq!(reserved.expect("an answer").outcome.state, State::Reserved);
        let (client, made) = (old.clone(), made.transaction_id.clone().expect("it has an id"));
        callers.spawn(async move {
            let found = client.get_transaction(made.as_str()).await;
            not_of_the_past(found.map(|record| record.outcome.state), &[State::Confirmed])
        });
        let client = old.clone();
        callers.spawn(async move {
            let ended = client.confirm(booking.as_str(), &[1, 1], Wait::Decided).await;
            not_of_the_past(ended.map(|outcome| outcome.state), &[State::Confirmed])
        });
    }
    // The last of them is under way by then, too.
    world.posted(&bob).await;
    world.cluster.thaw(leader);
    while let Some(answer) = callers.join_next().await {
        answer.expect("it does not panic").unwrap_or_else(|stale| panic!("the old leader said {stale}"));
    }
    for number in 0..CALLERS {
        // Whoever was answered has confirmed it; the others are canceled now.
        let _ = world.client.cancel(tx(&format!("booking-{number}")).as_str(), Wait::Completed).await;
    }
    world.settled().await;
    world.whole().await;
    world.sound().await;
}
