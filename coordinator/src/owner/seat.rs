//! The owner of a replica: what is different when entries go to a group and come back when a quorum has them.
//!
//! While its replica leads, commands are proposed in its term, which is the epoch; the owner serves when the entry that opens the epoch has come back:
//! then its view of the log is complete, and links may say hello. What it proposed comes back in order, or not at all. When it does
//! not lead any more, everything volatile is forgotten, and whoever waits is left without an answer: the transaction goes on
//! under the next leader.
//!
//! **Invariant:** nothing leaves but while it serves, and nothing that is caused by an entry before that is committed.

use std::collections::VecDeque;
use std::path::PathBuf;

use escrow_journal::Index;
use escrow_replica::{Committed, Fed, Feed, Position, Replica, Standing};
use escrow_tcc::Entry;
use escrow_types::{Epoch, Reason};
use tokio::sync::{oneshot, watch};

use super::mailbox::With;
use super::{Owner, turn};
use crate::error::CoordinatorError;

/// Whether the partition is led here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Serving {
    /// The term in which it is; `None`: it is not.
    pub(crate) term: Option<u64>,
    /// Who leads, if that is known and another.
    pub(crate) leader: Option<String>,
}

/// Work with the files of checkpoints, which only one job may have at a time.
pub(super) enum Errand {
    /// Of a checkpoint that includes an entry; 0: of the newest there is.
    Export {
        path: PathBuf,
        includes: u64,
        told: oneshot::Sender<Result<Position, String>>,
    },
    Install {
        path: PathBuf,
        position: Position,
        told: oneshot::Sender<Result<(), String>>,
    },
}

impl Errand {
    /// What must be in the checkpoint that it is about.
    pub(super) const fn includes(&self) -> u64 {
        match self {
            Self::Export { includes, .. } => *includes,
            Self::Install { .. } => 0,
        }
    }
}

/// What an owner has of its group.
pub(crate) struct Seat {
    replica: Replica,
    feed: Feed,
    standing: watch::Receiver<Standing>,
    pub(super) position: Position,
    serving: watch::Sender<Serving>,
    /// The term in which it proposes.
    leads: Option<u64>,
    pub(super) errands: VecDeque<Errand>,
    /// Proposals so far, and those that have come back: they stand for indexes of a journal.
    proposed: u64,
    returned: u64,
    reads: Vec<(u64, With)>,
    /// What was applied, for whoever watches: a simulation.
    watched: Option<Vec<Committed>>,
}

impl Seat {
    /// Goes on from a position.
    pub(crate) fn new(replica: Replica, feed: Feed, position: Position) -> Self {
        let (standing, serving) = (replica.standing(), watch::Sender::default());
        Self {
            replica,
            feed,
            standing,
            position,
            serving,
            leads: None,
            errands: VecDeque::new(),
            proposed: 0,
            returned: 0,
            reads: Vec::new(),
            watched: None,
        }
    }

    /// The replica.
    pub(crate) fn replica(&self) -> &Replica {
        &self.replica
    }

    /// For whoever wants to know whether the partition is led here.
    pub(crate) fn serving(&self) -> watch::Receiver<Serving> {
        self.serving.subscribe()
    }

    fn tell(&self, term: Option<u64>) {
        let leader = if term.is_some() { None } else { self.replica.not_leader().leader };
        let now = Serving { term, leader };
        self.serving.send_if_modified(|told| {
            let changed = *told != now;
            *told = now;
            changed
        });
    }
}

/// Something has happened to a seat.
pub(super) enum Event {
    Fed(Option<Fed>),
    Standing,
}

/// The next event of a seat; never one without replication. Safe to cancel.
pub(super) async fn next(seat: Option<&mut Seat>) -> Event {
    let Some(seat) = seat else { return std::future::pending().await };
    tokio::select! {
        biased;
        fed = seat.feed.recv() => Event::Fed(fed),
        Ok(()) = seat.standing.changed() => Event::Standing,
    }
}

impl Owner {
    /// Whether this coordinator leads its partition, with a complete view of the log.
    pub(crate) fn serves(&self) -> bool {
        self.seat.as_ref().is_none_or(|seat| seat.serving.borrow().term.is_some())
    }

