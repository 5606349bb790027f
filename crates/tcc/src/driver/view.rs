//! What people see of unfinished transactions: one by its id, or pages of those that a filter selects.

use escrow_types::{AccountKey, Epoch, Millis, ParticipantId, Sequence, TransactionKey};

use super::flight::{Branch, BranchState, Flight, Phase};
use super::{Driver, LinkState};
use crate::machine::{Live, Older, Row};

/// One branch, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BranchView {
    /// Whose.
    pub participant: ParticipantId,
    /// What is known.
    pub state: BranchState,
    /// Failed attempts of the current phase.
    pub attempts: u32,
    /// What the last one ended with.
    pub last_error: Box<str>,
    /// 0 for none.
    pub last_attempt_ms: Millis,
    /// 0 for none.
    pub next_attempt_ms: Millis,
}

/// One unfinished transaction, for people.
#[derive(Debug, Clone)]
pub struct View<'a> {
    /// Its epoch.
    pub epoch: Epoch,
    /// Its sequence.
    pub sequence: Sequence,
    /// What the log knows of it.
    pub live: &'a Live,
    /// How far it is.
    pub phase: Phase,
    /// Two-step: all branches reserved, the caller decides.
    pub is_reserved: bool,
    /// Begun, not finished, and old, left over by a crash, or with a failing branch.
    pub in_doubt: bool,
    /// Its branches.
    pub branches: Vec<BranchView>,
}

/// Which transactions to show. Everything given must hold.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only those in doubt.
    pub in_doubt: bool,
    /// Only with a branch on this participant.
    pub participant: Option<ParticipantId>,
    /// Only begun at least this long ago, in milliseconds.
    pub older_than_ms: Millis,
    /// Only with a branch that failed at least this often.
    pub min_attempts: u32,
    /// Only with a leg on this account.
    pub account: Option<AccountKey>,
}

impl Driver {
    /// Where a transaction is, by its caller's id: unfinished here, ended in memory, or ended and handed over.
    pub fn find(&self, older: &dyn Older, key: TransactionKey) -> Option<Row> {
        self.machine.remembered().get(key).copied().or_else(|| older.find(key))
    }

    /// One unfinished transaction, once its Begin is applied.
    pub fn view(&self, now_ms: Millis, epoch: Epoch, sequence: Sequence) -> Option<View<'_>> {
        let flight = self.flights.get(epoch, sequence)?;
        let live = self.machine.live().get(epoch, sequence)?;
        let branches: Vec<BranchView> = flight
            .branches
            .as_slice()
            .iter()
            .map(|branch| self.branch_view(epoch, sequence, *branch))
            .collect();
        let failing = branches.iter().any(|branch| branch.attempts > 0);
        let old = now_ms.saturating_sub(live.begun_ms) >= self.config.in_doubt_after_ms;
        // A reservation that its caller holds within its time is not in doubt.
        let held = flight.two_step && flight.is_all_reserved() && now_ms < live.deadline_ms;
        let in_doubt = flight.attention || failing || ((old || flight.left_over) && !held);
        Some(View {
            epoch,
            sequence,
            live,
            phase: flight.phase,
            is_reserved: flight.two_step && flight.is_all_reserved(),
            in_doubt,
            branches,
        })
    }

    fn branch_view(&self, epoch: Epoch, sequence: Sequence, branch: Branch) -> BranchView {
        let participant = branch.participant;
        let mut view = BranchView {
            participant,
            state: branch.state,
            attempts: 0,
            last_error: "".into(),
            last_attempt_ms: 0,
            next_attempt_ms: 0,
        };
        if !matches!(branch.state, BranchState::Trying | BranchState::Ending) {
            return view;
        }
        if let Some(trouble) = self.troubles.get(&(epoch, sequence, participant)) {
            view.attempts = trouble.attempts;
            view.last_error = trouble.last_error.clone();
            view.last_attempt_ms = trouble.last_attempt_ms;
            view.next_attempt_ms = trouble.next_attempt_ms;
        } else {
            match self.links.get(participant) {
                None => view.last_error = "the participant is not configured".into(),
                // All branches of a wallet shard share its one connection, and its failures.
                Some(link) if link.state != LinkState::Ready => {
                    view.attempts = link.attempts;
                    view.last_error = link.last_error.clone();
                    view.last_attempt_ms = link.last_attempt_ms;
                    view.next_attempt_ms = link.next_attempt_ms;
                }
                Some(link) if link.stalled => {
                    view.attempts = 1;
                    view.last_error = "connected, but it does not answer".into();
                    view.last_attempt_ms = link.last_answer_ms;
                }
                Some(_) => {}
            }
        }
        view
    }

    /// Unfinished transactions that a filter selects, oldest first, after a position.
    pub fn select<'a>(
        &'a self,
        now_ms: Millis,
        filter: &'a Filter,
        after: Option<(Epoch, Sequence)>,
    ) -> impl Iterator<Item = View<'a>> + 'a {
        let rows = self.flights.iter_after(after);
        rows.filter_map(move |(epoch, sequence, flight)| {
            self.may_match(now_ms, filter, epoch, sequence, flight)
                .then(|| self.view(now_ms, epoch, sequence))
                .flatten()
                .filter(|view| matches(filter, view))
        })
    }

    /// The cheap part of a filter: most transactions of a busy server are young and healthy.
    fn may_match(
        &self,
        now_ms: Millis,
        filter: &Filter,
        epoch: Epoch,
        sequence: Sequence,
        flight: &Flight,
    ) -> bool {
        let branches = flight.branches.as_slice();
        let mentions = |participant| branches.iter().any(|branch| branch.participant == participant);
        if filter.participant.is_some_and(|participant| !mentions(participant)) {
            return false;
        }
        let Some(live) = self.machine.live().get(epoch, sequence) else { return false };
        if now_ms.saturating_sub(live.begun_ms) < filter.older_than_ms {
            return false;
        }
        let account = |wanted| live.content.legs().iter().any(|leg| leg.account == wanted);
        filter.account.is_none_or(account)
    }
}

fn matches(filter: &Filter, view: &View<'_>) -> bool {
    let attempts = view.branches.iter().map(|branch| branch.attempts).max().unwrap_or(0);
    (!filter.in_doubt || view.in_doubt) && attempts >= filter.min_attempts
}
