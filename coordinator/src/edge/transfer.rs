//! `TransferService`: one transfer a call, or one a message of a stream; and look-ups.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use escrow_proto::v1;
use escrow_proto::v1::transfer_service_server::TransferService;
use escrow_tcc::driver::{Answered, CallerId, Standing, Waiter};
use escrow_types::{Epoch, Reason};
use tokio::sync::oneshot;
use tonic::{Request, Response, Status, Streaming};

use super::columns::ColumnAnswers;
use super::form::{self, Refused};
use super::stream::{Answers, Intake, next_arrived, open};
use super::{Service, refused, wire_reason, wire_state};
use crate::owner::{Input, Transfer};

/// Messages of a stream are handed on together, so many at most: what has arrived makes a batch, and nothing is waited for.
const ROWS_TAKEN_MAX: usize = 1_024;

/// The ids of a stream's unanswered transfers, by tag; an answer takes its id out.
#[derive(Default)]
struct Unanswered {
    ids: Vec<String>,
    free: Vec<usize>,
    /// Why rows were refused for their form.
    messages: std::collections::HashMap<usize, String>,
}

impl Unanswered {
    fn insert(&mut self, id: String) -> usize {
        if let Some(tag) = self.free.pop() {
            self.ids[tag] = id;
            return tag;
        }
        self.ids.push(id);
        self.ids.len() - 1
    }

    fn take(&mut self, tag: usize) -> (String, Option<String>) {
        self.free.push(tag);
        (std::mem::take(&mut self.ids[tag]), self.messages.remove(&tag))
    }
}

type Translate = Box<dyn FnMut(Vec<Answered>, &mut VecDeque<(v1::TransferResponse, u32)>) + Send>;
type TransferAnswers = Answers<v1::TransferResponse, Translate>;

pub(super) fn parse(request: &v1::TransferRequest, waiter: Waiter) -> Result<Transfer, Refused> {
    let id = form::transaction_id(&request.transaction_id)?;
    let from = form::account_id("from_account_id", &request.from_account_id)?;
    let to = form::account_id("to_account_id", &request.to_account_id)?;
    if from == to {
        return Err((Reason::SameAccount, form::explain(Reason::SameAccount).to_owned()));
    }
    let currency = form::currency(&request.currency)?;
    Ok(Transfer {
        key: id.key(),
        from: from.key(),
        to: to.key(),
        amount: request.amount,
        currency,
        timeout_ms: u64::from(request.timeout_ms),
        names: form::names(&id, &from, &to),
        waiter,
        reply: None,
    })
}

#[tonic::async_trait]
impl TransferService for Service {
    async fn transfer(
        &self,
        request: Request<v1::TransferRequest>,
    ) -> Result<Response<v1::TransferResponse>, Status> {
        let request = request.into_inner();
        let waiter = Waiter { caller: CallerId(0), tag: 0, wait: form::wait(request.wait()) };
        let mut transfer = parse(&request, waiter).map_err(form::status)?;
        let accounts = [transfer.from, transfer.to];
        let (reply, answer) = oneshot::channel();
        transfer.reply = Some(reply);
        self.mailbox.check_leads()?;
        self.mailbox.request(Input::Transfer(Box::new(transfer))).await?;
        let answered = answer.await.map_err(|_| self.mailbox.unanswered())?;
        if let Standing::Refused(reason) = answered.standing {
            return Err(refused(reason));
        }
        let (state, reason) = wire_state(&answered);
        let shards = accounts.map(|account| self.routing.of(account));
        let position = if answered.completed { self.position(shards) } else { String::new() };
        Ok(Response::new(v1::TransferResponse {
            transaction_id: request.transaction_id,
            xid: self.xid(answered.epoch, answered.sequence),
            state: state.into(),
            reason: wire_reason(reason),
            message: String::new(),
            completed: answered.completed,
            position,
        }))
    }

    type TransferStreamStream = TransferAnswers;

