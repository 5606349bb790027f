//! What callers give and get.

use std::time::Duration;

use escrow_types::{AccountId, Amount, Currency, Reason, TransactionId, Xid};

/// When the caller wants its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Wait {
    /// As soon as the decision is durable: the money is certain to move, balances may lag by a moment.
    Decided,
    /// When every branch has acknowledged: balances read afterwards include the transaction.
    #[default]
    Completed,
}

/// How far a transaction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Begun, not decided.
    Pending,
    /// Two-step: all reserved, the caller decides.
    Reserved,
    /// Decided: Confirm.
    Confirmed,
    /// Decided: Cancel.
    Canceled,
    /// No transaction with this id is remembered.
    NotFound,
    /// Refused before it began. Only in streams; unary calls end in [`crate::ClientError::Refused`].
    Refused,
}

impl State {
    /// The name that users see.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Reserved => "RESERVED",
            Self::Confirmed => "CONFIRMED",
            Self::Canceled => "CANCELED",
            Self::NotFound => "NOT_FOUND",
            Self::Refused => "REFUSED",
        }
    }
}

/// One debit and one credit.
#[derive(Debug, Clone)]
pub struct Transfer {
    /// The idempotency key; `None`: a UUIDv7 is made, once, before the first attempt.
    pub transaction_id: Option<TransactionId>,
    /// Who pays.
    pub from: AccountId,
    /// Who is paid.
    pub to: AccountId,
    /// In minor units, above zero.
    pub amount: Amount,
    /// The currency of both sides.
    pub currency: Currency,
    /// When to answer.
    pub wait: Wait,
    /// The transaction is canceled if not all is reserved by then; `None`: the server's default. Also bounds the call.
    pub timeout: Option<Duration>,
}

impl Transfer {
    /// A transfer with a fresh id, the server's default timeout, and an answer when it is completed.
    pub const fn new(from: AccountId, to: AccountId, amount: Amount, currency: Currency) -> Self {
        Self { transaction_id: None, from, to, amount, currency, wait: Wait::Completed, timeout: None }
    }

    /// With the caller's own idempotency key.
    #[must_use]
    pub fn with_id(mut self, transaction_id: TransactionId) -> Self {
        self.transaction_id = Some(transaction_id);
        self
    }

    /// With another moment to answer.
    #[must_use]
    pub const fn with_wait(mut self, wait: Wait) -> Self {
        self.wait = wait;
        self
    }

    /// With a timeout of its own.
    #[must_use]
    pub const fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

/// Which way a leg moves money.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Out of the account.
    Debit,
    /// Into the account.
    Credit,
}

/// One debit or credit of one account.
#[derive(Debug, Clone)]
pub struct Leg {
    /// The account.
    pub account_id: AccountId,
    /// Which way.
    pub direction: Direction,
    /// In minor units, above zero.
    pub amount: Amount,
    /// The currency.
    pub currency: Currency,
    /// The configured name of the external participant that holds the account; `None` for a wallet account.
    pub participant: Option<String>,
}

impl Leg {
    /// Money leaves a wallet account.
    pub const fn debit(account_id: AccountId, amount: Amount, currency: Currency) -> Self {
        Self { account_id, direction: Direction::Debit, amount, currency, participant: None }
    }

    /// Money enters a wallet account.
    pub const fn credit(account_id: AccountId, amount: Amount, currency: Currency) -> Self {
        Self { account_id, direction: Direction::Credit, amount, currency, participant: None }
    }

    /// The same leg on an external participant.
    #[must_use]
    pub fn on(mut self, participant: impl Into<String>) -> Self {
        self.participant = Some(participant.into());
        self
    }
}

/// What became of a transaction, when it was answered. Two are equal if they say that the same became of the same transaction,
/// whatever else was known by then.
#[derive(Debug, Clone, Eq)]
pub struct Outcome {
    /// The id that it has, given or made.
    pub transaction_id: String,
    /// The coordinator's name of it; `None` when it never began.
    pub xid: Option<Xid>,
    /// How far it is.
    pub state: State,
    /// Why it was canceled or refused.
    pub reason: Option<Reason>,
    /// Of a single transfer that is completed: a read of its accounts with this in [`ReadBounds`] shows it. Empty: not known.
    pub position: String,
}

impl PartialEq for Outcome {
    fn eq(&self, other: &Self) -> bool {
        let said = |it: &Self| (it.xid, it.state, it.reason);
        self.transaction_id == other.transaction_id && said(self) == said(other)
    }
}

/// What is remembered of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What became of it.
    pub outcome: Outcome,
    /// Whether every branch has acknowledged the decision.
    pub completed: bool,
}

/// A two-step transaction after its first step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// `Reserved`, or `Canceled` with a reason.
    pub outcome: Outcome,
    /// When it is canceled unless confirmed; Unix milliseconds.
    pub expires_at_ms: u64,
}

/// How far a balance may go below zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overdraft {
    /// Never.
    #[default]
    Forbidden,
    /// At most this far, in minor units.
    Limit(Amount),
    /// Any depth: for external and treasury accounts.
    Unlimited,
}

/// An account to open, or a currency to add to one.
#[derive(Debug, Clone)]
pub struct OpenAccount {
    /// Which account.
    pub account_id: AccountId,
    /// Which currency.
    pub currency: Currency,
    /// How far below zero.
    pub overdraft: Overdraft,
}

/// What became of one account to open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenedAccount {
    /// Which account.
    pub account_id: String,
    /// Whether this call opened it; `false` without a reason: it was there already, just so.
    pub opened: bool,
    /// Why it was refused.
    pub reason: Option<Reason>,
}

/// An account with its balances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its id.
    pub account_id: String,
    /// Whether it takes part in nothing new.
    pub frozen: bool,
    /// One balance for each currency it holds.
    pub balances: Vec<Balance>,
    /// The participant that holds it.
    pub participant: String,
}

/// What a read may lack. The default is no bound, which stands for: nothing that was acknowledged before.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReadBounds {
    /// Nothing that was acknowledged longer ago than this; rounded to milliseconds, at least one.
    pub age_max: Option<Duration>,
    /// Nothing that an earlier answer with this position knew of; empty: no such bound.
    pub position: String,
}

/// An account as it was at some time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountAsOf {
    /// The account.
    pub account: Account,
    /// Names that state, for [`ReadBounds`].
    pub position: String,
    /// Nothing that was acknowledged longer ago than this is lacking; `None`: not known.
    pub age: Option<Duration>,
}

/// A balance in one currency, in minor units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Balance {
    /// Of which currency.
    pub currency: Currency,
    /// Settled.
    pub posted: i64,
    /// Held by reservations.
    pub reserved: u64,
    /// `posted - reserved`.
    pub available: i64,
    /// Credits promised.
    pub incoming: u64,
    /// How far below zero it may go.
    pub overdraft: Overdraft,
}
