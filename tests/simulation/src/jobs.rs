//! What callers want: each job has an id and a content, and is asked about again until its caller knows.

use escrow_proto::v1;
use escrow_tcc::machine::Decision;
use escrow_types::{AccountId, Reason, TransactionId, TransactionKey};

use crate::chance::Chance;
use crate::coordinator::{Call, EXTERNAL};

/// The first may go below zero without limit, the last does not exist.
pub(crate) const ACCOUNTS: [&str; 8] = ["treasury", "anna", "ben", "cleo", "dora", "emil", "fred", "nobody"];

const USD: &str = "USD";

/// What is moved.
#[derive(Debug, Clone)]
pub(crate) enum Plan {
    Transfer {
        from: usize,
        to: usize,
        amount: u64,
    },
    /// A transfer that goes through the stream of columns.
    Bulk {
        from: usize,
        to: usize,
        amount: u64,
    },
    Legs {
        two_step: bool,
        legs: Vec<v1::Leg>,
    },
}

/// What the caller of a two-step transaction does when it is reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    Confirm,
    Half,
    Cancel,
    Nothing,
}

/// One thing that a caller wants done once.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) id: TransactionId,
    pub(crate) plan: Plan,
    then: Then,
    timeout_ms: u32,
    pub(crate) attempts: u32,
    /// Was told RESERVED.
    pub(crate) reserved: bool,
    /// What the caller was told; only the first time counts, and all others must agree.
    pub(crate) told: Option<Decision>,
}

fn leg(account: usize, direction: v1::Direction, amount: u64) -> v1::Leg {
    v1::Leg {
        account_id: ACCOUNTS[account].to_owned(),
        direction: direction.into(),
        amount,
        currency: USD.to_owned(),
        participant: String::new(),
    }
}

impl Job {
    pub(crate) fn new(number: usize, hot: bool, external: bool, chance: &mut Chance) -> Self {
        let accounts = if hot { 3 } else { 7 };
        let pick = |chance: &mut Chance| if chance.one_in(40) { 7 } else { chance.index(accounts) };
        let from = if chance.one_in(3) { 0 } else { pick(chance) };
        let mut other = || loop {
            let to = pick(chance);
            if to != from {
                break to;
            }
        };
        let (to, also) = (other(), other());
        let amount = 2 * (1 + chance.below(40));
        let plan = match chance.below(8) {
            0..3 => Plan::Transfer { from, to, amount },
            3 => Plan::Bulk { from, to, amount },
            kind => {
                let mut legs = vec![
                    leg(from, v1::Direction::Debit, amount * 2),
                    leg(to, v1::Direction::Credit, amount),
                    leg(also, v1::Direction::Credit, amount),
                ];
                if external && chance.one_in(2) {
                    EXTERNAL.clone_into(&mut legs[2].participant);
                    "iban".clone_into(&mut legs[2].account_id);
                }
                Plan::Legs { two_step: kind >= 6, legs }
            }
        };
        let then = chance.one_of(&[Then::Confirm, Then::Half, Then::Cancel, Then::Nothing]);
        let timeout_ms = if chance.one_in(4) { 1 + chance.below(300) as u32 } else { 0 };
        // Some ids are UUIDs, others any text.
        let id = if chance.one_in(2) {
            format!("00000000-0000-4000-8000-{:012x}", number + 1)
        } else {
            format!("order-{number}")
        };
        let id = TransactionId::new(&id).expect("a good id");
        Self { id, plan, then, timeout_ms, attempts: 0, reserved: false, told: None }
    }

    pub(crate) fn key(&self) -> TransactionKey {
        self.id.key()
    }

    fn id(&self) -> String {
        self.id.as_str().to_owned()
    }

    /// Asks how it stands.
    pub(crate) fn look_up(&self) -> Call {
        Call::Get(self.id())
    }

