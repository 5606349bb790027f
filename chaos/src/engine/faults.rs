//! Remembers what was done to the cluster, and what went wrong besides.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use escrow_cluster::NodeId;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;

use super::Event;
use super::recovery::Recovery;
use super::stale::Answers;
use crate::record::Fault;

/// All faults of a run. Its methods may be called from many tasks.
#[derive(Debug)]
pub(super) struct FaultLog {
    begun: Instant,
    tell: UnboundedSender<Event>,
    faults: Mutex<Vec<Fault>>,
    troubles: Mutex<Vec<String>>,
    missed: Mutex<Vec<String>>,
    /// What leaders answered that were paused or cut off; `None` while none was asked.
    probed: Mutex<Option<Answers>>,
    kills: AtomicU64,
    /// Faults that last.
    active: AtomicUsize,
    /// Faults that have begun so far.
    count: AtomicUsize,
}

/// One fault, by its place in the list.
#[derive(Debug, Clone, Copy)]
pub(super) struct FaultId(usize);

impl FaultLog {
    pub(super) fn new(begun: Instant, tell: UnboundedSender<Event>) -> Self {
        Self {
            begun,
            tell,
            faults: Mutex::default(),
            troubles: Mutex::default(),
            missed: Mutex::default(),
            probed: Mutex::default(),
            kills: AtomicU64::new(0),
            active: AtomicUsize::new(0),
            count: AtomicUsize::new(0),
        }
    }

    fn faults(&self) -> MutexGuard<'_, Vec<Fault>> {
        self.faults.lock().expect("nothing panics while it is held")
    }

    fn ms(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.begun).as_millis() as u64
    }

    fn tell(&self, text: String) {
        // Nobody may be listening.
        let _ = self.tell.send(Event::Fault(self.ms(Instant::now()), text));
    }

    /// A fault strikes now.
    pub(super) fn begin(&self, what: impl Into<String>, target: &str) -> FaultId {
        let what = what.into();
        self.tell(format!("{target}: {what}"));
        self.active.fetch_add(1, Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
        let mut faults = self.faults();
        let begun_ms = self.ms(Instant::now());
        faults.push(Fault { begun_ms, what, target: target.to_owned(), ..Fault::default() });
        FaultId(faults.len() - 1)
    }

    /// A group loses its leader now.
    pub(super) fn begin_loss(&self, what: &str, leader: NodeId) -> FaultId {
        let fault = self.begin(what, &leader.to_string());
        self.faults()[fault.0].leader_of = Some(leader.group().to_string());
        fault
    }

    /// The group that lost its leader serves again, so long after that.
    pub(super) fn served_again(&self, fault: FaultId, after: Duration) {
        let ms = after.as_secs_f64() * 1e3;
        let mut faults = self.faults();
        let fault = &mut faults[fault.0];
        fault.unavailable_ms = Some(ms);
        let text = format!("{} serves again after {ms:.0} ms", fault.leader_of.as_deref().unwrap_or("it"));
        drop(faults);
        self.tell(text);
    }

    /// What a leader answered when it went on after a pause.
    pub(super) fn probed(&self, leader: NodeId, answers: Answers) {
        let Answers { current, refused, stale } = &answers;
        self.tell(format!(
            "{leader} goes on: {refused} questions refused, {current} answered, {} of them out of its past",
            stale.len()
        ));
        self.probed.lock().expect("nothing panics while it is held").get_or_insert_default().add(answers);
    }

    /// What all of them answered; `None` if none was asked.
    pub(super) fn all_probed(&self) -> Option<Answers> {
        self.probed.lock().expect("nothing panics while it is held").clone()
    }

    /// Something that is good to know.
    pub(super) fn note(&self, what: &str) {
        self.tell(what.to_owned());
    }

    /// Its cause is gone. Gives whether no other fault lasts now.
    pub(super) fn end(&self, fault: FaultId, at: Instant) -> bool {
        let ended_ms = self.ms(at);
        self.faults()[fault.0].ended_ms = Some(ended_ms);
        self.active.fetch_sub(1, Ordering::Relaxed) == 1
    }

    /// How many faults have begun so far.
    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// What was measured after it ended.
    pub(super) fn recovered(&self, fault: FaultId, recovery: &Recovery) {
        let mut faults = self.faults();
        let fault = &mut faults[fault.0];
        fault.is_recovery_measured = true;
        fault.in_doubt_at_return = recovery.in_doubt_at_return;
        fault.first_resolution_ms = recovery.first_resolution_ms;
        fault.drained_ms = recovery.drained_ms;
        let text = format!("{}: back, {recovery}", fault.target);
        drop(faults);
        self.tell(text);
    }

    /// A process was killed.
    pub(super) fn killed(&self) {
        self.kills.fetch_add(1, Ordering::Relaxed);
    }

    /// Something that must not be: a process that ended by itself, or does not start again.
    pub(super) fn trouble(&self, what: String) {
        self.tell(format!("TROUBLE: {what}"));
        self.troubles.lock().expect("nothing panics while it is held").push(what);
    }

    /// A failpoint that nobody came by.
    pub(super) fn missed(&self, failpoint: &str) {
        self.tell(format!("{failpoint} was not reached"));
        self.missed.lock().expect("nothing panics while it is held").push(failpoint.to_owned());
    }

    pub(super) fn troubles(&self) -> Vec<String> {
        self.troubles.lock().expect("nothing panics while it is held").clone()
    }

    pub(super) fn missed_failpoints(&self) -> Vec<String> {
        self.missed.lock().expect("nothing panics while it is held").clone()
    }

    /// All faults in the order of their beginning, and how many processes were killed.
    pub(super) fn take(&self) -> (Vec<Fault>, u64) {
        let mut faults = std::mem::take(&mut *self.faults());
        faults.sort_by_key(|fault| fault.begun_ms);
        (faults, self.kills.load(Ordering::Relaxed))
    }
}
