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
        let Some(first) = answers.first().map(|answer| answer.caller) else { return };
        // Room that was made for others does not go along: streams may be slow to take their answers, and are bounded by rows.
        let has_little_room_to_spare = answers.capacity() <= 2 * answers.len();
        if first != UNARY && has_little_room_to_spare && answers.iter().all(|answer| answer.caller == first) {
            // One stream has all the load: its batch is there already.
            if let Some((sink, _)) = self.streams.get(&first.0) {
                let _ = sink.send(answers);
            }
            return;
        }
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

#[cfg(test)]
mod tests {
    use escrow_tcc::driver::Standing;
    use escrow_types::Epoch;
    use tokio::sync::oneshot;

    use super::*;

    fn answer(caller: u32, tag: u64) -> Answered {
        let (epoch, standing) = (Epoch(1), Standing::Pending);
        Answered { caller: CallerId(caller), tag, epoch, sequence: tag, standing, completed: false }
    }

    /// The tags of each batch that came.
    fn batches(receiver: &mut mpsc::UnboundedReceiver<Vec<Answered>>) -> Vec<Vec<u64>> {
        let batches = std::iter::from_fn(|| receiver.try_recv().ok());
        let batches =
            batches.inspect(|batch| assert!(batch.capacity() < 100, "room that was made for others"));
        batches.map(|batch| batch.iter().map(|answered| answered.tag).collect()).collect()
    }

    #[test]
    fn everybody_gets_their_own_answers_in_order_and_one_batch_a_turn() {
        let mut callers = Callers::default();
        let mut receivers: Vec<_> = (1..=2)
            .map(|caller| {
                let (sink, receiver) = mpsc::unbounded_channel();
                callers.register(CallerId(caller), sink);
                receiver
            })
            .collect();
        let (reply, mut replied) = oneshot::channel();
        let place = callers.expect(reply);
        let unary = answer(UNARY.0, place);
        // The last caller is gone.
        callers.deliver(vec![answer(1, 7), answer(2, 8), unary, answer(1, 9), answer(3, 10)]);
        callers.deliver(vec![answer(1, 11), answer(1, 12)]);
        callers.deliver(vec![answer(3, 13)]);
        callers.deliver(vec![answer(2, 14), answer(1, 15)]);
        // One that was made for many does not go to a caller who has few.
        let mut roomy = Vec::with_capacity(1_000);
        roomy.push(answer(2, 16));
        callers.deliver(roomy);
        callers.deliver(Vec::new());
        assert_eq!(batches(&mut receivers[0]), [vec![7, 9], vec![11, 12], vec![15]]);
        assert_eq!(batches(&mut receivers[1]), [vec![8], vec![14], vec![16]]);
        assert_eq!(replied.try_recv().map(|answered| answered.tag), Ok(place));
    }
}
