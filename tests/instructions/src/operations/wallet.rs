//! The ledger of one shard, and its log.

use escrow_types::{AccountId, Answer, Currency, Epoch, Partition, Reason, Sequence};
use escrow_wallet::{
    Command, EndBatch, Entry, Hello, OpenAccount, Overdraft, Sender, TryBatch, Wallet, Watermark, kind_of,
};

use super::{ACCOUNTS, BATCH, batches, mix};
use crate::Operation;
use crate::meter::Meter;

pub(crate) const ALL: &[Operation] = &[
    Operation {
        name: "wallet/try",
        what: "branch of one leg, half of them debits: reserved",
        work: confirmed,
    },
    Operation {
        name: "wallet/try/again",
        what: "the same branch comes again: the first answer",
        work: again,
    },
    Operation { name: "wallet/try/rejected", what: "a debit without funds", work: rejected },
    Operation { name: "wallet/try/alone", what: "reserved, one branch a command", work: alone },
    Operation { name: "wallet/confirm", what: "reserved branch is posted", work: confirmed },
    Operation { name: "wallet/cancel", what: "reserved branch is released", work: canceled },
    Operation { name: "wallet/try-and-confirm", what: "branch of two legs, posted at once", work: at_once },
    Operation { name: "wallet/watermark", what: "branch that has ended is forgotten", work: confirmed },
    Operation {
        name: "wallet-log/encode",
        what: "branch: its Try and its Confirm in the log, as bytes",
        work: encode,
    },
    Operation { name: "wallet-log/decode", what: "the same, read", work: decode },
];

const SENDER: Sender = Sender::new(Partition(0), Epoch(1));

/// A wallet with accounts, and which branches it has seen.
struct Bench {
    wallet: Wallet,
    accounts: Vec<u128>,
    batch: usize,
    next: Sequence,
}

impl Bench {
    fn new(batch: usize, overdraft: Overdraft) -> Self {
        let mut wallet = Wallet::default();
        let id = |number| AccountId::new(&format!("account-{number}")).expect("short");
        let ids: Vec<AccountId> = (0..ACCOUNTS).map(id).collect();
        let accounts = ids.iter().map(|id| id.key().0).collect();
        let rows = ids.into_iter().map(|id| OpenAccount { id, currency: Currency::USD, overdraft });
        wallet.apply(0, &Command::OpenAccounts(rows.collect()));
        let hello = Hello { partition: Partition(0), epoch: Epoch(1), unfinished: vec![] };
        wallet.apply(0, &Command::Hello(hello));
        Self { wallet, accounts, batch, next: 0 }
    }

    /// Goes on to the next sequences.
    fn sequences(&mut self) -> Vec<Sequence> {
        let first = self.next;
        self.next += self.batch as u64;
        (first..self.next).collect()
    }

    /// Branches with so many legs: of one, a debit or a credit; of two, both.
    fn tries(&self, sequences: &[Sequence], legs: u64, is_credit: impl Fn(u64) -> bool) -> TryBatch {
        let rows = sequences.iter().flat_map(|&sequence| (0..legs).map(move |leg| (sequence, leg)));
        let (mut of, mut accounts, mut kinds) = (Vec::new(), Vec::new(), Vec::new());
        for (sequence, leg) in rows {
            of.push(sequence);
            accounts.push(self.accounts[(mix(sequence) as usize + leg as usize) % self.accounts.len()]);
            kinds.push(kind_of(Currency::USD, is_credit(if legs == 1 { mix(!sequence) } else { leg })));
        }
        let amounts = vec![1; of.len()];
        TryBatch::new(SENDER, Epoch(1), 0, of, accounts, amounts, kinds).expect("equal columns")
    }

    fn apply(&mut self, meter: &mut Meter, name: &str, command: &Command, expected: Answer) {
        let answers = meter.step(name, || self.wallet.apply(0, command));
        let answers = answers.branches().expect("a command of branches");
        assert!(answers.iter().all(|(_, answer)| answer == expected), "{name}");
    }

    /// Everything below has finished.
    fn forget(&mut self, meter: &mut Meter) {
        let watermark = Watermark { sender: SENDER, epoch: Epoch(1), below: self.next, except: vec![] };
        meter.step("wallet/watermark", || self.wallet.apply(0, &Command::Watermark(watermark.clone())));
    }

