//! `escrow_tcc`: log entries, checkpoints, and what participants answer.

use escrow_tcc::command::{
    Attention, BeginLegs, BeginTransfers, Decide, DecidePartial, Finish, FinishImplied, Force, GiveUp, Name,
    NameOf,
};
use escrow_tcc::content::Legs;
use escrow_tcc::driver::{
    CallKind, CallerId, Config, Filter, LinkKind, LinkState, RetryDelays, TransferRequest, Wait, Waiter,
};
use escrow_tcc::routing::Routing;
use escrow_tcc::{Command, Content, Decision, Direction, Driver, Entry, Leg, Machine, Transfer};
use escrow_types::codec::Take;
use escrow_types::{AccountKey, Answer, Currency, Epoch, ParticipantId, Reason, TransactionKey};

use crate::memory;

/// One log entry: read, written again, and as far as it fits applied.
pub(super) fn entry(input: &[u8]) {
    let entry = memory::bounded(memory::for_input(input), || Entry::decode(input));
    let Ok(entry) = entry else { return };
    assert!(entry.encode() == input, "an entry has one form");
    let mut machine = Machine::new();
    for command in entry.commands.iter().filter(|_| input.len() < 1 << 16) {
        if fits(&machine, command) {
            machine.apply(entry.time_ms, command);
        }
    }
    come_back(&machine);
}

/// Checkpoint and live state are the same.
pub(super) fn come_back(machine: &Machine) {
    let again = Machine::from_checkpoint(&machine.to_checkpoint()).expect("what was written can be read");
    assert_eq!(again.digest(), machine.digest(), "invariant 10");
}

/// Whether a command could have been logged in this state. One that could not is a broken invariant, and stops the process:
/// that is meant, and not looked for here.
fn fits(machine: &Machine, command: &Command) -> bool {
    let live = machine.live();
    let get = |epoch, sequence| live.get(epoch, sequence);
    let once = |sequences: &[u64]| {
        let mut sorted = sequences.to_vec();
        sorted.sort_unstable();
        sorted.windows(2).all(|pair| pair[0] != pair[1])
    };
    match command {
        Command::OpenEpoch(epoch) => *epoch > machine.epoch(),
        Command::BeginTransfers(begin) => begin.first == live.next(),
        Command::BeginLegs(begin) => begin.sequence == live.next(),
        Command::Decide(decide) => {
            once(&decide.sequences)
                && decide.iter().all(|(sequence, _)| {
                    get(decide.epoch, sequence).is_some_and(|live| live.decision.is_none())
                })
        }
        Command::DecidePartial(decide) => get(decide.epoch, decide.sequence).is_some_and(|live| {
            let legs = if let Content::Legs(legs) = &live.content { legs.legs.len() } else { 0 };
            live.decision.is_none() && live.content.is_two_step() && legs == decide.amounts.len()
        }),
        Command::Finish(finish) => {
            let decided = |&sequence| get(finish.epoch, sequence).is_some_and(|live| live.decision.is_some());
            once(&finish.sequences) && finish.sequences.iter().all(decided)
        }
        Command::FinishImplied(finish) => {
            let outcomes = &finish.outcomes;
            once(&outcomes.sequences)
                && outcomes.iter().all(|(sequence, outcome)| {
                    get(outcomes.epoch, sequence)
                        .is_some_and(|live| live.decision.is_none_or(|decision| decision == outcome))
                })
        }
        Command::Attention(attention) => get(attention.epoch, attention.sequence).is_some(),
        Command::Force(force) => get(force.epoch, force.sequence).is_some(),
        Command::GiveUp(give_up) => {
            get(give_up.epoch, give_up.sequence).is_some_and(|live| live.decision.is_some())
        }
        Command::SetPaused(_) => true,
    }
}

/// A checkpoint: read, written again, and everything unfinished in it brought to its end.
pub(super) fn checkpoint(input: &[u8]) {
    let read = memory::bounded(memory::for_input(input), || Machine::from_checkpoint(input));
    let Ok(mut machine) = read else { return };
    assert!(machine.to_checkpoint() == input, "a checkpoint has one form");
    come_back(&machine);
    let open: Vec<_> =
        machine.live().iter().map(|(epoch, sequence, live)| (epoch, sequence, live.decision)).collect();
    for (epoch, sequence, decision) in open {
        if decision.is_none() {
            let mut decide = Decide { epoch, ..Decide::default() };
            decide.push(sequence, Decision::Confirm);
            machine.apply(1, &Command::Decide(decide));
        }
        machine.apply(2, &Command::Finish(Finish { epoch, sequences: vec![sequence] }));
    }
    assert!(machine.live().is_empty());
    assert!(machine.hand_over().finished().all(|row| row.outcome().is_some()));
}

