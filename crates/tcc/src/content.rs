//! What a transaction moves.

use std::sync::LazyLock;

use escrow_types::{AccountKey, Amount, Currency, Digest, ParticipantId};

/// The most legs a transaction may have.
pub const LEGS_MAX: usize = 64;

/// Bit 15 of a leg's `kind` on the wire and in logs: set for a credit; the rest is the currency's numeric code.
pub const KIND_CREDIT: u16 = 0x8000;

/// Which way a leg moves money.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Out of the account.
    Debit,
    /// Into the account.
    Credit,
}

/// One debit or credit of one account in one currency, on the participant that held it when the transaction began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leg {
    /// Who holds the account.
    pub participant: ParticipantId,
    /// The account's key.
    pub account: AccountKey,
    /// The account's id as the caller wrote it, where it was written as text.
    pub account_id: Option<Box<str>>,
    /// Which way.
    pub direction: Direction,
    /// Minor units.
    pub amount: Amount,
    /// Of the amount.
    pub currency: Currency,
}

impl Leg {
    /// Direction and currency in two bytes.
    pub const fn kind(&self) -> u16 {
        kind(self.direction, self.currency)
    }
}

/// Direction and currency in two bytes.
pub const fn kind(direction: Direction, currency: Currency) -> u16 {
    match direction {
        Direction::Debit => currency.numeric(),
        Direction::Credit => currency.numeric() | KIND_CREDIT,
    }
}

/// Numeric codes have three digits.
const CURRENCY_CODES: u16 = 1_000;

/// The currency with a numeric code, by an index: this runs for each row of a batch, and not all rows are in dollars.
pub(crate) fn currency_of(code: u16) -> Option<Currency> {
    static CURRENCIES: LazyLock<Vec<Option<Currency>>> =
        LazyLock::new(|| (0..CURRENCY_CODES).map(Currency::from_numeric).collect());
    CURRENCIES.get(usize::from(code)).copied().flatten()
}

/// The two parts of a `kind`; `None` if there is no such currency.
pub fn parse_kind(kind: u16) -> Option<(Direction, Currency)> {
    let direction = if kind & KIND_CREDIT == 0 { Direction::Debit } else { Direction::Credit };
    Some((direction, currency_of(kind & !KIND_CREDIT)?))
}

/// The commonest transaction, without a heap allocation: one debit and one credit between wallet accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer {
    /// Who pays.
    pub from: AccountKey,
    /// Who is paid.
    pub to: AccountKey,
    /// Minor units.
    pub amount: Amount,
    /// Of the amount.
    pub currency: Currency,
    /// Who holds `from`.
    pub from_participant: ParticipantId,
    /// Who holds `to`.
    pub to_participant: ParticipantId,
}

impl Transfer {
    /// A 64-bit hash of what the caller asked for (not of where the accounts are).
    #[inline]
    pub fn fingerprint(&self) -> u64 {
        let (from, to) = (self.from.halves(), self.to.halves());
        let words = [1, from.0, from.1, to.0, to.1, self.amount, u64::from(self.currency.numeric())];
        Digest::of(&words).0 as u64
    }
}

/// What a transaction moves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A transfer between two wallet accounts.
    Transfer(Transfer),
    /// Any other set of legs, and every two-step transaction.
    Legs(Box<Legs>),
}

/// A transaction of several legs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Legs {
    /// Whether the caller decides (reserve, then confirm or cancel).
    pub two_step: bool,
    /// In the caller's order; 2 to [`LEGS_MAX`].
    pub legs: Vec<Leg>,
    /// Amounts that a partial Confirm posts, one a leg; set by the decision.
    pub partial: Option<Vec<Amount>>,
}

impl Content {
    /// Whether the caller decides.
    pub fn is_two_step(&self) -> bool {
        matches!(self, Self::Legs(legs) if legs.two_step)
    }

    /// A 64-bit hash of what the caller asked for, to tell a repeated request from another one under the same id.
    pub fn fingerprint(&self) -> u64 {
        match self {
            Self::Transfer(transfer) => transfer.fingerprint(),
            Self::Legs(legs) => {
                let mut words = vec![2, u64::from(legs.two_step)];
                for leg in &legs.legs {
                    let (high, low) = leg.account.halves();
                    words.extend([high, low, leg.amount, u64::from(leg.kind())]);
                }
                Digest::of(&words).0 as u64
            }
        }
    }

