//! Doors of private decoders for the fuzz targets of `tests/fuzz`: bytes in, what they mean out. Only with the feature
//! `fuzzing`, so never part of a release build. Decides nothing itself.

use std::path::Path;
use std::sync::Arc;

use escrow_journal::background::Pace;
use escrow_journal::storage::{Disk, durable_replace};
use escrow_tcc::machine::{Outcome, Row};
use escrow_types::TransactionKey;

use crate::store::{Checkpoint, Identity, Run};

pub use crate::edge::fuzzing::{Parsed, columns, cursor, is_name, transfer};

/// A checkpoint file on a disk, read and written again; `None` if it is refused. Gives the state within.
pub fn checkpoint(disk: &dyn Disk, dir: &Path) -> Option<Vec<u8>> {
    let checkpoint = Checkpoint::read(disk, dir).ok()??;
    checkpoint.write(disk, dir).expect("the disk works");
    Some(checkpoint.machine)
}

/// Writes a checkpoint file, for seeds.
pub fn write_checkpoint(disk: &dyn Disk, dir: &Path, index: u64, machine: Vec<u8>, runs: Vec<String>) {
    Checkpoint { index, machine, runs, position: Vec::new() }.write(disk, dir).expect("the disk works");
}

/// What a checkpoint file holds, for seeds.
pub fn checkpoint_of(index: u64, machine: Vec<u8>, runs: Vec<String>, position: Vec<u8>) -> Vec<u8> {
    Checkpoint { index, machine, runs, position }.encode()
}

/// Opens a file as a run and looks for keys in it; `None` if it is refused.
pub fn run(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    name: &str,
    keys: &[TransactionKey],
) -> Option<Vec<Option<Outcome>>> {
    let run = Run::open(disk, dir, name).ok()?;
    let find = |&key: &TransactionKey| run.find(key).ok().flatten().and_then(|row| row.outcome());
    Some(keys.iter().map(find).collect())
}

/// Writes a run, for seeds.
pub fn write_run(disk: &Arc<dyn Disk>, dir: &Path, name: &str, rows: &[Row]) {
    drop(Run::write(disk, dir, name, rows.iter(), &Pace::none()).expect("the disk works"));
}

/// Whether a directory whose `identity.json` has this content is that of partition 0.
pub fn is_identity(disk: &dyn Disk, dir: &Path, content: &[u8]) -> bool {
    durable_replace(disk, &dir.join("identity.json"), content).expect("the disk works");
    Identity::open(disk, dir, 0, None, None).is_ok()
}
