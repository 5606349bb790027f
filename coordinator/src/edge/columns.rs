//! `TransferService.TransferColumns`: rows in, rows out, thousands a message.

use std::collections::VecDeque;

use escrow_proto::v1;
use escrow_service::refusal;
use escrow_tcc::driver::Answered;
use escrow_types::{Currency, Reason};
use tonic::{Request, Response, Status, Streaming};

use super::stream::{Answers, Intake, next, open};
use super::{Service, form, wire_state};
use crate::owner::Input;

/// A message may have so many rows.
const ROWS_MAX: usize = 65_536;

/// The answers as columns. One message a batch, split where the epoch changes: after a crash, repeated ids may be answered
/// with xids of older epochs.
fn translate(partition: u32, batch: &[Answered], ready: &mut VecDeque<(v1::TransferColumnsResponse, u32)>) {
    for run in batch.chunk_by(|a, b| a.epoch == b.epoch) {
        let mut columns = v1::TransferColumnsResponse {
            tag: Vec::with_capacity(run.len()),
            state: Vec::with_capacity(run.len()),
            reason: Vec::with_capacity(run.len()),
            sequence: Vec::with_capacity(run.len()),
            partition,
            epoch: run[0].epoch.0,
        };
        for answered in run {
            let (state, reason) = wire_state(answered);
            columns.tag.push(answered.tag);
            columns.state.push(state as u8);
            columns.reason.push(reason.map_or(0, |reason| reason as u8));
            columns.sequence.push(answered.sequence);
        }
        ready.push_back((columns, run.len() as u32));
    }
}

type Translate = Box<dyn FnMut(Vec<Answered>, &mut VecDeque<(v1::TransferColumnsResponse, u32)>) + Send>;
pub(super) type ColumnAnswers = Answers<v1::TransferColumnsResponse, Translate>;

pub(super) fn check(columns: &v1::TransferColumnsRequest) -> Result<Currency, Status> {
    let rows = columns.amount.len();
    let lengths = [
        columns.transaction_id_high.len(),
        columns.transaction_id_low.len(),
        columns.from_account_high.len(),
        columns.from_account_low.len(),
        columns.to_account_high.len(),
        columns.to_account_low.len(),
    ];
    if lengths.iter().any(|&length| length != rows) {
        return Err(refusal(Reason::InvalidArgument, "columns of unequal length"));
    }
    if rows > ROWS_MAX {
        let message = format!("{rows} rows in a message; at most {ROWS_MAX} are taken");
        return Err(refusal(Reason::MessageTooLarge, message));
    }
    let currency = u16::try_from(columns.currency).ok().and_then(Currency::from_numeric);
    currency.ok_or_else(|| {
        let message = format!("currency: {} is not an ISO 4217 numeric code", columns.currency);
        refusal(Reason::InvalidCurrency, message)
    })
}

impl Service {
    pub(super) async fn transfer_columns(
        &self,
        request: Request<Streaming<v1::TransferColumnsRequest>>,
    ) -> Result<Response<ColumnAnswers>, Status> {
        let partition = u32::from(self.config.partition);
        let translate: Translate = Box::new(move |batch, ready| translate(partition, &batch, ready));
        let (intake, fail, answers) = open(self, translate).await?;
        let service = self.clone();
        tokio::spawn(async move {
            let read = service.read_columns(request.into_inner(), &intake);
            if let Err(status) = service.while_leading(read).await {
                // The caller may be gone already.
                let _ = fail.send(status);
            }
        });
        Ok(Response::new(answers))
    }

    /// Reads until the caller ends the stream; then waits for the last answer.
    async fn read_columns(
        &self,
        mut messages: Streaming<v1::TransferColumnsRequest>,
        intake: &Intake,
    ) -> Result<(), Status> {
        while let Some(columns) = next(&mut messages).await? {
            let currency = check(&columns)?;
            if columns.amount.is_empty() {
                continue;
            }
            if !intake.room_for(columns.amount.len()).await {
                return Ok(());
            }
            let wait = form::wait(columns.wait());
            self.mailbox.request(Input::Columns(intake.caller, currency, wait, Box::new(columns))).await?;
        }
        intake.all_answered().await;
        Ok(())
    }
}
