//! The coordinator: the form of requests, and its files beside the journal.

use std::path::Path;
use std::sync::Arc;

use escrow_coordinator::fuzzing;
use escrow_journal::storage::{Disk, SimDisk, durable_replace, read_all};
use escrow_proto::v1;
use escrow_tcc::driver::TransferRequest;
use escrow_tcc::machine::{Decision, Mark, Outcome, Row};
use escrow_types::codec::{Put as _, Take};
use escrow_types::{AccountKey, Epoch, Reason, TransactionKey};
use prost::Message as _;

use super::tcc;
use crate::memory;

/// Requests of callers, each a byte that says which, a `u32` length and its bytes. What passes is submitted, logged, and
/// replayed.
pub(super) fn requests(input: &[u8]) {
    let mut requests = Take::new(input);
    let mut driver = tcc::driver();
    while let (Ok(which), Ok(bytes)) = (requests.u8(), requests.bytes()) {
        match which % 4 {
            0 => {
                let parsed = memory::bounded(memory::for_input(bytes), || fuzzing::transfer(bytes));
                if let Some(parsed) = parsed {
                    tcc::submit(
                        &mut driver,
                        &TransferRequest {
                            key: parsed.key,
                            from: parsed.from,
                            to: parsed.to,
                            amount: parsed.amount,
                            currency: parsed.currency,
                            timeout_ms: parsed.timeout_ms,
                            names: parsed.names.as_deref(),
                        },
                    );
                }
            }
            1 => {
                let checked = memory::bounded(memory::for_input(bytes), || fuzzing::columns(bytes));
                if let Some((currency, columns)) = checked {
                    for row in 0..columns.amount.len() {
                        tcc::submit(&mut driver, &row_of(&columns, row, currency));
                    }
                }
            }
            2 => {
                let Ok(text) = std::str::from_utf8(bytes) else { continue };
                if let Some(after) = fuzzing::cursor(text) {
                    tcc::list(&driver, after);
                }
            }
            _ => {
                let Ok(text) = std::str::from_utf8(bytes) else { continue };
                assert_eq!(
                    fuzzing::is_name(text),
                    escrow_types::TransactionId::new(text).is_ok()
                        || text.parse::<escrow_types::Xid>().is_ok()
                );
            }
        }
        tcc::turn(&mut driver, 5);
    }
    tcc::come_back(driver.machine());
}

/// As the owner reads a row.
fn row_of(
    columns: &v1::TransferColumnsRequest,
    row: usize,
    currency: escrow_types::Currency,
) -> TransferRequest<'static> {
    TransferRequest {
        key: TransactionKey::from_halves(columns.transaction_id_high[row], columns.transaction_id_low[row]),
        from: AccountKey::from_halves(columns.from_account_high[row], columns.from_account_low[row]),
        to: AccountKey::from_halves(columns.to_account_high[row], columns.to_account_low[row]),
        amount: columns.amount[row],
        currency,
        timeout_ms: u64::from(columns.timeout_ms),
        names: None,
    }
}

pub(super) fn requests_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let seed = |which: u8, bytes: &[u8]| {
        let mut out = vec![which];
        out.put_bytes(bytes);
        out
    };
    let transfer = v1::TransferRequest {
        transaction_id: "order 17".into(),
        from_account_id: "alice".into(),
        to_account_id: "0198c0de-0000-7abc-8def-0123456789ab".into(),
        amount: u64::MAX,
        currency: "USD".into(),
        timeout_ms: u32::MAX,
        ..v1::TransferRequest::default()
    };
    let column = |number: u64| vec![number | (3 << 62), (number + 1) | (3 << 62)];
    let columns = v1::TransferColumnsRequest {
        first_tag: u64::MAX,
        transaction_id_high: column(1),
        transaction_id_low: column(2),
        from_account_high: column(3),
        from_account_low: column(4),
        to_account_high: column(5),
        to_account_low: column(6),
        amount: vec![1, u64::MAX],
        currency: 840,
        ..v1::TransferColumnsRequest::default()
    };
    vec![
        ("transfer", seed(0, &transfer.encode_to_vec())),
        ("columns", seed(1, &columns.encode_to_vec())),
        ("cursor", seed(2, b"1-3")),
        ("cursor-at-the-end", seed(2, b"1-18446744073709551615")),
        ("xid", seed(3, b"0-1-3")),
    ]
}

