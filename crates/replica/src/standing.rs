//! Who leads a group, as one replica sees it; and what a leader sees to while it does.
//!
//! **Invariant:** a leader that hears of no quorum for longer than followers keep its lease leads no more.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::raft::VoteRequest;
use openraft::vote::{RaftLeaderId as _, RaftVote as _};
use openraft::{RaftMetrics, ServerState};
use openraft_rt::AsyncRuntime as _;
use tokio::sync::{mpsc, watch};

use crate::group::{RaftOf, Replica, Times};
use crate::log::GroupLog;
use crate::machine::Fed;
use crate::membership;
use crate::network::Peers;
use crate::runtime::{self, Instant, Runtime};
use crate::types::{LeaderId, LogId, NOBODY, Position, Term, Types, Vote};

/// Whether a replica leads.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Standing {
    /// The newest term that it knows.
    pub term: u64,
    /// It leads in this term.
    pub leads: bool,
    /// Endpoint of the leader, if it is known; never of this replica when it does not lead.
    pub leader: Option<String>,
}

/// Follows who leads, and sees to what a leader has to do beside leading.
pub(crate) struct Watcher {
    pub(crate) raft: RaftOf,
    pub(crate) peers: Peers,
    pub(crate) times: Times,
    pub(crate) tell: watch::Sender<Standing>,
    pub(crate) feed: mpsc::WeakUnboundedSender<Fed>,
    pub(crate) log: GroupLog,
    pub(crate) checkpointed: Arc<Mutex<Position>>,
    pub(crate) bytes_kept: usize,
}

/// Since when something is so that must not last.
#[derive(Default)]
struct Since {
    leads: Option<Instant>,
    half_made: Option<Instant>,
}

impl Watcher {
    /// Until Raft has stopped, or nobody wants to know any more.
    pub(crate) async fn run(self) {
        let mut metrics = self.raft.metrics();
        let mut since = Since::default();
        loop {
            let now = Instant::of_now();
            let Some(standing) = self.stand(&metrics.borrow_and_update()) else { return };
            self.check_quorum(&standing, now, &mut since.leads).await;
            self.end_half_made(&standing, now, &mut since.half_made);
            self.tidy().await;
            self.tell.send_if_modified(|told| {
                let changed = *told != standing;
                *told = standing;
                changed
            });
            if self.tell.is_closed() {
                return;
            }
            let pause = runtime::sleep(Duration::from_millis(self.times.election_ms));
            if let openraft_rt::Select2::First(Err(_)) = Runtime::select2(metrics.changed(), pause).await {
                return;
            }
        }
    }

    /// How the replica stands; `None` if Raft has stopped, which the owner is told.
    fn stand(&self, metrics: &RaftMetrics<Types>) -> Option<Standing> {
        if let Err(error) = &metrics.running_state {
            if let Some(feed) = self.feed.upgrade() {
                let _ = feed.send(Fed::Stopped(error.to_string()));
            }
            return None;
        }
        let leads = metrics.state == ServerState::Leader;
        let membership = metrics.membership_config.membership();
        let leader = metrics.current_leader.filter(|&leader| leads || leader != metrics.id);
        let leader = leader.and_then(|id| membership.get_node(&id).map(|node| self.peers.endpoint(id, node)));
        Some(Standing { term: metrics.current_term, leads, leader })
    }

    /// Has a leader give up that no quorum answers.
    async fn check_quorum(&self, standing: &Standing, now: Instant, leads_since: &mut Option<Instant>) {
        // Beyond the lease that followers grant, and some heartbeats that were lost.
        let silence_max = Duration::from_millis(self.times.election_ms * 4);
        *leads_since = leads_since.filter(|_| standing.leads).or(standing.leads.then_some(now));
        let is_alone = Replica::voters(&self.raft.metrics().borrow_watched()).len() == 1;
        if !standing.leads || is_alone {
            return;
        }
        let heard = self.raft.metrics().borrow_watched().last_quorum_acked;
        let heard = heard.map_or(*leads_since, |heard| Some(*heard)).max(*leads_since);
        if heard.is_some_and(|heard| now - heard > silence_max) {
            tracing::warn!(group = %self.peers.group, term = standing.term, "no quorum answers: giving up leadership");
            step_down(&self.raft, standing.term).await;
            *leads_since = None;
        }
    }

    /// Has a leader end a change of the members that is half made: whoever began it may have gone, or may not be asked any more.
    fn end_half_made(&self, standing: &Standing, now: Instant, half_made_since: &mut Option<Instant>) {
        let half_made = membership::half_made(&self.raft.metrics().borrow_watched());
        let half_made = half_made.filter(|_| standing.leads);
        *half_made_since =
            half_made_since.filter(|_| half_made.is_some()).or(half_made.as_ref().map(|_| now));
        if let (Some(wanted), Some(since)) = (half_made, *half_made_since)
            && now - since > Duration::from_millis(self.times.election_ms)
        {
            tracing::info!(group = %self.peers.group, term = standing.term, "ending a change of the members that was left half made");
            *half_made_since = None;
            let raft = self.raft.clone();
            // Whether it was done is looked at again.
            runtime::spawn(async move { drop(raft.change_membership(wanted, false).await) });
        }
    }

    /// A group that is quiet must not keep old segments of the journal for those that are not.
    async fn tidy(&self) {
        if !self.log.is_old(self.bytes_kept) {
            return;
        }
        let checkpointed = self.checkpointed.lock().unwrap_or_else(PoisonError::into_inner).last;
        if let Some(upto) = checkpointed.and_then(|last| self.log.superfluous(last, self.bytes_kept)) {
            let _ = self.raft.trigger().purge_log(upto).await;
        }
        if let Err(error) = self.log.rebase() {
            tracing::warn!(%error, "the log of a group cannot be tidied");
        }
    }
}

/// Has a leader give up: openraft has no verb for it, but gives its vote in a newer term to whoever asks. Nobody asks here, so that
/// nobody leads in that term by it; in the next ones it takes part like any other.
pub(crate) async fn step_down(raft: &RaftOf, term: u64) {
    let vote = Vote::from_leader_id(LeaderId::new(term + 1, NOBODY), false);
    let beyond_all = LogId { leader_id: Term::new(term + 1), index: u64::MAX - 1 };
    let mut request = VoteRequest::new(vote, Some(beyond_all));
    // Its own lease does not protect it from itself.
    request.leadership_transfer = true;
    // A stopped Raft tells the owner by the feed.
    let _ = raft.vote(request).await;
}
