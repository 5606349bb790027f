//! What hostile numbers cost: the widest window, the furthest watermark, lengths that lie. Few and exact, beside the
//! mutated inputs of the targets.

use escrow_fuzz::memory::bounded;
use escrow_types::codec::Take;
use escrow_types::{Answer, Epoch, Partition, Sequence};
use escrow_wallet::{
    Answers, Command, EndBatch, Hello, Sender, TryBatch, WINDOW_SLOTS_MAX, Wallet, Watermark,
};

const SENDER: Sender = Sender::new(Partition(0), Epoch(1));
const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

fn wallet() -> Wallet {
    let mut wallet = Wallet::default();
    wallet.apply(0, &Command::Hello(Hello { partition: Partition(0), epoch: Epoch(1), unfinished: vec![] }));
    wallet
}

fn cancel(sequence: Sequence) -> Command {
    Command::Cancel(EndBatch::new(SENDER, Epoch(1), vec![sequence]).expect("one column"))
}

fn tried(sequence: Sequence) -> Command {
    Command::Try(
        TryBatch::new(SENDER, Epoch(1), 0, vec![sequence], vec![1], vec![1], vec![840])
            .expect("equal columns"),
    )
}

#[track_caller]
fn check(wallet: &mut Wallet, bytes_max: usize, command: &Command, expect: Answer) {
    let answers = bounded(bytes_max, || wallet.apply(0, command));
    let Answers::Branches(answers) = answers else { panic!("{answers:?}") };
    assert_eq!(answers.iter().next().map(|row| row.1), Some(expect));
}

#[test]
fn a_sequence_far_ahead_costs_nothing_and_the_furthest_one_64_mib() {
    let last = WINDOW_SLOTS_MAX as u64 - 1;
    let mut wallet = wallet();
    for sequence in [last + 1, 1 << 32, u64::MAX] {
        check(&mut wallet, KIB, &cancel(sequence), Answer::Invalid);
        check(&mut wallet, KIB, &tried(sequence), Answer::Invalid);
    }
    check(&mut wallet, 65 * MIB, &cancel(last), Answer::Canceled);
}

#[test]
fn a_watermark_at_the_end_costs_nothing() {
    let mut wallet = wallet();
    check(&mut wallet, 64 * KIB, &cancel(5), Answer::Canceled);
    let watermark =
        |below, except| Command::Watermark(Watermark { sender: SENDER, epoch: Epoch(1), below, except });
    bounded(KIB, || wallet.apply(0, &watermark(u64::MAX, vec![0, 1 << 40, u64::MAX])));
    check(&mut wallet, KIB, &cancel(5), Answer::Finished);
    check(&mut wallet, KIB, &cancel(1 << 40), Answer::Canceled);
    check(&mut wallet, KIB, &cancel(u64::MAX), Answer::Canceled);
    bounded(KIB, || wallet.apply(0, &watermark(0, vec![])));
    check(&mut wallet, KIB, &cancel(u64::MAX), Answer::Canceled);
    let restored =
        wallet.take_changes().records().filter_map(|(key, value)| Some((key, value?))).collect::<Vec<_>>();
    assert_eq!(Wallet::from_view(restored).unwrap().digest(), wallet.digest());
}

#[test]
fn the_last_epoch_closes_all_others() {
    let mut wallet = wallet();
    let hello = |epoch, unfinished| {
        Command::Hello(Hello { partition: Partition(0), epoch: Epoch(epoch), unfinished })
    };
    bounded(KIB, || wallet.apply(0, &hello(u32::MAX, vec![(Epoch(u32::MAX), 0), (Epoch(0), u64::MAX)])));
    check(&mut wallet, KIB, &cancel(0), Answer::StaleEpoch);
    assert_eq!(
        wallet.apply(0, &hello(0, vec![])),
        Answers::Hello { accepted: false, epoch: Epoch(u32::MAX) }
    );
}

#[test]
fn a_length_of_4_gib_in_20_bytes_is_not_believed() {
    let bytes = [&u32::MAX.to_le_bytes()[..], &[0; 16]].concat();
    bounded(64, || {
        let take = || Take::new(&bytes);
        assert!(take().bytes().is_err() && take().text().is_err());
        assert!(take().column_u16().is_err() && take().column_u32().is_err());
        assert!(take().column_u64().is_err() && take().column_u128().is_err());
    });
    // The highest count that passes the first check, with 16 bytes behind it.
    let bytes = [&(1_u32 << 24).to_le_bytes()[..], &[0; 16]].concat();
    bounded(64, || assert!(Take::new(&bytes).column_u128().is_err()));
}
