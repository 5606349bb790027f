//! `escrow demo`: the whole story in under a minute, on real processes.
//!
//! Each step says what it does, does it, and checks what it claims; the first claim that does not hold ends the demo
//! with exit code 1.

use std::time::{Duration, Instant};

use escrow_client::report::{BranchState, Phase, Transaction, TransactionFilter};
use escrow_client::{Client, ClientError, Leg, OpenAccount, Outcome, Overdraft, State, Transfer, Wait};
use escrow_types::{AccountId, Currency, Reason, Slot, TransactionId};
use serde_json::{Value, json};

use super::report::{TRANSACTION_HEADER, transaction_row};
use super::servers::shutdown;
use super::verify::line;
use crate::args::Endpoints;
use crate::bench::{self, Amount, Load, Mode, Skew, Summary, Wanted};
use crate::exit::{Exit, Failure};
use crate::output::Output;
use escrow_cluster::{Cluster, NodeId, Spec};
use escrow_verify::{Settings, verify};

const USD: Currency = Currency::USD;
/// How long the demo waits for anything to become true.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long the whole may take; a demo that hangs shows nothing.
const TOTAL: Duration = Duration::from_secs(110);

/// `escrow demo`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  escrow demo
  escrow demo --load 10s
  escrow demo -o json

Works in a temporary directory on free ports; touches nothing else and leaves nothing behind.")]
pub struct Args {
    /// How long the load at the end lasts
    #[arg(long, default_value = "3s", value_parser = crate::time::parse_duration)]
    load: Duration,
}

pub(super) async fn run(args: Args, output: &Output) -> Result<Exit, Failure> {
    let shutdown = shutdown()?;
    let directory = tempfile::Builder::new()
        .prefix("escrow-demo-")
        .tempdir()
        .map_err(|error| Failure::internal(format!("cannot make a temporary directory: {error}")))?;
    let mut story = Story { output, steps: Vec::new(), begun: Instant::now() };
    let told = tokio::select! {
        told = tokio::time::timeout(TOTAL, tell(&mut story, &directory, args.load)) => {
            told.unwrap_or_else(|_| Err(Failure::internal(format!("the demo did not end within {TOTAL:?}"))))
        }
        () = shutdown => Err(Failure::internal("interrupted")),
    };
    let load = match told {
        Ok(load) => load,
        Err(failure) => {
            output.line(format!("  ✗ {failure}"));
            return Err(failure);
        }
    };
    let seconds = story.begun.elapsed().as_secs_f64();
    output.json(&json!({ "ok": true, "seconds": seconds, "steps": story.steps, "load": load }));
    output.line("");
    output.line(format!("Everything held, in {seconds:.1} s. Now try it yourself:  escrow up"));
    Ok(Exit::Ok)
}

/// What is told and kept for the summary.
struct Story<'a> {
    output: &'a Output,
    steps: Vec<Value>,
    begun: Instant,
}

impl Story<'_> {
    fn step(&mut self, title: &str) {
        self.output.line(format!("\n{}. {title}", self.steps.len() + 1));
        self.steps.push(json!({ "step": title, "facts": [] }));
    }

    /// Something that was done or seen, and holds.
    fn fact(&mut self, text: impl Into<String>) {
        let text = text.into();
        self.output.line(format!("   ✓ {text}"));
        if let Some(facts) = self.steps.last_mut().and_then(|step| step["facts"].as_array_mut()) {
            facts.push(text.into());
        }
    }

    /// Checks a claim, and tells it when it holds.
    fn claim(&mut self, holds: bool, text: impl Into<String>) -> Result<(), Failure> {
        let text = text.into();
        if !holds {
            return Err(Failure::coded("CHECK_FAILED", format!("does not hold: {text}")));
        }
        self.fact(text);
        Ok(())
    }
}

/// The people of the story: two on one shard, one on the other.
struct Cast {
    treasury: AccountId,
    alice: AccountId,
    neighbour: AccountId,
    /// On the other shard.
    stranger: AccountId,
    stranger_shard: u16,
}

