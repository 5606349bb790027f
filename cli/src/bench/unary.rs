//! One call a transfer, many callers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use escrow_client::{Client, ClientError, IdSequence, Transfer};
use tokio::task::JoinSet;

use super::chooser::Chooser;
use super::meter::Meter;
use super::pace::Pace;
use super::{BenchError, Plan};

pub(super) async fn run(client: &Client, plan: &Plan, meter: &Arc<Meter>) -> Result<(), BenchError> {
    let sent = Arc::new(AtomicU64::new(0));
    let plan = Arc::new(plan.clone());
    let chooser = plan.chooser();
    let schedule = plan.schedule();
    // Dropping the set ends the callers: a run that stalls leaves none behind.
    let mut callers = JoinSet::new();
    for number in 0..plan.load.in_flight.max(1).min(plan.goal) {
        let seed = plan.load.seed.wrapping_add(number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let caller = Caller {
            client: client.clone(),
            plan: Arc::clone(&plan),
            meter: Arc::clone(meter),
            sent: Arc::clone(&sent),
            chooser: chooser.with_seed(seed),
            ids: IdSequence::new(),
            pace: schedule.map(Pace::new),
        };
        callers.spawn(caller.run());
    }
    while let Some(ended) = callers.join_next().await {
        ended.map_err(|error| BenchError::Setup(format!("a caller ended: {error}")))??;
    }
    Ok(())
}

/// One caller: the next transfer when the last is answered and, in an open loop, when it is due.
struct Caller {
    client: Client,
    plan: Arc<Plan>,
    meter: Arc<Meter>,
    /// By all callers.
    sent: Arc<AtomicU64>,
    chooser: Chooser,
    ids: IdSequence,
    /// Of an open loop: the callers share the schedule, and whoever is free takes the next number of it.
    pace: Option<Pace>,
}

impl Caller {
    async fn run(mut self) -> Result<(), BenchError> {
        loop {
            let number = self.sent.fetch_add(1, Ordering::Relaxed);
            if self.plan.allowance(number, 1) == 0 {
                return Ok(());
            }
            let mut begun = Instant::now();
            if let Some(pace) = &self.pace {
                (begun, _) = pace.wait(number).await;
                pace.note(number, 1, &self.meter);
            }
            let transfer = self.next();
            self.meter.note_sent(1);
            match self.client.transfer(&transfer).await {
                Ok(outcome) => self.meter.record(Some(outcome.state), outcome.reason, begun),
                // What is refused or unknown is counted, and the caller goes on; a server that is not there ends the run.
                Err(error @ ClientError::Unavailable { .. }) => return Err(error.into()),
                Err(error) => self.meter.record(None, error.reason(), begun),
            }
            if let Some(pace) = &mut self.pace {
                pace.freed();
            }
        }
    }

    fn next(&mut self) -> Transfer {
        self.ids.refresh_clock();
        let (from, to) = self.chooser.next();
        let Plan { accounts, load, .. } = &*self.plan;
        let id = self.ids.next_id();
        Transfer::new(
            accounts.id(from).clone(),
            accounts.id(to).clone(),
            super::minor_units(id.key()),
            load.currency,
        )
        .with_id(id)
        .with_wait(load.wait)
        .with_timeout(load.timeout)
    }
}
