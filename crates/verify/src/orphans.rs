//! Orphans: every reservation that a shard holds belongs to a transaction that is not finished.
//!
//! Shards and coordinators are asked one after the other while both move, so a reservation that seems to be an orphan is
//! looked at again: it is one only if it stays while its transaction stays finished or unknown.

use std::collections::BTreeSet;
use std::time::Duration;

use escrow_client::report::{Phase, TransactionFilter};
use escrow_client::{Client, ClientError};
use escrow_types::{Reason, Xid};
use tokio::time::Instant;

use super::{Check, CheckResult, Scene, Shard};

const NAME: &str = "every reservation belongs to an unfinished transaction";
const PAGE: u32 = 1_000;
/// Suspects that are asked for one by one in each look; more are only counted.
const ASKED_MAX: usize = 1_000;
/// The pause between looks.
const PAUSE: Duration = Duration::from_millis(100);

pub(super) async fn check(scene: &Scene<'_>) -> Result<Vec<Check>, ClientError> {
    let mut checks = Vec::new();
    for shard in &scene.shards {
        let subject = shard.subject();
        checks.push(match check_shard(scene, shard).await {
            Ok((result, detail)) => Check::new(&subject, NAME, result, detail),
            Err(error) => Check::new(&subject, NAME, CheckResult::Failed, error.to_string()),
        });
    }
    Ok(checks)
}

async fn check_shard(scene: &Scene<'_>, shard: &Shard) -> Result<(CheckResult, String), ClientError> {
    let deadline = Instant::now() + scene.settings.quiescent_within;
    let held = reservations(shard).await?;
    let (known, elsewhere): (BTreeSet<Xid>, BTreeSet<Xid>) =
        held.iter().partition(|xid| scene.partitions.contains(&u32::from(xid.partition.0)));
    // Listed after the reservations: a transaction that began in between cannot make a suspect.
    let mut suspects = known;
    if !suspects.is_empty() {
        for xid in unfinished(scene.client).await? {
            suspects.remove(&xid);
        }
    }
    loop {
        let mut orphans = BTreeSet::new();
        for &xid in suspects.iter().take(ASKED_MAX) {
            if !is_unfinished(scene.client, xid).await? {
                orphans.insert(xid);
            }
        }
        suspects = &suspects & &reservations_if_any(shard, &orphans).await?;
        orphans = &orphans & &suspects;
        if orphans.is_empty() {
            let detail = format!("{} held", held.len());
            return Ok(match elsewhere.len() {
                0 => (CheckResult::Ok, detail),
                count => (
                    CheckResult::Skipped,
                    format!(
                        "{detail}, {count} of them for coordinators that were not asked (give all --endpoint)"
                    ),
                ),
            });
        }
        if Instant::now() >= deadline {
            let shown: Vec<String> = orphans.iter().take(10).map(ToString::to_string).collect();
            return Ok((CheckResult::Failed, format!("{} orphans: {}", orphans.len(), shown.join(", "))));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What the shard holds now; not asked when there is nothing to look for.
async fn reservations_if_any(shard: &Shard, wanted: &BTreeSet<Xid>) -> Result<BTreeSet<Xid>, ClientError> {
    if wanted.is_empty() { Ok(BTreeSet::new()) } else { reservations(shard).await }
}

async fn reservations(shard: &Shard) -> Result<BTreeSet<Xid>, ClientError> {
    let parse = |text: &str| {
        text.parse::<Xid>()
            .map_err(|error| ClientError::Malformed(format!("a reservation of {}: {error}", shard.id)))
    };
    shard.client.reservations(shard.id).await?.iter().map(|reservation| parse(&reservation.xid)).collect()
}

async fn unfinished(client: &Client) -> Result<Vec<Xid>, ClientError> {
    let filter = TransactionFilter::default();
    let mut xids = Vec::new();
    for position in 0..client.partitions() {
        let mut cursor = String::new();
        loop {
            let (page, next) = client.list_transactions(position, &filter, PAGE, &cursor).await?;
            xids.extend(page.iter().filter_map(|transaction| transaction.xid.parse::<Xid>().ok()));
            if next.is_empty() || next == cursor {
                break;
            }
            cursor = next;
        }
    }
    Ok(xids)
}

async fn is_unfinished(client: &Client, xid: Xid) -> Result<bool, ClientError> {
    match client.describe_transaction(&xid.to_string()).await {
        Ok(transaction) => Ok(!matches!(transaction.phase(), Phase::Confirmed | Phase::Canceled)),
        Err(ClientError::Refused { reason: Reason::TransactionNotFound, .. }) => Ok(false),
        Err(error) => Err(error),
    }
}
