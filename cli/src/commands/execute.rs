//! `escrow execute`: a transaction of many legs.

use std::time::Duration;

use escrow_client::id::new_transaction_id;
use escrow_types::{Currency, TransactionId};

use super::transfer::{WaitFor, finish};
use crate::args::Endpoints;
use crate::exit::{Exit, Failure, with_exit_codes};
use crate::money::{parse_currency, parse_legs};
use crate::output::Output;
use crate::time::parse_duration;

/// `escrow execute`.
#[derive(Debug, clap::Args)]
#[command(after_help = with_exit_codes!("Examples:
  escrow execute --debit alice=10.00 --credit bob=9.50 --credit fees=0.50 --currency USD
  escrow execute --debit alice=10.00 --credit payout=10.00@bank --currency USD

Debits and credits must be equal. PARTICIPANT is the name of an external participant that the
coordinator was started with (--external NAME=URL)."))]
pub struct Args {
    /// Money leaves: ACCOUNT=AMOUNT, or ACCOUNT=AMOUNT@PARTICIPANT for an external participant; may be repeated
    #[arg(long = "debit", value_name = "LEG", required = true)]
    debits: Vec<String>,
    /// Money enters: as --debit
    #[arg(long = "credit", value_name = "LEG", required = true)]
    credits: Vec<String>,
    /// ISO 4217 code of all legs
    #[arg(long, value_parser = parse_currency)]
    currency: Currency,
    /// The idempotency key, 1-64 bytes; without it a UUIDv7 is made and shown
    #[arg(long)]
    id: Option<TransactionId>,
    /// When to answer
    #[arg(long, value_enum, default_value = "completed")]
    wait: WaitFor,
    /// The transaction is canceled if not all is reserved by then
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    timeout: Duration,
    #[command(flatten)]
    endpoints: Endpoints,
}

pub(super) async fn run(args: Args, output: &Output) -> Result<Exit, Failure> {
    let legs = parse_legs(args.currency, &args.debits, &args.credits)?;
    let id = args.id.unwrap_or_else(new_transaction_id);
    let client = args.endpoints.client()?;
    let result = client.execute(Some(&id), &legs, args.wait.into(), Some(args.timeout)).await;
    finish(&client, result, output).await
}
