//! From messages to commands: what is wrong with a message is told before anything of it is logged.

use escrow_proto::v1 as proto;
use escrow_proto::v1::overdraft::Policy;
use escrow_service::refusal;
use escrow_types::{AccountId, AccountKey, Currency, Epoch, Reason, Xid, dense};
use escrow_wallet::{
    AccountView, Command, EndBatch, Hello, OpenAccount, Overdraft, Partial, Sender, TryBatch, Watermark,
    kind_of,
};
use tonic::Status;

use super::{invalid, partition};

/// Rows of one message.
pub(super) const ROWS_MAX: usize = 1 << 20;

const CREDIT: u16 = 0x8000;

fn unequal(what: &str) -> Status {
    refusal(Reason::InvalidArgument, format!("{what}: columns of unequal length"))
}

fn bounded(what: &str, rows: usize) -> Result<(), Status> {
    if rows <= ROWS_MAX {
        return Ok(());
    }
    Err(refusal(
        Reason::MessageTooLarge,
        format!("{what}: {rows} rows, at most {ROWS_MAX} go into a message"),
    ))
}

/// A hello, with the participant that is meant.
pub(super) fn hello(request: &proto::HelloRequest) -> Result<Hello, Status> {
    let rows = request.unfinished_sequence.len();
    bounded("hello", rows)?;
    if request.unfinished_epoch.len() != rows {
        return Err(unequal("hello"));
    }
    if request.epoch == 0 {
        return Err(invalid("epoch 0 is no epoch"));
    }
    let epochs = request.unfinished_epoch.iter().copied().map(Epoch);
    let unfinished = epochs.zip(request.unfinished_sequence.iter().copied()).collect();
    Ok(Hello { partition: partition(request.partition)?, epoch: Epoch(request.epoch), unfinished })
}

pub(super) fn try_columns(sender: Sender, columns: proto::TryColumns) -> Result<TryBatch, Status> {
    let rows = columns.amount.len();
    bounded("try", rows)?;
    let (kinds, rest) = columns.kind.as_chunks::<2>();
    let highs_and_lows = columns.account_high.len() == rows && columns.account_low.len() == rows;
    if !highs_and_lows || kinds.len() != rows || !rest.is_empty() {
        return Err(unequal("try"));
    }
    let sequences = dense::of_message(columns.sequence, columns.first_sequence, rows);
    let sequences = sequences.ok_or_else(|| unequal("try"))?;
    let kinds: Vec<u16> = kinds.iter().map(|bytes| u16::from_le_bytes(*bytes)).collect();
    check_currencies(&kinds)?;
    let halves = columns.account_high.iter().zip(&columns.account_low);
    let accounts = halves.map(|(&high, &low)| AccountKey::from_halves(high, low).0).collect();
    let (epoch, deadline_ms) = (Epoch(columns.epoch), columns.deadline_ms);
    TryBatch::new(sender, epoch, deadline_ms, sequences, accounts, columns.amount, kinds)
        .map_err(|_| unequal("try"))
}

fn check_currencies(kinds: &[u16]) -> Result<(), Status> {
    let mut known = None;
    for &kind in kinds {
        let code = kind & !CREDIT;
        // Neighbours mostly have the same, and a look-up is a search.
        if known != Some(code) {
            if Currency::from_numeric(code).is_none() {
                return Err(refusal(Reason::InvalidCurrency, format!("{code} is no ISO 4217 numeric code")));
            }
            known = Some(code);
        }
    }
    Ok(())
}

pub(super) fn end_columns(
    sender: Sender,
    columns: proto::EndColumns,
    confirm: bool,
) -> Result<EndBatch, Status> {
    let rows = if columns.sequence.is_empty() { columns.rows as usize } else { columns.sequence.len() };
    if columns.sequence.is_empty() && rows > dense::ROWS_MAX {
        let message = format!(
            "end: {rows} rows, at most {} go into a message that does not name them",
            dense::ROWS_MAX
        );
        return Err(refusal(Reason::MessageTooLarge, message));
    }
    bounded("end", rows.max(columns.partial_amount.len()))?;
    let sequences = dense::of_message(columns.sequence, columns.first_sequence, rows);
    let sequences = sequences.ok_or_else(|| unequal("end"))?;
    let is_partial = !columns.partial_legs.is_empty() || !columns.partial_amount.is_empty();
    if is_partial && !confirm {
        return Err(invalid("only a confirm may be partial"));
    }
    let partial =
        is_partial.then_some(Partial { legs: columns.partial_legs, amounts: columns.partial_amount });
    EndBatch::with_partial(sender, Epoch(columns.epoch), sequences, partial).map_err(|_| unequal("confirm"))
}

pub(super) fn watermark(sender: Sender, watermark: proto::Watermark) -> Result<Watermark, Status> {
    bounded("watermark", watermark.except.len())?;
    Ok(Watermark { sender, epoch: Epoch(watermark.epoch), below: watermark.below, except: watermark.except })
}