impl Cast {
    /// Names are dealt out to shards by their hash, so the parts are given to whoever fits.
    fn choose() -> Self {
        let id = |name: &str| AccountId::new(name).expect("names are short and plain");
        let shard = |id: &AccountId| Slot::of(id.key()).shard_of(2);
        let alice = id("alice");
        let names = ["bob", "carol", "dave", "erin", "frank", "grace", "heidi", "ivan", "judy", "mallory"];
        let mut others = names.into_iter().map(id);
        let neighbour =
            others.clone().find(|other| shard(other) == shard(&alice)).expect("ten names cover both shards");
        let stranger =
            others.find(|other| shard(other) != shard(&alice)).expect("ten names cover both shards");
        let stranger_shard = shard(&stranger);
        Self { treasury: id("treasury"), alice, neighbour, stranger, stranger_shard }
    }
}

async fn tell(
    story: &mut Story<'_>,
    directory: &tempfile::TempDir,
    load: Duration,
) -> Result<Summary, Failure> {
    let output = story.output;
    output.line("Escrow: money moves between shards, all or nothing, whatever dies meanwhile.");

    story.step("Start a cluster: one coordinator and two wallet shards, each a process of its own");
    let spec = Spec {
        // The demo has no time to wait for the usual ten seconds.
        coordinator_args: vec!["--in-doubt-after".into(), "1s".into()],
        ..Spec::new(directory.path())?
    };
    let mut cluster = Cluster::start(spec).await?;
    for node in [NodeId::coordinator(0), NodeId::participant(0), NodeId::participant(1)] {
        let pid = cluster.pid(node).map_or_else(|| "?".to_owned(), |pid| pid.to_string());
        story.fact(format!("{node:<14} pid {pid:<8} {}", cluster.endpoint(node)));
    }
    let client = Client::connect(cluster.coordinator_endpoints(), Endpoints::options())?;
    let cast = Cast::choose();

    open_accounts(story, &client, &cast).await?;
    move_money(story, &client, &cast).await?;
    refuse_and_repeat(story, &client, &cast).await?;
    crash_in_the_middle(story, &client, &cast, &mut cluster).await?;

    story.step("Verify: no money appeared or vanished, and every log gives the live state");
    check(story, &client).await?;

    story.step("Load: every transfer durable, across both shards, on this machine");
    let summary = run_load(story, &client, load).await?;
    check(story, &client).await?;

    cluster.stop(|_| ()).await;
    Ok(summary)
}

async fn open_accounts(story: &mut Story<'_>, client: &Client, cast: &Cast) -> Result<(), Failure> {
    story.step("Open accounts and fund them from the treasury");
    let open = |account_id: &AccountId, overdraft| OpenAccount {
        account_id: account_id.clone(),
        currency: USD,
        overdraft,
    };
    let people = [&cast.alice, &cast.neighbour, &cast.stranger];
    let mut accounts = vec![open(&cast.treasury, Overdraft::Unlimited)];
    accounts.extend(people.iter().map(|person| open(person, Overdraft::Forbidden)));
    for opened in client.open_accounts(&accounts).await? {
        if let Some(reason) = opened.reason {
            return Err(Failure::coded(
                "CHECK_FAILED",
                format!("{} was not opened: {reason}", opened.account_id),
            ));
        }
    }
    for person in people {
        let outcome =
            client.transfer(&Transfer::new(cast.treasury.clone(), person.clone(), 10_000, USD)).await?;
        let participant = client.get_account(person).await?.participant;
        story.claim(
            outcome.state == State::Confirmed,
            format!("{person} has 100.00 USD, on shard {participant}"),
        )?;
    }
    Ok(())
}

