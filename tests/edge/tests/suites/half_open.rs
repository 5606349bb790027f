//! Peers that vanish without a word: nothing is closed, nothing is answered.

use std::time::Duration;

use escrow_client::{Client, ClientError, RetryPolicy, State, Wait, bulk::Batch};
use escrow_edge_tests::world::{COORDINATOR, STRANGER, World, pass, until};
use escrow_edge_tests::{Load, Setup, check, net, tell};
use escrow_types::{Currency, Reason};
use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;

/// A coordinator pings every 2 s and waits 4 s; then its breaker has 1 s.
const LINK_NOTICES: Duration = Duration::from_secs(7);
/// A server pings its callers every 10 s and waits 10 s.
const SERVER_NOTICES: Duration = Duration::from_secs(20);
/// What simulated latencies and ticks add to anything.
const SLACK: Duration = Duration::from_millis(500);

/// A client that says what the server says, at once.
fn blunt(world: &World) -> Client {
    world.client(|options| options.retry = RetryPolicy::never())
}

/// How one attempt ends, and how long it takes.
async fn attempt(
    load: &Load,
    world: &World,
    client: &Client,
    shards: (u16, u16),
) -> (Result<State, ClientError>, Duration) {
    let begun = Instant::now();
    let result = load.call(client, &load.between(world, shards.0, shards.1)).await;
    (result, begun.elapsed())
}

fn is_refused(result: &Result<State, ClientError>) -> bool {
    matches!(result, Err(ClientError::Refused { reason: Reason::ParticipantUnavailable, .. }))
}

/// However a shard vanishes, and whether anything was under way or not: once the keep-alive has told, and the breaker's second is
/// over, new work for it is refused at once; and other shards never feel it.
fn a_shard_vanishes(vanish: fn(), come_back: fn(), under_way: bool) {
    tell(Setup { seeds: 2, ..Setup::default() }, move |world| async move {
        let client = blunt(&world);
        let load = Load::prepare(&world, &client).await;
        until("both shards work", Duration::from_secs(5), async || {
            attempt(&load, &world, &client, (0, 1)).await.0.is_ok()
        })
        .await;
        vanish();
        let vanished = Instant::now();
        if under_way {
            let (load, world, client) = (load.clone(), world.clone(), client.clone());
            tokio::task::spawn_local(async move { attempt(&load, &world, &client, (0, 1)).await });
        }
        while vanished.elapsed() < LINK_NOTICES + SLACK {
            let (result, took) = attempt(&load, &world, &client, (0, 0)).await;
            assert!(matches!(result, Ok(State::Confirmed | State::Canceled)), "shard 0 alone: {result:?}");
            assert!(took < SLACK, "shard 0 alone took {took:?}");
            pass(Duration::from_millis(100)).await;
        }
        while vanished.elapsed() < Duration::from_secs(30) {
            let (result, took) = attempt(&load, &world, &client, (0, 1)).await;
            assert!(
                is_refused(&result),
                "{:?} after it vanished: {result:?} in {took:?}",
                vanished.elapsed()
            );
            assert!(took < SLACK, "refused after {took:?}");
            let (result, took) = attempt(&load, &world, &client, (0, 0)).await;
            assert!(matches!(result, Ok(State::Confirmed | State::Canceled)), "shard 0 alone: {result:?}");
            assert!(took < SLACK, "shard 0 alone took {took:?}");
            pass(Duration::from_millis(250)).await;
        }
        come_back();
        until("it is found again", Duration::from_secs(3), async || {
            attempt(&load, &world, &client, (0, 1)).await.0.is_ok()
        })
        .await;
        check::all(&world, &load).await;
    });
}

#[test]
fn an_idle_shard_behind_a_black_hole_is_noticed() {
    a_shard_vanishes(
        || turmoil::hold(COORDINATOR, "shard-1"),
        || turmoil::release(COORDINATOR, "shard-1"),
        false,
    );
}

