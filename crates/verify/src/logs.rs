//! Logs: each server checks that checkpoint + log, and the whole log with its archive, give its live state.

use escrow_client::ClientError;
use escrow_client::operator::Verification;

use super::{Check, CheckResult, Scene, Shard};

const NAME: &str = "the log gives the live state";

pub(super) async fn coordinator(scene: &Scene<'_>, partition: u32) -> Vec<Check> {
    let subject = format!("coordinator {partition}");
    let position = scene.partitions.iter().position(|&known| known == partition).unwrap_or_default();
    collect(&subject, scene.client.verify(position).await).await
}

pub(super) async fn shard(shard: &Shard) -> Vec<Check> {
    collect(&shard.subject(), shard.client.verify(shard.id).await).await
}

/// The lines of a verification that are done. A verification without any is a failed one: nothing was checked.
async fn collect(subject: &str, verification: Result<Verification, ClientError>) -> Vec<Check> {
    let mut checks = Vec::new();
    let failed = |error: String| Check::new(subject, NAME, CheckResult::Failed, error);
    let mut verification = match verification {
        Ok(verification) => verification,
        Err(error) => return vec![failed(error.to_string())],
    };
    loop {
        match verification.next().await {
            Ok(Some(line)) if line.done => {
                let result = if line.ok { CheckResult::Ok } else { CheckResult::Failed };
                let subject = if line.subject.is_empty() { subject } else { &line.subject };
                checks.push(Check::new(subject, &line.check, result, line.detail));
            }
            Ok(Some(progress)) => {
                tracing::debug!(subject, check = progress.check, detail = progress.detail, "verifying");
            }
            Ok(None) if checks.is_empty() => return vec![failed("it checked nothing".to_owned())],
            Ok(None) => return checks,
            Err(error) => {
                checks.push(failed(error.to_string()));
                return checks;
            }
        }
    }
}
