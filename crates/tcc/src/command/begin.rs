//! Transactions that began. Sequences are dense: those of a batch follow its first.

use escrow_types::codec::{Malformed, Put as _, Take};
use escrow_types::{AccountKey, Amount, Currency, Millis, ParticipantId, Sequence, TransactionKey};

use crate::content::{self, Content, Direction, Leg, Legs, Transfer};

/// Transfers that began in one turn, as columns of equal length. Row `i` has the sequence `first + i` of the epoch
/// that is open.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BeginTransfers {
    /// Sequence of the first row.
    pub first: Sequence,
    /// The callers' ids.
    pub keys: Vec<u128>,
    /// Who pays.
    pub from: Vec<u128>,
    /// Who is paid.
    pub to: Vec<u128>,
    /// Minor units.
    pub amounts: Vec<u64>,
    /// ISO 4217 numeric codes.
    pub currencies: Vec<u16>,
    /// Who holds `from`.
    pub from_participants: Vec<u16>,
    /// Who holds `to`.
    pub to_participants: Vec<u16>,
    /// Undecided at this time: canceled.
    pub deadlines: Vec<Millis>,
    /// Ids that were given as text and are not UUIDs, so that people can read them again.
    pub names: Vec<Name>,
}

/// What a [`Name`] is the name of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum NameOf {
    /// The `transaction_id`.
    Transaction = 0,
    /// The account that pays.
    From = 1,
    /// The account that is paid.
    To = 2,
}

/// The text of an id of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// Which row of the batch.
    pub row: u32,
    /// Which id of the row.
    pub of: NameOf,
    /// The text.
    pub text: Box<str>,
}

impl BeginTransfers {
    /// None yet, with room for some.
    pub fn with_capacity(first: Sequence, rows: usize) -> Self {
        Self {
            first,
            keys: Vec::with_capacity(rows),
            from: Vec::with_capacity(rows),
            to: Vec::with_capacity(rows),
            amounts: Vec::with_capacity(rows),
            currencies: Vec::with_capacity(rows),
            from_participants: Vec::with_capacity(rows),
            to_participants: Vec::with_capacity(rows),
            deadlines: Vec::with_capacity(rows),
            names: Vec::new(),
        }
    }

    /// How many began.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether none did.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Appends a row.
    #[inline]
    pub fn push(&mut self, key: TransactionKey, transfer: &Transfer, deadline: Millis) {
        self.keys.push(key.0);
        self.from.push(transfer.from.0);
        self.to.push(transfer.to.0);
        self.amounts.push(transfer.amount);
        self.currencies.push(transfer.currency.numeric());
        self.from_participants.push(transfer.from_participant.0);
        self.to_participants.push(transfer.to_participant.0);
        self.deadlines.push(deadline);
    }

    /// One row. The currency was checked when it was decoded or pushed.
    #[inline]
    pub fn transfer(&self, row: usize) -> Transfer {
        Transfer {
            from: AccountKey(self.from[row]),
            to: AccountKey(self.to[row]),
            amount: self.amounts[row],
            currency: content::currency_of(self.currencies[row]).expect("checked by decode and push"),
            from_participant: ParticipantId(self.from_participants[row]),
            to_participant: ParticipantId(self.to_participants[row]),
        }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        /// Three keys, two numbers and three codes; the counts of the columns are fewer than one row.
        const ROW_BYTES: usize = 3 * 16 + 2 * 8 + 3 * 2;
        out.reserve(ROW_BYTES * (self.len() + 1));
        out.put_u64(self.first);
        out.put_column_u128(&self.keys);
        out.put_column_u128(&self.from);
        out.put_column_u128(&self.to);
        out.put_column_u64(&self.amounts);
        out.put_column_u16(&self.currencies);
        out.put_column_u16(&self.from_participants);
        out.put_column_u16(&self.to_participants);
        out.put_column_u64(&self.deadlines);
        out.put_u32(self.names.len() as u32);
        for name in &self.names {
            out.put_u32(name.row);
            out.put_u8(name.of as u8);
            out.put_bytes(name.text.as_bytes());
        }
    }

