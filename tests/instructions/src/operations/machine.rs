//! The coordinator's log: its entries as bytes and back, and the machine that is made of them at a start.

use escrow_tcc::Entry;
use escrow_tcc::machine::Machine;

use super::driver::Bench;
use super::{BATCH, batches};
use crate::Operation;
use crate::meter::Meter;

pub(crate) const ALL: &[Operation] = &[
    Operation {
        name: "tcc-log/encode",
        what: "transfer between two shards: all its rows in the log, as bytes",
        work: encode,
    },
    Operation { name: "tcc-log/decode", what: "the same, read", work: decode },
    Operation { name: "machine/replay", what: "the same, applied at a start", work: replay },
];

/// The entries of each batch of transfers between two shards, and whether it is counted.
fn logs() -> Vec<(bool, Vec<Entry>)> {
    let mut bench = Bench::new(BATCH);
    batches(BATCH)
        .map(|is_warm| {
            bench.log = Some(Vec::new());
            bench.confirm(&mut Meter::idle());
            (is_warm, bench.log.take().expect("set above"))
        })
        .collect()
}

fn each_batch(meter: &mut Meter, mut work: impl FnMut(&mut Meter, Vec<Entry>)) {
    for (is_warm, entries) in logs() {
        meter.batch(BATCH, is_warm);
        work(meter, entries);
    }
}

fn encode(meter: &mut Meter) {
    let mut bytes = Vec::new();
    each_batch(meter, |meter, entries| {
        meter.step("tcc-log/encode", || {
            for entry in &entries {
                bytes.clear();
                entry.encode_into(&mut bytes);
            }
        });
    });
}

fn decode(meter: &mut Meter) {
    each_batch(meter, |meter, entries| {
        let bytes: Vec<Vec<u8>> = entries.iter().map(Entry::encode).collect();
        let read = meter.step("tcc-log/decode", || {
            bytes.iter().map(|bytes| Entry::decode(bytes)).collect::<Result<Vec<_>, _>>()
        });
        assert_eq!(read.as_ref(), Ok(&entries));
    });
}

fn replay(meter: &mut Meter) {
    let mut machine = Machine::new();
    machine.apply(0, &escrow_tcc::Command::OpenEpoch(escrow_types::Epoch(1)));
    each_batch(meter, |meter, entries| {
        meter.step("machine/replay", || entries.iter().for_each(|entry| machine.apply_entry(entry)));
    });
    assert_eq!(machine.finished_count(), (BATCH * batches(BATCH).count()) as u64);
}
