//! What must be true at the end of every story, asked over the API as anybody may ask.

use std::collections::BTreeMap;
use std::time::Duration;

use escrow_client::{Client, State, report};

use crate::load::Load;
use crate::world::{COORDINATOR, World, until};

/// When faults have stopped, everything ends within this time (invariant 8).
pub const SETTLED_WITHIN: Duration = Duration::from_secs(30);

/// All checks. Every server that belongs to the cluster runs, and nothing is broken any more.
pub async fn all(world: &World, load: &Load) {
    all_of(world, load, COORDINATOR).await;
}

/// All checks, with the coordinator on this host in charge.
pub async fn all_of(world: &World, load: &Load, host: &str) {
    load.stop().await;
    let client = world.client_of(host, |_| ());
    settled(world, &client).await;
    told_is_real(load, &client).await;
    conserved(load, &client).await;
    rebuilt(world, &client).await;
    for node in &world.inner.nodes {
        let ended = node.ended.borrow().clone();
        assert!(ended.is_none_or(|ended| ended.is_ok() || node.host != host), "{} failed", node.host);
    }
}

/// Nothing is unfinished, and no shard holds a reservation.
pub async fn settled(world: &World, client: &Client) {
    until("every transaction has ended", SETTLED_WITHIN, async || {
        let filter = report::TransactionFilter::default();
        client.count_transactions(0, &filter).await.is_ok_and(|(count, _)| count == 0)
    })
    .await;
    for shard in 0..world.shards() {
        let shard_client = world.shard_client(shard);
        until("every reservation has ended", SETTLED_WITHIN, async || {
            let held = |status: &report::GetShardStatusResponse| {
                status.shards.iter().map(|shard| shard.reservations).sum::<u64>()
            };
            shard_client.status().await.is_ok_and(|status| held(&status) == 0)
        })
        .await;
    }
}

/// What a caller was told is what the coordinator says (invariants 4 and 9).
async fn told_is_real(load: &Load, client: &Client) {
    for (id, made) in load.made() {
        let record = client.get_transaction(&id).await.unwrap_or_else(|error| panic!("{id}: {error}"));
        let outcome = record.outcome;
        if let Some(told) = made.told {
            assert_eq!((outcome.state, outcome.reason), told, "{id}: what it is, and what was told");
        }
        let ended = matches!(outcome.state, State::Confirmed | State::Canceled);
        assert!(ended || outcome.state == State::NotFound, "{id}: {outcome:?}");
    }
}

/// Checkpoint and log, and the log alone, give the live state (invariant 10).
async fn rebuilt(world: &World, client: &Client) {
    let mut verifications = vec![client.verify(0).await.expect("it begins")];
    for shard in 0..world.shards() {
        verifications.push(world.shard_client(shard).verify(u32::from(shard)).await.expect("it begins"));
    }
    for mut verification in verifications {
        while let Some(line) = verification.next().await.expect("it goes on") {
            assert!(line.ok, "{line:?}");
        }
    }
}

/// Every balance is what the confirmed transfers make of it, and the sum is zero (invariant 1).
async fn conserved(load: &Load, client: &Client) {
    let mut expected: BTreeMap<String, i64> = BTreeMap::new();
    for (id, made) in load.made() {
        let record = client.get_transaction(&id).await.unwrap_or_else(|error| panic!("{id}: {error}"));
        if record.outcome.state == State::Confirmed {
            let amount = i64::try_from(made.amount).expect("small");
            *expected.entry(made.from.to_string()).or_default() -= amount;
            *expected.entry(made.to.to_string()).or_default() += amount;
        }
    }
    let (accounts, cursor) = client.list_accounts(1_000, "").await.expect("the accounts");
    assert!(cursor.is_empty(), "one page has them all");
    let mut sum = 0;
    for account in accounts {
        for balance in &account.balances {
            let id = &account.account_id;
            assert_eq!(balance.posted, expected.get(id).copied().unwrap_or(0), "{id}: posted");
            assert_eq!((balance.reserved, balance.incoming), (0, 0), "{id}: {balance:?}");
            sum += balance.posted;
        }
    }
    assert_eq!(sum, 0, "money is neither made nor lost");
}
