//! What travels: requests of leaders to shards, and their replies.
//!
//! Every request bears its sender's epoch, and most of them an xid: the two epochs that meet in a message.

use std::fmt;

use crate::words::{Epoch, Shard, Xid, XidSet, shard_name};

/// What a leader says to a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Say {
    /// "I lead now; of older epochs these are unfinished."
    Hello(XidSet),
    /// Reserve.
    Try(Xid),
    /// Reserve and post at once.
    TryAndConfirm(Xid),
    /// Post.
    Confirm(Xid),
    /// Release.
    Cancel(Xid),
    /// "What you have not reserved by now you never will." Answered as a Try is.
    Fence(Xid),
    /// "It has finished." A real watermark names many at once; that is the same as one after the other.
    Watermark(Xid),
}

/// What a shard answers. `STALE_EPOCH` and `HELLO_REQUIRED` never travel here: the first stops a leader, who may stop
/// anyway; the second makes it ask again, which it does anyway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Answer {
    /// Funds are held, or a credit is promised.
    Reserved,
    /// The Try was refused.
    Rejected,
    /// Posted.
    Confirmed,
    /// Released, or never reserved.
    Canceled,
    /// A Try that came after its Cancel.
    TryAfterCancel,
    /// Below the watermark, or of a closed epoch.
    Finished,
    /// Does not fit what is known; nothing changed.
    Contradiction,
    /// From a deposed leader.
    StaleEpoch,
    /// From a leader that did not say hello.
    HelloRequired,
}

/// A request of a leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Request {
    /// The sender's epoch.
    pub from: Epoch,
    /// To whom.
    pub to: Shard,
    /// What.
    pub say: Say,
}

/// The reply to a request about an xid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reply {
    /// Who answers,
    pub from: Shard,
    /// and to whom.
    pub to: Epoch,
    /// To what.
    pub say: Say,
    /// The answer.
    pub answer: Answer,
}

/// Anything that can be under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Message {
    /// To a shard.
    Request(Request),
    /// To a leader.
    Reply(Reply),
}

impl Say {
    /// The xid it is about.
    pub fn xid(self) -> Option<Xid> {
        match self {
            Self::Hello(_) => None,
            Self::Try(xid)
            | Self::TryAndConfirm(xid)
            | Self::Confirm(xid)
            | Self::Cancel(xid)
            | Self::Fence(xid)
            | Self::Watermark(xid) => Some(xid),
        }
    }
}

impl fmt::Display for Say {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hello(unfinished) => write!(f, "Hello, unfinished {unfinished}"),
            Self::Try(xid) => write!(f, "Try {xid}"),
            Self::TryAndConfirm(xid) => write!(f, "TryAndConfirm {xid}"),
            Self::Confirm(xid) => write!(f, "Confirm {xid}"),
            Self::Cancel(xid) => write!(f, "Cancel {xid}"),
            Self::Fence(xid) => write!(f, "Fence {xid}"),
            Self::Watermark(xid) => write!(f, "Watermark past {xid}"),
        }
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(Request { from, to, say }) => {
                write!(f, "leader {from} -> {}: {say}", shard_name(*to))
            }
            Self::Reply(Reply { from, to, say, answer }) => {
                write!(f, "{} -> leader {to}: {answer:?} to {say}", shard_name(*from))
            }
        }
    }
}
