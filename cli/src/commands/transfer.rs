//! `escrow transfer`: one debit, one credit.

use std::time::Duration;

use clap::ValueEnum;
use escrow_client::id::new_transaction_id;
use escrow_client::{Client, ClientError, Outcome, State, Transfer, Wait};
use escrow_types::{AccountId, Currency, TransactionId};

use super::report::{outcome_json, outcome_line};
use crate::args::Endpoints;
use crate::exit::{Exit, Failure, with_exit_codes};
use crate::money::{parse_amount, parse_currency};
use crate::output::Output;
use crate::time::parse_duration;

/// When to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum WaitFor {
    /// As soon as the decision is durable
    Decided,
    /// When every shard has acknowledged: balances include it
    #[default]
    Completed,
}

impl From<WaitFor> for Wait {
    fn from(wait: WaitFor) -> Self {
        match wait {
            WaitFor::Decided => Self::Decided,
            WaitFor::Completed => Self::Completed,
        }
    }
}

/// `escrow transfer`.
#[derive(Debug, clap::Args)]
#[command(after_help = with_exit_codes!("Examples:
  escrow transfer --from alice --to bob --amount 12.34 --currency USD
  escrow transfer --from alice --to bob --amount 12.34 --currency USD --id order-4711
  escrow transfer --from a --to b --amount 500 --currency JPY --wait decided --timeout 2s -o json

The same --id again is answered as the first time and moves nothing twice."))]
pub struct Args {
    /// Who pays
    #[arg(long, value_name = "ACCOUNT")]
    from: AccountId,
    /// Who is paid
    #[arg(long, value_name = "ACCOUNT")]
    to: AccountId,
    /// Decimal amount, such as 12.34
    #[arg(long, allow_hyphen_values = true)]
    amount: String,
    /// ISO 4217 code
    #[arg(long, value_parser = parse_currency)]
    currency: Currency,
    /// The idempotency key, 1-64 bytes; without it a UUIDv7 is made and shown
    #[arg(long)]
    id: Option<TransactionId>,
    /// When to answer
    #[arg(long, value_enum, default_value = "completed")]
    wait: WaitFor,
    /// The transfer is canceled if not all is reserved by then
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    timeout: Duration,
    #[command(flatten)]
    endpoints: Endpoints,
}

pub(super) async fn run(args: Args, output: &Output) -> Result<Exit, Failure> {
    let amount = parse_amount(args.currency, &args.amount)?;
    let transfer = Transfer::new(args.from, args.to, amount, args.currency)
        .with_id(args.id.unwrap_or_else(new_transaction_id))
        .with_wait(args.wait.into())
        .with_timeout(args.timeout);
    let client = args.endpoints.client()?;
    finish(&client, client.transfer(&transfer).await, output).await
}

/// Prints how a transaction ended. When that is not known, asks once more: it may have been decided meanwhile.
pub(super) async fn finish(
    client: &Client,
    result: Result<Outcome, ClientError>,
    output: &Output,
) -> Result<Exit, Failure> {
    let outcome = match result {
        Ok(outcome) => outcome,
        Err(ClientError::OutcomeUnknown { transaction_id, message }) => {
            tracing::warn!(transaction_id, message, "the outcome is not known");
            match client.get_transaction(&transaction_id).await {
                Ok(record) if record.outcome.state != State::NotFound => record.outcome,
                // Not found is no outcome: the request may still be on its way.
                _ => {
                    let (state, position) = (State::Pending, String::new());
                    Outcome { transaction_id, xid: None, state, reason: None, position }
                }
            }
        }
        Err(error) => return Err(error.into()),
    };
    output.json(&outcome_json(&outcome));
    output.line(outcome_line(&outcome));
    if outcome.state == State::Pending {
        output.line(format!("not known yet: ask again with  escrow tx show {}", outcome.transaction_id));
    }
    Ok(Exit::of_state(outcome.state))
}
