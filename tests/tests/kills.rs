//! SIGKILL at random moments under load. At least thirty kills of coordinator and participants, with checkpoints, trimming
//! and archives in between; then every acknowledged answer is what the coordinator says, every balance is what the confirmed
//! transactions make it, nothing is in doubt, and every log gives the live state.

use std::time::{Duration, Instant};

use escrow_client::{Overdraft, ShardClient};
use escrow_cluster::NodeId;
use escrow_tests::chance::Chance;
use escrow_tests::scenario::Mix;
use escrow_tests::world::options;
use escrow_tests::{Trial, World};
use escrow_types::AccountId;

const KILLS: usize = 36;
const ACCOUNTS_A_SHARD: usize = 50;
const FUNDS: u64 = 1_000_000;

/// The seed of a run: `ESCROW_SEED` repeats one.
fn seed() -> u64 {
    std::env::var("ESCROW_SEED").map_or(0x00E5_C0A1, |text| text.parse().expect("ESCROW_SEED is a number"))
}

async fn rich_accounts(world: &World) -> Vec<Vec<AccountId>> {
    let mut shards = Vec::new();
    for shard in 0..world.shards() {
        let names =
            (0..ACCOUNTS_A_SHARD).map(|number| world.account(shard, &format!("account-{shard}-{number}")));
        let accounts: Vec<AccountId> = names.collect();
        world.open(accounts.iter().map(|account| (account, Overdraft::Forbidden))).await;
        for account in &accounts {
            world.fund(account, FUNDS).await;
        }
        shards.push(accounts);
    }
    shards
}

/// Who dies next: each process as likely, now and then two at once, or all.
fn victims(chance: &mut Chance, nodes: &[NodeId]) -> Vec<NodeId> {
    match chance.within(0..20) {
        0 => nodes.to_vec(),
        1..4 => {
            let first = chance.within(0..nodes.len() as u64) as usize;
            vec![nodes[first], nodes[(first + 1) % nodes.len()]]
        }
        _ => vec![*chance.one_of(nodes)],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_and_nothing_happens_twice() {
    let seed = seed();
    let mut chance = Chance::new(seed);
    let mut world = World::with(|spec| {
        let often = ["--checkpoint-interval", "1s"].map(Into::into);
        spec.coordinator_args.extend(often.clone());
        spec.participant_args.extend(often);
    })
    .await;
    let accounts = rich_accounts(&world).await;
    let mix = Mix { calls_percent: 10, ..Mix::default() };
    let (begun, trial) = (Instant::now(), Trial::begin(&world, &accounts, 6_000, mix, seed).await);
    let nodes = world.nodes();
    let mut kills = 0;
    let mut killed_of = [0, 0, 0];
    while kills < KILLS {
        tokio::time::sleep(Duration::from_millis(chance.within(50..2_500))).await;
        let victims = victims(&mut chance, &nodes);
        for victim in &victims {
            world.cluster.kill(*victim).await.expect("it is killed");
            killed_of[nodes.iter().position(|node| node == victim).expect("one of them")] += 1;
        }
        for victim in &victims {
            // Sometimes another dies while this one recovers.
            world
                .cluster
                .start_node(*victim)
                .await
                .unwrap_or_else(|error| panic!("{victim} does not recover: {error}"));
        }
        kills += victims.len();
    }
    let (last_restart, lasted) = (Instant::now(), begun.elapsed());
    println!("seed {seed}: {kills} kills in {lasted:.1?} (coordinator, participants: {killed_of:?})");
    let figures = trial.end(&world).await;
    println!("settled and judged {:.1?} after the last restart: {figures}", last_restart.elapsed());
    assert!(kills >= 30 && killed_of.iter().all(|&count| count >= 5), "{killed_of:?}");
    assert!(figures.confirmed > 10_000, "too little load to mean anything: {figures}");
    let trimmed = trimmed(&world).await;
    println!("log entries trimmed and archived: {trimmed:?}");
    assert!(trimmed.iter().all(|&index| index > 0), "every log was trimmed meanwhile: {trimmed:?}");
    let verifying = Instant::now();
    world.sound().await;
    println!("verified in {:.1?}", verifying.elapsed());
}

/// How far each log is trimmed: coordinator, participants.
async fn trimmed(world: &World) -> Vec<u64> {
    let coordinator =
        world.status().await.coordinator.and_then(|coordinator| coordinator.log).expect("its cursors");
    let mut all = vec![coordinator.trimmed];
    for shard in 0..world.shards() {
        let endpoint = world.cluster.endpoint(NodeId::participant(shard));
        let client = ShardClient::connect(endpoint, options()).expect("an endpoint");
        let status = client.status().await.expect("the shard tells its status");
        all.extend(status.shards.iter().filter_map(|shard| shard.log.as_ref()).map(|log| log.trimmed));
    }
    all
}
