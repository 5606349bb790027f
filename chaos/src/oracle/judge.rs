//! The judgement: what callers saw, against what the servers say when everything has settled. Pure.

use std::collections::BTreeMap;
use std::fmt;

use escrow_client::State;
use escrow_invariants::Invariant;

use super::{Final, Known, Memory, Oracle, Wrong};
use crate::record::Verdict;

/// How a run came out, in numbers.
#[derive(Debug, Default, Clone)]
pub struct Figures {
    /// Transactions.
    pub transactions: u64,
    /// Of them acknowledged as confirmed.
    pub confirmed: u64,
    /// Of them acknowledged as canceled.
    pub canceled: u64,
    /// Refused before they began.
    pub refused: u64,
    /// Without a final answer: callers who gave up.
    pub unknown: u64,
    /// Of the unknown, those that were executed all the same.
    pub unknown_confirmed: u64,
    /// What the coordinator says of all of them in the end.
    pub ends: BTreeMap<String, u64>,
}

/// What came of it all.
#[derive(Debug)]
pub struct Judgement {
    /// One for each thing that was checked.
    pub verdicts: Vec<Verdict>,
    /// Counts.
    pub figures: Figures,
}

/// What is wrong, by what it breaks.
#[derive(Default)]
struct Findings {
    lost: Wrong,
    told_wrong: Wrong,
    refused_but_there: Wrong,
    unwanted: Wrong,
    not_ended: Wrong,
    balances: Wrong,
}

impl Judgement {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.verdicts.iter().all(|verdict| verdict.ok)
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { transactions, confirmed, canceled, refused, unknown, unknown_confirmed, ends } = self;
        write!(
            f,
            "{transactions} transactions: {confirmed} confirmed, {canceled} canceled, {refused} refused, "
        )?;
        write!(f, "{unknown} unknown (of which {unknown_confirmed} confirmed); in the end {ends:?}")
    }
}

impl Oracle {
    /// Judges. `ends` is what the coordinators say of every transaction, in the order of [`Oracle::keys`]; `first` and `real`
    /// are the balances of the accounts before the first transaction and now. Meaningful when everything has settled.
    pub fn judge(&self, ends: &[Final], first: &[i64], real: &[i64]) -> Judgement {
        let memory = &*self.memory();
        assert_eq!(ends.len(), memory.known.len(), "an end for every transaction");
        let (mut findings, mut figures) = (Findings::default(), Figures::default());
        let mut expected: Vec<i128> = first.iter().map(|&balance| balance.into()).collect();
        for (known, &end) in memory.known.iter().zip(ends) {
            findings.look_at(known, end);
            figures.count(known, end);
            if end.0 == State::Confirmed {
                for (account, change) in known.effect.changes() {
                    expected[account as usize] += i128::from(change);
                }
            }
        }
        for (account, (&expected, &real)) in expected.iter().zip(real).enumerate() {
            if expected != i128::from(real) {
                let account = &self.accounts[account];
                findings
                    .balances
                    .push(|| format!("{account} has {real}, confirmed transactions make it {expected}"));
            }
        }
        Judgement { verdicts: findings.verdicts(memory, &figures, real.len()), figures }
    }
}

impl Findings {
    fn look_at(&mut self, known: &Known, end: Final) {
        let (key, (state, _)) = (known.key, end);
        if !matches!(state, State::Confirmed | State::Canceled | State::NotFound) {
            self.not_ended.push(|| format!("{key} is {end:?}"));
        }
        if let Some(told) = known.acknowledged
            && told != end
        {
            let wrong = if told.0 == State::Confirmed { &mut self.lost } else { &mut self.told_wrong };
            wrong.push(|| format!("{key} was acknowledged {told:?}, but is {end:?}"));
        }
        if known.calls == known.without_effect && state != State::NotFound {
            self.refused_but_there
                .push(|| format!("{key} was refused by all {} calls, but is {end:?}", known.calls));
        }
        if known.never_confirmed && state == State::Confirmed {
            self.unwanted.push(|| format!("{key} is confirmed, but nobody asked for that"));
        }
    }

