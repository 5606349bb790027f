//! The participant: what arrives from the network must never stop a shard; and its own small files.

use escrow_proto::v1;
use escrow_proto::v1::exchange_request::Message as Asked;
use escrow_types::codec::{Put as _, Take};
use escrow_types::{Epoch, Partition, Xid};
use escrow_wallet::{Command, Entry, Sender, Wallet};
use prost::Message as _;

use super::wallet;
use crate::memory;

const SENDER: Sender = Sender::new(Partition(0), Epoch(3));

/// A wallet that has seen something of everything.
fn busy() -> Wallet {
    let mut wallet = Wallet::default();
    for command in wallet::busy() {
        wallet.apply(1, &command);
    }
    wallet
}

/// What a shard's owner does with a command from outside: log it, apply it. It must be replayed as it was applied.
fn take(live: &mut Wallet, replayed: &mut Wallet, command: Command) {
    let commands = vec![command];
    let entry = Entry { time_ms: 2, commands };
    let read = Entry::decode(&entry.encode());
    assert_eq!(read.as_ref(), Ok(&entry), "what is logged can be read");
    wallet::apply(live, 2, &entry.commands[0]);
    for command in read.iter().flat_map(|entry| &entry.commands) {
        replayed.apply(2, command);
    }
    assert!(live.overdrawn(1).is_empty(), "invariant 2");
}

/// Messages of an `Exchange` stream, each a `u32` length and its bytes.
pub(super) fn exchange(input: &[u8]) {
    let mut messages = Take::new(input);
    let (mut live, mut replayed) = (busy(), busy());
    let mut sender = SENDER;
    while let Ok(bytes) = messages.bytes() {
        let read = || escrow_participant::fuzzing::exchange_request(bytes, sender);
        let Some(command) = memory::bounded(memory::for_input(bytes), read) else { continue };
        if wallet::is_left_out(&command, input) {
            return;
        }
        if let Command::Hello(hello) = &command {
            sender = Sender::new(hello.partition, hello.epoch);
        }
        take(&mut live, &mut replayed, command);
    }
    assert_eq!(live.digest(), replayed.digest(), "invariant 10");
}

/// A stream's messages as an input.
fn stream(messages: Vec<Asked>) -> Vec<u8> {
    let mut out = Vec::new();
    for message in messages {
        out.put_bytes(&v1::ExchangeRequest { message: Some(message) }.encode_to_vec());
    }
    out
}

fn columns(sequence: Vec<u64>, amount: u64) -> v1::TryColumns {
    let rows = sequence.len();
    let (high, low) = escrow_types::AccountId::new("treasury").expect("a short name").key().halves();
    v1::TryColumns {
        epoch: 3,
        deadline_ms: 9_000,
        sequence,
        account_high: vec![high; rows],
        account_low: vec![low; rows],
        amount: vec![amount; rows],
        kind: 840_u16.to_le_bytes().repeat(rows),
        first_sequence: 0,
    }
}

fn end(sequence: Vec<u64>) -> v1::EndColumns {
    v1::EndColumns { epoch: 3, sequence, ..v1::EndColumns::default() }
}

pub(super) fn exchange_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let hello = |epoch, unfinished: Vec<(u32, u64)>| {
        let (unfinished_epoch, unfinished_sequence) = unfinished.into_iter().unzip();
        let cluster_id = String::new();
        Asked::Hello(v1::HelloRequest {
            partition: 0,
            epoch,
            participant: 0,
            unfinished_epoch,
            unfinished_sequence,
            cluster_id,
        })
    };
    let partial = v1::EndColumns { partial_legs: vec![1, 1], partial_amount: vec![2, 0], ..end(vec![1, 2]) };
    let watermark = |below, except| Asked::Watermark(v1::Watermark { epoch: 3, below, except });
    vec![
        (
            "normal",
            stream(vec![
                Asked::Try(columns(vec![0, 0, 1, 2], 5)),
                Asked::Confirm(end(vec![0])),
                Asked::Confirm(partial),
                Asked::TryAndConfirm(columns(vec![3], 1)),
                Asked::Cancel(end(vec![4, 0])),
                Asked::Fence(end(vec![0, 2, 5])),
                watermark(3, vec![1]),
                hello(4, vec![(2, 1), (3, 4)]),
            ]),
        ),
        (
            "far",
            stream(vec![
                Asked::Cancel(end(vec![(1 << 24) - 1, 1 << 24, u64::MAX])),
                watermark(u64::MAX, vec![u64::MAX - 1, 0]),
                Asked::Try(columns(vec![u64::MAX], 1)),
                hello(u32::MAX, vec![(u32::MAX, 1), (0, 0), (3, u64::MAX)]),
            ]),
        ),
        (
            "amounts",
            stream(vec![
                Asked::Try(columns(vec![0], u64::MAX)),
                Asked::Try(columns(vec![1, 1], i64::MAX as u64)),
            ]),
        ),
        (
            "dense",
            stream(vec![
                Asked::Try(v1::TryColumns { sequence: vec![], first_sequence: 9, ..columns(vec![9, 10], 1) }),
                Asked::Confirm(v1::EndColumns { first_sequence: 9, rows: 2, ..end(vec![]) }),
                Asked::Cancel(v1::EndColumns { first_sequence: u64::MAX - 1, rows: 1 << 14, ..end(vec![]) }),
            ]),
        ),
        ("many-legs", stream(vec![Asked::Try(columns(vec![7; 65], 1)), Asked::Try(columns(vec![8; 64], 1))])),
        ("unequal", stream(vec![Asked::Try(v1::TryColumns { kind: vec![1], ..columns(vec![1, 2], 1) })])),
        ("empty-message", [0; 4].to_vec()),
    ]
}

