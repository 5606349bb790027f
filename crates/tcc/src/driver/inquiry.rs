//! What participants are told: the list of a hello, the outcome of a transaction they ask about.

use escrow_types::{Epoch, ParticipantId, Reason, Sequence};

use super::flight::Phase;
use super::{Decision, Driver, landed_key};

impl Driver {
    /// What a hello to a participant must name: its unfinished transactions of older epochs.
    pub fn unfinished_for(&self, participant: ParticipantId) -> Vec<(Epoch, Sequence)> {
        let epoch = self.machine.epoch();
        let older = self.machine.live().lingering().take_while(|&(of, _, _)| of < epoch);
        let concerned = older.filter(|(_, _, live)| live.content.concerns(participant));
        concerned.map(|(of, sequence, _)| (of, sequence)).collect()
    }

    /// What a participant that asks is to be told of a transaction: the decision, if it may act on it.
    ///
    /// An xid that is unknown never began, or was finished with this participant's word: Cancel is right for the first and
    /// changes nothing for the second.
    pub fn outcome(&self, epoch: Epoch, sequence: Sequence) -> Option<Decision> {
        match self.flights.get(epoch, sequence).map(|flight| flight.phase) {
            Some(Phase::Trying | Phase::Deciding) => None,
            Some(Phase::Ending(decision)) => Some(decision),
            None if self.is_to_come(epoch, sequence) => None,
            None if self.machine.live().get(epoch, sequence).is_some() => self.landed(epoch, sequence),
            None => Some(Decision::Cancel(Reason::DeadlineExceeded)),
        }
    }

    /// Of a newer epoch, or not begun yet: nobody can know it.
    fn is_to_come(&self, epoch: Epoch, sequence: Sequence) -> bool {
        (epoch, sequence) >= (self.flights.epoch(), self.flights.next())
    }

    /// The decision of a transaction whose flight is over while the log does not say so yet.
    pub(super) fn landed(&self, epoch: Epoch, sequence: Sequence) -> Option<Decision> {
        let live = self.machine.live().get(epoch, sequence)?;
        let known = live.decision.or_else(|| self.landed.get(&landed_key(epoch, sequence)).copied());
        known.or_else(|| self.is_recovered.then_some(Decision::Confirm))
    }

    /// A participant asks about reservations past their deadline: the decided ones are sent again, those that never began
    /// are canceled, the undecided are left.
    pub fn asked(&mut self, participant: ParticipantId, asked: &[(Epoch, Sequence)]) {
        for &(epoch, sequence) in asked {
            if let Some(flight) = self.flights.get_mut(epoch, sequence) {
                if matches!(flight.phase, Phase::Ending(_)) {
                    if let Some(branch) = flight.branches.get_mut(participant) {
                        branch.under_way = false;
                    }
                    self.send_open_branches(epoch, sequence, Some(participant));
                }
            } else if !self.is_to_come(epoch, sequence) && self.machine.live().get(epoch, sequence).is_none()
            {
                self.outbox.cancel(participant, epoch, sequence);
            }
        }
    }
}
