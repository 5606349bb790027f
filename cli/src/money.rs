//! Amounts, overdrafts and legs as people write them on a command line.

use escrow_client::{Leg, Overdraft};
use escrow_types::{AccountId, Amount, AmountError, Currency};

use crate::exit::Failure;

/// Parses a decimal amount of a currency, exactly.
pub fn parse_amount(currency: Currency, text: &str) -> Result<Amount, Failure> {
    currency.parse_amount(text).map_err(|error| {
        let reason = match error {
            AmountError::Zero => escrow_types::Reason::AmountZero,
            _ => escrow_types::Reason::InvalidAmount,
        };
        Failure { code: reason.code(), ..Failure::bad_input(error.to_string()) }
    })
}

/// Parses a currency code, for clap.
pub fn parse_currency(text: &str) -> Result<Currency, String> {
    text.parse().map_err(|error: AmountError| error.to_string())
}

/// Parses `forbidden`, `unlimited` or a decimal limit.
pub fn parse_overdraft(currency: Currency, text: &str) -> Result<Overdraft, Failure> {
    match text {
        "forbidden" => Ok(Overdraft::Forbidden),
        "unlimited" => Ok(Overdraft::Unlimited),
        limit => parse_amount(currency, limit).map(Overdraft::Limit).map_err(|failure| Failure {
            message: format!("--overdraft takes forbidden, unlimited or a limit: {}", failure.message),
            ..failure
        }),
    }
}

/// Writes an overdraft as it is parsed.
pub fn format_overdraft(currency: Currency, overdraft: Overdraft) -> String {
    match overdraft {
        Overdraft::Forbidden => "forbidden".to_owned(),
        Overdraft::Unlimited => "unlimited".to_owned(),
        Overdraft::Limit(limit) => currency.format(i128::from(limit)),
    }
}

/// Which way the legs of an option go.
#[derive(Debug, Clone, Copy)]
pub enum Side {
    /// `--debit`.
    Debit,
    /// `--credit`.
    Credit,
}

/// Parses `ACCOUNT=AMOUNT[@PARTICIPANT]`. The last `=` divides, so that account ids may contain one.
pub fn parse_leg(currency: Currency, side: Side, text: &str) -> Result<Leg, Failure> {
    let (account, rest) = text.rsplit_once('=').ok_or_else(|| {
        Failure::bad_input(format!(
            "'{text}' is not a leg: expected ACCOUNT=AMOUNT or ACCOUNT=AMOUNT@PARTICIPANT"
        ))
    })?;
    let (amount, participant) = match rest.split_once('@') {
        Some((amount, participant)) => (amount, Some(participant)),
        None => (rest, None),
    };
    let account_id: AccountId = account
        .parse()
        .map_err(|error: escrow_types::IdError| Failure::bad_input(format!("'{text}': {error}")))?;
    let amount = parse_amount(currency, amount)?;
    let leg = match side {
        Side::Debit => Leg::debit(account_id, amount, currency),
        Side::Credit => Leg::credit(account_id, amount, currency),
    };
    Ok(match participant {
        Some(participant) => leg.on(participant),
        None => leg,
    })
}

/// The legs of `--debit` and `--credit`: the debits, then the credits, each in the order given.
pub fn parse_legs(currency: Currency, debits: &[String], credits: &[String]) -> Result<Vec<Leg>, Failure> {
    let debits = debits.iter().map(|text| parse_leg(currency, Side::Debit, text));
    let credits = credits.iter().map(|text| parse_leg(currency, Side::Credit, text));
    debits.chain(credits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legs_are_parsed_from_the_right() {
        let leg = parse_leg(Currency::USD, Side::Debit, "a=b=12.50").unwrap();
        assert_eq!((leg.account_id.as_str(), leg.amount, leg.participant), ("a=b", 1_250, None));
        let leg = parse_leg(Currency::USD, Side::Credit, "x@y=1@bank").unwrap();
        assert_eq!(
            (leg.account_id.as_str(), leg.amount, leg.participant.as_deref()),
            ("x@y", 100, Some("bank"))
        );
        for text in ["", "a", "=1", "a=", "a=x", "a=-1", "a=0", "a=1.001"] {
            assert!(parse_leg(Currency::USD, Side::Debit, text).is_err(), "{text}");
        }
    }

    #[test]
    fn overdrafts_are_words_or_limits() {
        for (text, overdraft) in [
            ("forbidden", Overdraft::Forbidden),
            ("unlimited", Overdraft::Unlimited),
            ("1.00", Overdraft::Limit(100)),
        ] {
            assert_eq!(parse_overdraft(Currency::USD, text).unwrap(), overdraft);
            assert_eq!(format_overdraft(Currency::USD, overdraft), text);
        }
        assert!(parse_overdraft(Currency::USD, "some").is_err());
    }
}
