//! When transactions are due: evenly, from the beginning on, whatever happens meanwhile.

use std::time::Duration;

use tokio::time::Instant;

/// How often is looked whether something is due.
pub const TICK: Duration = Duration::from_millis(5);

/// An even pace.
#[derive(Debug)]
pub struct Pace {
    begun: Instant,
    per_second: f64,
    given: u64,
}

impl Pace {
    /// Begins now.
    pub fn new(per_second: f64) -> Self {
        Self { begun: Instant::now(), per_second, given: 0 }
    }

    /// When the next one is due, if that is not after `now`. Each is given once.
    pub fn due(&mut self, now: Instant) -> Option<Instant> {
        if self.per_second <= 0.0 {
            return None;
        }
        let due = self.begun + Duration::from_secs_f64((self.given + 1) as f64 / self.per_second);
        (due <= now).then(|| {
            self.given += 1;
            due
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_given_also_to_those_who_look_late() {
        let mut pace = Pace::new(1_000.0);
        let late = pace.begun + Duration::from_millis(100);
        let dues: Vec<Instant> = std::iter::from_fn(|| pace.due(late)).collect();
        assert!((99..=100).contains(&dues.len()), "{}", dues.len());
        assert!(dues[0] <= pace.begun + Duration::from_millis(2), "the first was due long ago");
        assert!(pace.due(late).is_none() && Pace::new(0.0).due(late).is_none());
    }
}
