//! What participants may forget, of the open epoch and of those before it.
//!
//! A watermark says only what is applied, which is durable: an end that is lost in a crash is asked for once more, and
//! its participant must still know it.

use escrow_types::{Epoch, ParticipantId, Sequence};

use super::{Driver, LinkKind, LinkState, Send};

impl Driver {
    /// Tells wallet shards what they may forget. Of an older epoch they are told when half of what was left of it has ended,
    /// and when all has.
    pub fn send_watermark(&mut self) {
        let mut changed: Vec<Epoch> = Vec::new();
        for (epoch, told) in self.older_epochs.iter_mut().filter(|(_, told)| *told > 0) {
            let left = self.machine.live().lingering_of(*epoch).count();
            if left <= *told / 2 {
                *told = left;
                changed.push(*epoch);
            }
        }
        let is_ready = |link: &&super::Link| link.kind == LinkKind::Stream && link.state == LinkState::Ready;
        let shards: Vec<ParticipantId> = self.links.iter().filter(is_ready).map(|link| link.id).collect();
        for shard in shards {
            self.send_watermarks_to(shard, &changed);
        }
    }

    /// A shard that was away hears all of them, before any work: its window may be far behind.
    pub(super) fn send_all_watermarks_to(&mut self, shard: ParticipantId) {
        let older: Vec<Epoch> = self.older_epochs.iter().map(|(epoch, _)| *epoch).collect();
        self.send_watermarks_to(shard, &older);
    }

    fn send_watermarks_to(&mut self, shard: ParticipantId, older: &[Epoch]) {
        for &epoch in older {
            let except: Vec<Sequence> = self.machine.live().lingering_of(epoch).collect();
            self.outbox.watermark(shard, Send::Watermark { epoch, below: 0, except });
        }
        let (below, except) = self.machine.watermark();
        let epoch = self.machine.epoch();
        self.outbox.watermark(shard, Send::Watermark { epoch, below, except });
    }
}