pub(super) fn xid(xid: Option<proto::Xid>) -> Result<Xid, Status> {
    let xid = xid.ok_or_else(|| invalid("xid is missing"))?;
    Ok(Xid::new(partition(xid.partition)?, Epoch(xid.epoch), xid.sequence))
}

pub(super) fn try_request(request: &proto::TryRequest) -> Result<TryBatch, Status> {
    let xid = xid(request.xid)?;
    let legs = &request.legs;
    if legs.is_empty() || legs.len() > escrow_wallet::LEGS_MAX {
        let message = format!("{} legs; a branch has 1 to {}", legs.len(), escrow_wallet::LEGS_MAX);
        return Err(refusal(Reason::InvalidLegs, message));
    }
    let (mut accounts, mut amounts, mut kinds) = (Vec::new(), Vec::new(), Vec::new());
    for leg in legs {
        let credit = match leg.direction() {
            proto::Direction::Debit => false,
            proto::Direction::Credit => true,
            proto::Direction::Unspecified => {
                return Err(refusal(Reason::InvalidLegs, "a leg without direction"));
            }
        };
        if leg.amount == 0 {
            return Err(refusal(Reason::AmountZero, "a leg with nothing to move"));
        }
        accounts.push(account_id(&leg.account_id)?.key().0);
        amounts.push(leg.amount);
        kinds.push(kind_of(currency(&leg.currency)?, credit));
    }
    let sender = Sender::new(xid.partition, Epoch(request.sender_epoch));
    let sequences = vec![xid.sequence; legs.len()];
    TryBatch::new(sender, xid.epoch, request.deadline_ms, sequences, accounts, amounts, kinds)
        .map_err(|_| unequal("try"))
}

pub(super) fn confirm_request(request: proto::ConfirmBranchRequest) -> Result<Command, Status> {
    let xid = xid(request.xid)?;
    let legs = u32::try_from(request.amounts.len()).map_err(|_| invalid("too many amounts"))?;
    let partial = (legs > 0).then_some(Partial { legs: vec![legs], amounts: request.amounts });
    let sender = Sender::new(xid.partition, Epoch(request.sender_epoch));
    let batch = EndBatch::with_partial(sender, xid.epoch, vec![xid.sequence], partial);
    batch.map(Command::Confirm).map_err(|_| unequal("confirm"))
}

pub(super) fn cancel_request(request: &proto::CancelBranchRequest) -> Result<Command, Status> {
    let xid = xid(request.xid)?;
    let sender = Sender::new(xid.partition, Epoch(request.sender_epoch));
    let batch = EndBatch::new(sender, xid.epoch, vec![xid.sequence]);
    batch.map(Command::Cancel).map_err(|_| unequal("cancel"))
}

pub(super) fn account_id(id: &str) -> Result<AccountId, Status> {
    AccountId::new(id).map_err(|error| refusal(Reason::InvalidAccountId, error.to_string()))
}

pub(super) fn currency(code: &str) -> Result<Currency, Status> {
    code.parse()
        .map_err(|error: escrow_types::AmountError| refusal(Reason::InvalidCurrency, error.to_string()))
}

/// One row of an opening; the reason if it is wrong.
pub(super) fn open_account(row: &proto::OpenAccount) -> Result<OpenAccount, Reason> {
    let id = AccountId::new(&row.account_id).map_err(|_| Reason::InvalidAccountId)?;
    let currency = row.currency.parse().map_err(|_| Reason::InvalidCurrency)?;
    let overdraft = match row.overdraft.as_ref().and_then(|overdraft| overdraft.policy) {
        Some(Policy::Limit(limit)) => Overdraft::Limit(limit),
        Some(Policy::Unlimited(true)) => Overdraft::Unlimited,
        // "unlimited: false" and "forbidden: false" ask for nothing else, so they get the default.
        None | Some(Policy::Forbidden(_) | Policy::Unlimited(false)) => Overdraft::Forbidden,
    };
    Ok(OpenAccount { id, currency, overdraft })
}

fn overdraft(overdraft: Overdraft) -> proto::Overdraft {
    let policy = match overdraft {
        Overdraft::Forbidden => Policy::Forbidden(true),
        Overdraft::Limit(limit) => Policy::Limit(limit),
        Overdraft::Unlimited => Policy::Unlimited(true),
    };
    proto::Overdraft { policy: Some(policy) }
}

pub(super) fn account(view: AccountView, shard: u16) -> proto::Account {
    let balances = view.balances.into_iter().map(|balance| proto::Balance {
        currency: balance.currency.code().to_owned(),
        posted: balance.posted,
        reserved: balance.reserved,
        available: balance.available,
        incoming: balance.incoming,
        overdraft: Some(overdraft(balance.overdraft)),
    });
    let balances = balances.collect();
    proto::Account { account_id: view.id, frozen: view.frozen, balances, participant: shard.to_string() }
}

/// The size of a page: 0 means 100, and nothing above 10,000.
pub(super) fn page_size(asked: u32) -> Result<usize, Status> {
    match asked {
        0 => Ok(100),
        1..=10_000 => Ok(asked as usize),
        _ => Err(invalid("page_size is at most 10,000")),
    }
}
