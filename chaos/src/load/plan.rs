//! Which transaction comes next: kind, accounts, amount. The seed and the mix decide.

use escrow_client::Wait;

use super::Load;
use crate::chance::Chance;
use crate::oracle::{Account, Effect};
use crate::scenario::Mix;

/// More than anybody has.
const TOO_MUCH: u64 = u64::MAX / 4;
/// Amounts are small beside what every account begins with.
const AMOUNTS: std::ops::Range<u64> = 1..50;

/// Somebody pays somebody.
#[derive(Debug, Clone, Copy)]
pub(super) struct Payment {
    pub(super) from: Account,
    pub(super) to: Account,
    pub(super) amount: u64,
}

/// One call of some kind.
#[derive(Debug)]
pub(super) enum Plan {
    Transfer { payment: Payment, wait: Wait, style: Style },
    Legs { legs: Vec<(Account, i64)>, wait: Wait },
    TwoStep { payment: Payment, then: Then },
}

/// How the caller of a transfer behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// Asks until it knows.
    Patient,
    /// Twice at once with the same id.
    Twice,
    /// And when it knows, tries other content under the same id.
    ThenOther,
    /// Waits a moment and never asks again.
    Impatient,
}

/// What becomes of a reservation.
#[derive(Debug, Clone, Copy)]
pub(super) enum Then {
    /// So much of it is posted.
    Confirm(u64),
    Cancel,
    /// Nobody ends it.
    Leave,
}

impl Payment {
    pub(super) fn choose(chance: &mut Chance, load: &Load) -> Self {
        let (shards, mix) = (&load.shards, &load.mix);
        let is = |chance: &mut Chance, percent: u8| chance.percent(percent.into());
        let shard = chance.within(0..shards.len() as u64) as usize;
        let stays = is(chance, mix.same_shard_percent);
        let other = if stays { shard } else { (shard + 1) % shards.len() };
        let mut from = *chance.one_of(&shards[shard]);
        let mut to = from;
        while to == from {
            to = *chance.one_of(&shards[other]);
        }
        let hot = shards[0][0];
        if is(chance, mix.hot_percent) && from != hot && to != hot {
            // Three of four pay to it, so that it never runs dry.
            if chance.percent(75) { to = hot } else { from = hot }
        }
        let amount = if is(chance, mix.too_much_percent) { TOO_MUCH } else { chance.within(AMOUNTS) };
        Self { from, to, amount }
    }

    pub(super) const fn effect(self) -> Effect {
        Effect::Transfer { from: self.from, to: self.to, amount: self.amount }
    }
}

impl Plan {
    pub(super) fn choose(chance: &mut Chance, load: &Load) -> Self {
        let mix = &load.mix;
        let wait = if chance.percent(50) { Wait::Decided } else { Wait::Completed };
        let payment = Payment::choose(chance, load);
        let kind = chance.within(0..100) as u8;
        if kind < mix.legs_percent {
            return Self::Legs { legs: legs(payment, Payment::choose(chance, load)), wait };
        }
        if kind < mix.legs_percent + mix.two_step_percent {
            let then = match chance.within(0..10) {
                0..4 => Then::Confirm(payment.amount),
                4..7 => Then::Confirm(payment.amount / 2),
                7..9 => Then::Cancel,
                _ => Then::Leave,
            };
            return Self::TwoStep { payment, then };
        }
        Self::Transfer { payment, wait, style: Style::choose(chance, mix) }
    }
}

impl Style {
    fn choose(chance: &mut Chance, mix: &Mix) -> Self {
        let style = chance.within(0..100) as u8;
        let twice = mix.twice_percent;
        let other = twice + mix.other_content_percent;
        match style {
            style if style < twice => Self::Twice,
            style if style < other => Self::ThenOther,
            style if style < other + mix.impatient_percent => Self::Impatient,
            _ => Self::Patient,
        }
    }
}

/// Two payments as one transaction, if no account is in both; else the first alone.
fn legs(one: Payment, two: Payment) -> Vec<(Account, i64)> {
    let signed = |amount: u64| amount.cast_signed();
    let mut legs = vec![(one.from, -signed(one.amount)), (one.to, signed(one.amount))];
    let apart = [two.from, two.to].iter().all(|account| *account != one.from && *account != one.to);
    if apart {
        legs.extend([(two.from, -signed(two.amount)), (two.to, signed(two.amount))]);
    }
    legs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(mix: Mix) -> Load {
        Load { rate: 1, mix, shards: vec![vec![0, 1, 2], vec![3, 4, 5]], seed: 1 }
    }

    #[test]
    fn nobody_pays_to_oneself_and_legs_are_balanced() {
        let (mut chance, load) = (Chance::new(3), load(Mix { hot_percent: 50, ..Mix::default() }));
        for _ in 0..2_000 {
            let payment = Payment::choose(&mut chance, &load);
            assert_ne!(payment.from, payment.to);
            let legs = legs(payment, Payment::choose(&mut chance, &load));
            assert_eq!(legs.iter().map(|(_, change)| i128::from(*change)).sum::<i128>(), 0);
            let mut accounts: Vec<Account> = legs.iter().map(|(account, _)| *account).collect();
            accounts.sort_unstable();
            accounts.dedup();
            assert_eq!(accounts.len(), legs.len(), "no account twice");
        }
    }

    #[test]
    fn one_seed_chooses_the_same_transactions() {
        let load = load(Mix::default());
        let told = |seed| {
            let mut chance = Chance::new(seed);
            (0..200).map(|_| format!("{:?}", Plan::choose(&mut chance, &load))).collect::<Vec<_>>()
        };
        assert_eq!(told(5), told(5));
        assert_ne!(told(5), told(6));
    }

    #[test]
    fn the_hot_account_is_in_as_many_as_is_said() {
        let (mut chance, load) = (Chance::new(3), load(Mix { hot_percent: 100, ..Mix::default() }));
        let hot = |payment: Payment| payment.from == 0 || payment.to == 0;
        assert!((0..500).all(|_| hot(Payment::choose(&mut chance, &load))));
    }
}
