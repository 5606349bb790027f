//! What is in flight, by its number: since when its latency counts and how much of it is unanswered.
//!
//! Numbers are dense, so a ring holds them. One straggler may stay while many pass it; only when the ring comes round to
//! it does the sender wait.

use std::time::Instant;

#[derive(Debug, Clone, Copy)]
struct Slot {
    number: u64,
    since: Instant,
    unanswered: u64,
}

/// What is in flight.
#[derive(Debug)]
pub(super) struct Ring {
    slots: Vec<Slot>,
}

/// How many times what is normally in flight fits in before a straggler holds the sender up.
const SLACK: usize = 64;

impl Ring {
    /// For about `in_flight` numbers at a time.
    pub(super) fn new(in_flight: u64) -> Self {
        let slots =
            (in_flight as usize).max(1).saturating_mul(SLACK).clamp(1_024, 1 << 24).next_power_of_two();
        Self { slots: vec![Slot { number: u64::MAX, since: Instant::now(), unanswered: 0 }; slots] }
    }

    const fn at(&self, number: u64) -> usize {
        number as usize & (self.slots.len() - 1)
    }

    /// Whether `number` can be sent: the one that has its place is answered.
    pub(super) fn has_room(&self, number: u64) -> bool {
        self.slots[self.at(number)].unanswered == 0
    }

    /// Notes that `number` was sent, since when its latency counts, and that so many answers are due.
    pub(super) fn sent(&mut self, number: u64, since: Instant, answers: u64) {
        let at = self.at(number);
        self.slots[at] = Slot { number, since, unanswered: answers };
    }

    /// Notes answers and gives since when the latency of the number counts; `None` when so many were not due.
    pub(super) fn answered(&mut self, number: u64, answers: u64) -> Option<Instant> {
        let at = self.at(number);
        let slot = &mut self.slots[at];
        if slot.number != number {
            return None;
        }
        slot.unanswered = slot.unanswered.checked_sub(answers)?;
        Some(slot.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_that_are_not_due_are_noticed() {
        let mut ring = Ring::new(4);
        ring.sent(5, Instant::now(), 2);
        assert!(ring.answered(5, 1).is_some());
        assert!(ring.answered(5, 1).is_some());
        assert!(ring.answered(5, 1).is_none(), "a third answer to two rows");
        assert!(ring.answered(6, 1).is_none(), "never sent");
    }

    #[test]
    fn a_straggler_keeps_its_place() {
        let mut ring = Ring::new(1);
        let around = ring.slots.len() as u64;
        ring.sent(0, Instant::now(), 1);
        assert!(ring.has_room(1) && !ring.has_room(around));
        ring.answered(0, 1);
        assert!(ring.has_room(around));
    }
}