    /// The call that the caller makes next.
    pub(crate) fn next_call(&self, chance: &mut Chance) -> Call {
        let wait = chance.one_of(&[v1::Wait::Decided, v1::Wait::Completed]).into();
        if self.told.is_some() || (self.attempts > 0 && chance.one_in(8)) {
            return self.look_up();
        }
        let (transaction_id, timeout_ms) = (self.id(), self.timeout_ms);
        match &self.plan {
            Plan::Transfer { .. } | Plan::Bulk { .. } => Call::Transfer(self.transfer(wait)),
            Plan::Legs { two_step: false, legs } => {
                let legs = legs.clone();
                Call::Execute(v1::ExecuteRequest { transaction_id, legs, wait, timeout_ms })
            }
            Plan::Legs { two_step: true, legs } if !self.reserved => {
                let (legs, hold_ms) = (legs.clone(), u64::from(timeout_ms) * 10);
                Call::Reserve(v1::ReserveRequest { transaction_id, legs, hold_ms })
            }
            Plan::Legs { legs, .. } => match self.then {
                Then::Confirm => {
                    Call::Confirm(v1::ConfirmRequest { transaction_id, amounts: Vec::new(), wait })
                }
                Then::Half => {
                    let amounts = legs.iter().map(|leg| leg.amount / 2).collect();
                    Call::Confirm(v1::ConfirmRequest { transaction_id, amounts, wait })
                }
                Then::Cancel => Call::Cancel(v1::CancelRequest { transaction_id, wait }),
                Then::Nothing => self.look_up(),
            },
        }
    }

    fn transfer(&self, wait: i32) -> v1::TransferRequest {
        let (Plan::Transfer { from, to, amount } | Plan::Bulk { from, to, amount }) = self.plan else {
            unreachable!("asked of transfers only")
        };
        v1::TransferRequest {
            transaction_id: self.id(),
            from_account_id: ACCOUNTS[from].to_owned(),
            to_account_id: ACCOUNTS[to].to_owned(),
            amount,
            currency: USD.to_owned(),
            wait,
            timeout_ms: self.timeout_ms,
        }
    }

    /// The same id with other content.
    pub(crate) fn other_content(&self) -> Call {
        let transaction_id = self.id();
        match &self.plan {
            Plan::Transfer { .. } | Plan::Bulk { .. } => {
                let request = self.transfer(v1::Wait::Decided.into());
                Call::Transfer(v1::TransferRequest { amount: request.amount + 1, ..request })
            }
            Plan::Legs { legs, .. } => {
                let mut legs = legs.clone();
                legs[0].amount += 1;
                legs[1].amount += 1;
                let (wait, timeout_ms) = (v1::Wait::Decided.into(), 0);
                Call::Execute(v1::ExecuteRequest { transaction_id, legs, wait, timeout_ms })
            }
        }
    }
}

/// Rows of transfers for the stream of columns; the tag is the job's number.
pub(crate) fn columns(jobs: &[(usize, &Job)]) -> Vec<v1::TransferColumnsRequest> {
    let mut messages = Vec::new();
    for (number, job) in jobs {
        let Plan::Bulk { from, to, amount } = job.plan else { continue };
        let halves = |key: u128| ((key >> 64) as u64, key as u64);
        let account = |at: usize| halves(AccountId::new(ACCOUNTS[at]).expect("a good id").key().0);
        let ((id_high, id_low), from, to) = (halves(job.key().0), account(from), account(to));
        messages.push(v1::TransferColumnsRequest {
            first_tag: *number as u64,
            transaction_id_high: vec![id_high],
            transaction_id_low: vec![id_low],
            from_account_high: vec![from.0],
            from_account_low: vec![from.1],
            to_account_high: vec![to.0],
            to_account_low: vec![to.1],
            amount: vec![amount],
            currency: 840,
            wait: v1::Wait::Decided.into(),
            timeout_ms: job.timeout_ms,
        });
    }
    messages
}

/// What an answer decides, if it does.
pub(crate) fn decision(state: v1::TransactionState, reason: i32) -> Option<Decision> {
    match state {
        v1::TransactionState::Confirmed => Some(Decision::Confirm),
        v1::TransactionState::Canceled => {
            let reason = u8::try_from(reason).ok().and_then(Reason::from_number);
            Some(Decision::Cancel(reason.unwrap_or(Reason::ParticipantRejected)))
        }
        _ => None,
    }
}