    fn run(&mut self, meter: &mut Meter, mut batch: impl FnMut(&mut Self, &mut Meter, Vec<Sequence>)) {
        for is_warm in batches(self.batch) {
            meter.batch(self.batch, is_warm);
            let sequences = self.sequences();
            batch(self, meter, sequences);
            self.forget(meter);
        }
    }
}

const fn is_odd(number: u64) -> bool {
    number % 2 == 1
}

fn end(sequences: Vec<Sequence>) -> EndBatch {
    EndBatch::new(SENDER, Epoch(1), sequences).expect("few enough")
}

/// Try, Confirm, watermark.
fn run_to_confirm(meter: &mut Meter, batch: usize, name: &str) {
    Bench::new(batch, Overdraft::Unlimited).run(meter, |bench, meter, sequences| {
        let tries = Command::Try(bench.tries(&sequences, 1, is_odd));
        bench.apply(meter, name, &tries, Answer::Reserved);
        bench.apply(meter, "wallet/confirm", &Command::Confirm(end(sequences)), Answer::Confirmed);
    });
}

fn confirmed(meter: &mut Meter) {
    run_to_confirm(meter, BATCH, "wallet/try");
}

fn alone(meter: &mut Meter) {
    run_to_confirm(meter, 1, "wallet/try/alone");
}

fn again(meter: &mut Meter) {
    Bench::new(BATCH, Overdraft::Unlimited).run(meter, |bench, meter, sequences| {
        let tries = Command::Try(bench.tries(&sequences, 1, is_odd));
        bench.apply(meter, "wallet/try", &tries, Answer::Reserved);
        bench.apply(meter, "wallet/try/again", &tries, Answer::Reserved);
        bench.apply(meter, "wallet/confirm", &Command::Confirm(end(sequences)), Answer::Confirmed);
    });
}

fn rejected(meter: &mut Meter) {
    Bench::new(BATCH, Overdraft::Forbidden).run(meter, |bench, meter, sequences| {
        let tries = Command::Try(bench.tries(&sequences, 1, |_| false));
        let answer = Answer::Rejected(Reason::InsufficientFunds);
        bench.apply(meter, "wallet/try/rejected", &tries, answer);
    });
}

fn canceled(meter: &mut Meter) {
    Bench::new(BATCH, Overdraft::Unlimited).run(meter, |bench, meter, sequences| {
        let tries = Command::Try(bench.tries(&sequences, 1, is_odd));
        bench.apply(meter, "wallet/try", &tries, Answer::Reserved);
        bench.apply(meter, "wallet/cancel", &Command::Cancel(end(sequences)), Answer::Canceled);
    });
}

fn at_once(meter: &mut Meter) {
    Bench::new(BATCH, Overdraft::Unlimited).run(meter, |bench, meter, sequences| {
        let tries = Command::TryAndConfirm(bench.tries(&sequences, 2, is_odd));
        bench.apply(meter, "wallet/try-and-confirm", &tries, Answer::Confirmed);
    });
}

/// The entries of a batch: a Try, and then its Confirm.
fn entries(bench: &Bench, sequences: &[Sequence]) -> [Entry; 2] {
    [Command::Try(bench.tries(sequences, 1, is_odd)), Command::Confirm(end(sequences.to_vec()))]
        .map(|command| Entry { time_ms: 1, commands: vec![command] })
}

fn encode(meter: &mut Meter) {
    let mut bytes = Vec::new();
    Bench::new(BATCH, Overdraft::Unlimited).run(meter, |bench, meter, sequences| {
        let entries = entries(bench, &sequences);
        meter.step("wallet-log/encode", || {
            for entry in &entries {
                // As a participant's owner does: into a buffer that is used again.
                bytes.clear();
                Entry::begin(entry.time_ms, &mut bytes);
                entry.commands.iter().for_each(|command| command.encode(&mut bytes));
            }
        });
    });
}

fn decode(meter: &mut Meter) {
    Bench::new(BATCH, Overdraft::Unlimited).run(meter, |bench, meter, sequences| {
        let entries = entries(bench, &sequences);
        let bytes = entries.each_ref().map(Entry::encode);
        let read = meter.step("wallet-log/decode", || bytes.each_ref().map(|bytes| Entry::decode(bytes)));
        assert_eq!(read, entries.map(Ok));
    });
}
