//! A wallet from the records of its checkpoints. Whatever does not fit together is refused, never repaired.

use std::collections::BTreeMap;

use escrow_types::codec::Malformed;
use escrow_types::{Amount, Partition};

use super::account::{self, AccountsRecord};
use super::balance::{self, BalanceRecord, BalancesRecord};
use super::fences::{self, CHUNK_SLOTS, FencesRecord};
use super::meta::{self, MetaRecord};
use super::partition::{self, PartitionRecord};
use super::reservation::{self, ReservationRecord, ReservationsRecord};
use crate::accounts::Account;
use crate::balances::NO_ROW;
use crate::branches::{Chain, Leg};
use crate::chunks::CHUNK_ROWS;
use crate::ledger::Ledger;
use crate::partition::{PartitionState, Place, WINDOW_SLOTS_MAX};
use crate::slot::{Slot, State};
use crate::wallet::Wallet;

impl Wallet {
    /// The wallet whose changes, put into a store in their order, are these records, in the order of their keys. No
    /// records are the empty wallet. Nothing of it counts as changed. Beside the wallet only one record is held, and the
    /// sums of what is reserved.
    pub fn from_view<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        records: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Wallet, Malformed> {
        let mut restoring = Restoring::default();
        for (key, value) in records {
            restoring.add(key.as_ref(), value.as_ref())?;
        }
        restoring.end()
    }
}

/// A wallet of which a part was read. Accounts come before balances, fences and partitions before reservations; of each
/// kind the chunks come in order.
#[derive(Default)]
struct Restoring {
    ledger: Ledger,
    /// What each balance is to hold, once all reservations were read: reserved and incoming.
    sums: Vec<(u64, u64)>,
    fences: Vec<FencesRecord>,
    meta: Option<MetaRecord>,
    records: Vec<PartitionRecord>,
    /// Made of the two when the first reservation comes, or none.
    partitions: Option<BTreeMap<Partition, PartitionState>>,
}

impl Restoring {
    fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), Malformed> {
        let (&letter, key) = key.split_first().ok_or(Malformed("an empty key"))?;
        match letter {
            account::LETTER => self.accounts(AccountsRecord::decode(key, value)?)?,
            balance::LETTER => self.balances(&BalancesRecord::decode(key, value)?)?,
            fences::LETTER | partition::LETTER if self.partitions.is_some() => {
                return Err(Malformed("fences after a reservation"));
            }
            fences::LETTER => self.fences.push(FencesRecord::decode(key, value)?),
            meta::LETTER => self.meta = Some(MetaRecord::decode(key, value)?),
            partition::LETTER => self.records.push(PartitionRecord::decode(key, value)?),
            reservation::LETTER => self.reservations(&ReservationsRecord::decode(key, value)?)?,
            _ => return Err(Malformed("a key of an unknown kind")),
        }
        Ok(())
    }

    fn accounts(&mut self, record: AccountsRecord) -> Result<(), Malformed> {
        let wrong = Malformed("an account is missing, or there twice");
        if record.chunk as usize * CHUNK_ROWS != self.ledger.accounts.rows().len() {
            return Err(wrong);
        }
        for (id, frozen) in record.accounts {
            let key = id.key();
            if self.ledger.accounts.find(key).is_some() {
                return Err(wrong);
            }
            self.ledger.accounts.push(Account { id, key, frozen, first_row: NO_ROW });
        }
        Ok(())
    }

    fn balances(&mut self, record: &BalancesRecord) -> Result<(), Malformed> {
        let wrong = Malformed("a balance is missing, or there twice");
        if record.chunk as usize * CHUNK_ROWS != self.ledger.balances.rows().len() {
            return Err(wrong);
        }
        for balance in &record.balances {
            let &BalanceRecord { account, currency, overdraft, posted, reserved, incoming } = balance;
            let found = self.ledger.accounts.rows().get(account as usize);
            let key = found.ok_or(Malformed("a balance without its account"))?.key;
            if self.ledger.balances.find(key, currency.numeric()).is_some() {
                return Err(wrong);
            }
            let row = self.ledger.add_balance(account, currency, overdraft);
            self.ledger.balances.change(row).posted = posted;
            self.sums.push((reserved, incoming));
        }
        Ok(())
    }

    fn partitions(&mut self) -> Result<&mut BTreeMap<Partition, PartitionState>, Malformed> {
        let made = if let Some(partitions) = self.partitions.take() {
            partitions
        } else {
            self.fences.sort_by_key(|record| (record.partition, record.chunk));
            restore_partitions(&self.records, &std::mem::take(&mut self.fences))?
        };
        Ok(self.partitions.insert(made))
    }

    fn reservations(&mut self, record: &ReservationsRecord) -> Result<(), Malformed> {
        self.partitions()?;
        let Self { ledger, partitions: Some(partitions), .. } = self else { unreachable!("just made") };
        if !ledger.branches.restore_chunk(record.chunk) {
            return Err(Malformed("reservations out of their place"));
        }
        record.reservations.iter().try_for_each(|record| restore_reservation(ledger, partitions, record))
    }

    fn end(mut self) -> Result<Wallet, Malformed> {
        let partitions = std::mem::take(self.partitions()?);
        let Self { mut ledger, sums, meta, .. } = self;
        let empty = ledger.accounts.rows().is_empty() && partitions.is_empty();
        let Some(meta) = meta else {
            return if empty {
                Ok(Wallet::default())
            } else {
                Err(Malformed("a view without its format version"))
            };
        };
        if ledger.accounts.rows().iter().any(|account| account.first_row == NO_ROW) {
            return Err(Malformed("an account without balances"));
        }
        let awaited = |state: &PartitionState| {
            state.window.iter().chain(state.stragglers.values()).any(|&slot| slot == Slot::AWAITED)
        };
        if partitions.values().any(awaited) {
            return Err(Malformed("a slot without its reservation"));
        }
        check_sums(&ledger, &sums)?;
        ledger.branches.end_chunk();
        // Reading changed everything; none of it is new to the store.
        ledger.accounts.chunks.forget();
        ledger.balances.chunks.forget();
        Ok(Wallet { ledger, partitions, time_ms: meta.time_ms })
    }
}

