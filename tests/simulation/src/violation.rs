//! What a simulation finds.

use std::fmt;

use escrow_invariants::Invariant;

/// Something that must not happen has happened.
#[derive(Debug, Clone)]
pub struct Violation {
    /// Which invariant, if it is one of the list.
    pub invariant: Option<Invariant>,
    /// What was seen.
    pub seen: String,
}

impl Violation {
    /// An invariant of the list is broken.
    pub fn of(invariant: Invariant, seen: impl Into<String>) -> Self {
        Self { invariant: Some(invariant), seen: seen.into() }
    }

    /// Something that no server may do.
    pub fn other(seen: impl Into<String>) -> Self {
        Self { invariant: None, seen: seen.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.invariant {
            Some(invariant) => write!(f, "{invariant} is broken: {}", self.seen),
            None => f.write_str(&self.seen),
        }
    }
}

/// What a step of the simulation gives.
pub(crate) type Step<T = ()> = Result<T, Violation>;

/// Fails with a violation of an invariant unless the condition holds.
macro_rules! check {
    ($invariant:ident, $condition:expr, $($seen:tt)+) => {
        if !$condition {
            return Err($crate::violation::Violation::of(
                escrow_invariants::Invariant::$invariant,
                format!($($seen)+),
            ));
        }
    };
}

pub(crate) use check;
