//! Ends in order: what was accepted ends or is told as unknown, what is new is refused, and nobody can hold the end up.

use std::time::Duration;

use escrow_client::bulk::Batch;
use escrow_client::{ClientError, Leg, RetryPolicy, State, Wait};
use escrow_edge_tests::world::{COORDINATOR, STRANGER, World, pass, until};
use escrow_edge_tests::{Load, Setup, check, tell};
use escrow_types::{Currency, Reason};
use tokio::time::Instant;

/// How long open calls may take to end.
const DRAIN: Duration = Duration::from_secs(3);
/// Connections get a second after the owner; the rest is for the last checkpoint and the log.
const AND_SMALL: Duration = Duration::from_millis(1_500);

fn setup(seeds: u64) -> Setup {
    Setup {
        seeds,
        coordinator: |config| config.drain_ms = DRAIN.as_millis() as u64,
        participant: |config| config.drain_ms = DRAIN.as_millis() as u64,
        ..Setup::default()
    }
}

/// Stops a server and says how long it took.
async fn stopped(world: &World, host: &str) -> Duration {
    let begun = Instant::now();
    let result = world.stop(host, DRAIN + AND_SMALL).await;
    assert_eq!(result, Ok(()), "{host} ends well");
    begun.elapsed()
}

#[test]
fn an_idle_coordinator_stops_at_once() {
    tell(setup(2), |world| async move {
        let load = Load::begin(&world, 4).await;
        load.stop().await;
        let took = stopped(&world, COORDINATOR).await;
        assert!(took < AND_SMALL, "{took:?}");
        world.start(COORDINATOR).await;
        check::all(&world, &load).await;
    });
}

/// A reservation waits for its caller, perhaps for days: the end does not, and finds it as it was at the next start.
#[test]
fn a_reservation_that_is_held_does_not_hold_up_the_end() {
    tell(setup(2), |world| async move {
        let load = Load::begin(&world, 4).await;
        load.stop().await;
        let client = world.client(|_| ());
        let (from, to) = (world.account(0, 0), world.account(1, 0));
        let euro = Currency::EUR;
        let legs = [Leg::debit(from, 7, euro), Leg::credit(to, 7, euro)];
        let id: escrow_types::TransactionId = "held".parse().unwrap();
        let held = client.reserve(Some(&id), &legs, Some(Duration::from_secs(60))).await.unwrap();
        assert_eq!(held.outcome.state, State::Reserved);
        let took = stopped(&world, COORDINATOR).await;
        assert!(took < AND_SMALL, "{took:?}");
        world.start(COORDINATOR).await;
        let ended = client.cancel(id.as_str(), Wait::Completed).await.unwrap();
        assert_eq!(ended.state, State::Canceled);
        check::all(&world, &load).await;
    });
}

#[test]
fn a_busy_coordinator_ends_what_it_accepted() {
    tell(setup(4), |world| async move {
        let load = Load::begin(&world, 8).await;
        for _ in 0..3 {
            pass(world.within_ms(0, 300)).await;
            stopped(&world, COORDINATOR).await;
            pass(world.within_ms(0, 500)).await;
            world.start(COORDINATOR).await;
            load.more(10).await;
        }
        check::all(&world, &load).await;
    });
}

/// A call that cannot end is told that its outcome is not known; a new one is refused as long as the server is there.
#[test]
fn open_calls_are_told_that_their_outcome_is_unknown() {
    tell(setup(4), |world| async move {
        let client = world.client(|options| options.retry = RetryPolicy::never());
        let load = Load::prepare(&world, &client).await;
        until("both shards work", Duration::from_secs(5), async || {
            load.call(&client, &load.between(&world, 0, 1)).await.is_ok()
        })
        .await;
        turmoil::hold(COORDINATOR, "shard-1");
        let transfer = load.between(&world, 0, 1).with_timeout(Duration::from_secs(20));
        let call = {
            let (load, client, transfer) = (load.clone(), client.clone(), transfer.clone());
            tokio::task::spawn_local(async move { load.call(&client, &transfer).await })
        };
        pass(Duration::from_millis(100)).await;
        let (node, begun) = (world.node(COORDINATOR), Instant::now());
        node.stop();
        pass(Duration::from_millis(100)).await;
        let refused = load.call(&client, &load.between(&world, 0, 0)).await;
        assert!(
            matches!(refused, Err(ClientError::Refused { reason: Reason::ShuttingDown, .. })),
            "new work: {refused:?}"
        );
        let told = call.await.expect("no panic");
        let unknown = match &told {
            Ok(state) => *state == State::Pending,
            Err(error) => matches!(error, ClientError::OutcomeUnknown { .. }),
        };
        assert!(unknown, "{told:?}");
        let result = world.ended(COORDINATOR, DRAIN + AND_SMALL).await;
        assert_eq!(result, Ok(()));
        assert!(begun.elapsed() < DRAIN + AND_SMALL, "{:?}", begun.elapsed());
        turmoil::release(COORDINATOR, "shard-1");
        world.start(COORDINATOR).await;
        let client = world.client(|_| ());
        // The same call again: the transaction goes on, or has ended; it is not made twice.
        assert!(load.insist(&client, &transfer).await.is_some());
        check::all(&world, &load).await;
    });
}

