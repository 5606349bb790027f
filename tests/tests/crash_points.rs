//! docs/protocol.md, "What every crash leaves": for every row a process is made to die at exactly that point, with every kind of
//! transaction that comes by it, and is started again. Then: the caller, who kept asking with the same id, has the outcome
//! that it would have had without the crash; nothing is in doubt; no reservation is left; no money is; the logs agree.

#![cfg(feature = "failpoints")]

use std::time::Duration;

use escrow_client::{Client, ClientError, Leg, OpenAccount, Outcome, Overdraft, State, Transfer, Wait};
use escrow_cluster::{NodeId, Role};
use escrow_tests::World;
use escrow_tests::wait::{holds, until};
use escrow_tests::world::{USD, role_of, transfer, tx};
use escrow_types::{AccountId, Reason, TransactionId};

/// What everybody begins with.
const FUNDS: i64 = 1_000;
const AMOUNT: u64 = 100;

/// Kinds of transactions, each of which goes another way through the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Two shards, Try and Confirm.
    Transfer,
    /// One shard: both at once.
    OnePhase,
    /// Two shards; one rejects, the other's reservation is canceled.
    Rejected,
    /// Two shards; reserved, then confirmed in part.
    TwoStep,
    /// Two shards; reserved, then confirmed whole.
    TwoStepWhole,
    /// Two shards; reserved, then canceled.
    TwoStepCanceled,
}

/// The accounts of a test: the debit side is on shard 0.
struct Scene {
    world: World,
    alice: AccountId,
    bob: AccountId,
    carol: AccountId,
}

impl Scene {
    async fn new() -> Self {
        let world = World::with(|spec| {
            spec.coordinator_args.extend(["--checkpoint-interval", "300ms"].map(Into::into));
            spec.participant_args.extend(["--checkpoint-interval", "300ms"].map(Into::into));
        });
        let world = world.await;
        let funds = FUNDS.cast_unsigned();
        let alice = world.rich(0, "alice", funds).await;
        let carol = world.rich(0, "carol", funds).await;
        let bob = world.rich(1, "bob", funds).await;
        world.settled().await;
        Self { world, alice, bob, carol }
    }

    /// The caller: makes one transaction and asks with the same id until it knows.
    fn caller(&self, kind: Kind, id: &TransactionId) -> impl Future<Output = Outcome> + Send + 'static {
        let (client, id) = (self.world.client.clone(), id.clone());
        let (alice, bob, carol) = (self.alice.clone(), self.bob.clone(), self.carol.clone());
        async move {
            let within = Duration::from_secs(20);
            let one =
                |to: AccountId, amount| Transfer::new(alice.clone(), to, amount, USD).with_id(id.clone());
            match kind {
                Kind::Transfer => {
                    client.transfer(&one(bob, AMOUNT).with_timeout(within)).await.expect("an outcome")
                }
                Kind::OnePhase => {
                    client.transfer(&one(carol, AMOUNT).with_timeout(within)).await.expect("an outcome")
                }
                Kind::Rejected => {
                    client.transfer(&one(bob, 1_000_000).with_timeout(within)).await.expect("an outcome")
                }
                Kind::TwoStep => two_step(&client, &id, [alice, bob], &[AMOUNT, AMOUNT]).await,
                Kind::TwoStepWhole => two_step(&client, &id, [alice, bob], &[2 * AMOUNT, 2 * AMOUNT]).await,
                Kind::TwoStepCanceled => two_step(&client, &id, [alice, bob], &[]).await,
            }
        }
    }
}

/// Reserves twice the amount; then confirms `amounts` of it, or cancels if there are none.
async fn two_step(
    client: &Client,
    id: &TransactionId,
    [from, to]: [AccountId; 2],
    amounts: &[u64],
) -> Outcome {
    let legs = [Leg::debit(from, 2 * AMOUNT, USD), Leg::credit(to, 2 * AMOUNT, USD)];
    let reserved = client.reserve(Some(id), &legs, Some(Duration::from_secs(60))).await.expect("an answer");
    assert_eq!(reserved.outcome.state, State::Reserved, "{reserved:?}");
    assert!(reserved.expires_at_ms > 0);
    let ended = if amounts.is_empty() {
        client.cancel(id.as_str(), Wait::Completed).await
    } else {
        client.confirm(id.as_str(), amounts, Wait::Completed).await
    };
    ended.expect("an outcome")
}