    /// The term in which it does, if it is a replica.
    pub(crate) fn serving_term(&self) -> Option<u64> {
        self.seat.as_ref().and_then(|seat| seat.serving.borrow().term)
    }

    /// Whether it is one of several.
    pub(crate) fn is_replica(&self) -> bool {
        self.seat.is_some()
    }

    /// The reason that a caller may be told for a refusal. Some refusals say that a transaction did not begin because nothing is
    /// remembered under its id: a leader that was replaced and has not heard of it does not know what its successor
    /// has done, and must send the caller there.
    pub(super) fn vouched(&self, reason: Reason) -> Reason {
        let as_if_new = matches!(
            reason,
            Reason::Overloaded
                | Reason::ParticipantUnavailable
                | Reason::Paused
                | Reason::ShuttingDown
                | Reason::TransactionIdExpired
        );
        // In the term of which its memory is: meanwhile it may have been deposed and chosen again.
        let is_sure = |seat: &Seat| seat.leads.is_some() && seat.replica.surely_leads_in() == seat.leads;
        if as_if_new && !self.seat.as_ref().is_none_or(is_sure) { Reason::NotLeader } else { reason }
    }

    /// What was applied since this was called last.
    pub(crate) fn take_applied(&mut self) -> Vec<Committed> {
        self.seat.as_mut().map_or_else(Vec::new, |seat| seat.watched.replace(Vec::new()).unwrap_or_default())
    }

    /// Takes an event, and what else has come by now.
    pub(super) fn take(&mut self, event: Event) -> Result<(), CoordinatorError> {
        match event {
            Event::Standing => self.stand()?,
            Event::Fed(Some(fed)) => self.feed(fed)?,
            Event::Fed(None) => return Err(stopped("its owner was forgotten")),
        }
        self.take_all()
    }

