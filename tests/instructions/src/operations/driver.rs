//! The coordinator's driver: whole transfers, turn by turn, as its owner moves it, with participants that answer at once.
//!
//! Written against what the driver is asked and what it puts out, not against how many entries it takes: a turn logs what there
//! is to log, be it nothing.

use escrow_tcc::Entry;
use escrow_tcc::driver::{
    CallKind, CallerId, Config, Driver, LinkKind, LinkState, Outputs, RetryDelays, TransferRequest, Wait,
    Waiter,
};
use escrow_tcc::machine::Machine;
use escrow_tcc::routing::Routing;
use escrow_types::{AccountKey, Answer, Currency, ParticipantId, Reason, Sequence};

use super::{ACCOUNTS, BATCH, account, batches, key, mix};
use crate::Operation;
use crate::meter::Meter;

pub(crate) const ALL: &[Operation] = &[
    Operation {
        name: "driver/two-phase/begin",
        what: "transfer between two shards: submitted, Trys out, Begin in the entry",
        work: two_phase,
    },
    Operation { name: "driver/two-phase/begun", what: "its Begin is durable and applied", work: two_phase },
    Operation {
        name: "driver/two-phase/tried",
        what: "both answers to Try; what there is to log of the decision",
        work: two_phase,
    },
    Operation {
        name: "driver/two-phase/decided",
        what: "what was logged of the decision is applied, Confirms out",
        work: two_phase,
    },
    Operation {
        name: "driver/two-phase/ended",
        what: "both acknowledgements, the caller's answer out",
        work: two_phase,
    },
    Operation {
        name: "driver/two-phase/finished",
        what: "its Finish is logged and applied",
        work: two_phase,
    },
    Operation { name: "driver/two-phase", what: "all of the above", work: two_phase_whole },
    Operation {
        name: "driver/two-phase/alone",
        what: "all of the above for a transfer that is alone in its turns",
        work: two_phase_alone,
    },
    Operation {
        name: "driver/canceled",
        what: "one of two shards rejects it: all turns to its end",
        work: canceled,
    },
    Operation {
        name: "driver/one-phase",
        what: "transfer within one shard: all turns to its end",
        work: one_phase,
    },
    Operation {
        name: "driver/retry",
        what: "an id that has ended comes again and gets the first answer",
        work: retry,
    },
];

/// Ids of a message are looked for so many at a time, as the owner does.
const LOOK_AHEAD: usize = 32;
const SHARDS: [ParticipantId; 2] = [ParticipantId(0), ParticipantId(1)];

struct NoDelays;

impl RetryDelays for NoDelays {
    fn delay_ms(&mut self, _attempt: u32) -> u64 {
        1
    }
}

/// What a turn logged, if anything, and what it put out.
struct Turn {
    entry: Option<Entry>,
    outputs: Outputs,
}

/// A driver with two shards, and what it was asked so far.
pub(super) struct Bench {
    driver: Driver,
    sides: [Vec<AccountKey>; 2],
    batch: usize,
    /// Transfers so far.
    submitted: u64,
    /// Every entry that was applied, where they are wanted.
    pub(super) log: Option<Vec<Entry>>,
}

impl Bench {
    pub(super) fn new(batch: usize) -> Self {
        let routing = Routing::new(SHARDS.to_vec());
        let mut sides: [Vec<AccountKey>; 2] = [Vec::new(), Vec::new()];
        for number in 0..2 * ACCOUNTS as u64 {
            let account = account(number);
            sides[usize::from(routing.of(account).expect("there are shards").0)].push(account);
        }
        let links = SHARDS.map(|id| (id, LinkKind::Stream)).to_vec();
        let driver = Driver::new(Config::default(), routing, links, Machine::new(), Box::new(NoDelays));
        let mut bench = Self { driver, sides, batch, submitted: 0, log: None };
        let open = Entry { time_ms: 0, commands: vec![bench.driver.open_epoch()] };
        bench.driver.applied(&open);
        bench.driver.recover();
        for id in SHARDS {
            bench.driver.set_link(0, id, LinkState::Ready);
        }
        bench.driver.take_outputs();
        bench
    }

