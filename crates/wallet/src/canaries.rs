//! Deliberate bugs of the ledger that need more than a line; see [`escrow_invariants::canary`]. Dead code in any real build.

use escrow_invariants::{Canary, canary};
use escrow_types::Millis;

use crate::slot::{Slot, State};
use crate::wallet::Wallet;

impl Wallet {
    /// The canaries that go by the clock, before each command.
    #[inline]
    pub(crate) fn sing(&mut self, time_ms: Millis) {
        if canary::is_on(Canary::FenceDroppedByAge) {
            self.drop_fences(time_ms);
        }
        if canary::is_on(Canary::ReservationExpiresByItself) {
            self.expire(time_ms);
        }
    }

    fn drop_fences(&mut self, time_ms: Millis) {
        const EVERY_MS: Millis = 16;
        if !time_ms.is_multiple_of(EVERY_MS) {
            return;
        }
        for partition in self.partitions.values_mut() {
            for slot in partition.window.iter_mut().chain(partition.stragglers.values_mut()) {
                if matches!(slot.state(), State::Canceled | State::EmptyCanceled) {
                    *slot = Slot::UNSEEN;
                }
            }
        }
    }

    fn expire(&mut self, time_ms: Millis) {
        for partition in self.partitions.values_mut() {
            let held: Vec<_> = partition.reserved().collect();
            for (epoch, sequence, branch) in held {
                if self.ledger.branches.get(branch).deadline_ms < time_ms {
                    self.ledger.release(branch);
                    let place = partition.place(epoch, sequence);
                    partition.set(place, epoch, sequence, Slot::of(State::Canceled));
                }
            }
        }
    }
}
