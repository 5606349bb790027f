//! The words of the protocol, as small as the bound allows: names of epochs, transactions, shards and xids.
//!
//! An xid is `(epoch, transaction)`. The real one has a sequence instead; here no epoch begins a transaction twice, so
//! the transaction itself can stand for its sequence.

use std::fmt;

/// The most leaders that work in a run; [`crate::settle`] may add one more, who begins nothing.
pub const EPOCHS_MAX: u8 = 3;
/// The most transactions of a run.
pub const TRANSACTIONS_MAX: u8 = 2;
/// How many xids there can be.
pub const XIDS: usize = (EPOCHS_MAX * TRANSACTIONS_MAX) as usize;
/// How many shards there are: A is debited, B is credited.
pub const SHARDS: usize = 2;

/// The number of a leader; from 1. Zero: before the first.
pub type Epoch = u8;
/// A caller's `transaction_id`.
pub type Transaction = u8;
/// A participant: 0 is A, 1 is B.
pub type Shard = u8;

/// Name of a shard for people.
pub fn shard_name(shard: Shard) -> char {
    char::from(b'A' + shard)
}

/// Which epoch began which transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Xid {
    /// In which it began.
    pub epoch: Epoch,
    /// What began.
    pub transaction: Transaction,
}

impl Xid {
    /// Its place in tables.
    pub fn index(self) -> usize {
        usize::from((self.epoch - 1) * TRANSACTIONS_MAX + self.transaction)
    }

    /// All that can be.
    pub fn all() -> impl Iterator<Item = Self> + Clone {
        let epochs = 1..=EPOCHS_MAX;
        epochs.flat_map(|epoch| (0..TRANSACTIONS_MAX).map(move |transaction| Self { epoch, transaction }))
    }

    /// All of epochs before this one.
    pub fn before(epoch: Epoch) -> impl Iterator<Item = Self> + Clone {
        Self::all().take_while(move |xid| xid.epoch < epoch)
    }
}

impl fmt::Display for Xid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", char::from(b'T' + self.transaction), self.epoch)
    }
}

/// What becomes of a transaction. Made once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Decision {
    /// Post every branch.
    Confirm,
    /// Release every branch.
    Cancel,
}

/// Some xids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct XidSet(u8);

impl XidSet {
    /// Whether it is one of them.
    pub fn has(self, xid: Xid) -> bool {
        self.0 & (1 << xid.index()) != 0
    }

    /// Takes it in.
    pub fn add(&mut self, xid: Xid) {
        self.0 |= 1 << xid.index();
    }
}

impl FromIterator<Xid> for XidSet {
    fn from_iter<I: IntoIterator<Item = Xid>>(xids: I) -> Self {
        let mut set = Self::default();
        xids.into_iter().for_each(|xid| set.add(xid));
        set
    }
}

impl fmt::Display for XidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = Xid::all().filter(|&xid| self.has(xid)).map(|xid| xid.to_string()).collect();
        write!(f, "{{{}}}", names.join(" "))
    }
}

/// Some shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ShardSet(u8);

impl ShardSet {
    /// None.
    pub const NONE: Self = Self(0);
    /// The one that is debited, alone: a one-phase transaction.
    pub const A: Self = Self(1);
    /// Both.
    pub const BOTH: Self = Self(3);

    /// Whether it is one of them.
    pub fn has(self, shard: Shard) -> bool {
        self.0 & (1 << shard) != 0
    }

    /// With this one.
    #[must_use]
    pub fn with(self, shard: Shard) -> Self {
        Self(self.0 | 1 << shard)
    }

    /// Without this one.
    #[must_use]
    pub fn without(self, shard: Shard) -> Self {
        Self(self.0 & !(1 << shard))
    }

    /// Each of them.
    pub fn iter(self) -> impl Iterator<Item = Shard> + Clone {
        (0..SHARDS as u8).filter(move |&shard| self.has(shard))
    }
}
