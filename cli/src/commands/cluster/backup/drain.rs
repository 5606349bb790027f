//! Waiting until nothing is unfinished, and saying what holds that up.

use std::time::Duration;

use escrow_client::{Client, report};
use tokio::time::{Instant, sleep};

use super::{PAUSE, Progress};
use crate::exit::Failure;
use crate::time::{format_millis, now_ms};

/// So many transactions are named that hold a backup up.
const NAMED_MAX: u32 = 10;

/// Waits until nothing is unfinished.
pub(super) async fn drain(client: &Client, within: Duration) -> Result<(), Failure> {
    let (deadline, mut progress) = (Instant::now() + within, Progress::begin());
    loop {
        let unfinished = unfinished(client).await?;
        if unfinished == 0 {
            return Ok(());
        }
        progress.tell(|| format!("{unfinished} transactions are unfinished: waiting for them to end"));
        if Instant::now() >= deadline {
            return Err(not_drained(client, unfinished, within).await);
        }
        sleep(PAUSE).await;
    }
}

/// As the newest leaders say. What nobody waits for any more may not be logged as finished yet, and a snapshot would have it still: the
/// state of a coordinator says so.
pub(super) async fn unfinished(client: &Client) -> Result<u64, Failure> {
    let mut unfinished = 0;
    for partition in 0..client.partitions() {
        let all = report::TransactionFilter::default();
        let (mut here, _) = client.count_transactions(partition, &all).await?;
        if here == 0 {
            let status = client.status(partition).await?;
            here = status.coordinator.map_or(0, |coordinator| coordinator.unfinished);
        }
        unfinished += here;
    }
    Ok(unfinished)
}

/// Says which transactions hold it up, and how each is ended.
async fn not_drained(client: &Client, unfinished: u64, within: Duration) -> Failure {
    let mut lines = Vec::new();
    for partition in 0..client.partitions() {
        let all = report::TransactionFilter::default();
        let listed = client.list_transactions(partition, &all, NAMED_MAX, "").await;
        let (transactions, _) = listed.unwrap_or_default();
        lines.extend(transactions.iter().map(held_up_by));
    }
    lines.truncate(NAMED_MAX as usize);
    let named = lines.len() as u64;
    if named < unfinished {
        lines.push(format!("  and {} more: escrow tx list", unfinished - named));
    }
    let message = format!(
        "{unfinished} transactions did not end within {}; new work is let in again, and there is no backup. Unfinished:\n{}\nEnd \
         them, or give them longer with --drain-timeout",
        format_millis(within.as_millis() as u64),
        lines.join("\n")
    );
    Failure::coded("NOT_DRAINED", message)
}

fn held_up_by(transaction: &report::Transaction) -> String {
    let report::Transaction { transaction_id: id, xid, .. } = transaction;
    let age = format_millis(now_ms().saturating_sub(transaction.begun_at_ms));
    let (phase, what) = match transaction.phase() {
        report::Phase::Reserved => {
            let left = format_millis(transaction.deadline_ms.saturating_sub(now_ms()));
            (
                "RESERVED",
                format!("escrow confirm {id}, or escrow cancel {id}; by itself it is canceled in {left}"),
            )
        }
        report::Phase::Trying => ("TRYING", format!("escrow tx cancel {xid} --reason R, or its deadline")),
        report::Phase::NeedsAttention => {
            ("NEEDS_ATTENTION", format!("escrow tx show {xid}, and the runbook"))
        }
        _ => ("decided", format!("bring back whom it waits for: escrow tx show {xid}")),
    };
    format!("  {xid} {id}: {phase}, {age} old: {what}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_holds_a_backup_up_is_told_with_the_way_to_end_it() {
        let of = |phase: report::Phase| {
            held_up_by(&report::Transaction {
                transaction_id: "booking-7".to_owned(),
                xid: "0-3-9".to_owned(),
                phase: phase.into(),
                begun_at_ms: now_ms(),
                deadline_ms: now_ms() + 60_000,
                ..report::Transaction::default()
            })
        };
        for (phase, part) in [
            (report::Phase::Reserved, "escrow confirm booking-7, or escrow cancel booking-7"),
            (report::Phase::Trying, "escrow tx cancel 0-3-9"),
            (report::Phase::Confirming, "escrow tx show 0-3-9"),
            (report::Phase::NeedsAttention, "the runbook"),
        ] {
            let line = of(phase);
            assert!(line.contains(part) && line.contains("0-3-9 booking-7"), "{line}");
        }
    }
}