/// The trap of tonic: its drain waits for every connection, and these never end by themselves.
#[test]
fn callers_who_never_read_do_not_hold_up_the_end() {
    tell(setup(3), |world| async move {
        let load = Load::begin(&world, 4).await;
        let there = world.clone();
        let held = world.elsewhere(async move {
            let client = there.client(|options| options.connections = 3);
            let filter = escrow_client::report::TransactionFilter::default();
            let watch = client.watch_transactions(0, &filter).await.expect("it opens");
            let (transfers, answers) = client.transfer_stream(0).await.expect("it opens");
            let (bulk, columns) = client.bulk_stream(0).await.expect("it opens");
            // Far more answers than the windows of a connection hold, and nobody takes them.
            let (from, to) = (there.account(0, 1).key(), there.account(0, 2).key());
            let mut batch = Batch::new(20_000, Currency::EUR, Wait::Completed, None);
            for row in 0..20_000 {
                let key = escrow_types::TransactionKey(0xABCD_0000_0000 + row);
                batch.push(key, from, to, 1 << 40);
            }
            bulk.send(&mut batch, 0).await.expect("it is sent");
            (client, watch, transfers, answers, bulk, columns)
        });
        let held = held.await.expect("it is done");
        pass(world.within_ms(10, 500)).await;
        match world.below(3) {
            0 => turmoil::hold(STRANGER, COORDINATOR),
            1 => turmoil::partition(STRANGER, COORDINATOR),
            _ => {}
        }
        stopped(&world, COORDINATOR).await;
        world.elsewhere(async move { drop(held) }).await.expect("it is done");
        turmoil::repair(STRANGER, COORDINATOR);
        turmoil::release(STRANGER, COORDINATOR);
        world.start(COORDINATOR).await;
        load.more(10).await;
        check::all(&world, &load).await;
    });
}

#[test]
fn a_participant_stops_and_comes_back_under_load() {
    tell(setup(4), |world| async move {
        let load = Load::begin(&world, 8).await;
        for round in 0..4 {
            let shard = format!("shard-{}", round % 2);
            pass(world.within_ms(0, 300)).await;
            let took = stopped(&world, &shard).await;
            assert!(took < AND_SMALL, "nothing holds it up: {took:?}");
            pass(world.within_ms(0, 500)).await;
            world.start(&shard).await;
            load.more(10).await;
        }
        check::all(&world, &load).await;
    });
}

/// Its coordinator has vanished, so that its stream never ends by itself.
#[test]
fn a_half_open_coordinator_does_not_hold_up_a_participants_end() {
    tell(setup(3), |world| async move {
        let load = Load::begin(&world, 8).await;
        if world.below(2) == 0 {
            turmoil::hold(COORDINATOR, "shard-0");
        } else {
            turmoil::partition(COORDINATOR, "shard-0");
        }
        pass(world.within_ms(0, 3_000)).await;
        stopped(&world, "shard-0").await;
        turmoil::repair(COORDINATOR, "shard-0");
        turmoil::release(COORDINATOR, "shard-0");
        world.start("shard-0").await;
        load.more(10).await;
        check::all(&world, &load).await;
    });
}

/// All at once, as when a machine is shut down.
#[test]
fn everything_stops_together() {
    tell(setup(4), |world| async move {
        let load = Load::begin(&world, 8).await;
        for _ in 0..2 {
            let hosts = [COORDINATOR, "shard-0", "shard-1"];
            for host in hosts {
                world.node(host).stop();
                pass(world.within_ms(0, 50)).await;
            }
            for host in hosts {
                assert_eq!(world.ended(host, DRAIN + AND_SMALL).await, Ok(()), "{host}");
            }
            for host in hosts {
                world.start(host).await;
            }
            load.more(10).await;
        }
        check::all(&world, &load).await;
    });
}