async fn move_money(story: &mut Story<'_>, client: &Client, cast: &Cast) -> Result<(), Failure> {
    story.step("Move money");
    for (to, amount, how) in
        [(&cast.neighbour, 1_250, "within a shard"), (&cast.stranger, 3_000, "across shards")]
    {
        let begun = Instant::now();
        let outcome = client.transfer(&Transfer::new(cast.alice.clone(), to.clone(), amount, USD)).await?;
        let text = format!(
            "{how}: {} → {to} {} USD: {} in {:.1} ms",
            cast.alice,
            USD.format(i128::from(amount)),
            describe(&outcome),
            begun.elapsed().as_secs_f64() * 1e3
        );
        story.claim(outcome.state == State::Confirmed, text)?;
    }
    let balance = posted(client, &cast.alice).await?;
    story.claim(balance == 5_750, format!("{} has {} USD left", cast.alice, USD.format(i128::from(balance))))
}

async fn refuse_and_repeat(story: &mut Story<'_>, client: &Client, cast: &Cast) -> Result<(), Failure> {
    story.step("Too much: all or nothing means nothing");
    let outcome =
        client.transfer(&Transfer::new(cast.alice.clone(), cast.stranger.clone(), 99_999, USD)).await?;
    story.claim(
        outcome.state == State::Canceled && outcome.reason == Some(Reason::InsufficientFunds),
        format!("999.99 USD from {}: {}", cast.alice, describe(&outcome)),
    )?;
    let balance = posted(client, &cast.alice).await?;
    story.claim(balance == 5_750, format!("{} still has 57.50 USD", cast.alice))?;

    story.step("The same request twice: the same answer, and the money moves once");
    let id = TransactionId::new("rent-november").expect("it is short and plain");
    let rent = Transfer::new(cast.stranger.clone(), cast.neighbour.clone(), 500, USD).with_id(id);
    let (first, second) = (client.transfer(&rent).await?, client.transfer(&rent).await?);
    story.claim(
        first == second && first.state == State::Confirmed,
        format!("rent-november: {}, twice", describe(&first)),
    )?;
    let balance = posted(client, &cast.neighbour).await?;
    story.claim(balance == 11_750, format!("{} got 5.00 USD once, not twice", cast.neighbour))
}

async fn crash_in_the_middle(
    story: &mut Story<'_>,
    client: &Client,
    cast: &Cast,
    cluster: &mut Cluster,
) -> Result<(), Failure> {
    let node = NodeId::participant(cast.stranger_shard);
    story.step("A crash between Try and Confirm");
    let id = TransactionId::new("in-the-middle").expect("it is short and plain");
    let legs = [Leg::debit(cast.alice.clone(), 2_500, USD), Leg::credit(cast.stranger.clone(), 2_500, USD)];
    let reserved = client.reserve(Some(&id), &legs, Some(Duration::from_secs(600))).await?.outcome;
    story.claim(
        reserved.state == State::Reserved,
        format!("Try: 25.00 USD of {} are reserved on both shards", cast.alice),
    )?;
    cluster.kill(node).await?;
    story.fact(format!("SIGKILL: {node} is dead"));
    let outcome = client.confirm(id.as_str(), &[], Wait::Decided).await?;
    story.claim(outcome.state == State::Confirmed, "Confirm: the decision is durable, whatever comes now")?;
    // The living shard acknowledges at once; then the dead one is the only one that is waited for.
    let waits_for_one = |transaction: &Transaction| {
        let waiting = transaction.branches.iter().filter(|branch| branch.state() == BranchState::Ending);
        transaction.in_doubt && waiting.count() == 1
    };
    let stuck = until(client, id.as_str(), waits_for_one).await?;
    let filter = TransactionFilter { in_doubt: true, ..TransactionFilter::default() };
    let (in_doubt, _) = client.list_transactions(0, &filter, 100, "").await?;
    story.output.line("   escrow tx list --in-doubt");
    story.output.table(TRANSACTION_HEADER, in_doubt.iter().map(transaction_row));
    let listed = in_doubt.iter().any(|transaction| transaction.xid == stuck.xid);
    story.claim(listed, format!("in doubt: {} waits for its dead shard, and says so", stuck.xid))?;

    story.step("Recovery is the normal path: start the shard again");
    let begun = Instant::now();
    let pid = cluster.start_node(node).await?;
    story.fact(format!("{node} is back, pid {pid}"));
    let done = until(client, id.as_str(), |transaction| transaction.phase() == Phase::Confirmed).await?;
    let millis = begun.elapsed().as_millis();
    story.claim(!done.in_doubt, format!("resolved by itself, {millis} ms after the restart began"))?;
    let (payer, payee) = (posted(client, &cast.alice).await?, posted(client, &cast.stranger).await?);
    let text = format!("25.00 USD moved once: {} has 32.50, {} has 150.00", cast.alice, cast.stranger);
    story.claim((payer, payee) == (3_250, 15_000), text)
}

