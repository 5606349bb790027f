//! What a transfer costs the coordinator's owner, stage by stage: cross-shard transfers in batches of 8,192, over two
//! shards, without I/O. `cargo bench -p escrow-tcc` prints nanoseconds per transfer, of the median batch and of the batch
//! that a tenth was faster than (what it costs when nobody else uses the machine); bounded to a few seconds.
#![allow(clippy::print_stdout, reason = "a report")]

use std::time::{Duration, Instant};

use escrow_tcc::driver::{
    CallKind, CallerId, Config, Driver, LinkKind, LinkState, RetryDelays, TransferRequest, Wait, Waiter,
};
use escrow_tcc::machine::Machine;
use escrow_tcc::routing::Routing;
use escrow_tcc::{Command, Entry};
use escrow_types::{AccountKey, Answer, Currency, ParticipantId, Sequence, TransactionKey};

const BATCH: usize = 8_192;
const BATCHES: usize = 512;
/// Rows of ended transactions are handed over so often, as a checkpoint does.
const BATCHES_PER_CHECKPOINT: usize = 128;
/// Ids are looked for so many at a time.
const LOOK_AHEAD: usize = 32;
const STAGES: [&str; 12] = [
    "submit_transfer",
    "outputs: Try",
    "entry: Begin",
    "encode Begin",
    "applied Begin",
    "tried (2 branches)",
    "entry + encode Decide",
    "applied Decide",
    "outputs: Confirm",
    "ended (2 branches)",
    "applied Finish",
    "outputs: answers",
];

struct NoDelays;

impl RetryDelays for NoDelays {
    fn delay_ms(&mut self, _attempt: u32) -> u64 {
        1
    }
}

/// Measures one stage after the other.
struct Stages {
    /// Of each batch.
    spent: [Vec<Duration>; STAGES.len()],
    at: usize,
    since: Instant,
}

impl Stages {
    fn done(&mut self) {
        self.spent[self.at].push(self.since.elapsed());
        self.at = (self.at + 1) % STAGES.len();
        self.since = Instant::now();
    }
}

fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z ^ (z >> 31)
}

fn main() {
    let shards = [ParticipantId(0), ParticipantId(1)];
    let routing = Routing::new(shards.to_vec());
    let mut sides: [Vec<AccountKey>; 2] = [Vec::new(), Vec::new()];
    for number in 0..100_000 {
        let account = AccountKey::from_halves(mix(number), (0b11 << 62) | mix(number + 1));
        sides[usize::from(routing.of(account).expect("there are shards").0)].push(account);
    }
    let links = shards.map(|id| (id, LinkKind::Stream)).to_vec();
    let mut driver = Driver::new(Config::default(), routing, links, Machine::new(), Box::new(NoDelays));
    let open = Entry { time_ms: 0, commands: vec![driver.open_epoch()] };
    driver.applied(&open);
    driver.recover();
    for id in shards {
        driver.set_link(0, id, LinkState::Ready);
    }
    driver.take_outputs();

    let reserved = vec![Answer::Reserved.to_byte(); BATCH];
    let confirmed = vec![Answer::Confirmed.to_byte(); BATCH];
    let mut bytes = Vec::new();
    let mut stages = Stages { spent: Default::default(), at: 0, since: Instant::now() };
    let mut answers = 0;
    for batch in 0..BATCHES {
        let now = batch as u64;
        let first = (batch * BATCH) as u64;
        let requests: Vec<TransferRequest<'_>> = (first..first + BATCH as u64)
            .map(|number| TransferRequest {
                key: TransactionKey(
                    (u128::from(mix(number)) << 64) | (0b11 << 62) | u128::from(mix(!number) >> 2),
                ),
                from: sides[0][mix(number) as usize % sides[0].len()],
                to: sides[1][mix(number) as usize % sides[1].len()],
                amount: 5,
                currency: Currency::USD,
                timeout_ms: 0,
                names: None,
            })
            .collect();
        let sequences: Vec<Sequence> = (first..first + BATCH as u64).collect();
        let epoch = driver.machine().epoch();
        stages.since = Instant::now();
        for (tag, request) in requests.iter().enumerate() {
            if tag % LOOK_AHEAD == 0 {
                driver.look_ahead(requests[tag..].iter().take(LOOK_AHEAD).map(|request| request.key));
            }
            let waiter = Waiter { caller: CallerId(0), tag: tag as u64, wait: Wait::Completed };
            driver.submit_transfer(now, &(), request, waiter);
        }
        stages.done();
        let tries = driver.take_outputs();
        stages.done();
        let begin = driver.take_entry(now).expect("there are Begins");
        stages.done();
        bytes.clear();
        begin.encode_into(&mut bytes);
        stages.done();
        driver.applied(&begin);
        stages.done();
        for id in shards {
            driver.tried(now, id, epoch, &sequences, &reserved);
        }
        stages.done();
        let decide = driver.take_entry(now).expect("there are decisions");
        bytes.clear();
        decide.encode_into(&mut bytes);
        stages.done();
        driver.applied(&decide);
        stages.done();
        let confirms = driver.take_outputs();
        stages.done();
        for id in shards {
            driver.ended(now, id, CallKind::Confirm, epoch, &sequences, &confirmed);
        }
        stages.done();
        let finish = driver.flush_lazy(now).expect("there are ends");
        driver.applied(&finish);
        stages.done();
        answers += driver.take_outputs().answers.len();
        stages.done();
        assert!(tries.sends.len() == 2 && confirms.sends.len() == 2);
        assert!(begin.commands.iter().all(|command| matches!(command, Command::BeginTransfers(_))));
        if batch % BATCHES_PER_CHECKPOINT == BATCHES_PER_CHECKPOINT - 1 {
            let handed_over = driver.machine_mut().hand_over();
            driver.machine_mut().give_back(handed_over);
        }
    }
    assert_eq!(answers, BATCH * BATCHES);
    println!("{:<24}{:>8}{:>8}  ns per transfer", "", "median", "tenth");
    let (mut medians, mut tenths) = (0.0, 0.0);
    for (name, mut spent) in STAGES.into_iter().zip(stages.spent) {
        spent.sort_unstable();
        let per_transfer = |at: usize| spent[at].as_nanos() as f64 / BATCH as f64;
        let (median, tenth) = (per_transfer(BATCHES / 2), per_transfer(BATCHES / 10));
        println!("{name:<24}{median:>8.1}{tenth:>8.1}");
        (medians, tenths) = (medians + median, tenths + tenth);
    }
    println!("{:<24}{medians:>8.1}{tenths:>8.1}", "all");
}
