//! The list of invariants of Escrow, with ids.
//!
//! Production code asserts them with [`hold!`](crate::hold), the simulation, the model and chaos check them, and reports name them by
//! id. A broken invariant stops the process before the wrong state can reach the log: never catch that panic.

pub mod canary;

pub use canary::Canary;

use std::fmt;

macro_rules! invariants {
    ($($name:ident = $number:literal, $text:literal;)*) => {
        /// One invariant. The number is its id, as in docs/ARCHITECTURE.md.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Invariant { $(#[doc = $text] $name = $number,)* }

        impl Invariant {
            /// All of them, by id.
            pub const ALL: &'static [Invariant] = &[$(Invariant::$name,)*];

            /// What it says.
            pub const fn text(self) -> &'static str {
                match self { $(Invariant::$name => $text,)* }
            }
        }
    };
}

invariants! {
    Conservation = 1, "Per currency, posted over all accounts plus money in transit (debit posted, credit not yet) is zero.";
    NoOverdraft = 2, "Where overdraft is forbidden, available ≥ 0 and reserved ≥ 0, always; a limit is never exceeded.";
    Atomic = 3, "The branches of an xid end all confirmed or all canceled, or the transaction bears the FORCED mark.";
    DecisionStands = 4, "A durable decision never changes, and what a caller was told equals it.";
    DecisionBeforePhaseTwo = 5, "No phase-2 message leaves before its decision is durable, or implied by what is.";
    OneExecution = 6, "A transaction_id is executed at most once; other content under the same id is refused.";
    EmptyCancelFences = 7, "After an empty cancel no reservation for that xid is ever created.";
    ReservationsEnd = 8, "When faults stop, every reservation ends within a bounded time.";
    AcknowledgedSurvives = 9, "What was acknowledged survives kill -9 and power loss.";
    ReplayEquals = 10, "State rebuilt from checkpoint and log equals the live state, and that rebuilt from the log alone.";
    DeposedChangesNothing = 11, "A message of a deposed epoch changes nothing.";
}

impl Invariant {
    /// The id: 1 to 11.
    pub const fn id(self) -> u8 {
        self as u8
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invariant {} ({})", self.id(), self.text())
    }
}

/// Asserts, in release builds too, that an invariant holds. The message says what was seen.
#[macro_export]
macro_rules! hold {
    ($invariant:expr, $condition:expr, $($message:tt)+) => {
        if !$condition {
            $crate::broken($invariant, format_args!($($message)+));
        }
    };
}

/// Stops the process: the state is not what it must be, and must not reach the log.
#[cold]
#[inline(never)]
pub fn broken(invariant: Invariant, seen: fmt::Arguments<'_>) -> ! {
    panic!("{invariant} is broken: {seen}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_dense_and_in_order() {
        for (at, invariant) in Invariant::ALL.iter().enumerate() {
            assert_eq!(usize::from(invariant.id()), at + 1);
        }
    }

    #[test]
    fn a_held_invariant_passes() {
        hold!(Invariant::NoOverdraft, 1 + 1 == 2, "arithmetic");
    }

    #[test]
    #[should_panic(expected = "invariant 2 (Where overdraft is forbidden")]
    fn a_broken_invariant_names_itself() {
        let available = -1;
        hold!(Invariant::NoOverdraft, available >= 0, "available is {available}");
    }
}