    fn verdicts(mut self, memory: &Memory, figures: &Figures, accounts: usize) -> Vec<Verdict> {
        use Invariant::{
            AcknowledgedSurvives, Atomic, Conservation, DecisionStands, OneExecution, ReservationsEnd,
        };
        let Memory { told_wrong, other_content, other_content_refused, .. } = memory;
        self.told_wrong.count += told_wrong.count;
        self.told_wrong.first.extend(told_wrong.first.iter().cloned());
        let (confirmed, answers) = (figures.confirmed, figures.confirmed + figures.canceled);
        vec![
            verdict(
                &[AcknowledgedSurvives],
                "no acknowledged transfer is lost",
                &self.lost,
                format!("{confirmed} acknowledged as confirmed, all are"),
            ),
            verdict(
                &[DecisionStands],
                "what callers were told is the outcome",
                &self.told_wrong,
                format!("{answers} final answers, all as the coordinator says"),
            ),
            verdict(
                &[OneExecution, Atomic, Conservation],
                "every balance is what confirmed transactions make it: none twice, none in part",
                &self.balances,
                format!("{accounts} accounts exact"),
            ),
            verdict(
                &[OneExecution],
                "what was refused left no trace",
                &self.refused_but_there,
                format!("{} refused", figures.refused),
            ),
            verdict(
                &[OneExecution],
                "an id has one content",
                other_content,
                format!("other content was refused {other_content_refused} times"),
            ),
            verdict(
                &[DecisionStands],
                "nothing is confirmed that its caller did not confirm",
                &self.unwanted,
                String::new(),
            ),
            verdict(
                &[ReservationsEnd],
                "every transaction has ended",
                &self.not_ended,
                format!("{} transactions", figures.transactions),
            ),
        ]
    }
}

fn verdict(invariants: &[Invariant], check: &str, wrong: &Wrong, compared: String) -> Verdict {
    let ok = wrong.count == 0;
    let detail = if ok { compared } else { format!("{} wrong: {}", wrong.count, wrong.first.join("; ")) };
    let invariants = invariants.iter().map(|invariant| invariant.id()).collect();
    Verdict { invariants, check: check.to_owned(), ok, detail }
}

