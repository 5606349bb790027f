//! `escrow_wallet`: log entries, what applying them does, and the records of a view.

use std::collections::{BTreeMap, BTreeSet};

use escrow_types::codec::{Put as _, Take};
use escrow_types::{AccountId, Currency, Epoch, Partition};
use escrow_wallet::{
    Command, EndBatch, Entry, Hello, OpenAccount, Overdraft, Partial, Sender, SetFrozen, TryBatch,
    WINDOW_SLOTS_MAX, Wallet, Watermark, kind_of,
};

use crate::memory;

/// Windows of so many slots take long.
const WIDE_SLOTS: u64 = 1 << 16;

/// One log entry: read, written again, applied to an empty wallet.
pub(super) fn entry(input: &[u8]) {
    let entry = memory::bounded(memory::for_input(input), || Entry::decode(input));
    let Ok(entry) = entry else { return };
    assert!(entry.encode() == input, "an entry has one form");
    if entry.commands.iter().any(|command| is_left_out(command, input)) {
        return;
    }
    let mut wallet = Wallet::default();
    for command in &entry.commands {
        apply(&mut wallet, entry.time_ms, command);
    }
    check(&mut wallet, &entry.commands);
}

/// Applies a command with the memory that it may take: its partition's window, and what it brings.
pub(super) fn apply(wallet: &mut Wallet, time_ms: u64, command: &Command) {
    // A window grows by doubling, so that it holds its old half beside the new whole for a moment.
    let window_max = WINDOW_SLOTS_MAX * 4 * 3;
    let bytes_max = (1 << 20) + command.bytes_estimate() * 256 + window_max;
    let mut state_before = None;
    if matches!(command, Command::Confirm(_) | Command::Cancel(_) | Command::Try(_) | Command::Fence(_)) {
        state_before = Some(wallet.totals());
    }
    let answers = memory::bounded(bytes_max, || wallet.apply(time_ms, command));
    if let Some(answers) = answers.branches() {
        assert_eq!(answers.sequences.len(), answers.bytes.len());
        assert_eq!(answers.iter().count(), answers.bytes.len(), "each byte is an answer");
    }
    if let (Command::Try(_) | Command::Cancel(_) | Command::Fence(_), Some(before)) = (command, state_before)
    {
        let posted = |totals: &[escrow_wallet::CurrencyTotal]| {
            totals.iter().map(|total| total.posted).collect::<Vec<_>>()
        };
        assert_eq!(posted(&before), posted(&wallet.totals()), "only a Confirm posts");
    }
}

/// Whether a command would open a wide window and is to be left out: each takes tens of milliseconds, and most inputs that
/// have one differ in other things. One input in 64 goes through; `tests/limits.rs` has the widest of all.
pub(super) fn is_left_out(command: &Command, input: &[u8]) -> bool {
    let wide = WIDE_SLOTS..WINDOW_SLOTS_MAX as u64;
    sequences(command).iter().any(|sequence| wide.contains(sequence))
        && !crc32c::crc32c(input).is_multiple_of(64)
}

fn sequences(command: &Command) -> &[u64] {
    match command {
        Command::Try(batch) | Command::TryAndConfirm(batch) => batch.sequences(),
        Command::Confirm(batch) | Command::Cancel(batch) | Command::Fence(batch) => batch.sequences(),
        _ => &[],
    }
}

/// What must be true of every wallet, whatever was applied to it.
fn check(wallet: &mut Wallet, commands: &[Command]) {
    assert!(wallet.overdrawn(1).is_empty(), "invariant 2");
    ask(wallet);
    if widest(commands) < WIDE_SLOTS {
        let mut store = BTreeMap::new();
        for (key, value) in wallet.take_changes().records() {
            if let Some(value) = value {
                store.insert(key, value);
            }
        }
        let restored = Wallet::from_view(&store).expect("what was written can be read");
        assert_eq!(restored.digest(), wallet.digest(), "invariant 10");
    }
}

/// Everything that can be asked, at the ends of its range.
fn ask(wallet: &Wallet) {
    let (accounts, _) = wallet.accounts(0, usize::MAX);
    assert_eq!(accounts.len(), wallet.accounts_count());
    assert_eq!(wallet.accounts(u32::MAX, usize::MAX).1, None);
    let held = wallet.reservations(None, usize::MAX);
    assert_eq!(held.len(), wallet.reservations_held());
    for view in &held {
        let after = wallet.reservations(Some(view.xid), usize::MAX);
        assert!(after.iter().all(|other| other.xid > view.xid), "pages go on");
        let _ = wallet.overdue(view.xid.partition, u64::MAX, Some(view.xid), 2);
    }
    for total in wallet.totals() {
        assert!(i64::try_from(total.reserved).is_ok() || total.balances > 1);
    }
}

/// How far the highest sequence is from zero: no window is wider.
fn widest(commands: &[Command]) -> u64 {
    commands.iter().flat_map(sequences).copied().max().unwrap_or(0)
}

const SENDER: Sender = Sender::new(Partition(0), Epoch(2));

fn key(id: &str) -> u128 {
    account(id).key().0
}

fn account(id: &str) -> AccountId {
    AccountId::new(id).expect("a short name")
}

fn open(id: &str, overdraft: Overdraft) -> OpenAccount {
    OpenAccount { id: account(id), currency: Currency::USD, overdraft }
}

fn hello(epoch: u32, unfinished: Vec<(Epoch, u64)>) -> Command {
    Command::Hello(Hello { partition: Partition(0), epoch: Epoch(epoch), unfinished })
}

