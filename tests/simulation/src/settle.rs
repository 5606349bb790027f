//! The end: when all is settled, and what must hold then.

use escrow_journal::Journal;
use escrow_tcc::machine::Decision;
use escrow_types::AccountId;

use crate::jobs::{ACCOUNTS, Job};
use crate::time::{MS, SECOND, Time};
use crate::violation::{Step, Violation, check};
use crate::world::{Event, World};

impl World {
    /// Whether nothing is unfinished, anywhere, and every caller knows.
    pub(crate) fn is_settled(&self) -> bool {
        if self.replicas > 1 && !(self.removed.is_empty() && self.replicas_agree()) {
            return false;
        }
        let coordinator = self.leader().and_then(|at| self.coordinators[at].server.as_ref());
        let quiet = coordinator.is_some_and(|server| {
            server.is_settled()
                && !server.has_work()
                && server.driver().in_flight() == 0
                && server.driver().machine().live().iter().next().is_none()
        });
        let none_held = self.participants.iter().all(|process| {
            process.server.as_ref().is_some_and(|server| {
                process.shards.iter().all(|&shard| server.wallet(shard).reservations_held() == 0)
            })
        });
        quiet && none_held && self.shards_are_quiet() && self.jobs.iter().all(|job| job.told.is_some())
    }

    /// Whether every shard has applied all that it was told.
    fn shards_are_quiet(&self) -> bool {
        self.participants.iter().all(|process| {
            process.server.as_ref().is_some_and(|server| server.is_settled() && !server.has_work())
        })
    }

    /// Whether all replicas of every group are up, and have applied all that anybody has, and have it on their own disks: they may
    /// apply what a majority of the others has before that.
    fn replicas_agree(&self) -> bool {
        let is_synced = |journal: &Journal| journal.cursors().durable == journal.cursors().appended;
        let coordinators = self.coordinators.iter().all(|process| {
            process.server.as_ref().is_some_and(|server| {
                server.applied() == self.groups.coordinator.agreed() && is_synced(server.journal())
            })
        });
        let shards = self.participants.iter().all(|process| {
            process.server.as_ref().is_some_and(|server| {
                let agreed = |shard: u16| self.groups.shards[usize::from(shard)].agreed();
                let applied = |&shard: &u16| server.applied(shard) == agreed(shard);
                process.shards.iter().all(applied) && is_synced(server.journal())
            })
        });
        coordinators && shards
    }

    /// What is not settled, for people.
    pub(crate) fn unsettled(&self) -> String {
        let mut left = self.standings();
        if !self.removed.is_empty() {
            left.push(format!("not whole again: {:?}", self.removed));
        }
        match self.leader().and_then(|at| self.coordinators[at].server.as_ref()) {
            None => left.push("no coordinator leads".to_owned()),
            Some(server) => {
                let live = server.driver().machine().live().iter();
                let live: Vec<_> =
                    live.map(|(epoch, sequence, _)| format!("{}-{sequence}", epoch.0)).take(5).collect();
                left.push(format!("{} in flight, unfinished {live:?}", server.driver().in_flight()));
            }
        }
        for (at, process) in self.participants.iter().enumerate() {
            match &process.server {
                None => left.push(format!("participant {at} is down")),
                Some(server) => {
                    for &shard in &process.shards {
                        let held = server.wallet(shard).reservations(None, 5);
                        if !held.is_empty() {
                            left.push(format!("shard {shard} holds {held:?}"));
                        }
                    }
                }
            }
        }
        let untold: Vec<_> = self
            .jobs
            .iter()
            .enumerate()
            .filter(|(_, job)| job.told.is_none())
            .map(|(number, _)| number)
            .collect();
        left.push(format!("callers who do not know: {untold:?}"));
        left.join("; ")
    }

    /// Everything that can be said once nothing moves any more.
    pub(crate) fn check_the_end(&mut self) -> Step {
        self.finishes_are_logged()?;
        for at in 0..self.coordinators.len() {
            self.observe_coordinator(at)?;
        }
        self.facts.check_the_end()?;
        let replay = |who: String, why: String| {
            Violation::of(escrow_invariants::Invariant::ReplayEquals, format!("{who}: {why}"))
        };
        for process in &self.coordinators {
            let server = process.server.as_ref().expect("all is settled");
            server.check_replay().map_err(|why| replay("coordinator".to_owned(), why))?;
        }
        for (at, process) in self.participants.iter().enumerate() {
            let server = process.server.as_ref().expect("all is settled");
            for (shard, observer) in &self.participants[at - at % self.replicas].observers {
                server.check_replay(*shard).map_err(|why| replay(format!("shard {shard}"), why))?;
                let (live, observed) = (server.wallet(*shard).digest(), observer.wallet.digest());
                check!(ReplayEquals, live == observed, "shard {shard}: live {live}, observed {observed}");
            }
        }
        self.check_balances()?;
        self.jobs.iter().enumerate().try_for_each(|(number, job)| self.check_job(number, job))
    }

    /// What was told last, a watermark say, may be durable and not applied yet.
    fn all_have_applied(&self) -> bool {
        if self.replicas == 1 { self.shards_are_quiet() } else { self.replicas_agree() }
    }

    /// The last ends are logged lazily: a few ticks more, and until the replicas have applied what those bring.
    fn finishes_are_logged(&mut self) -> Step {
        const AGREED_WITHIN: Time = 5 * SECOND;
        let until = self.now() + 200 * MS;
        let last = until + AGREED_WITHIN;
        while let Some(event) = self.next_before(last) {
            // Callers have said all that they had to say.
            if !matches!(event, Event::Caller(_)) {
                self.happen(event)?;
            }
            if self.now() >= until && self.all_have_applied() {
                break;
            }
        }
        check!(ReplayEquals, self.all_have_applied(), "not all applied the same until {} ms", last / MS);
        Ok(())
    }

    /// Balances are what the confirmed branches add up to.
    fn check_balances(&self) -> Step {
        for name in &ACCOUNTS[..7] {
            let key = AccountId::new(name).expect("a good id").key();
            let shown = self.participants.iter().find_map(|process| {
                let server = process.server.as_ref()?;
                process.shards.iter().find_map(|&shard| server.wallet(shard).account(key))
            });
            let Some(view) = shown else { return Err(Violation::other(format!("{name} is gone"))) };
            let balance = &view.balances[0];
            let expected = self.facts.posted.get(&key).copied().unwrap_or_default();
            let posted = i128::from(balance.posted);
            check!(
                Conservation,
                posted == expected,
                "{name} has {posted}, its confirmed legs add up to {expected}"
            );
            let idle = balance.reserved == 0 && balance.incoming == 0;
            check!(ReservationsEnd, idle, "{name} still has {balance:?}");
        }
        Ok(())
    }

    /// What a caller was told is what happened, once.
    fn check_job(&self, number: usize, job: &Job) -> Step {
        let told = job.told.expect("every caller knows");
        let decisions: Vec<_> = self.xids_of(job).iter().map(|xid| self.facts.begun[xid].decision).collect();
        let confirmed = decisions.iter().filter(|decision| **decision == Some(Decision::Confirm)).count();
        let wanted = usize::from(told == Decision::Confirm);
        check!(
            DecisionStands,
            confirmed == wanted,
            "job {number} was told {told:?}, its xids ended {decisions:?}"
        );
        check!(DecisionStands, !decisions.is_empty(), "job {number} was told {told:?} and never began");
        Ok(())
    }
}
