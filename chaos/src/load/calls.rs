//! Transactions that are calls of their own: transfers, many legs, two-step.

use std::sync::Arc;
use std::time::Duration;

use escrow_client::id::new_transaction_id;
use escrow_client::{Client, ClientError, Leg, Outcome, State, Transfer, Wait};
use escrow_types::{AccountId, TransactionId};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::pace::{Pace, TICK};
use super::plan::{Payment, Plan, Style, Then};
use super::{Ears, Ending, Load, Stopped};
use crate::chance::Chance;
use crate::oracle::{Account, Effect};
use crate::scenario::Mix;
use crate::world::USD;

/// Calls under way; beyond, the loop is not open any more and says so.
const UNDER_WAY_MAX: usize = 10_000;
/// A caller that does not know yet waits so long and asks again.
const AGAIN_AFTER: Duration = Duration::from_millis(300);
/// A caller that has asked for so long gives up.
const GIVES_UP_AFTER: Duration = Duration::from_secs(30);

/// Makes calls and reports how they end.
#[derive(Clone)]
pub(super) struct Caller {
    pub(super) client: Client,
    pub(super) impatient: Client,
    pub(super) ears: Ears,
    pub(super) mix: Mix,
    pub(super) stopped: Stopped,
}

/// Makes so many calls a second until it is stopped, then waits for those under way.
pub(super) async fn run(load: Arc<Load>, per_second: u64, caller: Caller) {
    let mut chance = Chance::new(load.seed);
    let mut pace = Pace::new(per_second as f64);
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut under_way = JoinSet::new();
    while caller.stopped.borrow().is_none() {
        ticks.tick().await;
        while under_way.try_join_next().is_some() {}
        let now = Instant::now();
        while let Some(due) = pace.due(now) {
            let plan = Plan::choose(&mut chance, &load);
            if under_way.len() >= UNDER_WAY_MAX {
                caller.ears.meter.held_back();
                continue;
            }
            caller.ears.meter.submitted(1);
            under_way.spawn(caller.clone().one(plan, due));
        }
    }
    under_way.join_all().await;
}

type Answer = Result<Outcome, ClientError>;

impl Caller {
    /// One transaction to its end.
    async fn one(self, plan: Plan, due: Instant) {
        let id = new_transaction_id();
        match plan {
            Plan::Transfer { payment, wait, style } => self.transfer(&id, payment, wait, style, due).await,
            Plan::Legs { legs, wait } => {
                let effect = Effect::Legs(legs.clone().into());
                let legs = self.legs(&legs);
                let timeout = Some(self.mix.timeout.0);
                let call = || {
                    let (client, id, legs) = (self.client.clone(), id.clone(), legs.clone());
                    async move { client.execute(Some(&id), &legs, wait, timeout).await }
                };
                let answer = self.until_known(&id, &effect, call).await;
                self.ears.meter.ended(ending(&answer), due);
            }
            Plan::TwoStep { payment, then } => self.two_step(&id, payment, then, due).await,
        }
    }

    async fn transfer(&self, id: &TransactionId, payment: Payment, wait: Wait, style: Style, due: Instant) {
        let (oracle, meter) = (&self.ears.oracle, &self.ears.meter);
        let effect = payment.effect();
        let transfer =
            Transfer::new(self.account(payment.from), self.account(payment.to), payment.amount, USD)
                .with_id(id.clone())
                .with_wait(wait);
        if style == Style::Impatient {
            oracle.begins(id.key(), effect, false);
            let answer = self.impatient.transfer(&transfer).await;
            oracle.ended(id.key(), &answer);
            return meter.ended(ending(&answer), due);
        }
        let transfer = transfer.with_timeout(self.mix.timeout.0);
        let call = || {
            let (client, transfer) = (self.client.clone(), transfer.clone());
            async move { client.transfer(&transfer).await }
        };
        if style == Style::Twice {
            let (one, two) =
                tokio::join!(self.until_known(id, &effect, call), self.until_known(id, &effect, call));
            // Whoever knows, knows for both.
            return meter.ended(if one.is_ok() { ending(&one) } else { ending(&two) }, due);
        }
        let answer = self.until_known(id, &effect, call).await;
        meter.ended(ending(&answer), due);
        if style == Style::ThenOther && matches!(ending(&answer), Ending::Confirmed | Ending::Canceled) {
            let amount = transfer.amount / 2 + 1_000;
            let other = self.client.transfer(&Transfer { amount, ..transfer }).await;
            oracle.other_content(id.key(), &other);
        }
    }

