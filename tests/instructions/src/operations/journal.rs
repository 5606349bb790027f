//! The journal without its disk: frames into the buffer, and frames read back, on the simulated disk.

use escrow_journal::storage::SimDisk;
use escrow_journal::{Group, Index, Log, Options};

use super::batches;
use crate::Operation;
use crate::meter::Meter;

pub(crate) const ALL: &[Operation] = &[
    Operation {
        name: "journal/append/small",
        what: "entry of 200 bytes into the buffer, with its checksums",
        work: append_small,
    },
    Operation {
        name: "journal/append/large",
        what: "entry of 64 KiB into the buffer, with its checksums",
        work: append_large,
    },
    Operation {
        name: "journal/read/small",
        what: "entry of 200 bytes, read back and checked",
        work: read_small,
    },
    Operation {
        name: "journal/read/large",
        what: "entry of 64 KiB, read back and checked",
        work: read_large,
    },
];

const SMALL_BYTES: usize = 200;
const LARGE_BYTES: usize = 64 << 10;
/// Entries of a batch.
const SMALL: usize = 256;
const LARGE: usize = 16;

fn append_small(meter: &mut Meter) {
    filled(meter, "journal/append/small", SMALL_BYTES, SMALL);
}

fn append_large(meter: &mut Meter) {
    filled(meter, "journal/append/large", LARGE_BYTES, LARGE);
}

fn read_small(meter: &mut Meter) {
    read(meter, "journal/read/small", SMALL_BYTES, SMALL);
}

fn read_large(meter: &mut Meter) {
    read(meter, "journal/read/large", LARGE_BYTES, LARGE);
}

/// A log with all batches in it. Writing and syncing is the disk's part, and not counted.
fn filled(meter: &mut Meter, append: &str, payload_bytes: usize, entries: usize) -> Log {
    const SEED: u64 = 1;
    let options = Options::new("journal");
    let (mut log, _) = Log::open(SimDisk::new(SEED).shared(), options, Index::FIRST).expect("an empty disk");
    let payload: Vec<u8> = (0..payload_bytes).map(|at| at as u8).collect();
    for is_warm in batches(entries) {
        meter.batch(entries, is_warm);
        meter.step(append, || {
            for _ in 0..entries {
                log.append(Group(0), &payload).expect("it fits");
            }
        });
        log.commit().expect("the disk is sound");
    }
    log
}

/// All of a log, as a start does.
fn read(meter: &mut Meter, name: &str, payload_bytes: usize, entries: usize) {
    let log = filled(&mut Meter::idle(), "not counted", payload_bytes, entries);
    let entries = entries * batches(entries).count();
    for is_warm in [false, true] {
        meter.batch(entries, is_warm);
        let bytes = meter.step(name, || {
            let reader = log.read_from(Index::FIRST).expect("nothing is trimmed");
            reader.map(|entry| entry.expect("sound").payload.len()).sum::<usize>()
        });
        assert_eq!(bytes, entries * payload_bytes);
    }
}
