//! What is counted, one file a subject. Names are in the order in which a transfer meets them.

pub(crate) mod driver;
pub(crate) mod journal;
pub(crate) mod machine;
pub(crate) mod wallet;
pub(crate) mod wire;

use escrow_types::{AccountKey, TransactionKey};

/// Rows of a batch.
pub(crate) const BATCH: usize = 4_096;
/// Accounts on each side.
pub(crate) const ACCOUNTS: usize = 10_000;

/// The batches of an operation: whether each is counted, or comes before. Of single rows there are more, so that what comes once
/// in a while is spread over many.
pub(crate) fn batches(rows: usize) -> impl Iterator<Item = bool> {
    let half = if rows == 1 { 1_024 } else { 8 };
    (0..2 * half).map(move |number| number >= half)
}

/// A number that looks like chance and is not.
pub(crate) const fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z ^ (z >> 31)
}

/// The caller's id of a transfer, of the form that a hashed one has.
pub(crate) const fn key(number: u64) -> TransactionKey {
    TransactionKey(((mix(number) as u128) << 64) | (0b11 << 62) | (mix(!number) >> 2) as u128)
}

/// An account, of the form that a hashed one has.
pub(crate) const fn account(number: u64) -> AccountKey {
    AccountKey::from_halves(mix(number), (0b11 << 62) | mix(number + 1))
}