fn restore_partitions(
    records: &[PartitionRecord],
    fences: &[FencesRecord],
) -> Result<BTreeMap<Partition, PartitionState>, Malformed> {
    let slot = |byte| Slot::from_byte(byte).ok_or(Malformed("a slot has no such state"));
    let mut partitions = BTreeMap::new();
    for record in records {
        let mut state =
            PartitionState { epoch: record.epoch, base: record.base, ..PartitionState::default() };
        for &(epoch, sequence, byte) in &record.stragglers {
            if epoch > record.epoch || (epoch == record.epoch && sequence >= record.base) {
                return Err(Malformed("a straggler that is not behind"));
            }
            state.stragglers.insert((epoch, sequence), slot(byte)?);
        }
        if partitions.insert(record.partition, state).is_some() {
            return Err(Malformed("a partition is there twice"));
        }
    }
    for record in fences {
        let state =
            partitions.get_mut(&record.partition).ok_or(Malformed("fences without their partition"))?;
        let first_chunk = state.base / CHUNK_SLOTS;
        let expected = state.chunks_in_view.map_or(first_chunk, |(_, last)| last + 1);
        let below =
            usize::try_from(state.base.saturating_sub(record.chunk * CHUNK_SLOTS)).unwrap_or(usize::MAX);
        let full = state.chunks_in_view.is_none()
            || state.base.wrapping_add(state.window.len() as u64) % CHUNK_SLOTS == 0;
        if record.chunk != expected || below >= record.slots.len() || !full {
            return Err(Malformed("fences are missing, or there twice"));
        }
        for &byte in &record.slots[below..] {
            state.window.push_back(slot(byte)?);
        }
        if state.window.len() > WINDOW_SLOTS_MAX || record.slots[..below].iter().any(|&byte| byte != 0) {
            return Err(Malformed("fences outside of the window"));
        }
        state.chunks_in_view = Some((first_chunk, record.chunk));
    }
    Ok(partitions)
}

fn restore_reservation(
    ledger: &mut Ledger,
    partitions: &mut BTreeMap<Partition, PartitionState>,
    record: &ReservationRecord,
) -> Result<(), Malformed> {
    let xid = record.xid;
    let state = partitions.get_mut(&xid.partition).ok_or(Malformed("a reservation without its partition"))?;
    if state.slot(xid.epoch, xid.sequence) != Some(Slot::AWAITED) {
        return Err(Malformed("a reservation without its slot"));
    }
    let mut chain = Chain::EMPTY;
    for &(row, credit, amount) in &record.legs {
        if row as usize >= ledger.balances.rows().len() {
            return Err(Malformed("a reservation of a balance that is not there"));
        }
        hold_again(ledger, row, credit, amount)?;
        ledger.branches.push_leg(&mut chain, Leg::new(row, credit, amount));
    }
    let branch = ledger.branches.restore(xid, record.deadline_ms, chain);
    let place = state.place(xid.epoch, xid.sequence);
    debug_assert!(matches!(place, Place::Window(_) | Place::Straggler));
    state.set(place, xid.epoch, xid.sequence, Slot::of(State::Reserved(branch)));
    state.dirty = false;
    Ok(())
}

/// What a leg holds, summed up again: the balance records must agree in the end.
fn hold_again(ledger: &mut Ledger, row: u32, credit: bool, amount: Amount) -> Result<(), Malformed> {
    let balance = ledger.balances.change(row);
    let held = if credit { &mut balance.incoming } else { &mut balance.reserved };
    *held = held.checked_add(amount).ok_or(Malformed("reservations that add up to too much"))?;
    Ok(())
}

