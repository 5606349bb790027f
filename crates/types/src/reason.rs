//! The one catalogue of reasons, and the answers of participants.
//!
//! The numbers are part of logs and of the wire: never reuse one. `escrow.v1.Reason` in the .proto files has the same.

use std::fmt;

macro_rules! reasons {
    ($($name:ident = $number:literal, $text:literal, $doc:literal;)*) => {
        /// Why a transaction was canceled, a branch rejected, or a request refused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Reason { $(#[doc = $doc] $name = $number,)* }

        impl Reason {
            /// All of them, in order of their numbers.
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)*];

            /// The name that users see, in JSON, in `google.rpc.ErrorInfo` and in documentation.
            pub const fn code(self) -> &'static str {
                match self { $(Reason::$name => $text,)* }
            }

            /// The reason with this number, if there is one.
            pub const fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Reason::$name),)* _ => None }
            }

            /// The reason with this name, if there is one.
            pub fn from_code(code: &str) -> Option<Self> {
                match code { $($text => Some(Reason::$name),)* _ => None }
            }
        }
    };
}

reasons! {
    // Branch reasons: a participant rejected its Try. Order is precedence.
    AccountNotFound = 1, "ACCOUNT_NOT_FOUND", "No such account on the shard that should hold it.";
    CurrencyNotHeld = 2, "CURRENCY_NOT_HELD", "The account has no balance in this currency.";
    AccountFrozen = 3, "ACCOUNT_FROZEN", "The account takes part in nothing while frozen.";
    InsufficientFunds = 4, "INSUFFICIENT_FUNDS", "The debit exceeds what is available, with its overdraft.";
    BalanceOverflow = 5, "BALANCE_OVERFLOW", "A balance would leave the range of ±(2^63 − 1) minor units.";
    ParticipantRejected = 6, "PARTICIPANT_REJECTED", "An external participant refused, with a reason of its own.";
    // Decision reasons: the coordinator canceled.
    DeadlineExceeded = 16, "DEADLINE_EXCEEDED", "Not all branches were reserved, or no Confirm came, in time.";
    CanceledByCaller = 17, "CANCELED_BY_CALLER", "The caller canceled its reservation.";
    CanceledByOperator = 18, "CANCELED_BY_OPERATOR", "An operator canceled it while it was undecided.";
    Forced = 19, "FORCED", "An operator forced the decision.";
    // Request reasons: refused before anything began.
    InvalidTransactionId = 32, "INVALID_TRANSACTION_ID", "Empty, too long, not UTF-8, or with control characters.";
    InvalidAccountId = 33, "INVALID_ACCOUNT_ID", "Empty, too long, not UTF-8, or with control characters.";
    SameAccount = 34, "SAME_ACCOUNT", "The same account on both sides.";
    InvalidCurrency = 35, "INVALID_CURRENCY", "Not an ISO 4217 code.";
    AmountZero = 36, "AMOUNT_ZERO", "Nothing to move.";
    InvalidAmount = 37, "INVALID_AMOUNT", "Not a valid amount; or a partial amount above what is reserved.";
    LegsUnbalanced = 38, "LEGS_UNBALANCED", "Debits and credits of a currency differ.";
    InvalidLegs = 39, "INVALID_LEGS", "Too few or too many legs, or one without a direction.";
    UnknownParticipant = 40, "UNKNOWN_PARTICIPANT", "A leg names a participant that is not configured.";
    InvalidArgument = 41, "INVALID_ARGUMENT", "Another field of the request is wrong; the message says which.";
    TransactionIdReused = 48, "TRANSACTION_ID_REUSED", "The id belongs to a transaction with other content.";
    TransactionIdExpired = 49, "TRANSACTION_ID_EXPIRED", "The UUIDv7 is older than the idempotency window.";
    TransactionNotFound = 50, "TRANSACTION_NOT_FOUND", "No transaction with this id or xid is remembered.";
    AlreadyDecided = 51, "ALREADY_DECIDED", "The decision is made and cannot change.";
    NotReserved = 52, "NOT_RESERVED", "Not a two-step transaction, or not all its branches are reserved yet.";
    AccountExists = 53, "ACCOUNT_EXISTS", "The account exists with other properties.";
    NotInDoubt = 54, "NOT_IN_DOUBT", "The operator's verb does not fit the transaction's state.";
    Overloaded = 64, "OVERLOADED", "The server has as much unfinished work as it takes; retry after a pause.";
    ParticipantUnavailable = 65, "PARTICIPANT_UNAVAILABLE", "The shard cannot be reached now; nothing began.";
    OutcomeUnknown = 66, "OUTCOME_UNKNOWN", "Accepted, but the outcome is not known yet: ask by transaction_id.";
    ShuttingDown = 67, "SHUTTING_DOWN", "The server takes no new work; retry elsewhere or later.";
    Paused = 68, "PAUSED", "An operator paused new work.";
    MessageTooLarge = 69, "MESSAGE_TOO_LARGE", "The message exceeds the documented limit.";
    NotLeader = 70, "NOT_LEADER", "This replica does not lead its group; ask the leader.";
}

