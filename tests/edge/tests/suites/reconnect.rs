//! Processes and links that fail and come back, while transfers go on.

use escrow_edge_tests::world::{self, CALLER, COORDINATOR, pass};
use escrow_edge_tests::{Load, Setup, check, tell};

/// Callers at a time.
const CALLERS: usize = 8;

#[test]
fn nothing_fails() {
    tell(Setup { seeds: 2, ..Setup::default() }, |world| async move {
        let load = Load::begin(&world, CALLERS).await;
        check::all(&world, &load).await;
    });
}

#[test]
fn a_participant_is_killed() {
    tell(Setup::default(), |world| async move {
        let load = Load::begin(&world, CALLERS).await;
        for _ in 0..4 {
            let shard = world::shard(world.below(2) as u16);
            world.kill(&shard).await;
            pass(world.within_ms(0, 3_000)).await;
            world.start(&shard).await;
            load.more(10).await;
        }
        check::all(&world, &load).await;
    });
}

#[test]
fn a_host_loses_power() {
    tell(Setup::default(), |world| async move {
        let load = Load::begin(&world, CALLERS).await;
        for host in [COORDINATOR, "shard-0", "shard-1"] {
            world.power_off(host).await;
            pass(world.within_ms(0, 12_000)).await;
            world.start(host).await;
            load.more(10).await;
        }
        check::all(&world, &load).await;
    });
}

#[test]
fn the_coordinator_is_killed() {
    tell(Setup::default(), |world| async move {
        let load = Load::begin(&world, CALLERS).await;
        for _ in 0..4 {
            world.kill(COORDINATOR).await;
            pass(world.within_ms(0, 3_000)).await;
            world.start(COORDINATOR).await;
            load.more(10).await;
        }
        check::all(&world, &load).await;
    });
}

#[test]
fn a_link_is_cut_both_ways() {
    tell(Setup::default(), |world| async move {
        let load = Load::begin(&world, CALLERS).await;
        for other in ["shard-0", CALLER, "shard-1"] {
            turmoil::partition(COORDINATOR, other);
            pass(world.within_ms(10, 15_000)).await;
            turmoil::repair(COORDINATOR, other);
            load.more(10).await;
        }
        check::all(&world, &load).await;
    });
}

#[test]
fn a_link_is_cut_one_way() {
    tell(Setup::default(), |world| async move {
        let load = Load::begin(&world, CALLERS).await;
        for (from, to) in
            [(COORDINATOR, "shard-0"), ("shard-1", COORDINATOR), (CALLER, COORDINATOR), (COORDINATOR, CALLER)]
        {
            turmoil::partition_oneway(from, to);
            pass(world.within_ms(10, 10_000)).await;
            turmoil::repair_oneway(from, to);
            load.more(10).await;
        }
        check::all(&world, &load).await;
    });
}

/// What was under way arrives late, all at once.
#[test]
fn a_link_stands_still() {
    tell(Setup::default(), |world| async move {
        let load = Load::begin(&world, CALLERS).await;
        for other in ["shard-0", CALLER, "shard-1"] {
            turmoil::hold(COORDINATOR, other);
            pass(world.within_ms(10, 15_000)).await;
            turmoil::release(COORDINATOR, other);
            load.more(10).await;
        }
        check::all(&world, &load).await;
    });
}
