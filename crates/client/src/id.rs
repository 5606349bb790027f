//! Transaction ids made by the client: UUIDv7, so that the server's idempotency window knows their time.

use std::time::{SystemTime, UNIX_EPOCH};

use escrow_types::{TransactionId, TransactionKey};
use uuid::Uuid;

/// A fresh transaction id.
pub fn new_transaction_id() -> TransactionId {
    TransactionId::new(&Uuid::now_v7().to_string()).expect("a UUID is an id")
}

/// Fresh transaction ids by the million: a counter on a random base, in the layout of UUIDv7.
///
/// Layout: 48 bits of Unix milliseconds, version 7, 12 random bits, variant, then a 62-bit counter that starts at a
/// random number. Ids of one sequence never repeat; two sequences meet only if 12 random bits, the millisecond and
/// the 62-bit ranges all meet.
#[derive(Debug, Clone)]
pub struct IdSequence {
    /// Everything above the counter, and the variant.
    high: u64,
    counter: u64,
    /// Where the counter began.
    base: u64,
}

const COUNTER_MASK: u64 = (1 << 62) - 1;
const VARIANT: u64 = 0b10 << 62;

impl IdSequence {
    /// Starts at a random number and the present time.
    pub fn new() -> Self {
        let (high, low) = Uuid::now_v7().as_u64_pair();
        let base = low & COUNTER_MASK;
        Self { high, counter: base, base }
    }

    /// Takes the present time into the ids to come. Once a batch is enough; the clock is not read for each id.
    pub fn refresh_clock(&mut self) {
        // A clock before 1970 gives ids of 1970: they are still unique.
        let millis = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        self.high = (millis << 16) | (self.high & 0xFFFF);
    }

    /// The next id, as the key that travels in columns.
    #[inline]
    pub fn next_key(&mut self) -> TransactionKey {
        self.counter = self.counter.wrapping_add(1) & COUNTER_MASK;
        TransactionKey::from_halves(self.high, VARIANT | self.counter)
    }

    /// How many ids this sequence gave before this one: lets answers be matched by an index instead of a hash table. Means
    /// nothing for ids of other sequences.
    #[inline]
    pub const fn ordinal(&self, key: TransactionKey) -> u64 {
        let (_, low) = key.halves();
        (low & COUNTER_MASK).wrapping_sub(self.base).wrapping_sub(1) & COUNTER_MASK
    }

    /// The next id as text.
    pub fn next_id(&mut self) -> TransactionId {
        let key = self.next_key();
        TransactionId::new(&Uuid::from_u128(key.0).to_string()).expect("a UUID is an id")
    }
}

impl Default for IdSequence {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_uuids_of_version_7_and_of_now() {
        let mut ids = IdSequence::new();
        ids.refresh_clock();
        let (key, id) = (ids.next_key(), ids.next_id());
        assert_ne!(key, id.key());
        for key in [key, id.key(), new_transaction_id().key()] {
            let millis = key.uuid_v7_millis().expect("version 7");
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
            assert!(now.abs_diff(millis) < 10_000, "{millis}");
        }
    }

    #[test]
    fn ids_do_not_repeat() {
        let mut ids = IdSequence::new();
        let mut keys: Vec<_> = (0..10_000).map(|_| ids.next_key()).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), 10_000);
    }

    #[test]
    fn an_id_tells_its_number() {
        let mut ids = IdSequence { counter: COUNTER_MASK - 1, base: COUNTER_MASK - 1, ..IdSequence::new() };
        for number in 0..5 {
            let key = ids.next_key();
            assert_eq!(ids.ordinal(key), number, "also where the counter wraps");
        }
    }

    #[test]
    fn two_sequences_differ() {
        assert_ne!(IdSequence::new().next_key(), IdSequence::new().next_key());
    }
}