/// What a transaction must come to, whatever died: outcome, and what alice, bob and carol have then.
fn expected(kind: Kind) -> ((State, Option<Reason>), [i64; 3]) {
    let amount = AMOUNT.cast_signed();
    match kind {
        Kind::Transfer | Kind::TwoStep => ((State::Confirmed, None), [FUNDS - amount, FUNDS + amount, FUNDS]),
        Kind::TwoStepWhole => ((State::Confirmed, None), [FUNDS - 2 * amount, FUNDS + 2 * amount, FUNDS]),
        Kind::OnePhase => ((State::Confirmed, None), [FUNDS - amount, FUNDS, FUNDS + amount]),
        Kind::Rejected => ((State::Canceled, Some(Reason::InsufficientFunds)), [FUNDS; 3]),
        Kind::TwoStepCanceled => ((State::Canceled, Some(Reason::CanceledByCaller)), [FUNDS; 3]),
    }
}

/// Runs one kind of transaction into one crash of one process.
async fn crash(failpoint: &str, number: u16, kind: Kind) {
    let node = NodeId { role: role_of(failpoint), number, replica: 0 };
    let mut scene = Scene::new().await;
    scene.world.arm(node, failpoint).await;
    let id = tx("the-transaction");

    let caller = tokio::spawn(scene.caller(kind, &id));
    scene.world.dead(node).await;
    scene.world.restart(node).await;
    let answered = caller.await.expect("the caller does not panic");

    check(&scene, kind, &answered).await;
}

/// Everything that must hold after any crash.
async fn check(scene: &Scene, kind: Kind, answered: &Outcome) {
    let ((state, reason), balances) = expected(kind);
    assert_eq!((answered.state, answered.reason), (state, reason), "{answered:?}");
    scene.world.settled().await;
    let record =
        scene.world.client.get_transaction(&answered.transaction_id).await.expect("it is remembered");
    assert_eq!((&record.outcome, record.completed), (answered, true), "it is what the caller was told");
    let again = scene.caller(kind, &tx(&answered.transaction_id));
    if matches!(kind, Kind::Transfer | Kind::OnePhase | Kind::Rejected) {
        assert_eq!(again.await, *answered, "asked again with the same id");
    }
    for (account, balance) in [&scene.alice, &scene.bob, &scene.carol].into_iter().zip(balances) {
        let now = scene.world.balance(account).await;
        assert_eq!((now.posted, now.reserved, now.incoming), (balance, 0, 0), "{account}");
    }
    scene.world.sound().await;
}

/// One test for each crash point and each kind of transaction that comes by it.
macro_rules! crashes {
    ($($name:ident: $failpoint:literal on $number:literal with $kind:ident;)*) => {$(
        #[tokio::test]
        async fn $name() {
            crash($failpoint, $number, Kind::$kind).await;
        }
    )*};
}

// Coordinator, before `Begin` is durable: no trace; reservations are orphans; the caller may retry the same id.
crashes! {
    before_begin_of_a_transfer: "coordinator::before_begin_durable" on 0 with Transfer;
    before_begin_of_a_one_phase_transfer: "coordinator::before_begin_durable" on 0 with OnePhase;
    before_begin_of_a_rejected_transfer: "coordinator::before_begin_durable" on 0 with Rejected;
    before_begin_of_a_two_step_transaction: "coordinator::before_begin_durable" on 0 with TwoStep;
}

// Coordinator, `Begin` durable, undecided: the restart re-sends Try and goes on.
crashes! {
    after_begin_of_a_transfer: "coordinator::after_begin_durable" on 0 with Transfer;
    after_begin_of_a_one_phase_transfer: "coordinator::after_begin_durable" on 0 with OnePhase;
    after_begin_of_a_rejected_transfer: "coordinator::after_begin_durable" on 0 with Rejected;
    after_begin_of_a_two_step_transaction: "coordinator::after_begin_durable" on 0 with TwoStep;
    before_the_decision_of_a_rejected_transfer: "coordinator::before_decide_durable" on 0 with Rejected;
    before_the_decision_of_a_two_step_transaction: "coordinator::before_decide_durable" on 0 with TwoStep;
    before_the_decision_of_a_two_step_transaction_as_a_whole: "coordinator::before_decide_durable" on 0 with TwoStepWhole;
    before_the_cancel_of_a_two_step_transaction: "coordinator::before_decide_durable" on 0 with TwoStepCanceled;
}

