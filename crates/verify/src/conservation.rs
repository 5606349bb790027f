//! Conservation: for each currency, the posted balances of all shards sum to zero.
//!
//! The sum is meaningful at a moment when no transaction is between its first posted branch and its last. Such a
//! moment is found by reading the totals of all shards twice: if no shard applied anything in between, there was an
//! instant at which all of them were as read. Then either no shard holds a reservation, or no coordinator has a
//! transaction whose Confirm is out.

use std::collections::BTreeMap;
use std::time::Duration;

use escrow_client::ClientError;
use escrow_client::report::{GetTotalsResponse, Phase, TransactionFilter};
use escrow_types::Currency;
use tokio::time::Instant;

use super::{Check, CheckResult, Scene};

const SUBJECT: &str = "all shards";
const NAME: &str = "balances sum to zero";
/// The pause between looks.
const PAUSE: Duration = Duration::from_millis(50);

/// Sums over all shards, in minor units.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Sum {
    posted: i128,
    reserved: i128,
    incoming: i128,
}

/// What one reading of all shards says.
#[derive(Debug, PartialEq, Eq)]
struct Reading {
    sums: BTreeMap<String, Sum>,
    reservations: u64,
    applied: Vec<u64>,
    overdrawn: Vec<String>,
}

pub(super) async fn check(scene: &Scene<'_>) -> Result<Vec<Check>, ClientError> {
    let deadline = Instant::now() + scene.settings.quiescent_within;
    let mut checks = Vec::new();
    loop {
        let first = match read(scene).await {
            Ok(reading) => reading,
            Err(check) => return Ok(vec![check]),
        };
        let confirming = confirming(scene).await?;
        let second = match read(scene).await {
            Ok(reading) => reading,
            Err(check) => return Ok(vec![check]),
        };
        let moving = first != second;
        let in_transit = second.reservations > 0 && confirming > 0;
        if (moving || in_transit) && Instant::now() < deadline {
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        checks.push(overdrafts(&second));
        if moving || in_transit {
            let why = match (moving, confirming) {
                (true, _) => "transactions are running: stop the load and ask again".to_owned(),
                (false, count) => format!("{count} transactions are decided and not posted everywhere yet"),
            };
            checks.push(Check::new(SUBJECT, NAME, CheckResult::NotQuiescent, why));
        } else {
            checks.extend(judge(&second, scene.externals));
        }
        return Ok(checks);
    }
}

/// Reads the totals of all shards, one after the other.
async fn read(scene: &Scene<'_>) -> Result<Reading, Check> {
    let mut reading =
        Reading { sums: BTreeMap::new(), reservations: 0, applied: Vec::new(), overdrawn: Vec::new() };
    for shard in &scene.shards {
        let failed = |error: String| Check::new(&shard.subject(), NAME, CheckResult::Failed, error);
        let totals = shard.client.totals(shard.id).await.map_err(|error| failed(error.to_string()))?;
        reading.add(totals).map_err(failed)?;
    }
    Ok(reading)
}

impl Reading {
    fn add(&mut self, totals: GetTotalsResponse) -> Result<(), String> {
        for total in totals.totals {
            let parse = |text: &str| text.parse::<i128>().map_err(|_| format!("'{text}' is not a sum"));
            let sum = self.sums.entry(total.currency).or_default();
            sum.posted += parse(&total.posted)?;
            sum.reserved += parse(&total.reserved)?;
            sum.incoming += parse(&total.incoming)?;
        }
        self.reservations += totals.reservations;
        self.applied.push(totals.applied_index);
        self.overdrawn.extend(totals.overdrawn_account_ids);
        Ok(())
    }
}

/// How many transactions may have posted one branch and not another.
async fn confirming(scene: &Scene<'_>) -> Result<u64, ClientError> {
    let phases = vec![Phase::Confirming.into(), Phase::NeedsAttention.into()];
    let filter = TransactionFilter { phases, ..TransactionFilter::default() };
    let mut count = 0;
    for position in 0..scene.client.partitions() {
        count += scene.client.count_transactions(position, &filter).await?.0;
    }
    Ok(count)
}

fn overdrafts(reading: &Reading) -> Check {
    let name = "no account is below what its overdraft allows";
    if reading.overdrawn.is_empty() {
        return Check::new(SUBJECT, name, CheckResult::Ok, "none");
    }
    let shown: Vec<&str> = reading.overdrawn.iter().map(String::as_str).take(10).collect();
    let detail = format!("{} accounts: {}", reading.overdrawn.len(), shown.join(", "));
    Check::new(SUBJECT, name, CheckResult::Failed, detail)
}

/// One check for each currency, of a moment when nothing is in transit.
fn judge(reading: &Reading, externals: bool) -> Vec<Check> {
    let mut checks: Vec<Check> = Vec::new();
    for (code, sum) in &reading.sums {
        let currency = code.parse::<Currency>().ok();
        let text =
            |minor: i128| currency.map_or_else(|| minor.to_string(), |currency| currency.format(minor));
        let (result, detail) = match sum.posted {
            0 => (
                CheckResult::Ok,
                format!("sum 0, reserved {}, promised {}", text(sum.reserved), text(sum.incoming)),
            ),
            rest if externals => (
                CheckResult::Skipped,
                format!("the shards hold {}; external participants hold the rest", text(rest)),
            ),
            rest => (CheckResult::Failed, format!("the sum is {} {code} instead of 0", text(rest))),
        };
        checks.push(Check::new(SUBJECT, &format!("{NAME}: {code}"), result, detail));
        if reading.reservations == 0 && (sum.reserved != 0 || sum.incoming != 0) {
            let detail = format!(
                "no reservation, yet {} held and {} promised",
                text(sum.reserved),
                text(sum.incoming)
            );
            let name = format!("nothing is held without a reservation: {code}");
            checks.push(Check::new(SUBJECT, &name, CheckResult::Failed, detail));
        }
    }
    if checks.is_empty() {
        checks.push(Check::new(SUBJECT, NAME, CheckResult::Ok, "no balances yet"));
    }
    checks
}

#[cfg(test)]
mod tests {
    use escrow_client::report::CurrencyTotal;

    use super::*;

    fn reading(shards: &[(&str, u64)]) -> Reading {
        let mut reading =
            Reading { sums: BTreeMap::new(), reservations: 0, applied: Vec::new(), overdrawn: Vec::new() };
        for &(posted, reservations) in shards {
            let total = CurrencyTotal {
                currency: "USD".to_owned(),
                posted: posted.to_owned(),
                reserved: "0".to_owned(),
                incoming: "0".to_owned(),
                balances: 1,
            };
            let totals =
                GetTotalsResponse { totals: vec![total], reservations, ..GetTotalsResponse::default() };
            reading.add(totals).unwrap();
        }
        reading
    }

    fn results(reading: &Reading, externals: bool) -> Vec<CheckResult> {
        judge(reading, externals).iter().map(|check| check.result).collect()
    }

    #[test]
    fn sums_beyond_64_bits_are_exact() {
        let huge = "92233720368547758070";
        let balanced = reading(&[(huge, 0), (&format!("-{huge}"), 0)]);
        assert_eq!(results(&balanced, false), [CheckResult::Ok]);
    }

    #[test]
    fn a_cent_too_much_is_told() {
        let checks = judge(&reading(&[("100", 0), ("-99", 0)]), false);
        assert_eq!(checks[0].result, CheckResult::Failed);
        assert!(checks[0].detail.contains("0.01 USD"), "{}", checks[0].detail);
    }

    #[test]
    fn what_externals_hold_cannot_be_counted() {
        assert_eq!(results(&reading(&[("100", 0)]), true), [CheckResult::Skipped]);
    }

    #[test]
    fn a_sum_that_is_no_number_is_refused() {
        let total = CurrencyTotal { posted: "1e3".to_owned(), ..CurrencyTotal::default() };
        let totals = GetTotalsResponse { totals: vec![total], ..GetTotalsResponse::default() };
        assert!(reading(&[]).add(totals).is_err());
    }
}
