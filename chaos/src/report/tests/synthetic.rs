//! Records as runs would give them, made up: a queue that fills while a participant is away and drains afterwards.

#![allow(clippy::cast_sign_loss)] // nothing here is negative

use crate::record::{Cluster, Fault, Machine, Record, Sample, Totals, Verdict, WINDOW_MS};

/// A seeded sequence, so that a picture of the page is the same every time.
struct Dice(u64);

impl Dice {
    /// 0 to 1.
    fn roll(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f64 / (1_u64 << 24) as f64
    }

    fn around(&mut self, value: f64, spread: f64) -> f64 {
        value * (1.0 + spread * (2.0 * self.roll() - 1.0))
    }
}

/// What to make up.
pub(crate) struct Plan {
    pub(crate) windows: u64,
    pub(crate) rate_per_s: u64,
    pub(crate) kills: u64,
    pub(crate) targets: u64,
    pub(crate) down_ms: u64,
    pub(crate) in_doubt: u64,
}

/// A run that nothing disturbs.
pub(crate) const CALM: Plan =
    Plan { windows: 240, rate_per_s: 4_000, kills: 0, targets: 3, down_ms: 0, in_doubt: 0 };
/// Participants killed twenty times in three minutes.
pub(crate) const KILLS: Plan =
    Plan { windows: 760, rate_per_s: 2_000, kills: 20, targets: 3, down_ms: 1_800, in_doubt: 40 };
/// So many faults that their numbers do not all fit.
pub(crate) const CROWD: Plan =
    Plan { windows: 760, rate_per_s: 1_500, kills: 200, targets: 4, down_ms: 300, in_doubt: 8 };
/// One kill that leaves ten thousand transactions in doubt.
pub(crate) const FLOOD: Plan =
    Plan { windows: 160, rate_per_s: 8_000, kills: 1, targets: 2, down_ms: 6_000, in_doubt: 10_000 };

const UNDISTURBED: &str =
    "Transfers run across all shards and nothing is done to the cluster. It shows what is usual.";
const KILLED: &str = "Kills participants with kill -9 while transfers run across all shards, and restarts them at once. It \
                      proves that every transaction ends all confirmed or all canceled, and that no money is lost or made.";

/// Makes it up.
pub(crate) fn record(plan: &Plan) -> Record {
    let mut dice = Dice(7);
    let duration_ms = plan.windows * WINDOW_MS;
    let faults: Vec<Fault> = (0..plan.kills).map(|at| fault(plan, at, &mut dice)).collect();
    let samples = samples(plan, &faults, &mut dice);
    let sum = |of: fn(&Sample) -> u64| samples.iter().map(of).sum::<u64>();
    let (confirmed, canceled) = (sum(|window| window.confirmed), sum(|window| window.canceled));
    let (refused, unknown) = (sum(|window| window.refused), sum(|window| window.unknown));
    let totals = Totals {
        submitted: confirmed + canceled + refused + unknown,
        acknowledged: confirmed + canceled,
        confirmed,
        canceled,
        refused,
        unknown,
        unknown_confirmed: unknown / 3,
        kills: plan.kills,
        p50_us: 1_840,
        p99_us: 12_300,
        p999_us: if plan.kills > 0 { 1_930_000 } else { 31_000 },
        max_us: samples.iter().map(|window| window.max_us).max().unwrap_or(0),
        ..Totals::default()
    };
    Record {
        scenario: if plan.kills == 0 { "calm" } else { "kill-participants" }.into(),
        summary: if plan.kills == 0 { UNDISTURBED } else { KILLED }.into(),
        seed: 42,
        rate_per_s: plan.rate_per_s,
        started_unix_ms: 1_776_159_005_000,
        duration_ms,
        build: "escrow 0.1.0, release".into(),
        machine: Machine { cores: 2, cpu: "Example CPU @ 2.60GHz".into(), kernel: "linux 6.1.0".into() },
        cluster: Cluster { coordinators: 1, participants: plan.targets as u32, replicas: 1 },
        reproduce: format!("escrow chaos kill-participants --seed 42 --rate {}", plan.rate_per_s),
        totals,
        verdicts: verdicts(confirmed),
        faults,
        samples,
    }
}