impl Reason {
    /// Whether the same request may succeed later. A retry with the same transaction_id is always safe.
    pub const fn is_retryable(self) -> bool {
        matches!(
            self,
            Self::Overloaded
                | Self::ParticipantUnavailable
                | Self::OutcomeUnknown
                | Self::ShuttingDown
                | Self::Paused
                | Self::NotLeader
        )
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// What a participant says to a Try, Confirm or Cancel of one branch. One byte on the wire and in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Answer {
    /// Try: the branch is reserved (now, or by an earlier copy of the same Try).
    Reserved,
    /// Confirm, TryAndConfirm: posted (now or earlier).
    Confirmed,
    /// Cancel: released, or never reserved and fenced.
    Canceled,
    /// The xid is below the watermark or of a closed epoch: it ended; nothing changed.
    Finished,
    /// Try after Cancel: refused, the branch is canceled.
    TryAfterCancel,
    /// A breach of the contract; nothing changed.
    Contradiction,
    /// The sender's epoch is older than the newest hello; nothing changed.
    StaleEpoch,
    /// No hello of the sender's epoch was seen yet; nothing changed.
    HelloRequired,
    /// The message itself is wrong (for example too many legs); nothing changed.
    Invalid,
    /// Try, TryAndConfirm: refused for this reason.
    Rejected(Reason),
}

impl Answer {
    const REJECTED_BASE: u8 = 0x40;

    /// The byte that stands for it.
    pub const fn to_byte(self) -> u8 {
        match self {
            Self::Reserved => 1,
            Self::Confirmed => 2,
            Self::Canceled => 3,
            Self::Finished => 4,
            Self::TryAfterCancel => 5,
            Self::Contradiction => 6,
            Self::StaleEpoch => 7,
            Self::HelloRequired => 8,
            Self::Invalid => 9,
            Self::Rejected(reason) => Self::REJECTED_BASE | reason as u8,
        }
    }

    /// The answer that a byte stands for, if any.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Reserved,
            2 => Self::Confirmed,
            3 => Self::Canceled,
            4 => Self::Finished,
            5 => Self::TryAfterCancel,
            6 => Self::Contradiction,
            7 => Self::StaleEpoch,
            8 => Self::HelloRequired,
            9 => Self::Invalid,
            _ if byte & Self::REJECTED_BASE != 0 => match Reason::from_number(byte & !Self::REJECTED_BASE) {
                Some(reason) if (reason as u8) < 16 => Self::Rejected(reason),
                _ => return None,
            },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_numbers_round_trip() {
        for &reason in Reason::ALL {
            assert_eq!(Reason::from_number(reason as u8), Some(reason));
            assert_eq!(Reason::from_code(reason.code()), Some(reason));
        }
    }

    #[test]
    fn every_byte_is_one_answer_or_none() {
        let mut answers = 0;
        for byte in 0..=255u8 {
            if let Some(answer) = Answer::from_byte(byte) {
                assert_eq!(answer.to_byte(), byte);
                answers += 1;
            }
        }
        assert_eq!(answers, 9 + 6, "nine plain answers and six branch reasons");
    }
}