// Coordinator, decided, not finished: the restart re-sends Confirm or Cancel until acknowledged. The decision of a transfer is
// implied by its reservations, and found by asking for them.
crashes! {
    after_the_decision_of_a_rejected_transfer: "coordinator::after_decide_durable" on 0 with Rejected;
    after_the_decision_of_a_two_step_transaction: "coordinator::after_decide_durable" on 0 with TwoStep;
    after_the_cancel_of_a_two_step_transaction: "coordinator::after_decide_durable" on 0 with TwoStepCanceled;
    before_phase_two_of_a_transfer: "coordinator::before_phase_two_sent" on 0 with Transfer;
    before_phase_two_of_a_rejected_transfer: "coordinator::before_phase_two_sent" on 0 with Rejected;
    before_phase_two_of_a_two_step_transaction: "coordinator::before_phase_two_sent" on 0 with TwoStep;
    after_phase_two_of_a_transfer: "coordinator::after_phase_two_sent" on 0 with Transfer;
    after_phase_two_of_a_rejected_transfer: "coordinator::after_phase_two_sent" on 0 with Rejected;
    after_phase_two_of_a_two_step_transaction: "coordinator::after_phase_two_sent" on 0 with TwoStep;
    before_the_finish_of_a_transfer: "coordinator::before_finish_durable" on 0 with Transfer;
    before_the_finish_of_a_one_phase_transfer: "coordinator::before_finish_durable" on 0 with OnePhase;
    before_the_finish_of_a_rejected_transfer: "coordinator::before_finish_durable" on 0 with Rejected;
}

// Participant, before Try is durable: no answer; the coordinator retries. On either side.
crashes! {
    before_the_try_of_a_debit: "participant::before_try_durable" on 0 with Transfer;
    before_the_try_of_a_credit: "participant::before_try_durable" on 1 with Transfer;
    before_the_try_of_a_one_phase_transfer: "participant::before_try_durable" on 0 with OnePhase;
    before_the_try_that_is_rejected: "participant::before_try_durable" on 0 with Rejected;
    before_the_try_of_a_two_step_transaction: "participant::before_try_durable" on 0 with TwoStep;
}

// Participant, after Try is durable, before the answer: the retry gets the first answer again.
crashes! {
    after_the_try_of_a_debit: "participant::after_try_durable" on 0 with Transfer;
    after_the_try_of_a_credit: "participant::after_try_durable" on 1 with Transfer;
    after_the_try_of_a_one_phase_transfer: "participant::after_try_durable" on 0 with OnePhase;
    after_the_try_that_is_rejected: "participant::after_try_durable" on 0 with Rejected;
    after_the_try_of_a_two_step_transaction: "participant::after_try_durable" on 1 with TwoStep;
}

// Participant, anywhere in phase 2: retried until acknowledged.
crashes! {
    before_the_confirm_of_a_debit: "participant::before_confirm_durable" on 0 with Transfer;
    before_the_confirm_of_a_credit: "participant::before_confirm_durable" on 1 with Transfer;
    before_the_confirm_in_part: "participant::before_confirm_durable" on 1 with TwoStep;
    after_the_confirm_of_a_debit: "participant::after_confirm_durable" on 0 with Transfer;
    after_the_confirm_of_a_credit: "participant::after_confirm_durable" on 1 with Transfer;
    after_the_confirm_in_part: "participant::after_confirm_durable" on 0 with TwoStep;
    before_the_cancel_of_a_credit: "participant::before_cancel_durable" on 1 with Rejected;
    before_the_cancel_of_a_reserved_debit: "participant::before_cancel_durable" on 0 with TwoStepCanceled;
    after_the_cancel_of_a_credit: "participant::after_cancel_durable" on 1 with Rejected;
    after_the_cancel_of_a_reserved_debit: "participant::after_cancel_durable" on 0 with TwoStepCanceled;
}

