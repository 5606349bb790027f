//! What a transfer costs the coordinator's owner, stage by stage, without I/O: 65,536 at a time, over two shards, each way that they go.
//!
//! `cargo bench -p escrow-tcc` prints nanoseconds per transfer, of the median round and of the round that a tenth was faster than
//! (what it costs when nobody else uses the machine); bounded to a few seconds. `cargo test` runs it for one checkpoint, so that it goes on working.
#![allow(clippy::print_stdout, reason = "a report")]

use std::time::{Duration, Instant};

use escrow_tcc::Entry;
use escrow_tcc::driver::{
    CallKind, CallerId, Config, Driver, LinkKind, LinkState, Outputs, RetryDelays, Send, TransferRequest,
    Wait, Waiter,
};
use escrow_tcc::machine::Machine;
use escrow_tcc::routing::Routing;
use escrow_types::{AccountKey, Answer, Currency, ParticipantId, Sequence, TransactionKey};

/// As in the server.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// As many are in flight at a time as `escrow bench` has in bulk: more than the caches nearest to a core hold.
const ROWS: usize = 65_536;
const ROUNDS: usize = 64;
/// Rows of ended transactions are handed over so often, as a checkpoint does.
const ROUNDS_PER_CHECKPOINT: usize = 16;
/// Until every table has all of its memory: these rounds are not counted.
const WARM_UP_ROUNDS: usize = 2 * ROUNDS_PER_CHECKPOINT;
/// Ids are looked for so many at a time.
const LOOK_AHEAD: usize = 32;
const SHARDS: [ParticipantId; 2] = [ParticipantId(0), ParticipantId(1)];

struct NoDelays;

impl RetryDelays for NoDelays {
    fn delay_ms(&mut self, _attempt: u32) -> u64 {
        1
    }
}

/// Measures one stage after the other.
struct Stages {
    /// Of each round.
    spent: Vec<(&'static str, Vec<Duration>)>,
    at: usize,
    since: Instant,
}

impl Stages {
    fn new() -> Self {
        Self { spent: Vec::new(), at: 0, since: Instant::now() }
    }

    fn begin(&mut self, round: usize) {
        if round == WARM_UP_ROUNDS {
            self.spent.clear();
        }
        (self.at, self.since) = (0, Instant::now());
    }

    fn done(&mut self, name: &'static str) {
        let spent = self.since.elapsed();
        if self.at == self.spent.len() {
            self.spent.push((name, Vec::new()));
        }
        self.spent[self.at].1.push(spent);
        self.at += 1;
        self.since = Instant::now();
    }

    fn report(self, title: &str) {
        if self.spent.iter().any(|(_, spent)| spent.len() < ROUNDS) {
            return;
        }
        println!("{title:<24}{:>8}{:>8}  ns per transfer", "median", "tenth");
        let (mut medians, mut tenths) = (0.0, 0.0);
        for (name, mut spent) in self.spent {
            spent.sort_unstable();
            let per_transfer = |at: usize| spent[at].as_nanos() as f64 / ROWS as f64;
            let (median, tenth) = (per_transfer(spent.len() / 2), per_transfer(spent.len() / 10));
            println!("{name:<24}{median:>8.1}{tenth:>8.1}");
            (medians, tenths) = (medians + median, tenths + tenth);
        }
        println!("{:<24}{medians:>8.1}{tenths:>8.1}\n", "all");
    }
}

fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z ^ (z >> 31)
}

/// Answers every row that was sent, as a shard would: a message for each.
fn answer(driver: &mut Driver, now: u64, outputs: Outputs) {
    let epoch = driver.machine().epoch();
    for (participant, send) in outputs.sends {
        let answers = |answer: Answer, rows: usize| vec![answer.to_byte(); rows];
        // One leg is one branch across shards; within one a branch has two.
        let branches = |mut sequences: Vec<Sequence>| {
            sequences.dedup();
            sequences
        };
        match send {
            Send::Try(columns) => {
                let sequences = branches(columns.sequences);
                let answers = answers(Answer::Reserved, sequences.len());
                driver.tried(now, participant, epoch, &sequences, &answers);
            }
            Send::TryAndConfirm(columns) => {
                let sequences = branches(columns.sequences);
                let answers = answers(Answer::Confirmed, sequences.len());
                driver.tried_and_confirmed(now, participant, epoch, &sequences, &answers);
            }
            Send::Confirm(columns) => {
                let answers = answers(Answer::Confirmed, columns.sequences.len());
                driver.ended(now, participant, CallKind::Confirm, epoch, &columns.sequences, &answers);
            }
            other => unreachable!("{other:?}"),
        }
    }
}

