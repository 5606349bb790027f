//! A group of replicas as one endpoint, and the way of a call to the one that leads.
//!
//! Only the leader of a group serves; the others refuse with NOT_LEADER and say who leads, if they know. [`Replicas`] is what
//! all calls to a group share: the endpoints, and who led when it was last heard of. [`Course`] is the way of one call, or of
//! one link, from replica to replica.
//!
//! **Invariant:** between two pauses a course moves at most as often as there are replicas, so that a group without a leader is
//! not asked in a tight loop. With one replica a course never moves.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Stands between the endpoints of the replicas of one group.
const SEPARATOR: char = '+';

/// The replicas of a group.
#[derive(Debug)]
pub struct Replicas {
    endpoints: Box<[String]>,
    /// Who led when it was last heard of; the first, until something is.
    leader: AtomicUsize,
}

impl Replicas {
    /// The replicas of an endpoint such as `http://127.0.0.1:7400+http://127.0.0.1:7401`. Whether each part is an endpoint is
    /// the caller's to check. Error: the part that is given twice.
    pub fn parse(endpoint: &str) -> Result<Self, String> {
        let parts: Vec<&str> = endpoint.split(SEPARATOR).collect();
        for (at, part) in parts.iter().enumerate() {
            if parts[..at].iter().any(|other| is_same(other, part)) {
                return Err(format!("the replica '{part}' is given twice"));
            }
        }
        Ok(Self::of(parts))
    }

    /// A group of one, whatever its endpoint looks like.
    pub fn alone(endpoint: &str) -> Self {
        Self::of(vec![endpoint])
    }

    fn of(parts: Vec<&str>) -> Self {
        let endpoints = parts.into_iter().map(str::to_owned).collect();
        Self { endpoints, leader: AtomicUsize::new(0) }
    }

    /// The endpoint of each replica, in the order in which they were given. At least one.
    pub fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    /// Whether there is nobody else to ask.
    pub fn is_alone(&self) -> bool {
        self.endpoints.len() == 1
    }

    /// The number of the replica that led when it was last heard of.
    pub fn leader(&self) -> usize {
        self.leader.load(Ordering::Relaxed)
    }

    fn named(&self, endpoint: &str) -> Option<usize> {
        self.endpoints.iter().position(|known| is_same(known, endpoint))
    }

    /// The replica after this one, in turn.
    fn after(&self, replica: usize) -> usize {
        (replica + 1) % self.endpoints.len()
    }

    /// A replica was found to lead.
    fn leads(&self, replica: usize) {
        if self.leader() != replica {
            self.leader.store(replica, Ordering::Relaxed);
        }
    }

