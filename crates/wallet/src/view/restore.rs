//! A wallet from the records of its checkpoints. Whatever does not fit together is refused, never repaired.

use std::collections::BTreeMap;

use escrow_types::codec::Malformed;
use escrow_types::{Amount, Partition};

use super::account::{self, AccountRecord};
use super::balance::{self, BalanceRecord};
use super::fences::{self, CHUNK_SLOTS, FencesRecord};
use super::meta::{self, MetaRecord};
use super::partition::{self, PartitionRecord};
use super::reservation::{self, ReservationRecord};
use crate::accounts::Account;
use crate::balances::NO_ROW;
use crate::branches::{Chain, Leg};
use crate::ledger::Ledger;
use crate::partition::{PartitionState, Place, WINDOW_SLOTS_MAX};
use crate::slot::{Slot, State};
use crate::wallet::Wallet;

/// All records by kind, in the order of their keys.
#[derive(Default)]
struct Records {
    meta: Option<MetaRecord>,
    accounts: Vec<AccountRecord>,
    balances: Vec<BalanceRecord>,
    fences: Vec<FencesRecord>,
    partitions: Vec<PartitionRecord>,
    reservations: Vec<ReservationRecord>,
}

impl Wallet {
    /// The wallet whose changes, put into a store in their order, are these records, in any order. No records are the
    /// empty wallet. Nothing of it counts as changed.
    pub fn from_view<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        records: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Wallet, Malformed> {
        let mut read = Records::default();
        for (key, value) in records {
            read.add(key.as_ref(), value.as_ref())?;
        }
        read.restore()
    }
}

impl Records {
    fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), Malformed> {
        let (&letter, key) = key.split_first().ok_or(Malformed("an empty key"))?;
        match letter {
            account::LETTER => self.accounts.push(AccountRecord::decode(key, value)?),
            balance::LETTER => self.balances.push(BalanceRecord::decode(key, value)?),
            fences::LETTER => self.fences.push(FencesRecord::decode(key, value)?),
            meta::LETTER => self.meta = Some(MetaRecord::decode(key, value)?),
            partition::LETTER => self.partitions.push(PartitionRecord::decode(key, value)?),
            reservation::LETTER => self.reservations.push(ReservationRecord::decode(key, value)?),
            _ => return Err(Malformed("a key of an unknown kind")),
        }
        Ok(())
    }

    fn restore(mut self) -> Result<Wallet, Malformed> {
        let empty = self.accounts.is_empty() && self.partitions.is_empty();
        let Some(meta) = self.meta else {
            return if empty {
                Ok(Wallet::default())
            } else {
                Err(Malformed("a view without its format version"))
            };
        };
        self.accounts.sort_by_key(|record| record.place);
        self.balances.sort_by_key(|record| record.row);
        self.fences.sort_by_key(|record| (record.partition, record.chunk));
        self.reservations.sort_by_key(|record| record.xid);
        let mut ledger = restore_accounts(self.accounts, &self.balances)?;
        let mut partitions = restore_partitions(&self.partitions, &self.fences)?;
        restore_reservations(&mut ledger, &mut partitions, &self.reservations)?;
        check_sums(&ledger, &self.balances)?;
        // Reading changed everything; none of it is new to the store.
        let _ = (ledger.accounts.take_dirty(), ledger.balances.take_dirty(), ledger.branches.take_dirty());
        Ok(Wallet { ledger, partitions, time_ms: meta.time_ms })
    }
}

fn restore_accounts(accounts: Vec<AccountRecord>, balances: &[BalanceRecord]) -> Result<Ledger, Malformed> {
    let mut ledger = Ledger::default();
    for (place, record) in accounts.into_iter().enumerate() {
        let key = record.id.key();
        if record.place as usize != place || ledger.accounts.find(key).is_some() {
            return Err(Malformed("an account is missing, or there twice"));
        }
        ledger.accounts.push(Account {
            id: record.id,
            key,
            frozen: record.frozen,
            first_row: NO_ROW,
            dirty: false,
        });
    }
    for (row, record) in balances.iter().enumerate() {
        let account = ledger.accounts.rows().get(record.account as usize);
        let account = account.ok_or(Malformed("a balance without its account"))?;
        let twice = ledger.balances.find(account.key, record.currency.numeric()).is_some();
        if record.row as usize != row || twice {
            return Err(Malformed("a balance is missing, or there twice"));
        }
        let row = ledger.add_balance(record.account, record.currency, record.overdraft);
        ledger.balances.change(row).posted = record.posted;
    }
    if ledger.accounts.rows().iter().any(|account| account.first_row == NO_ROW) {
        return Err(Malformed("an account without balances"));
    }
    Ok(ledger)
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

fn restore_reservations(
    ledger: &mut Ledger,
    partitions: &mut BTreeMap<Partition, PartitionState>,
    records: &[ReservationRecord],
) -> Result<(), Malformed> {
    for record in records {
        let xid = record.xid;
        let state =
            partitions.get_mut(&xid.partition).ok_or(Malformed("a reservation without its partition"))?;
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
        let branch = ledger.branches.insert(xid, record.deadline_ms, chain);
        let place = state.place(xid.epoch, xid.sequence);
        debug_assert!(matches!(place, Place::Window(_) | Place::Straggler));
        state.set(place, xid.epoch, xid.sequence, Slot::of(State::Reserved(branch)));
        state.dirty = false;
    }
    let awaited = |state: &PartitionState| {
        state.window.iter().chain(state.stragglers.values()).any(|&slot| slot == Slot::AWAITED)
    };
    if partitions.values().any(awaited) { Err(Malformed("a slot without its reservation")) } else { Ok(()) }
}

/// What a leg holds, summed up again: the balance records must agree in the end.
fn hold_again(ledger: &mut Ledger, row: u32, credit: bool, amount: Amount) -> Result<(), Malformed> {
    let balance = ledger.balances.change(row);
    let held = if credit { &mut balance.incoming } else { &mut balance.reserved };
    *held = held.checked_add(amount).ok_or(Malformed("reservations that add up to too much"))?;
    Ok(())
}

fn check_sums(ledger: &Ledger, records: &[BalanceRecord]) -> Result<(), Malformed> {
    for (balance, record) in ledger.balances.rows().iter().zip(records) {
        if balance.reserved != record.reserved || balance.incoming != record.incoming {
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
                None => assert!(store.remove(&key).is_some(), "only what is there is deleted"),
            }
        }
    }

    #[track_caller]
    fn check(fixture: &mut Fixture, store: &mut Store) {
        put(store, fixture.wallet.take_changes().records());
        assert!(!fixture.wallet.has_changes());
        let restored = Wallet::from_view(&*store).unwrap();
        assert_eq!(restored.digest(), fixture.wallet.digest());
        assert_eq!(restored.partitions, fixture.wallet.partitions_by_content(), "windows and chunks too");
        assert!(!restored.has_changes());
    }

    impl Wallet {
        /// The partitions with places of branches as a restored wallet has them: in the order of xids.
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
        let alice = store.get_mut(&b"b\x00\x00\x00\x00"[..]).unwrap();
        let reserved = alice.len() - 16;
        alice[reserved] += 1;
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
