//! Messages of this turn, gathered into columns per participant.

use escrow_types::{AccountKey, Amount, Epoch, Millis, ParticipantId, Sequence};

/// Legs to try, as columns; rows of one branch are neighbours.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TryColumns {
    /// The epoch of the xids.
    pub epoch: Epoch,
    /// When the participant may begin to ask; the latest of all rows.
    pub deadline_ms: Millis,
    /// One a leg.
    pub sequences: Vec<Sequence>,
    /// High halves of the account keys.
    pub account_high: Vec<u64>,
    /// Low halves of the account keys.
    pub account_low: Vec<u64>,
    /// Minor units.
    pub amounts: Vec<Amount>,
    /// Two bytes a leg, little endian: see [`crate::content::kind`].
    pub kinds: Vec<u8>,
}

impl TryColumns {
    fn with_capacity(epoch: Epoch, rows: usize) -> Self {
        // What a vector begins with that grows by itself.
        let rows = rows.clamp(4, ROWS_MAX);
        Self {
            epoch,
            deadline_ms: 0,
            sequences: Vec::with_capacity(rows),
            account_high: Vec::with_capacity(rows),
            account_low: Vec::with_capacity(rows),
            amounts: Vec::with_capacity(rows),
            kinds: Vec::with_capacity(2 * rows),
        }
    }

    pub(super) fn push(&mut self, sequence: Sequence, account: AccountKey, amount: Amount, kind: u16) {
        let (high, low) = account.halves();
        self.sequences.push(sequence);
        self.account_high.push(high);
        self.account_low.push(low);
        self.amounts.push(amount);
        self.kinds.extend_from_slice(&kind.to_le_bytes());
    }
}

/// Branches to confirm, cancel or fence, as columns.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EndColumns {
    /// The epoch of the xids.
    pub epoch: Epoch,
    /// One a branch.
    pub sequences: Vec<Sequence>,
    /// Only for partial Confirms: the number of legs of each branch.
    pub partial_legs: Vec<u32>,
    /// Only for partial Confirms: the amounts of all legs.
    pub partial_amounts: Vec<Amount>,
}

/// A message on a participant's stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Send {
    /// Reserve.
    Try(TryColumns),
    /// Reserve and post at once.
    TryAndConfirm(TryColumns),
    /// Post.
    Confirm(EndColumns),
    /// Release.
    Cancel(EndColumns),
    /// Let nothing be reserved that is not; answered as a Try.
    Fence(EndColumns),
    /// What may be forgotten.
    Watermark {
        /// Of which epoch.
        epoch: Epoch,
        /// Every sequence below has finished,
        below: Sequence,
        /// but for these.
        except: Vec<Sequence>,
    },
}

/// A unary call to an external participant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// Whom to call.
    pub participant: ParticipantId,
    /// The epoch of the xid.
    pub epoch: Epoch,
    /// The sequence of the xid.
    pub sequence: Sequence,
    /// What to call. The legs are in the machine.
    pub kind: CallKind,
}

/// Which unary call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CallKind {
    /// Reserve.
    Try,
    /// Post.
    Confirm,
    /// Release.
    Cancel,
}

/// Columns of one participant in the making. Few distinct epochs at a time: a linear search is the fastest map.
#[derive(Debug, Default)]
struct Mail {
    tries: Vec<TryColumns>,
    one_phase: Vec<TryColumns>,
    confirms: Vec<EndColumns>,
    cancels: Vec<EndColumns>,
    fences: Vec<EndColumns>,
    watermarks: Vec<Send>,
    /// Whether somebody waits for the end of a branch in `confirms`.
    is_awaited: bool,
    /// How many legs the largest message of the last turn had that tried any: room for as many in the next.
    last_try_rows: usize,
}

/// All columns in the making.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    mails: Vec<(ParticipantId, Mail)>,
}

/// So many Confirms for which nobody waits may rest until something else goes to their participant: more are worth a message.
const RESTING_ROWS_MAX: usize = 64;

impl Mail {
    /// Whether there is nothing in it but a few Confirms for which nobody waits.
    fn may_rest(&self) -> bool {
        let rows: usize = self.confirms.iter().map(|columns| columns.sequences.len()).sum();
        let rest = self.tries.len() + self.one_phase.len() + self.cancels.len() + self.fences.len();
        !self.is_awaited && rest == 0 && self.watermarks.is_empty() && (1..=RESTING_ROWS_MAX).contains(&rows)
    }
}

/// Longer columns are split, so that no message outgrows a frame and a small one never waits long behind it.
const ROWS_MAX: usize = 16_384;

impl Outbox {
    fn mail(&mut self, participant: ParticipantId) -> &mut Mail {
        let at = self.mails.iter().position(|(id, _)| *id == participant).unwrap_or_else(|| {
            self.mails.push((participant, Mail::default()));
            self.mails.len() - 1
        });
        &mut self.mails[at].1
    }

    pub(super) fn tries(
        &mut self,
        participant: ParticipantId,
        epoch: Epoch,
        deadline_ms: Millis,
    ) -> &mut TryColumns {
        let mail = self.mail(participant);
        try_columns(&mut mail.tries, epoch, deadline_ms, mail.last_try_rows)
    }

    pub(super) fn one_phase(
        &mut self,
        participant: ParticipantId,
        epoch: Epoch,
        deadline_ms: Millis,
    ) -> &mut TryColumns {
        let mail = self.mail(participant);
        try_columns(&mut mail.one_phase, epoch, deadline_ms, mail.last_try_rows)
    }