    /// A replica was found not to lead; calls to come begin at another one, unless somebody knows better already.
    fn passed_over(&self, replica: usize, next: usize) {
        let _ = self.leader.compare_exchange(replica, next, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// Whether two endpoints are the same, but for a slash at the end.
fn is_same(one: &str, other: &str) -> bool {
    one.trim_end_matches('/') == other.trim_end_matches('/')
}

/// The way of one call, or of one link, through the replicas of a group. Begins at the one that led when it was last heard of.
#[derive(Debug)]
pub struct Course<'a> {
    replicas: &'a Replicas,
    at: usize,
    /// Those that did not answer when they were asked last, a bit each. Others may believe for a while that one of them leads.
    silent: u64,
    /// How often it was too slow.
    timeouts: u32,
    /// How often it may still move before the next pause.
    moves_left: usize,
}

impl<'a> Course<'a> {
    /// At the beginning.
    pub fn new(replicas: &'a Replicas) -> Self {
        let mut course = Self { replicas, at: replicas.leader(), silent: 0, timeouts: 0, moves_left: 0 };
        course.paused();
        course
    }

    /// The number of the replica to ask now.
    pub fn at(&self) -> usize {
        self.at
    }

    /// How long to wait for the replica before the next one is asked: `most` where there is no other; else `first`, and twice as
    /// long each time that it was not enough, so that what takes long is not begun again for ever.
    pub fn patience(&self, first: Duration, most: Duration) -> Duration {
        if self.replicas.is_alone() {
            return most;
        }
        first.saturating_mul(2u32.saturating_pow(self.timeouts)).min(most)
    }

    /// The replica did what only a leader does.
    pub fn answered(&mut self) {
        self.replicas.leads(self.at);
        (self.silent, self.timeouts) = (0, 0);
        self.paused();
    }

    /// The replica said that it does not lead, and who does, if it knew. Moves there, or else to the next one; `true` if that one may
    /// be asked at once.
    pub fn refused(&mut self, leader: Option<&str>) -> bool {
        self.silent &= !bit(self.at);
        let named = leader.and_then(|leader| self.replicas.named(leader));
        let next = named.filter(|&named| named != self.at && self.silent & bit(named) == 0);
        self.go(next.unwrap_or_else(|| self.replicas.after(self.at)))
    }

    /// The replica cannot be reached, or the connection broke. Moves to the next one; `true` if that one may be asked at once.
    pub fn unanswered(&mut self) -> bool {
        self.silent |= bit(self.at);
        self.go(self.replicas.after(self.at))
    }

    /// As [`Self::unanswered`], because the patience was at its end.
    pub fn timed_out(&mut self) -> bool {
        self.timeouts = self.timeouts.saturating_add(1);
        self.unanswered()
    }

    /// A pause was made: it may move again.
    pub fn paused(&mut self) {
        self.moves_left = if self.replicas.is_alone() { 0 } else { self.replicas.endpoints.len() };
    }

    fn go(&mut self, next: usize) -> bool {
        self.replicas.passed_over(self.at, next);
        self.at = next;
        let moves_left = self.moves_left.checked_sub(1);
        self.moves_left = moves_left.unwrap_or_default();
        moves_left.is_some()
    }
}

/// The bit of a replica; none for those beyond the width, which are believed in for ever.
fn bit(replica: usize) -> u64 {
    u32::try_from(replica).ok().and_then(|replica| 1u64.checked_shl(replica)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Replicas {
        Replicas::parse("http://a:1+http://b:1+http://c:1").unwrap()
    }

    #[test]
    fn a_list_is_its_parts_and_none_comes_twice() {
        assert_eq!(three().endpoints(), ["http://a:1", "http://b:1", "http://c:1"]);
        assert!(Replicas::parse("http://a:1").unwrap().is_alone());
        let twice = Replicas::parse("http://a:1+http://b:1+http://a:1/").unwrap_err();
        assert!(twice.contains("'http://a:1/' is given twice"), "{twice}");
        assert!(Replicas::alone("http://a:1/x+y").is_alone());
    }

    #[test]
    fn a_hint_is_followed_at_once_and_remembered_for_others() {
        let replicas = three();
        let mut course = Course::new(&replicas);
        assert!(course.refused(Some("http://c:1/")));
        assert_eq!((course.at(), Course::new(&replicas).at()), (2, 2));
    }

    #[test]
    fn without_a_hint_that_helps_it_is_the_next_ones_turn() {
        for hint in [None, Some("http://stranger:1"), Some("http://a:1")] {
            let replicas = three();
            let mut course = Course::new(&replicas);
            course.refused(hint);
            assert_eq!(course.at(), 1, "{hint:?}");
        }
    }

    #[test]
    fn a_hint_to_the_one_that_was_silent_leads_on_to_the_third() {
        let replicas = three();
        let mut course = Course::new(&replicas);
        course.unanswered();
        assert_eq!(course.at(), 1);
        course.refused(Some("http://a:1"));
        assert_eq!(course.at(), 2);
    }

    #[test]
    fn hints_to_those_that_are_silent_hide_nobody() {
        let replicas = Replicas::parse("http://a:1+http://b:1+http://c:1+http://d:1").unwrap();
        let mut course = Course::new(&replicas);
        course.unanswered();
        course.unanswered();
        course.refused(Some("http://a:1"));
        assert_eq!(course.at(), 3, "a and b are down, c has not noticed: d leads");
        course.refused(Some("http://c:1"));
        assert_eq!(course.at(), 2, "c has answered since");
    }

    #[test]
    fn moves_are_bounded_until_there_is_a_pause() {
        let replicas = three();
        let mut course = Course::new(&replicas);
        for _ in 0..2 {
            assert_eq!([(); 4].map(|()| course.refused(None)), [true, true, true, false]);
            course.paused();
        }
    }

    #[test]
    fn one_alone_is_asked_again_after_a_pause_only() {
        let replicas = Replicas::parse("http://a:1").unwrap();
        let mut course = Course::new(&replicas);
        assert!(!course.refused(Some("http://b:1")) && !course.unanswered() && !course.timed_out());
        assert_eq!(course.at(), 0);
        assert_eq!(course.patience(Duration::from_secs(2), Duration::from_secs(10)), Duration::from_secs(10));
    }

    #[test]
    fn patience_grows_until_somebody_answers() {
        let replicas = three();
        let mut course = Course::new(&replicas);
        let patience = |course: &Course<'_>| course.patience(Duration::from_secs(2), Duration::from_secs(5));
        assert_eq!(patience(&course).as_secs(), 2);
        course.timed_out();
        assert_eq!(patience(&course).as_secs(), 4);
        course.timed_out();
        assert_eq!(patience(&course).as_secs(), 5);
        course.answered();
        assert_eq!(patience(&course).as_secs(), 2);
    }

    #[test]
    fn what_others_found_meanwhile_stands() {
        let replicas = three();
        let (mut slow, mut quick) = (Course::new(&replicas), Course::new(&replicas));
        quick.refused(Some("http://c:1"));
        quick.answered();
        slow.unanswered();
        assert_eq!(replicas.leader(), 2, "the slow one knew less");
        slow.answered();
        assert_eq!(replicas.leader(), 1, "and then it saw it lead");
    }
}