/// Unary calls: each a byte that says which, a `u32` length and its bytes.
pub(super) fn unary(input: &[u8]) {
    let mut calls = Take::new(input);
    let (mut live, mut replayed) = (busy(), busy());
    while let (Ok(call), Ok(bytes)) = (calls.u8(), calls.bytes()) {
        let read = || escrow_participant::fuzzing::unary(call, bytes);
        let command = memory::bounded(memory::for_input(bytes), read);
        if let Some(command) = command.filter(|command| !wallet::is_left_out(command, input)) {
            take(&mut live, &mut replayed, command);
        }
    }
    assert_eq!(live.digest(), replayed.digest(), "invariant 10");
}

pub(super) fn unary_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let call = |call: u8, message: &dyn Fn(&mut Vec<u8>)| {
        let (mut out, mut bytes) = (vec![call], Vec::new());
        message(&mut bytes);
        out.put_bytes(&bytes);
        out
    };
    let encode = |message: &dyn Fn() -> Vec<u8>, which| call(which, &|out| out.extend(message()));
    let xid = |sequence| Some(v1::Xid { partition: 0, epoch: 3, sequence });
    let leg = |account: &str, direction: v1::Direction| v1::Leg {
        account_id: account.into(),
        direction: direction.into(),
        amount: 5,
        currency: "USD".into(),
        participant: String::new(),
    };
    let try_request = v1::TryRequest {
        xid: xid(6),
        sender_epoch: 3,
        participant: "0".into(),
        legs: vec![leg("treasury", v1::Direction::Debit), leg("treasury", v1::Direction::Credit)],
        deadline_ms: u64::MAX,
        transaction_id: "order 17".into(),
    };
    let confirm = v1::ConfirmBranchRequest {
        xid: xid(6),
        sender_epoch: 3,
        participant: "0".into(),
        amounts: vec![5, 0],
    };
    let cancel = v1::CancelBranchRequest { xid: xid(u64::MAX), sender_epoch: 3, participant: "0".into() };
    let hello = v1::HelloRequest { partition: 65_535, epoch: 1, ..v1::HelloRequest::default() };
    let overdraft = v1::Overdraft { policy: Some(v1::overdraft::Policy::Limit(u64::MAX)) };
    let row = v1::OpenAccount { account_id: "ü".into(), currency: "EUR".into(), overdraft: Some(overdraft) };
    let open = v1::OpenAccountsRequest { accounts: vec![row, v1::OpenAccount::default()] };
    let messages: [Vec<u8>; 5] = [
        encode(&|| try_request.encode_to_vec(), 0),
        encode(&|| confirm.encode_to_vec(), 1),
        encode(&|| cancel.encode_to_vec(), 2),
        encode(&|| hello.encode_to_vec(), 3),
        encode(&|| open.encode_to_vec(), 4),
    ];
    vec![("all", messages.concat()), ("try", messages[0].clone()), ("open", messages[4].clone())]
}

/// A cursor of `ListReservations`, the record that says what a view is of, and `identity.json`: the first byte says which.
pub(super) fn files(input: &[u8]) {
    let Some((&which, bytes)) = input.split_first() else { return };
    match which % 3 {
        0 => {
            let cursor = std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<Xid>().ok());
            let wallet = busy();
            let page = wallet.reservations(cursor, 3);
            assert!(page.iter().all(|view| cursor.is_none_or(|after| view.xid > after)), "a page goes on");
        }
        1 => {
            let read = || escrow_participant::fuzzing::view_meta(bytes);
            if let Some(written) = memory::bounded(memory::for_input(bytes), read) {
                assert!(written == bytes, "it has one form");
            }
        }
        _ => {
            let dir = super::Folder::new("participant");
            dir.put("identity.json", bytes);
            let read = || escrow_participant::fuzzing::is_identity(dir.path(), &[0, 1]);
            let is_one = memory::bounded(memory::for_input(bytes), read);
            assert!(
                !is_one || std::str::from_utf8(bytes).is_ok_and(|text| text.contains("escrow-participant"))
            );
        }
    }
}

pub(super) fn files_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let seed = |which: u8, bytes: &[u8]| [&[which][..], bytes].concat();
    let mut meta = Vec::new();
    meta.put_u32(1);
    meta.put_u16(3);
    meta.put_u64(u64::MAX);
    meta.put_bytes(b"0123456789abcdef0123456789abcdef");
    let identity =
        r#"{"format":1,"kind":"escrow-participant","shards":[0,1],"cluster_id":null,"journal_id":"00"}"#;
    vec![
        ("cursor", seed(0, b"0-2-18446744073709551615")),
        ("view-meta", seed(1, &meta)),
        ("identity", seed(2, identity.as_bytes())),
        ("identity-of-another", seed(2, br#"{"kind":"escrow-coordinator","format":1}"#)),
    ]
}