    /// `is_awaited`: whether somebody waits for the end.
    pub(super) fn confirm(
        &mut self,
        participant: ParticipantId,
        epoch: Epoch,
        sequence: Sequence,
        is_awaited: bool,
    ) {
        let mail = self.mail(participant);
        mail.is_awaited |= is_awaited;
        end_columns(&mut mail.confirms, epoch).sequences.push(sequence);
    }

    pub(super) fn confirm_partly(
        &mut self,
        participant: ParticipantId,
        epoch: Epoch,
        sequence: Sequence,
        amounts: Vec<Amount>,
    ) {
        let mail = self.mail(participant);
        mail.is_awaited = true;
        mail.confirms.push(EndColumns {
            epoch,
            sequences: vec![sequence],
            partial_legs: vec![amounts.len() as u32],
            partial_amounts: amounts,
        });
    }

    pub(super) fn cancel(&mut self, participant: ParticipantId, epoch: Epoch, sequence: Sequence) {
        end_columns(&mut self.mail(participant).cancels, epoch).sequences.push(sequence);
    }

    pub(super) fn fence(&mut self, participant: ParticipantId, epoch: Epoch, sequence: Sequence) {
        end_columns(&mut self.mail(participant).fences, epoch).sequences.push(sequence);
    }

    pub(super) fn watermark(&mut self, participant: ParticipantId, watermark: Send) {
        self.mail(participant).watermarks.push(watermark);
    }

    /// Forgets what was meant for a participant: its connection is gone, or is another.
    pub(super) fn forget(&mut self, participant: ParticipantId) {
        *self.mail(participant) = Mail::default();
    }

    /// Whether a branch is in the making already. Rows of one branch are neighbours, so twice in one message it would be a branch
    /// with twice its legs: it would hold, and then post, twice its money. Looks at every row: for what is rare.
    pub(super) fn holds(&self, participant: ParticipantId, epoch: Epoch, sequence: Sequence) -> bool {
        let mail = self.mails.iter().find(|(id, _)| *id == participant);
        mail.is_some_and(|(_, mail)| {
            let tries =
                mail.tries.iter().chain(&mail.one_phase).map(|columns| (columns.epoch, &columns.sequences));
            let ends = mail.confirms.iter().chain(&mail.cancels).chain(&mail.fences);
            let ends = ends.map(|columns| (columns.epoch, &columns.sequences));
            tries.chain(ends).any(|(of, sequences)| of == epoch && sequences.contains(&sequence))
        })
    }

    /// Somebody waits now for the end of a branch whose Confirm may be resting.
    pub(super) fn await_confirms(&mut self, participant: ParticipantId) {
        if let Some((_, mail)) = self.mails.iter_mut().find(|(id, _)| *id == participant) {
            mail.is_awaited |= !mail.confirms.is_empty();
        }
    }

    /// Whether something was left by [`Self::take`] that may rest.
    pub(super) fn rests(&self) -> bool {
        self.mails.iter().any(|(_, mail)| !mail.confirms.is_empty())
    }

    /// What there is for everybody; without what may rest, unless it was `all` asked for.
    pub(super) fn take(&mut self, all: bool) -> Vec<(ParticipantId, Send)> {
        let mut sends = Vec::new();
        for (participant, mail) in &mut self.mails {
            if !all && mail.may_rest() {
                continue;
            }
            mail.is_awaited = false;
            let mut put = |send| sends.push((*participant, send));
            // Watermarks first: they make room for what follows, and name nothing that is unfinished. Then ends: they
            // release funds that the Trys behind them may need.
            mail.watermarks.drain(..).for_each(&mut put);
            mail.confirms.drain(..).map(Send::Confirm).for_each(&mut put);
            mail.cancels.drain(..).map(Send::Cancel).for_each(&mut put);
            let tries = mail.tries.iter().chain(&mail.one_phase).map(|columns| columns.sequences.len());
            mail.last_try_rows = tries.max().unwrap_or(mail.last_try_rows);
            mail.tries.drain(..).map(Send::Try).for_each(&mut put);
            mail.one_phase.drain(..).map(Send::TryAndConfirm).for_each(&mut put);
            mail.fences.drain(..).map(Send::Fence).for_each(&mut put);
        }
        sends
    }
}

fn try_columns(
    list: &mut Vec<TryColumns>,
    epoch: Epoch,
    deadline_ms: Millis,
    room: usize,
) -> &mut TryColumns {
    let at = list.iter().rposition(|columns| columns.epoch == epoch && columns.sequences.len() < ROWS_MAX);
    let at = at.unwrap_or_else(|| {
        list.push(TryColumns::with_capacity(epoch, room));
        list.len() - 1
    });
    let columns = &mut list[at];
    columns.deadline_ms = columns.deadline_ms.max(deadline_ms);
    columns
}

fn end_columns(list: &mut Vec<EndColumns>, epoch: Epoch) -> &mut EndColumns {
    let fits = |columns: &EndColumns| {
        columns.epoch == epoch && columns.partial_legs.is_empty() && columns.sequences.len() < ROWS_MAX
    };
    let at = list.iter().rposition(fits).unwrap_or_else(|| {
        list.push(EndColumns { epoch, ..EndColumns::default() });
        list.len() - 1
    });
    &mut list[at]
}
