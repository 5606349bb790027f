//! What a Try and a Confirm cost: batches of 8,192 over few and many accounts, without log and wire; what an account, a
//! reservation and a fence hold in memory; and how long a checkpoint of a million accounts keeps its owner. Bounded: some
//! seconds.

use std::time::{Duration, Instant};

use escrow_types::{AccountId, Currency, Epoch, Partition};
use escrow_wallet::{
    Command, EndBatch, Hello, OpenAccount, Overdraft, Sender, TryBatch, Wallet, Watermark, kind_of,
};

/// Those of the first fit the processor's cache, those of the last are a third of a gigabyte.
const ACCOUNTS: [u64; 3] = [10_000, 100_000, 5_000_000];
const BATCH: u64 = 8_192;
const BATCHES: u64 = 500;
const SENDER: Sender = Sender::new(Partition(0), Epoch(1));

/// A fixed sequence of numbers, so that runs can be compared.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

fn main() {
    ACCOUNTS.into_iter().for_each(branches);
    memory();
}

/// Times Trys and Confirms over so many accounts.
fn branches(accounts: u64) {
    let mut wallet = Wallet::default();
    let mut keys = Vec::new();
    for first in (0..accounts).step_by(10_000) {
        let ids = (first..first + 10_000)
            .map(|number| AccountId::new(&format!("account-{number}")).expect("short"));
        let (currency, overdraft) = (Currency::USD, Overdraft::Unlimited);
        let rows: Vec<_> = ids.map(|id| OpenAccount { id, currency, overdraft }).collect();
        keys.extend(rows.iter().map(|row| row.id.key().0));
        wallet.apply(0, &Command::OpenAccounts(rows));
    }
    wallet.apply(0, &Command::Hello(Hello { partition: Partition(0), epoch: Epoch(1), unfinished: vec![] }));

    let mut numbers = Numbers(0x9E37_79B9_7F4A_7C15);
    let (mut trying, mut confirming) = (Duration::ZERO, Duration::ZERO);
    for batch in 0..BATCHES {
        let sequences: Vec<u64> = (batch * BATCH..(batch + 1) * BATCH).collect();
        let accounts = sequences.iter().map(|_| keys[(numbers.next() % accounts) as usize]).collect();
        let kinds = sequences.iter().map(|_| kind_of(Currency::USD, numbers.next() & 1 == 0)).collect();
        let amounts = vec![1; sequences.len()];
        let tries = TryBatch::new(SENDER, Epoch(1), 0, sequences.clone(), accounts, amounts, kinds);
        let tries = Command::Try(tries.expect("equal columns"));
        let confirms = Command::Confirm(EndBatch::new(SENDER, Epoch(1), sequences).expect("equal columns"));

        let start = Instant::now();
        let tried = wallet.apply(0, &tries);
        trying += start.elapsed();
        let start = Instant::now();
        let confirmed = wallet.apply(0, &confirms);
        confirming += start.elapsed();
        assert!(tried.branches().expect("branches").bytes.iter().all(|&byte| byte == 1));
        assert!(confirmed.branches().expect("branches").bytes.iter().all(|&byte| byte == 2));
        let below = (batch + 1) * BATCH;
        wallet.apply(
            0,
            &Command::Watermark(Watermark { sender: SENDER, epoch: Epoch(1), below, except: vec![] }),
        );
    }
    let each = |took: Duration| took.as_nanos() as f64 / (BATCHES * BATCH) as f64;
    let start = Instant::now();
    let digest = wallet.digest();
    let digested = start.elapsed();
    report(&[
        format!("accounts     {accounts:6}"),
        format!("try          {:6.1} ns a branch", each(trying)),
        format!("confirm      {:6.1} ns a branch", each(confirming)),
        format!("digest       {digested:?} ({digest})"),
    ]);
}

/// Bytes that something leaves allocated, for each of so many.
fn bytes_each(count: u64, work: impl FnOnce()) -> f64 {
    allocation_counter::measure(work).bytes_current as f64 / count as f64
}

/// What a million accounts, reservations and fences hold, and the steps of a checkpoint of all of them.
fn memory() {
    const COUNT: u64 = 1_000_000;
    let id = |number: u64| AccountId::new(&format!("bench-{number:08}")).expect("short");
    let open = |numbers: std::ops::Range<u64>| {
        let (currency, overdraft) = (Currency::USD, Overdraft::Unlimited);
        Command::OpenAccounts(
            numbers.map(|number| OpenAccount { id: id(number), currency, overdraft }).collect(),
        )
    };
    let mut wallet = Wallet::default();
    wallet.apply(0, &Command::Hello(Hello { partition: Partition(0), epoch: Epoch(1), unfinished: vec![] }));
    let of_account = bytes_each(COUNT, || {
        (0..COUNT / 10_000).for_each(|at| drop(wallet.apply(0, &open(at * 10_000..(at + 1) * 10_000))));
    });
    let batches = || (0..COUNT / 10_000).map(|at| (at * 10_000..(at + 1) * 10_000).collect::<Vec<u64>>());
    let of_reservation = bytes_each(COUNT, || {
        for sequences in batches() {
            let accounts = sequences.iter().map(|&number| id(number).key().0).collect();
            let kinds = vec![kind_of(Currency::USD, true); sequences.len()];
            let amounts = vec![1; sequences.len()];
            let tries = TryBatch::new(SENDER, Epoch(1), 0, sequences, accounts, amounts, kinds);
            wallet.apply(0, &Command::Try(tries.expect("equal columns")));
        }
    });
    let start = Instant::now();
    let first = wallet.begin_changes();
    let (begun, mut longest, mut largest, mut parts, mut records) =
        (start.elapsed(), Duration::ZERO, 0, 0, first.records().count());
    loop {
        let mut part = None;
        let start = Instant::now();
        let bytes = allocation_counter::measure(|| part = wallet.copy_changes(64)).bytes_current;
        longest = longest.max(start.elapsed());
        let Some(part) = part else { break };
        (largest, parts, records) = (largest.max(bytes), parts + 1, records + part.records().count());
    }
    // Fences of branches that hold nothing: they were canceled before any Try.
    let of_fence = bytes_each(COUNT, || {
        for sequences in batches() {
            let sequences = sequences.iter().map(|sequence| sequence + COUNT).collect();
            let ends = EndBatch::new(SENDER, Epoch(1), sequences).expect("equal columns");
            wallet.apply(0, &Command::Cancel(ends));
        }
    });
    report(&[
        format!(
            "account      {of_account:6.1} bytes, with one balance, an id of 14 bytes and its place in the indexes"
        ),
        format!("reservation  {of_reservation:6.1} bytes, of one leg, with its fence"),
        format!("fence        {of_fence:6.1} bytes"),
        format!(
            "checkpoint   {begun:?} to begin, {longest:?} the longest of {parts} parts, {largest} bytes the largest, {records} records"
        ),
    ]);
}

#[expect(clippy::print_stdout, reason = "a bench is a tool that prints")]
fn report(lines: &[String]) {
    for line in lines {
        println!("{line}");
    }
}
