//! The owner of a replica: what is different when entries go to a group and come back when a quorum has them.
//!
//! While its replica leads, commands are proposed in its term; the owner serves when an entry of its own, the first of the term, has come back: then
//! everything before it is applied. What it proposed comes back in order, or not at all. When it does not lead any more, whoever waits
//! is told nothing: the command may still be carried out, and is asked for again elsewhere.
//!
//! **Invariant:** nothing is answered before it is committed; no command is taken before the owner serves.

use std::path::PathBuf;

use bytes::Bytes;
use escrow_replica::{Committed, Fed, Feed, Position, Replica, Standing};
use escrow_wallet::{Entry, Wallet};
use tokio::sync::{oneshot, watch};

use super::{Owner, Pending};
use crate::error::ParticipantError;
use crate::recovery::apply;
use crate::store::Held;

/// Whether a shard is served here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Serving {
    /// The term in which it is; `None`: it is not.
    pub(crate) term: Option<u64>,
    /// Who leads, if that is known and another.
    pub(crate) leader: Option<String>,
}

/// A snapshot that is being installed.
struct Installing {
    held: oneshot::Receiver<Result<Held, ParticipantError>>,
    done: oneshot::Sender<Result<(), String>>,
}

/// A snapshot that is asked for.
pub(super) struct Export {
    path: PathBuf,
    includes: u64,
    done: oneshot::Sender<Result<Position, String>>,
}

/// What an owner has of its group.
pub(crate) struct Seat {
    pub(super) replica: Replica,
    feed: Feed,
    standing: watch::Receiver<Standing>,
    pub(super) position: Position,
    serving: watch::Sender<Serving>,
    /// The term in which it proposes.
    leads: Option<u64>,
    installing: Option<Installing>,
    /// What was applied, for whoever watches: a simulation.
    watched: Option<Vec<Committed>>,
}

impl Seat {
    /// Goes on from a position.
    pub(crate) fn new(replica: Replica, feed: Feed, position: Position) -> Self {
        let (standing, serving) = (replica.standing(), watch::Sender::default());
        Self { replica, feed, standing, position, serving, leads: None, installing: None, watched: None }
    }

    /// For whoever wants to know whether the shard is served here.
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
    Installed(Box<Result<Held, ParticipantError>>),
}

/// The next event of a seat; never one without replication. Safe to cancel.
pub(super) async fn next(seat: Option<&mut Seat>) -> Event {
    let Some(seat) = seat else { return std::future::pending().await };
    tokio::select! {
        biased;
        held = installed(seat.installing.as_mut()) => Event::Installed(Box::new(held)),
        fed = seat.feed.recv() => Event::Fed(fed),
        Ok(()) = seat.standing.changed() => Event::Standing,
    }
}

async fn installed(installing: Option<&mut Installing>) -> Result<Held, ParticipantError> {
    match installing {
        Some(installing) => {
            (&mut installing.held).await.unwrap_or(Err(ParticipantError::Ended("the checkpoint thread")))
        }
        None => std::future::pending().await,
    }
}

impl Owner {
    /// Takes an event, and what else has come by now.
    pub(super) fn take(&mut self, event: Event) -> Result<(), ParticipantError> {
        /// Entries applied in one go, and their bytes: others are due between, and heartbeats.
        const FED_MAX: usize = 256;
        const FED_BYTES_MAX: usize = 4 << 20;
        match event {
            Event::Standing => {
                self.stand();
                Ok(())
            }
            Event::Installed(held) => self.installed(*held),
            Event::Fed(None) => Err(ParticipantError::Ended("replication")),
            Event::Fed(Some(first)) => {
                let mut bytes = first.bytes();
                self.feed(first)?;
                for _ in 0..FED_MAX {
                    let seat = self.seat.as_mut().expect("whoever is fed has a seat");
                    let Ok(fed) = seat.feed.try_recv() else { break };
                    bytes += fed.bytes();
                    self.feed(fed)?;
                    if bytes >= FED_BYTES_MAX {
                        break;
                    }
                }
                Ok(())
            }
        }
    }

