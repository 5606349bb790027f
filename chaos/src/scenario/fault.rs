//! What is done to whom, and when: one entry of the list `faults` of a scenario.

use escrow_cluster::{NodeId, Role};
use serde::{Deserialize, Deserializer, de::Error as _};

use super::span::Span;
use crate::failpoints;

/// One fault, or one that comes again and again.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultPlan {
    /// When it strikes (for the first time), from the beginning of the load.
    pub at: Span,
    /// Again after so long, as long as the run lasts.
    #[serde(default)]
    pub every: Option<Span>,
    /// Each strike is late by up to so much, as the seed wants.
    #[serde(default)]
    pub jitter: Span,
    /// Whom it strikes.
    pub target: Target,
    /// What is done.
    #[serde(rename = "do")]
    pub action: Action,
}

/// Whom a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// `participant-1`, `coordinator-0`; `participant-1.2` with replicas.
    Node(NodeId),
    /// `a participant`: the seed chooses.
    AParticipant,
    /// `a coordinator`.
    ACoordinator,
    /// `a process`: any of them.
    AProcess,
    /// `the next process`: one after the other, participants first.
    TheNextProcess,
    /// `every participant`.
    EveryParticipant,
    /// `everything`: every process.
    Everything,
    /// `its owner`: for failpoints, whoever has it.
    ItsOwner,
    /// `a leader`, `a leader of a participant`, `a follower of participant-1`: of replicas, whichever it is then.
    Standing(Standing, Whose),
}

/// How a replica stands in its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It leads.
    Leader,
    /// It does not.
    Follower,
}

/// Whose replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// Of anything: the seed chooses.
    Anybodys,
    /// Of any coordinator or of any participant: the seed chooses.
    OfA(Role),
    /// Of this one.
    Of(NodeId),
}

/// What is done.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Action {
    /// SIGKILL; started again later.
    Kill {
        /// How long it stays down.
        down_for: Span,
    },
    /// SIGTERM; started again later.
    Stop {
        /// How long it stays down.
        down_for: Span,
    },
    /// SIGSTOP, then SIGCONT: it keeps its connections and answers nothing.
    Freeze {
        /// How long.
        lasts: Span,
    },
    /// The network between it and all other processes carries nothing. Callers still reach it, as if they were on its side.
    Partition {
        /// How long.
        lasts: Span,
        /// Which way nothing is carried.
        #[serde(default)]
        direction: Direction,
        /// What becomes of that which is sent meanwhile.
        how: How,
    },
    /// The network is slow.
    Slow {
        /// How long.
        lasts: Span,
        /// What everything takes longer, one way.
        latency: Span,
        /// And up to so much more, at random.
        #[serde(default)]
        jitter: Span,
        /// KiB a second each way; without it as many as there come.
        #[serde(default)]
        kib_per_s: Option<u32>,
    },
    /// The network loses. TCP hides lost packets: what is seen of them are pauses while they are sent again, and now and then a
    /// connection that is given up. So this makes pauses and resets.
    Lossy {
        /// How long.
        lasts: Span,
        /// On average so long between two pauses.
        pause_every: Span,
        /// How long a pause is.
        pause: Span,
        /// On average so long between two resets of all connections.
        reset_every: Span,
    },
    /// It is started again such that it dies at a certain point of its work; one point at each strike, all in turn. Needs
    /// servers with failpoints.
    Failpoints {
        /// The points; the seed chooses where in the list the run begins.
        points: Vec<String>,
    },
    /// Its disk is filled until it stops by itself; then there is room again and it is started again.
    FillDisk {
        /// How long it may take until it stops.
        within: Span,
    },
    /// Its clock jumps, and later jumps back. Needs servers with failpoints.
    JumpClock {
        /// How far, in milliseconds; perhaps backwards.
        by_ms: i64,
        /// How long it is wrong.
        lasts: Span,
    },
    /// SIGKILL, and everything that it had on disk is gone; started again later, and it must become a member again.
    Wipe {
        /// How long it stays down.
        down_for: Span,
    },
    /// What an upgrade does: every process is stopped with SIGTERM and started again, one at a time, each only when its group can spare
    /// it.
    RollingRestart {
        /// How long all of that may take.
        within: Span,
    },
    /// Participants are frozen until so many transactions are unfinished; then everything is killed and started again.
    PileUp {
        /// How many.
        unfinished: u64,
        /// How long that may take.
        within: Span,
    },
}

/// Which way carries nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Both ways.
    #[default]
    Both,
    /// What is sent to it.
    To,
    /// What comes from it.
    From,
}

/// What becomes of bytes that a partition stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// They wait and arrive when it is over: a partition that TCP outlives.
    Hold,
    /// They are gone, and so is the connection when it is over: a partition that TCP does not outlive.
    Swallow,
}

impl Action {
    pub(super) const fn is_of_the_network(&self) -> bool {
        matches!(self, Self::Partition { .. } | Self::Slow { .. } | Self::Lossy { .. })
    }

    pub(super) const fn needs_failpoints(&self) -> bool {
        matches!(self, Self::Failpoints { .. } | Self::JumpClock { .. })
    }