fn fault(plan: &Plan, at: u64, dice: &mut Dice) -> Fault {
    let step = plan.windows * WINDOW_MS / (plan.kills + 1);
    let begun_ms = step * at + (dice.around(step as f64 * 0.6, 0.4) as u64);
    let ended_ms = begun_ms + dice.around(plan.down_ms as f64, 0.3) as u64;
    // What is measured in microseconds.
    let whole = |ms: f64| (ms * 1e3).round() / 1e3;
    let first = whole(dice.around(60.0, 0.8));
    let in_doubt = dice.around(plan.in_doubt as f64, 0.3) as u64;
    Fault {
        begun_ms,
        ended_ms: Some(ended_ms),
        what: "kill -9".into(),
        target: format!("participant {}", (dice.roll() * plan.targets as f64) as u64),
        is_recovery_measured: at % 7 != 6,
        in_doubt_at_return: Some(in_doubt),
        first_resolution_ms: Some(first),
        drained_ms: Some(whole(first + in_doubt as f64 * dice.around(0.5, 0.4))),
        ..Fault::default()
    }
}

fn samples(plan: &Plan, faults: &[Fault], dice: &mut Dice) -> Vec<Sample> {
    let mut waiting = 0.0;
    let per_window = plan.rate_per_s as f64 * WINDOW_MS as f64 / 1e3;
    let window = |at| {
        let at_ms = at * WINDOW_MS;
        let down_for = faults
            .iter()
            .filter(|fault| fault.begun_ms <= at_ms && at_ms < fault.ended_ms.unwrap_or(u64::MAX))
            .map(|fault| at_ms - fault.begun_ms + WINDOW_MS)
            .max();
        let is_load_over = at + 12 > plan.windows;
        let submitted = if is_load_over { 0.0 } else { dice.around(per_window, 0.04) };
        let share = if down_for.is_some() { 0.25 } else { 1.0 };
        let unknown = if down_for.is_some() { submitted * 0.03 } else { 0.0 };
        let refused = if down_for.is_some() { submitted * 0.08 } else { submitted * 0.002 };
        waiting += submitted - unknown - refused;
        let ended = f64::min(waiting, per_window * 5.0 * share) * if down_for.is_some() { 0.2 } else { 1.0 };
        let late = waiting > per_window * 1.5;
        waiting -= ended;
        let p50 = dice.around(1_800.0, 0.1) * if late { 40.0 } else { 1.0 };
        let p99 = dice.around(9_000.0, 0.3) * if late { 150.0 } else { 1.0 };
        let max = dice.around(26_000.0, 0.4).max(down_for.unwrap_or(0) as f64 * 1e3).max(p99 * 1.1);
        let in_doubt =
            down_for.map_or(0.0, |down| (plan.in_doubt as f64).min(down as f64 * plan.in_doubt as f64 / 4e3));
        let answered = ended.round() > 0.0;
        let micros = |value: f64| if answered { value as u64 } else { 0 };
        Sample {
            at_ms,
            submitted: submitted as u64,
            confirmed: (ended * 0.93) as u64,
            canceled: (ended * 0.07) as u64,
            refused: refused as u64,
            unknown: unknown as u64,
            p50_us: micros(p50),
            p99_us: micros(p99),
            p999_us: micros(max * 0.9),
            max_us: micros(max),
            unfinished: Some(waiting as u64 + (submitted * 0.01) as u64),
            in_doubt: Some(in_doubt as u64),
            reservations: down_for.is_none().then_some((submitted * 0.02) as u64 + waiting as u64 / 2),
        }
    };
    (0..plan.windows).map(window).collect()
}

fn verdicts(confirmed: u64) -> Vec<Verdict> {
    let verdict = |invariants: &[u8], check: &str, detail: String| Verdict {
        invariants: invariants.to_vec(),
        check: check.into(),
        ok: true,
        detail,
    };
    vec![
        verdict(&[1], "Money is conserved", "The sum over 1,200 accounts is 0 in USD.".into()),
        verdict(
            &[3, 4],
            "Transactions are atomic",
            format!("{confirmed} confirmed transactions have both branches."),
        ),
        verdict(
            &[4, 6, 9],
            "Acknowledged outcomes stand",
            "Every id was asked for again; all answers are as told.".into(),
        ),
        verdict(&[2], "No overdraft", "No account is below its limit.".into()),
        verdict(&[8], "Reservations end", "0 reservations are left 3 s after the last fault.".into()),
        verdict(
            &[10],
            "Replay gives the same state",
            "3 of 3 logs replay to the hash of the live state.".into(),
        ),
    ]
}

/// A check that does not hold.
pub(crate) fn failed() -> Verdict {
    Verdict {
        invariants: vec![1, 9],
        check: "Balances are what confirmed transactions make of them".into(),
        ok: false,
        detail: "account <b>p2-0017</b> has 98,200 & should have 98,300 (1 of 1,200 accounts)".into(),
    }
}