/// A checkpoint is written while transfers run; the process dies in the middle of it, and what was there before counts.
async fn crash_in_a_checkpoint(node: NodeId, failpoint: &str) {
    let mut scene = Scene::new().await;
    scene.world.cluster.stop_node(node).await.expect("it stops");
    // Not the first: there is something to lose.
    let action = format!("{failpoint}=3*off->return");
    scene.world.cluster.spec_mut().env = vec![("FAILPOINTS".into(), action.into())];
    scene.world.restart(node).await;
    scene.world.cluster.spec_mut().env.clear();

    let (client, one) = (scene.world.client.clone(), transfer(&scene.alice, &scene.bob, 1));
    let transfers = tokio::spawn(async move {
        let mut outcomes = Vec::new();
        for _ in 0..FUNDS {
            let next = one.clone().with_id(escrow_client::id::new_transaction_id());
            outcomes.push(
                client.transfer(&next.with_timeout(Duration::from_secs(20))).await.expect("an outcome"),
            );
        }
        outcomes
    });
    scene.world.dead(node).await;
    scene.world.restart(node).await;

    let outcomes = transfers.await.expect("the caller does not panic");
    scene.world.settled().await;
    for outcome in &outcomes {
        assert_eq!(outcome.state, State::Confirmed, "{outcome:?}");
        let record =
            scene.world.client.get_transaction(&outcome.transaction_id).await.expect("it is remembered");
        assert_eq!(record.outcome, *outcome);
    }
    assert_eq!(scene.world.posted(&scene.alice).await, 0);
    assert_eq!(scene.world.posted(&scene.bob).await, 2 * FUNDS);
    scene.world.sound().await;
}

#[tokio::test]
async fn in_a_checkpoint_of_the_coordinator() {
    crash_in_a_checkpoint(NodeId::coordinator(0), "coordinator::during_checkpoint").await;
}

#[tokio::test]
async fn in_a_checkpoint_of_a_participant() {
    crash_in_a_checkpoint(NodeId::participant(0), "participant::during_checkpoint").await;
}

/// A checkpoint that is larger than one batch of sled: the process dies when some of its records are in. What is there then is
/// neither the old state nor the new one; the next start goes on from it all the same, and from the view, not from the whole log.
#[tokio::test]
async fn within_a_large_checkpoint_of_a_participant() {
    let mut scene = Scene::new().await;
    let shard = NodeId::participant(0);
    scene.world.cluster.stop_node(shard).await.expect("it stops");
    let action = "participant::within_large_checkpoint=1*off->return";
    scene.world.cluster.spec_mut().env = vec![("FAILPOINTS".into(), action.into())];
    scene.world.restart(shard).await;
    scene.world.cluster.spec_mut().env.clear();

    let many: Vec<AccountId> =
        (0..10_000).map(|n| AccountId::new(&format!("many-{n}")).expect("short")).collect();
    let open: Vec<OpenAccount> = many
        .iter()
        .map(|account| OpenAccount {
            account_id: account.clone(),
            currency: USD,
            overdraft: Overdraft::Forbidden,
        })
        .collect();
    let client = scene.world.client.clone();
    // Whether it is answered before the process dies is a matter of luck; it is asked again.
    let opening = tokio::spawn(async move { drop(client.open_accounts(&open).await) });
    scene.world.dead(shard).await;
    scene.world.restart(shard).await;
    opening.await.expect("the caller does not panic");
    scene.world.open(many.iter().map(|account| (account, Overdraft::Forbidden))).await;

    let before = scene.world.posted(&scene.alice).await;
    let paid = scene.world.client.transfer(&transfer(&scene.alice, &scene.bob, 1)).await.expect("an outcome");
    assert_eq!(paid.state, State::Confirmed);
    assert_eq!(scene.world.posted(&scene.alice).await, before - 1);
    scene.world.sound().await;
    let moved = std::fs::read_dir(scene.world.data_dir().join("participant-0/shard-0")).expect("it is there");
    let moved = moved.filter(|entry| {
        entry.as_ref().expect("it is listed").file_name().to_string_lossy().starts_with("sled.corrupt")
    });
    assert_eq!(moved.count(), 0, "the view was finished, not given up");
}

/// The whole house burns down between the decision and the second phase, and comes back.
#[tokio::test]
async fn everything_dies_after_the_decision() {
    let mut scene = Scene::new().await;
    let coordinator = NodeId::coordinator(0);
    scene.world.arm(coordinator, "coordinator::before_phase_two_sent").await;
    let caller = tokio::spawn(scene.caller(Kind::Transfer, &tx("the-transaction")));
    scene.world.dead(coordinator).await;
    for shard in 0..2 {
        scene.world.cluster.kill(NodeId::participant(shard)).await.expect("it is killed");
    }
    for node in scene.world.nodes() {
        scene.world.cluster.start_node(node).await.expect("it starts again");
    }
    let answered = caller.await.expect("the caller does not panic");
    check(&scene, Kind::Transfer, &answered).await;
}