    /// Takes everything that has come: for simulations.
    pub(super) fn take_all(&mut self) -> Result<(), ParticipantError> {
        loop {
            let Some(seat) = &mut self.seat else { return Ok(()) };
            let installed = seat.installing.as_mut().and_then(|installing| installing.held.try_recv().ok());
            if let Some(held) = installed {
                self.installed(held)?;
            } else if let Ok(fed) = seat.feed.try_recv() {
                self.feed(fed)?;
            } else if seat.standing.has_changed().unwrap_or(false) {
                self.stand();
            } else {
                return Ok(());
            }
        }
    }

    /// Whether anything of that has come.
    pub(super) fn is_fed(&self) -> bool {
        self.seat.as_ref().is_some_and(|seat| {
            let installed = seat.installing.as_ref().is_some_and(|installing| !installing.held.is_empty());
            installed || !seat.feed.is_empty() || seat.standing.has_changed().unwrap_or(false)
        })
    }

    /// Begins to lead, or ends.
    fn stand(&mut self) {
        let seat = self.seat.as_mut().expect("whoever stands has a seat");
        let standing = seat.standing.borrow_and_update().clone();
        let leads = standing.leads.then_some(standing.term);
        if leads == seat.leads {
            if leads.is_none() {
                seat.tell(None);
            }
            return;
        }
        self.step_down();
        let Some(term) = leads else { return };
        let seat = self.seat.as_mut().expect("just seen");
        tracing::info!(shard = self.start.shard, term, "leading");
        seat.leads = Some(term);
        // An entry without commands, to hear when everything before it is applied.
        let time_ms = (self.start.clock)();
        let mut opening = Vec::new();
        Entry::begin(time_ms, &mut opening);
        seat.replica.propose(term, opening);
        self.pending.push_back(Pending { index: 0, time_ms, submissions: Vec::new() });
    }

    /// Whether the state is about to be replaced: what it is now must not be written over that.
    pub(super) fn is_installing(&self) -> bool {
        self.seat.as_ref().is_some_and(|seat| seat.installing.is_some())
    }

    /// The term in which the shard is served here, if it is replicated.
    pub(crate) fn serves(&self) -> Option<u64> {
        self.seat.as_ref().and_then(|seat| seat.serving.borrow().term)
    }

    /// What was applied since this was called last.
    pub(crate) fn take_applied(&mut self) -> Vec<Committed> {
        self.seat.as_mut().map_or_else(Vec::new, |seat| seat.watched.replace(Vec::new()).unwrap_or_default())
    }

    /// Does not lead any more: whoever waits is left without an answer.
    pub(super) fn step_down(&mut self) {
        let Some(seat) = &mut self.seat else { return };
        if let Some(term) = seat.leads.take() {
            tracing::info!(shard = self.start.shard, term, waiting = self.pending.len(), "leading no more");
        }
        seat.tell(None);
        self.pending.clear();
        self.reads.clear();
        // What a backup is to include may never come here.
        self.exports.retain(|export| export.includes == 0);
    }

    /// Proposes an entry; false when this replica does not lead.
    pub(super) fn propose(&mut self, payload: Vec<u8>) -> bool {
        let seat = self.seat.as_ref().expect("whoever proposes has a seat");
        let serves = seat.serving.borrow().term;
        let Some(term) = serves else { return false };
        seat.replica.propose(term, payload);
        true
    }

    fn feed(&mut self, fed: Fed) -> Result<(), ParticipantError> {
        match fed {
            Fed::Committed(entry) => self.commit(&entry),
            Fed::Export { path, includes, done } => {
                self.exports.push(Export { path, includes, done });
                self.export_ready();
                Ok(())
            }
            Fed::Install { position, path, done } => {
                // What is being copied is of a state that will be replaced.
                self.copying = None;
                let held = self.start.checkpointer.install(self.start.shard, path, position.encode());
                self.seat.as_mut().expect("just fed").installing = Some(Installing { held, done });
                Ok(())
            }
            Fed::Stopped(why) => Err(escrow_replica::ReplicaError::Raft(why).into()),
        }
    }

