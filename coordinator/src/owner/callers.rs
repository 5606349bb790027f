//! Who waits for answers: streams, each with a queue of its own, and unary calls, each with one place for one answer.

use std::collections::HashMap;

use escrow_tcc::driver::{Answered, CallerId};
use tokio::sync::mpsc;

use super::mailbox::Reply;

/// Where the answers of a stream go: all of one turn at once. Bounded by what the stream may have unanswered.
pub(crate) type CallerSink = mpsc::UnboundedSender<Vec<Answered>>;

/// The caller of unary calls, all of them; the tag says which.
pub(crate) const UNARY: CallerId = CallerId(0);

/// See the module.
#[derive(Default)]
pub(super) struct Callers {
    streams: HashMap<u32, (CallerSink, Vec<Answered>)>,
    touched: Vec<u32>,
    unary: Vec<Option<Reply>>,
    free: Vec<u32>,
}

impl Callers {
    pub(super) fn register(&mut self, caller: CallerId, sink: CallerSink) {
        self.streams.insert(caller.0, (sink, Vec::new()));
    }

    pub(super) fn unregister(&mut self, caller: CallerId) {
        self.streams.remove(&caller.0);
    }

    /// A place for the answer of a unary call; returns its tag.
    pub(super) fn expect(&mut self, reply: Reply) -> u64 {
        let at = self.free.pop().unwrap_or_else(|| {
            self.unary.push(None);
            (self.unary.len() - 1) as u32
        });
        self.unary[at as usize] = Some(reply);
        u64::from(at)
    }

    /// Takes back a place that no answer will come for.
    pub(super) fn forget(&mut self, tag: u64) {
        if self.unary.get_mut(tag as usize).and_then(Option::take).is_some() {
            self.free.push(tag as u32);
        }
    }

    /// Lets go of everybody: unary calls get no answer, streams end.
    pub(super) fn abandon(&mut self) {
        *self = Self::default();
    }

    /// Delivers the answers of a turn. Answers to callers who are gone are dropped: they can ask again by id.
    pub(super) fn deliver(&mut self, answers: Vec<Answered>) {
        let mut last: Option<(u32, Vec<Answered>)> = None;
        for answer in answers {
            if answer.caller == UNARY {
                let at = answer.tag as usize;
                if let Some(reply) = self.unary.get_mut(at).and_then(Option::take) {
                    self.free.push(at as u32);
                    let _ = reply.send(answer);
                }
                continue;
            }
            match &mut last {
                Some((caller, batch)) if *caller == answer.caller.0 => batch.push(answer),
                _ => {
                    if let Some((caller, batch)) = last.take() {
                        self.put_back(caller, batch);
                    }
                    let mut batch = self.take_batch(answer.caller.0);
                    batch.push(answer);
                    last = Some((answer.caller.0, batch));
                }
            }
        }
        if let Some((caller, batch)) = last {
            self.put_back(caller, batch);
        }
        for caller in std::mem::take(&mut self.touched) {
            if let Some((sink, batch)) = self.streams.get_mut(&caller) {
                let _ = sink.send(std::mem::take(batch));
            }
        }
    }

    fn take_batch(&mut self, caller: u32) -> Vec<Answered> {
        self.streams.get_mut(&caller).map(|(_, batch)| std::mem::take(batch)).unwrap_or_default()
    }

    fn put_back(&mut self, caller: u32, batch: Vec<Answered>) {
        if let Some((_, slot)) = self.streams.get_mut(&caller) {
            if !self.touched.contains(&caller) {
                self.touched.push(caller);
            }
            *slot = batch;
        }
    }
}
