//! Columns of thousands of transfers a message. The hot loop: nothing is allocated for a transfer.

use std::cell::{Cell, RefCell};
use std::time::Instant;

use escrow_client::bulk::{Answers, Batch, BulkReceiver, BulkSender};
use escrow_client::{Client, ClientError, IdSequence};
use tokio::sync::Notify;

use super::meter::Meter;
use super::ring::Ring;
use super::{BenchError, Plan};

/// What the two halves share; both run on one thread.
struct Shared {
    in_flight: Cell<u64>,
    /// By number of the batch; row `i` of batch `n` has the tag `n * stride + i`.
    ring: RefCell<Ring>,
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

pub(super) async fn run(client: &Client, plan: &Plan, meter: &Meter) -> Result<(), BenchError> {
    let stride = plan.load.batch.clamp(1, plan.load.in_flight.max(1));
    let mut streams = Vec::new();
    for partition in 0..client.partitions() {
        streams.push(client.bulk_stream(partition).await?);
    }
    let (senders, receivers): (Vec<BulkSender>, Vec<BulkReceiver>) = streams.into_iter().unzip();
    let shared = Shared {
        in_flight: Cell::new(0),
        ring: RefCell::new(Ring::new(plan.load.in_flight / stride)),
        freed: Notify::new(),
    };
    let receiving = receivers.into_iter().map(|receiver| receive(receiver, stride, &shared, meter));
    let (sent, received) =
        tokio::join!(send(senders, stride, plan, &shared, meter), super::stream::all(receiving));
    // When the receiving half failed, the sending half only says that the stream is closed.
    received.and(sent)?;
    shared.check_answered()
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
    let mut sent = 0;
    for (number, sender) in (0..).zip(senders.iter().cycle()) {
        let rows = plan.allowance(sent, stride);
        if rows == 0 {
            break;
        }
        while shared.in_flight.get() + rows > load.in_flight || !shared.ring.borrow().has_room(number) {
            shared.freed.notified().await;
        }
        ids.refresh_clock();
        for _ in 0..rows {
            let ((from_shard, from), (to_shard, to)) = chooser.next();
            let (from, to) = (&plan.accounts.shards[from_shard][from], &plan.accounts.shards[to_shard][to]);
            batch.push(ids.next_key(), from.key, to.key, 1);
        }
        shared.in_flight.update(|in_flight| in_flight + rows);
        shared.ring.borrow_mut().sent(number, rows);
        meter.note_sent(rows);
        sent += rows;
        sender.send(&mut batch, number * stride).await?;
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
        note_runs(&answers, stride, &mut shared.ring.borrow_mut(), &mut runs)?;
        let (tags, states, reasons) = answers.raw();
        meter.record_columns(states, reasons, &runs);
        shared.in_flight.update(|in_flight| in_flight - tags.len() as u64);
        shared.freed.notify_one();
    }
    Ok(())
}

/// Finds runs of rows of one batch: they were sent at one moment, so their latency is one.
fn note_runs(
    answers: &Answers,
    stride: u64,
    ring: &mut Ring,
    runs: &mut Vec<(Instant, u64)>,
) -> Result<(), BenchError> {
    let (tags, _, _) = answers.raw();
    for run in tags.chunk_by(|a, b| a / stride == b / stride) {
        let number = run[0] / stride;
        let rows = run.len() as u64;
        let sent =
            ring.answered(number, rows).ok_or_else(|| BenchError::Unasked(format!("tag {}", run[0])))?;
        runs.push((sent, rows));
    }
    Ok(())
}
