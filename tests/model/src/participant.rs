//! A wallet shard: what it knows of each xid, and what it answers.
//!
//! [`Participant::takes`] is the table "Participant: one slot" of docs/protocol.md. It is applied to durable commands
//! only. A shard must never release a reservation by itself.

use crate::canary::Canary;
use crate::config::Config;
use crate::messages::{Answer, Request, Say};
use crate::words::{Epoch, Shard, XIDS, Xid};

/// What a shard knows of one xid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Slot {
    /// Nothing was heard of it.
    #[default]
    Unseen,
    /// Funds are held.
    Reserved,
    /// Its Try was refused.
    Rejected,
    /// Posted.
    Confirmed,
    /// Released.
    Canceled,
    /// Canceled before any Try came.
    EmptyCanceled,
    /// Below the watermark, or of a closed epoch: nothing is kept.
    Finished,
}

impl Slot {
    /// Whether it ended without being posted, as far as the slot says.
    pub fn is_released(self) -> bool {
        matches!(self, Self::Rejected | Self::Canceled | Self::EmptyCanceled)
    }

    /// Whether nothing but a watermark or a hello can change it.
    pub fn is_fence(self) -> bool {
        !matches!(self, Self::Unseen | Self::Reserved)
    }
}

/// One shard. The state is what its durable log gives.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Participant {
    /// The newest epoch that said hello; 0 before the first.
    pub epoch: Epoch,
    slots: [Slot; XIDS],
    /// How often each branch was posted: what the balance would show.
    posted: [u8; XIDS],
}

impl Participant {
    /// What it knows of an xid.
    pub fn slot(&self, xid: Xid) -> Slot {
        self.slots[xid.index()]
    }

    /// How often it posted an xid; 2 stands for more.
    pub fn posted(&self, xid: Xid) -> u8 {
        self.posted[xid.index()]
    }

    /// Whether the branch of an xid is over, and was not posted.
    pub fn ended_unposted(&self, xid: Xid) -> bool {
        let ended = self.slot(xid).is_released() || self.slot(xid) == Slot::Finished;
        ended && self.posted(xid) == 0
    }

    /// Who holds the funds that another xid needs. A has funds for one reservation at a time, and is paid as much again
    /// when one is posted: lack of funds must never be what prevents a second execution. B is only paid.
    pub fn holder(&self, own: Shard, xid: Xid) -> Option<Xid> {
        let holds = |other: &Xid| self.slot(*other) == Slot::Reserved;
        Xid::all().filter(|&other| own == 0 && other != xid).find(holds)
    }

