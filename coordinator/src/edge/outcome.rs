//! `CoordinatorService`: what participants may ask.

use escrow_proto::v1;
use escrow_proto::v1::coordinator_service_server::CoordinatorService;
use escrow_service::refusal;
use escrow_tcc::machine::Decision;
use escrow_types::{Epoch, Reason, Sequence};
use tonic::{Request, Response, Status};

use super::Service;

/// A question may name so many.
const XIDS_MAX: usize = 10_000;

#[tonic::async_trait]
impl CoordinatorService for Service {
    async fn outcome(
        &self,
        request: Request<v1::OutcomeRequest>,
    ) -> Result<Response<v1::OutcomeResponse>, Status> {
        let xids = request.into_inner().xids;
        if xids.len() > XIDS_MAX {
            return Err(refusal(Reason::MessageTooLarge, format!("at most {XIDS_MAX} xids a call")));
        }
        if let Some(xid) = xids.iter().find(|xid| xid.partition != u32::from(self.config.partition)) {
            let message = format!("partition {} is not led here", xid.partition);
            return Err(refusal(Reason::InvalidArgument, message));
        }
        let asked: Vec<(Epoch, Sequence)> = xids.iter().map(|xid| (Epoch(xid.epoch), xid.sequence)).collect();
        let outcomes = self.mailbox.ask_newest(move |owner| {
            let outcome = |&(epoch, sequence): &(Epoch, Sequence)| owner.driver.outcome(epoch, sequence);
            asked.iter().map(outcome).collect::<Vec<_>>()
        });
        let outcome = |outcome| match outcome {
            None => v1::Outcome::Pending.into(),
            Some(Decision::Confirm) => v1::Outcome::Confirm.into(),
            Some(Decision::Cancel(_)) => v1::Outcome::Cancel.into(),
        };
        let outcomes = outcomes.await?.into_iter().map(outcome).collect();
        Ok(Response::new(v1::OutcomeResponse { outcomes }))
    }
}