    pub(super) fn decode(take: &mut Take<'_>) -> Result<Self, Malformed> {
        let mut begin = Self {
            first: take.u64()?,
            keys: take.column_u128()?,
            from: take.column_u128()?,
            to: take.column_u128()?,
            amounts: take.column_u64()?,
            currencies: take.column_u16()?,
            from_participants: take.column_u16()?,
            to_participants: take.column_u16()?,
            deadlines: take.column_u64()?,
            names: Vec::new(),
        };
        let rows = begin.keys.len();
        let equal = [
            begin.from.len(),
            begin.to.len(),
            begin.amounts.len(),
            begin.currencies.len(),
            begin.from_participants.len(),
            begin.to_participants.len(),
            begin.deadlines.len(),
        ];
        if equal.iter().any(|&length| length != rows) {
            return Err(Malformed("columns of unequal length"));
        }
        if begin.currencies.iter().any(|&code| content::currency_of(code).is_none()) {
            return Err(Malformed("unknown currency"));
        }
        for _ in 0..take.u32()? {
            let row = take.u32()?;
            let of = match take.u8()? {
                0 => NameOf::Transaction,
                1 => NameOf::From,
                2 => NameOf::To,
                _ => return Err(Malformed("unknown kind of name")),
            };
            if row as usize >= rows {
                return Err(Malformed("a name of no row"));
            }
            let text = take.text()?;
            if text.is_empty() || begin.names.last().is_some_and(|last| (last.row, last.of) >= (row, of)) {
                return Err(Malformed("a name that is empty or out of order"));
            }
            begin.names.push(Name { row, of, text: text.into() });
        }
        Ok(begin)
    }
}

/// One transaction of several legs that began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BeginLegs {
    /// Its sequence in the epoch that is open.
    pub sequence: Sequence,
    /// The caller's id.
    pub key: TransactionKey,
    /// The caller's id as text, where it is not a UUID.
    pub transaction_id: Option<Box<str>>,
    /// Undecided at this time: canceled.
    pub deadline: Millis,
    /// What it moves. `partial` is never set here.
    pub legs: Legs,
}

pub(crate) fn encode_text(out: &mut Vec<u8>, text: Option<&str>) {
    out.put_bytes(text.unwrap_or_default().as_bytes());
}

pub(crate) fn decode_text(take: &mut Take<'_>) -> Result<Option<Box<str>>, Malformed> {
    let text = take.text()?;
    Ok(if text.is_empty() { None } else { Some(text.into()) })
}

pub(crate) fn encode_legs(out: &mut Vec<u8>, legs: &Legs) {
    out.put_u8(u8::from(legs.two_step));
    out.put_u16(legs.legs.len() as u16);
    for leg in &legs.legs {
        out.put_u16(leg.participant.0);
        out.put_u128(leg.account.0);
        encode_text(out, leg.account_id.as_deref());
        out.put_u64(leg.amount);
        out.put_u16(leg.kind());
    }
}

pub(crate) fn decode_legs(take: &mut Take<'_>) -> Result<Legs, Malformed> {
    let two_step = take.flag()?;
    let count = usize::from(take.u16()?);
    if count > content::LEGS_MAX {
        return Err(Malformed("too many legs"));
    }
    let mut legs = Vec::with_capacity(count);
    for _ in 0..count {
        let participant = ParticipantId(take.u16()?);
        let account = AccountKey(take.u128()?);
        let account_id = decode_text(take)?;
        let amount: Amount = take.u64()?;
        let (direction, currency): (Direction, Currency) =
            content::parse_kind(take.u16()?).ok_or(Malformed("unknown currency"))?;
        legs.push(Leg { participant, account, account_id, direction, amount, currency });
    }
    Ok(Legs { two_step, legs, partial: None })
}

impl BeginLegs {
    /// The content, for the table.
    pub fn content(&self) -> Content {
        Content::Legs(Box::new(self.legs.clone()))
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.sequence);
        out.put_u128(self.key.0);
        encode_text(out, self.transaction_id.as_deref());
        out.put_u64(self.deadline);
        encode_legs(out, &self.legs);
    }

    pub(super) fn decode(take: &mut Take<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            sequence: take.u64()?,
            key: TransactionKey(take.u128()?),
            transaction_id: decode_text(take)?,
            deadline: take.u64()?,
            legs: decode_legs(take)?,
        })
    }
}
