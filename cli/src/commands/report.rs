//! How outcomes, accounts and transactions look: as documents for machines, as rows for people.

use escrow_client::report::{self, BranchState, Phase};
use escrow_client::{Account, Balance, Outcome};
use escrow_types::{Currency, Reason};
use serde_json::{Value, json};

use crate::money::format_overdraft;
use crate::time::{format_millis, now_ms, relative};

/// The outcome of a transaction: the contract's four fields.
pub(super) fn outcome_json(outcome: &Outcome) -> Value {
    json!({
        "transaction_id": outcome.transaction_id,
        "xid": outcome.xid.map(|xid| xid.to_string()),
        "state": outcome.state.code(),
        "reason": outcome.reason.map(Reason::code),
        "position": Some(&outcome.position).filter(|position| !position.is_empty()),
    })
}

/// The outcome of a transaction in one line.
pub(super) fn outcome_line(outcome: &Outcome) -> String {
    let reason = outcome.reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
    let xid = outcome.xid.map(|xid| format!("  xid {xid}")).unwrap_or_default();
    format!("{}{reason}  {}{xid}", outcome.state.code(), outcome.transaction_id)
}

/// An account: every amount as decimal text, and in minor units as `…_minor`.
pub(super) fn account_json(account: &Account) -> Value {
    let balances: Vec<Value> = account.balances.iter().map(balance_json).collect();
    json!({
        "account_id": account.account_id,
        "frozen": account.frozen,
        "participant": account.participant,
        "balances": balances,
    })
}

fn balance_json(balance: &Balance) -> Value {
    let currency = balance.currency;
    json!({
        "currency": currency.code(),
        "posted": currency.format(i128::from(balance.posted)),
        "posted_minor": balance.posted,
        "reserved": currency.format(i128::from(balance.reserved)),
        "reserved_minor": balance.reserved,
        "available": currency.format(i128::from(balance.available)),
        "available_minor": balance.available,
        "incoming": currency.format(i128::from(balance.incoming)),
        "incoming_minor": balance.incoming,
        "overdraft": format_overdraft(currency, balance.overdraft),
    })
}

/// The header of [`account_rows`].
pub(super) const ACCOUNT_HEADER: &[&str] = &[
    "account",
    "currency",
    "posted",
    "reserved",
    "available",
    "incoming",
    "overdraft",
    "frozen",
    "participant",
];

/// One row for each balance; one for an account without any.
pub(super) fn account_rows(account: &Account) -> Vec<Vec<String>> {
    let frozen = if account.frozen { "frozen" } else { "" };
    let row = |cells: [String; 6]| {
        let [currency, posted, reserved, available, incoming, overdraft] = cells;
        let (id, participant) = (account.account_id.clone(), account.participant.clone());
        vec![id, currency, posted, reserved, available, incoming, overdraft, frozen.to_owned(), participant]
    };
    if account.balances.is_empty() {
        return vec![row(Default::default())];
    }
    account
        .balances
        .iter()
        .map(|balance| {
            let currency = balance.currency;
            row([
                currency.code().to_owned(),
                currency.format(i128::from(balance.posted)),
                currency.format(i128::from(balance.reserved)),
                currency.format(i128::from(balance.available)),
                currency.format(i128::from(balance.incoming)),
                format_overdraft(currency, balance.overdraft),
            ])
        })
        .collect()
}

/// The name of a phase as users write it.
pub(super) fn phase_code(number: i32) -> &'static str {
    Phase::try_from(number).map_or("UNKNOWN", |phase| phase.as_str_name().trim_start_matches("PHASE_"))
}

fn branch_code(number: i32) -> &'static str {
    BranchState::try_from(number)
        .map_or("UNKNOWN", |state| state.as_str_name().trim_start_matches("BRANCH_STATE_"))
}

fn reason_code(number: i32) -> Option<&'static str> {
    u8::try_from(number).ok().and_then(Reason::from_number).map(Reason::code)
}

fn leg_json(leg: &report::Leg) -> Value {
    let currency: Option<Currency> = leg.currency.parse().ok();
    let debit = leg.direction == i32::from(report::Direction::Debit);
    json!({
        "account_id": leg.account_id,
        "direction": if debit { "DEBIT" } else { "CREDIT" },
        "amount": currency.map(|currency| currency.format(i128::from(leg.amount))),
        "amount_minor": leg.amount,
        "currency": leg.currency,
    })
}

fn at(millis: u64) -> Option<u64> {
    (millis != 0).then_some(millis)
}

/// A transaction as operators see it. Moments are Unix milliseconds, `null` for none.
pub(super) fn transaction_json(transaction: &report::Transaction) -> Value {
    let branches: Vec<Value> = transaction
        .branches
        .iter()
        .map(|branch| {
            json!({
                "participant": branch.participant,
                "state": branch_code(branch.state),
                "legs": branch.legs.iter().map(leg_json).collect::<Vec<_>>(),
                "attempts": branch.attempts,
                "last_error": branch.last_error,
                "last_attempt_ms": at(branch.last_attempt_ms),
                "next_attempt_ms": at(branch.next_attempt_ms),
                "reason": reason_code(branch.reason),
            })
        })
        .collect();
    let timeline: Vec<Value> = transaction
        .timeline
        .iter()
        .map(|event| json!({ "at_ms": event.at_ms, "what": event.what }))
        .collect();
    json!({
        "transaction_id": transaction.transaction_id,
        "xid": transaction.xid,
        "phase": phase_code(transaction.phase),
        "reason": reason_code(transaction.reason),
        "in_doubt": transaction.in_doubt,
        "two_step": transaction.two_step,
        "forced": transaction.forced,
        "mixed": transaction.mixed,
        "begun_at_ms": at(transaction.begun_at_ms),
        "deadline_ms": at(transaction.deadline_ms),
        "decided_at_ms": at(transaction.decided_at_ms),
        "finished_at_ms": at(transaction.finished_at_ms),
        "branches": branches,
        "timeline": timeline,
    })
}