/// Runs transfers whose payee is on the shard that `to` gives for that of the payer.
fn run(title: &str, rounds: usize, to: impl Fn(usize) -> usize) {
    let routing = Routing::new(SHARDS.to_vec());
    let mut sides: [Vec<AccountKey>; 2] = [Vec::new(), Vec::new()];
    for number in 0..100_000 {
        let account = AccountKey::from_halves(mix(number), (0b11 << 62) | mix(number + 1));
        sides[usize::from(routing.of(account).expect("there are shards").0)].push(account);
    }
    let links = SHARDS.map(|id| (id, LinkKind::Stream)).to_vec();
    let mut driver = Driver::new(Config::default(), routing, links, Machine::new(), Box::new(NoDelays));
    driver.machine_mut().make_room(ROWS * ROUNDS_PER_CHECKPOINT);
    let open = Entry { time_ms: 0, commands: vec![driver.open_epoch()] };
    driver.applied(&open);
    driver.recover();
    for id in SHARDS {
        driver.set_link(0, id, LinkState::Ready);
    }
    driver.take_outputs();

    let mut bytes = Vec::new();
    let mut stages = Stages::new();
    for round in 0..rounds {
        let now = round as u64;
        let first = (round * ROWS) as u64;
        let request = |number: u64| {
            let payer = mix(!number) as usize % 2;
            let (from, to) = (&sides[payer], &sides[to(payer)]);
            let at = mix(number) as usize % from.len();
            let other = if std::ptr::eq(from, to) { (at + 1) % to.len() } else { at % to.len() };
            TransferRequest {
                key: TransactionKey(
                    (u128::from(mix(number)) << 64) | (0b11 << 62) | u128::from(mix(!number) >> 2),
                ),
                from: from[at],
                to: to[other],
                amount: 5,
                currency: Currency::USD,
                timeout_ms: 0,
                names: None,
            }
        };
        let requests: Vec<TransferRequest<'_>> = (first..first + ROWS as u64).map(request).collect();
        stages.begin(round);
        for (tag, request) in requests.iter().enumerate() {
            if tag % LOOK_AHEAD == 0 {
                driver.look_ahead(requests[tag..].iter().take(LOOK_AHEAD).map(|request| request.key));
            }
            let waiter = Waiter { caller: CallerId(0), tag: tag as u64, wait: Wait::Completed };
            driver.submit_transfer(now, &(), request, waiter);
        }
        stages.done("submit_transfer");
        let sent_beside = driver.take_outputs();
        let begin = driver.take_entry(now).expect("there are Begins");
        stages.done("outputs, entry");
        bytes.clear();
        begin.encode_into(&mut bytes);
        stages.done("encode Begin");
        driver.applied(&begin);
        stages.done("applied Begin");
        let sent_after = driver.take_outputs();
        stages.done("outputs");
        answer(&mut driver, now, sent_beside);
        answer(&mut driver, now, sent_after);
        stages.done("answers to (first) call");
        let confirms = driver.take_outputs();
        stages.done("outputs");
        let mut answers = confirms.answers.len();
        answer(&mut driver, now, confirms);
        stages.done("answers to Confirm");
        answers += driver.take_outputs().answers.len();
        stages.done("outputs");
        let finish = driver.flush_lazy(now).expect("there are ends");
        bytes.clear();
        finish.encode_into(&mut bytes);
        stages.done("encode Finish");
        driver.applied(&finish);
        stages.done("applied Finish");
        assert_eq!((answers, driver.in_flight()), (ROWS, 0));
        if round % ROUNDS_PER_CHECKPOINT == ROUNDS_PER_CHECKPOINT - 1 {
            let handed_over = driver.machine_mut().hand_over();
            driver.machine_mut().give_back(handed_over);
        }
    }
    stages.report(title);
}

fn main() {
    // Cargo says so when it benches, and not when it tests.
    let is_bench = std::env::args().any(|argument| argument == "--bench");
    let rounds = if is_bench { WARM_UP_ROUNDS + ROUNDS } else { ROUNDS_PER_CHECKPOINT + 1 };
    run("between two shards", rounds, |payer| 1 - payer);
    run("within one shard", rounds, |payer| payer);
}
