//! Hello and watermark: what is forgotten, and what of it was an orphan.

use crate::answers::Answers;
use crate::command::{Hello, Watermark};
use crate::wallet::Wallet;
use escrow_invariants::{Canary, canary};
use escrow_types::Epoch;

impl Wallet {
    pub(crate) fn hello(&mut self, hello: &Hello) -> Answers {
        let open = self.partitions.get(&hello.partition).map_or(Epoch(0), |partition| partition.epoch);
        if hello.epoch > open {
            let partition = self.partitions.entry(hello.partition).or_default();
            let releases_all = canary::is_on(Canary::OrphanReleasedWhileConfirmed);
            let unfinished = if releases_all { &[] } else { hello.unfinished.as_slice() };
            let orphans = partition.open(hello.epoch, unfinished);
            for orphan in orphans {
                self.ledger.release(orphan);
            }
        }
        let epoch = open.max(hello.epoch);
        Answers::Hello { accepted: hello.epoch == epoch && epoch > Epoch(0), epoch }
    }

    pub(crate) fn watermark(&mut self, watermark: &Watermark) -> Answers {
        if self.admit(watermark.sender, watermark.epoch).is_ok()
            && let Some(partition) = self.partitions.get_mut(&watermark.sender.partition)
        {
            for orphan in partition.advance(watermark.epoch, watermark.below, &watermark.except) {
                self.ledger.release(orphan);
            }
        }
        Answers::Watermark
    }
}

#[cfg(test)]
mod tests {
    use crate::answers::Answers;
    use crate::command::{Command, Sender, Watermark};
    use crate::fixture::{Fixture, USD};
    use escrow_types::{Answer, Epoch, Partition};

    #[test]
    fn a_newer_hello_releases_orphans_and_keeps_the_unfinished() {
        let mut fixture = Fixture::new();
        fixture.reserved(0);
        fixture.reserved(1);
        fixture.confirmed(2);
        let accepted = fixture.hello(3, &[(2, 1), (2, 2), (2, 7)]);
        assert_eq!(accepted, Answers::Hello { accepted: true, epoch: Epoch(3) });
        assert_eq!(fixture.posted_reserved_incoming("alice"), (90, 10, 0), "0 was an orphan");
        fixture.epoch = 3;
        let old = |fixture: &mut Fixture, sequence| fixture.end(3, 2, sequence, true);
        assert_eq!(old(&mut fixture, 0), Answer::Finished);
        assert_eq!(old(&mut fixture, 1), Answer::Confirmed);
        assert_eq!(old(&mut fixture, 2), Answer::Confirmed);
        assert_eq!(old(&mut fixture, 7), Answer::Contradiction, "never tried, and may be still");
        let batch = fixture.batch(3, 2, 7, &[("alice", 1, USD)]);
        assert_eq!(fixture.one(&Command::Try(batch)), Answer::Reserved);
    }

    #[test]
    fn the_same_hello_again_changes_nothing_and_an_older_one_is_refused() {
        let mut fixture = Fixture::new();
        fixture.reserved(0);
        let before = fixture.wallet.digest();
        assert_eq!(fixture.hello(2, &[]), Answers::Hello { accepted: true, epoch: Epoch(2) });
        assert_eq!(fixture.hello(1, &[]), Answers::Hello { accepted: false, epoch: Epoch(2) });
        assert_eq!(fixture.hello(0, &[]), Answers::Hello { accepted: false, epoch: Epoch(2) });
        assert_eq!(fixture.wallet.digest(), before);
    }

    #[test]
    fn a_watermark_of_a_deposed_leader_changes_nothing() {
        let mut fixture = Fixture::new();
        fixture.reserved(5);
        fixture.hello(3, &[(2, 5)]);
        let before = fixture.wallet.digest();
        let sender = Sender::new(Partition(0), Epoch(2));
        let stale = Watermark { sender, epoch: Epoch(2), below: 5, except: vec![] };
        fixture.wallet.apply(0, &Command::Watermark(stale));
        assert_eq!(fixture.wallet.digest(), before);
    }

    #[test]
    fn a_reservation_below_the_watermark_is_an_orphan() {
        let mut fixture = Fixture::new();
        fixture.reserved(0);
        fixture.reserved(1);
        fixture.watermark(2, &[1]);
        assert_eq!(fixture.posted_reserved_incoming("alice"), (100, 10, 0));
        assert_eq!(fixture.confirm(0), Answer::Finished);
        assert_eq!(fixture.confirm(1), Answer::Confirmed);
        assert_eq!(fixture.confirm(1), Answer::Confirmed);
        fixture.watermark(2, &[]);
        assert_eq!(fixture.confirm(1), Answer::Finished);
    }
}
