//! `escrow tx`: look at transactions, and act on those in doubt.

use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use escrow_client::report::{self, Decision, Phase, TransactionFilter};
use escrow_client::{Client, ClientError};
use escrow_types::Reason;
use serde_json::json;

use super::report::{
    TRANSACTION_HEADER, age, outcome_json, outcome_line, phase_code, show_transaction, transaction_json,
    transaction_row,
};
use crate::args::Endpoints;
use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::time::{format_millis, parse_duration};

/// How many transactions are asked for at a time.
const PAGE: u32 = 1_000;

/// A phase, as it is written on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StateArg {
    /// Begun; Trys are out
    Trying,
    /// Two-step: reserved, the caller decides
    Reserved,
    /// Decided; Confirms are out
    Confirming,
    /// Decided; Cancels are out
    Canceling,
    /// Ended: confirmed
    Confirmed,
    /// Ended: canceled
    Canceled,
    /// A participant contradicted: an operator must look
    NeedsAttention,
}

impl From<StateArg> for Phase {
    fn from(state: StateArg) -> Self {
        match state {
            StateArg::Trying => Self::Trying,
            StateArg::Reserved => Self::Reserved,
            StateArg::Confirming => Self::Confirming,
            StateArg::Canceling => Self::Canceling,
            StateArg::Confirmed => Self::Confirmed,
            StateArg::Canceled => Self::Canceled,
            StateArg::NeedsAttention => Self::NeedsAttention,
        }
    }
}

/// Which transactions.
#[derive(Debug, Clone, clap::Args)]
pub struct Filter {
    /// Only those in doubt: old, left over by a crash, or with a failing branch
    #[arg(long)]
    in_doubt: bool,
    /// Only in this state; may be repeated
    #[arg(long, value_enum, ignore_case = true, value_name = "STATE")]
    state: Vec<StateArg>,
    /// Only with a branch on this participant: its name, or the number of its shard
    #[arg(long, value_name = "N")]
    participant: Option<String>,
    /// Only begun at least this long ago
    #[arg(long, value_parser = parse_duration, value_name = "SPAN")]
    older_than: Option<Duration>,
    /// Only with a branch that failed at least this often
    #[arg(long, default_value_t = 0, value_name = "N")]
    min_attempts: u32,
    /// Only with a leg on this account
    #[arg(long, default_value = "", hide_default_value = true, value_name = "ID")]
    account: String,
}

impl Filter {
    /// As the wire wants it. A participant given by its number is looked up by its name.
    async fn resolve(&self, client: &Client) -> Result<TransactionFilter, Failure> {
        let participant = match &self.participant {
            None => String::new(),
            Some(text) => match text.parse::<u32>() {
                Err(_) => text.clone(),
                Ok(id) => {
                    let known = client.status(0).await?.participants;
                    let named = known.into_iter().find(|participant| participant.id == id);
                    named.map(|participant| participant.name).ok_or_else(|| {
                        Failure::bad_input(format!("there is no participant {id}; escrow status lists them"))
                    })?
                }
            },
        };
        Ok(TransactionFilter {
            in_doubt: self.in_doubt,
            phases: self.state.iter().map(|&state| Phase::from(state).into()).collect(),
            participant,
            older_than_ms: self.older_than.map_or(0, |span| span.as_millis() as u64),
            min_attempts: self.min_attempts,
            account_id: self.account.clone(),
        })
    }
}

