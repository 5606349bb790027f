//! One participant as links and edge reach it: the channels to its replicas, and which of them leads.
//!
//! **Invariant:** a call that is refused because a replica does not lead, or that is not answered, goes on to another replica
//! without a pause, but not for ever: whoever asked hears of it soon and decides.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use escrow_grpc::{Channel, Connector, Endpoint, KeepAlive};
use escrow_service::{Course, Replicas, leader_of, reason_of};
use escrow_types::Reason;
use tokio::time::Instant;
use tonic::{Code, Response, Status};

use crate::config::ParticipantConfig;
use crate::error::CoordinatorError;

/// Where there are several replicas, one that takes longer is left for the next one; twice as long each time that this was too
/// short.
pub(super) const REPLICA_TIMEOUT: Duration = Duration::from_secs(2);

/// Where there is nobody else to go to.
const ALIVE: KeepAlive = KeepAlive { silent: Duration::from_secs(2), answered: Duration::from_secs(4) };
/// Where there are several replicas: one that hangs has a successor within a second, and whoever stays with it keeps its transactions
/// waiting. To leave one that was only slow costs a hello.
const REPLICA_ALIVE: KeepAlive =
    KeepAlive { silent: Duration::from_millis(500), answered: Duration::from_secs(1) };

/// A participant. Clones share what is known of its leader.
#[derive(Clone)]
pub(crate) struct Peer {
    pub(crate) config: ParticipantConfig,
    pub(super) replicas: Arc<Replicas>,
    channels: Arc<[Channel]>,
    /// Where its log is at least, as links of a term have heard; 0: nothing was.
    position: Arc<Mutex<(u64, u64)>>,
    /// Counts the reads that any replica may answer.
    turns: Arc<AtomicUsize>,
}

impl Peer {
    /// Connects when first used.
    pub(crate) fn new(config: &ParticipantConfig, connector: &Connector) -> Result<Self, CoordinatorError> {
        let replicas = config.replicas().map_err(CoordinatorError::Config)?;
        let alive = if replicas.is_alone() { ALIVE } else { REPLICA_ALIVE };
        let channel = |replica: &String| {
            let endpoint =
                Endpoint::parse(replica).map_err(|error| CoordinatorError::Config(error.to_string()))?;
            Ok(Channel::new(endpoint.keep_alive(alive), connector.clone()))
        };
        let channels = replicas.endpoints().iter().map(channel).collect::<Result<_, CoordinatorError>>()?;
        Ok(Self {
            config: config.clone(),
            replicas: Arc::new(replicas),
            channels,
            position: Arc::default(),
            turns: Arc::default(),
        })
    }

    /// What was heard of it by a link of this term is included by this place of its log.
    pub(super) fn reached(&self, term: u64, index: u64) {
        let mut position = self.position.lock().unwrap_or_else(PoisonError::into_inner);
        *position = (*position).max((term, index));
    }

    /// A place of its log that includes all that was acknowledged to coordinators before this call. `None`: nothing was heard of it in
    /// this term; what was heard in another may lack what it has told another leader since.
    pub(crate) fn position(&self, term: u64) -> Option<u64> {
        let (of, index) = *self.position.lock().unwrap_or_else(PoisonError::into_inner);
        (of == term && index > 0).then_some(index)
    }

    /// Asks its replicas in turn, one a call; the one that leads where that one does not answer, or cannot. For reads.
    pub(crate) async fn ask_any<T, F>(
        &self,
        within: Duration,
        mut attempt: impl FnMut(Channel, Duration) -> F,
    ) -> Result<Response<T>, Status>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        /// One that hangs costs a read so much.
        const PATIENCE: Duration = Duration::from_millis(500);
        if !self.replicas.is_alone() {
            let turn = self.turns.fetch_add(1, Ordering::Relaxed) % self.channels.len();
            let asked = attempt(self.channels[turn].clone(), PATIENCE);
            if let Ok(Ok(response)) = tokio::time::timeout(PATIENCE, asked).await {
                return Ok(response);
            }
        }
        self.ask(within, attempt).await
    }

    pub(super) fn channels(&self) -> &[Channel] {
        &self.channels
    }

    /// The one that led when it was last heard of; the only one of an external participant.
    pub(super) fn leader(&self) -> Channel {
        self.channels[self.replicas.leader()].clone()
    }

    /// Asks the one that leads, for something that may be asked twice. An attempt is given a channel and how long it may take.
    /// After `within` in all the last status is the answer.
    pub(crate) async fn ask<T, F>(
        &self,
        within: Duration,
        mut attempt: impl FnMut(Channel, Duration) -> F,
    ) -> Result<Response<T>, Status>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = Instant::now() + within;
        let mut course = Course::new(&self.replicas);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let patience = course.patience(REPLICA_TIMEOUT, within).min(left);
            let asked = attempt(self.channels[course.at()].clone(), patience);
            let status = match tokio::time::timeout(patience, asked).await {
                Ok(Ok(response)) => {
                    course.answered();
                    return Ok(response);
                }
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded("no answer in time"),
            };
            if !goes_on(&mut course, &status) || Instant::now() >= deadline {
                return Err(status);
            }
        }
    }
}

