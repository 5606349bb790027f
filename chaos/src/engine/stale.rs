//! Asks a leader that was paused or cut off, and succeeded meanwhile, for what its successor has done: it may refuse, and it may answer
//! as its successor would, but it must not answer out of its own past.
//!
//! The first questions wait in the sockets of one that was paused: they are the first thing that it sees.

use std::time::Duration;

use escrow_client::{Client, Options, ShardClient, State};
use escrow_types::TransactionKey;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// Questions that wait when it goes on.
const WAITING: usize = 16;
/// So long it takes at most until they are in its sockets.
const SENT_WITHIN: Duration = Duration::from_millis(100);
/// After a fault it is asked on for so long.
pub(super) const ASKED_FOR: Duration = Duration::from_millis(1_500);
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(2);
/// Whoever has no answer by then gets none.
const WITHIN: Duration = Duration::from_secs(5);

/// What the group knows by now.
#[derive(Debug, Clone, Copy)]
pub(super) enum Known {
    /// A transaction is confirmed.
    Confirmed(TransactionKey),
    /// A shard has applied so many entries.
    Applied {
        /// Which.
        shard: u16,
        /// How many.
        applied: u64,
    },
}

/// What came of the questions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Answers {
    /// As the group would have answered.
    pub(super) current: u64,
    /// Refused, or not answered.
    pub(super) refused: u64,
    /// Out of the past, in words.
    pub(super) stale: Vec<String>,
}

/// Questions under way.
pub(super) struct Probe {
    asker: Asker,
    waiting: JoinSet<Result<bool, String>>,
}

/// Asks one process alone.
#[derive(Clone)]
struct Asker {
    endpoint: String,
    known: Known,
}

impl Probe {
    /// Asks a process that is paused, or cut off.
    pub(super) async fn start(endpoint: &str, known: Known) -> Self {
        let asker = Asker { endpoint: endpoint.to_owned(), known };
        let mut waiting = JoinSet::new();
        for _ in 0..WAITING {
            let asker = asker.clone();
            waiting.spawn(async move { asker.ask().await });
        }
        sleep(SENT_WITHIN).await;
        Self { asker, waiting }
    }

    /// Asks on for a while.
    pub(super) async fn finish(mut self, until: Instant) -> Answers {
        let mut answers = Answers::default();
        while Instant::now() < until {
            answers.count(self.asker.ask().await);
            sleep(PAUSE).await;
        }
        while let Some(asked) = self.waiting.join_next().await {
            answers.count(asked.unwrap_or(Ok(false)));
        }
        answers
    }
}

impl Answers {
    fn count(&mut self, answer: Result<bool, String>) {
        match answer {
            Ok(true) => self.current += 1,
            Ok(false) => self.refused += 1,
            Err(stale) => self.stale.push(stale),
        }
    }

    /// Together with others.
    pub(super) fn add(&mut self, other: Self) {
        self.current += other.current;
        self.refused += other.refused;
        self.stale.extend(other.stale);
    }
}

impl Asker {
    /// Whether it answers, and as it must.
    async fn ask(&self) -> Result<bool, String> {
        let options = Options::once(WITHIN);
        match self.known {
            Known::Confirmed(key) => {
                let asked = match Client::connect([&*self.endpoint], options) {
                    Ok(client) => client.get_transaction(&key.to_string()).await,
                    Err(error) => Err(error),
                };
                judge_outcome(key, asked.ok().map(|record| record.outcome.state))
            }
            Known::Applied { shard, applied } => {
                let asked = match ShardClient::connect(&*self.endpoint, options) {
                    Ok(client) => client.totals(shard.into()).await,
                    Err(error) => Err(error),
                };
                judge_applied(applied, asked.ok().map(|totals| totals.applied_index))
            }
        }
    }
}

fn judge_outcome(key: TransactionKey, asked: Option<State>) -> Result<bool, String> {
    match asked {
        None => Ok(false),
        Some(State::Confirmed) => Ok(true),
        Some(state) => Err(format!("{key} is confirmed, and was said to be {state:?}")),
    }
}

fn judge_applied(known: u64, asked: Option<u64>) -> Result<bool, String> {
    match asked {
        None => Ok(false),
        Some(applied) if applied >= known => Ok(true),
        Some(applied) => Err(format!("totals as of entry {applied}, although {known} was applied")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_answers_out_of_the_past_are_wrong() {
        let key = TransactionKey(7);
        assert_eq!(judge_outcome(key, Some(State::Confirmed)), Ok(true));
        assert_eq!(judge_outcome(key, None), Ok(false));
        assert!(judge_outcome(key, Some(State::NotFound)).unwrap_err().contains("NotFound"));
        assert_eq!(judge_applied(5, Some(5)), Ok(true));
        assert_eq!(judge_applied(5, None), Ok(false));
        assert!(judge_applied(5, Some(4)).unwrap_err().contains("entry 4"));
    }
}
