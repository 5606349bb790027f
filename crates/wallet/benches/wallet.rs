//! What a Try and a Confirm cost: batches of 8,192 over 100,000 accounts, without log and wire. Bounded: a few seconds.

use std::time::{Duration, Instant};

use escrow_types::{AccountId, Currency, Epoch, Partition};
use escrow_wallet::{
    Command, EndBatch, Hello, OpenAccount, Overdraft, Sender, TryBatch, Wallet, Watermark, kind_of,
};

const ACCOUNTS: u64 = 100_000;
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
    let mut wallet = Wallet::default();
    let ids: Vec<AccountId> =
        (0..ACCOUNTS).map(|number| AccountId::new(&format!("account-{number}")).expect("short")).collect();
    let keys: Vec<u128> = ids.iter().map(|id| id.key().0).collect();
    let rows = ids.into_iter().map(|id| OpenAccount {
        id,
        currency: Currency::USD,
        overdraft: Overdraft::Unlimited,
    });
    wallet.apply(0, &Command::OpenAccounts(rows.collect()));
    wallet.apply(0, &Command::Hello(Hello { partition: Partition(0), epoch: Epoch(1), unfinished: vec![] }));

    let mut numbers = Numbers(0x9E37_79B9_7F4A_7C15);
    let (mut trying, mut confirming) = (Duration::ZERO, Duration::ZERO);
    for batch in 0..BATCHES {
        let sequences: Vec<u64> = (batch * BATCH..(batch + 1) * BATCH).collect();
        let accounts = sequences.iter().map(|_| keys[(numbers.next() % ACCOUNTS) as usize]).collect();
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
    let changes = wallet.take_changes();
    let taken = start.elapsed();
    let start = Instant::now();
    let records = changes.records().count();
    let encoded = start.elapsed();
    let start = Instant::now();
    let digest = wallet.digest();
    let digested = start.elapsed();
    report(&[
        format!("try      {:6.1} ns a branch", each(trying)),
        format!("confirm  {:6.1} ns a branch", each(confirming)),
        format!("changes  {taken:?} to take, {encoded:?} to encode {records} records"),
        format!("digest   {digested:?} ({digest})"),
    ]);
}

#[expect(clippy::print_stdout, reason = "a bench is a tool that prints")]
fn report(lines: &[String]) {
    for line in lines {
        println!("{line}");
    }
}
