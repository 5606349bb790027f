//! Replicas: the records of a group's log, where a state is in it, and the files of snapshots, which come from other processes and from
//! backups.

use escrow_journal::Index;
use escrow_proto::v1;
use escrow_proto::v1::log_record::{Append, Base, Record, Truncate};
use escrow_replica::{Position, Recovering};
use escrow_types::codec::{Put as _, Take};
use escrow_wallet::Wallet;
use prost::Message as _;

use super::{Folder, tcc, wallet};
use crate::memory;

/// Records, each a `u32` length and its bytes, as a start reads them; whatever of them is an entry may be a position too.
pub(super) fn log(input: &[u8]) {
    let mut records = Take::new(input);
    let mut recovering = Recovering::default();
    let mut told = 0_u64;
    let mut at = 1;
    while let Ok(bytes) = records.bytes() {
        if let Ok(position) = Position::decode(bytes) {
            let again = Position::decode(&position.encode()).expect("what was written can be read");
            assert_eq!((again.index(), again.voters()), (position.index(), position.voters()));
        }
        let record = bytes.to_vec();
        let read =
            || recovering.record_and_tell(Index(at), record, &mut |entry| told = told.max(entry.index()));
        if memory::bounded(memory::for_input(input), read).is_err() {
            // A start ends with the first record that is refused.
            return;
        }
        at += 1;
    }
}

const fn place(term: u64, index: u64) -> v1::LogId {
    v1::LogId { term, index }
}

fn membership() -> v1::Membership {
    let member = |id| v1::Member { id, endpoint: format!("http://{id}") };
    let voters = v1::membership::Voters { ids: vec![1, 2, 3] };
    v1::Membership { configs: vec![voters], members: [1, 2, 3].map(member).to_vec() }
}

fn position(term: u64, index: u64) -> v1::Position {
    let membership = v1::StoredMembership { id: Some(place(1, 0)), membership: Some(membership()) };
    v1::Position {
        last: Some(place(term, index)),
        membership: Some(membership),
        sequence_term: term,
        sequence: 1,
    }
}

pub(super) fn log_seeds() -> Vec<(&'static str, Vec<u8>)> {
    use v1::log_entry::Payload;
    let records = |records: Vec<Record>| {
        let mut out = Vec::new();
        for record in records {
            out.put_bytes(&v1::LogRecord { record: Some(record) }.encode_to_vec());
        }
        out
    };
    let entry = |term, index, payload| {
        let entry = Some(v1::LogEntry { id: Some(place(term, index)), payload, sequence: 1 });
        Record::Append(Append { entry, committed: Some(place(term, index.saturating_sub(1))) })
    };
    let ballot = |term, committed| v1::Ballot { term, member: 1, committed };
    let commands = || Some(Payload::Commands(vec![1, 2, 3].into()));
    let founded =
        || vec![entry(1, 0, Some(Payload::Membership(membership()))), Record::Vote(ballot(1, true))];
    let base = Base { vote: Some(ballot(2, true)), purged: Some(place(1, 1)), committed: Some(place(1, 1)) };
    let mut positions = Vec::new();
    positions.put_bytes(&position(2, 7).encode_to_vec());
    let beyond = Record::Truncate(Truncate { last: Some(place(u64::MAX, u64::MAX)) });
    vec![
        ("founded", records(founded())),
        ("written", records([founded(), vec![entry(1, 1, commands()), entry(1, 2, None)]].concat())),
        (
            "truncated",
            records(
                [
                    founded(),
                    vec![
                        entry(1, 1, commands()),
                        Record::Truncate(Truncate { last: Some(place(1, 0)) }),
                        entry(2, 1, commands()),
                    ],
                ]
                .concat(),
            ),
        ),
        (
            "purged",
            records([founded(), vec![entry(1, 1, None), Record::Base(base), entry(2, 2, None)]].concat()),
        ),
        ("beyond-all", records(vec![beyond])),
        ("position", positions),
    ]
}

/// Whose snapshot, and all of the file but its checksum.
pub(super) fn snapshot(input: &[u8]) {
    let Some((whose, body)) = input.split_first() else { return };
    let folder = Folder::new("snapshot");
    let sealed = [body, &crc32c::crc32c(body).to_le_bytes()].concat();
    folder.put("it.snapshot", &sealed);
    let path = folder.path().join("it.snapshot");
    // It is read in pieces of up to a MiB.
    let most = memory::for_input(body) + (4 << 20);
    memory::bounded(most, || match whose {
        0 => drop(escrow_participant::offline::inspect(&path)),
        _ => drop(escrow_coordinator::offline::inspect(&path)),
    });
}

pub(super) fn snapshot_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let shard = |wallet: &mut Wallet, applied, position| {
        let mut out = [&[0_u8][..], b"ESCROWS2"].concat();
        out.put_bytes(&escrow_participant::fuzzing::meta_of(3, applied, position));
        let mut count = 0_u64;
        for (key, value) in wallet.take_changes().records() {
            out.put_bytes(&key);
            out.put_bytes(&value.unwrap_or_default());
            count += 1;
        }
        out.extend(u32::MAX.to_le_bytes());
        out.extend(count.to_le_bytes());
        out
    };
    let mut busy = Wallet::default();
    for command in wallet::busy() {
        busy.apply(5, &command);
    }
    let partition = |machine: Vec<u8>| {
        let bytes =
            escrow_coordinator::fuzzing::checkpoint_of(8, machine, vec![], position(2, 7).encode_to_vec());
        let len = (bytes.len() as u64).to_le_bytes();
        [&[1_u8][..], b"ESCROWC1", &len, &bytes].concat()
    };
    let machine = tcc::checkpoint_seeds().into_iter().map(|(_, bytes)| bytes).next_back().unwrap_or_default();
    vec![
        ("shard-empty", shard(&mut Wallet::default(), 8, position(2, 7).encode_to_vec())),
        ("shard", shard(&mut busy, 8, position(2, 7).encode_to_vec())),
        ("shard-of-elsewhere", shard(&mut Wallet::default(), 9, position(2, 7).encode_to_vec())),
        ("partition", partition(machine)),
        ("partition-of-nothing", partition(vec![])),
    ]
}
