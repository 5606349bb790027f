//! Every command twice: at once, and again at any later time, as a network that loses and repeats allows. The end is
//! that of a run in which each came once.
#![allow(clippy::unwrap_used, reason = "test code")]

mod common;

use common::{Leg, batch, hello, open, sender};
use escrow_types::{Currency, Epoch};
use escrow_wallet::{Answers, Command, EndBatch, Overdraft, Wallet, Watermark, kind_of};
use proptest::prelude::*;

/// What a well-behaved coordinator does with one transaction.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Confirmed,
    Canceled,
    CanceledUntried,
    PostedAtOnce,
    LeftOpen,
}

const FATES: [Fate; 5] =
    [Fate::Confirmed, Fate::Canceled, Fate::CanceledUntried, Fate::PostedAtOnce, Fate::LeftOpen];
const EPOCHS: u32 = 3;

/// Commands in the order in which a coordinator with three lives first sends them.
fn script(fates: &[(Fate, u64)]) -> Vec<Command> {
    let usd = |id, overdraft| open(id, Currency::USD, overdraft);
    let accounts = vec![usd("alice", Overdraft::Limit(100)), usd("bob", Overdraft::Forbidden)];
    let mut commands = vec![Command::OpenAccounts(accounts)];
    let per_epoch = fates.len().div_ceil(EPOCHS as usize).max(1);
    let mut unfinished: Vec<(u32, u64)> = Vec::new();
    for (epoch, fates) in (1..=EPOCHS).zip(fates.chunks(per_epoch)) {
        let me = sender(0, epoch);
        commands.push(hello(0, epoch, &unfinished));
        // What the last life left open ends now.
        for (older, sequence) in std::mem::take(&mut unfinished) {
            commands.push(Command::Cancel(EndBatch::new(me, Epoch(older), vec![sequence]).unwrap()));
        }
        for (sequence, &(fate, amount)) in (0..).zip(fates) {
            let legs: Vec<Leg> = vec![("alice", amount, 840), ("bob", amount, kind_of(Currency::USD, true))];
            let tries = batch(me, epoch, &[(sequence, legs)]);
            let end = EndBatch::new(me, Epoch(epoch), vec![sequence]).unwrap();
            match fate {
                Fate::Confirmed => commands.extend([Command::Try(tries), Command::Confirm(end)]),
                Fate::Canceled => commands.extend([Command::Try(tries), Command::Cancel(end)]),
                Fate::CanceledUntried => commands.extend([Command::Cancel(end), Command::Try(tries)]),
                Fate::PostedAtOnce => commands.push(Command::TryAndConfirm(tries)),
                Fate::LeftOpen => {
                    commands.push(Command::Try(tries));
                    unfinished.push((epoch, sequence));
                }
            }
            if sequence % 3 == 2 {
                let except = unfinished.iter().filter(|xid| xid.0 == epoch).map(|xid| xid.1).collect();
                let below = sequence + 1;
                commands.push(Command::Watermark(Watermark {
                    sender: me,
                    epoch: Epoch(epoch),
                    below,
                    except,
                }));
            }
        }
    }
    commands
}

/// A Confirm must follow its reservation: a rejected Try is canceled instead, as the coordinator would.
fn play(commands: &[Command], copies: &[(usize, usize)]) -> Wallet {
    let mut wallet = Wallet::default();
    let mut answers: Vec<Answers> = Vec::new();
    for (at, command) in commands.iter().enumerate() {
        answers.push(wallet.apply(0, command));
        if !copies.is_empty() {
            let (before, again) = (wallet.digest(), wallet.apply(0, command));
            assert_eq!(wallet.digest(), before, "a copy at once changed something: {command:?}");
            if matches!(answers[at], Answers::Branches(_) | Answers::Hello { .. }) {
                assert_eq!(again, answers[at], "a copy at once got another answer: {command:?}");
            }
        }
        for &(of, _) in copies.iter().filter(|&&(of, after)| of <= at && after == at) {
            let before = wallet.digest();
            wallet.apply(0, &commands[of]);
            assert_eq!(wallet.digest(), before, "a late copy changed something: {:?}", commands[of]);
        }
    }
    wallet
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(400), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn everything_twice_ends_as_once(
        fates in prop::collection::vec((prop::sample::select(&FATES[..]), 1..60u64), 1..30),
        copies in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..100),
    ) {
        let commands = script(&fates);
        let copies: Vec<(usize, usize)> =
            copies.iter().map(|(of, after)| (of.index(commands.len()), after.index(commands.len()))).collect();
        let once = play(&commands, &[]);
        let twice = play(&commands, &copies);
        prop_assert_eq!(once.digest(), twice.digest());
        prop_assert_eq!(once.totals()[0].posted, 0);
    }
}

#[test]
fn one_script_gives_identical_runs() {
    let fates: Vec<_> = (0..30).map(|at| (FATES[at % FATES.len()], 1 + at as u64)).collect();
    let commands = script(&fates);
    assert_eq!(play(&commands, &[]).digest(), play(&commands, &[]).digest());
}
