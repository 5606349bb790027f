//! Participants and links that fail and come back, while transfers go on.

use std::time::Duration;

use escrow_edge_tests::world::{self, COORDINATOR, pass, until};
use escrow_edge_tests::{Load, Setup, World, check, tell};

/// Waits until so many more transfers are confirmed: life goes on.
async fn more(load: &Load, how_many: usize) {
    let before = load.confirmed();
    until("transfers are confirmed again", Duration::from_secs(20), async || {
        load.confirmed() >= before + how_many
    })
    .await;
}

async fn begin(world: &World) -> Load {
    let client = world.client(|_| ());
    let load = Load::prepare(world, &client).await;
    load.start(world, &client, 8);
    more(&load, 20).await;
    load
}

#[test]
fn nothing_happens() {
    tell(Setup { seeds: 2, ..Setup::default() }, |world| async move {
        let load = begin(&world).await;
        check::all(&world, &load).await;
    });
}

#[test]
fn a_participant_is_killed_and_restarted() {
    tell(Setup::default(), |world| async move {
        let load = begin(&world).await;
        for _ in 0..4 {
            let shard = world::shard(world.below(2) as u16);
            world.kill(&shard).await;
            pass(world.within_ms(0, 3_000)).await;
            world.start(&shard).await;
            more(&load, 10).await;
        }
        check::all(&world, &load).await;
    });
}