fn transfer(number: u64) -> (TransactionKey, Transfer) {
    let id = |kind: u128| 0x0198_c0de_0000_7abc_8000_0000_0000_0000 | kind << 32 | u128::from(number);
    let transfer = Transfer {
        from: AccountKey(id(1)),
        to: AccountKey(id(2)),
        amount: 5 + number,
        currency: Currency::USD,
        from_participant: ParticipantId(0),
        to_participant: ParticipantId(1),
    };
    (TransactionKey(id(3)), transfer)
}

fn legs(two_step: bool) -> Legs {
    let leg = |participant, direction, account_id: Option<&str>| Leg {
        participant: ParticipantId(participant),
        account: AccountKey(u128::from(participant) | 3 << 62),
        account_id: account_id.map(Into::into),
        direction,
        amount: 9,
        currency: Currency::EUR,
    };
    let legs = vec![leg(0, Direction::Debit, None), leg(5_000, Direction::Credit, Some("bank/7"))];
    Legs { two_step, legs, partial: None }
}

/// Transactions of all kinds in all phases, in two epochs.
fn commands() -> Vec<Command> {
    let mut begin = BeginTransfers::with_capacity(0, 4);
    for number in 0..4 {
        let (key, transfer) = transfer(number);
        begin.push(key, &transfer, 5_000);
    }
    begin.names.push(Name { row: 1, of: NameOf::From, text: "alice".into() });
    let begin_legs = |sequence, two_step| BeginLegs {
        sequence,
        key: TransactionKey(u128::from(sequence) | 3 << 62),
        transaction_id: Some("order 17".into()),
        deadline: 9_000,
        legs: legs(two_step),
    };
    let mut decide = Decide { epoch: Epoch(1), ..Decide::default() };
    decide.push(0, Decision::Confirm);
    decide.push(1, Decision::Cancel(Reason::InsufficientFunds));
    let mut outcomes = Decide { epoch: Epoch(1), ..Decide::default() };
    outcomes.push(2, Decision::Confirm);
    vec![
        Command::OpenEpoch(Epoch(1)),
        Command::BeginTransfers(begin),
        Command::BeginLegs(begin_legs(4, false)),
        Command::BeginLegs(begin_legs(5, true)),
        Command::Decide(decide),
        Command::DecidePartial(DecidePartial { epoch: Epoch(1), sequence: 5, amounts: vec![4, 4] }),
        Command::Finish(Finish { epoch: Epoch(1), sequences: vec![0] }),
        Command::FinishImplied(FinishImplied { outcomes }),
        Command::Attention(Attention { epoch: Epoch(1), sequence: 5, participant: ParticipantId(0) }),
        Command::OpenEpoch(Epoch(2)),
        Command::BeginLegs(begin_legs(0, false)),
        Command::Force(Force {
            epoch: Epoch(2),
            sequence: 0,
            decision: Decision::Cancel(Reason::Forced),
            reason: "why".into(),
        }),
        Command::GiveUp(GiveUp { epoch: Epoch(1), sequence: 1, reason: "gone".into() }),
        Command::SetPaused(true),
    ]
}

pub(super) fn entry_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let empty = Entry { time_ms: 0, commands: vec![] };
    let begun = Entry { time_ms: 7, commands: commands()[..4].to_vec() };
    let all = Entry { time_ms: 1_000, commands: commands() };
    vec![("empty", empty.encode()), ("begun", begun.encode()), ("all", all.encode())]
}

pub(super) fn checkpoint_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let seed = |commands: &[Command]| {
        let mut machine = Machine::new();
        for command in commands {
            machine.apply(3, command);
        }
        machine.to_checkpoint()
    };
    vec![("empty", seed(&[])), ("begun", seed(&commands()[..4])), ("all", seed(&commands()))]
}

#[derive(Debug)]
struct Delays;

impl RetryDelays for Delays {
    fn delay_ms(&mut self, attempt: u32) -> u64 {
        20 << attempt.min(4)
    }
}

/// A driver with transfers under way between two shards.
pub(super) fn driver() -> Driver {
    let shards = vec![ParticipantId(0), ParticipantId(1)];
    let links = shards.iter().map(|&shard| (shard, LinkKind::Stream)).collect();
    let mut driver =
        Driver::new(Config::default(), Routing::new(shards.clone()), links, Machine::new(), Box::new(Delays));
    let opening = Entry { time_ms: 1, commands: vec![driver.open_epoch()] };
    driver.applied(&opening);
    driver.recover();
    for shard in shards {
        driver.set_link(1, shard, LinkState::Ready);
    }
    for number in 0..6 {
        let (key, transfer) = transfer(number * 1_000_003);
        let request = TransferRequest {
            key,
            from: transfer.from,
            to: transfer.to,
            amount: transfer.amount,
            currency: transfer.currency,
            timeout_ms: 0,
            names: None,
        };
        submit(&mut driver, &request);
    }
    turn(&mut driver, 1);
    driver
}