/// `checkpoint`, a run, `identity.json`: the first byte says which, and whether checksums are made right.
pub(super) fn files(input: &[u8]) {
    let Some((&which, bytes)) = input.split_first() else { return };
    let (disk, dir) = (SimDisk::new(3).shared(), Path::new("d"));
    disk.create_dir_all(dir).expect("an empty disk");
    let mut bytes = bytes.to_vec();
    // Twice in memory, once on the simulated disk, which keeps what is not synced as well.
    let bytes_max = memory::for_input(&bytes) + (4 << 20);
    match which % 3 {
        0 => {
            if which & 0x80 != 0 {
                seal_checkpoint(&mut bytes);
            }
            durable_replace(&*disk, &dir.join("checkpoint"), &bytes).expect("the disk works");
            let machine = memory::bounded(bytes_max, || fuzzing::checkpoint(&*disk, dir));
            if let Some(machine) = machine {
                let written = read_all(&*disk, &dir.join("checkpoint")).expect("readable");
                assert!(written.as_ref() == Some(&bytes), "a checkpoint has one form");
                tcc::checkpoint(&machine);
            }
        }
        1 => {
            if which & 0x80 != 0 {
                seal_run(&mut bytes);
            }
            durable_replace(&*disk, &dir.join("one"), &bytes).expect("the disk works");
            let keys: Vec<_> = rows()
                .iter()
                .map(|row| row.key)
                .chain([TransactionKey(0), TransactionKey(u128::MAX)])
                .collect();
            let _ = memory::bounded(bytes_max, || fuzzing::run(&disk, dir, "one", &keys));
        }
        _ => {
            let is_one = memory::bounded(bytes_max, || fuzzing::is_identity(&*disk, dir, &bytes));
            assert!(!is_one || std::str::from_utf8(&bytes).is_ok_and(|text| text.contains("coordinator")));
        }
    }
}

fn seal_checkpoint(bytes: &mut [u8]) {
    if let Some((body, crc)) = bytes.split_last_chunk_mut::<4>() {
        *crc = crc32c::crc32c(body).to_le_bytes();
    }
}

fn seal_run(bytes: &mut [u8]) {
    if bytes.len() >= 64 {
        let rows = crc32c::crc32c(&bytes[64..]);
        bytes[48..52].copy_from_slice(&rows.to_le_bytes());
        let header = crc32c::crc32c(&bytes[..60]);
        bytes[60..64].copy_from_slice(&header.to_le_bytes());
    }
}

fn rows() -> Vec<Row> {
    let outcome = |number: u64| Outcome {
        decision: if number.is_multiple_of(2) { Decision::Confirm } else { Decision::Cancel(Reason::Forced) },
        mark: Mark { forced: !number.is_multiple_of(2), mixed: number == 3 },
    };
    let row = |number: u64| Row {
        key: TransactionKey(0x0198_c0de_0000_7abc_8000_0000_0000_0000 + u128::from(number)),
        sequence: number,
        fingerprint: number * 3,
        finished_ms: 1_000 + number,
        epoch: Epoch(2),
        outcome: outcome(number).to_byte(),
    };
    (0..70).step_by(10).map(row).collect()
}

pub(super) fn files_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let (disk, dir): (Arc<dyn Disk>, _) = (SimDisk::new(4).shared(), Path::new("d"));
    disk.create_dir_all(dir).expect("an empty disk");
    let all = tcc::checkpoint_seeds().into_iter().map(|(_, bytes)| bytes).next_back().unwrap_or_default();
    fuzzing::write_checkpoint(&*disk, dir, 7, all, vec!["00000000000000000007.run".into()]);
    fuzzing::write_run(&disk, dir, "one", &rows());
    let file = |which: u8, name: &str| {
        let bytes = read_all(&*disk, &dir.join(name)).expect("readable").expect("written");
        [&[which][..], &bytes].concat()
    };
    let identity = r#"{"format":1,"kind":"escrow-coordinator","partition":0,"cluster_id":"0123"}"#;
    let run = file(0x82, "one");
    // As many rows as make the size of the file overflow to that of a header.
    let mut huge = run[..=64].to_vec();
    huge[17..25].copy_from_slice(&(1_u64 << 60).to_le_bytes());
    vec![
        ("checkpoint", file(0x84, "checkpoint")),
        ("checkpoint-as-it-is", file(0, "checkpoint")),
        ("run", run.clone()),
        ("run-of-too-many", huge),
        ("identity", [&[2][..], identity.as_bytes()].concat()),
    ]
}
