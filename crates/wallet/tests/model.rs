//! The wallet against a naive model of it: any sequence of commands gives exactly the answers that the model predicts,
//! the same balances and reservations, and a checkpoint that restores to the same state.
#![allow(clippy::unwrap_used, reason = "test code")]

mod common;
mod reference;

use common::{Leg, Store, batch, hello, open, sender};
use escrow_types::{Currency, Epoch};
use escrow_wallet::{
    Answers, Command, EndBatch, Entry, Overdraft, Partial, SetFrozen, Wallet, Watermark, kind_of,
};
use proptest::prelude::*;
use reference::Model;

const ACCOUNTS: [&str; 6] = ["alice", "bob", "limited", "external", "late", "nobody"];
const AMOUNTS: [u64; 10] = [0, 1, 2, 5, 50, 50, 100, i64::MAX as u64, 1 << 63, u64::MAX];

/// A command before the epochs of the moment are known.
#[derive(Debug, Clone)]
enum Step {
    Hello {
        partition: u16,
        ahead: i64,
        unfinished: Vec<(u32, u64)>,
    },
    Try {
        place: Place,
        post: bool,
        branches: Vec<(Sequence, Vec<Leg>)>,
    },
    End {
        place: Place,
        end: End,
        sequences: Vec<Sequence>,
        partial: Option<Vec<Vec<u64>>>,
    },
    Watermark {
        place: Place,
        below: Sequence,
        except: Vec<Sequence>,
    },
    Open {
        account: usize,
        currency: Currency,
        overdraft: Overdraft,
    },
    Freeze {
        account: usize,
        frozen: bool,
    },
    /// A copy of an earlier command, this many back.
    Again {
        back: usize,
    },
    /// A checkpoint begins, or a part of it is copied.
    Checkpoint,
}

/// Partition, and how far sender and xids are from the open epoch.
#[derive(Debug, Clone, Copy)]
struct Place {
    partition: u16,
    sender: i64,
    epoch: i64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Confirm,
    Cancel,
    Fence,
}

/// A sequence, mostly near the watermark.
#[derive(Debug, Clone, Copy)]
enum Sequence {
    Near(u64),
    Behind(u64),
    FarAhead,
    Last,
}

impl Sequence {
    fn at(self, base: u64) -> u64 {
        match self {
            Self::Near(ahead) => base.saturating_add(ahead),
            Self::Behind(behind) => base.saturating_sub(behind),
            Self::FarAhead => base.saturating_add(escrow_wallet::WINDOW_SLOTS_MAX as u64),
            Self::Last => u64::MAX,
        }
    }
}

fn sequences() -> impl Strategy<Value = Sequence> {
    prop_oneof![
        40 => (0..6u64).prop_map(Sequence::Near),
        8 => (1..6u64).prop_map(Sequence::Behind),
        1 => Just(Sequence::FarAhead),
        1 => Just(Sequence::Last),
    ]
}

fn places() -> impl Strategy<Value = Place> {
    let off = |likely: u32| prop_oneof![likely => Just(0i64), 1 => Just(-1), 1 => Just(1)];
    let epoch = prop_oneof![12 => Just(0i64), 4 => Just(-1), 1 => Just(-2), 1 => Just(1)];
    (0..2u16, off(25), epoch).prop_map(|(partition, sender, epoch)| Place { partition, sender, epoch })
}

fn legs() -> impl Strategy<Value = Leg> {
    let currency = prop_oneof![
        20 => Just(840u16),
        4 => Just(978),
        1 => Just(392),
        1 => Just(1),
        1 => Just(0x7FFF),
    ];
    let amount = prop_oneof![6 => 1..60u64, 3 => prop::sample::select(&AMOUNTS[..])];
    let account = prop_oneof![12 => 0..4usize, 2 => 4..6usize];
    (account, amount, currency, any::<bool>()).prop_map(|(account, amount, currency, credit)| {
        (ACCOUNTS[account], amount, if credit { currency | 0x8000 } else { currency })
    })
}

fn branches() -> impl Strategy<Value = (Sequence, Vec<Leg>)> {
    let legs = prop_oneof![
        30 => prop::collection::vec(legs(), 1..4),
        1 => legs().prop_map(|leg| vec![leg; 64]),
        1 => legs().prop_map(|leg| vec![leg; 65]),
    ];
    (sequences(), legs)
}

fn overdrafts() -> impl Strategy<Value = Overdraft> {
    prop_oneof![
        Just(Overdraft::Forbidden),
        prop::sample::select(&AMOUNTS[..]).prop_map(Overdraft::Limit),
        Just(Overdraft::Unlimited)
    ]
}