/// What to do with transactions.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List transactions that are not finished (or those in --state), oldest first
    #[command(after_help = "Examples:
  escrow tx list --in-doubt
  escrow tx list --state confirming --participant 1 --older-than 10s
  escrow tx list --state confirmed --limit 20 -o json")]
    List {
        #[command(flatten)]
        filter: Filter,
        /// At most this many
        #[arg(long, default_value_t = 100)]
        limit: usize,
        #[command(flatten)]
        endpoints: Endpoints,
    },
    /// Show a transaction with its branches, attempts, last error, next attempt and timeline
    #[command(after_help = "Examples:
  escrow tx show order-4711
  escrow tx show 0-1-42 -o json")]
    Show {
        /// Transaction id or xid
        id: String,
        #[command(flatten)]
        endpoints: Endpoints,
    },
    /// Follow transactions as they change, until Ctrl-C
    #[command(after_help = "Examples:
  escrow tx watch --in-doubt
  escrow tx watch --account alice -o json")]
    Watch {
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        endpoints: Endpoints,
    },
    /// Try the unanswered branches of a transaction again now
    #[command(after_help = "Examples:
  escrow tx retry 0-1-42")]
    Retry {
        /// Transaction id or xid
        id: String,
        #[command(flatten)]
        endpoints: Endpoints,
    },
    /// Cancel a transaction that is undecided
    #[command(after_help = "Examples:
  escrow tx cancel 0-1-42 --reason 'caller is gone, ticket 77'")]
    Cancel {
        /// Transaction id or xid
        id: String,
        /// For the audit record
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        endpoints: Endpoints,
    },
    /// Set a decision by force; leaves the FORCED mark for ever
    #[command(after_help = "Examples:
  escrow tx force 0-1-42 cancel --reason 'shard 1 is lost, ticket 77' --yes")]
    Force {
        /// Transaction id or xid
        id: String,
        /// Which decision
        #[arg(value_enum)]
        decision: DecisionArg,
        /// For the audit record
        #[arg(long)]
        reason: String,
        /// Really do it
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        endpoints: Endpoints,
    },
    /// End a decided transaction although a participant never acknowledged; leaves the MIXED mark for ever
    #[command(after_help = "Examples:
  escrow tx give-up 0-1-42 --reason 'bank confirmed by phone, ticket 77' --yes")]
    GiveUp {
        /// Transaction id or xid
        id: String,
        /// For the audit record
        #[arg(long)]
        reason: String,
        /// Really do it
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        endpoints: Endpoints,
    },
}

/// A decision, as it is written on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DecisionArg {
    /// Post it
    Confirm,
    /// Release it
    Cancel,
}

pub(super) async fn run(command: Command, output: &Output) -> Result<Exit, Failure> {
    let transaction = match command {
        Command::List { filter, limit, endpoints } => {
            return list(&endpoints.client()?, &filter, limit, output).await;
        }
        Command::Show { id, endpoints } => return show(&endpoints.client()?, &id, output).await,
        Command::Watch { filter, endpoints } => return watch(&endpoints.client()?, &filter, output).await,
        Command::Retry { id, endpoints } => endpoints.client()?.retry_transaction(&id).await?,
        Command::Cancel { id, reason, endpoints } => {
            endpoints.client()?.cancel_transaction(&id, &reason).await?
        }
        Command::Force { id, decision, reason, yes, endpoints } => {
            really(
                yes,
                "a forced decision can move money that a participant has released, or the other way round",
            )?;
            let decision = match decision {
                DecisionArg::Confirm => Decision::Confirm,
                DecisionArg::Cancel => Decision::Cancel,
            };
            endpoints.client()?.force_transaction(&id, decision, &reason).await?
        }
        Command::GiveUp { id, reason, yes, endpoints } => {
            really(yes, "a branch that is given up may have ended either way; nobody will ask again")?;
            endpoints.client()?.give_up_transaction(&id, &reason).await?
        }
    };
    output.json(&transaction_json(&transaction));
    show_transaction(output, &transaction);
    Ok(Exit::Ok)
}

fn really(yes: bool, why: &str) -> Result<(), Failure> {
    if yes { Ok(()) } else { Err(Failure::bad_input(format!("{why}; say --yes to do it"))) }
}

