//! The network: a set of messages under way, without order.
//!
//! - It duplicates: a message that was delivered stays and may be delivered again.
//! - It loses: nothing is ever obliged to be delivered.
//! - It reorders: any message of the set may be next.
//!
//! So a message that was sent once need not be sent again, and a sender that would send has sent: what could have been
//! lost, or not sent before a crash, is what is never delivered.

use std::fmt;

use crate::messages::{Message, Request, Say};
use crate::words::{Epoch, Shard};

/// The messages under way, in order of their value, so that equal sets are equal states.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Network(Vec<Message>);

impl Network {
    /// A message is sent.
    pub fn send(&mut self, message: Message) {
        if let Err(at) = self.0.binary_search(&message) {
            self.0.insert(at, message);
        }
    }

    /// Whether this was said and can still arrive.
    pub fn has(&self, from: Epoch, to: Shard, say: Say) -> bool {
        self.0.binary_search(&Message::Request(Request { from, to, say })).is_ok()
    }

    /// All messages.
    pub fn iter(&self) -> impl Iterator<Item = &Message> {
        self.0.iter()
    }

    /// The requests.
    pub fn requests(&self) -> impl Iterator<Item = &Request> {
        self.0.iter().filter_map(|message| match message {
            Message::Request(request) => Some(request),
            Message::Reply(_) => None,
        })
    }

    /// Keeps some only.
    pub fn retain(&mut self, keep: impl FnMut(&Message) -> bool) {
        self.0.retain(keep);
    }

    /// Takes the first one out.
    pub fn take_first(&mut self) -> Option<Message> {
        (!self.0.is_empty()).then(|| self.0.remove(0))
    }

    /// Everything is lost.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|message| writeln!(f, "  {message}"))
    }
}