    async fn two_step(&self, id: &TransactionId, payment: Payment, then: Then, due: Instant) {
        let (oracle, meter) = (&self.ears.oracle, &self.ears.meter);
        let signed = payment.amount.cast_signed();
        let legs = self.legs(&[(payment.from, -signed), (payment.to, signed)]);
        let confirmed = if let Then::Confirm(amount) = then { amount } else { payment.amount };
        let effect = Payment { amount: confirmed, ..payment }.effect();
        oracle.begins(id.key(), effect, !matches!(then, Then::Confirm(_)));
        let hold = Some(self.mix.hold.0);
        let reserved = loop {
            let reserved =
                self.client.reserve(Some(id), &legs, hold).await.map(|reservation| reservation.outcome);
            if !self.asks_again(&reserved, due).await {
                break reserved;
            }
        };
        oracle.ended(id.key(), &reserved);
        if !matches!(&reserved, Ok(outcome) if outcome.state == State::Reserved) {
            return meter.ended(ending(&reserved), due);
        }
        let ended = match then {
            Then::Confirm(_) => {
                self.client.confirm(id.as_str(), &[confirmed, confirmed], Wait::Completed).await
            }
            Then::Cancel => self.client.cancel(id.as_str(), Wait::Completed).await,
            Then::Leave => {
                sleep(self.mix.hold.0).await;
                return meter.ended_untimed(self.find_out(id, due).await);
            }
        };
        match ended {
            Ok(outcome) if matches!(outcome.state, State::Confirmed | State::Canceled) => {
                oracle.answered(id.key(), outcome.state, outcome.reason);
                meter.ended(ending(&Ok(outcome)), due);
            }
            // A refusal says only that this came too late: the reservation has ended otherwise.
            _ => meter.ended_untimed(self.find_out(id, due).await),
        }
    }

    /// Asks what became of a transaction that began, until it has ended.
    async fn find_out(&self, id: &TransactionId, due: Instant) -> Ending {
        loop {
            let found = self.client.get_transaction(id.as_str()).await.map(|record| record.outcome);
            if let Ok(outcome) = &found {
                self.ears.oracle.answered(id.key(), outcome.state, outcome.reason);
            }
            let undecided = !matches!(ending(&found), Ending::Confirmed | Ending::Canceled);
            if !undecided {
                return ending(&found);
            }
            if !self.has_patience(due) {
                return Ending::Unknown;
            }
            sleep(AGAIN_AFTER).await;
        }
    }

    /// Makes a call that may begin a transaction, again and again with the same id, until its outcome is known.
    async fn until_known<F: Future<Output = Answer>>(
        &self,
        id: &TransactionId,
        effect: &Effect,
        call: impl Fn() -> F,
    ) -> Answer {
        let begun = Instant::now();
        loop {
            self.ears.oracle.begins(id.key(), effect.clone(), false);
            let answer = call().await;
            self.ears.oracle.ended(id.key(), &answer);
            if !self.asks_again(&answer, begun).await {
                return answer;
            }
        }
    }

    /// Whether a caller with this answer asks again; if so, after a pause.
    async fn asks_again(&self, answer: &Answer, due: Instant) -> bool {
        let open = match answer {
            Ok(outcome) => outcome.state == State::Pending,
            Err(error) => error.is_retryable() && !error.has_no_effect(),
        };
        let again = open && self.has_patience(due);
        if again {
            sleep(AGAIN_AFTER).await;
        }
        again
    }

    fn has_patience(&self, due: Instant) -> bool {
        let until = (*self.stopped.borrow()).unwrap_or(due + GIVES_UP_AFTER);
        Instant::now() < until
    }

    fn account(&self, account: Account) -> AccountId {
        self.ears.oracle.accounts()[account as usize].clone()
    }

    fn legs(&self, changes: &[(Account, i64)]) -> Vec<Leg> {
        let leg = |&(account, change): &(Account, i64)| {
            let (account, amount) = (self.account(account), change.unsigned_abs());
            if change < 0 { Leg::debit(account, amount, USD) } else { Leg::credit(account, amount, USD) }
        };
        changes.iter().map(leg).collect()
    }
}

/// How a transaction ended, by the last answer.
fn ending(answer: &Answer) -> Ending {
    match answer {
        Ok(outcome) => match outcome.state {
            State::Confirmed => Ending::Confirmed,
            State::Canceled => Ending::Canceled,
            State::Refused => Ending::Refused,
            State::Pending | State::Reserved | State::NotFound => Ending::Unknown,
        },
        Err(error) if error.has_no_effect() => Ending::Refused,
        Err(_) => Ending::Unknown,
    }
}