fn steps() -> impl Strategy<Value = Step> {
    let ahead = prop_oneof![4 => Just(1i64), 1 => Just(2), 2 => Just(0), 1 => Just(-1)];
    let unfinished = prop::collection::vec((0..6u32, 0..8u64), 0..6);
    let hello = (0..2u16, ahead, unfinished).prop_map(|(partition, ahead, unfinished)| Step::Hello {
        partition,
        ahead,
        unfinished,
    });
    let tries = (places(), prop::bool::weighted(0.15), prop::collection::vec(branches(), 1..4))
        .prop_map(|(place, post, branches)| Step::Try { place, post, branches });
    let ended = prop::collection::vec(sequences(), 1..4);
    let partial =
        prop::option::weighted(0.25, prop::collection::vec(prop::collection::vec(0..60u64, 0..4), 3));
    let how = prop_oneof![4 => Just(End::Confirm), 4 => Just(End::Cancel), 1 => Just(End::Fence)];
    let end = (places(), how, ended, partial).prop_map(|(place, end, sequences, partial)| Step::End {
        place,
        end,
        sequences,
        partial,
    });
    let watermark = (places(), sequences(), prop::collection::vec(sequences(), 0..4))
        .prop_map(|(place, below, except)| Step::Watermark { place, below, except });
    let currency = prop::sample::select(vec![Currency::USD, Currency::EUR]);
    let open = (0..5usize, currency, overdrafts()).prop_map(|(account, currency, overdraft)| Step::Open {
        account,
        currency,
        overdraft,
    });
    let freeze =
        (0..6usize, prop::bool::weighted(0.3)).prop_map(|(account, frozen)| Step::Freeze { account, frozen });
    prop_oneof![
        3 => hello,
        16 => tries,
        14 => end,
        4 => watermark,
        1 => open,
        2 => freeze,
        8 => (1..12usize).prop_map(|back| Step::Again { back }),
        4 => Just(Step::Checkpoint),
    ]
}

/// The command that a step means now.
fn command(step: &Step, model: &Model, said: &[Command]) -> Option<Command> {
    let epoch_of =
        |partition, ahead: i64| u32::try_from(i64::from(model.epoch(partition)) + ahead).unwrap_or(0);
    Some(match step {
        Step::Hello { partition, ahead, unfinished } => {
            hello(*partition, epoch_of(*partition, *ahead), unfinished)
        }
        Step::Try { place, post, branches } => {
            let (from, epoch) =
                (epoch_of(place.partition, place.sender), epoch_of(place.partition, place.epoch));
            let base = if place.epoch == 0 { model.base(place.partition) } else { 0 };
            let branches: Vec<_> = branches.iter().map(|(at, legs)| (at.at(base), legs.clone())).collect();
            let batch = batch(sender(place.partition, from), epoch, &branches);
            if *post { Command::TryAndConfirm(batch) } else { Command::Try(batch) }
        }
        Step::End { place, end, sequences, partial } => {
            let (from, epoch) =
                (epoch_of(place.partition, place.sender), epoch_of(place.partition, place.epoch));
            let base = if place.epoch == 0 { model.base(place.partition) } else { 0 };
            let sequences: Vec<_> = sequences.iter().map(|at| at.at(base)).collect();
            let partial = partial.as_ref().filter(|_| *end == End::Confirm).map(|partial| {
                let amounts = &partial[..sequences.len()];
                Partial {
                    legs: amounts.iter().map(|amounts| amounts.len() as u32).collect(),
                    amounts: amounts.concat(),
                }
            });
            let batch =
                EndBatch::with_partial(sender(place.partition, from), Epoch(epoch), sequences, partial);
            match end {
                End::Confirm => Command::Confirm(batch.unwrap()),
                End::Cancel => Command::Cancel(batch.unwrap()),
                End::Fence => Command::Fence(batch.unwrap()),
            }
        }
        Step::Watermark { place, below, except } => {
            let (from, epoch) =
                (epoch_of(place.partition, place.sender), epoch_of(place.partition, place.epoch));
            let base = if place.epoch == 0 { model.base(place.partition) } else { 0 };
            Command::Watermark(Watermark {
                sender: sender(place.partition, from),
                epoch: Epoch(epoch),
                below: below.at(base),
                except: except.iter().map(|at| at.at(base)).collect(),
            })
        }
        Step::Open { account, currency, overdraft } => {
            Command::OpenAccounts(vec![open(ACCOUNTS[*account], *currency, *overdraft); 2])
        }
        Step::Freeze { account, frozen } => {
            let account = escrow_types::AccountKey(common::key(ACCOUNTS[*account]));
            Command::SetFrozen(SetFrozen { account, frozen: *frozen })
        }
        Step::Again { back } => said.get(said.len().checked_sub(*back)?)?.clone(),
        Step::Checkpoint => return None,
    })
}

