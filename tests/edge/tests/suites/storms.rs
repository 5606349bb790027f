//! Slow and lossy links, callers who come and go, and everything at once.

use std::time::Duration;

use escrow_client::RetryPolicy;
use escrow_edge_tests::world::{CALLER, COORDINATOR, STRANGER, pass, until};
use escrow_edge_tests::{Load, Setup, check, tell};

#[test]
fn links_are_slow() {
    let setup = Setup { seeds: 3, latency: Duration::from_millis(400), ..Setup::default() };
    tell(setup, |world| async move {
        let load = Load::begin(&world, 16).await;
        load.more(60).await;
        check::all(&world, &load).await;
    });
}

/// Messages are lost, and TCP here never sends again: every loss is a connection that hangs until somebody notices.
#[test]
fn links_lose_messages() {
    tell(Setup { seeds: 4, ..Setup::default() }, |world| async move {
        let load = Load::begin(&world, 8).await;
        for _ in 0..3 {
            world.lose(0.000_5).await;
            pass(Duration::from_secs(20)).await;
            world.lose(0.0).await;
            load.more(10).await;
        }
        check::all(&world, &load).await;
    });
}

/// Callers connect, call and are gone, hundreds of times: nothing of them is left.
#[test]
fn callers_come_and_go() {
    tell(Setup { seeds: 2, ..Setup::default() }, |world| async move {
        let near = world.client(|_| ());
        let load = Load::prepare(&world, &near).await;
        load.insist(&near, &load.between(&world, 0, 1)).await;
        pass(Duration::from_secs(1)).await;
        let tasks = || world.node(COORDINATOR).tasks();
        let before = tasks();
        for _ in 0..10 {
            let mut errands = Vec::new();
            for _ in 0..20 {
                let (there, load, patience) = (world.clone(), load.clone(), world.within_ms(0, 40));
                errands.push(world.elsewhere(async move {
                    let client = there.client(|options| options.retry = RetryPolicy::never());
                    let transfer = load.any(&there);
                    // Most are gone before they are answered, some before they are connected.
                    let _ = tokio::time::timeout(patience, load.call(&client, &transfer)).await;
                }));
            }
            for errand in errands {
                errand.await.expect("it is done");
            }
        }
        // Those that vanished while they connected are given ten seconds to speak.
        until("nothing of them is left", Duration::from_secs(12), async || tasks() <= before).await;
        check::all(&world, &load).await;
    });
}

/// Links flap faster than anything can settle.
#[test]
fn links_flap() {
    tell(Setup { seeds: 3, ..Setup::default() }, |world| async move {
        let load = Load::begin(&world, 8).await;
        let tasks =
            || [COORDINATOR, "shard-0", "shard-1"].map(|host| world.node(host).tasks()).iter().sum::<usize>();
        let before = tasks();
        for _ in 0..150 {
            let other = ["shard-0", "shard-1", CALLER][world.below(3) as usize];
            turmoil::partition(COORDINATOR, other);
            pass(world.within_ms(1, 60)).await;
            turmoil::repair(COORDINATOR, other);
            pass(world.within_ms(1, 200)).await;
        }
        load.more(20).await;
        load.stop().await;
        until("no task is left over", Duration::from_secs(30), async || tasks() <= before).await;
        check::all(&world, &load).await;
    });
}

/// Whatever can happen, in any order, for half a minute.
#[test]
fn everything_at_once() {
    tell(Setup { seeds: 12, ..Setup::default() }, |world| async move {
        let load = Load::begin(&world, 6).await;
        let (there, its_load) = (world.clone(), load.clone());
        let started = world.elsewhere(async move { its_load.start(&there, &there.client(|_| ()), 3) });
        started.await.expect("it is done");
        let servers = [COORDINATOR, "shard-0", "shard-1"];
        for _ in 0..25 {
            let server = servers[world.below(3) as usize];
            let link = [
                (COORDINATOR, "shard-0"),
                (COORDINATOR, "shard-1"),
                (COORDINATOR, CALLER),
                (STRANGER, COORDINATOR),
            ][world.below(4) as usize];
            match world.below(9) {
                0 => world.kill(server).await,
                1 => world.power_off(server).await,
                2 => world.node(server).stop(),
                3 => turmoil::partition(link.0, link.1),
                4 => turmoil::partition_oneway(link.0, link.1),
                5 => turmoil::partition_oneway(link.1, link.0),
                6 => turmoil::hold(link.0, link.1),
                7 => world.node(server).sync_takes(world.within_ms(1, 2_000)),
                _ => world.lose(0.000_5).await,
            }
            pass(world.within_ms(0, 2_500)).await;
            if world.below(3) == 0 {
                turmoil::repair(link.0, link.1);
                turmoil::release(link.0, link.1);
                world.start(server).await;
                world.node(server).sync_takes(Duration::from_millis(1));
            }
        }
        world.lose(0.0).await;
        for host in world.hosts() {
            for other in world.hosts() {
                if host < other {
                    turmoil::repair(host.as_str(), other.as_str());
                    turmoil::release(host.as_str(), other.as_str());
                }
            }
        }
        for server in servers {
            world.node(server).sync_takes(Duration::from_millis(1));
            world.start(server).await;
        }
        load.more(20).await;
        // Each call has 3 s and a second of grace.
        assert!(load.longest() < Duration::from_millis(4_100), "{:?}", load.longest());
        check::all(&world, &load).await;
    });
}
