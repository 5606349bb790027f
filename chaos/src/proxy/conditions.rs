//! What one way through a proxy is like.

use std::time::Duration;

use tokio::time::Instant;

use crate::chance::Chance;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From who connects to the target.
    To,
    /// From the target back.
    From,
}

impl Way {
    /// The other way.
    #[must_use]
    pub const fn back(self) -> Self {
        match self {
            Self::To => Self::From,
            Self::From => Self::To,
        }
    }
}

/// What becomes of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Flow {
    /// They are carried.
    #[default]
    Pass,
    /// They wait.
    Hold,
    /// They are gone, and the connection is reset as soon as bytes pass again.
    Swallow,
}

/// What one way is like. The default is a network that one does not feel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Conditions {
    /// What becomes of bytes.
    pub flow: Flow,
    /// How long every byte is under way.
    pub latency: Duration,
    /// And up to so much longer.
    pub jitter: Duration,
    /// How many bytes pass in a second; `None`: as many as there come.
    pub bytes_per_s: Option<u64>,
}

impl Conditions {
    /// Nothing but this flow.
    pub fn flow(flow: Flow) -> Self {
        Self { flow, ..Self::default() }
    }
}

/// When bytes arrive that came at a moment: never before those that came earlier.
#[derive(Debug)]
pub(super) struct Timetable {
    chance: Chance,
    last: Instant,
    /// When the line has carried everything so far.
    line_free: Instant,
}

impl Timetable {
    pub(super) fn new(chance: Chance) -> Self {
        let now = Instant::now();
        Self { chance, last: now, line_free: now }
    }

    /// When so many bytes arrive that came now.
    pub(super) fn arrival(&mut self, bytes: usize, conditions: &Conditions) -> Instant {
        let now = Instant::now();
        let mut arrival = now + conditions.latency;
        let jitter = conditions.jitter.as_micros() as u64;
        if jitter > 0 {
            arrival += Duration::from_micros(self.chance.within(0..jitter));
        }
        if let Some(bytes_per_s) = conditions.bytes_per_s {
            let takes = Duration::from_secs_f64(bytes as f64 / bytes_per_s.max(1) as f64);
            self.line_free = self.line_free.max(now) + takes;
            arrival = arrival.max(self.line_free + conditions.latency);
        }
        self.last = self.last.max(arrival);
        self.last
    }
}
