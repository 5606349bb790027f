//! `escrow reserve`, `confirm`, `cancel`: authorise now, capture later.

use std::time::Duration;

use escrow_client::id::new_transaction_id;
use escrow_client::{ClientError, Leg, Reservation};
use escrow_types::{AccountId, Amount, Currency, TransactionId};

use super::report::{outcome_json, outcome_line};
use super::transfer::{WaitFor, finish};
use crate::args::Endpoints;
use crate::exit::{Exit, Failure};
use crate::money::{parse_amount, parse_currency, parse_legs};
use crate::output::Output;
use crate::time::{now_ms, parse_duration, relative};

/// `escrow reserve`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  escrow reserve --from alice --to shop --amount 80.00 --currency USD --id order-4711 --hold 30m
  escrow reserve --debit alice=80 --credit shop=78 --credit fees=2 --currency USD
  escrow confirm order-4711
  escrow cancel order-4711")]
pub struct ReserveArgs {
    /// Who pays
    #[arg(long, value_name = "ACCOUNT", requires_all = ["to", "amount"])]
    from: Option<AccountId>,
    /// Who is paid
    #[arg(long, value_name = "ACCOUNT", requires = "from")]
    to: Option<AccountId>,
    /// Decimal amount, such as 12.34
    #[arg(long, requires = "from", allow_hyphen_values = true)]
    amount: Option<String>,
    /// Money leaves: ACCOUNT=AMOUNT[@PARTICIPANT]; may be repeated
    #[arg(long = "debit", value_name = "LEG", conflicts_with = "from", required_unless_present = "from")]
    debits: Vec<String>,
    /// Money enters: as --debit
    #[arg(long = "credit", value_name = "LEG", conflicts_with = "from", required_unless_present = "from")]
    credits: Vec<String>,
    /// ISO 4217 code
    #[arg(long, value_parser = parse_currency)]
    currency: Currency,
    /// The idempotency key, 1-64 bytes; without it a UUIDv7 is made and shown
    #[arg(long)]
    id: Option<TransactionId>,
    /// How long the money stays reserved; then it is released
    #[arg(long, default_value = "60s", value_parser = parse_duration)]
    hold: Duration,
    #[command(flatten)]
    endpoints: Endpoints,
}

impl ReserveArgs {
    fn legs(&self) -> Result<Vec<Leg>, Failure> {
        if let (Some(from), Some(to), Some(amount)) = (&self.from, &self.to, &self.amount) {
            let amount = parse_amount(self.currency, amount)?;
            return Ok(vec![
                Leg::debit(from.clone(), amount, self.currency),
                Leg::credit(to.clone(), amount, self.currency),
            ]);
        }
        parse_legs(self.currency, &self.debits, &self.credits)
    }
}

/// `escrow confirm`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  escrow confirm order-4711
  escrow confirm order-4711 --amount 55.00 --currency USD     # both legs of a transfer; the rest is released
  escrow confirm order-4711 --amount 55,54,1 --currency USD   # one amount a leg: debits, then credits, as reserved")]
pub struct ConfirmArgs {
    /// Transaction id or xid
    id: String,
    /// Less than was reserved: one amount for both legs of a transfer, or one for each leg in the order of reserve
    #[arg(long, value_delimiter = ',', requires = "currency")]
    amount: Vec<String>,
    /// ISO 4217 code of --amount
    #[arg(long, value_parser = parse_currency)]
    currency: Option<Currency>,
    /// When to answer
    #[arg(long, value_enum, default_value = "completed")]
    wait: WaitFor,
    #[command(flatten)]
    endpoints: Endpoints,
}

impl ConfirmArgs {
    fn amounts(&self) -> Result<Vec<Amount>, Failure> {
        let Some(currency) = self.currency else { return Ok(Vec::new()) };
        // Zero is allowed here: that leg is released whole.
        let amount = |text: &String| match text.trim_matches(['0', '.']) {
            "" if text.contains('0') => Ok(0),
            _ => parse_amount(currency, text),
        };
        let mut amounts: Vec<Amount> = self.amount.iter().map(amount).collect::<Result<_, _>>()?;
        if let [one] = amounts[..] {
            amounts.push(one);
        }
        Ok(amounts)
    }
}

/// `escrow cancel`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  escrow cancel order-4711")]
pub struct CancelArgs {
    /// Transaction id or xid
    id: String,
    /// When to answer
    #[arg(long, value_enum, default_value = "completed")]
    wait: WaitFor,
    #[command(flatten)]
    endpoints: Endpoints,
}

pub(super) async fn reserve(args: ReserveArgs, output: &Output) -> Result<Exit, Failure> {
    let legs = args.legs()?;
    let id = args.id.clone().unwrap_or_else(new_transaction_id);
    let client = args.endpoints.client()?;
    let Reservation { outcome, expires_at_ms } = match client.reserve(Some(&id), &legs, Some(args.hold)).await
    {
        Ok(reservation) => reservation,
        Err(error @ ClientError::OutcomeUnknown { .. }) => return finish(&client, Err(error), output).await,
        Err(error) => return Err(error.into()),
    };
    let mut document = outcome_json(&outcome);
    document["expires_at_ms"] = expires_at_ms.into();
    output.json(&document);
    output.line(outcome_line(&outcome));
    if outcome.state == escrow_client::State::Reserved {
        output.line(format!("released {} unless confirmed", relative(expires_at_ms, now_ms())));
    }
    Ok(Exit::of_state(outcome.state))
}

pub(super) async fn confirm(args: ConfirmArgs, output: &Output) -> Result<Exit, Failure> {
    let amounts = args.amounts()?;
    let client = args.endpoints.client()?;
    let result = client.confirm(&args.id, &amounts, args.wait.into()).await;
    finish(&client, result, output).await
}

pub(super) async fn cancel(args: CancelArgs, output: &Output) -> Result<Exit, Failure> {
    let client = args.endpoints.client()?;
    let result = client.cancel(&args.id, args.wait.into()).await;
    // That it is canceled is what was asked for.
    match finish(&client, result, output).await? {
        Exit::Canceled => Ok(Exit::Ok),
        other => Ok(other),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::args::Cli;
    use crate::commands::Command;

    fn amounts(words: &str) -> Vec<u64> {
        let cli = Cli::try_parse_from(words.split(' ')).unwrap();
        let Command::Confirm(args) = cli.command else { panic!("{words}") };
        args.amounts().unwrap()
    }

    #[test]
    fn a_partial_confirm_has_an_amount_for_each_leg() {
        assert!(amounts("escrow confirm x").is_empty());
        assert_eq!(amounts("escrow confirm x --amount 5.50 --currency USD"), [550, 550]);
        assert_eq!(amounts("escrow confirm x --amount 5.50,5.50,0 --currency USD"), [550, 550, 0]);
    }
}
