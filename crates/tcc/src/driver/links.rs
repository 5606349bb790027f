//! The participants, and whether they can be reached.

use escrow_types::{Millis, ParticipantId};

use super::Driver;
use super::flight::Flight;

/// After this many failures in a row an external participant takes no new work …
const BREAKER_FAILURES: u32 = 3;
/// … for so long at a time.
const BREAKER_OPEN_MS: Millis = 1_000;

/// How a participant is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkKind {
    /// A wallet shard: hello, columns over a stream, `TryAndConfirm`, watermark.
    Stream,
    /// An external participant: plain unary Try, Confirm, Cancel; gets its Try only after Begin is durable.
    Unary,
}

/// Whether a participant can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// Connected and greeted.
    Ready,
    /// Not connected for a moment: new work is taken and waits.
    Waiting,
    /// Not reached for some time: new work is refused (the breaker is open).
    Down,
}

/// One participant, as the leader sees it.
#[derive(Debug, Clone)]
pub struct Link {
    /// Its id.
    pub id: ParticipantId,
    /// How it is spoken to.
    pub kind: LinkKind,
    /// Whether it can be reached.
    pub state: LinkState,
    /// Unfinished transactions with a branch on it.
    pub open: usize,
    /// Failed attempts to reach it, since it was last reached.
    pub attempts: u32,
    /// What the last one ended with.
    pub last_error: Box<str>,
    /// When it failed.
    pub last_attempt_ms: Millis,
    /// When the next one is due; 0 for none.
    pub next_attempt_ms: Millis,
    /// When it last answered anything.
    pub last_answer_ms: Millis,
    /// When it was first asked anything since it last answered; 0 if it was not.
    pub asked_ms: Millis,
    /// It answers nothing although it is connected.
    pub stalled: bool,
}

/// All participants.
#[derive(Debug, Clone, Default)]
pub struct Links {
    links: Vec<Link>,
    /// Position by participant id; `u16::MAX` for none.
    positions: Vec<u16>,
}

impl Links {
    pub(super) fn new(participants: Vec<(ParticipantId, LinkKind)>) -> Self {
        let mut links = Self::default();
        for (id, kind) in participants {
            let at = usize::from(id.0);
            if links.positions.len() <= at {
                links.positions.resize(at + 1, u16::MAX);
            }
            assert_eq!(links.positions[at], u16::MAX, "participant ids are unique");
            links.positions[at] = links.links.len() as u16;
            // External participants have no connection to wait for.
            let state = if kind == LinkKind::Unary { LinkState::Ready } else { LinkState::Waiting };
            links.links.push(Link {
                id,
                kind,
                state,
                open: 0,
                attempts: 0,
                last_error: "".into(),
                last_attempt_ms: 0,
                next_attempt_ms: 0,
                last_answer_ms: 0,
                asked_ms: 0,
                stalled: false,
            });
        }
        links
    }

    /// The participant with this id, if it is configured.
    pub fn get(&self, id: ParticipantId) -> Option<&Link> {
        let position = *self.positions.get(usize::from(id.0))?;
        self.links.get(usize::from(position))
    }

    pub(super) fn get_mut(&mut self, id: ParticipantId) -> Option<&mut Link> {
        let position = *self.positions.get(usize::from(id.0))?;
        self.links.get_mut(usize::from(position))
    }

    /// All, in the order of configuration.
    pub fn iter(&self) -> impl Iterator<Item = &Link> {
        self.links.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Link> {
        self.links.iter_mut()
    }

    /// How a participant is spoken to, if it is configured.
    pub fn kind(&self, id: ParticipantId) -> Option<LinkKind> {
        self.get(id).map(|link| link.kind)
    }

    /// Whether columns can be sent to it now.
    pub(super) fn is_ready_stream(&self, id: ParticipantId) -> bool {
        self.get(id).is_some_and(|link| link.kind == LinkKind::Stream && link.state == LinkState::Ready)
    }

    /// Something was sent that it must answer.
    pub(super) fn asked(&mut self, id: ParticipantId, now_ms: Millis) {
        if let Some(link) = self.get_mut(id).filter(|link| link.asked_ms == 0) {
            link.asked_ms = now_ms;
        }
    }

    /// Counts a flight in (+1) or out (-1) at each of its participants.
    pub(super) fn count(&mut self, flight: &Flight, change: isize) {
        for branch in flight.branches.as_slice() {
            if let Some(link) = self.get_mut(branch.participant) {
                link.open = link.open.checked_add_signed(change).expect("counted in before out");
            }
        }
    }
}

impl Driver {
    /// A participant's link changed. `Ready` means connected and greeted under the present epoch: everything that waits for
    /// this participant is sent (again).
    pub fn set_link(&mut self, now_ms: Millis, participant: ParticipantId, state: LinkState) {
        self.hear_time(now_ms);
        let Some(link) = self.links.get_mut(participant) else { return };
        link.state = state;
        // Whatever is in the making was for a connection that is gone; it must not join what the next one gets.
        self.outbox.forget(participant);
        if state != LinkState::Ready {
            return;
        }
        link.attempts = 0;
        link.next_attempt_ms = 0;
        link.last_answer_ms = now_ms;
        link.asked_ms = 0;
        link.stalled = false;
        if link.kind == LinkKind::Stream {
            self.send_all_watermarks_to(participant);
        }
        let mut waiting = Vec::new();
        for (epoch, sequence, flight) in self.flights.iter_mut() {
            let begun = flight.begun;
            if let Some(branch) = flight.branches.get_mut(participant) {
                // Whatever was out on an earlier connection is lost, or its answer is.
                branch.under_way = false;
                if begun {
                    waiting.push((epoch, sequence));
                }
            }
        }
        for (epoch, sequence) in waiting {
            self.send_open_branches(epoch, sequence, Some(participant));
        }
    }

    /// An attempt to reach a participant failed; the next is due at `next_attempt_ms` (0: not known here).
    pub fn link_failed(
        &mut self,
        now_ms: Millis,
        participant: ParticipantId,
        error: &str,
        next_attempt_ms: Millis,
    ) {
        let Some(link) = self.links.get_mut(participant) else { return };
        link.attempts += 1;
        link.last_error = error.into();
        link.last_attempt_ms = now_ms;
        link.next_attempt_ms = next_attempt_ms;
        if link.kind == LinkKind::Unary && link.attempts >= BREAKER_FAILURES {
            link.state = LinkState::Down;
            link.next_attempt_ms = now_ms + BREAKER_OPEN_MS;
        }
    }
}
