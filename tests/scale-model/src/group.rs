//! What a group goes through in a year: replicas fail, one by one, and come back; when it was the leader, another is elected; when
//! it was one too many, the group is away until a majority is back.
//!
//! Replicas fail independently. What takes several at once (a rack, a rollout, a bug) is not in here.

use crate::random::Random;

/// How replicas fail, and how fast another leads. Times in seconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Failures {
    pub(crate) replicas: usize,
    /// Mean time from the return of a replica to its next failure.
    pub(crate) between: f64,
    /// Mean time that it is away.
    pub(crate) repair: f64,
    /// Until followers stand for election.
    pub(crate) silence: (f64, f64),
    /// From there until callers are served again: votes, opening entry, hellos, reconnects.
    pub(crate) takeover: (f64, f64),
}

/// The group serves nothing. Times in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Outage {
    pub(crate) start: f64,
    pub(crate) end: f64,
}

impl Failures {
    const fn majority(&self) -> usize {
        self.replicas / 2 + 1
    }

    fn election(&self, random: &mut Random) -> f64 {
        random.between(self.silence) + random.between(self.takeover)
    }

    /// The outages of one group, in order and apart.
    pub(crate) fn outages(&self, horizon: f64, random: &mut Random) -> Vec<Outage> {
        // When each replica changes next, and whether it is there.
        let mut replicas: Vec<(f64, bool)> =
            (0..self.replicas).map(|_| (random.exponential(self.between), true)).collect();
        let (mut leader, mut lost_at) = (Some(0), None);
        let mut outages: Vec<Outage> = Vec::new();
        loop {
            let (which, at) = soonest(&replicas);
            if at >= horizon {
                break;
            }
            let is_back = !replicas[which].1;
            let stays = if is_back { self.between } else { self.repair };
            replicas[which] = (at + random.exponential(stays), is_back);
            let there: Vec<usize> = (0..self.replicas).filter(|&replica| replicas[replica].1).collect();
            if there.len() < self.majority() {
                // Who leads without a majority gives up.
                leader = None;
                lost_at = lost_at.or(Some(at));
            } else if leader.is_none_or(|leader| leader == which) {
                leader = Some(there[random.below(there.len())]);
                let start = lost_at.take().unwrap_or(at);
                add(&mut outages, Outage { start, end: at + self.election(random) });
            }
        }
        if let Some(start) = lost_at {
            add(&mut outages, Outage { start, end: horizon });
        }
        outages
    }

    /// The share of time that a majority is away, by calculation.
    #[cfg(test)]
    fn without_majority(&self) -> f64 {
        let away = self.repair / (self.between + self.repair);
        let choose =
            |of: usize, some: usize| (0..some).fold(1.0, |all, k| all * (of - k) as f64 / (k + 1) as f64);
        let exactly = |count: usize| {
            choose(self.replicas, count)
                * away.powi(i32::try_from(count).unwrap())
                * (1.0 - away).powi(i32::try_from(self.replicas - count).unwrap())
        };
        (self.replicas - self.majority() + 1..=self.replicas).map(exactly).sum()
    }
}

fn soonest(replicas: &[(f64, bool)]) -> (usize, f64) {
    let times = replicas.iter().enumerate().map(|(which, (at, _))| (which, *at));
    times.min_by(|one, other| one.1.total_cmp(&other.1)).expect("a group has replicas")
}

/// An outage that begins in the one before makes that longer.
fn add(outages: &mut Vec<Outage>, outage: Outage) {
    match outages.last_mut() {
        Some(last) if outage.start <= last.end => last.end = last.end.max(outage.end),
        _ => outages.push(outage),
    }
}

