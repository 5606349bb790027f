//! `OperatorService.Verify`: the live state against its checkpoint and log, and against the whole log from the beginning.

use std::path::PathBuf;

use escrow_journal::{Index, Journal};
use escrow_proto::v1;
use escrow_tcc::{Entry, Machine};
use escrow_types::Digest;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::Service;
use crate::owner::Owner;
use crate::replicated::Rebuilt;
use crate::store::Checkpoint;

pub(super) type Verification = ReceiverStream<Result<v1::VerifyResponse, Status>>;

/// How often progress is told, in entries.
const PROGRESS_EVERY: u64 = 10_000;

struct Verifier {
    subject: String,
    journal: Journal,
    data_dir: PathBuf,
    is_replica: bool,
    lines: mpsc::Sender<Result<v1::VerifyResponse, Status>>,
}

impl Service {
    pub(super) async fn start_verification(&self) -> Result<Verification, Status> {
        let (lines, receiver) = mpsc::channel(64);
        let checkpoint =
            self.mailbox.ask_here(|owner| Checkpoint::read(&*owner.disk, &owner.data_dir)).await?;
        // The live state is read after the checkpoint, so that the checkpoint is never ahead of it.
        let live = self.mailbox.ask_here(|owner| (owner.applied, owner.driver.machine().digest())).await?;
        let subject = format!("coordinator {}", self.config.partition);
        let data_dir = self.config.data_dir.clone();
        let is_replica = self.config.replication.is_some();
        let verifier = Verifier { subject, journal: self.journal.clone(), data_dir, is_replica, lines };
        tokio::task::spawn_blocking(move || verifier.run(live, checkpoint));
        Ok(ReceiverStream::new(receiver))
    }
}

impl Verifier {
    fn line(&self, check: &str, ok: bool, detail: String, done: bool) {
        let (subject, check) = (self.subject.clone(), check.to_owned());
        // Whoever asked may have gone.
        let _ = self.lines.blocking_send(Ok(v1::VerifyResponse { subject, check, ok, detail, done }));
    }

    fn run(&self, (applied, live): (u64, Digest), checkpoint: Result<Option<Checkpoint>, String>) {
        const FROM_CHECKPOINT: &str = "checkpoint + log = live state";
        const FROM_BEGINNING: &str = "whole log = live state";
        if self.is_replica {
            // It may apply what a majority of the others has synced before its own disk has; a failed journal says so when it is read.
            let _ = self.journal.wait_durable(self.journal.cursors().appended);
        }
        let path = self.data_dir.join("checkpoint");
        match checkpoint {
            Err(why) => self.line(FROM_CHECKPOINT, false, format!("{}: {why}", path.display()), true),
            Ok(checkpoint) if self.is_replica => {
                let replayed = Rebuilt::from(checkpoint.as_ref())
                    .and_then(|rebuilt| rebuilt.digest_at(&self.journal, applied));
                self.compare(FROM_CHECKPOINT, applied, live, replayed);
            }
            Ok(checkpoint) => {
                let replayed = from_checkpoint(checkpoint)
                    .and_then(|(machine, index)| self.replay(FROM_CHECKPOINT, machine, index + 1, applied));
                self.compare(FROM_CHECKPOINT, applied, live, replayed);
            }
        }
        if self.is_replica {
            match Rebuilt::from(None).and_then(|rebuilt| rebuilt.digest_at(&self.journal, applied)) {
                // A member that came later has no more than what came after its snapshot.
                Err(why) => self.line(FROM_BEGINNING, true, format!("not possible: {why}"), true),
                replayed => self.compare(FROM_BEGINNING, applied, live, replayed),
            }
            return;
        }
        if self.journal.first_index() > Index::FIRST {
            let first = self.journal.first_index();
            let detail = format!("not possible: entries before {first} were deleted (archive = delete)");
            self.line(FROM_BEGINNING, true, detail, true);
            return;
        }
        let replayed = self.replay(FROM_BEGINNING, Machine::forgetful(), 1, applied);
        self.compare(FROM_BEGINNING, applied, live, replayed);
    }

    fn compare(&self, check: &str, applied: u64, live: Digest, replayed: Result<Digest, String>) {
        match replayed {
            Ok(digest) if digest == live => {
                self.line(check, true, format!("digest {digest} at entry {applied}"), true);
            }
            Ok(digest) => {
                self.line(
                    check,
                    false,
                    format!("digest {digest}, but live {live}, at entry {applied}"),
                    true,
                );
            }
            Err(why) => self.line(check, false, why, true),
        }
    }

    fn replay(&self, check: &str, machine: Machine, from: u64, to: u64) -> Result<Digest, String> {
        replay(&self.journal, machine, from, to, |index| {
            if index % PROGRESS_EVERY == 0 {
                self.line(check, true, format!("entry {index} of {to}"), false);
            }
        })
    }
}

/// The machine of a checkpoint, and the index that it is of.
fn from_checkpoint(checkpoint: Option<Checkpoint>) -> Result<(Machine, u64), String> {
    let Some(checkpoint) = checkpoint else { return Ok((Machine::forgetful(), 0)) };
    let machine = Machine::from_checkpoint(&checkpoint.machine).map_err(|error| error.to_string())?;
    Ok((machine, checkpoint.index))
}

/// Applies a stretch of the log; `tell` hears each index.
fn replay(
    journal: &Journal,
    mut machine: Machine,
    from: u64,
    to: u64,
    tell: impl Fn(u64),
) -> Result<Digest, String> {
    if from > to {
        return Ok(machine.digest());
    }
    for entry in journal.read_from(Index(from)).map_err(|error| error.to_string())? {
        let entry = entry.map_err(|error| error.to_string())?;
        let index = entry.index.get();
        if index > to {
            break;
        }
        let decoded = Entry::decode(&entry.payload).map_err(|error| format!("entry {index}: {error}"))?;
        machine.apply_entry(&decoded);
        tell(index);
    }
    Ok(machine.digest())
}

/// Checkpoint and log, and the log alone if it is all there, give the live state. Says what differs. Blocks the owner: for
/// simulations.
pub(crate) fn check_replay(owner: &Owner) -> Result<(), String> {
    let live = owner.driver.machine().digest();
    if owner.config.replication.is_some() {
        let checkpoint = Checkpoint::read(&*owner.disk, &owner.data_dir)?;
        let rebuilt = Rebuilt::from(checkpoint.as_ref())?.digest_at(&owner.journal, owner.applied)?;
        return if rebuilt == live {
            Ok(())
        } else {
            Err(format!("rebuilt from the checkpoint to {}: {rebuilt}, live {live}", owner.applied))
        };
    }
    let (machine, index) = from_checkpoint(Checkpoint::read(&*owner.disk, &owner.data_dir)?)?;
    let whole = owner.journal.first_index() == Index::FIRST;
    let beginnings = [Some((machine, index)), whole.then(|| (Machine::forgetful(), 0))];
    for (machine, index) in beginnings.into_iter().flatten() {
        let rebuilt = replay(&owner.journal, machine, index + 1, owner.applied, |_| ())?;
        if rebuilt != live {
            return Err(format!("rebuilt from entry {index} to {}: {rebuilt}, live {live}", owner.applied));
        }
    }
    Ok(())
}
