//! What the recovery log holds: one kind of command a file, each with its bytes.
//!
//! Commands say what *was decided to happen*; they are validated before they are logged, and applying one that does
//! not fit the state is a broken invariant, not an error.

mod begin;
mod decide;
mod finish;
mod mark;

pub use begin::{BeginLegs, BeginTransfers, Name, NameOf};
pub(crate) use begin::{decode_legs, decode_text, encode_legs, encode_text};
pub(crate) use decide::decision_of;
pub use decide::{Decide, DecidePartial};
pub use finish::{Finish, FinishImplied};
pub use mark::{Attention, Force, GiveUp};

use escrow_types::Epoch;
use escrow_types::codec::{Malformed, Put as _, Take};

/// One command of the recovery log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// A leader took over: all sequences start again under this epoch.
    OpenEpoch(Epoch),
    /// Transfers began.
    BeginTransfers(BeginTransfers),
    /// A transaction of several legs began.
    BeginLegs(BeginLegs),
    /// Decisions were made.
    Decide(Decide),
    /// A two-step transaction was confirmed in part.
    DecidePartial(DecidePartial),
    /// Every branch of these acknowledged the decision.
    Finish(Finish),
    /// Every branch of these has ended, and what they answered is the decision: decided and finished in one.
    FinishImplied(FinishImplied),
    /// A participant contradicted the decision.
    Attention(Attention),
    /// An operator set or overrode a decision.
    Force(Force),
    /// An operator ended a transaction without its participants' word.
    GiveUp(GiveUp),
    /// An operator paused (or resumed) new work.
    SetPaused(bool),
}

const OPEN_EPOCH: u8 = 1;
const BEGIN_TRANSFERS: u8 = 2;
const BEGIN_LEGS: u8 = 3;
const DECIDE: u8 = 4;
const DECIDE_PARTIAL: u8 = 5;
const FINISH: u8 = 6;
const FINISH_IMPLIED: u8 = 7;
const ATTENTION: u8 = 8;
const FORCE: u8 = 9;
const GIVE_UP: u8 = 10;
const SET_PAUSED: u8 = 11;

impl Command {
    /// Appends its bytes: one byte of kind, then the command's own.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::OpenEpoch(epoch) => {
                out.put_u8(OPEN_EPOCH);
                out.put_u32(epoch.0);
            }
            Self::BeginTransfers(begin) => {
                out.put_u8(BEGIN_TRANSFERS);
                begin.encode(out);
            }
            Self::BeginLegs(begin) => {
                out.put_u8(BEGIN_LEGS);
                begin.encode(out);
            }
            Self::Decide(decide) => {
                out.put_u8(DECIDE);
                decide.encode(out);
            }
            Self::DecidePartial(decide) => {
                out.put_u8(DECIDE_PARTIAL);
                decide.encode(out);
            }
            Self::Finish(finish) => {
                out.put_u8(FINISH);
                finish.encode(out);
            }
            Self::FinishImplied(finish) => {
                out.put_u8(FINISH_IMPLIED);
                finish.encode(out);
            }
            Self::Attention(attention) => {
                out.put_u8(ATTENTION);
                attention.encode(out);
            }
            Self::Force(force) => {
                out.put_u8(FORCE);
                force.encode(out);
            }
            Self::GiveUp(give_up) => {
                out.put_u8(GIVE_UP);
                give_up.encode(out);
            }
            Self::SetPaused(paused) => {
                out.put_u8(SET_PAUSED);
                out.put_u8(u8::from(*paused));
            }
        }
    }

    /// Reads one command off the front.
    pub fn decode(take: &mut Take<'_>) -> Result<Self, Malformed> {
        Ok(match take.u8()? {
            OPEN_EPOCH => Self::OpenEpoch(Epoch(take.u32()?)),
            BEGIN_TRANSFERS => Self::BeginTransfers(BeginTransfers::decode(take)?),
            BEGIN_LEGS => Self::BeginLegs(BeginLegs::decode(take)?),
            DECIDE => Self::Decide(Decide::decode(take)?),
            DECIDE_PARTIAL => Self::DecidePartial(DecidePartial::decode(take)?),
            FINISH => Self::Finish(Finish::decode(take)?),
            FINISH_IMPLIED => Self::FinishImplied(FinishImplied::decode(take)?),
            ATTENTION => Self::Attention(Attention::decode(take)?),
            FORCE => Self::Force(Force::decode(take)?),
            GIVE_UP => Self::GiveUp(GiveUp::decode(take)?),
            SET_PAUSED => Self::SetPaused(take.flag()?),
            _ => return Err(Malformed("unknown kind of command")),
        })
    }
}
