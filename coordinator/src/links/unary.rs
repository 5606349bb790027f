//! An external participant: anything that implements unary Try, Confirm and Cancel.

use std::sync::Arc;
use std::time::Duration;

use escrow_grpc::Channel;
use escrow_proto::v1;
use escrow_proto::v1::participant_service_client::ParticipantServiceClient;
use escrow_tcc::content::{Direction, Leg};
use escrow_tcc::driver::{Call, CallKind};
use escrow_tcc::machine::Live;
use escrow_types::{Answer, Epoch, ParticipantId, Reason};
use tokio::sync::{Semaphore, mpsc};
use tonic::Status;

use super::stream::describe;
use crate::config::ParticipantConfig;
use crate::owner::{Input, Mailbox};

/// So many calls at a time, so that a slow participant is not buried.
const CALLS_MAX: usize = 64;
/// A call that takes longer has failed; it is tried again.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// What the owner knows of an external participant: how a call to it reads.
pub(super) struct External {
    participant: ParticipantId,
    name: String,
    partition: u16,
    calls: mpsc::UnboundedSender<UnaryCall>,
}

/// A call to be made. Bounded by unfinished transactions, as all calls are.
pub(crate) struct UnaryCall {
    pub(crate) call: Call,
    pub(crate) request: UnaryRequest,
}

/// One request, ready to be sent.
pub(crate) enum UnaryRequest {
    Try(v1::TryRequest),
    Confirm(v1::ConfirmBranchRequest),
    Cancel(v1::CancelBranchRequest),
}

pub(super) fn wire_leg(leg: &Leg) -> v1::Leg {
    let direction = match leg.direction {
        Direction::Debit => v1::Direction::Debit,
        Direction::Credit => v1::Direction::Credit,
    };
    v1::Leg {
        account_id: leg.account_id.as_deref().map_or_else(|| leg.account.to_string(), str::to_owned),
        direction: direction.into(),
        amount: leg.amount,
        currency: leg.currency.code().into(),
        participant: String::new(),
    }
}

impl External {
    pub(super) fn new(
        config: &ParticipantConfig,
        partition: u16,
        calls: mpsc::UnboundedSender<UnaryCall>,
    ) -> Self {
        Self { participant: ParticipantId(config.id), name: config.name.clone(), partition, calls }
    }

    /// Hands a call to whoever makes them; its result comes back as an event.
    pub(super) fn call(&self, call: Call, live: &Live, sender_epoch: Epoch) {
        let request = self.request(call, live, sender_epoch);
        // Nobody makes calls any more: the server is stopping.
        let _ = self.calls.send(UnaryCall { call, request });
    }

    fn request(&self, call: Call, live: &Live, sender_epoch: Epoch) -> UnaryRequest {
        let xid = Some(v1::Xid {
            partition: u32::from(self.partition),
            epoch: call.epoch.0,
            sequence: call.sequence,
        });
        let (sender_epoch, participant) = (sender_epoch.0, self.name.clone());
        match call.kind {
            CallKind::Try => {
                let legs = live.content.legs();
                let legs =
                    legs.iter().filter(|leg| leg.participant == self.participant).map(wire_leg).collect();
                let (deadline_ms, transaction_id) = (live.deadline_ms, live.transaction_id());
                UnaryRequest::Try(v1::TryRequest {
                    xid,
                    sender_epoch,
                    participant,
                    legs,
                    deadline_ms,
                    transaction_id,
                })
            }
            CallKind::Confirm => {
                let amounts = live.content.partial_of(self.participant).unwrap_or_default();
                UnaryRequest::Confirm(v1::ConfirmBranchRequest { xid, sender_epoch, participant, amounts })
            }
            CallKind::Cancel => {
                UnaryRequest::Cancel(v1::CancelBranchRequest { xid, sender_epoch, participant })
            }
        }
    }
}

/// Makes the calls that come, each in a task of its own; ends when the owner is gone.
pub(super) async fn make_calls(
    channel: Channel,
    mut queue: mpsc::UnboundedReceiver<UnaryCall>,
    mailbox: Mailbox,
) {
    let client = ParticipantServiceClient::new(channel);
    let calls = Arc::new(Semaphore::new(CALLS_MAX));
    while let Some(UnaryCall { call, request }) = queue.recv().await {
        let (client, calls, mailbox) = (client.clone(), Arc::clone(&calls), mailbox.clone());
        tokio::spawn(async move {
            let Ok(_permit) = calls.acquire().await else { return };
            let result = match tokio::time::timeout(CALL_TIMEOUT, send(client, request)).await {
                Ok(result) => result.map_err(|status| describe(&status)),
                Err(_) => Err(format!("no answer within {} s", CALL_TIMEOUT.as_secs())),
            };
            mailbox.event(Input::Called(call.participant, call.kind, call.epoch, call.sequence, result));
        });
    }
}

async fn send(mut client: ParticipantServiceClient<Channel>, request: UnaryRequest) -> Result<u8, Status> {
    let answer = match request {
        UnaryRequest::Try(request) => {
            let response = client.r#try(request).await?.into_inner();
            if response.answer() == v1::Answer::Rejected {
                let reason = u8::try_from(response.reason).ok().and_then(Reason::from_number);
                // Only branch reasons fit a branch; anything else is the participant's own.
                let reason =
                    reason.filter(|&reason| (reason as u8) < 16).unwrap_or(Reason::ParticipantRejected);
                return Ok(Answer::Rejected(reason).to_byte());
            }
            response.answer
        }
        UnaryRequest::Confirm(request) => client.confirm(request).await?.into_inner().answer,
        UnaryRequest::Cancel(request) => client.cancel(request).await?.into_inner().answer,
    };
    let known = u8::try_from(answer).ok().filter(|&byte| Answer::from_byte(byte).is_some());
    known.ok_or_else(|| {
        Status::internal(format!("the participant gave an answer that does not exist: {answer}"))
    })
}