async fn check(story: &mut Story<'_>, client: &Client) -> Result<(), Failure> {
    let settings = Settings { quiescent_within: PATIENCE, silence_max: PATIENCE * 2, logs: true };
    let report = verify(client, settings, |_| ()).await?;
    if let Some(check) = report.checks.iter().find(|check| check.result != escrow_verify::CheckResult::Ok) {
        return Err(Failure::coded("CHECK_FAILED", line(check)));
    }
    for check in report.checks.iter().filter(|check| check.check.contains("sum to zero")) {
        story.fact(format!("{} ({})", check.check, check.detail));
    }
    story.fact(format!("{} checks in all, every one holds", report.checks.len()));
    Ok(())
}

async fn run_load(story: &mut Story<'_>, client: &Client, span: Duration) -> Result<Summary, Failure> {
    let wanted =
        Wanted { count: 10_000, shards: std::collections::BTreeSet::new(), currency: USD, within: PATIENCE };
    let accounts = bench::prepare(client, &wanted).await?;
    let load = Load {
        mode: Mode::Bulk,
        amount: Amount::For(span),
        rate: None,
        in_flight: 65_536,
        batch: 8_192,
        cross_shard: 100,
        skew: Skew::Uniform,
        wait: Wait::Completed,
        currency: USD,
        timeout: PATIENCE,
        stall_after: PATIENCE,
        interval: Duration::from_secs(1),
        seed: 1,
    };
    let summary = bench::run(client, &accounts, &load, |_| ()).await?;
    let text = format!(
        "{} transfers in {:.1} s: {:.0} a second, half of them answered within {:.1} ms",
        summary.completed,
        summary.seconds,
        summary.per_second,
        summary.latency_us.p50 as f64 / 1e3
    );
    story.claim(summary.failed == 0 && summary.confirmed > 0, text)?;
    Ok(summary)
}

fn describe(outcome: &Outcome) -> String {
    let reason = outcome.reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
    format!("{}{reason}", outcome.state.code())
}

async fn posted(client: &Client, account: &AccountId) -> Result<i64, Failure> {
    let account = client.get_account(account).await?;
    Ok(account.balances.iter().find(|balance| balance.currency == USD).map_or(0, |balance| balance.posted))
}

/// Looks at a transaction until something is true of it.
async fn until(client: &Client, id: &str, is: impl Fn(&Transaction) -> bool) -> Result<Transaction, Failure> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let phase = match client.describe_transaction(id).await {
            Ok(transaction) if is(&transaction) => return Ok(transaction),
            Ok(transaction) => super::report::phase_code(transaction.phase),
            // Between its end and the log entry that says so, a transaction is in no list.
            Err(ClientError::Refused { reason: Reason::TransactionNotFound, .. }) => "on its way to the log",
            Err(error) => return Err(error.into()),
        };
        if Instant::now() >= deadline {
            return Err(Failure::coded("CHECK_FAILED", format!("{id} is still {phase} after {PATIENCE:?}")));
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cast_lives_where_the_story_needs_it() {
        let cast = Cast::choose();
        let shard = |id: &AccountId| Slot::of(id.key()).shard_of(2);
        assert_eq!(shard(&cast.alice), shard(&cast.neighbour));
        assert_ne!(shard(&cast.alice), shard(&cast.stranger));
        assert_eq!(shard(&cast.stranger), cast.stranger_shard);
    }
}