/// Both get the command, by way of its bytes; both must say the same.
fn both(wallet: &mut Wallet, model: &mut Model, command: &Command) {
    let bytes = Entry { time_ms: 1, commands: vec![command.clone()] }.encode();
    let entry = Entry::decode(&bytes).unwrap();
    assert_eq!(&entry.commands[0], command);
    let (answers, expected) = (wallet.apply(entry.time_ms, &entry.commands[0]), model.apply(command));
    assert_eq!(answers, expected, "{command:?}");
    if let Answers::Branches(rows) = &answers {
        assert_eq!(rows.iter().count(), rows.bytes.len());
    }
    model.check(wallet, &ACCOUNTS);
}

fn run(steps: &[Step]) {
    let (mut wallet, mut model, mut store) = (Wallet::default(), Model::default(), Store::default());
    let usd = |id: &str, overdraft| open(id, Currency::USD, overdraft);
    let credit = kind_of(Currency::USD, true);
    let fund = vec![("external", 250, 840), ("alice", 150, credit), ("bob", 100, credit)];
    // So many that the others are in different chunks of the view.
    let strangers = (0..70).map(|number| usd(&format!("stranger-{number}"), Overdraft::Forbidden));
    let prologue = [
        Command::OpenAccounts(vec![usd("alice", Overdraft::Forbidden)]),
        Command::OpenAccounts(strangers.collect()),
        Command::OpenAccounts(vec![
            usd("alice", Overdraft::Forbidden),
            usd("bob", Overdraft::Forbidden),
            usd("limited", Overdraft::Limit(30)),
            usd("external", Overdraft::Unlimited),
            open("external", Currency::EUR, Overdraft::Unlimited),
            open("bob", Currency::EUR, Overdraft::Forbidden),
        ]),
        hello(0, 1, &[]),
        Command::TryAndConfirm(batch(sender(0, 1), 1, &[(0, fund)])),
    ];
    let mut said = Vec::new();
    for command in &prologue {
        both(&mut wallet, &mut model, command);
    }
    for step in steps {
        if let Some(command) = command(step, &model, &said) {
            both(&mut wallet, &mut model, &command);
            said.push(command);
        } else {
            store.step(&mut wallet);
        }
    }
    // From here on a restored wallet does as well as the one it was copied from.
    store.take(&mut wallet);
    let mut restored = store.restore();
    assert_eq!(restored.digest(), wallet.digest());
    for command in &said {
        assert_eq!(restored.apply(1, command), wallet.apply(1, command));
    }
    store.take(&mut restored);
    assert_eq!(restored.digest(), wallet.digest());
    assert_eq!(store.restore().digest(), wallet.digest());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(1_500), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_wallet_does_what_the_model_says(steps in prop::collection::vec(steps(), 1..60)) {
        run(&steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(500), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0..10u8) {
        let header = [&[1u8][..], &[0; 8], &[kind], &bytes].concat();
        if let Ok(entry) = Entry::decode(&header) {
            prop_assert_eq!(entry.encode(), header);
        }
    }

    #[test]
    fn damaged_entries_and_records_never_panic(
        steps in prop::collection::vec(steps(), 1..20), at in any::<prop::sample::Index>(), byte in any::<u8>()
    ) {
        let (mut wallet, mut model) = (Wallet::default(), Model::default());
        let mut damaged = Wallet::default();
        let opening = Command::OpenAccounts(vec![open("alice", Currency::USD, Overdraft::Unlimited)]);
        for prologue in [opening, hello(0, 1, &[])] {
            damaged.apply(0, &prologue);
            wallet.apply(0, &prologue);
            model.apply(&prologue);
        }
        let mut store = Store::default();
        for step in &steps {
            let Some(command) = command(step, &model, &[]) else { continue };
            wallet.apply(0, &command);
            model.apply(&command);
            let mut bytes = Entry { time_ms: 1, commands: vec![command] }.encode();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(entry) = Entry::decode(&bytes) {
                for command in &entry.commands {
                    damaged.apply(entry.time_ms, command);
                }
            }
        }
        store.take(&mut wallet);
        let record = at.index(store.records.len());
        let value = store.records.values_mut().nth(record).unwrap();
        let at = at.index(value.len());
        let before = std::mem::replace(&mut value[at], byte);
        if let Ok(restored) = Wallet::from_view(&store.records) {
            // A changed clock is no change of the state.
            let meta = store.records.keys().nth(record).unwrap() == b"m";
            prop_assert!(before == byte || meta || restored.digest() != wallet.digest());
        }
    }
}
