//! The state as records of a key-value store, for checkpoints.
//!
//! [`Wallet::take_changes`] copies what changed since it was called last: the owner of the wallet does that, quickly.
//! [`Changes::records`] turns the copy into keys and values, on any thread. All changes so far, put into one ordered
//! store in their order, are a state that [`Wallet::from_view`] restores.
//!
//! # Keys
//! One letter, then numbers in big endian; one key type a file:
//! ```text
//! a  account         place            id, frozen
//! b  balance         row              account, currency, overdraft, posted, reserved, incoming
//! f  fences          partition chunk  the slots of the window, a byte each
//! m  meta                             format version, time
//! p  partition       partition        epoch, watermark, stragglers
//! r  reservation     xid              deadline, legs
//! ```
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

/// Checks for the records of all key types: they come back as they were, and nothing shorter does.
#[cfg(test)]
fn check_record<T: PartialEq + std::fmt::Debug>(
    record: &T,
    key: &[u8],
    value: &[u8],
    decode: impl Fn(&[u8], &[u8]) -> Result<T, Malformed>,
) {
    assert_eq!(decode(&key[1..], value).as_ref(), Ok(record));
    for length in 1..key.len() {
        assert!(decode(&key[1..length], value).is_err(), "key cut at {length}");
    }
    for length in 0..value.len() {
        assert!(decode(&key[1..], &value[..length]).is_err(), "value cut at {length}");
    }
    let longer = [value, &[0]].concat();
    assert!(decode(&key[1..], &longer).is_err());
}