/// As the owner does for a caller.
pub(super) fn submit(driver: &mut Driver, request: &TransferRequest<'_>) {
    let waiter = Waiter { caller: CallerId(1), tag: u64::MAX, wait: Wait::Completed };
    driver.submit_transfer(2, &(), request, waiter);
}

/// A caller lists what is unfinished after a cursor that it may have made up.
pub(super) fn list(driver: &Driver, after: Option<(Epoch, u64)>) {
    let filter = Filter::default();
    let listed = driver.select(9, &filter, after);
    for view in listed {
        assert!(
            after.is_none_or(|after| (view.epoch, view.sequence) > after),
            "a page goes on after its cursor"
        );
    }
}

/// Logs and applies what is due, as an owner does; what is logged must be readable.
pub(super) fn turn(driver: &mut Driver, now_ms: u64) {
    if let Some(entry) = driver.flush_lazy(now_ms) {
        let read = Entry::decode(&entry.encode()).expect("what a driver logs can be replayed");
        driver.applied(&read);
    }
    let _ = driver.take_outputs();
}

/// What participants send: for each message one byte of kind and participant, `u32` epoch, a column of sequences, bytes of
/// answers. Whatever they say, the coordinator goes on, and its log can be replayed.
pub(super) fn answers(input: &[u8]) {
    let mut take = Take::new(input);
    let mut driver = driver();
    let mut now_ms = 2;
    while message(&mut driver, &mut take, now_ms).is_some() {
        turn(&mut driver, now_ms);
        now_ms += 10;
    }
    driver.tick(1 << 40);
    turn(&mut driver, 1 << 40);
    come_back(driver.machine());
}

fn message(driver: &mut Driver, take: &mut Take<'_>, now_ms: u64) -> Option<()> {
    let kind = take.u8().ok()?;
    let (epoch, sequences, bytes) = (Epoch(take.u32().ok()?), take.column_u64().ok()?, take.bytes().ok()?);
    let participant = ParticipantId(u16::from(kind >> 4));
    match kind & 0x0F {
        0 => driver.tried(now_ms, participant, epoch, &sequences, bytes),
        1 => driver.tried_and_confirmed(now_ms, participant, epoch, &sequences, bytes),
        2 => driver.ended(now_ms, participant, CallKind::Confirm, epoch, &sequences, bytes),
        3 => driver.ended(now_ms, participant, CallKind::Cancel, epoch, &sequences, bytes),
        4 => {
            let asked: Vec<_> = sequences.iter().map(|&sequence| (epoch, sequence)).collect();
            driver.asked(participant, &asked);
        }
        5 => {
            for &sequence in &sequences {
                driver.call_failed(now_ms, participant, CallKind::Try, epoch, sequence, "no answer");
            }
        }
        _ => sequences.iter().for_each(|&sequence| list(driver, Some((epoch, sequence)))),
    }
    Some(())
}

pub(super) fn answers_seeds() -> Vec<(&'static str, Vec<u8>)> {
    use escrow_types::codec::Put as _;
    let say = |out: &mut Vec<u8>, kind: u8, sequences: &[u64], answers: &[Answer]| {
        out.put_u8(kind);
        out.put_u32(1);
        out.put_column_u64(sequences);
        out.put_bytes(&answers.iter().map(|answer| answer.to_byte()).collect::<Vec<_>>());
    };
    let (mut normal, mut odd) = (Vec::new(), Vec::new());
    let all = [0, 1, 2, 3, 4, 5];
    let rejected = Answer::Rejected(Reason::InsufficientFunds);
    for participant in [0x00, 0x10] {
        say(&mut normal, participant, &all, &[Answer::Reserved; 6]);
        say(&mut normal, participant | 1, &all, &[Answer::Confirmed; 6]);
        say(
            &mut odd,
            participant,
            &all,
            &[rejected, Answer::Invalid, Answer::HelloRequired, Answer::Finished],
        );
        say(&mut odd, participant | 1, &all, &[rejected, Answer::Contradiction]);
    }
    for participant in [0x00, 0x10] {
        say(&mut normal, participant | 2, &all, &[Answer::Confirmed; 6]);
        say(&mut odd, participant | 3, &all, &[Answer::Canceled, Answer::Contradiction]);
        say(&mut odd, participant | 4, &[0, 7, u64::MAX], &[]);
        say(&mut odd, participant | 5, &all, &[]);
    }
    let mut cursor = Vec::new();
    say(&mut cursor, 6, &[0, 3, u64::MAX], &[]);
    vec![("normal", normal), ("odd", odd), ("cursor", cursor)]
}
