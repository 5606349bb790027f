//! Who is sure to lead, and how old the state of a follower may be: both by clocks that need not agree, only count the same milliseconds.
//!
//! A follower's answer to an append bears a moment of its own clock. The leader sends that back with its next append, and with it how far
//! everything is that anybody was told of. So that append left after that moment, and whoever has applied so far has everything that was
//! acknowledged before it. Reads from followers get an age by this without wall clocks, which bounded staleness elsewhere needs
//! (Spanner, CockroachDB's closed timestamps); the round trip is that of Cristian's clock synchronisation (1989), the other way around.
//!
//! **Invariant:** a leader that is not sure to lead vouches for nothing.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use escrow_proto::v1;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::type_config::alias::WatchReceiverOf;
use openraft::{RaftMetrics, ServerState};

use crate::group::{Replica, Times};
use crate::runtime::{self, Instant};
use crate::types::Types;

/// Whether a leader is sure to be the only one.
struct Lease {
    metrics: WatchReceiverOf<Types, RaftMetrics<Types>>,
    lasts: Duration,
}

/// What one replica knows of its own lead. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Lead(Arc<Known>);

#[derive(Default)]
struct Known {
    /// Set once Raft runs.
    lease: OnceLock<Lease>,
    /// The newest term that is not sure any more: another was asked to take over, or was heard of or voted for in a newer one.
    given_up: AtomicU64,
    /// Others are being asked to take over.
    offering: AtomicUsize,
    /// Index of the newest committed entry of which the owner was told: nobody else was told of more.
    told: AtomicU64,
    /// And its term.
    told_term: AtomicU64,
}

impl Lead {
    pub(crate) fn watch(&self, metrics: WatchReceiverOf<Types, RaftMetrics<Types>>, times: Times) {
        // Followers keep a lease of twice `election_ms`: a quarter of that is left for clocks.
        let lasts = Duration::from_millis(times.election_ms * 3 / 2);
        assert!(self.0.lease.set(Lease { metrics, lasts }).is_ok(), "Raft is started once");
    }

    /// In this term and those before it this replica is not sure to lead any more, whatever the lease. Said before anybody can act on it.
    pub(crate) fn give_up(&self, term: u64) {
        self.0.given_up.fetch_max(term, Ordering::AcqRel);
    }

    /// Another is being asked to take over, in whatever term: it may lead at any moment.
    pub(crate) fn offer(&self) -> Offering {
        self.0.offering.fetch_add(1, Ordering::AcqRel);
        Offering(self.clone())
    }

    /// The owner is about to be told of a committed entry.
    pub(crate) fn tell(&self, index: u64, term: u64) {
        self.0.told.store(index, Ordering::Release);
        self.0.told_term.store(term, Ordering::Release);
    }

    /// The term in which this replica leads and nobody can lead after it yet.
    pub(crate) fn sure_term(&self) -> Option<u64> {
        let Lease { metrics, lasts } = self.0.lease.get()?;
        let metrics = metrics.borrow_watched();
        if metrics.state != ServerState::Leader
            || self.0.offering.load(Ordering::Acquire) > 0
            || metrics.current_term <= self.0.given_up.load(Ordering::Acquire)
        {
            return None;
        }
        let voters = Replica::voters(&metrics);
        // A leader that was removed is succeeded without a word to us.
        if !voters.contains(&metrics.id) {
            return None;
        }
        let is_fresh = metrics.last_quorum_acked.is_some_and(|acked| *acked + *lasts > Instant::of_now());
        let is_alone = || voters.len() == 1;
        (is_fresh || is_alone()).then_some(metrics.current_term)
    }

    /// How far everything is that was acknowledged before this call by anybody, if this replica is sure to lead.
    pub(crate) fn vouches(&self) -> Option<u64> {
        // In this order: the index is of that term, or newer. And first these: what is acknowledged from here on need not be included.
        let term = self.0.told_term.load(Ordering::Acquire);
        let told = self.0.told.load(Ordering::Acquire);
        // What its predecessors acknowledged is all committed only when an entry of its own is.
        (self.sure_term() == Some(term)).then_some(told)
    }
}

/// While it lives, nobody is sure to lead.
pub(crate) struct Offering(Lead);

impl Drop for Offering {
    fn drop(&mut self) {
        self.0.0.offering.fetch_sub(1, Ordering::AcqRel);
    }
}

/// How old a state may be that has applied all up to an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// Of the group's log; the first is 1.
    pub index: u64,
    as_of: Instant,
}

impl Freshness {
    /// Nothing that was acknowledged longer ago than this is missing up to the index.
    pub fn age(&self) -> Duration {
        Instant::of_now() - self.as_of
    }
}

/// What a follower was told by leaders.
pub(crate) struct Heard {
    /// Moments of an earlier life of this process mean nothing to this one.
    process: u64,
    newest: Mutex<Option<Freshness>>,
}

impl Heard {
    pub(crate) fn new() -> Self {
        Self { process: runtime::random(), newest: Mutex::default() }
    }

    pub(crate) fn now(&self) -> v1::Moment {
        v1::Moment { process: self.process, ms: Instant::of_now().ms() }
    }

    /// A leader sends a moment back, and vouches for an index.
    pub(crate) fn vouched(&self, echo: v1::Moment, index: u64) {
        if echo.process != self.process {
            return;
        }
        let heard = Freshness { index, as_of: Instant::of_ms(echo.ms).min(Instant::of_now()) };
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if newest.is_none_or(|known| known.as_of <= heard.as_of) {
            *newest = Some(heard);
        }
    }

    fn newest(&self) -> Option<Freshness> {
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Replica {
    /// The term in which it leads, if nobody else can lead in a newer one yet: a quorum answered so recently that its members still keep
    /// the lease of this leader, which did not ask anybody to take over in its term (Raft's lease read, Ongaro 2014, 6.4.1). It rests
    /// on clocks that count the same milliseconds and are not stopped: no round trip is made for it.
    pub fn surely_leads_in(&self) -> Option<u64> {
        self.0.lead.sure_term()
    }

    /// The newest state of which is known how old it is at most. `None`: nothing is known, as after a start.
    pub fn freshness(&self) -> Option<Freshness> {
        let as_of = Instant::of_now();
        let leads = self.0.lead.vouches().map(|index| Freshness { index, as_of });
        leads.or_else(|| self.0.heard.newest())
    }
}
