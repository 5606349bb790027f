//! Rules that can be broken on purpose. The checker must find each of them; see `tests/canaries.rs`.

use crate::config::Config;

macro_rules! canaries {
    ($($name:ident, $text:literal;)*) => {
        /// A rule that is broken.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Canary { $(#[doc = $text] $name,)* }

        impl Canary {
            /// All of them.
            pub const ALL: &'static [Canary] = &[$(Canary::$name,)*];

            /// Its name.
            pub const fn name(self) -> &'static str {
                match self { $(Canary::$name => stringify!($name),)* }
            }

            /// What is broken.
            pub const fn text(self) -> &'static str {
                match self { $(Canary::$name => $text,)* }
            }
        }
    };
}

canaries! {
    NoFence, "A Cancel of an unknown branch leaves no fence.";
    LateTryTaken, "A Try that comes after its Cancel reserves.";
    FenceDroppedByAge, "A shard forgets what ended whenever it likes, not by watermark.";
    ExpiresByItself, "A shard releases a reservation by its own clock.";
    CancelAfterConfirm, "A shard obeys a Cancel after a Confirm.";
    AnswerBeforeDurable, "A shard answers before what it answers is durable.";
    DeposedObeyed, "A shard obeys a leader older than the newest hello.";
    NoHello, "No hello: a shard takes any newer sender, and releases nothing.";
    NoHelloNoQuestions, "No hello, and shards do not ask about overdue reservations either.";
    HelloReleasesNothing, "A hello closes the older epochs but leaves their orphans reserved.";
    HelloNotLogged, "A shard does not log a hello: its own crash makes it forget who leads.";
    HelloNamesNothing, "A hello does not name what is unfinished: a shard releases what is decided.";
    WatermarkPassesUnfinished, "A watermark passes transactions that have not finished.";
    WatermarkBeforeFinish, "A watermark passes transactions whose Finish is not durable.";
    FinishWithoutAnswers, "A decided transaction is finished before its branches acknowledged.";
    PhaseTwoBeforeDurable, "Confirm and Cancel leave before the decision is durable.";
    ImpliedBeforeBegin, "Reservations imply the decision although Begin is not durable.";
    DeadlineCancelsImplied, "The deadline cancels what an older leader may have seen reserved everywhere.";
    ToldBeforeDurable, "A caller is told before the decision is durable.";
    RecoveryForgetsDecided, "Recovery does not load what is decided and not finished.";
    RecoveryDecidesAgain, "Recovery takes what is decided for undecided.";
    RetryGetsNewXid, "A transaction_id that an older epoch knows is begun again.";
    TryAndConfirmBeforeBegin, "TryAndConfirm leaves before Begin is durable.";
    DeposedAppends, "What a deposed leader appends becomes durable.";
}

impl Canary {
    /// The canary with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|canary| canary.name().eq_ignore_ascii_case(name))
    }

    /// The smallest configuration in which it shows.
    pub fn config(self) -> Config {
        let small = Config { name: self.name(), ..Config::SMALL };
        let config = match self {
            Self::TryAndConfirmBeforeBegin | Self::WatermarkBeforeFinish => {
                Config { one_phase: true, ..small }
            }
            Self::AnswerBeforeDurable => Config { epochs: 1, shard_crashes: 1, journal_max: 1, ..small },
            Self::HelloNotLogged => Config { shard_crashes: 1, journal_max: 1, ..small },
            _ => small,
        };
        config.breaking(self)
    }

    /// Whether the coordinator breaks it. If a shard does, nothing may be forgotten: what is spent follows from its rules.
    pub const fn is_of_coordinator(self) -> bool {
        matches!(
            self,
            Self::FinishWithoutAnswers
                | Self::PhaseTwoBeforeDurable
                | Self::ImpliedBeforeBegin
                | Self::DeadlineCancelsImplied
                | Self::ToldBeforeDurable
                | Self::RecoveryForgetsDecided
                | Self::RecoveryDecidesAgain
                | Self::RetryGetsNewXid
                | Self::TryAndConfirmBeforeBegin
                | Self::DeposedAppends
        )
    }

    /// The property that it harms, by name.
    pub const fn harms(self) -> &'static str {
        match self {
            Self::ExpiresByItself
            | Self::CancelAfterConfirm
            | Self::HelloNamesNothing
            | Self::WatermarkPassesUnfinished
            | Self::FinishWithoutAnswers => "3 Atomic",
            Self::AnswerBeforeDurable => "3 Atomic: no branch contradicts",
            Self::ToldBeforeDurable
            | Self::DeadlineCancelsImplied
            | Self::RecoveryDecidesAgain
            | Self::DeposedAppends => "4 DecisionStands",
            Self::PhaseTwoBeforeDurable | Self::ImpliedBeforeBegin => "5 DecisionBeforePhaseTwo",
            Self::FenceDroppedByAge
            | Self::RecoveryForgetsDecided
            | Self::RetryGetsNewXid
            | Self::TryAndConfirmBeforeBegin => "6 OneExecution",
            Self::NoFence | Self::LateTryTaken => "7 EmptyCancelFences",
            Self::NoHelloNoQuestions | Self::WatermarkBeforeFinish => "8 ReservationsEnd",
            Self::NoHello | Self::HelloReleasesNothing => {
                "8 ReservationsEnd: no orphan keeps funds from a retry"
            }
            Self::DeposedObeyed | Self::HelloNotLogged => "11 DeposedChangesNothing",
        }
    }
}