    /// Takes everything that has come.
    pub(crate) fn take_all(&mut self) -> Result<(), CoordinatorError> {
        /// Entries applied in one go, and their bytes: a turn is due between, and heartbeats.
        const FED_MAX: usize = 256;
        const FED_BYTES_MAX: usize = 4 << 20;
        let mut bytes = 0;
        for _ in 0..FED_MAX {
            let Some(seat) = &mut self.seat else { return Ok(()) };
            if bytes >= FED_BYTES_MAX {
                return Ok(());
            }
            if let Ok(fed) = seat.feed.try_recv() {
                bytes += fed.bytes();
                self.feed(fed)?;
            } else if seat.standing.has_changed().unwrap_or(false) {
                self.stand()?;
            } else {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Whether anything of that has come.
    pub(super) fn is_fed(&self) -> bool {
        let has_come = |seat: &Seat| !seat.feed.is_empty() || seat.standing.has_changed().unwrap_or(false);
        self.seat.as_ref().is_some_and(has_come)
    }

    /// Begins to lead, or ends.
    fn stand(&mut self) -> Result<(), CoordinatorError> {
        let seat = self.seat.as_mut().expect("whoever stands has a seat");
        let standing = seat.standing.borrow_and_update().clone();
        let leads = standing.leads.then_some(standing.term);
        if leads == seat.leads {
            if leads.is_none() {
                seat.tell(None);
            }
            return Ok(());
        }
        self.step_down();
        let Some(term) = leads else { return Ok(()) };
        let epoch = u32::try_from(term).map(Epoch).map_err(|_| stopped("its terms have run out"))?;
        if epoch <= self.driver.machine().epoch() {
            // The news that it leads was overtaken by an entry of the next leader.
            return Ok(());
        }
        tracing::info!(partition = self.config.partition, term, "leading");
        self.seat.as_mut().expect("just seen").leads = Some(term);
        let opening = self.driver.open_epoch_as(epoch);
        let entry = Entry { time_ms: self.now(), commands: vec![opening] };
        self.propose(term, entry);
        Ok(())
    }

    /// Does not lead any more: everything volatile is forgotten, and whoever waits is left without an answer.
    pub(super) fn step_down(&mut self) {
        let Some(seat) = &mut self.seat else { return };
        if let Some(term) = seat.leads.take() {
            tracing::info!(partition = self.config.partition, term, "leading no more");
        }
        seat.tell(None);
        seat.reads.clear();
        // What a backup is to include may never come here.
        seat.errands.retain(|errand| errand.includes() == 0);
        seat.returned = seat.proposed;
        self.pending.clear();
        self.barriers.clear();
        self.callers.abandon();
        self.links.clear();
        self.driver.step_down();
    }

    /// A participant has seen a newer epoch than ours.
    pub(super) fn deposed(&mut self) -> Result<(), CoordinatorError> {
        let Some(seat) = &self.seat else {
            return Err(CoordinatorError::Deposed(self.config.partition));
        };
        // The group says so in a moment, or is made to.
        if let Some(term) = seat.leads {
            seat.replica.give_up(term);
        }
        self.step_down();
        Ok(())
    }

    /// Proposes an entry of this leader.
    pub(super) fn propose(&mut self, term: u64, entry: Entry) {
        let seat = self.seat.as_mut().expect("whoever proposes has a seat");
        let mut payload = Vec::new();
        entry.encode_into(&mut payload);
        seat.replica.propose(term, payload);
        seat.proposed += 1;
        self.pending.push_back((Index(seat.proposed), entry));
    }

    fn feed(&mut self, fed: Fed) -> Result<(), CoordinatorError> {
        match fed {
            Fed::Committed(entry) => self.commit(&entry),
            Fed::Export { path, includes, done } => {
                self.send_on(Errand::Export { path, includes, told: done });
                Ok(())
            }
            Fed::Install { position, path, done } => {
                self.send_on(Errand::Install { path, position, told: done });
                Ok(())
            }
            Fed::Stopped(why) => Err(stopped(&why)),
        }
    }

    fn send_on(&mut self, errand: Errand) {
        self.seat.as_mut().expect("just fed").errands.push_back(errand);
        self.work_beside();
    }

    fn commit(&mut self, entry: &Committed) -> Result<(), CoordinatorError> {
        let seat = self.seat.as_mut().expect("just fed");
        if seat.leads.is_some_and(|term| entry.term() > term) {
            // Another leads; the news of that is on its way.
            self.step_down();
        }
        let seat = self.seat.as_mut().expect("just seen");
        seat.position.follow(entry);
        self.applied = entry.index();
        if let Some(watched) = &mut seat.watched {
            watched.push(entry.clone());
        }
        let is_own = seat.leads == Some(entry.term());
        if let Some(commands) = &entry.commands {
            if is_own {
                self.apply_own(entry.term());
            } else {
                let index = entry.index();
                let decoded = Entry::decode(commands)
                    .map_err(|error| CoordinatorError::Entry { index, why: error.to_string() })?;
                self.driver.follow(&decoded);
            }
        }
        self.answer_reads();
        self.work_beside();
        Ok(())
    }

    /// What this leader proposed comes back in the order in which it was proposed.
    fn apply_own(&mut self, term: u64) {
        let (at, entry) = self.pending.pop_front().expect("a leader proposed what comes back in its term");
        turn::die_before_applied(&entry);
        self.stages.durable(&entry);
        self.driver.applied(&entry);
        let seat = self.seat.as_mut().expect("a leader has a seat");
        seat.returned = at.get();
        if seat.serving.borrow().term != Some(term) {
            // The first of its term: the view of the log is complete.
            self.driver.recover();
            self.seat.as_ref().expect("just seen").tell(Some(term));
        }
    }

    /// Runs `with` when an index is applied, if this replica leads then.
    pub(super) fn read_at(&mut self, index: u64, with: With) {
        if !self.serves() {
            return;
        }
        if index <= self.applied {
            with(self);
        } else if let Some(seat) = &mut self.seat {
            seat.reads.push((index, with));
        }
    }

    fn answer_reads(&mut self) {
        let applied = self.applied;
        let seat = self.seat.as_mut().expect("just fed");
        if seat.reads.is_empty() {
            return;
        }
        let ready: Vec<_> = seat.reads.extract_if(.., |(index, _)| *index <= applied).collect();
        for (_, with) in ready {
            with(self);
        }
    }

    /// How far the log has come that this owner appends to, as its pending entries count: the journal's indexes, or proposals.
    pub(super) fn settled(&self) -> u64 {
        self.seat.as_ref().map_or(self.applied, |seat| seat.returned)
    }
}

fn stopped(why: &str) -> CoordinatorError {
    escrow_replica::ReplicaError::Raft(why.to_owned()).into()
}
