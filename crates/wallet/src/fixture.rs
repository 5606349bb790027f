//! For tests: a wallet with a few accounts and one open epoch, and short words for commands.

use escrow_types::{AccountId, Answer, Currency, Epoch, Partition};

use crate::answers::Answers;
use crate::balances::Overdraft;
use crate::command::{
    Command, EndBatch, Hello, OpenAccount, Partial, Sender, SetFrozen, TryBatch, Watermark, kind_of,
};
use crate::wallet::Wallet;

pub(crate) const USD: u16 = 840;
pub(crate) const USD_CREDIT: u16 = kind_of(Currency::USD, true);

/// A wallet where alice has 100 cents; partition 0 is in epoch 2.
#[derive(Clone)]
pub(crate) struct Fixture {
    pub(crate) wallet: Wallet,
    pub(crate) epoch: u32,
}

fn key(id: &str) -> u128 {
    AccountId::new(id).unwrap().key().0
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let mut fixture = Self { wallet: Wallet::default(), epoch: 2 };
        let row = |id: &str, overdraft| OpenAccount {
            id: AccountId::new(id).unwrap(),
            currency: Currency::USD,
            overdraft,
        };
        fixture.wallet.apply(
            0,
            &Command::OpenAccounts(vec![
                row("alice", Overdraft::Forbidden),
                row("bob", Overdraft::Forbidden),
                row("frozen", Overdraft::Forbidden),
                row("external", Overdraft::Unlimited),
            ]),
        );
        // Funded in another partition, whose slots are then forgotten.
        let hello = Hello { partition: Partition(7), epoch: Epoch(1), unfinished: vec![] };
        fixture.wallet.apply(0, &Command::Hello(hello));
        let sender = Sender::new(Partition(7), Epoch(1));
        let accounts = vec![key("external"), key("alice")];
        let fund =
            TryBatch::new(sender, Epoch(1), 0, vec![0, 0], accounts, vec![100, 100], vec![USD, USD_CREDIT]);
        assert_eq!(fixture.one(&Command::TryAndConfirm(fund.unwrap())), Answer::Confirmed);
        fixture.hello(2, &[]);
        fixture
    }

    pub(crate) fn one(&mut self, command: &Command) -> Answer {
        let answers = self.wallet.apply(0, command);
        let answers: Vec<_> = answers.branches().expect("a branch command").iter().collect();
        assert_eq!(answers.len(), 1);
        answers[0].1
    }

    #[expect(clippy::unused_self, reason = "reads as the other words do")]
    pub(crate) fn batch(
        &self,
        sender: u32,
        epoch: u32,
        sequence: u64,
        legs: &[(&str, u64, u16)],
    ) -> TryBatch {
        let sequences = vec![sequence; legs.len()];
        let accounts = legs.iter().map(|leg| key(leg.0)).collect();
        let amounts = legs.iter().map(|leg| leg.1).collect();
        let kinds = legs.iter().map(|leg| leg.2).collect();
        let sender = Sender::new(Partition(0), Epoch(sender));
        TryBatch::new(sender, Epoch(epoch), 1_000, sequences, accounts, amounts, kinds).unwrap()
    }

    pub(crate) fn try_legs(&mut self, sequence: u64, legs: &[(&str, u64, u16)]) -> Answer {
        self.one(&Command::Try(self.batch(self.epoch, self.epoch, sequence, legs)))
    }

    pub(crate) fn debit(&mut self, sequence: u64, amount: u64) -> Answer {
        self.try_legs(sequence, &[("alice", amount, USD)])
    }

    pub(crate) fn debit_and_confirm(&mut self, sequence: u64, amount: u64) -> Answer {
        self.one(&Command::TryAndConfirm(self.batch(
            self.epoch,
            self.epoch,
            sequence,
            &[("alice", amount, USD)],
        )))
    }

    pub(crate) fn end(&mut self, sender: u32, epoch: u32, sequence: u64, confirm: bool) -> Answer {
        let batch =
            EndBatch::new(Sender::new(Partition(0), Epoch(sender)), Epoch(epoch), vec![sequence]).unwrap();
        self.one(&if confirm { Command::Confirm(batch) } else { Command::Cancel(batch) })
    }

    pub(crate) fn confirm(&mut self, sequence: u64) -> Answer {
        self.end(self.epoch, self.epoch, sequence, true)
    }

    pub(crate) fn cancel(&mut self, sequence: u64) -> Answer {
        self.end(self.epoch, self.epoch, sequence, false)
    }

    pub(crate) fn fence(&mut self, sequence: u64) -> Answer {
        let sender = Sender::new(Partition(0), Epoch(self.epoch));
        self.one(&Command::Fence(EndBatch::new(sender, Epoch(self.epoch), vec![sequence]).unwrap()))
    }

    pub(crate) fn confirm_partial(&mut self, sequence: u64, amounts: &[u64]) -> Answer {
        let partial = Partial { legs: vec![amounts.len() as u32], amounts: amounts.to_vec() };
        let sender = Sender::new(Partition(0), Epoch(self.epoch));
        let batch = EndBatch::with_partial(sender, Epoch(self.epoch), vec![sequence], Some(partial)).unwrap();
        self.one(&Command::Confirm(batch))
    }

    pub(crate) fn hello(&mut self, epoch: u32, unfinished: &[(u32, u64)]) -> Answers {
        let unfinished = unfinished.iter().map(|&(epoch, sequence)| (Epoch(epoch), sequence)).collect();
        self.wallet
            .apply(0, &Command::Hello(Hello { partition: Partition(0), epoch: Epoch(epoch), unfinished }))
    }

    pub(crate) fn watermark(&mut self, below: u64, except: &[u64]) {
        let sender = Sender::new(Partition(0), Epoch(self.epoch));
        let watermark = Watermark { sender, epoch: Epoch(self.epoch), below, except: except.to_vec() };
        self.wallet.apply(0, &Command::Watermark(watermark));
    }

    pub(crate) fn freeze(&mut self, id: &str) {
        let account = AccountId::new(id).unwrap().key();
        self.wallet.apply(0, &Command::SetFrozen(SetFrozen { account, frozen: true }));
    }

    pub(crate) fn posted_reserved_incoming(&self, id: &str) -> (i64, u64, u64) {
        let account = self.wallet.account(AccountId::new(id).unwrap().key()).unwrap();
        let balance = &account.balances[0];
        (balance.posted, balance.reserved, balance.incoming)
    }

    // Histories of one branch.
    pub(crate) fn reserved(&mut self, sequence: u64) {
        self.reserved_amount(sequence, 10);
    }
    pub(crate) fn reserved_amount(&mut self, sequence: u64, amount: u64) {
        assert_eq!(self.debit(sequence, amount), Answer::Reserved);
    }
    pub(crate) fn rejected(&mut self, sequence: u64) {
        assert!(matches!(self.debit(sequence, 1_000), Answer::Rejected(_)));
    }
    pub(crate) fn confirmed(&mut self, sequence: u64) {
        self.reserved(sequence);
        assert_eq!(self.confirm(sequence), Answer::Confirmed);
    }
    pub(crate) fn canceled(&mut self, sequence: u64) {
        self.reserved(sequence);
        assert_eq!(self.cancel(sequence), Answer::Canceled);
    }
    pub(crate) fn empty_canceled(&mut self, sequence: u64) {
        assert_eq!(self.cancel(sequence), Answer::Canceled);
    }
    pub(crate) fn finished(&mut self, sequence: u64) {
        self.watermark(sequence + 1, &[]);
    }
}