    /// A durable command is applied. `refuse`: the shard has a reason of its own to refuse a Try.
    pub fn takes(&mut self, request: Request, refuse: bool, config: &Config) -> Option<Answer> {
        let Request { from, to, say } = request;
        if let Say::Hello(_) = say {
            self.greeted(request, config);
            return None;
        }
        let adopts = config.breaks(Canary::NoHello) || config.breaks(Canary::NoHelloNoQuestions);
        if adopts && from > self.epoch {
            self.epoch = from;
        }
        if from < self.epoch && !config.breaks(Canary::DeposedObeyed) {
            return Some(Answer::StaleEpoch);
        }
        if from > self.epoch {
            return Some(Answer::HelloRequired);
        }
        let xid = say.xid()?;
        let slot = self.slot(xid);
        #[allow(clippy::match_same_arms)] // one arm a cell of the table, or some of a column
        let (after, answer) = match (say, slot) {
            (Say::Hello(_), _) => return None,
            (Say::Watermark(_), _) => {
                self.finish(xid);
                return None;
            }
            (_, Slot::Finished) => (slot, Answer::Finished),

            (Say::Try(_) | Say::TryAndConfirm(_), Slot::Unseen) => self.tried(to, say, xid, refuse),
            (Say::Try(_) | Say::TryAndConfirm(_), Slot::Canceled | Slot::EmptyCanceled)
                if config.breaks(Canary::LateTryTaken) =>
            {
                self.tried(to, say, xid, refuse)
            }
            (Say::Try(_) | Say::TryAndConfirm(_), Slot::Rejected) => (slot, Answer::Rejected),
            (Say::Try(_) | Say::TryAndConfirm(_), Slot::Canceled | Slot::EmptyCanceled) => {
                (slot, Answer::TryAfterCancel)
            }
            (Say::Try(_), Slot::Reserved | Slot::Confirmed) => (slot, Answer::Reserved),
            (Say::TryAndConfirm(_), Slot::Confirmed) => (slot, Answer::Confirmed),
            (Say::TryAndConfirm(_), Slot::Reserved) => (slot, Answer::Contradiction),

            (Say::Confirm(_), Slot::Reserved) => (Slot::Confirmed, Answer::Confirmed),
            (Say::Confirm(_), Slot::Confirmed) => (slot, Answer::Confirmed),
            (Say::Confirm(_), _) => (slot, Answer::Contradiction),

            (Say::Fence(_), Slot::Unseen) => (Slot::EmptyCanceled, Answer::TryAfterCancel),
            (Say::Fence(_), Slot::Reserved | Slot::Confirmed) => (slot, Answer::Reserved),
            (Say::Fence(_), Slot::Rejected) => (slot, Answer::Rejected),
            (Say::Fence(_), Slot::Canceled | Slot::EmptyCanceled) => (slot, Answer::TryAfterCancel),

            (Say::Cancel(_), Slot::Unseen) if config.breaks(Canary::NoFence) => (slot, Answer::Canceled),
            (Say::Cancel(_), Slot::Unseen) => (Slot::EmptyCanceled, Answer::Canceled),
            (Say::Cancel(_), Slot::Reserved) => (Slot::Canceled, Answer::Canceled),
            (Say::Cancel(_), Slot::Confirmed) if config.breaks(Canary::CancelAfterConfirm) => {
                self.posted[xid.index()] = 0;
                (Slot::Canceled, Answer::Canceled)
            }
            (Say::Cancel(_), Slot::Confirmed) => (slot, Answer::Contradiction),
            (Say::Cancel(_), Slot::Rejected | Slot::Canceled | Slot::EmptyCanceled) => {
                (slot, Answer::Canceled)
            }
        };
        self.set(xid, after);
        Some(answer)
    }

    /// Opens a newer epoch: of the older ones only what is named stays. The same hello again, or an older one, changes
    /// nothing.
    fn greeted(&mut self, hello: Request, config: &Config) {
        let Say::Hello(unfinished) = hello.say else { return };
        if hello.from <= self.epoch {
            return;
        }
        self.epoch = hello.from;
        for xid in Xid::before(hello.from).filter(|&xid| !unfinished.has(xid)) {
            if config.breaks(Canary::HelloReleasesNothing) && self.slot(xid) == Slot::Reserved {
                continue;
            }
            self.finish(xid);
        }
    }

    /// A Try of an xid that holds nothing.
    fn tried(&self, own: Shard, say: Say, xid: Xid, refuse: bool) -> (Slot, Answer) {
        match say {
            _ if refuse || self.holder(own, xid).is_some() => (Slot::Rejected, Answer::Rejected),
            Say::TryAndConfirm(_) => (Slot::Confirmed, Answer::Confirmed),
            _ => (Slot::Reserved, Answer::Reserved),
        }
    }

    /// Its fence is dropped; if it is reserved it was an orphan and is released. What finished stays finished.
    fn finish(&mut self, xid: Xid) {
        self.set(xid, Slot::Finished);
    }

    /// Only with a broken rule: it acts by a clock.
    pub fn forgets(&mut self, xid: Xid, slot: Slot) {
        self.set(xid, slot);
    }

    fn set(&mut self, xid: Xid, slot: Slot) {
        let at = xid.index();
        if slot == Slot::Confirmed && self.slots[at] != Slot::Confirmed {
            self.posted[at] = (self.posted[at] + 1).min(2);
        }
        self.slots[at] = slot;
    }
}