/// A transfer from the treasury to alice in each sequence.
fn batch(sequences: &[u64], amount: u64) -> TryBatch {
    let rows: Vec<u64> = sequences.iter().flat_map(|&sequence| [sequence, sequence]).collect();
    let both = |one: u128, other: u128| sequences.iter().flat_map(|_| [one, other]).collect::<Vec<_>>();
    let kinds = sequences.iter().flat_map(|_| [kind_of(Currency::USD, false), kind_of(Currency::USD, true)]);
    let accounts = both(key("treasury"), key("alice"));
    let amounts = vec![amount; rows.len()];
    TryBatch::new(SENDER, Epoch(2), 1_000, rows, accounts, amounts, kinds.collect()).expect("equal columns")
}

fn ends(sequences: &[u64]) -> EndBatch {
    EndBatch::new(SENDER, Epoch(2), sequences.to_vec()).expect("one column")
}

fn opening() -> Vec<Command> {
    let rows = vec![open("treasury", Overdraft::Unlimited), open("alice", Overdraft::Limit(5))];
    vec![Command::OpenAccounts(rows), hello(2, vec![])]
}

/// Commands of all kinds after an opening; what others apply on top of.
pub(super) fn busy() -> Vec<Command> {
    let partial = Some(Partial { legs: vec![2], amounts: vec![3, 3] });
    let partial = EndBatch::with_partial(SENDER, Epoch(2), vec![3], partial).expect("it fits");
    let watermark = Watermark { sender: SENDER, epoch: Epoch(2), below: 3, except: vec![1] };
    let mut commands = opening();
    commands.extend([
        Command::Try(batch(&[0, 1, 2, 3], 10)),
        Command::TryAndConfirm(batch(&[4], 7)),
        Command::Confirm(ends(&[0])),
        Command::Cancel(ends(&[2, 9])),
        Command::Fence(ends(&[1, 10])),
        Command::Confirm(partial),
        Command::Watermark(watermark),
        Command::SetFrozen(SetFrozen { account: account("alice").key(), frozen: true }),
        hello(3, vec![(Epoch(2), 1), (Epoch(2), 4)]),
    ]);
    commands
}

pub(super) fn entry_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let seed = |more: Vec<Command>| {
        let commands = [opening(), more].concat();
        Entry { time_ms: 1_000, commands }.encode()
    };
    let far = Watermark {
        sender: SENDER,
        epoch: Epoch(2),
        below: u64::MAX,
        except: vec![0, 1 << 40, u64::MAX - 1],
    };
    // As a Try is encoded, but for one kind less than there are rows.
    let mut unequal = seed(vec![Command::Try(batch(&[0], 1))]);
    let kinds = unequal.len() - 8;
    unequal.truncate(kinds);
    unequal.put_column_u16(&[kind_of(Currency::USD, false)]);
    vec![
        ("unequal-columns", unequal),
        ("empty", Entry { time_ms: 0, commands: vec![] }.encode()),
        ("busy", Entry { time_ms: u64::MAX, commands: busy() }.encode()),
        ("last-slot", seed(vec![Command::Try(batch(&[0, (1 << 24) - 1, 1 << 24, u64::MAX], 1))])),
        (
            "far-watermark",
            seed(vec![
                Command::Try(batch(&[0], 1)),
                Command::Watermark(far),
                Command::Cancel(ends(&[u64::MAX])),
            ]),
        ),
        (
            "amounts-at-the-end",
            seed(vec![Command::Try(batch(&[0], i64::MAX as u64)), Command::Try(batch(&[1], u64::MAX))]),
        ),
        (
            "last-epoch",
            seed(vec![
                Command::Try(batch(&[0], 1)),
                hello(u32::MAX, vec![(Epoch(u32::MAX), 0), (Epoch(0), 0)]),
            ]),
        ),
    ]
}

/// Records: `u32` length and key, `u32` length and value, to the end.
pub(super) fn view(input: &[u8]) {
    let mut take = Take::new(input);
    let mut records = Vec::new();
    while let (Ok(key), Ok(value)) = (take.bytes(), take.bytes()) {
        records.push((key, value));
    }
    let read = memory::bounded(memory::for_input(input), || Wallet::from_view(records));
    let Ok(mut wallet) = read else { return };
    assert!(!wallet.has_changes() && wallet.overdrawn(1).is_empty());
    ask(&wallet);
    // All that is held can be ended: nothing of what was believed makes a later command fail.
    for view in wallet.reservations(None, usize::MAX) {
        let Some(epoch) = wallet.epoch(view.xid.partition) else { panic!("a reservation has its partition") };
        let sender = Sender::new(view.xid.partition, epoch);
        let end = EndBatch::new(sender, view.xid.epoch, vec![view.xid.sequence]).expect("one column");
        let confirm = view.xid.sequence.is_multiple_of(2);
        apply(&mut wallet, 0, &if confirm { Command::Confirm(end) } else { Command::Cancel(end) });
    }
    let partitions: BTreeSet<u16> = (0..4).collect();
    for partition in partitions {
        let hello = Hello { partition: Partition(partition), epoch: Epoch(u32::MAX), unfinished: vec![] };
        apply(&mut wallet, 0, &Command::Hello(hello));
    }
    for command in busy() {
        apply(&mut wallet, 0, &command);
    }
    assert!(wallet.overdrawn(1).is_empty());
}

pub(super) fn view_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let seed = |commands: &[Command]| {
        let mut wallet = Wallet::default();
        for command in commands {
            wallet.apply(5, command);
        }
        let mut out = Vec::new();
        for (key, value) in wallet.take_changes().records() {
            out.put_bytes(&key);
            out.put_bytes(&value.unwrap_or_default());
        }
        out
    };
    let held = [opening(), vec![Command::Try(batch(&[0, 1, 5], 10)), Command::Cancel(ends(&[7]))]].concat();
    vec![("empty", seed(&[])), ("held", seed(&held)), ("busy", seed(&busy()))]
}
