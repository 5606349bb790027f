//! Runs the checker over a configuration and reports what it found.
//!
//! Must never call a run complete that stopped early: the only reasons to stop are a broken invariant, or that there is no
//! state left.

use std::fmt;
use std::time::{Duration, Instant};

use stateright::{Checker, HasDiscoveries, Model};

use crate::config::Config;
use crate::model::Escrow;
use crate::properties::{self, Kind};

/// How to search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Search {
    /// One thread, nearest states first: the first broken invariant has the shortest way to it.
    Shortest,
    /// All states, with so many threads; little memory.
    All(usize),
}

/// What was found of one property.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// Its name.
    pub name: &'static str,
    /// An invariant, or a sight.
    pub is_invariant: bool,
    /// The steps to the example: of an invariant, that it is broken; of a sight, that it is seen.
    pub example: Option<Vec<String>>,
}

impl Verdict {
    /// Whether it is as it should be.
    pub fn is_good(&self) -> bool {
        self.is_invariant == self.example.is_none()
    }
}

/// The result of a run.
#[derive(Debug, Clone)]
pub struct Report {
    /// What was run.
    pub config: Config,
    /// Different states.
    pub states: usize,
    /// Steps taken between them.
    pub steps: usize,
    /// The longest way that was looked at. With [`Search::Shortest`], of the shortest ways.
    pub depth: usize,
    /// How long it took.
    pub time: Duration,
    /// Whether no state was left.
    pub is_complete: bool,
    /// All that was expected.
    pub verdicts: Vec<Verdict>,
}

impl Report {
    /// The broken invariants; the one with the shortest way first.
    pub fn broken(&self) -> Vec<&Verdict> {
        let mut broken: Vec<_> =
            self.verdicts.iter().filter(|verdict| verdict.is_invariant && !verdict.is_good()).collect();
        broken.sort_by_key(|verdict| verdict.example.as_ref().map_or(0, Vec::len));
        broken
    }

    /// Whether everything is as it should be, in all states.
    pub fn is_good(&self) -> bool {
        self.is_complete && self.verdicts.iter().all(Verdict::is_good)
    }
}

/// Searches the states of a configuration.
pub fn run(config: Config, search: Search) -> Report {
    let started = Instant::now();
    let model = Escrow::new(config);
    let expected = properties::of(&config);
    let checker = model.checker().finish_when(HasDiscoveries::AnyFailures);
    match search {
        Search::Shortest => report(config, started, &expected, &checker.threads(1).spawn_bfs().join()),
        Search::All(threads) => {
            report(config, started, &expected, &checker.threads(threads).spawn_dfs().join())
        }
    }
}

fn report(
    config: Config,
    started: Instant,
    expected: &[stateright::Property<Escrow>],
    checker: &impl Checker<Escrow>,
) -> Report {
    let mut discoveries = checker.discoveries();
    let verdicts: Vec<_> = expected
        .iter()
        .map(|property| Verdict {
            name: property.name,
            is_invariant: properties::ALL
                .iter()
                .any(|stated| stated.name == property.name && matches!(stated.kind, Kind::Always(_))),
            example: discoveries
                .remove(property.name)
                .map(|path| path.into_actions().iter().map(ToString::to_string).collect()),
        })
        .collect();
    let is_broken = verdicts.iter().any(|verdict| verdict.is_invariant && !verdict.is_good());
    Report {
        config,
        states: checker.unique_state_count(),
        steps: checker.state_count(),
        depth: checker.max_depth(),
        time: started.elapsed(),
        is_complete: checker.is_done() && !is_broken,
        verdicts,
    }
}

/// With `{:#}` the ways to the sights too.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { config, states, steps, depth, time, .. } = self;
        let end = if self.is_complete { "no state left" } else { "stopped" };
        writeln!(
            f,
            "{}: {states} states, {steps} steps, depth {depth}, {:.1} s, {end}",
            config.name,
            time.as_secs_f64()
        )?;
        for verdict in &self.verdicts {
            let word = match (verdict.is_invariant, verdict.is_good()) {
                (true, true) if self.is_complete => "holds",
                (true, true) => "not broken so far",
                (true, false) => "BROKEN",
                (false, true) => "yes",
                (false, false) if self.is_complete => "NEVER SEEN",
                (false, false) => "not seen so far",
            };
            writeln!(f, "  {word:<18} {}", verdict.name)?;
            if let Some(steps) = verdict.example.as_ref().filter(|_| verdict.is_invariant || f.alternate()) {
                for (number, step) in (1..).zip(steps) {
                    writeln!(f, "    {number:>2}. {step}")?;
                }
            }
        }
        Ok(())
    }
}