    /// Has snapshots made that can be: files and checkpoints are written in the order in which they are asked for, so a file that
    /// is asked for now is of a checkpoint that was handed over and is being written.
    pub(super) fn export_ready(&mut self) {
        if self.exports.is_empty() {
            return;
        }
        let (applied, checkpointed) = (self.start.applied, self.start.checkpointed);
        let is_newer = |export: &Export| (checkpointed + 1..=applied).contains(&export.includes);
        if !self.is_checkpointing() && self.exports.iter().any(is_newer) {
            self.start_checkpoint();
        }
        let running = self.checkpoint_running.as_ref().and_then(|running| running.position.as_ref());
        let included = running.map_or(0, Position::index).max(checkpointed);
        let ready: Vec<Export> = self.exports.extract_if(.., |export| export.includes <= included).collect();
        for Export { path, done, .. } in ready {
            let tell = move |exported: Result<Vec<u8>, ParticipantError>| {
                let exported = exported.map_err(|error| error.to_string());
                let position = exported
                    .and_then(|position| Position::decode(&position).map_err(|error| error.to_string()));
                // Whoever wanted it may have gone meanwhile.
                let _ = done.send(position);
            };
            self.start.checkpointer.export(self.start.shard, path, Box::new(tell));
        }
    }

    fn commit(&mut self, entry: &Committed) -> Result<(), ParticipantError> {
        let seat = self.seat.as_mut().expect("just fed");
        if seat.leads.is_some_and(|term| entry.term() > term) {
            // Another leads; the news of that is on its way.
            self.step_down();
        }
        let seat = self.seat.as_mut().expect("just seen");
        seat.position.follow(entry);
        if let Some(watched) = &mut seat.watched {
            watched.push(entry.clone());
        }
        let is_own = seat.leads == Some(entry.term());
        self.start.applied = entry.index();
        self.reached.set(entry.index());
        if let Some(commands) = &entry.commands {
            self.due.logged(commands.len() as u64);
            if is_own {
                self.apply_own(entry.term());
            } else {
                self.apply_others(entry.index(), commands)?;
            }
        }
        self.answer_reads();
        self.export_ready();
        Ok(())
    }

    /// What this leader proposed comes back in the order in which it was proposed.
    fn apply_own(&mut self, term: u64) {
        let entry = self.pending.pop_front().expect("a leader proposed what comes back in its term");
        if entry.submissions.is_empty() {
            self.seat.as_ref().expect("a leader has a seat").tell(Some(term));
        }
        self.apply(entry);
    }

    fn apply_others(&mut self, index: u64, commands: &Bytes) -> Result<(), ParticipantError> {
        apply(&mut self.start.wallet, commands).map_err(|why| ParticipantError::Entry { index, why })
    }

    fn installed(&mut self, held: Result<Held, ParticipantError>) -> Result<(), ParticipantError> {
        let seat = self.seat.as_mut().expect("whoever installs has a seat");
        let Installing { done, .. } = seat.installing.take().expect("just installed");
        let Held { wallet, applied, position } = held?;
        let path = std::path::PathBuf::from("the view");
        let wrong = |error| ParticipantError::Snapshot { path, why: format!("{error}") };
        seat.position = Position::decode(&position).map_err(wrong)?;
        self.replace_wallet(wallet, applied);
        // Raft may have been shut down meanwhile.
        let _ = done.send(Ok(()));
        Ok(())
    }

    fn replace_wallet(&mut self, wallet: Wallet, applied: u64) {
        self.start.wallet = wallet;
        self.start.applied = applied;
        self.reached.set(applied);
        self.start.checkpointed = applied;
        self.due.restart();
        self.answer_reads();
    }

    /// Answers the reads that waited for what is applied now.
    pub(super) fn answer_reads(&mut self) {
        for read in self.reads.due(self.start.applied) {
            read.answer(&self.view());
        }
    }
}