#[test]
fn a_busy_shard_behind_a_black_hole_is_noticed() {
    a_shard_vanishes(
        || turmoil::hold(COORDINATOR, "shard-1"),
        || turmoil::release(COORDINATOR, "shard-1"),
        true,
    );
}

#[test]
fn an_idle_shard_behind_a_cut_link_is_noticed() {
    a_shard_vanishes(
        || turmoil::partition(COORDINATOR, "shard-1"),
        || turmoil::repair(COORDINATOR, "shard-1"),
        false,
    );
}

#[test]
fn a_shard_that_only_hears_is_noticed() {
    a_shard_vanishes(
        || turmoil::partition_oneway("shard-1", COORDINATOR),
        || turmoil::repair_oneway("shard-1", COORDINATOR),
        true,
    );
}

/// A caller's connection dies under its call: it gets its deadline, and the truth when it asks again.
#[test]
fn a_caller_gets_its_deadline_and_then_the_truth() {
    tell(Setup::default(), |world| async move {
        let near = world.client(|_| ());
        let load = Load::prepare(&world, &near).await;
        let (far, its_load, its_world) = (world.clone(), load.clone(), world.clone());
        let errand = world.elsewhere(async move {
            let (world, load) = (its_world, its_load);
            let client = far.client(|_| ());
            // Something on the connection before it dies.
            load.insist(&client, &load.between(&world, 0, 1)).await;
            let transfer = load.between(&world, 0, 1);
            let (wait, begun) = (world.within_ms(0, 8), Instant::now());
            let call = {
                let (load, client, transfer) = (load.clone(), client.clone(), transfer.clone());
                tokio::task::spawn_local(async move { load.call(&client, &transfer).await })
            };
            pass(wait).await;
            turmoil::partition(STRANGER, COORDINATOR);
            let result = call.await.expect("no panic");
            let bound = Duration::from_secs(4) + SLACK;
            assert!(begun.elapsed() <= bound, "its deadline: {:?}", begun.elapsed());
            if let Err(error) = &result {
                assert!(!error.has_no_effect(), "the truth is not known: {error}");
            }
            turmoil::repair(STRANGER, COORDINATOR);
            // On the same client, whose connection is dead without knowing it.
            let begun = Instant::now();
            assert!(load.insist(&client, &transfer).await.is_some());
            assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
        });
        errand.await.expect("it is done");
        check::all(&world, &load).await;
    });
}

/// What callers who vanish had open is given back: streams with work under way, streams whose answers nobody takes, watches.
#[test]
fn what_vanished_callers_held_is_given_back() {
    tell(Setup { seeds: 2, ..Setup::default() }, |world| async move {
        let near = world.client(|_| ());
        let load = Load::prepare(&world, &near).await;
        load.insist(&near, &load.between(&world, 0, 1)).await;
        pass(Duration::from_secs(1)).await;
        let before = world.node(COORDINATOR).tasks();
        for _ in 0..3 {
            let (there, its_load) = (world.clone(), load.clone());
            let held = world.elsewhere(async move {
                let (world, load) = (there, its_load);
                let client = world.client(|options| options.connections = 4);
                let mut held = Vec::new();
                for _ in 0..10 {
                    let (sender, receiver) = client.transfer_stream(0).await.expect("it opens");
                    let transfer = load.between(&world, 0, 1);
                    load.note(&transfer);
                    sender.send(&transfer).await.expect("it is sent");
                    let (bulk, answers) = client.bulk_stream(0).await.expect("it opens");
                    let mut batch = Batch::new(1, Currency::EUR, Wait::Completed, None);
                    let (from, to) = (world.account(0, 1).key(), world.account(1, 1).key());
                    // Refused: without funds.
                    batch.push(escrow_types::TransactionKey(world.below(u64::MAX).into()), from, to, 1 << 40);
                    bulk.send(&mut batch, 0).await.expect("it is sent");
                    let filter = escrow_client::report::TransactionFilter::default();
                    let watch = client.watch_transactions(0, &filter).await.expect("it opens");
                    held.push((sender, receiver, bulk, answers, watch));
                }
                (client, held)
            });
            let held = held.await.expect("it is done");
            pass(Duration::from_millis(100)).await;
            assert!(world.node(COORDINATOR).tasks() > before + 30, "streams have tasks");
            turmoil::partition(STRANGER, COORDINATOR);
            let within = SERVER_NOTICES + Duration::from_secs(2);
            until("they are forgotten", within, async || world.node(COORDINATOR).tasks() <= before).await;
            // The stranger drops them on its own host, where nobody hears it.
            world.elsewhere(async move { drop(held) }).await.expect("it is done");
            turmoil::repair(STRANGER, COORDINATOR);
        }
        check::all(&world, &load).await;
    });
}

