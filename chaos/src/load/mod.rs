//! Open-loop load: so many transactions a second of every kind, whether or not the servers keep up; every answer goes to
//! the oracle and to the meter. Callers try again with the same id until they know, but for some who never ask again.
//!
//! # Layout
//! - [`pace`]: when transactions are due; latency is counted from then, also if they are sent later
//! - `plan`: which transaction comes next
//! - `calls`: transactions that are calls of their own
//! - `rows`: rows of bulk streams, which are most
//! - [`meter`]: counts and latencies
//! - [`sentinel`]: sees when something serves again
//!
//! **Invariant:** what is held back because too much is under way is counted and told.

mod calls;
pub mod meter;
pub mod pace;
mod plan;
mod rows;
pub mod sentinel;

use std::sync::Arc;
use std::time::Duration;

use escrow_client::{Client, ClientError, Options, RetryPolicy};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::oracle::{Account, Oracle};
use crate::scenario::Mix;
use calls::Caller;
pub use meter::{Ending, Meter};
use rows::Rows;
pub use sentinel::{Need, Sentinel};

/// Some callers ask once, wait so long, and never hear what became of it.
const IMPATIENCE: Duration = Duration::from_millis(20);
/// When the load stops, callers without an answer ask on for so long.
const LAST_WORDS: Duration = Duration::from_secs(30);

/// What load is wanted.
#[derive(Debug, Clone)]
pub struct Load {
    /// Transactions a second.
    pub rate: u64,
    /// Of which kinds.
    pub mix: Mix,
    /// Accounts of each shard, all with money, by their place in the oracle's list.
    pub shards: Vec<Vec<Account>>,
    /// Chooses everything.
    pub seed: u64,
}

/// Who hears of it.
#[derive(Debug, Clone)]
pub struct Ears {
    /// Remembers and judges.
    pub oracle: Arc<Oracle>,
    /// Counts and measures.
    pub meter: Arc<Meter>,
    /// Looks for what serves again.
    pub sentinel: Arc<Sentinel>,
}

/// Load that runs.
#[derive(Debug)]
pub struct Running {
    stop: watch::Sender<Option<Instant>>,
    tasks: Vec<JoinHandle<()>>,
}

/// Whether the load is to stop, and when its callers give up.
pub(crate) type Stopped = watch::Receiver<Option<Instant>>;

impl Ears {
    /// Nothing heard yet.
    pub fn new(oracle: Oracle) -> Self {
        Self { oracle: Arc::new(oracle), meter: Arc::default(), sentinel: Arc::default() }
    }
}

impl Load {
    /// The shard of each account.
    fn homes(&self) -> Arc<[u32]> {
        let mut homes = vec![0; self.shards.iter().map(Vec::len).sum()];
        for (shard, accounts) in (0..).zip(&self.shards) {
            for &account in accounts {
                homes[account as usize] = shard;
            }
        }
        homes.into()
    }

    /// Starts it.
    pub fn start(self, client: &Client, ears: &Ears) -> Result<Running, ClientError> {
        let (stop, stopped) = watch::channel(None);
        let endpoints: Vec<String> =
            (0..client.partitions()).map(|at| client.endpoint(at).to_owned()).collect();
        let retry = RetryPolicy { attempts_max: 1, ..RetryPolicy::default() };
        let impatient =
            Options { attempt_timeout: IMPATIENCE, deadline: IMPATIENCE, retry, ..Options::default() };
        let caller = Caller {
            client: client.clone(),
            impatient: Client::connect(endpoints, impatient)?,
            ears: ears.clone(),
            mix: self.mix.clone(),
            stopped: stopped.clone(),
        };
        let calls = self.rate * u64::from(self.mix.calls_percent) / 100;
        let (load, partitions) = (Arc::new(self), client.partitions());
        let mut tasks = vec![tokio::spawn(calls::run(Arc::clone(&load), calls, caller))];
        for partition in 0..partitions {
            let per_second = (load.rate - calls) as f64 / partitions as f64;
            let rows = Rows::new(&load, client.clone(), partition, ears.clone());
            tasks.push(tokio::spawn(rows.run(Arc::clone(&load), per_second, stopped.clone())));
        }
        Ok(Running { stop, tasks })
    }
}

impl Running {
    /// Makes no more transactions and waits until all calls have ended, at most half a minute.
    pub async fn stop(mut self) -> Result<(), tokio::task::JoinError> {
        self.stop.send_replace(Some(Instant::now() + LAST_WORDS));
        for task in &mut self.tasks {
            task.await?;
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}