    async fn transfer_stream(
        &self,
        request: Request<Streaming<v1::TransferRequest>>,
    ) -> Result<Response<Self::TransferStreamStream>, Status> {
        let unanswered = Arc::new(Mutex::new(Unanswered::default()));
        let (names, service) = (Arc::clone(&unanswered), self.clone());
        let translate: Translate = Box::new(move |batch, ready| {
            let mut names = names.lock().expect("no panic while it is held");
            for answered in batch {
                let (transaction_id, message) = names.take(answered.tag as usize);
                let (state, reason) = wire_state(&answered);
                let (xid, message) = match answered.standing {
                    Standing::Refused(reason) => {
                        (String::new(), message.unwrap_or_else(|| form::explain(reason).to_owned()))
                    }
                    _ => (service.xid(answered.epoch, answered.sequence), String::new()),
                };
                let (state, reason) = (state.into(), wire_reason(reason));
                let completed = answered.completed;
                let position = String::new();
                let response =
                    v1::TransferResponse { transaction_id, xid, state, reason, message, completed, position };
                ready.push_back((response, 1));
            }
        });
        let (intake, fail, answers) = open(self, translate).await?;
        let service = self.clone();
        tokio::spawn(async move {
            let read = service.read_transfers(request.into_inner(), &intake, &unanswered);
            if let Err(status) = service.while_leading(read).await {
                // The caller may be gone already.
                let _ = fail.send(status);
            }
        });
        Ok(Response::new(answers))
    }

    type TransferColumnsStream = ColumnAnswers;

    async fn transfer_columns(
        &self,
        request: Request<Streaming<v1::TransferColumnsRequest>>,
    ) -> Result<Response<Self::TransferColumnsStream>, Status> {
        Service::transfer_columns(self, request).await
    }

    async fn get_transaction(
        &self,
        request: Request<v1::GetTransactionRequest>,
    ) -> Result<Response<v1::GetTransactionResponse>, Status> {
        self.look_up(request.into_inner().id).await.map(Response::new)
    }
}

/// One message of a stream: the transfer, or `None` if its form is refused, which is then answered.
fn take_row(request: v1::TransferRequest, intake: &Intake, unanswered: &mut Unanswered) -> Option<Transfer> {
    let waiter = Waiter { caller: intake.caller, tag: 0, wait: form::wait(request.wait()) };
    let parsed = parse(&request, waiter);
    let tag = unanswered.insert(request.transaction_id);
    match parsed {
        Ok(mut transfer) => {
            transfer.waiter.tag = tag as u64;
            Some(transfer)
        }
        Err((reason, message)) => {
            unanswered.messages.insert(tag, message);
            let standing = Standing::Refused(reason);
            let (caller, tag, epoch) = (intake.caller, tag as u64, Epoch(0));
            let refusal = Answered { caller, tag, epoch, sequence: 0, standing, completed: false };
            // The caller may be gone already.
            let _ = intake.refusals.send(vec![refusal]);
            None
        }
    }
}

impl Service {
    async fn read_transfers(
        &self,
        mut messages: Streaming<v1::TransferRequest>,
        intake: &Intake,
        unanswered: &Mutex<Unanswered>,
    ) -> Result<(), Status> {
        let mut failed = None;
        loop {
            let arrived = next_arrived(&mut messages, ROWS_TAKEN_MAX, &mut failed).await?;
            if arrived.is_empty() {
                break;
            }
            if !intake.room_for(arrived.len()).await {
                return Ok(());
            }
            let transfers: Vec<Transfer> = {
                let mut unanswered = unanswered.lock().expect("no panic while it is held");
                arrived.into_iter().filter_map(|request| take_row(request, intake, &mut unanswered)).collect()
            };
            if !transfers.is_empty() {
                self.mailbox.request(Input::Transfers(transfers)).await?;
            }
        }
        intake.all_answered().await;
        Ok(())
    }
}