async fn list(client: &Client, filter: &Filter, limit: usize, output: &Output) -> Result<Exit, Failure> {
    let filter = filter.resolve(client).await?;
    let (mut transactions, mut count, mut oldest_age_ms) = (Vec::new(), 0, 0);
    for partition in 0..client.partitions() {
        let (matching, oldest) = client.count_transactions(partition, &filter).await?;
        count += matching;
        oldest_age_ms = oldest_age_ms.max(oldest);
        transactions.extend(list_partition(client, partition, &filter, limit).await?);
    }
    // Pages are oldest first; with several coordinators they are merged.
    transactions.sort_by_key(|transaction| transaction.begun_at_ms);
    transactions.truncate(limit);
    // Ended transactions are listed while they are remembered, and not counted.
    count = count.max(transactions.len() as u64);
    output.json(&json!({
        "transactions": transactions.iter().map(transaction_json).collect::<Vec<_>>(),
        "count": count,
        "oldest_age_ms": oldest_age_ms,
    }));
    output.table(TRANSACTION_HEADER, transactions.iter().map(transaction_row));
    match (count, transactions.len()) {
        (0, _) => output.line("none"),
        (count, shown) if count as usize > shown => {
            output.line(format!(
                "{shown} of {count} shown (--limit), the oldest is {} old",
                format_millis(oldest_age_ms)
            ));
        }
        (count, _) if oldest_age_ms > 0 => {
            output.line(format!("{count}, the oldest is {} old", format_millis(oldest_age_ms)));
        }
        (count, _) => output.line(count.to_string()),
    }
    Ok(Exit::Ok)
}

async fn list_partition(
    client: &Client,
    partition: usize,
    filter: &TransactionFilter,
    limit: usize,
) -> Result<Vec<report::Transaction>, Failure> {
    let (mut transactions, mut cursor) = (Vec::new(), String::new());
    while transactions.len() < limit {
        let page_size = PAGE.min(u32::try_from(limit - transactions.len()).unwrap_or(PAGE));
        let (page, next) = client.list_transactions(partition, filter, page_size, &cursor).await?;
        transactions.extend(page);
        if next.is_empty() {
            break;
        }
        cursor = next;
    }
    Ok(transactions)
}

async fn show(client: &Client, id: &str, output: &Output) -> Result<Exit, Failure> {
    match client.describe_transaction(id).await {
        Ok(transaction) => {
            output.json(&transaction_json(&transaction));
            show_transaction(output, &transaction);
            Ok(Exit::Ok)
        }
        // Operators see what is unfinished or ended lately; older ones are remembered by their outcome alone.
        Err(error @ ClientError::Refused { reason: Reason::TransactionNotFound, .. }) => {
            let record = client.get_transaction(id).await?;
            if record.outcome.state == escrow_client::State::NotFound {
                return Err(error.into());
            }
            let mut document = outcome_json(&record.outcome);
            document["completed"] = record.completed.into();
            output.json(&document);
            output.line(outcome_line(&record.outcome));
            Ok(Exit::Ok)
        }
        Err(error) => Err(error.into()),
    }
}

async fn watch(client: &Client, filter: &Filter, output: &Output) -> Result<Exit, Failure> {
    let filter = filter.resolve(client).await?;
    if client.partitions() > 1 {
        return Err(Failure::bad_input("watch follows one coordinator: give one --endpoint"));
    }
    let mut changes = client.watch_transactions(0, &filter).await?;
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    while !output.is_closed() {
        let change = tokio::select! {
            change = changes.next() => change?,
            _ = &mut interrupted => break,
        };
        let Some(transaction) = change else { break };
        output.json(&transaction_json(&transaction));
        let marks = if transaction.in_doubt { "  in doubt" } else { "" };
        output.line(format!(
            "{:<16} {:<16} {}{marks}  {}",
            transaction.xid,
            phase_code(transaction.phase),
            crate::output::printable(&transaction.transaction_id),
            age(&transaction),
        ));
    }
    Ok(Exit::Ok)
}