    /// The participants of the branches, in order of first appearance.
    pub fn participants(&self) -> Vec<ParticipantId> {
        match self {
            Self::Transfer(transfer) if transfer.from_participant == transfer.to_participant => {
                vec![transfer.from_participant]
            }
            Self::Transfer(transfer) => vec![transfer.from_participant, transfer.to_participant],
            Self::Legs(legs) => {
                let mut participants = Vec::new();
                for leg in &legs.legs {
                    if !participants.contains(&leg.participant) {
                        participants.push(leg.participant);
                    }
                }
                participants
            }
        }
    }

    /// Whether there is a branch on a participant.
    pub fn concerns(&self, participant: ParticipantId) -> bool {
        match self {
            Self::Transfer(transfer) => {
                [transfer.from_participant, transfer.to_participant].contains(&participant)
            }
            Self::Legs(legs) => legs.legs.iter().any(|leg| leg.participant == participant),
        }
    }

    /// All legs, as data.
    pub fn legs(&self) -> Vec<Leg> {
        match self {
            Self::Transfer(transfer) => {
                let leg = |participant, account, direction| Leg {
                    participant,
                    account,
                    account_id: None,
                    direction,
                    amount: transfer.amount,
                    currency: transfer.currency,
                };
                vec![
                    leg(transfer.from_participant, transfer.from, Direction::Debit),
                    leg(transfer.to_participant, transfer.to, Direction::Credit),
                ]
            }
            Self::Legs(legs) => legs.legs.clone(),
        }
    }

    /// Calls `each` with (account, amount, kind) of every leg on one participant, in order.
    #[inline]
    pub fn for_each_leg_of(&self, participant: ParticipantId, mut each: impl FnMut(AccountKey, Amount, u16)) {
        match self {
            Self::Transfer(transfer) => {
                if transfer.from_participant == participant {
                    each(transfer.from, transfer.amount, kind(Direction::Debit, transfer.currency));
                }
                if transfer.to_participant == participant {
                    each(transfer.to, transfer.amount, kind(Direction::Credit, transfer.currency));
                }
            }
            Self::Legs(legs) => {
                for leg in legs.legs.iter().filter(|leg| leg.participant == participant) {
                    each(leg.account, leg.amount, leg.kind());
                }
            }
        }
    }

    /// The amounts of a partial Confirm on one participant, one a leg in the order of Try; `None` when all is posted.
    pub fn partial_of(&self, participant: ParticipantId) -> Option<Vec<Amount>> {
        let Self::Legs(legs) = self else { return None };
        let partial = legs.partial.as_ref()?;
        let pairs = legs.legs.iter().zip(partial);
        Some(pairs.filter(|(leg, _)| leg.participant == participant).map(|(_, &amount)| amount).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transfer(amount: Amount) -> Transfer {
        Transfer {
            from: AccountKey(1),
            to: AccountKey(2),
            amount,
            currency: Currency::USD,
            from_participant: ParticipantId(0),
            to_participant: ParticipantId(1),
        }
    }

    #[test]
    fn other_content_has_another_fingerprint() {
        let moved = Transfer { from_participant: ParticipantId(7), ..transfer(5) };
        assert_eq!(transfer(5).fingerprint(), moved.fingerprint(), "where an account is does not count");
        assert_ne!(transfer(5).fingerprint(), transfer(6).fingerprint());
        let swapped = Transfer { from: AccountKey(2), to: AccountKey(1), ..transfer(5) };
        assert_ne!(transfer(5).fingerprint(), swapped.fingerprint());
    }

    #[test]
    fn kinds_round_trip() {
        for direction in [Direction::Debit, Direction::Credit] {
            assert_eq!(parse_kind(kind(direction, Currency::EUR)), Some((direction, Currency::EUR)));
        }
        assert_eq!(parse_kind(1), None);
    }

    #[test]
    fn currencies_by_index_are_those_of_the_catalogue() {
        for code in 0..=u16::MAX {
            assert_eq!(currency_of(code), Currency::from_numeric(code));
        }
    }

    #[test]
    fn legs_on_one_participant_are_one_branch() {
        let same = Transfer { to_participant: ParticipantId(0), ..transfer(5) };
        assert_eq!(Content::Transfer(same).participants(), [ParticipantId(0)]);
        let mut seen = Vec::new();
        Content::Transfer(same).for_each_leg_of(ParticipantId(0), |account, _, _| seen.push(account.0));
        assert_eq!(seen, [1, 2]);
    }
}
