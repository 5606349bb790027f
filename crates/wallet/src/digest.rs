//! Whether two wallets are equal: a [`Digest`] over what they hold, not over how they hold it.
//!
//! Elements are accounts, balances, reserved branches with their legs, slots that were seen, stragglers, and each
//! partition's epoch and watermark. Places in tables, the growth of windows and clocks do not count.

use escrow_types::{Digest, Epoch, Partition, Sequence};

use crate::slot::Slot;
use crate::wallet::Wallet;

/// The first word of each element: its kind.
mod kind {
    pub(super) const ACCOUNT: u64 = 1;
    pub(super) const BALANCE: u64 = 2;
    pub(super) const BRANCH: u64 = 3;
    pub(super) const SLOT: u64 = 4;
    pub(super) const STRAGGLER: u64 = 5;
    pub(super) const PARTITION: u64 = 6;
}

impl Wallet {
    /// The digest of the whole state. Costs a pass over it.
    pub fn digest(&self) -> Digest {
        let mut digest = Digest::default();
        for account in self.ledger.accounts.rows() {
            digest.add(Digest::of_text(kind::ACCOUNT << 1 | u64::from(account.frozen), account.id.as_str()));
        }
        for balance in self.ledger.balances.rows() {
            let ((high, low), (policy, limit)) = (balance.key.halves(), balance.overdraft().to_numbers());
            digest.add(Digest::of(&[
                kind::BALANCE,
                high,
                low,
                u64::from(balance.currency.numeric()),
                balance.posted.cast_unsigned(),
                balance.reserved,
                balance.incoming,
                u64::from(policy),
                limit,
                u64::from(balance.frozen),
            ]));
        }
        for place in self.ledger.branches.places() {
            digest.add(self.branch_digest(place));
        }
        for (&partition, state) in &self.partitions {
            let epoch = state.epoch;
            digest.add(Digest::of(&[
                kind::PARTITION,
                u64::from(partition.0),
                u64::from(epoch.0),
                state.base,
            ]));
            for (at, &slot) in state.window.iter().enumerate().filter(|(_, slot)| !slot.is_unseen()) {
                digest.add(slot_digest(kind::SLOT, partition, epoch, state.base + at as u64, slot));
            }
            for (&(epoch, sequence), &slot) in &state.stragglers {
                digest.add(slot_digest(kind::STRAGGLER, partition, epoch, sequence, slot));
            }
        }
        digest
    }

    fn branch_digest(&self, place: u32) -> Digest {
        let branch = self.ledger.branches.get(place);
        let xid = branch.xid;
        let mut words = vec![
            kind::BRANCH,
            u64::from(xid.partition.0),
            u64::from(xid.epoch.0),
            xid.sequence,
            branch.deadline_ms,
        ];
        for leg in self.ledger.branches.legs(place) {
            let balance = self.ledger.balances.get(leg.row());
            let (high, low) = balance.key.halves();
            let side = u64::from(balance.currency.numeric()) << 1 | u64::from(leg.is_credit());
            words.extend([high, low, side, leg.amount]);
        }
        Digest::of(&words)
    }
}

fn slot_digest(kind: u64, partition: Partition, epoch: Epoch, sequence: Sequence, slot: Slot) -> Digest {
    let words = [kind, u64::from(partition.0), u64::from(epoch.0), sequence, u64::from(slot.to_byte())];
    Digest::of(&words)
}

#[cfg(test)]
mod tests {
    use crate::fixture::Fixture;

    #[test]
    fn it_tells_states_apart_and_not_histories() {
        let mut digests = vec![Fixture::new().wallet.digest()];
        let histories: [fn(&mut Fixture); 7] = [
            |f| f.reserved(0),
            |f| f.reserved_amount(0, 11),
            |f| f.reserved(1),
            |f| f.rejected(0),
            |f| f.confirmed(0),
            |f| f.empty_canceled(0),
            |f| f.finished(0),
        ];
        for history in histories {
            let mut fixture = Fixture::new();
            history(&mut fixture);
            digests.push(fixture.wallet.digest());
        }
        digests.sort_by_key(|digest| digest.0);
        assert!(digests.windows(2).all(|pair| pair[0] != pair[1]));

        let (mut one, mut other) = (Fixture::new(), Fixture::new());
        for sequence in [0, 1] {
            one.reserved(sequence);
        }
        for sequence in [5, 1, 0] {
            other.reserved(sequence);
        }
        assert_ne!(one.wallet.digest(), other.wallet.digest());
        one.reserved(5);
        assert_eq!(
            one.wallet.digest(),
            other.wallet.digest(),
            "other places, other growth, the same content"
        );
    }
}