    /// Time as the driver hears it: it goes on by the batch.
    fn now(&self) -> u64 {
        1 + self.submitted / BATCH as u64
    }

    fn requests(&self, first: u64, sides: [usize; 2]) -> Vec<TransferRequest<'static>> {
        let pick = |side: usize, number: u64| {
            let accounts = &self.sides[side];
            accounts[mix(number) as usize % accounts.len()]
        };
        let request = |number: u64| TransferRequest {
            key: key(number),
            from: pick(sides[0], number),
            // Not the same account, even on the same side.
            to: match pick(sides[1], number + 1) {
                same if same == pick(sides[0], number) => pick(sides[1], number + 2),
                other => other,
            },
            amount: 5,
            currency: Currency::USD,
            timeout_ms: 0,
            names: None,
        };
        (first..first + self.batch as u64).map(request).collect()
    }

    fn submit(&mut self, now: u64, requests: &[TransferRequest<'_>]) {
        for (tag, request) in requests.iter().enumerate() {
            if tag % LOOK_AHEAD == 0 {
                self.driver.look_ahead(requests[tag..].iter().take(LOOK_AHEAD).map(|request| request.key));
            }
            let waiter = Waiter { caller: CallerId(0), tag: tag as u64, wait: Wait::Completed };
            self.driver.submit_transfer(now, &(), request, waiter);
        }
    }

    /// The end of a turn.
    fn end_turn(&mut self, now: u64) -> Turn {
        let entry = self.driver.take_entry(now);
        Turn { entry, outputs: self.driver.take_outputs() }
    }

    /// An entry is durable.
    fn durable(&mut self, entry: Option<&Entry>) -> Outputs {
        if let Some(entry) = entry {
            self.driver.applied(entry);
        }
        self.driver.take_outputs()
    }

    fn finish(&mut self, now: u64) -> Option<Entry> {
        let entry = self.driver.flush_lazy(now);
        if let Some(entry) = &entry {
            self.driver.applied(entry);
        }
        entry
    }

    fn keep(&mut self, entries: impl IntoIterator<Item = Option<Entry>>) {
        if let Some(log) = &mut self.log {
            log.extend(entries.into_iter().flatten());
        }
    }

    /// One batch between the two shards, from its submission to its end; each turn is a step, and so is the whole.
    fn transfer(&mut self, meter: &mut Meter, answers_to_try: [Answer; 2]) {
        let (rows, now, first) = (self.batch, self.now(), self.submitted);
        let requests = self.requests(first, [0, 1]);
        let sequences: Vec<Sequence> = (first..first + rows as u64).collect();
        let tried = answers_to_try.map(|answer| vec![answer.to_byte(); rows]);
        let is_confirmed = answers_to_try == [Answer::Reserved; 2];
        let (end, ended) = if is_confirmed {
            (CallKind::Confirm, vec![Answer::Confirmed.to_byte(); rows])
        } else {
            (CallKind::Cancel, vec![Answer::Canceled.to_byte(); rows])
        };
        // A rejected branch has nothing to release.
        let reserved = (0..2).filter(|&side| answers_to_try[side] == Answer::Reserved);
        let epoch = self.driver.machine().epoch();
        self.submitted += rows as u64;

        let begin = meter.step("driver/two-phase/begin", || {
            self.submit(now, &requests);
            self.end_turn(now)
        });
        let begun = meter.step("driver/two-phase/begun", || self.durable(begin.entry.as_ref()));
        let decide = meter.step("driver/two-phase/tried", || {
            for (id, answers) in SHARDS.into_iter().zip(&tried) {
                self.driver.tried(now, id, epoch, &sequences, answers);
            }
            self.end_turn(now)
        });
        let decided = meter.step("driver/two-phase/decided", || self.durable(decide.entry.as_ref()));
        let end = meter.step("driver/two-phase/ended", || {
            for side in reserved {
                self.driver.ended(now, SHARDS[side], end, epoch, &sequences, &ended);
            }
            self.end_turn(now)
        });
        let finish = meter.step("driver/two-phase/finished", || self.finish(now));
        let outputs =
            [begin.outputs, begun, decide.outputs, decided, end.outputs, self.driver.take_outputs()];
        let answers: usize = outputs.iter().map(|outputs| outputs.answers.len()).sum();
        assert_eq!(answers, rows, "every transfer is answered");
        assert_eq!(self.driver.in_flight(), 0, "every transfer has ended");
        self.keep([begin.entry, decide.entry, end.entry, finish]);
    }

    /// One batch within one shard.
    fn transfer_within(&mut self, meter: &mut Meter) {
        let (rows, now, first) = (self.batch, self.now(), self.submitted);
        let requests = self.requests(first, [0, 0]);
        let sequences: Vec<Sequence> = (first..first + rows as u64).collect();
        let confirmed = vec![Answer::Confirmed.to_byte(); rows];
        let epoch = self.driver.machine().epoch();
        self.submitted += rows as u64;
        let (begin, sent, end, finish) = meter.step("driver/one-phase", || {
            self.submit(now, &requests);
            let begin = self.end_turn(now);
            // Nothing leaves before Begin is durable.
            let sent = self.durable(begin.entry.as_ref());
            self.driver.tried_and_confirmed(now, SHARDS[0], epoch, &sequences, &confirmed);
            let end = self.end_turn(now);
            (begin, sent, end, self.finish(now))
        });
        assert_eq!(sent.sends.len(), 1, "one message takes the batch to its shard");
        let outputs = [begin.outputs, end.outputs, self.driver.take_outputs()];
        assert_eq!(outputs.iter().map(|outputs| outputs.answers.len()).sum::<usize>(), rows);
        self.keep([begin.entry, end.entry, finish]);
    }

    /// What a checkpoint does with the rows of ended transactions. Twice, so that both tables have had their size.
    fn checkpoint(&mut self) {
        for _ in 0..2 {
            let handed_over = self.driver.machine_mut().hand_over();
            self.driver.machine_mut().give_back(handed_over);
        }
    }

    /// Batches, so many of them not counted.
    pub(super) fn run(&mut self, meter: &mut Meter, mut batch: impl FnMut(&mut Self, &mut Meter)) {
        let mut was_warm = false;
        for is_warm in batches(self.batch) {
            if is_warm && !was_warm {
                self.checkpoint();
            }
            was_warm = is_warm;
            meter.batch(self.batch, is_warm);
            batch(self, meter);
        }
    }

    /// A batch between the two shards that ends well.
    pub(super) fn confirm(&mut self, meter: &mut Meter) {
        self.transfer(meter, [Answer::Reserved; 2]);
    }
}