impl Figures {
    fn count(&mut self, known: &Known, end: Final) {
        self.transactions += 1;
        let name =
            end.1.map_or_else(|| end.0.code().to_owned(), |reason| format!("{}({reason})", end.0.code()));
        *self.ends.entry(name).or_default() += 1;
        match known.acknowledged {
            Some((State::Confirmed, _)) => self.confirmed += 1,
            Some(_) => self.canceled += 1,
            None if known.calls == known.without_effect => self.refused += 1,
            None => {
                self.unknown += 1;
                self.unknown_confirmed += u64::from(end.0 == State::Confirmed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use escrow_client::{ClientError, Outcome};
    use escrow_types::{AccountId, Reason, TransactionKey};

    use super::super::Effect;
    use super::*;

    const CONFIRMED: Final = (State::Confirmed, None);
    const CANCELED: Final = (State::Canceled, Some(Reason::InsufficientFunds));
    const NOT_FOUND: Final = (State::NotFound, None);
    const ONE: TransactionKey = TransactionKey(1);

    /// Two accounts with 100 each, and one transfer of 10 that has begun.
    fn begun() -> Oracle {
        let accounts = ["alice", "bob"].map(|name| AccountId::new(name).unwrap());
        let oracle = Oracle::new(accounts.to_vec());
        oracle.begins(ONE, Effect::Transfer { from: 0, to: 1, amount: 10 }, false);
        oracle
    }

    /// The checks that do not hold.
    fn broken(oracle: &Oracle, ends: &[Final], real: [i64; 2]) -> Vec<String> {
        let judgement = oracle.judge(ends, &[100, 100], &real);
        let failed = judgement.verdicts.into_iter().filter(|verdict| !verdict.ok);
        failed.map(|verdict| verdict.check).collect()
    }

    fn outcome() -> Outcome {
        let (state, position) = (State::Confirmed, String::new());
        Outcome { transaction_id: "1".to_owned(), xid: None, state, reason: None, position }
    }

    #[test]
    fn a_run_in_order_has_nothing_wrong() {
        let oracle = begun();
        oracle.answered(ONE, State::Confirmed, None);
        assert_eq!(broken(&oracle, &[CONFIRMED], [90, 110]), [""; 0]);
    }

    #[test]
    fn a_lost_acknowledged_transfer_is_seen() {
        let oracle = begun();
        oracle.answered(ONE, State::Confirmed, None);
        assert_eq!(broken(&oracle, &[NOT_FOUND], [100, 100]), ["no acknowledged transfer is lost"]);
    }

    #[test]
    fn a_wrong_told_outcome_is_seen() {
        let oracle = begun();
        oracle.answered(ONE, CANCELED.0, CANCELED.1);
        assert_eq!(broken(&oracle, &[CONFIRMED], [90, 110]), ["what callers were told is the outcome"]);
    }

    #[test]
    fn two_different_answers_are_seen() {
        let oracle = begun();
        oracle.answered(ONE, State::Confirmed, None);
        oracle.answered(ONE, CANCELED.0, CANCELED.1);
        assert_eq!(broken(&oracle, &[CONFIRMED], [90, 110]), ["what callers were told is the outcome"]);
    }

    #[test]
    fn a_double_execution_and_half_a_one_are_seen_in_the_balances() {
        let balances = "every balance is what confirmed transactions make it: none twice, none in part";
        let oracle = begun();
        oracle.answered(ONE, State::Confirmed, None);
        assert_eq!(broken(&oracle, &[CONFIRMED], [80, 120]), [balances]);
        assert_eq!(broken(&oracle, &[CONFIRMED], [90, 100]), [balances]);
        assert_eq!(broken(&oracle, &[CANCELED], [90, 110]).last().map(String::as_str), Some(balances));
    }

    #[test]
    fn what_was_refused_must_not_be_there() {
        let oracle = begun();
        oracle.refused(ONE);
        assert_eq!(broken(&oracle, &[NOT_FOUND], [100, 100]), [""; 0]);
        assert_eq!(broken(&oracle, &[CONFIRMED], [90, 110]), ["what was refused left no trace"]);
        // Another call with the same id may have begun it.
        oracle.begins(ONE, Effect::Transfer { from: 0, to: 1, amount: 10 }, false);
        assert_eq!(broken(&oracle, &[CONFIRMED], [90, 110]), [""; 0]);
    }

    #[test]
    fn other_content_under_a_known_id_must_be_refused() {
        let oracle = begun();
        oracle.answered(ONE, State::Confirmed, None);
        let refused = ClientError::Refused { reason: Reason::TransactionIdReused, message: String::new() };
        oracle.other_content(ONE, &Err(refused));
        assert_eq!(broken(&oracle, &[CONFIRMED], [90, 110]), [""; 0]);
        oracle.other_content(ONE, &Ok(outcome()));
        assert_eq!(broken(&oracle, &[CONFIRMED], [90, 110]), ["an id has one content"]);
    }

    #[test]
    fn what_has_not_ended_or_was_not_wanted_is_seen() {
        let pending = (State::Pending, None);
        assert_eq!(broken(&begun(), &[pending], [100, 100]), ["every transaction has ended"]);
        let oracle = Oracle::new(begun().accounts().to_vec());
        oracle.begins(ONE, Effect::Legs([(0, -10), (1, 10)].into()), true);
        let unwanted = "nothing is confirmed that its caller did not confirm";
        assert_eq!(broken(&oracle, &[CONFIRMED], [90, 110]), [unwanted]);
    }

    #[test]
    fn an_unknown_outcome_may_be_either() {
        let oracle = begun();
        assert_eq!(broken(&oracle, &[CONFIRMED], [90, 110]), [""; 0]);
        assert_eq!(broken(&oracle, &[NOT_FOUND], [100, 100]), [""; 0]);
        let figures = oracle.judge(&[CONFIRMED], &[100, 100], &[90, 110]).figures;
        assert_eq!((figures.unknown, figures.unknown_confirmed, figures.confirmed), (1, 1, 0));
    }
}
