//! One message a transfer on one stream to each coordinator.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::time::Instant;

use escrow_client::report::{self, TransactionState};
use escrow_client::stream::{TransferReceiver, TransferSender};
use escrow_client::{Client, ClientError, IdSequence, State, Wait};
use escrow_types::{Reason, TransactionId};
use tokio::sync::Notify;

use super::meter::Meter;
use super::pace::{Pace, noticing};
use super::ring::Ring;
use super::{BenchError, Plan};

/// What the two halves share; both run on one thread.
struct Shared {
    in_flight: Cell<u64>,
    /// By number of the transfer, which its id tells.
    ring: RefCell<Ring>,
    freed: Notify,
    ids: IdSequence,
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
    let mut streams = Vec::new();
    for partition in 0..client.partitions() {
        streams.push(client.transfer_stream(partition).await?);
    }
    let (senders, receivers): (Vec<TransferSender>, Vec<TransferReceiver>) = streams.into_iter().unzip();
    let shared = Shared {
        in_flight: Cell::new(0),
        ring: RefCell::new(Ring::new(plan.load.in_flight)),
        freed: Notify::new(),
        ids: IdSequence::new(),
    };
    let receiving = receivers.into_iter().map(|receiver| receive(receiver, &shared, meter));
    let (sent, received) = tokio::join!(send(senders, plan, &shared, meter), all(receiving));
    received.and(sent)?;
    shared.check_answered()
}

/// Drives all receiving halves to their ends; the first failure ends all.
pub(super) async fn all(
    halves: impl IntoIterator<Item = impl Future<Output = Result<(), BenchError>>>,
) -> Result<(), BenchError> {
    let mut halves: Vec<_> = halves.into_iter().map(Box::pin).collect();
    std::future::poll_fn(|context| {
        let mut failed = None;
        halves.retain_mut(|half| match half.as_mut().poll(context) {
            std::task::Poll::Pending => true,
            std::task::Poll::Ready(result) => {
                failed = failed.take().or(result.err());
                false
            }
        });
        match failed {
            Some(error) => std::task::Poll::Ready(Err(error)),
            None if halves.is_empty() => std::task::Poll::Ready(Ok(())),
            None => std::task::Poll::Pending,
        }
    })
    .await
}

async fn send(
    senders: Vec<TransferSender>,
    plan: &Plan,
    shared: &Shared,
    meter: &Meter,
) -> Result<(), BenchError> {
    let load = &plan.load;
    let mut chooser = plan.chooser();
    let mut ids = shared.ids.clone();
    let mut pace = plan.schedule().map(Pace::new);
    let wait = match load.wait {
        Wait::Decided => report::Wait::Decided,
        Wait::Completed => report::Wait::Completed,
    };
    for (number, sender) in (0..).zip(senders.iter().cycle()) {
        if plan.allowance(number, 1) == 0 {
            break;
        }
        let mut is_held_up = false;
        while shared.in_flight.get() >= load.in_flight || !shared.ring.borrow().has_room(number) {
            shared.freed.notified().await;
            is_held_up = true;
        }
        let mut since = Instant::now();
        if let Some(pace) = &mut pace {
            if is_held_up {
                pace.freed();
            }
            (since, _) = pace.wait(number).await;
            pace.note(number, 1, meter);
        }
        // A thousand transfers are sent in about a millisecond.
        if number % 1_024 == 0 {
            ids.refresh_clock();
        }
        let (from, to) = chooser.next();
        let id = ids.next_id();
        let message = report::TransferRequest {
            transaction_id: id.to_string(),
            from_account_id: plan.accounts.id(from).to_string(),
            to_account_id: plan.accounts.id(to).to_string(),
            amount: super::minor_units(id.key()),
            currency: load.currency.code().to_owned(),
            wait: wait.into(),
            timeout_ms: u32::try_from(load.timeout.as_millis()).unwrap_or(u32::MAX),
        };
        shared.in_flight.update(|in_flight| in_flight + 1);
        shared.ring.borrow_mut().sent(number, since, 1);
        meter.note_sent(1);
        let (sent, is_held_up) = noticing(sender.send_message(message)).await;
        sent?;
        if let Some(pace) = pace.as_mut().filter(|_| is_held_up) {
            pace.freed();
        }
    }
    Ok(())
}

async fn receive(mut receiver: TransferReceiver, shared: &Shared, meter: &Meter) -> Result<(), BenchError> {
    while let Some(answer) = receiver.next_message().await? {
        let number = TransactionId::new(&answer.transaction_id).ok().map(|id| shared.ids.ordinal(id.key()));
        let sent = number.and_then(|number| shared.ring.borrow_mut().answered(number, 1));
        let sent = sent.ok_or_else(|| BenchError::Unasked(answer.transaction_id.clone()))?;
        let state = match answer.state() {
            TransactionState::Confirmed => Some(State::Confirmed),
            TransactionState::Canceled => Some(State::Canceled),
            _ => None,
        };
        let reason = u8::try_from(answer.reason).ok().and_then(Reason::from_number);
        meter.record(state, reason, sent);
        shared.in_flight.update(|in_flight| in_flight - 1);
        shared.freed.notify_one();
    }
    Ok(())
}