/// What callers feel of outages: the share of them that waits longer than `patience`, and the share that gives up after `timeout`.
///
/// Who arrives in an outage waits for its end, and then for those who came before: the queue is worked off with what the load leaves
/// free. So the same outage is felt longer the busier a group is.
pub(crate) fn felt(
    outages: &[Outage],
    horizon: f64,
    utilisation: f64,
    patience: f64,
    timeout: f64,
) -> (f64, f64) {
    let (mut late, mut lost) = (0.0, 0.0);
    // How long one waits who arrives at `now`.
    let (mut wait, mut now) = (0.0_f64, 0.0_f64);
    let pace = 1.0 - utilisation;
    let mut pass = |wait: &mut f64, time: f64| {
        late += (((*wait - patience) / pace).clamp(0.0, time)).max(0.0);
        *wait = (*wait - pace * time).max(0.0);
    };
    for outage in outages {
        pass(&mut wait, outage.start - now);
        let length = outage.end - outage.start;
        // Who would wait longer than the timeout gives up and leaves no work.
        let hopeless = (wait + length - timeout).clamp(0.0, length);
        lost += hopeless;
        wait = (wait + length).min(timeout);
        now = outage.start + hopeless;
    }
    pass(&mut wait, (horizon - now).max(0.0));
    ((late + lost) / horizon, lost / horizon)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Failures {
        Failures { replicas: 3, between: 1_000.0, repair: 50.0, silence: (0.6, 0.8), takeover: (0.1, 0.3) }
    }

    fn is_near(found: f64, expected: f64, share: f64) {
        assert!((found - expected).abs() < expected * share, "{found}, expected {expected}");
    }

    fn away(outages: &[Outage]) -> f64 {
        outages.iter().map(|outage| outage.end - outage.start).sum()
    }

    #[test]
    fn a_group_is_away_as_often_as_calculated() {
        let instant = Failures { silence: (0.0, 0.0), takeover: (0.0, 0.0), ..three() };
        for replicas in [1, 3, 5] {
            let failures = Failures { replicas, ..instant };
            let outages = failures.outages(1e8, &mut Random::new(1));
            is_near(away(&outages) / 1e8, failures.without_majority(), 0.05);
        }
    }

    #[test]
    fn a_leader_is_lost_as_often_as_one_of_the_replicas() {
        // Repaired at once: only elections are left.
        let failures = Failures { repair: 0.001, ..three() };
        let outages = failures.outages(1e7, &mut Random::new(1));
        is_near(outages.len() as f64, 1e7 / failures.between, 0.05);
        is_near(away(&outages) / outages.len() as f64, 0.9, 0.05);
    }

    #[test]
    fn an_outage_is_felt_longer_under_load() {
        let outages = [Outage { start: 100.0, end: 103.0 }];
        for (utilisation, expected) in [(0.0, 2.0), (0.5, 4.0), (0.9, 20.0)] {
            let (late, lost) = felt(&outages, 1_000.0, utilisation, 1.0, 5.0);
            is_near(late * 1_000.0, expected, 1e-9);
            assert!(lost.abs() < 1e-12);
        }
    }

    #[test]
    fn who_gives_up_leaves_no_work() {
        let outages = [Outage { start: 100.0, end: 160.0 }];
        let (late, lost) = felt(&outages, 1_000.0, 0.5, 1.0, 5.0);
        is_near(lost * 1_000.0, 55.0, 1e-9);
        is_near(late * 1_000.0, 55.0 + (5.0 - 1.0) / 0.5, 1e-9);
    }

    #[test]
    fn outages_that_follow_each_other_add_up() {
        let apart = [Outage { start: 100.0, end: 102.0 }, Outage { start: 102.5, end: 104.5 }];
        // The second begins while the queue of the first is worked off: 1.75 s are left, and it adds 2 s.
        let (late, _) = felt(&apart, 1_000.0, 0.9, 1.0, 5.0);
        is_near(late * 1_000.0, 0.0 + (2.5_f64).min(10.0) + (2.0 - 0.25 + 2.0 - 1.0) / 0.1, 1e-9);
    }
}
