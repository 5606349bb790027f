//! `TransactionService`: transactions of many legs, and the two-step form.

use escrow_proto::v1;
use escrow_proto::v1::transaction_service_server::TransactionService;
use escrow_service::refusal as refuse;
use escrow_tcc::driver::{Answered, Refusal, Standing, Wait, check_ended};
use escrow_tcc::machine::{Decision, Row};
use escrow_types::{Reason, TransactionId};
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};

use super::form::{self, Named};
use super::{Service, refusal, refused, wire_reason, wire_state};
use crate::owner::{Input, Legs, Owner};

/// A transaction found by id or xid: unfinished, or only remembered.
pub(super) enum Found {
    Unfinished { epoch: escrow_types::Epoch, sequence: u64 },
    Ended(Row),
}

/// Finds a transaction on the owner.
pub(super) fn find(owner: &Owner, named: &Named) -> Option<Found> {
    match *named {
        Named::Id(key) => {
            let row = owner.driver.find(&owner.window, key)?;
            Some(match row.finished_ms {
                0 => Found::Unfinished { epoch: row.epoch, sequence: row.sequence },
                _ => Found::Ended(row),
            })
        }
        Named::Xid(xid) => {
            if xid.partition != owner.driver.config().partition {
                return None;
            }
            if owner.driver.machine().live().get(xid.epoch, xid.sequence).is_some() {
                return Some(Found::Unfinished { epoch: xid.epoch, sequence: xid.sequence });
            }
            let rows = owner.driver.machine().remembered().rows();
            let row = rows.iter().find(|row| row.epoch == xid.epoch && row.sequence == xid.sequence)?;
            Some(Found::Ended(*row))
        }
    }
}

impl Service {
    async fn submit_legs(
        &self,
        id: &TransactionId,
        legs: &[v1::Leg],
        two_step: bool,
        timeout_ms: u64,
        wait: Wait,
    ) -> Result<Answered, Status> {
        let rows = self.legs(legs).map_err(form::status)?;
        let (reply, answer) = oneshot::channel();
        let transaction_id = form::name(id.key().is_uuid(), id.as_str());
        let legs = Legs { key: id.key(), transaction_id, two_step, rows, timeout_ms, wait, reply };
        self.mailbox.check_leads()?;
        self.mailbox.request(Input::Legs(Box::new(legs))).await?;
        let answered = answer.await.map_err(|_| self.mailbox.unanswered())?;
        match answered.standing {
            Standing::Refused(reason) => Err(refused(reason)),
            _ => Ok(answered),
        }
    }

    /// Confirms or cancels a two-step transaction and waits for its answer.
    async fn end_two_step(
        &self,
        id: &str,
        wait: Wait,
        end: impl FnOnce(&mut Owner, escrow_types::Epoch, u64, escrow_tcc::driver::Waiter) -> Result<(), Refusal>
        + Send
        + 'static,
        confirm: bool,
    ) -> Result<Answered, Status> {
        let named = form::named(id).map_err(form::status)?;
        let (reply, answer) = oneshot::channel();
        // What is not found must not have begun elsewhere: the newest state, not that of a leader of the past.
        let ended = self.mailbox.ask_newest(move |owner| -> Result<Option<Answered>, Refusal> {
            match find(owner, &named) {
                None => Err(Refusal {
                    reason: Reason::TransactionNotFound,
                    message: form::explain(Reason::TransactionNotFound).into(),
                }),
                Some(Found::Ended(row)) => {
                    let decision = check_ended(&row, confirm)?;
                    let (epoch, sequence, standing) = (row.epoch, row.sequence, Standing::Decided(decision));
                    let caller = escrow_tcc::driver::CallerId(0);
                    Ok(Some(Answered { caller, tag: 0, epoch, sequence, standing, completed: true }))
                }
                Some(Found::Unfinished { epoch, sequence }) => {
                    let waiter = owner.waiter_for(reply, wait);
                    let ended = end(owner, epoch, sequence, waiter);
                    ended.inspect_err(|_| owner.forget(waiter)).map(|()| None)
                }
            }
        });
        match ended.await?.map_err(refusal)? {
            Some(answered) => Ok(answered),
            None => answer.await.map_err(|_| self.mailbox.unanswered()),
        }
    }