/// A coordinator that vanishes leaves a stream behind at each shard; a new one works beside it, and the old one is given back.
#[test]
fn what_a_vanished_coordinator_held_is_given_back() {
    tell(Setup { seeds: 2, ..Setup::default() }, |world| async move {
        let load = Load::begin(&world, 4).await;
        let tasks = || world.node("shard-0").tasks();
        load.stop().await;
        pass(Duration::from_secs(1)).await;
        let before = tasks();
        let client = world.client(|_| ());
        for _ in 0..3 {
            world.power_off(COORDINATOR).await;
            world.start(COORDINATOR).await;
            load.start(&world, &client, 4);
            load.more(10).await;
            load.stop().await;
            assert!(tasks() > before, "the old stream is still there beside the new one");
            let within = SERVER_NOTICES + Duration::from_secs(2);
            until("the old stream is given back", within, async || tasks() <= before).await;
        }
        assert!(turmoil::established_tcp_stream_count_on("shard-0") <= 2, "the coordinator's, and a check's");
        check::all(&world, &load).await;
    });
}

/// While callers are cut off, everybody else is served.
#[test]
fn callers_who_vanish_cost_others_nothing() {
    tell(Setup { seeds: 2, ..Setup::default() }, |world| async move {
        let load = Load::begin(&world, 4).await;
        let (there, its_load) = (world.clone(), load.clone());
        world
            .elsewhere(async move { its_load.start(&there, &there.client(|_| ()), 8) })
            .await
            .expect("it is done");
        for _ in 0..3 {
            pass(world.within_ms(100, 1_000)).await;
            turmoil::hold(STRANGER, COORDINATOR);
            load.more(20).await;
            pass(world.within_ms(0, 15_000)).await;
            turmoil::release(STRANGER, COORDINATOR);
        }
        check::all(&world, &load).await;
    });
}

/// Connections that were made and on which nothing, or not enough, ever comes.
#[test]
fn connections_that_never_begin_are_closed() {
    tell(Setup { seeds: 1, ..Setup::default() }, |world| async move {
        let load = Load::begin(&world, 2).await;
        load.stop().await;
        pass(Duration::from_secs(1)).await;
        for host in [COORDINATOR, "shard-0"] {
            let before = world.node(host).tasks();
            let silent = world.elsewhere(async move {
                let mut connections = Vec::new();
                for which in 0..20 {
                    let connection = turmoil::net::TcpStream::connect((host, net::PORT)).await;
                    let mut connection = connection.expect("it is accepted");
                    if which % 2 == 0 {
                        connection.write_all(b"PRI * HTTP/2").await.expect("it is sent");
                    }
                    connections.push(connection);
                }
                connections
            });
            let silent = silent.await.expect("it is done");
            pass(Duration::from_millis(100)).await;
            assert!(world.node(host).tasks() >= before + 20, "each has a task");
            let closed = async || world.node(host).tasks() <= before;
            until("they are closed", Duration::from_secs(11), closed).await;
            world.elsewhere(async move { drop(silent) }).await.expect("it is done");
        }
        check::all(&world, &load).await;
    });
}