/// The header of [`transaction_row`].
pub(super) const TRANSACTION_HEADER: &[&str] =
    &["xid", "transaction", "phase", "age", "in doubt", "attempts", "waiting for", "last error"];

/// One transaction in one row: the branch that holds it up speaks for all.
pub(super) fn transaction_row(transaction: &report::Transaction) -> Vec<String> {
    let open = |state: i32| {
        matches!(
            BranchState::try_from(state),
            Ok(BranchState::Trying | BranchState::Ending | BranchState::Contradicted)
        )
    };
    let waiting: Vec<&report::Branch> =
        transaction.branches.iter().filter(|branch| open(branch.state)).collect();
    let worst = waiting.iter().max_by_key(|branch| branch.attempts);
    vec![
        transaction.xid.clone(),
        transaction.transaction_id.clone(),
        phase_with_marks(transaction),
        age(transaction),
        if transaction.in_doubt { "yes" } else { "" }.to_owned(),
        worst.map_or_else(String::new, |branch| branch.attempts.to_string()),
        waiting.iter().map(|branch| branch.participant.as_str()).collect::<Vec<_>>().join(", "),
        worst.map_or_else(String::new, |branch| shorten(&branch.last_error, 48)),
    ]
}

/// How long ago it began; of one that ended long ago only its end may be remembered.
pub(super) fn age(transaction: &report::Transaction) -> String {
    let since = |moment: u64| format_millis(now_ms().saturating_sub(moment));
    match (transaction.begun_at_ms, transaction.finished_at_ms) {
        (0, 0) => "-".to_owned(),
        (0, finished) => format!("ended {} ago", since(finished)),
        (begun, _) => since(begun),
    }
}

fn phase_with_marks(transaction: &report::Transaction) -> String {
    let mut text = phase_code(transaction.phase).to_owned();
    for (mark, set) in [("FORCED", transaction.forced), ("MIXED", transaction.mixed)] {
        if set {
            text.push_str(" +");
            text.push_str(mark);
        }
    }
    text
}

fn shorten(text: &str, letters: usize) -> String {
    match text.char_indices().nth(letters) {
        None => text.to_owned(),
        Some((at, _)) => format!("{}…", &text[..at]),
    }
}

/// A transaction in full: a few lines, then its branches, then its timeline.
pub(super) fn show_transaction(output: &crate::output::Output, transaction: &report::Transaction) {
    let now = now_ms();
    let reason = reason_code(transaction.reason).map(|reason| format!(" ({reason})")).unwrap_or_default();
    output.line(format!("transaction  {}", crate::output::printable(&transaction.transaction_id)));
    output.line(format!("xid          {}", transaction.xid));
    output.line(format!("phase        {}{reason}", phase_with_marks(transaction)));
    if transaction.in_doubt {
        output.line("in doubt     yes");
    }
    for (name, moment) in [
        ("begun", transaction.begun_at_ms),
        ("deadline", transaction.deadline_ms),
        ("decided", transaction.decided_at_ms),
        ("finished", transaction.finished_at_ms),
    ] {
        if moment != 0 {
            output.line(format!("{name:<12} {}", relative(moment, now)));
        }
    }
    if !transaction.branches.is_empty() {
        output.line("");
        output.table(
            &["participant", "branch", "legs", "attempts", "last attempt", "next attempt", "last error"],
            transaction.branches.iter().map(|branch| branch_row(branch, now)),
        );
    }
    if !transaction.timeline.is_empty() {
        output.line("");
        output.table(
            &["when", "what"],
            transaction.timeline.iter().map(|event| vec![relative(event.at_ms, now), event.what.clone()]),
        );
    }
}

fn branch_row(branch: &report::Branch, now: u64) -> Vec<String> {
    let legs: Vec<String> = branch
        .legs
        .iter()
        .map(|leg| {
            let sign = if leg.direction == i32::from(report::Direction::Debit) { "-" } else { "+" };
            let amount = leg
                .currency
                .parse::<Currency>()
                .map_or_else(|_| leg.amount.to_string(), |currency| currency.format(i128::from(leg.amount)));
            format!("{} {sign}{amount} {}", leg.account_id, leg.currency)
        })
        .collect();
    let reason = reason_code(branch.reason).map(|reason| format!(" ({reason})")).unwrap_or_default();
    vec![
        branch.participant.clone(),
        format!("{}{reason}", branch_code(branch.state)),
        legs.join("\n"),
        branch.attempts.to_string(),
        relative(branch.last_attempt_ms, now),
        relative(branch.next_attempt_ms, now),
        branch.last_error.clone(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_text_and_integers() {
        let balance = Balance {
            currency: Currency::USD,
            posted: -1_234,
            reserved: 5,
            available: -1_239,
            incoming: 0,
            overdraft: escrow_client::Overdraft::Unlimited,
        };
        let value = balance_json(&balance);
        assert_eq!(value["posted"], "-12.34");
        assert_eq!(value["posted_minor"], -1_234);
        assert_eq!(value["overdraft"], "unlimited");
    }

    #[test]
    fn long_errors_are_cut_between_letters() {
        assert_eq!(shorten("äöü", 2), "äö…");
        assert_eq!(shorten("äöü", 3), "äöü");
    }
}