/// A participant that stays away longer than the deadline: its transaction is canceled, and the other side is free again.
#[tokio::test]
async fn a_participant_that_comes_back_too_late_finds_its_transaction_canceled() {
    let mut scene = Scene::new().await;
    let shard = NodeId::participant(1);
    scene.world.arm(shard, "participant::before_try_durable").await;
    let one = transfer(&scene.alice, &scene.bob, AMOUNT).with_timeout(Duration::from_millis(800));
    let answered = scene.world.client.transfer(&one).await;
    scene.world.dead(shard).await;
    // Decided, but with a branch that has not acknowledged: the answer may be that nobody knows yet.
    let id = one.transaction_id.as_ref().expect("it has an id").as_str();
    let canceled = (State::Canceled, Some(Reason::DeadlineExceeded));
    match answered {
        Ok(outcome) => assert_eq!((outcome.state, outcome.reason), canceled),
        Err(error) => assert!(matches!(error, ClientError::OutcomeUnknown { .. }), "{error:?}"),
    }
    scene.world.restart(shard).await;
    scene.world.settled().await;
    let record = scene.world.client.get_transaction(id).await.expect("the coordinator answers");
    assert_eq!((record.outcome.state, record.outcome.reason), canceled);
    assert_eq!(scene.world.balance(&scene.alice).await.available, FUNDS);
    scene.world.sound().await;
}

/// The caller dies: whoever asks later with its id hears what became of the transfer, and asking again does not repeat it.
#[tokio::test]
async fn a_caller_that_dies_may_ask_again() {
    let scene = Scene::new().await;
    let id = tx("the-transaction");
    let call = scene.caller(Kind::Transfer, &id);
    // The call is dropped in the middle: its stream is reset.
    let _ = tokio::time::timeout(Duration::from_millis(3), call).await;
    let answered = scene.caller(Kind::Transfer, &id).await;
    check(&scene, Kind::Transfer, &answered).await;
}

/// The disk: the last write was torn. It is cut off, and what was acknowledged before it is there.
#[tokio::test]
async fn a_torn_tail_is_cut_off() {
    for role in [Role::Coordinator, Role::Participant] {
        let mut scene = Scene::new().await;
        let answered = scene.caller(Kind::Transfer, &tx("the-transaction")).await;
        scene.world.settled().await;
        let node = NodeId { role, number: 0, replica: 0 };
        scene.world.cluster.kill(node).await.expect("it is killed");
        tear_last_write(&scene.world.cluster.spec().node_dir(node).join("journal"));
        scene.world.restart(node).await;
        check(&scene, Kind::Transfer, &answered).await;
    }
}

/// Puts the beginning of a frame, and not its end, behind the last one in the newest segment: a write that was under way when
/// the power went. It was never durable, so nobody was answered.
fn tear_last_write(journal: &std::path::Path) {
    use std::io::{Seek as _, SeekFrom, Write as _};
    let segments = std::fs::read_dir(journal).expect("the journal is there");
    let newest = segments
        .map(|entry| entry.expect("it can be listed").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log" || extension == "seg"))
        .max()
        .expect("there is a segment");
    let bytes = std::fs::read(&newest).expect("it can be read");
    let magic = 0x464a_5345_u32.to_le_bytes();
    let first = bytes.windows(4).position(|window| window == magic).expect("it has a frame");
    let mut end = first;
    while bytes[end..].starts_with(&magic) {
        let payload = bytes[end + 24..end + 28].try_into().map(u32::from_le_bytes).expect("four bytes");
        end += (40 + payload as usize).next_multiple_of(8);
    }
    let half = &bytes[first..first + 20];
    let mut file = std::fs::OpenOptions::new().write(true).open(&newest).expect("it can be written");
    file.seek(SeekFrom::Start(end as u64)).and_then(|_| file.write_all(half)).expect("it can be written");
}

/// The failpoints that this file walks through are those that there are.
#[tokio::test]
async fn a_failpoint_that_nobody_set_kills_nobody() {
    let scene = Scene::new().await;
    let answered = scene.caller(Kind::Transfer, &tx("the-transaction")).await;
    check(&scene, Kind::Transfer, &answered).await;
    for node in scene.world.nodes() {
        until("it lives", Duration::from_secs(1), async || {
            holds(scene.world.cluster.pid(node).is_some(), node)
        })
        .await;
    }
}
