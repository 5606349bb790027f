//! `escrow verify`: prints each check as it is made.

use std::time::Duration;

use serde_json::json;

use crate::args::Endpoints;
use crate::exit::{Exit, Failure, with_exit_codes};
use crate::output::Output;
use crate::time::parse_duration;
use escrow_verify::{Check, CheckResult, Report, Settings, verify};

/// `escrow verify`.
#[derive(Debug, clap::Args)]
#[command(after_help = with_exit_codes!("Examples:
  escrow verify
  escrow verify --within 60s -o json
  escrow verify --no-logs                       # balances and reservations only

Nothing is paused for it. While transactions run, the sum of all balances means nothing; if no quiet
moment is found, the check says so and the exit code is 4."))]
pub struct Args {
    /// How long to wait for a moment in which nothing moves
    #[arg(long, default_value = "15s", value_parser = parse_duration)]
    within: Duration,
    /// Do not replay the logs
    #[arg(long)]
    no_logs: bool,
    #[command(flatten)]
    endpoints: Endpoints,
}

pub(super) async fn run(args: Args, output: &Output) -> Result<Exit, Failure> {
    let settings = Settings { quiescent_within: args.within, logs: !args.no_logs, ..Settings::default() };
    let client = args.endpoints.patient_client(settings.silence_max)?;
    let report = verify(&client, settings, |check| output.line(line(check))).await?;
    output.json(&document(&report));
    output.line(match report.result() {
        CheckResult::Ok | CheckResult::Skipped => "all checks hold".to_owned(),
        CheckResult::Failed => format!("{} CHECKS FAILED", report.failures().count()),
        CheckResult::NotQuiescent => "not quiescent: some checks could not be made".to_owned(),
    });
    Ok(Exit::of_checks(report.result()))
}

/// One check in one line.
pub(super) fn line(check: &Check) -> String {
    let mark = match check.result {
        CheckResult::Ok => "✓",
        CheckResult::Failed => "✗",
        CheckResult::NotQuiescent => "?",
        CheckResult::Skipped => "-",
    };
    format!("{mark} {:<14} {}  ({})", check.subject, check.check, check.detail)
}

/// The document for machines.
pub(super) fn document(report: &Report) -> serde_json::Value {
    let result = match report.result() {
        CheckResult::Ok | CheckResult::Skipped => "ok",
        CheckResult::Failed => "failed",
        CheckResult::NotQuiescent => "not_quiescent",
    };
    json!({ "ok": report.ok(), "result": result, "checks": report.checks })
}
