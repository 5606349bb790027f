//! `escrow status`: the servers, their logs, and what is in doubt.

use escrow_client::report::{GetStatusResponse, LogCursors, ParticipantStatus};
use serde_json::{Value, json};

use crate::args::Endpoints;
use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::time::{format_millis, now_ms, relative};

/// `escrow status`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  escrow status
  escrow status -o json | jq '.coordinators[0].in_doubt'")]
pub struct Args {
    #[command(flatten)]
    endpoints: Endpoints,
}

pub(super) async fn run(args: Args, output: &Output) -> Result<Exit, Failure> {
    let client = args.endpoints.client()?;
    let mut answers = Vec::new();
    for partition in 0..client.partitions() {
        answers.push((client.endpoint(partition).to_owned(), client.status(partition).await?));
    }
    output.json(&json!({
        "coordinators": answers.iter().map(|(endpoint, answer)| coordinator_json(endpoint, answer)).collect::<Vec<_>>(),
        // All coordinators have the same participants; the first one's view stands for all.
        "participants": answers[0].1.participants.iter().map(participant_json).collect::<Vec<_>>(),
    }));
    show(&answers, output);
    Ok(Exit::Ok)
}

fn cursors_json(log: Option<&LogCursors>) -> Value {
    log.map_or(Value::Null, |log| {
        json!({
            "appended": log.appended,
            "written": log.written,
            "durable": log.durable,
            "applied": log.applied,
            "checkpointed": log.checkpointed,
            "trimmed": log.trimmed,
        })
    })
}

fn coordinator_json(endpoint: &str, answer: &GetStatusResponse) -> Value {
    let status = answer.coordinator.clone().unwrap_or_default();
    json!({
        "role": "coordinator",
        "endpoint": endpoint,
        "partition": status.partition,
        "epoch": status.epoch,
        "pid": status.pid,
        "uptime_ms": status.uptime_ms,
        "version": status.version,
        "paused": status.paused,
        "unfinished": status.unfinished,
        "in_doubt": status.in_doubt,
        "oldest_in_doubt_age_ms": status.oldest_in_doubt_age_ms,
        "needs_attention": status.needs_attention,
        "remembered": status.remembered,
        "log": cursors_json(status.log.as_ref()),
    })
}

fn participant_json(status: &ParticipantStatus) -> Value {
    json!({
        "role": "participant",
        "id": status.id,
        "name": status.name,
        "endpoint": status.endpoint,
        "kind": status.kind,
        "ready": status.ready,
        "pid": (status.pid != 0).then_some(status.pid),
        "uptime_ms": status.uptime_ms,
        "waiting": status.waiting,
        "failed_attempts": status.failed_attempts,
        "last_error": status.last_error,
        "next_attempt_ms": (status.next_attempt_ms != 0).then_some(status.next_attempt_ms),
        "accounts": status.accounts,
        "reservations": status.reservations,
        "log": cursors_json(status.log.as_ref()),
    })
}

/// `applied/durable/appended, checkpointed, trimmed` in few letters: cursors that are equal are told once.
fn cursors_text(log: Option<&LogCursors>) -> String {
    let Some(log) = log else { return String::new() };
    let mut text = format!("applied {}", log.applied);
    if log.appended != log.applied {
        text = format!("{text} of {} (durable {})", log.appended, log.durable);
    }
    format!("{text}, checkpoint {}, trimmed {}", log.checkpointed, log.trimmed)
}

fn show(answers: &[(String, GetStatusResponse)], output: &Output) {
    let now = now_ms();
    output.table(
        &[
            "coordinator",
            "endpoint",
            "pid",
            "up",
            "epoch",
            "unfinished",
            "in doubt",
            "oldest",
            "state",
            "log",
        ],
        answers.iter().map(|(endpoint, answer)| {
            let status = answer.coordinator.clone().unwrap_or_default();
            let state = match (status.needs_attention, status.paused) {
                (0, false) => "ready".to_owned(),
                (0, true) => "PAUSED".to_owned(),
                (count, _) => format!("{count} NEED ATTENTION"),
            };
            vec![
                status.partition.to_string(),
                endpoint.clone(),
                status.pid.to_string(),
                format_millis(status.uptime_ms),
                status.epoch.to_string(),
                status.unfinished.to_string(),
                status.in_doubt.to_string(),
                if status.in_doubt == 0 {
                    "-".to_owned()
                } else {
                    format_millis(status.oldest_in_doubt_age_ms)
                },
                state,
                cursors_text(status.log.as_ref()),
            ]
        }),
    );
    output.line("");
    output.table(
        &["participant", "name", "endpoint", "pid", "state", "waiting", "accounts", "reservations", "log"],
        answers[0].1.participants.iter().map(|status| {
            let state = if status.ready {
                "ready".to_owned()
            } else {
                format!(
                    "DOWN, {} attempts, next {}\n{}",
                    status.failed_attempts,
                    relative(status.next_attempt_ms, now),
                    status.last_error
                )
            };
            let wallet = status.kind == "stream";
            let number = |number: u64| if wallet { number.to_string() } else { String::new() };
            vec![
                status.id.to_string(),
                status.name.clone(),
                status.endpoint.clone(),
                if status.pid == 0 { "-".to_owned() } else { status.pid.to_string() },
                state,
                status.waiting.to_string(),
                number(status.accounts),
                number(status.reservations),
                cursors_text(status.log.as_ref()),
            ]
        }),
    );
}
