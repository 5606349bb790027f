//! The machine's stories: begin, decide, finish; checkpoint and replay give the same state.

use escrow_types::{AccountKey, Currency, Epoch, ParticipantId, Reason, TransactionKey};

use super::*;
use crate::content::{Direction, Leg, Legs, Transfer};

fn transfer() -> Transfer {
    Transfer {
        from: AccountKey(1),
        to: AccountKey(2),
        amount: 5,
        currency: Currency::USD,
        from_participant: ParticipantId(0),
        to_participant: ParticipantId(1),
    }
}

fn begin(first: u64, keys: &[u128]) -> Command {
    let mut begin = BeginTransfers { first, ..BeginTransfers::default() };
    for &key in keys {
        begin.push(TransactionKey(key), &transfer(), 1_000);
    }
    Command::BeginTransfers(begin)
}

fn begin_legs(sequence: u64, key: u128) -> Command {
    let leg = |account, direction| Leg {
        participant: ParticipantId(0),
        account: AccountKey(account),
        account_id: Some("alice".into()),
        direction,
        amount: 9,
        currency: Currency::EUR,
    };
    let legs = vec![leg(1, Direction::Debit), leg(2, Direction::Credit)];
    Command::BeginLegs(BeginLegs {
        sequence,
        key: TransactionKey(key),
        transaction_id: Some("order-7".into()),
        deadline: 9_000,
        legs: Legs { two_step: true, legs, partial: None },
    })
}

fn decide(epoch: u32, rows: &[(u64, Decision)]) -> Command {
    let mut decide = Decide { epoch: Epoch(epoch), ..Decide::default() };
    for &(sequence, decision) in rows {
        decide.push(sequence, decision);
    }
    Command::Decide(decide)
}

/// A history with every kind of command.
fn history() -> Vec<Command> {
    let cancel = Decision::Cancel(Reason::InsufficientFunds);
    let mut one_phase = Decide { epoch: Epoch(1), ..Decide::default() };
    one_phase.push(2, Decision::Confirm);
    vec![
        Command::OpenEpoch(Epoch(1)),
        begin(0, &[10, 11, 12]),
        begin_legs(3, 13),
        decide(1, &[(0, Decision::Confirm), (1, cancel)]),
        Command::FinishImplied(FinishImplied { outcomes: one_phase }),
        Command::Finish(Finish { epoch: Epoch(1), sequences: vec![0] }),
        Command::DecidePartial(DecidePartial { epoch: Epoch(1), sequence: 3, amounts: vec![4, 4] }),
        Command::OpenEpoch(Epoch(3)),
        Command::Attention(Attention { epoch: Epoch(1), sequence: 1, participant: ParticipantId(0) }),
        begin(0, &[20, 21]),
        Command::Force(Force {
            epoch: Epoch(1),
            sequence: 1,
            decision: Decision::Cancel(Reason::Forced),
            reason: "agreed by phone".into(),
        }),
        Command::GiveUp(GiveUp { epoch: Epoch(1), sequence: 1, reason: "shard is lost".into() }),
        Command::SetPaused(true),
        decide(3, &[(1, Decision::Confirm)]),
    ]
}

#[test]
fn a_transaction_is_remembered_with_its_outcome() {
    let mut machine = Machine::new();
    for command in history() {
        machine.apply(77, &command);
    }
    let row = machine.remembered().get(TransactionKey(10)).unwrap();
    let confirmed = Outcome { decision: Decision::Confirm, mark: Mark::default() };
    assert_eq!((row.outcome(), row.finished_ms), (Some(confirmed), 77));
    let row = machine.remembered().get(TransactionKey(11)).unwrap();
    let mixed =
        Outcome { decision: Decision::Cancel(Reason::Forced), mark: Mark { forced: true, mixed: true } };
    assert_eq!(row.outcome(), Some(mixed));
    assert_eq!(machine.remembered().get(TransactionKey(20)).unwrap().outcome(), None);
    assert_eq!(machine.remembered().get(TransactionKey(99)), None);
    assert_eq!((machine.live().len(), machine.finished_count()), (3, 3));
    assert_eq!(machine.watermark(), (0, vec![]));
}

#[test]
fn a_checkpoint_at_any_point_and_the_rest_of_the_log_give_the_same_state() {
    let history = history();
    for cut in 0..=history.len() {
        let mut live = Machine::new();
        let mut restored = None;
        for (at, command) in history.iter().enumerate() {
            if at == cut {
                restored = Some(Machine::from_checkpoint(&live.to_checkpoint()).unwrap());
            }
            live.apply(at as u64, command);
            if let Some(restored) = &mut restored {
                restored.apply(at as u64, command);
                assert_eq!(restored.digest(), live.digest(), "cut {cut}, after {at}");
            }
        }
    }
}

#[test]
fn the_digest_sees_every_command() {
    let mut machine = Machine::new();
    let mut seen = vec![machine.digest()];
    for command in history() {
        machine.apply(1, &command);
        assert!(!seen.contains(&machine.digest()), "{command:?} changed nothing");
        seen.push(machine.digest());
    }
}

#[test]
fn entries_round_trip_and_no_truncation_is_believed() {
    let entry = Entry { time_ms: 5, commands: history() };
    let bytes = entry.encode();
    assert_eq!(Entry::decode(&bytes), Ok(entry));
    for length in 0..bytes.len() {
        assert!(Entry::decode(&bytes[..length]).is_err(), "cut at {length}");
    }
}

#[test]
fn handing_rows_over_keeps_unfinished_transactions_in_place() {
    let mut machine = Machine::new();
    let history = history();
    let (head, tail) = history.split_at(6);
    for command in head {
        machine.apply(1, command);
    }
    assert_eq!(machine.hand_over().finished().count(), 2);
    assert_eq!(machine.remembered().get(TransactionKey(10)), None);
    for command in tail {
        machine.apply(1, command);
    }
    assert!(machine.remembered().get(TransactionKey(11)).unwrap().outcome().is_some());
}

#[test]
#[should_panic(expected = "invariant 4")]
fn a_second_decision_stops_the_process() {
    let mut machine = Machine::new();
    machine.apply(1, &Command::OpenEpoch(Epoch(1)));
    machine.apply(1, &begin(0, &[1]));
    machine.apply(1, &decide(1, &[(0, Decision::Confirm)]));
    machine.apply(1, &decide(1, &[(0, Decision::Cancel(Reason::DeadlineExceeded))]));
}