    /// What is known of a transaction, for its caller.
    pub(super) async fn look_up(&self, id: String) -> Result<v1::GetTransactionResponse, Status> {
        let named = form::named(&id).map_err(form::status)?;
        let found = self.mailbox.ask_newest(move |owner| match find(owner, &named)? {
            Found::Ended(row) => {
                let outcome = row.outcome().expect("it has ended");
                let id = row.key.to_uuid_text();
                Some((id, row.epoch, row.sequence, Some(outcome.decision), true, false))
            }
            Found::Unfinished { epoch, sequence } => {
                let live = owner.driver.machine().live().get(epoch, sequence);
                let view = owner.driver.view(owner.now(), epoch, sequence);
                let reserved = view.as_ref().is_some_and(|view| view.is_reserved);
                let id = live.map(escrow_tcc::machine::Live::transaction_id);
                // Every branch has acknowledged; only the log does not say so yet.
                let completed = live.is_some() && view.is_none();
                let decision = if completed {
                    owner.driver.outcome(epoch, sequence)
                } else {
                    live.and_then(|live| live.decision)
                };
                Some((id, epoch, sequence, decision, completed, reserved))
            }
        });
        let not_found = v1::GetTransactionResponse {
            transaction_id: id.clone(),
            xid: String::new(),
            state: v1::TransactionState::NotFound.into(),
            reason: 0,
            completed: false,
        };
        let Some((known_id, epoch, sequence, decision, completed, reserved)) = found.await? else {
            return Ok(not_found);
        };
        let (state, reason) = match decision {
            None if reserved => (v1::TransactionState::Reserved, None),
            None => (v1::TransactionState::Pending, None),
            Some(Decision::Confirm) => (v1::TransactionState::Confirmed, None),
            Some(Decision::Cancel(reason)) => (v1::TransactionState::Canceled, Some(reason)),
        };
        Ok(v1::GetTransactionResponse {
            transaction_id: known_id.unwrap_or(id),
            xid: self.xid(epoch, sequence),
            state: state.into(),
            reason: wire_reason(reason),
            completed,
        })
    }
}

#[tonic::async_trait]
impl TransactionService for Service {
    async fn execute(
        &self,
        request: Request<v1::ExecuteRequest>,
    ) -> Result<Response<v1::ExecuteResponse>, Status> {
        let request = request.into_inner();
        let id = form::transaction_id(&request.transaction_id).map_err(form::status)?;
        let (wait, timeout_ms) = (form::wait(request.wait()), u64::from(request.timeout_ms));
        let answered = self.submit_legs(&id, &request.legs, false, timeout_ms, wait).await?;
        let (state, reason) = wire_state(&answered);
        Ok(Response::new(v1::ExecuteResponse {
            transaction_id: request.transaction_id,
            xid: self.xid(answered.epoch, answered.sequence),
            state: state.into(),
            reason: wire_reason(reason),
            completed: answered.completed,
        }))
    }

    async fn reserve(
        &self,
        request: Request<v1::ReserveRequest>,
    ) -> Result<Response<v1::ReserveResponse>, Status> {
        let request = request.into_inner();
        let id = form::transaction_id(&request.transaction_id).map_err(form::status)?;
        let answered = self.submit_legs(&id, &request.legs, true, request.hold_ms, Wait::Reserved).await?;
        let (state, reason) = wire_state(&answered);
        let (epoch, sequence) = (answered.epoch, answered.sequence);
        let expires_at_ms = self.mailbox.ask(move |owner| {
            let live = owner.driver.machine().live().get(epoch, sequence);
            live.map_or(0, |live| live.deadline_ms)
        });
        Ok(Response::new(v1::ReserveResponse {
            transaction_id: request.transaction_id,
            xid: self.xid(epoch, sequence),
            state: state.into(),
            reason: wire_reason(reason),
            // It stands, whoever leads now: without its time, if that is not known here any more.
            expires_at_ms: expires_at_ms.await.unwrap_or(0),
        }))
    }

    async fn confirm(
        &self,
        request: Request<v1::ConfirmRequest>,
    ) -> Result<Response<v1::ConfirmResponse>, Status> {
        let request = request.into_inner();
        let wait = form::wait(request.wait());
        if request.amounts.len() > escrow_tcc::content::LEGS_MAX {
            return Err(refuse(Reason::InvalidAmount, "amounts: one a leg, at most 64"));
        }
        let amounts = (!request.amounts.is_empty()).then_some(request.amounts);
        let confirm = move |owner: &mut Owner, epoch, sequence, waiter| {
            owner.driver.confirm(epoch, sequence, amounts, waiter)
        };
        let answered = self.end_two_step(&request.transaction_id, wait, confirm, true).await?;
        let (state, reason) = wire_state(&answered);
        Ok(Response::new(v1::ConfirmResponse {
            transaction_id: request.transaction_id,
            xid: self.xid(answered.epoch, answered.sequence),
            state: state.into(),
            reason: wire_reason(reason),
            completed: answered.completed,
        }))
    }

    async fn cancel(
        &self,
        request: Request<v1::CancelRequest>,
    ) -> Result<Response<v1::CancelResponse>, Status> {
        let request = request.into_inner();
        let wait = form::wait(request.wait());
        let cancel =
            |owner: &mut Owner, epoch, sequence, waiter| owner.driver.cancel(epoch, sequence, waiter);
        let answered = self.end_two_step(&request.transaction_id, wait, cancel, false).await?;
        let (state, reason) = wire_state(&answered);
        Ok(Response::new(v1::CancelResponse {
            transaction_id: request.transaction_id,
            xid: self.xid(answered.epoch, answered.sequence),
            state: state.into(),
            reason: wire_reason(reason),
            completed: answered.completed,
        }))
    }
}
