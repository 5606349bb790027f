//! An external participant: a plain unary one, without hello and watermark, that does its duty by xid. It never forgets; calls to
//! it and its answers get lost, come twice and come late.

use escrow_coordinator::stepped::ExternalRequest;
use escrow_proto::v1;
use escrow_tcc::machine::Decision;
use escrow_types::{Answer, Epoch, Reason};

use crate::chance::Chance;
use crate::observe::{Branch, Facts, Xid};
use crate::violation::{Step, Violation, check};

/// See the module.
pub(crate) struct External {
    pub(crate) id: u16,
}

fn xid(xid: Option<&v1::Xid>) -> Step<Xid> {
    let xid = xid.ok_or_else(|| Violation::other("a call without an xid"))?;
    Ok((Epoch(xid.epoch), xid.sequence))
}

impl External {
    /// What must hold when a call leaves the coordinator.
    pub(crate) fn check_call(request: &ExternalRequest, facts: &Facts) -> Step {
        let (id, wanted) = match request {
            ExternalRequest::Try(request) => (xid(request.xid.as_ref())?, None),
            ExternalRequest::Confirm(request) => (xid(request.xid.as_ref())?, Some(true)),
            ExternalRequest::Cancel(request) => (xid(request.xid.as_ref())?, Some(false)),
        };
        let begun = facts.begun.get(&id);
        check!(DecisionBeforePhaseTwo, begun.is_some(), "{request:?} left before Begin was durable");
        let decision = begun.and_then(|begun| begun.decision);
        let is_confirm = decision.map(|decision| decision == Decision::Confirm);
        check!(
            DecisionBeforePhaseTwo,
            wanted.is_none() || wanted == is_confirm,
            "{request:?} left while the durable decision was {decision:?}"
        );
        Ok(())
    }

    /// Does what it is told; gives the number of the answer.
    pub(crate) fn serve(
        &self,
        request: &ExternalRequest,
        facts: &mut Facts,
        chance: &mut Chance,
    ) -> Step<u8> {
        let answer = match request {
            ExternalRequest::Try(request) => self.reserve(xid(request.xid.as_ref())?, facts, chance),
            ExternalRequest::Confirm(request) => {
                let id = xid(request.xid.as_ref())?;
                let partial = (!request.amounts.is_empty()).then_some(request.amounts.as_slice());
                match facts.branch(id, self.id) {
                    Some(Branch::Held | Branch::Confirmed) => {
                        facts.confirm(id, self.id, partial)?;
                        Answer::Confirmed
                    }
                    _ => Answer::Contradiction,
                }
            }
            ExternalRequest::Cancel(request) => {
                let id = xid(request.xid.as_ref())?;
                if facts.branch(id, self.id) == Some(Branch::Confirmed) {
                    Answer::Contradiction
                } else {
                    facts.branches.insert((id, self.id), Branch::Canceled);
                    Answer::Canceled
                }
            }
        };
        Ok(answer.to_byte())
    }

    fn reserve(&self, id: Xid, facts: &mut Facts, chance: &mut Chance) -> Answer {
        match facts.branch(id, self.id) {
            None if chance.one_in(6) => {
                facts.branches.insert((id, self.id), Branch::Canceled);
                Answer::Rejected(Reason::InsufficientFunds)
            }
            None => {
                facts.branches.insert((id, self.id), Branch::Held);
                Answer::Reserved
            }
            Some(Branch::Held | Branch::Confirmed) => Answer::Reserved,
            Some(Branch::Canceled) => Answer::TryAfterCancel,
        }
    }
}