fn two_phase(meter: &mut Meter) {
    Bench::new(BATCH).run(meter, Bench::confirm);
}

fn two_phase_whole(meter: &mut Meter) {
    meter.count_whole();
    Bench::new(BATCH).run(meter, Bench::confirm);
}

fn two_phase_alone(meter: &mut Meter) {
    meter.count_whole();
    Bench::new(1).run(meter, Bench::confirm);
}

fn canceled(meter: &mut Meter) {
    meter.count_whole();
    let rejected = Answer::Rejected(Reason::InsufficientFunds);
    Bench::new(BATCH).run(meter, |bench, meter| bench.transfer(meter, [rejected, Answer::Reserved]));
}

fn one_phase(meter: &mut Meter) {
    Bench::new(BATCH).run(meter, Bench::transfer_within);
}

fn retry(meter: &mut Meter) {
    Bench::new(BATCH).run(meter, |bench, meter| {
        let (first, now) = (bench.submitted, bench.now());
        bench.confirm(meter);
        let requests = bench.requests(first, [0, 1]);
        let turn = meter.step("driver/retry", || {
            bench.submit(now, &requests);
            bench.end_turn(now)
        });
        assert!(turn.outputs.answers.len() == BATCH && turn.entry.is_none(), "the first answer, again");
    });
}
