//! When what strikes whom: a scenario, the length of the run and a seed make a list of strikes, always the same.
//!
//! **Invariant:** pure. A process is not struck while it still suffers from an earlier strike; every strike is over before the
//! run is.

use std::collections::BTreeMap;
use std::time::Duration;

use escrow_cluster::NodeId;

use crate::chance::Chance;
use crate::failpoints::role_of;
use crate::scenario::{Action, FaultPlan, Scenario, Standing, Target, Whose};

/// After a strike is over, its targets are left alone for so long, so that its recovery can be measured.
const PEACE: Duration = Duration::from_secs(1);

/// One fault at one moment.
#[derive(Debug, Clone)]
pub struct Strike {
    /// From the beginning of the load.
    pub at: Duration,
    /// Whom.
    pub targets: Vec<NodeId>,
    /// The targets are a group, and only the replica is struck that stands so by then.
    pub standing: Option<Standing>,
    /// What.
    pub action: Action,
    /// Where it is to die, if this is a failpoint.
    pub point: Option<String>,
    /// Chooses whatever else there is to choose.
    pub seed: u64,
}

/// All strikes of a run, in order. Empty if the run is too short for any.
pub fn schedule(scenario: &Scenario, duration: Duration, seed: u64) -> Vec<Strike> {
    let mut strikes: Vec<Strike> = Vec::new();
    for (number, plan) in scenario.faults.iter().enumerate() {
        let chance = Chance::new(seed ^ (number as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        strikes.extend(strikes_of(plan, &scenario.nodes(), duration, chance));
    }
    // Stable: of two at the same moment the first in the file comes first.
    strikes.sort_by_key(|strike| strike.at);
    let mut busy_until: BTreeMap<NodeId, Duration> = BTreeMap::new();
    strikes.retain(|strike| {
        let is_free = |node| busy_until.get(node).is_none_or(|until| *until <= strike.at);
        let strikes = strike.targets.iter().all(is_free);
        if strikes {
            let until = strike.at + strike.action.lasts().0 + PEACE;
            busy_until.extend(strike.targets.iter().map(|node| (*node, until)));
        }
        strikes
    });
    strikes
}

fn strikes_of(plan: &FaultPlan, nodes: &[NodeId], duration: Duration, mut chance: Chance) -> Vec<Strike> {
    let lasts = plan.action.lasts().0;
    let offset = chance.next();
    let mut strikes = Vec::new();
    for round in 0.. {
        let planned = plan.at.0 + plan.every.map_or(Duration::ZERO, |every| every.0 * round);
        let late = chance.within(0..plan.jitter.0.as_millis() as u64 + 1);
        let at = planned + Duration::from_millis(late);
        // Drawn for those that come too late as well, so that a longer run begins as a shorter one does.
        let turn = offset.wrapping_add(round.into());
        let (targets, point) = choose(plan, nodes, turn, &mut chance);
        let seed = chance.next();
        if planned + lasts >= duration {
            break;
        }
        if at + lasts < duration {
            let standing =
                if let Target::Standing(standing, _) = plan.target { Some(standing) } else { None };
            strikes.push(Strike { at, targets, standing, action: plan.action.clone(), point, seed });
        }
        if plan.every.is_none() {
            break;
        }
    }
    strikes
}

/// Whom a strike hits, and at which point.
fn choose(
    plan: &FaultPlan,
    nodes: &[NodeId],
    turn: u64,
    chance: &mut Chance,
) -> (Vec<NodeId>, Option<String>) {
    use escrow_cluster::Role::{Coordinator, Participant};
    let of = |role| nodes.iter().copied().filter(move |node| node.role == role).collect::<Vec<_>>();
    let targets = match plan.target {
        Target::Node(node) => vec![node],
        Target::AParticipant => vec![*chance.one_of(&of(Participant))],
        Target::ACoordinator => vec![*chance.one_of(&of(Coordinator))],
        Target::AProcess => vec![*chance.one_of(nodes)],
        Target::TheNextProcess => {
            let mut in_turn = of(Participant);
            in_turn.extend(of(Coordinator));
            vec![in_turn[(turn % in_turn.len() as u64) as usize]]
        }
        Target::EveryParticipant => of(Participant),
        Target::Everything => nodes.to_vec(),
        Target::ItsOwner => Vec::new(),
        Target::Standing(_, whose) => {
            let group = *chance.one_of(&groups_of(nodes, whose));
            nodes.iter().copied().filter(|node| node.group() == group.group()).collect()
        }
    };
    let Action::Failpoints { points } = &plan.action else { return (targets, None) };
    let point = &points[(turn % points.len() as u64) as usize];
    (vec![*chance.one_of(&of(role_of(point)))], Some(point.clone()))
}

/// The groups among which the seed chooses, each by one of its replicas.
fn groups_of(nodes: &[NodeId], whose: Whose) -> Vec<NodeId> {
    let is_meant = |node: &&NodeId| match whose {
        Whose::Anybodys => true,
        Whose::OfA(role) => node.role == role,
        Whose::Of(of) => node.group() == of.group(),
    };
    nodes.iter().filter(|node| node.replica == 1).filter(is_meant).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::ALL;

    fn scenario(faults: &str) -> Scenario {
        Scenario::parse("some.toml", &format!("name = 'n'\nsummary = 's'\nproves = 'p'\n{faults}")).unwrap()
    }

    fn told(strikes: &[Strike]) -> Vec<String> {
        strikes.iter().map(|strike| format!("{strike:?}")).collect()
    }

    #[test]
    fn one_seed_makes_the_same_strikes_in_every_scenario() {
        let minute = Duration::from_secs(60);
        for (name, text) in ALL {
            let scenario = Scenario::parse(name, text).unwrap();
            let first = told(&schedule(&scenario, minute, 7));
            assert_eq!(first, told(&schedule(&scenario, minute, 7)), "{name}");
            assert!(!first.is_empty() || scenario.faults.is_empty(), "{name} does something in a minute");
        }
    }

    #[test]
    fn another_seed_makes_others() {
        let scenario = Scenario::parse("mixed", crate::scenario::find("mixed").unwrap()).unwrap();
        let of = |seed| told(&schedule(&scenario, Duration::from_secs(60), seed));
        assert_ne!(of(1), of(2));
    }

    #[test]
    fn strikes_come_again_and_end_before_the_run_does() {
        let plan = "[[faults]]\nat = '1s'\nevery = '4s'\ntarget = 'participant-0'\ndo = { kill = { down_for = '500ms' } }";
        let strikes = schedule(&scenario(plan), Duration::from_secs(10), 1);
        let at: Vec<u64> = strikes.iter().map(|strike| strike.at.as_secs()).collect();
        assert_eq!(at, [1, 5, 9]);
        assert!(schedule(&scenario(plan), Duration::from_secs(1), 1).is_empty());
    }

    #[test]
    fn nobody_is_struck_while_down() {
        let plan = "[[faults]]\nat = '1s'\ntarget = 'everything'\ndo = { kill = { down_for = '3s' } }
                    [[faults]]\nat = '2s'\nevery = '1s'\ntarget = 'participant-1'\ndo = { freeze = { lasts = '1s' } }";
        let strikes = schedule(&scenario(plan), Duration::from_secs(10), 1);
        let at: Vec<u64> = strikes.iter().map(|strike| strike.at.as_secs()).collect();
        assert_eq!(at, [1, 5, 7]);
    }

    #[test]
    fn failpoints_and_processes_come_in_turn() {
        let plan = "[[faults]]\nat = '1s'\nevery = '4s'\ntarget = 'its owner'
                    do = { failpoints = { points = ['coordinator::before_phase_two_sent', 'participant::after_try_durable'] } }";
        let strikes = schedule(&scenario(plan), Duration::from_secs(20), 1);
        let points: Vec<&str> = strikes.iter().filter_map(|strike| strike.point.as_deref()).collect();
        assert_eq!(points.len(), 5);
        assert!(points.windows(2).all(|pair| pair[0] != pair[1]), "{points:?}");
        assert!(
            strikes.iter().all(|strike| strike.targets[0].role == role_of(strike.point.as_ref().unwrap()))
        );
    }

    #[test]
    fn leaders_are_struck_by_their_group_which_then_has_peace() {
        let plan = "[cluster]\nreplicas = 3
                    [[faults]]\nat = '1s'\nevery = '2s'\ntarget = 'a leader of participant-1'
                    do = { kill = { down_for = '500ms' } }
                    [[faults]]\nat = '1s'\ntarget = 'participant-1.2'\ndo = { freeze = { lasts = '1s' } }";
        let strikes = schedule(&scenario(plan), Duration::from_secs(10), 1);
        let at: Vec<u64> = strikes.iter().map(|strike| strike.at.as_secs()).collect();
        assert_eq!(at, [1, 3, 5, 7, 9], "the other strike met a group that suffered already");
        for strike in strikes {
            let names: Vec<String> = strike.targets.iter().map(ToString::to_string).collect();
            assert_eq!(names, ["participant-1.1", "participant-1.2", "participant-1.3"]);
            assert_eq!(strike.standing, Some(Standing::Leader));
        }
    }

    #[test]
    fn every_group_loses_its_leader_in_time() {
        let plan = "[cluster]\nreplicas = 3
                    [[faults]]\nat = '1s'\nevery = '2s'\ntarget = 'a leader'\ndo = { kill = { down_for = '500ms' } }";
        let strikes = schedule(&scenario(plan), Duration::from_secs(60), 1);
        let mut groups: Vec<NodeId> = strikes.iter().map(|strike| strike.targets[0]).collect();
        groups.sort_unstable();
        groups.dedup();
        assert_eq!(groups.len(), 3);
    }
}
