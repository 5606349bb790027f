//! The judgement in the end: everything has settled; what callers were told is the outcome; every balance is right; every log
//! gives the live state; nobody died who was not killed.

use std::time::Duration;

use escrow_client::{Client, ClientError, Options};
use escrow_invariants::Invariant;
use escrow_verify::{Check, CheckResult, verify};
use tokio::time::{Instant, sleep};

use super::faults::FaultLog;
use super::testbed::Testbed;
use super::{Event, Settings};
use crate::oracle::{self, AskError, Figures, Judgement, Oracle};
use crate::record::Verdict;

/// When faults have stopped, every transaction must have ended by then.
const SETTLED_WITHIN: Duration = Duration::from_secs(20);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);
/// A server that replays its whole log says nothing for so long at most.
const SILENCE_MAX: Duration = Duration::from_secs(300);

/// Replicas that were struck last must have caught up by then.
const QUIESCENT_WITHIN: Duration = Duration::from_secs(60);

/// What came of it all. Whatever cannot be checked counts as wrong.
pub(super) async fn judge(
    settings: &Settings,
    testbed: &Testbed,
    oracle: &Oracle,
    first: &[i64],
    faults: &FaultLog,
) -> Judgement {
    let mut verdicts = vec![settled(testbed).await];
    verdicts.extend(processes(faults));
    verdicts.extend(nothing_stale(faults));
    let figures = match told(testbed, oracle, first).await {
        Ok(judgement) => {
            verdicts.extend(judgement.verdicts);
            judgement.figures
        }
        Err(error) => {
            let check = "what callers were told is compared with what the coordinators say";
            verdicts.push(verdict(&[Invariant::AcknowledgedSurvives], check, Err(error.to_string())));
            Figures { transactions: oracle.count() as u64, ..Figures::default() }
        }
    };
    verdicts.extend(all_confirmed(settings, &figures));
    verdicts.extend(verified(testbed).await);
    for verdict in &verdicts {
        settings.tell(Event::Verdict(verdict.clone()));
    }
    Judgement { verdicts, figures }
}

fn verdict(invariants: &[Invariant], check: &str, found: Result<String, String>) -> Verdict {
    let invariants = invariants.iter().map(|invariant| invariant.id()).collect();
    let ok = found.is_ok();
    let (Ok(detail) | Err(detail)) = found;
    Verdict { invariants, check: check.to_owned(), ok, detail }
}

/// No transaction is unfinished and no shard holds a reservation.
async fn settled(testbed: &Testbed) -> Verdict {
    let begun = Instant::now();
    let found = loop {
        let (unfinished, reservations) =
            tokio::join!(testbed.operator.unfinished(), testbed.operator.reservations());
        if unfinished == Some(0) && reservations == Some(0) {
            break Ok(format!("all within {:.1} s after the load", begun.elapsed().as_secs_f64()));
        }
        if begun.elapsed() >= SETTLED_WITHIN {
            let told = |count: Option<u64>| {
                count.map_or_else(|| "no answer on".to_owned(), |count| count.to_string())
            };
            let (unfinished, reservations) = (told(unfinished), told(reservations));
            break Err(format!(
                "after {SETTLED_WITHIN:?}: {unfinished} unfinished, {reservations} reservations"
            ));
        }
        sleep(PAUSE).await;
    };
    verdict(&[Invariant::ReservationsEnd], "nothing is in doubt and no reservation is left", found)
}

/// No leader that was paused or cut off answered out of its past.
fn nothing_stale(faults: &FaultLog) -> Option<Verdict> {
    let answers = faults.all_probed()?;
    let (asked, stale) =
        (answers.current + answers.refused + answers.stale.len() as u64, answers.stale.len());
    let found = match answers.stale.first() {
        None => Ok(format!(
            "{asked} questions, {} refused, {} answered as they must be",
            answers.refused, answers.current
        )),
        Some(first) => Err(format!("{stale} of {asked} answers; the first: {first}")),
    };
    let check = "a leader that was away and succeeded serves nothing stale";
    Some(verdict(&[Invariant::DecisionStands, Invariant::DeposedChangesNothing], check, found))
}

/// Whatever was done to the cluster, callers saw a delay and nothing else.
fn all_confirmed(settings: &Settings, figures: &Figures) -> Option<Verdict> {
    settings.scenario.all_confirmed.then(|| {
        let Figures { transactions, confirmed, canceled, refused, unknown, .. } = *figures;
        let found = if confirmed == transactions {
            Ok(format!("{confirmed} of {transactions}"))
        } else {
            Err(format!(
                "{confirmed} of {transactions}: {canceled} were canceled, {refused} refused, {unknown} left without an answer"
            ))
        };
        verdict(&[], "every transaction was confirmed to its caller", found)
    })
}

/// Nobody died who was not killed, everybody came back, and every failpoint was reached.
fn processes(faults: &FaultLog) -> Vec<Verdict> {
    let (troubles, missed) = (faults.troubles(), faults.missed_failpoints());
    let found = if troubles.is_empty() { Ok("all of them".to_owned()) } else { Err(troubles.join("\n")) };
    let mut verdicts = vec![verdict(&[], "processes end only when struck, and come back", found)];
    if !missed.is_empty() {
        verdicts.push(verdict(&[], "every failpoint was reached", Err(missed.join(", "))));
    }
    verdicts
}

/// Answers, outcomes and balances.
async fn told(testbed: &Testbed, oracle: &Oracle, first: &[i64]) -> Result<Judgement, AskError> {
    let ends = oracle::outcomes(&testbed.client, &oracle.keys()).await?;
    let real = oracle::balances(&testbed.client, oracle.accounts()).await?;
    Ok(oracle.judge(&ends, first, &real))
}

/// What `escrow verify` checks.
async fn verified(testbed: &Testbed) -> Vec<Verdict> {
    match verify_patiently(testbed).await {
        Ok(checks) => checks.into_iter().map(of_check).collect(),
        Err(error) => {
            vec![verdict(&[Invariant::ReplayEquals], "the cluster can be verified", Err(error.to_string()))]
        }
    }
}

async fn verify_patiently(testbed: &Testbed) -> Result<Vec<Check>, ClientError> {
    let endpoints: Vec<String> =
        (0..testbed.client.partitions()).map(|at| testbed.client.endpoint(at).to_owned()).collect();
    let options = Options { attempt_timeout: SILENCE_MAX, deadline: SILENCE_MAX, ..Options::default() };
    let settings = escrow_verify::Settings {
        silence_max: SILENCE_MAX,
        quiescent_within: QUIESCENT_WITHIN,
        ..escrow_verify::Settings::default()
    };
    Ok(verify(&Client::connect(endpoints, options)?, settings, |_| ()).await?.checks)
}

fn of_check(check: Check) -> Verdict {
    let name = check.check.as_str();
    let invariant = if name.contains("sum to zero") {
        Invariant::Conservation
    } else if name.contains("overdraft") {
        Invariant::NoOverdraft
    } else if name.contains("reservation") {
        Invariant::ReservationsEnd
    } else {
        Invariant::ReplayEquals
    };
    let ok = matches!(check.result, CheckResult::Ok | CheckResult::Skipped);
    let found = if ok { Ok(check.detail) } else { Err(check.detail) };
    verdict(&[invariant], &format!("{}: {}", check.subject, check.check), found)
}
