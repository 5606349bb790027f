//! Columns of thousands of transfers a message. The hot loop: nothing is allocated for a transfer.

use std::cell::{Cell, RefCell};
use std::time::Instant;

use escrow_client::bulk::{Answers, Batch, BulkReceiver, BulkSender};
use escrow_client::{Client, ClientError, IdSequence};
use escrow_types::AccountKey;
use tokio::sync::Notify;

use super::accounts::Accounts;
use super::chooser::Chooser;
use super::meter::Meter;
use super::pace::{Pace, Schedule, noticing};
use super::ring::Ring;
use super::{BenchError, Plan};

/// What the two halves share; both run on one thread.
struct Shared {
    in_flight: Cell<u64>,
    /// By number of the batch; row `i` of batch `n` has the tag `n * stride + i`.
    ring: RefCell<Ring>,
    /// Of an open loop: the rows of a batch have due times of their own.
    schedule: Option<Schedule>,
    freed: Notify,
}

impl Shared {
    /// After all streams have ended.
    fn check_answered(&self) -> Result<(), BenchError> {
        match self.in_flight.get() {
            0 => Ok(()),
            left => {
                Err(ClientError::Closed(format!("the server ended it with {left} transfers unanswered"))
                    .into())
            }
        }
    }
}

/// Accounts are looked up for so many rows before these are written: among millions each misses the cache, and misses that nothing
/// comes between are waited for together.
const LOOK_UP_ROWS: usize = 64;

/// What fits into the ring in an open loop even if all batches are as small as this.
const SMALL_BATCH: u64 = 64;

pub(super) async fn run(client: &Client, plan: &Plan, meter: &Meter) -> Result<(), BenchError> {
    let stride = plan.load.batch.clamp(1, plan.load.in_flight.max(1));
    let mut streams = Vec::new();
    for partition in 0..client.partitions() {
        streams.push(client.bulk_stream(partition).await?);
    }
    let (senders, receivers): (Vec<BulkSender>, Vec<BulkReceiver>) = streams.into_iter().unzip();
    let schedule = plan.schedule();
    let shared = Shared {
        in_flight: Cell::new(0),
        // In an open loop batches are as small as what is due at the moment: more of them are under way.
        ring: RefCell::new(Ring::new(
            schedule.map_or(plan.load.in_flight / stride, |_| (plan.load.in_flight / SMALL_BATCH).max(1)),
        )),
        schedule,
        freed: Notify::new(),
    };
    let receiving = receivers.into_iter().map(|receiver| receive(receiver, stride, &shared, meter));
    let (sent, received) =
        tokio::join!(send(senders, stride, plan, &shared, meter), super::stream::all(receiving));
    // When the receiving half failed, the sending half only says that the stream is closed.
    received.and(sent)?;
    shared.check_answered()
}

/// Writes so many rows.
fn fill(batch: &mut Batch, rows: usize, accounts: &Accounts, chooser: &mut Chooser, ids: &mut IdSequence) {
    let mut looked_up = [(AccountKey::default(), AccountKey::default()); LOOK_UP_ROWS];
    for first in (0..rows).step_by(LOOK_UP_ROWS) {
        let some = &mut looked_up[..(rows - first).min(LOOK_UP_ROWS)];
        some.fill_with(|| {
            let (from, to) = chooser.next();
            (accounts.key(from), accounts.key(to))
        });
        for &(from, to) in &*some {
            let id = ids.next_key();
            batch.push(id, from, to, super::minor_units(id));
        }
    }
}

async fn send(
    senders: Vec<BulkSender>,
    stride: u64,
    plan: &Plan,
    shared: &Shared,
    meter: &Meter,
) -> Result<(), BenchError> {
    let load = &plan.load;
    let mut chooser = plan.chooser();
    let mut ids = IdSequence::new();
    let mut batch = Batch::new(stride as usize, load.currency, load.wait, Some(load.timeout));
    let mut pace = shared.schedule.map(Pace::new);
    let mut sent = 0;
    for (number, sender) in (0..).zip(senders.iter().cycle()) {
        let mut rows = plan.allowance(sent, stride);
        if rows == 0 {
            break;
        }
        // A batch of an open loop takes what is due and fits; one of a closed loop is full.
        let room = if pace.is_some() { 1 } else { rows };
        let mut is_held_up = false;
        while shared.in_flight.get() + room > load.in_flight || !shared.ring.borrow().has_room(number) {
            shared.freed.notified().await;
            is_held_up = true;
        }
        let mut since = Instant::now();
        if let Some(pace) = &mut pace {
            if is_held_up {
                pace.freed();
            }
            let due;
            (since, due) = pace.wait(sent).await;
            rows = rows.min(due).min(load.in_flight - shared.in_flight.get());
            pace.note(sent, rows, meter);
        }
        ids.refresh_clock();
        fill(&mut batch, rows as usize, &plan.accounts, &mut chooser, &mut ids);
        shared.in_flight.update(|in_flight| in_flight + rows);
        shared.ring.borrow_mut().sent(number, since, rows);
        meter.note_sent(rows);
        sent += rows;
        let (under_way, is_held_up) = noticing(sender.send(&mut batch, number * stride)).await;
        under_way?;
        if let Some(pace) = pace.as_mut().filter(|_| is_held_up) {
            pace.freed();
        }
    }
    Ok(())
}

async fn receive(
    mut receiver: BulkReceiver,
    stride: u64,
    shared: &Shared,
    meter: &Meter,
) -> Result<(), BenchError> {
    let mut runs = Vec::new();
    while let Some(answers) = receiver.next().await? {
        runs.clear();
        note_runs(&answers, stride, shared, &mut runs)?;
        let (tags, states, reasons) = answers.raw();
        meter.record_columns(states, reasons, &runs);
        shared.in_flight.update(|in_flight| in_flight - tags.len() as u64);
        shared.freed.notify_one();
    }
    Ok(())
}

/// Finds runs of rows whose latency is one: those of one batch of a closed loop were sent at one moment, those of an open
/// loop have due times of their own.
fn note_runs(
    answers: &Answers,
    stride: u64,
    shared: &Shared,
    runs: &mut Vec<(Instant, u64)>,
) -> Result<(), BenchError> {
    let mut ring = shared.ring.borrow_mut();
    let (tags, _, _) = answers.raw();
    for run in tags.chunk_by(|a, b| a / stride == b / stride) {
        let number = run[0] / stride;
        let rows = run.len() as u64;
        let since =
            ring.answered(number, rows).ok_or_else(|| BenchError::Unasked(format!("tag {}", run[0])))?;
        match &shared.schedule {
            None => runs.push((since, rows)),
            Some(schedule) => {
                runs.extend(run.iter().map(|tag| (since + schedule.offset(tag % stride), 1)));
            }
        }
    }
    Ok(())
}