fn check_sums(ledger: &Ledger, sums: &[(u64, u64)]) -> Result<(), Malformed> {
    for (balance, &sums) in ledger.balances.rows().iter().zip(sums) {
        if (balance.reserved, balance.incoming) != sums {
            return Err(Malformed("a balance that disagrees with its reservations"));
        }
        let lowest = balance.available();
        let highest = i128::from(balance.posted) + i128::from(balance.incoming);
        let range = -i128::from(i64::MAX)..=i128::from(i64::MAX);
        if balance.is_overdrawn() || !range.contains(&lowest) || !range.contains(&highest) {
            return Err(Malformed("a balance out of its range"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Fixture, USD, USD_CREDIT};
    use crate::view::Record;

    type Store = BTreeMap<Vec<u8>, Vec<u8>>;

    fn put(store: &mut Store, records: impl Iterator<Item = Record>) {
        for (key, value) in records {
            match value {
                Some(value) => drop(store.insert(key, value)),
                None => drop(store.remove(&key)),
            }
        }
    }

    #[track_caller]
    fn check(fixture: &mut Fixture, store: &mut Store) {
        put(store, fixture.wallet.take_changes().records());
        assert!(!fixture.wallet.has_changes());
        let restored = Wallet::from_view(&*store).unwrap();
        assert_eq!(restored.digest(), fixture.wallet.digest());
        assert_eq!(
            restored.partitions_by_content(),
            fixture.wallet.partitions_by_content(),
            "windows and chunks too"
        );
        assert!(!restored.has_changes());
    }

    impl Wallet {
        /// The partitions with places that do not depend on what was held before.
        fn partitions_by_content(&self) -> BTreeMap<Partition, PartitionState> {
            let mut partitions = self.partitions.clone();
            let xids: Vec<_> = self.reservations(None, usize::MAX).iter().map(|view| view.xid).collect();
            for (place, xid) in xids.into_iter().enumerate() {
                let state = partitions.get_mut(&xid.partition).unwrap();
                let at = state.place(xid.epoch, xid.sequence);
                state.set(at, xid.epoch, xid.sequence, Slot::of(State::Reserved(place as u32)));
                state.dirty = false;
            }
            partitions
        }
    }

    #[test]
    fn a_wallet_comes_back_after_each_step() {
        let (mut fixture, mut store) = (Fixture::new(), Store::new());
        check(&mut fixture, &mut store);
        let steps: [fn(&mut Fixture); 10] = [
            |f| assert!(f.try_legs(8_191, &[("alice", 5, USD), ("bob", 5, USD_CREDIT)]).to_byte() == 1),
            |f| f.reserved(8_192),
            |f| f.rejected(20_000),
            |f| f.watermark(5_000, &[3]),
            |f| f.empty_canceled(3),
            |f| f.watermark(8_192, &[3, 8_191]),
            |f| f.freeze("alice"),
            |f| f.watermark(30_000, &[8_191, 8_192]),
            |f| {
                f.hello(3, &[(2, 8_192)]);
            },
            |f| assert_eq!(f.end(3, 2, 8_192, true), escrow_types::Answer::Confirmed),
        ];
        for step in steps {
            step(&mut fixture);
            check(&mut fixture, &mut store);
        }
        assert_eq!(store.keys().filter(|key| key.starts_with(b"f\0\0")).count(), 0);
        assert_eq!(store.keys().filter(|key| key[0] == b'r').count(), 0);
    }

    #[test]
    fn any_lost_record_is_noticed_but_for_the_last_fences() {
        let (mut fixture, mut store) = (Fixture::new(), Store::new());
        fixture.reserved(0);
        put(&mut store, fixture.wallet.take_changes().records());
        for key in store.keys() {
            let mut less = store.clone();
            less.remove(key);
            match Wallet::from_view(&less) {
                Err(_) => {}
                // Nothing else depends on a last account or a partition without slots: the digest tells.
                Ok(wallet) => assert_ne!(wallet.digest(), fixture.wallet.digest(), "{key:?}"),
            }
        }
    }

    #[test]
    fn a_tampered_hold_is_refused() {
        let (mut fixture, mut store) = (Fixture::new(), Store::new());
        fixture.reserved(0);
        put(&mut store, fixture.wallet.take_changes().records());
        // Those of alice are the first.
        let balances = store.get_mut(&b"b\x00\x00\x00\x00"[..]).unwrap();
        balances[39 - 16] += 1;
        assert_eq!(
            Wallet::from_view(&store).unwrap_err(),
            Malformed("a balance that disagrees with its reservations")
        );
    }

    #[test]
    fn no_records_are_the_empty_wallet() {
        let none: [(Vec<u8>, Vec<u8>); 0] = [];
        assert_eq!(Wallet::from_view(none).unwrap().digest(), Wallet::default().digest());
    }
}
