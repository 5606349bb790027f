//! The state machine: [`Wallet::apply`] takes a command, changes the state and gives the answers.

use std::collections::BTreeMap;

use escrow_invariants::{Canary, canary};
use escrow_types::{Answer, Epoch, Millis, Partition};

use crate::answers::Answers;
use crate::command::{Command, Sender};
use crate::ledger::Ledger;
use crate::partition::PartitionState;

/// The ledger of one shard.
///
/// `Default` is the empty shard, before the first entry of its log.
#[derive(Debug, Clone, Default)]
pub struct Wallet {
    pub(crate) ledger: Ledger,
    pub(crate) partitions: BTreeMap<Partition, PartitionState>,
    /// The newest time of an applied command: for reports, never for decisions.
    pub(crate) time_ms: Millis,
}

impl Wallet {
    /// Applies one command, which must be durable by now.
    ///
    /// The same commands in the same order give the same state and the same answers. Panics only when an invariant is
    /// broken; never because of what a command holds.
    pub fn apply(&mut self, time_ms: Millis, command: &Command) -> Answers {
        self.time_ms = self.time_ms.max(time_ms);
        self.sing(time_ms);
        match command {
            Command::Hello(hello) => self.hello(hello),
            Command::Try(batch) => Answers::Branches(self.try_batch(batch, false)),
            Command::TryAndConfirm(batch) => Answers::Branches(self.try_batch(batch, true)),
            Command::Confirm(batch) => Answers::Branches(self.confirm_batch(batch)),
            Command::Cancel(batch) => Answers::Branches(self.cancel_batch(batch)),
            Command::Fence(batch) => Answers::Branches(self.fence_batch(batch)),
            Command::Watermark(watermark) => self.watermark(watermark),
            Command::OpenAccounts(rows) => {
                Answers::Opened(rows.iter().map(|row| self.ledger.open(row)).collect())
            }
            Command::SetFrozen(frozen) => Answers::Frozen { found: self.ledger.set_frozen(*frozen) },
        }
    }

    /// Who may speak for a partition, and of what: only the newest epoch, and only of xids that are not newer still.
    pub(crate) fn admit(&self, sender: Sender, epoch: Epoch) -> Result<(), Answer> {
        let newest = self.partitions.get(&sender.partition).map_or(Epoch(0), |partition| partition.epoch);
        if canary::is_on(Canary::DeposedLeaderIsHeard) && sender.epoch < newest {
            return Ok(());
        }
        if sender.epoch < newest {
            return Err(Answer::StaleEpoch);
        }
        if sender.epoch > newest || newest == Epoch(0) {
            return Err(Answer::HelloRequired);
        }
        if epoch > sender.epoch { Err(Answer::Invalid) } else { Ok(()) }
    }
}
