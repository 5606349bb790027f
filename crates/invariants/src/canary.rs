//! Deliberate bugs, to show that the checks can fail. Compiled in by the feature `canaries`, which only tests turn on, and
//! even then off until a test sings one on its own thread.
//!
//! Each is a mistake that somebody could make, at the place where it would be made: `canary::is_on(Canary::X)` stands there
//! in production code, and is `false` at compile time without the feature. The simulation must catch every one of them.

use std::fmt;
use std::str::FromStr;

macro_rules! canaries {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// One deliberate bug.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Canary { $($(#[$doc])* $name,)* }

        impl Canary {
            /// All of them.
            pub const ALL: &'static [Canary] = &[$(Canary::$name,)*];

            /// Its name on a command line.
            pub const fn name(self) -> &'static str {
                match self { $(Canary::$name => $text,)* }
            }
        }
    };
}

canaries! {
    /// The journal tells that a batch is durable without having synced it.
    AcknowledgeBeforeSync = "acknowledge-before-sync",
    /// A participant answers when it has appended, not when that is durable.
    AnswerBeforeDurable = "answer-before-durable",
    /// Phase 2 leaves when the decision is appended, not when it is durable.
    ConfirmBeforeDecisionIsDurable = "confirm-before-decision-is-durable",
    /// Reservations imply the decision although Begin is not durable.
    ImpliedBeforeBeginIsDurable = "implied-before-begin-is-durable",
    /// After a crash the deadline cancels what its branches may have decided.
    DeadlineCancelsWhatMayBeDecided = "deadline-cancels-what-may-be-decided",
    /// The one-phase shortcut does not wait for its Begin.
    OnePhaseBeforeBeginIsDurable = "one-phase-before-begin-is-durable",
    /// A Cancel of an unknown branch leaves nothing behind.
    NoFenceForEmptyCancel = "no-fence-for-empty-cancel",
    /// A Try that comes after its Cancel is answered as if it had succeeded.
    LateTryAnsweredReserved = "late-try-answered-reserved",
    /// Recovery drives what is undecided only.
    RecoveryForgetsDecided = "recovery-forgets-decided",
    /// Participants drop fences after a while instead of at the watermark.
    FenceDroppedByAge = "fence-dropped-by-age",
    /// A new epoch's hello releases every older reservation, also those that it names as unfinished.
    OrphanReleasedWhileConfirmed = "orphan-released-while-confirmed",
    /// A participant releases a reservation whose deadline has passed, instead of asking.
    ReservationExpiresByItself = "reservation-expires-by-itself",
    /// An id that is remembered is executed again, under a new xid.
    RetryWithNewXid = "retry-with-new-xid",
    /// Participants do what a deposed leader says.
    DeposedLeaderIsHeard = "deposed-leader-is-heard",
    /// A timeout overrides a decision that is being logged.
    TimeoutOverridesDecision = "timeout-overrides-decision",
    /// The hello does not name what is unfinished.
    HelloNamesNothing = "hello-names-nothing",
    /// A checkpoint claims one entry more than it has.
    CheckpointSkipsAnEntry = "checkpoint-skips-an-entry",
    /// A replica answers for its vote before that is durable.
    VoteNotPersisted = "vote-not-persisted",
    /// A leader applies what it proposes, and answers, before a quorum has it.
    AppliedBeforeCommitted = "applied-before-committed",
    /// A leader answers what it is asked without making sure that it still leads.
    DeposedLeaderAnswers = "deposed-leader-answers",
}

impl fmt::Display for Canary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Canary {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|canary| canary.name() == text);
        found.copied().ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|canary| canary.name()).collect();
            format!("no canary is named '{text}'; there are {}", names.join(", "))
        })
    }
}

#[cfg(feature = "canaries")]
mod sung {
    use super::Canary;
    use std::cell::Cell;

    thread_local! {
        static SUNG: Cell<Option<Canary>> = const { Cell::new(None) };
    }

    /// Whether this bug is to be there now, on this thread.
    pub fn is_on(canary: Canary) -> bool {
        SUNG.get() == Some(canary)
    }

    /// Turns a bug on, on this thread, until it is called again.
    pub fn sing(canary: Option<Canary>) {
        SUNG.set(canary);
    }
}

#[cfg(feature = "canaries")]
pub use sung::{is_on, sing};

/// Never, without the feature.
#[cfg(not(feature = "canaries"))]
pub const fn is_on(_canary: Canary) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for &canary in Canary::ALL {
            assert_eq!(canary.name().parse(), Ok(canary));
            assert!(!is_on(canary), "none is on by itself");
        }
        assert!("sparrow".parse::<Canary>().unwrap_err().contains("no-fence-for-empty-cancel"));
    }
}
