//! Whether the state is what the log says: the live state against the view with the log after it, and against the whole
//! log with its archive. Runs beside the owner, which only tells its digest; nothing is trimmed meanwhile.

use std::time::{Duration, Instant};

use escrow_journal::{Index, Journal};
use escrow_proto::v1::VerifyResponse;
use escrow_types::Digest;
use escrow_wallet::Wallet;
use tokio::sync::mpsc;

use crate::checkpoint::Checkpointer;
use crate::error::ParticipantError;
use crate::owner::Handle;
use crate::recovery::replay;
use crate::replicated::Rebuilt;
use crate::store::Held;

const CHECKPOINT: &str = "checkpoint + log = live state";
const WHOLE_LOG: &str = "whole log = live state";
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// Where the lines of a verification go.
pub(crate) type Lines = mpsc::Sender<VerifyResponse>;

/// Verifies one shard; every check ends with one line that is `done`.
pub(crate) async fn verify(handle: Handle, journal: Journal, checkpointer: Checkpointer, lines: Lines) {
    let (shard, is_replica) = (handle.shard(), handle.is_replica());
    let hold = checkpointer.hold_trimming();
    // The view first: what it has, the live state has too.
    let view = checkpointer.read(shard).await;
    let live = handle.read(|view| (view.wallet.digest(), view.applied)).await;
    let Ok((live, until)) = live else {
        let response = line(shard, CHECKPOINT, false, "the shard is shutting down".to_owned(), true);
        // A caller that is gone is not told.
        let _ = lines.send(response).await;
        return;
    };
    let checks = tokio::task::spawn_blocking(move || {
        let _hold = hold;
        if is_replica {
            verify_replica(&lines, &journal, shard, view, (live, until));
            return;
        }
        let checkpoint = |tell: &mut dyn FnMut(u64) -> bool| {
            let Held { mut wallet, applied: from, .. } = view?;
            replay(&mut wallet, journal.read_from(Index(from + 1))?, shard, until, tell)?;
            Ok((wallet.digest(), format!("from the view at entry {from}")))
        };
        check(&lines, shard, CHECKPOINT, live, until, checkpoint);
        let first = journal.first_index().get();
        if first > 1 {
            let detail = format!("not checked: the history before entry {first} was deleted");
            let _ = lines.blocking_send(line(shard, WHOLE_LOG, true, detail, true));
            return;
        }
        let whole = |tell: &mut dyn FnMut(u64) -> bool| {
            let mut wallet = Wallet::default();
            replay(&mut wallet, journal.read_from(Index::FIRST)?, shard, until, tell)?;
            Ok((wallet.digest(), "from entry 1".to_owned()))
        };
        check(&lines, shard, WHOLE_LOG, live, until, whole);
    });
    // A panic in it broke an invariant, and was reported as one.
    let _ = checks.await;
}

/// As for a shard that is alone, but of the group's log.
fn verify_replica(
    lines: &Lines,
    journal: &Journal,
    shard: u16,
    view: Result<Held, ParticipantError>,
    (live, until): (Digest, u64),
) {
    // A replica may apply what a majority of the others has synced before its own disk has; a failed journal says so when it is read.
    let _ = journal.wait_durable(journal.cursors().appended);
    let rebuild = |held: Held| {
        let mut rebuilt = Rebuilt::from(held)?;
        let from = rebuilt.position.index();
        let failed = |why| ParticipantError::Entry { index: until, why };
        rebuilt.read(journal, shard, until).map_err(failed)?;
        Ok((rebuilt.wallet.digest(), format!("from entry {} of the group", from + 1)))
    };
    check(lines, shard, CHECKPOINT, live, until, |_| rebuild(view?));
    match rebuild(Held::default()) {
        // A member that came later has no more than what came after its snapshot.
        Err(ParticipantError::Entry { why, .. }) => {
            let _ = lines.blocking_send(line(shard, WHOLE_LOG, true, format!("not checked: {why}"), true));
        }
        rebuilt => check(lines, shard, WHOLE_LOG, live, until, |_| rebuilt),
    }
}

fn check(
    lines: &Lines,
    shard: u16,
    name: &'static str,
    live: Digest,
    until: u64,
    rebuild: impl FnOnce(&mut dyn FnMut(u64) -> bool) -> Result<(Digest, String), ParticipantError>,
) {
    let mut told = Instant::now();
    let mut tell = |index: u64| {
        if told.elapsed() < PROGRESS_EVERY {
            return true;
        }
        told = Instant::now();
        lines.blocking_send(line(shard, name, true, format!("entry {index} of {until}"), false)).is_ok()
    };
    let (ok, detail) = match rebuild(&mut tell) {
        Ok((digest, from)) if digest == live => (true, format!("{from} to {until}: {digest}")),
        Ok((digest, from)) => (false, format!("{from} to {until}: rebuilt {digest}, live {live}")),
        Err(error) => (false, error.to_string()),
    };
    if !ok {
        tracing::error!(shard, check = name, detail, "verification failed");
    }
    let _ = lines.blocking_send(line(shard, name, ok, detail, true));
}

fn line(shard: u16, check: &str, ok: bool, detail: String, done: bool) -> VerifyResponse {
    VerifyResponse { subject: format!("participant {shard}"), check: check.to_owned(), ok, detail, done }
}