    /// How long it lasts at most, as far as that is known beforehand.
    pub const fn lasts(&self) -> Span {
        match self {
            Self::Kill { down_for } | Self::Stop { down_for } | Self::Wipe { down_for } => *down_for,
            Self::Freeze { lasts }
            | Self::Partition { lasts, .. }
            | Self::Slow { lasts, .. }
            | Self::Lossy { lasts, .. }
            | Self::JumpClock { lasts, .. } => *lasts,
            Self::Failpoints { .. } => Span::secs(2),
            Self::FillDisk { within } | Self::PileUp { within, .. } | Self::RollingRestart { within } => {
                *within
            }
        }
    }
}

impl FaultPlan {
    pub(super) fn check(&self, nodes: &[NodeId], small_disk: Option<NodeId>) -> Result<(), String> {
        if let Target::Node(node) = self.target
            && !nodes.contains(&node)
        {
            return Err(format!("there is no {node}"));
        }
        let is_replicated = nodes.iter().any(|node| node.replica > 0);
        if let Target::Standing(_, whose) = self.target {
            let is_there = |of: NodeId| nodes.contains(&of.replica(1));
            match whose {
                _ if !is_replicated => return Err("leaders and followers need cluster.replicas".to_owned()),
                Whose::Of(of) if !is_there(of) => return Err(format!("there is no {of}")),
                _ => {}
            }
        }
        if self.every.is_some_and(|every| every <= Span::default()) {
            return Err("every: must not be nothing".to_owned());
        }
        let of_participants = match self.target {
            Target::Node(node) => node.role == Role::Participant,
            Target::AParticipant | Target::EveryParticipant => true,
            _ => false,
        };
        match &self.action {
            action if action.is_of_the_network() && !of_participants && !is_replicated => {
                Err("without cluster.replicas the network is that between coordinators and participants: target participants"
                    .to_owned())
            }
            Action::FillDisk { .. } if small_disk.map(Target::Node) != Some(self.target) => {
                Err("fill_disk: its target must be the one with cluster.small_disk".to_owned())
            }
            Action::Wipe { .. } if !is_replicated => {
                Err("wipe: without cluster.replicas what is lost is lost".to_owned())
            }
            Action::RollingRestart { .. } if self.target != Target::Everything => {
                Err("rolling_restart: its target is 'everything'".to_owned())
            }
            Action::PileUp { .. } if self.target != Target::Everything => {
                Err("pile_up: its target is 'everything'".to_owned())
            }
            Action::Failpoints { .. } if self.target != Target::ItsOwner => {
                Err("failpoints: the target is 'its owner'".to_owned())
            }
            Action::Failpoints { points } if points.is_empty() => Err("failpoints: none is named".to_owned()),
            Action::Failpoints { points } => points.iter().try_for_each(|point| {
                let known = failpoints::ALL.contains(&point.as_str());
                if known { Ok(()) } else { Err(format!("there is no failpoint '{point}'")) }
            }),
            _ if self.target == Target::ItsOwner => Err("'its owner': only failpoints have one".to_owned()),
            _ => Ok(()),
        }
    }
}

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(match text.as_str() {
            "a participant" => Self::AParticipant,
            "a coordinator" => Self::ACoordinator,
            "a process" => Self::AProcess,
            "the next process" => Self::TheNextProcess,
            "every participant" => Self::EveryParticipant,
            "everything" => Self::Everything,
            "its owner" => Self::ItsOwner,
            other => parse_standing(other).or_else(|| parse_node(other).map(Self::Node)).ok_or_else(|| {
                D::Error::custom(format!(
                    "'{other}' is no target: expected a process such as participant-1 or coordinator-0, 'a \
                     participant', 'a coordinator', 'a process', 'the next process', 'every participant', \
                     'everything', 'its owner', or with replicas 'a leader' or 'a follower', also 'of a \
                     participant', 'of a coordinator' or of such as 'of participant-1'"
                ))
            })?,
        })
    }
}

fn parse_standing(text: &str) -> Option<Target> {
    let (standing, rest) = match (text.strip_prefix("a leader"), text.strip_prefix("a follower")) {
        (Some(rest), _) => (Standing::Leader, rest),
        (_, Some(rest)) => (Standing::Follower, rest),
        _ => return None,
    };
    let whose = match rest.strip_prefix(" of ") {
        None if rest.is_empty() => Whose::Anybodys,
        None => return None,
        Some("a participant") => Whose::OfA(Role::Participant),
        Some("a coordinator") => Whose::OfA(Role::Coordinator),
        Some(node) => Whose::Of(parse_node(node).filter(|node| node.replica == 0)?),
    };
    Some(Target::Standing(standing, whose))
}

/// A process by its name.
pub(super) fn node<'de, D: Deserializer<'de>>(deserializer: D) -> Result<NodeId, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_node(&text).ok_or_else(|| D::Error::custom(format!("'{text}' is no process such as participant-1")))
}

fn parse_node(text: &str) -> Option<NodeId> {
    let (role, number) = text.split_once('-')?;
    let (number, replica) = match number.split_once('.') {
        Some((number, replica)) => (number, replica.parse().ok()?),
        None => (number, 0),
    };
    let number = number.parse().ok()?;
    match role {
        "coordinator" => Some(NodeId::coordinator(number).replica(replica)),
        "participant" => Some(NodeId::participant(number).replica(replica)),
        _ => None,
    }
}
