//! `escrow account`: open, show, list, freeze, unfreeze.

use std::time::Duration;

use clap::Subcommand;
use escrow_client::{Account, AccountAsOf, Client, OpenAccount, ReadBounds};
use escrow_types::{AccountId, Currency, Reason};
use serde_json::json;

use super::report::{ACCOUNT_HEADER, account_json, account_rows};
use crate::args::Endpoints;
use crate::exit::{Exit, Failure};
use crate::money::{parse_currency, parse_overdraft};
use crate::output::Output;
use crate::time::parse_duration;

/// How many accounts are asked for at a time.
const PAGE: u32 = 1_000;

/// What to do with accounts.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Open accounts, or add a currency to them; doing it again changes nothing
    #[command(after_help = "Examples:
  escrow account open alice bob --currency USD
  escrow account open treasury --currency USD --overdraft unlimited
  escrow account open shop --currency EUR --overdraft 500.00")]
    Open {
        /// The accounts: opaque names of 1-64 bytes
        #[arg(required = true, value_name = "ID")]
        ids: Vec<AccountId>,
        /// ISO 4217 code
        #[arg(long, value_parser = parse_currency)]
        currency: Currency,
        /// How far the balance may go below zero: forbidden, unlimited, or an amount
        #[arg(long, default_value = "forbidden")]
        overdraft: String,
        #[command(flatten)]
        endpoints: Endpoints,
    },
    /// Show an account with its balances
    #[command(after_help = "Examples:
  escrow account show alice
  escrow account show alice -o json
  escrow account show alice --age-max 500ms      # any replica may answer, if its state is no older
  escrow account show alice --position 0@1234    # any replica that has what an earlier answer knew of")]
    Show {
        /// The account
        id: AccountId,
        /// Let any replica answer whose state lacks nothing that was acknowledged longer ago than this
        #[arg(long, value_parser = parse_duration)]
        age_max: Option<Duration>,
        /// Let any replica answer that has what an earlier answer with this position knew of
        #[arg(long, default_value = "", hide_default_value = true)]
        position: String,
        #[command(flatten)]
        endpoints: Endpoints,
    },
    /// List accounts
    #[command(after_help = "Examples:
  escrow account list
  escrow account list --limit 1000 -o json")]
    List {
        /// At most this many
        #[arg(long, default_value_t = 100)]
        limit: usize,
        #[command(flatten)]
        endpoints: Endpoints,
    },
    /// Make an account take part in nothing new; what is reserved still ends
    #[command(after_help = "Examples:
  escrow account freeze alice")]
    Freeze {
        /// The account
        id: AccountId,
        #[command(flatten)]
        endpoints: Endpoints,
    },
    /// Let a frozen account take part again
    #[command(after_help = "Examples:
  escrow account unfreeze alice")]
    Unfreeze {
        /// The account
        id: AccountId,
        #[command(flatten)]
        endpoints: Endpoints,
    },
}

pub(super) async fn run(command: Command, output: &Output) -> Result<Exit, Failure> {
    match command {
        Command::Open { ids, currency, overdraft, endpoints } => {
            let overdraft = parse_overdraft(currency, &overdraft)?;
            let accounts: Vec<OpenAccount> =
                ids.into_iter().map(|account_id| OpenAccount { account_id, currency, overdraft }).collect();
            open(&endpoints.client()?, &accounts, output).await
        }
        Command::Show { id, age_max, position, endpoints } => {
            let bounds = ReadBounds { age_max, position };
            show_as_of(&endpoints.client()?.get_account_within(&id, &bounds).await?, output);
            Ok(Exit::Ok)
        }
        Command::List { limit, endpoints } => list(&endpoints.client()?, limit, output).await,
        Command::Freeze { id, endpoints } => {
            show(&endpoints.client()?.set_frozen(&id, true).await?, output);
            Ok(Exit::Ok)
        }
        Command::Unfreeze { id, endpoints } => {
            show(&endpoints.client()?.set_frozen(&id, false).await?, output);
            Ok(Exit::Ok)
        }
    }
}

async fn open(client: &Client, accounts: &[OpenAccount], output: &Output) -> Result<Exit, Failure> {
    let results = client.open_accounts(accounts).await?;
    let documents: Vec<_> = results
        .iter()
        .map(|result| {
            json!({
                "account_id": result.account_id,
                "opened": result.opened,
                "reason": result.reason.map(Reason::code),
            })
        })
        .collect();
    output.json(&json!({ "results": documents }));
    output.table(
        &["account", "result"],
        results.iter().map(|result| {
            let what = match (result.opened, result.reason) {
                (_, Some(reason)) => format!("refused: {reason}"),
                (true, None) => "opened".to_owned(),
                (false, None) => "was open already".to_owned(),
            };
            vec![result.account_id.clone(), what]
        }),
    );
    Ok(if results.iter().any(|result| result.reason.is_some()) { Exit::BadInput } else { Exit::Ok })
}

fn show(account: &Account, output: &Output) {
    output.json(&account_json(account));
    output.table(ACCOUNT_HEADER, account_rows(account));
}

/// Shows an account, with what is known of when.
fn show_as_of(as_of: &AccountAsOf, output: &Output) {
    let mut document = account_json(&as_of.account);
    document["position"] = json!(as_of.position);
    document["age_ms"] = json!(as_of.age.map(|age| age.as_millis() as u64));
    output.json(&document);
    output.table(ACCOUNT_HEADER, account_rows(&as_of.account));
    if as_of.age != Some(Duration::ZERO) {
        let age =
            as_of.age.map_or_else(|| "unknown".to_owned(), |age| format!("at most {} ms", age.as_millis()));
        output.line(format!("from a replica that does not lead; its age: {age}"));
    }
}

async fn list(client: &Client, limit: usize, output: &Output) -> Result<Exit, Failure> {
    let mut accounts = Vec::new();
    let mut cursor = String::new();
    let mut more = true;
    while more && accounts.len() < limit {
        let page_size = PAGE.min(u32::try_from(limit - accounts.len()).unwrap_or(PAGE));
        let (page, next) = client.list_accounts(page_size, &cursor).await?;
        accounts.extend(page);
        more = !next.is_empty();
        cursor = next;
    }
    more |= accounts.len() > limit;
    accounts.truncate(limit);
    output.json(&json!({ "accounts": accounts.iter().map(account_json).collect::<Vec<_>>(), "more": more }));
    output.table(ACCOUNT_HEADER, accounts.iter().flat_map(account_rows));
    if more {
        output.line(format!("… and more: the first {limit} are shown (--limit)"));
    }
    Ok(Exit::Ok)
}
