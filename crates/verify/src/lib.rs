//! Verification of a running cluster: no money appeared or vanished, no reservation outlives its transaction, every
//! log gives the live state, and so does every replica.
//!
//! Nothing is paused for it. Balances of several shards mean something together only if they are of one moment, so the
//! totals are read twice, until nothing changed in between; when that does not happen in time, the answer is "not
//! quiescent" and neither yes nor no.
//!
//! **Invariant:** asks only; changes nothing in the cluster.

mod conservation;
mod logs;
mod orphans;
mod replicas;

use std::time::Duration;

use escrow_client::{Client, ClientError, Options, RetryPolicy, ShardClient};
use serde::Serialize;

/// Attempts of a question to a shard: about two seconds of one that cannot be reached.
const ATTEMPTS_MAX: u32 = 8;

/// Limits of a verification.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How long to wait for a moment in which nothing moves.
    pub quiescent_within: Duration,
    /// How long a log check may say nothing.
    pub silence_max: Duration,
    /// Whether to replay the logs (which reads all of them).
    pub logs: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { quiescent_within: Duration::from_secs(15), silence_max: Duration::from_secs(120), logs: true }
    }
}

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckResult {
    /// It holds.
    Ok,
    /// It does not.
    Failed,
    /// Work was going on the whole time: it cannot be said.
    NotQuiescent,
    /// It does not apply here, or somebody was not asked.
    Skipped,
}

/// One thing that was checked.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// Of what: a shard, a coordinator, a currency.
    pub subject: String,
    /// What should hold.
    pub check: String,
    /// Whether it does.
    pub result: CheckResult,
    /// What was compared; when it does not hold, the difference.
    pub detail: String,
}

impl Check {
    fn new(subject: &str, check: &str, result: CheckResult, detail: impl Into<String>) -> Self {
        Self { subject: subject.to_owned(), check: check.to_owned(), result, detail: detail.into() }
    }
}

/// All checks.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// In the order in which they were made.
    pub checks: Vec<Check>,
}

impl Report {
    /// Whether everything that could be checked holds, and nothing was left open.
    pub fn ok(&self) -> bool {
        self.result() == CheckResult::Ok
    }

    /// All checks in one word: one that failed outweighs one that could not be made, that outweighs all that hold. A check
    /// that was skipped counts as held.
    pub fn result(&self) -> CheckResult {
        let any = |result| self.checks.iter().any(|check| check.result == result);
        if any(CheckResult::Failed) {
            CheckResult::Failed
        } else if any(CheckResult::NotQuiescent) {
            CheckResult::NotQuiescent
        } else {
            CheckResult::Ok
        }
    }

    /// The checks that failed.
    pub fn failures(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| check.result == CheckResult::Failed)
    }
}

/// A wallet shard and where to ask it.
pub(crate) struct Shard {
    pub(crate) id: u32,
    pub(crate) client: ShardClient,
}

impl Shard {
    fn subject(&self) -> String {
        format!("participant {}", self.id)
    }
}

/// Who is checked.
pub(crate) struct Scene<'a> {
    pub(crate) client: &'a Client,
    pub(crate) settings: Settings,
    pub(crate) shards: Vec<Shard>,
    /// The partitions whose coordinators answer to `client`, by their position there.
    pub(crate) partitions: Vec<u32>,
    /// External participants hold money that no shard knows of.
    pub(crate) externals: bool,
}

/// Verifies a cluster. `tell` hears of every check as it is made.
///
/// Errors: a coordinator that does not answer. A shard that does not is a failed check.
pub async fn verify(
    client: &Client,
    settings: Settings,
    mut tell: impl FnMut(&Check),
) -> Result<Report, ClientError> {
    let scene = Scene::new(client, settings).await?;
    let mut report = Report::default();
    let mut add = |checks: Vec<Check>| {
        for check in checks {
            tell(&check);
            report.checks.push(check);
        }
    };
    add(conservation::check(&scene).await?);
    add(orphans::check(&scene).await?);
    add(replicas::check(&scene).await);
    if settings.logs {
        for &partition in &scene.partitions {
            add(logs::coordinator(&scene, partition).await);
        }
        for shard in &scene.shards {
            add(logs::shard(shard).await);
        }
    }
    Ok(report)
}

impl<'a> Scene<'a> {
    async fn new(client: &'a Client, settings: Settings) -> Result<Self, ClientError> {
        let (mut shards, mut partitions, mut externals) = (Vec::new(), Vec::new(), false);
        let options = Options {
            attempt_timeout: settings.silence_max,
            deadline: settings.silence_max,
            retry: RetryPolicy { attempts_max: ATTEMPTS_MAX, ..RetryPolicy::default() },
            ..Options::default()
        };
        for position in 0..client.partitions() {
            let status = client.status(position).await?;
            partitions.push(status.coordinator.map_or(0, |coordinator| coordinator.partition));
            externals |= status.participants.iter().any(|participant| participant.kind != "stream");
            if position == 0 {
                for participant in
                    status.participants.iter().filter(|participant| participant.kind == "stream")
                {
                    let client = ShardClient::connect(participant.endpoint.clone(), options.clone())?;
                    shards.push(Shard { id: participant.id, client });
                }
            }
        }
        Ok(Self { client, settings, shards, partitions, externals })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failure_outweighs_everything() {
        let check = |result| Check::new("s", "c", result, "");
        let report = |results: &[CheckResult]| Report {
            checks: results.iter().map(|&result| check(result)).collect(),
        };
        assert_eq!(report(&[CheckResult::Ok, CheckResult::Skipped]).result(), CheckResult::Ok);
        assert_eq!(report(&[CheckResult::Ok, CheckResult::NotQuiescent]).result(), CheckResult::NotQuiescent);
        assert_eq!(report(&[CheckResult::Failed, CheckResult::NotQuiescent]).result(), CheckResult::Failed);
    }
}
