//! The state as records of a key-value store, for checkpoints.
//!
//! [`Wallet::begin_changes`] and [`Wallet::copy_changes`] copy what changed since the checkpoint before, as it is when the
//! first of them is called: the owner of the wallet does that, in short steps between which it goes on.
//! [`Changes::records`] turns copies into keys and values, on any thread. All changes so far, put into one ordered store
//! in their order, are a state that [`Wallet::from_view`] restores.
//!
//! # Keys
//! One letter, then numbers in big endian; one key type a file:
//! ```text
//! a  accounts        chunk            of each: id, frozen
//! b  balances        chunk            of each: account, currency, overdraft, posted, reserved, incoming
//! f  fences          partition chunk  the slots of the window, a byte each
//! m  meta                             format version, time
//! p  partition       partition        epoch, watermark, stragglers
//! r  reservations    chunk            of each: xid, deadline, legs
//! ```
//! Neighbours in a table share a record: a store has a price for each record, and under load all of them change anyway.
//!
//! **Invariant:** letters other than these are never written; whoever keeps more in the same store takes other ones.

mod account;
mod balance;
mod changes;
mod fences;
mod meta;
mod partition;
mod reservation;
mod restore;

pub use changes::{Changes, Record};

use escrow_types::codec::Malformed;

use crate::chunks::CHUNK_ROWS;

/// Reads a key of big-endian numbers after its letter.
struct Key<'a>(&'a [u8]);

impl<'a> Key<'a> {
    /// After the letter.
    const fn new(rest: &'a [u8]) -> Self {
        Self(rest)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed("a key that ends too early"))?;
        self.0 = rest;
        Ok(*head)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }

    const fn finish(self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed("a key with bytes left over")) }
    }
}

/// A record of a chunk has rows, and no more than a chunk.
const fn check_count(rows: usize) -> Result<(), Malformed> {
    if rows == 0 || rows > CHUNK_ROWS {
        return Err(Malformed("a record without rows, or with too many"));
    }
    Ok(())
}

/// Checks for the records of all key types: they come back as they were, and nothing shorter does, but at those lengths
/// where another record ends.
#[cfg(test)]
fn check_record<T: PartialEq + std::fmt::Debug>(
    record: &T,
    key: &[u8],
    value: &[u8],
    ends: &[usize],
    decode: impl Fn(&[u8], &[u8]) -> Result<T, Malformed>,
) {
    assert_eq!(decode(&key[1..], value).as_ref(), Ok(record));
    for length in 1..key.len() {
        assert!(decode(&key[1..length], value).is_err(), "key cut at {length}");
    }
    for length in 0..value.len() {
        let is_whole = ends.contains(&length);
        assert_eq!(decode(&key[1..], &value[..length]).is_ok(), is_whole, "value cut at {length}");
    }
    let longer = [value, &[0]].concat();
    assert!(decode(&key[1..], &longer).is_err());
}