/// Whether another replica may know better, and is to be asked at once.
fn goes_on(course: &mut Course<'_>, status: &Status) -> bool {
    match (reason_of(status), status.code()) {
        (Some(Reason::NotLeader), _) => course.refused(leader_of(status).as_deref()),
        (Some(Reason::ShuttingDown), _) | (None, Code::Unavailable | Code::Unknown) => course.unanswered(),
        (None, Code::DeadlineExceeded | Code::Cancelled) => course.timed_out(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use escrow_service::{not_leader, refusal};

    use super::*;
    use crate::config::ParticipantKind;

    const A: &str = "http://127.0.0.1:1";
    const B: &str = "http://127.0.0.1:2";
    const C: &str = "http://127.0.0.1:3";

    fn peer(replicas: &[&str]) -> Peer {
        let (name, kind) = ("0".to_owned(), ParticipantKind::Stream);
        let config = ParticipantConfig { id: 0, name, endpoint: replicas.join("+"), kind };
        Peer::new(&config, &Connector::tcp()).unwrap()
    }

    /// Asks with scripted answers; beyond the script nothing is answered. Gives how often it was asked.
    async fn ask(peer: &Peer, script: Vec<Result<u8, Status>>) -> (Result<u8, Status>, usize) {
        let (script, asked) = (RefCell::new(script.into_iter()), RefCell::new(0));
        let answer = peer
            .ask(Duration::from_secs(10), |_, _| {
                *asked.borrow_mut() += 1;
                let answer = script.borrow_mut().next();
                async {
                    match answer {
                        Some(answer) => answer.map(Response::new),
                        None => std::future::pending().await,
                    }
                }
            })
            .await;
        (answer.map(Response::into_inner), asked.into_inner())
    }

    #[tokio::test(start_paused = true)]
    async fn the_leader_that_is_named_is_asked_and_known_from_then_on() {
        let peer = peer(&[A, B, C]);
        let begun = Instant::now();
        let (answer, asked) = ask(&peer, vec![Err(not_leader(Some(C))), Ok(7)]).await;
        assert_eq!((answer.unwrap(), asked, begun.elapsed()), (7, 2, Duration::ZERO));
        assert_eq!(peer.clone().replicas.leader(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_cannot_be_reached_or_is_silent_is_passed_over() {
        let begun = Instant::now();
        let hangs: Vec<Result<u8, Status>> = vec![];
        let (answer, asked) = ask(&peer(&[A, B, C]), hangs).await;
        assert_eq!((answer.unwrap_err().code(), asked), (Code::DeadlineExceeded, 3));
        assert_eq!(begun.elapsed(), Duration::from_secs(10), "2 s, 4 s, and what was left");
        let (answer, asked) = ask(&peer(&[A, B, C]), vec![Err(Status::unavailable("gone")), Ok(7)]).await;
        assert_eq!((answer.unwrap(), asked), (7, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_without_a_leader_is_asked_once_around() {
        let script: Vec<Result<u8, Status>> = (0..20).map(|_| Err(not_leader(None))).collect();
        let (answer, asked) = ask(&peer(&[A, B, C]), script).await;
        assert_eq!((reason_of(&answer.unwrap_err()), asked), (Some(Reason::NotLeader), 4));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_for_what_it_is_is_asked_once() {
        let refused = refusal(Reason::AccountNotFound, "none");
        let (answer, asked) = ask(&peer(&[A, B, C]), vec![Err(refused), Ok(7)]).await;
        assert_eq!((reason_of(&answer.unwrap_err()), asked), (Some(Reason::AccountNotFound), 1));
    }

    #[tokio::test(start_paused = true)]
    async fn one_alone_is_asked_once() {
        for status in [not_leader(Some(B)), Status::unavailable("gone")] {
            let (answer, asked) = ask(&peer(&[A]), vec![Err(status), Ok(7)]).await;
            assert_eq!((answer.unwrap_err().code(), asked), (Code::Unavailable, 1));
        }
    }
}
