//! Bad input, one test for each kind: a clear error with its code; nothing lost; the server still serves.

#![allow(clippy::unwrap_used)] // helpers of tests are tests too

use std::path::{Path, PathBuf};

use escrow_client::{Leg, OpenAccount, Overdraft, State, Wait};
use escrow_cluster::{NodeId, Role};
use escrow_proto::v1;
use escrow_proto::v1::account_service_client::AccountServiceClient;
use escrow_proto::v1::operator_service_client::OperatorServiceClient;
use escrow_proto::v1::transaction_service_client::TransactionServiceClient;
use escrow_proto::v1::transfer_service_client::TransferServiceClient;
use escrow_service::reason_of;
use escrow_tests::world::{TREASURY, USD, id, scratch, transfer, tx};
use escrow_tests::{World, escrow, escrow_at};
use escrow_types::{AccountId, Currency, Reason};
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

const FUNDS: i64 = 1_000;

type SpoilTransfer = fn(&mut v1::TransferRequest);
type SpoilColumns = fn(&mut v1::TransferColumnsRequest);

/// Two accounts on two shards, and clients of the wire that send whatever they are told to.
struct Scene {
    world: World,
    alice: AccountId,
    bob: AccountId,
    channel: Channel,
}

impl Scene {
    async fn new() -> Self {
        Self::of(World::start().await).await
    }

    async fn of(world: World) -> Self {
        let alice = world.rich(0, "alice", FUNDS.cast_unsigned()).await;
        let bob = world.poor(1, "bob").await;
        let channel = world.channel().await;
        Self { world, alice, bob, channel }
    }

    /// A good transfer, to be spoilt.
    fn good(&self) -> v1::TransferRequest {
        v1::TransferRequest {
            transaction_id: "order-4711".into(),
            from_account_id: self.alice.to_string(),
            to_account_id: self.bob.to_string(),
            amount: 100,
            currency: "USD".into(),
            wait: v1::Wait::Completed.into(),
            timeout_ms: 5_000,
        }
    }

    /// The good transfer, spoilt.
    async fn send(
        &self,
        spoil: impl FnOnce(&mut v1::TransferRequest),
    ) -> Result<v1::TransferResponse, Status> {
        let mut request = self.good();
        spoil(&mut request);
        TransferServiceClient::new(self.channel.clone()).transfer(request).await.map(Response::into_inner)
    }

    /// Two legs that fit, to be spoilt.
    async fn send_legs(&self, spoil: impl FnOnce(&mut Vec<v1::Leg>)) -> Result<v1::ExecuteResponse, Status> {
        let leg = |account: &AccountId, direction: v1::Direction| v1::Leg {
            account_id: account.to_string(),
            direction: direction.into(),
            amount: 100,
            currency: "USD".into(),
            participant: String::new(),
        };
        let mut legs = vec![leg(&self.alice, v1::Direction::Debit), leg(&self.bob, v1::Direction::Credit)];
        spoil(&mut legs);
        let request =
            v1::ExecuteRequest { transaction_id: "order-4711".into(), legs, wait: 0, timeout_ms: 5_000 };
        TransactionServiceClient::new(self.channel.clone()).execute(request).await.map(Response::into_inner)
    }

    /// The spoilt call left no trace, and the next good call with the same id is taken.
    async fn unharmed(&self) {
        let record = self.world.client.get_transaction("order-4711").await.expect("the server answers");
        assert_eq!(record.outcome.state, State::NotFound, "a refused request leaves no trace");
        assert_eq!(self.world.balance(&self.alice).await.available, FUNDS);
        let answer = self.send(|_| ()).await.expect("a good request is taken");
        assert_eq!(answer.state(), v1::TransactionState::Confirmed);
        assert_eq!(self.world.posted(&self.bob).await, 100);
        self.world.settled().await;
        self.world.sound().await;
    }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, reason: Reason) {
    let status = result.expect_err("it is refused");
    assert_eq!((status.code(), reason_of(&status)), (code, Some(reason)), "{status:?}");
    assert!(!status.message().is_empty(), "it says what is wrong");
}

/// Ids that are none.
fn bad_ids() -> [String; 4] {
    [String::new(), "x".repeat(65), "ü".repeat(33), "line\nbreak".into()]
}

#[tokio::test]
async fn transaction_ids_that_are_empty_too_long_or_have_control_characters() {
    let scene = Scene::new().await;
    for bad in bad_ids() {
        let result = scene.send(|request| request.transaction_id = bad).await;
        refused(result, Code::InvalidArgument, Reason::InvalidTransactionId);
    }
    scene.unharmed().await;
}

#[tokio::test]
async fn account_ids_that_are_empty_too_long_or_have_control_characters() {
    let scene = Scene::new().await;
    for bad in bad_ids() {
        let from = scene.send(|request| request.from_account_id.clone_from(&bad)).await;
        refused(from, Code::InvalidArgument, Reason::InvalidAccountId);
        let to = scene.send(|request| request.to_account_id.clone_from(&bad)).await;
        refused(to, Code::InvalidArgument, Reason::InvalidAccountId);
        let leg = scene.send_legs(|legs| legs[1].account_id.clone_from(&bad)).await;
        refused(leg, Code::InvalidArgument, Reason::InvalidAccountId);
        let mut accounts = AccountServiceClient::new(scene.channel.clone());
        let shown =
            accounts.get_account(v1::GetAccountRequest { account_id: bad.clone(), bounds: None }).await;
        refused(shown, Code::InvalidArgument, Reason::InvalidAccountId);
        let open = v1::OpenAccount { account_id: bad, currency: "USD".into(), overdraft: None };
        let opened = accounts.open_accounts(v1::OpenAccountsRequest { accounts: vec![open] }).await.unwrap();
        assert_eq!(opened.into_inner().results[0].reason(), v1::Reason::InvalidAccountId);
    }
    scene.unharmed().await;
}

/// The transfer as bytes where the contract has text.
#[derive(Clone, PartialEq, prost::Message)]
struct TransferOfBytes {
    #[prost(bytes, tag = "1")]
    transaction_id: Vec<u8>,
    #[prost(bytes, tag = "2")]
    from_account_id: Vec<u8>,
    #[prost(bytes, tag = "3")]
    to_account_id: Vec<u8>,
    #[prost(uint64, tag = "4")]
    amount: u64,
    #[prost(bytes, tag = "5")]
    currency: Vec<u8>,
}

#[tokio::test]
async fn ids_that_are_not_utf8() {
    let scene = Scene::new().await;
    let good = TransferOfBytes {
        transaction_id: b"order-4711".into(),
        from_account_id: scene.alice.as_str().into(),
        to_account_id: scene.bob.as_str().into(),
        amount: 100,
        currency: b"USD".into(),
    };
    let bad = || vec![0xFF, 0xFE, b'x'];
    for spoilt in [
        TransferOfBytes { transaction_id: bad(), ..good.clone() },
        TransferOfBytes { from_account_id: bad(), ..good.clone() },
        TransferOfBytes { to_account_id: bad(), ..good.clone() },
    ] {
        let mut wire = tonic::client::Grpc::new(scene.channel.clone());
        wire.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<TransferOfBytes, v1::TransferResponse>::default();
        let path =
            tonic::codegen::http::uri::PathAndQuery::from_static("/escrow.v1.TransferService/Transfer");
        let result = wire.unary(tonic::Request::new(spoilt), path, codec).await;
        refused(result, Code::InvalidArgument, Reason::InvalidArgument);
    }
    scene.unharmed().await;
}

#[tokio::test]
async fn the_same_account_on_both_sides() {
    let scene = Scene::new().await;
    let result = scene.send(|request| request.to_account_id.clone_from(&request.from_account_id)).await;
    refused(result, Code::InvalidArgument, Reason::SameAccount);
    let result = scene.send_legs(|legs| legs[1].account_id = legs[0].account_id.clone()).await;
    refused(result, Code::InvalidArgument, Reason::SameAccount);
    scene.unharmed().await;
}

#[tokio::test]
async fn a_zero_amount() {
    let scene = Scene::new().await;
    refused(scene.send(|request| request.amount = 0).await, Code::InvalidArgument, Reason::AmountZero);
    let result = scene.send_legs(|legs| legs.iter_mut().for_each(|leg| leg.amount = 0)).await;
    refused(result, Code::InvalidArgument, Reason::AmountZero);
    scene.unharmed().await;
}

#[tokio::test]
async fn amounts_that_are_negative_too_fine_too_large_or_no_numbers() {
    let scene = Scene::new().await;
    let (alice, bob) = (&scene.alice, &scene.bob);
    let invalid = [
        "-1",
        "-0.01",
        "1.001",
        "99999999999999999999",
        "184467440737095516.16",
        "1e3",
        "abc",
        "1,5",
        "+1",
        ".",
    ];
    for (amount, code) in
        invalid.map(|amount| (amount, "INVALID_AMOUNT")).into_iter().chain([("0", "AMOUNT_ZERO")])
    {
        let words =
            format!("transfer --from {alice} --to {bob} --amount {amount} --currency USD --id order-4711");
        let ran = escrow_at(&scene.world, &words).await.exits(2);
        assert_eq!(ran.json()["error"]["code"], code, "{amount}: {ran:?}");
        assert!(!ran.stderr.is_empty(), "people are told too");
    }
    let yen = format!("transfer --from {alice} --to {bob} --amount 1.5 --currency JPY --id order-4711");
    let ran = escrow_at(&scene.world, &yen).await.exits(2);
    assert_eq!(ran.json()["error"]["code"], "INVALID_AMOUNT", "yen have no fraction");
    scene.unharmed().await;
}

#[tokio::test]
async fn an_unknown_currency() {
    let scene = Scene::new().await;
    for bad in ["", "usd", "XXZ", "US", "840"] {
        let result = scene.send(|request| request.currency = bad.into()).await;
        refused(result, Code::InvalidArgument, Reason::InvalidCurrency);
        let result = scene.send_legs(|legs| legs[0].currency = bad.into()).await;
        refused(result, Code::InvalidArgument, Reason::InvalidCurrency);
        let open = v1::OpenAccount { account_id: "carol".into(), currency: bad.into(), overdraft: None };
        let mut accounts = AccountServiceClient::new(scene.channel.clone());
        let opened = accounts.open_accounts(v1::OpenAccountsRequest { accounts: vec![open] }).await.unwrap();
        assert_eq!(opened.into_inner().results[0].reason(), v1::Reason::InvalidCurrency);
    }
    let words = format!("transfer --from {} --to {} --amount 1 --currency XXZ", scene.alice, scene.bob);
    escrow_at(&scene.world, &words).await.exits(2);
    scene.unharmed().await;
}

#[tokio::test]
async fn legs_that_do_not_sum_to_zero() {
    let scene = Scene::new().await;
    let result = scene.send_legs(|legs| legs[1].amount = 99).await;
    refused(result, Code::InvalidArgument, Reason::LegsUnbalanced);
    let result = scene.send_legs(|legs| legs[1].currency = "EUR".into()).await;
    refused(result, Code::InvalidArgument, Reason::LegsUnbalanced);
    let result = scene.send_legs(|legs| legs[1].direction = v1::Direction::Debit.into()).await;
    refused(result, Code::InvalidArgument, Reason::LegsUnbalanced);
    let result = scene.send_legs(|legs| legs.iter_mut().for_each(|leg| leg.amount = u64::MAX)).await;
    let canceled = result.expect("balanced at the extreme, so it is taken");
    assert_eq!(canceled.state(), v1::TransactionState::Canceled);
    assert_eq!(scene.world.balance(&scene.alice).await.available, FUNDS);
}

#[tokio::test]
async fn too_few_or_too_many_legs_or_legs_without_direction_or_participant() {
    let scene = Scene::new().await;
    let result = scene.send_legs(Vec::clear).await;
    refused(result, Code::InvalidArgument, Reason::InvalidLegs);
    let result = scene.send_legs(|legs| legs.truncate(1)).await;
    refused(result, Code::InvalidArgument, Reason::InvalidLegs);
    let result = scene.send_legs(|legs| *legs = legs.iter().cycle().take(66).cloned().collect()).await;
    refused(result, Code::InvalidArgument, Reason::InvalidLegs);
    let result = scene.send_legs(|legs| legs[0].direction = 0).await;
    refused(result, Code::InvalidArgument, Reason::InvalidLegs);
    let result = scene.send_legs(|legs| legs[0].participant = "http://evil.example:1".into()).await;
    refused(result, Code::InvalidArgument, Reason::UnknownParticipant);
    scene.unharmed().await;
}

#[tokio::test]
async fn an_id_that_is_used_again_with_other_content() {
    let scene = Scene::new().await;
    let first = scene.send(|_| ()).await.unwrap();
    let others: [SpoilTransfer; 3] = [
        |request| request.amount = 101,
        |request| request.currency = "EUR".into(),
        |request| request.to_account_id = TREASURY.into(),
    ];
    for spoil in others {
        refused(scene.send(spoil).await, Code::AlreadyExists, Reason::TransactionIdReused);
    }
    let legs = scene.send_legs(|_| ()).await;
    refused(legs, Code::AlreadyExists, Reason::TransactionIdReused);
    assert_eq!(scene.send(|_| ()).await.unwrap(), first, "the first is as it was");
    assert_eq!(scene.world.posted(&scene.bob).await, 100);
    scene.world.sound().await;
}

/// A transfer that is taken and canceled for a reason of an account: that is an outcome, not an error.
async fn canceled(scene: &Scene, reason: v1::Reason, spoil: impl FnOnce(&mut v1::TransferRequest)) {
    let answer = scene.send(spoil).await.expect("an outcome");
    assert_eq!((answer.state(), answer.reason()), (v1::TransactionState::Canceled, reason), "{answer:?}");
    assert_eq!(scene.world.balance(&scene.alice).await.available, FUNDS, "nothing stays reserved");
    scene.world.settled().await;
    scene.world.sound().await;
}

#[tokio::test]
async fn an_unknown_account() {
    let scene = Scene::new().await;
    canceled(&scene, v1::Reason::AccountNotFound, |request| request.to_account_id = "nobody".into()).await;
    let shown = AccountServiceClient::new(scene.channel.clone())
        .get_account(v1::GetAccountRequest { account_id: "nobody".into(), bounds: None })
        .await;
    refused(shown, Code::NotFound, Reason::AccountNotFound);
    let ran = escrow_at(&scene.world, "account show nobody").await.exits(2);
    assert_eq!(ran.json()["error"]["code"], "ACCOUNT_NOT_FOUND");
}

#[tokio::test]
async fn a_currency_that_an_account_does_not_hold() {
    let scene = Scene::new().await;
    canceled(&scene, v1::Reason::CurrencyNotHeld, |request| request.currency = "EUR".into()).await;
}

#[tokio::test]
async fn a_frozen_account() {
    let scene = Scene::new().await;
    scene.world.client.set_frozen(&scene.bob, true).await.unwrap();
    canceled(&scene, v1::Reason::AccountFrozen, |_| ()).await;
}

#[tokio::test]
async fn more_than_there_is() {
    let scene = Scene::new().await;
    canceled(&scene, v1::Reason::InsufficientFunds, |request| request.amount = 1_001).await;
}

#[tokio::test]
async fn a_balance_beyond_the_extremes() {
    let scene = Scene::new().await;
    let (rich, mint) = (scene.world.account(1, "rich"), scene.world.account(0, "mint"));
    scene.world.open([(&rich, Overdraft::Forbidden), (&mint, Overdraft::Unlimited)]).await;
    let most = i64::MAX.cast_unsigned();
    let full = scene.world.transfer(&mint, &rich, most).await;
    assert_eq!(full.state, State::Confirmed, "to the very edge");
    assert_eq!((scene.world.posted(&rich).await, scene.world.posted(&mint).await), (i64::MAX, -i64::MAX));
    for (from, to, amount) in [(&mint, &rich, 1), (&mint, &scene.bob, u64::MAX), (&id(TREASURY), &rich, 1)] {
        let outcome = scene.world.transfer(from, to, amount).await;
        assert_eq!(
            (outcome.state, outcome.reason),
            (State::Canceled, Some(Reason::BalanceOverflow)),
            "{outcome:?}"
        );
    }
    scene.world.settled().await;
    scene.unharmed().await;
}

#[tokio::test]
async fn a_message_that_is_too_large() {
    let world = World::with(|spec| {
        spec.coordinator_args.extend(["--message-bytes-max", "65536"].map(Into::into));
    });
    let scene = Scene::of(world.await).await;
    let result = scene.send(|request| request.transaction_id = "x".repeat(100_000)).await;
    refused(result, Code::ResourceExhausted, Reason::MessageTooLarge);
    scene.unharmed().await;
}

#[tokio::test]
async fn too_many_rows_accounts_or_amounts_in_a_message() {
    let scene = Scene::new().await;
    refused(columns(&scene, rows(65_537)).await, Code::ResourceExhausted, Reason::MessageTooLarge);
    let open = v1::OpenAccount { account_id: "carol".into(), currency: "USD".into(), overdraft: None };
    let request = v1::OpenAccountsRequest { accounts: vec![open; 10_001] };
    let opened = AccountServiceClient::new(scene.channel.clone()).open_accounts(request).await;
    refused(opened, Code::ResourceExhausted, Reason::MessageTooLarge);
    let confirm = v1::ConfirmRequest { transaction_id: "order-4711".into(), amounts: vec![1; 65], wait: 0 };
    let confirmed = TransactionServiceClient::new(scene.channel.clone()).confirm(confirm).await;
    refused(confirmed, Code::InvalidArgument, Reason::InvalidAmount);
    scene.unharmed().await;
}

/// Columns of so many rows, each good for nothing but its form.
fn rows(count: usize) -> v1::TransferColumnsRequest {
    let column = |base: u64| (0..count as u64).map(|row| base + row).collect::<Vec<u64>>();
    let uuid = |base: u64| column((0b10 << 62) | base);
    v1::TransferColumnsRequest {
        first_tag: 0,
        transaction_id_high: column(1),
        transaction_id_low: uuid(1),
        from_account_high: column(1 << 20),
        from_account_low: uuid(2),
        to_account_high: column(1 << 30),
        to_account_low: uuid(3),
        amount: vec![1; count],
        currency: 840,
        wait: 0,
        timeout_ms: 1_000,
    }
}

/// Sends one message of columns on a stream of its own; the first answer.
async fn columns(
    scene: &Scene,
    message: v1::TransferColumnsRequest,
) -> Result<v1::TransferColumnsResponse, Status> {
    let mut client = TransferServiceClient::new(scene.channel.clone()).max_encoding_message_size(usize::MAX);
    let mut answers = client.transfer_columns(tokio_stream::iter([message])).await?.into_inner();
    Ok(answers.message().await?.expect("an answer"))
}

#[tokio::test]
async fn bulk_columns_of_unequal_length() {
    let scene = Scene::new().await;
    let spoils: [SpoilColumns; 7] = [
        |columns| columns.transaction_id_high.truncate(2),
        |columns| columns.transaction_id_low.clear(),
        |columns| columns.from_account_high.push(1),
        |columns| columns.from_account_low.truncate(1),
        |columns| columns.to_account_high.truncate(1),
        |columns| columns.to_account_low.truncate(1),
        |columns| columns.amount.push(1),
    ];
    for spoil in spoils {
        let mut message = rows(3);
        spoil(&mut message);
        refused(columns(&scene, message).await, Code::InvalidArgument, Reason::InvalidArgument);
    }
    let mut message = rows(3);
    message.currency = 1;
    refused(columns(&scene, message).await, Code::InvalidArgument, Reason::InvalidCurrency);
    scene.unharmed().await;
}

#[tokio::test]
async fn bulk_rows_with_keys_that_no_id_has_are_refused_one_by_one() {
    let scene = Scene::new().await;
    let mut message = rows(4);
    message.transaction_id_low[0] = 7;
    message.from_account_low[1] = 7;
    (message.to_account_high[2], message.to_account_low[2]) =
        (message.from_account_high[2], message.from_account_low[2]);
    message.amount[3] = 0;
    let answer = columns(&scene, message).await.unwrap();
    assert_eq!(answer.state, [v1::TransactionState::Refused as u8; 4]);
    let reasons =
        [Reason::InvalidTransactionId, Reason::InvalidAccountId, Reason::SameAccount, Reason::AmountZero];
    assert_eq!(answer.reason, reasons.map(|reason| reason as u8));
    scene.unharmed().await;
}

#[tokio::test]
async fn a_stream_refuses_a_bad_row_and_takes_the_next() {
    let scene = Scene::new().await;
    let bad = v1::TransferRequest { amount: 0, transaction_id: "bad".into(), ..scene.good() };
    let mut client = TransferServiceClient::new(scene.channel.clone());
    let requests = tokio_stream::iter([bad, scene.good()]);
    let mut answers = client.transfer_stream(requests).await.unwrap().into_inner();
    let mut states = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        states.push((answer.transaction_id.clone(), answer.state(), answer.reason()));
    }
    states.sort();
    let expected = [
        ("bad".to_owned(), v1::TransactionState::Refused, v1::Reason::AmountZero),
        ("order-4711".to_owned(), v1::TransactionState::Confirmed, v1::Reason::Unspecified),
    ];
    assert_eq!(states, expected);
}

#[tokio::test]
async fn an_unknown_xid_or_transaction() {
    let scene = Scene::new().await;
    let mut operator = OperatorServiceClient::new(scene.channel.clone());
    let mut two_step = TransactionServiceClient::new(scene.channel.clone());
    for unknown in ["0-1-999999", "0-99-0", "7-1-0", "never-heard-of"] {
        let record = scene.world.client.get_transaction(unknown).await.unwrap();
        assert_eq!(record.outcome.state, State::NotFound, "looking changes nothing and is no error");
        let id = || unknown.to_owned();
        let confirm = v1::ConfirmRequest { transaction_id: id(), amounts: vec![], wait: 0 };
        refused(two_step.confirm(confirm).await, Code::NotFound, Reason::TransactionNotFound);
        let cancel = v1::CancelRequest { transaction_id: id(), wait: 0 };
        refused(two_step.cancel(cancel).await, Code::NotFound, Reason::TransactionNotFound);
        let described = operator.describe_transaction(v1::DescribeTransactionRequest { id: id() }).await;
        refused(described, Code::NotFound, Reason::TransactionNotFound);
        let retried = operator.retry_transaction(v1::RetryTransactionRequest { id: id() }).await;
        refused(retried, Code::NotFound, Reason::TransactionNotFound);
        let canceled = operator
            .cancel_transaction(v1::CancelTransactionRequest { id: id(), reason: "a test".into() })
            .await;
        refused(canceled, Code::NotFound, Reason::TransactionNotFound);
    }
    scene.unharmed().await;
}

#[tokio::test]
async fn verbs_of_operators_without_a_reason() {
    let scene = Scene::new().await;
    let mut operator = OperatorServiceClient::new(scene.channel.clone());
    let (id, reason) = (|| "0-1-0".to_owned(), String::new);
    let canceled =
        operator.cancel_transaction(v1::CancelTransactionRequest { id: id(), reason: reason() }).await;
    refused(canceled, Code::InvalidArgument, Reason::InvalidArgument);
    let force = v1::ForceTransactionRequest { id: id(), decision: 1, reason: reason() };
    refused(operator.force_transaction(force).await, Code::InvalidArgument, Reason::InvalidArgument);
    let paused = operator.set_paused(v1::SetPausedRequest { paused: true, reason: reason() }).await;
    refused(paused, Code::InvalidArgument, Reason::InvalidArgument);
    scene.unharmed().await;
}

#[tokio::test]
async fn confirming_a_canceled_reservation() {
    let scene = Scene::new().await;
    let legs = [Leg::debit(scene.alice.clone(), 100, USD), Leg::credit(scene.bob.clone(), 100, USD)];
    scene.world.client.reserve(Some(&tx("hold")), &legs, None).await.unwrap();
    scene.world.client.cancel("hold", Wait::Completed).await.unwrap();
    let confirm = v1::ConfirmRequest { transaction_id: "hold".into(), amounts: vec![], wait: 0 };
    let confirmed = TransactionServiceClient::new(scene.channel.clone()).confirm(confirm).await;
    refused(confirmed, Code::FailedPrecondition, Reason::AlreadyDecided);
    scene.unharmed().await;
}

#[tokio::test]
async fn confirming_a_transfer_that_was_no_reservation() {
    let scene = Scene::new().await;
    scene.world.client.transfer(&transfer(&id(TREASURY), &scene.bob, 1).with_id(tx("plain"))).await.unwrap();
    let confirm = v1::ConfirmRequest { transaction_id: "plain".into(), amounts: vec![], wait: 0 };
    let confirmed = TransactionServiceClient::new(scene.channel.clone()).confirm(confirm).await;
    let status = confirmed.expect_err("it is refused");
    assert_eq!((status.code(), reason_of(&status)), (Code::FailedPrecondition, Some(Reason::NotReserved)));
}

#[tokio::test]
async fn cursors_that_the_server_never_gave() {
    let scene = Scene::new().await;
    let mut accounts = AccountServiceClient::new(scene.channel.clone());
    for cursor in ["nonsense", "9:", "x:y"] {
        let listed =
            accounts.list_accounts(v1::ListAccountsRequest { page_size: 1, cursor: cursor.into() }).await;
        refused(listed, Code::InvalidArgument, Reason::InvalidArgument);
    }
    let request = v1::ListTransactionsRequest { filter: None, page_size: 1, cursor: "nonsense".into() };
    let listed = OperatorServiceClient::new(scene.channel.clone()).list_transactions(request).await;
    refused(listed, Code::InvalidArgument, Reason::InvalidArgument);
    scene.unharmed().await;
}

#[tokio::test]
async fn an_old_uuid_is_not_executed_again() {
    let scene = Scene::new().await;
    let last_year = "018c0000-0000-7abc-8def-0123456789ab";
    let result = scene.send(|request| request.transaction_id = last_year.into()).await;
    refused(result, Code::FailedPrecondition, Reason::TransactionIdExpired);
    scene.unharmed().await;
}

#[tokio::test]
async fn an_unheard_of_method() {
    let scene = Scene::new().await;
    let mut wire = tonic::client::Grpc::new(scene.channel.clone());
    wire.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<v1::TransferRequest, v1::TransferResponse>::default();
    let path = tonic::codegen::http::uri::PathAndQuery::from_static("/escrow.v1.TransferService/Steal");
    let result = wire.unary(tonic::Request::new(scene.good()), path, codec).await;
    assert_eq!(result.expect_err("there is no such method").code(), Code::Unimplemented);
    scene.unharmed().await;
}

// Servers that must not start.

const SERVERS: [Role; 2] = [Role::Coordinator, Role::Participant];

/// Runs a server on a directory and address until it refuses; what it says.
async fn refuses_to_start(role: Role, dir: &Path, listen: &str) -> String {
    let dir = dir.to_str().expect("paths of tests are UTF-8");
    let words: Vec<&str> = match role {
        Role::Coordinator => vec!["coordinator", "--participant", "0=http://127.0.0.1:1"],
        Role::Participant => vec!["participant", "--shards", "0"],
    };
    let rest = ["--data-dir", dir, "--listen", listen, "-o", "json"];
    let ran = escrow(&[words.as_slice(), &rest].concat()).await.exits(1);
    assert!(!ran.json()["error"]["code"].as_str().unwrap().is_empty(), "{ran:?}");
    ran.stderr
}

const ANY_PORT: &str = "127.0.0.1:0";

#[tokio::test]
async fn a_data_directory_in_use() {
    let scene = Scene::new().await;
    for role in SERVERS {
        let dir = scene.world.cluster.spec().node_dir(NodeId { role, number: 0, replica: 0 });
        let said = refuses_to_start(role, &dir, ANY_PORT).await;
        assert!(said.contains("in use by another process") && said.contains(dir.to_str().unwrap()), "{said}");
    }
    let dir = scene.world.cluster.spec().data_dir.clone();
    let ran =
        escrow(&["up", "--data-dir", dir.to_str().unwrap(), "--base-port", "0", "-o", "json"]).await.exits(1);
    assert_eq!(ran.json()["error"]["code"], "DATA_DIR_IN_USE");
    assert!(ran.stderr.contains(&std::process::id().to_string()), "it names who uses it: {}", ran.stderr);
    scene.unharmed().await;
}

#[tokio::test]
async fn a_port_in_use() {
    let scene = Scene::new().await;
    let taken = scene.world.endpoint().replace("http://", "");
    for role in SERVERS {
        let said = refuses_to_start(role, scratch().path(), &taken).await;
        assert!(said.contains("the port is in use by another process") && said.contains(&taken), "{said}");
    }
    let dir = scratch();
    let port = taken.rsplit(':').next().unwrap();
    let words = ["up", "--data-dir", dir.path().to_str().unwrap(), "--base-port", port, "-o", "json"];
    assert_eq!(escrow(&words).await.exits(1).json()["error"]["code"], "PORT_IN_USE");
    scene.unharmed().await;
}

#[tokio::test]
async fn a_data_directory_of_something_else() {
    for role in SERVERS {
        let dir = scratch();
        std::fs::write(dir.path().join("holiday.jpg"), "sun").unwrap();
        let said = refuses_to_start(role, dir.path(), ANY_PORT).await;
        assert!(said.contains("is not the data directory") && said.contains("holiday.jpg"), "{said}");
        assert_eq!(std::fs::read(dir.path().join("holiday.jpg")).unwrap(), b"sun", "it is left alone");
    }
}

#[tokio::test]
async fn a_data_directory_of_another_server() {
    let mut scene = Scene::new().await;
    let (coordinator, participant) = (NodeId::coordinator(0), NodeId::participant(0));
    for (role, other) in [(Role::Coordinator, participant), (Role::Participant, coordinator)] {
        scene.world.cluster.stop_node(other).await.unwrap();
        let dir = scene.world.cluster.spec().node_dir(other);
        let said = refuses_to_start(role, &dir, ANY_PORT).await;
        assert!(said.contains("is not the data directory"), "{said}");
        scene.world.restart(other).await;
    }
    scene.unharmed().await;
}

/// Ends a server as `end` says, spoils its directory, and lets it try to start; what it says.
async fn start_spoilt(
    scene: &mut Scene,
    role: Role,
    kill: bool,
    spoil: impl FnOnce(&Path),
) -> Result<u32, String> {
    let node = NodeId { role, number: 0, replica: 0 };
    if kill {
        scene.world.cluster.kill(node).await.unwrap();
    } else {
        scene.world.cluster.stop_node(node).await.unwrap();
    }
    spoil(&scene.world.cluster.spec().node_dir(node));
    scene.world.cluster.start_node(node).await.map_err(|error| error.to_string())
}

fn first_segment(dir: &Path) -> PathBuf {
    let segments = std::fs::read_dir(dir.join("journal")).unwrap().map(|entry| entry.unwrap().path());
    segments.filter(|path| path.extension().is_some_and(|extension| extension == "seg")).min().unwrap()
}

#[tokio::test]
async fn a_corrupt_log() {
    for role in SERVERS {
        let mut scene = Scene::new().await;
        let started = start_spoilt(&mut scene, role, true, |dir| {
            let segment = first_segment(dir);
            let mut bytes = std::fs::read(&segment).unwrap();
            let frame = bytes.windows(4).position(|window| window == 0x464a_5345_u32.to_le_bytes()).unwrap();
            bytes[frame + 44] ^= 1;
            std::fs::write(&segment, bytes).unwrap();
        });
        let said = started.await.expect_err("a log that was damaged is not used");
        assert!(said.contains("is damaged at offset") && said.contains(".seg"), "it says where: {said}");
    }
}

#[tokio::test]
async fn a_log_that_lost_what_a_checkpoint_relies_on() {
    for role in SERVERS {
        let mut scene = Scene::new().await;
        // Ended in order: there is a checkpoint of everything.
        let started = start_spoilt(&mut scene, role, false, |dir| {
            let segment = std::fs::OpenOptions::new().write(true).open(first_segment(dir)).unwrap();
            segment.set_len(4_096).unwrap();
        });
        let said = started.await.expect_err("a log that was cut is not used");
        assert!(said.contains(".seg is damaged at offset 4096"), "it says where: {said}");
    }
}

#[tokio::test]
async fn a_log_of_another_server() {
    let mut scene = Scene::new().await;
    let other = NodeId::participant(1);
    scene.world.cluster.stop_node(other).await.unwrap();
    let stranger = scene.world.cluster.spec().node_dir(other).join("journal");
    let started = start_spoilt(&mut scene, Role::Participant, false, |dir| {
        // Without a view there is nothing to compare but the journals' names.
        std::fs::remove_dir_all(dir.join("shard-0")).unwrap();
        std::fs::remove_dir_all(dir.join("journal")).unwrap();
        std::fs::rename(stranger, dir.join("journal")).unwrap();
    });
    let said = started.await.expect_err("the log of another is not used");
    assert!(said.contains("is not the data directory of this participant"), "{said}");
}

#[tokio::test]
async fn an_identity_that_is_gone_or_garbled() {
    for role in SERVERS {
        let mut scene = Scene::new().await;
        let gone = start_spoilt(&mut scene, role, false, |dir| {
            std::fs::remove_file(dir.join("identity.json")).unwrap();
        });
        let said = gone.await.expect_err("nobody knows whose it is");
        assert!(said.contains("has no identity.json"), "{said}");
        let garbled = start_spoilt(&mut scene, role, false, |dir| {
            std::fs::write(dir.join("identity.json"), "{").unwrap();
        });
        let said = garbled.await.expect_err("nobody knows whose it is");
        assert!(said.contains("identity.json cannot be read"), "{said}");
    }
}

/// Where the shard's sled directory is.
fn sled(dir: &Path) -> PathBuf {
    dir.join("shard-0").join("sled")
}

#[tokio::test]
async fn a_view_that_is_lost_is_rebuilt_from_the_log() {
    let mut scene = Scene::new().await;
    let lose = |dir: &Path| std::fs::remove_dir_all(sled(dir)).unwrap();
    start_spoilt(&mut scene, Role::Participant, false, lose).await.expect("the log has everything");
    scene.world.connected().await;
    scene.unharmed().await;
}

#[tokio::test]
async fn a_view_that_is_corrupt_is_moved_aside_and_rebuilt() {
    let mut scene = Scene::new().await;
    let garble = |dir: &Path| {
        for entry in std::fs::read_dir(sled(dir)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let length = std::fs::metadata(&path).unwrap().len() as usize;
                std::fs::write(&path, vec![0xA5; length.max(64)]).unwrap();
            }
        }
    };
    start_spoilt(&mut scene, Role::Participant, false, garble).await.expect("the log has everything");
    scene.world.connected().await;
    scene.unharmed().await;
}

#[tokio::test]
async fn a_checkpoint_that_is_corrupt_is_set_aside() {
    let mut scene = Scene::new().await;
    let mut kept = None;
    let garble = |dir: &Path| {
        kept = Some(dir.join("checkpoint.corrupt"));
        std::fs::write(dir.join("checkpoint"), "not a checkpoint").unwrap();
    };
    start_spoilt(&mut scene, Role::Coordinator, false, garble).await.expect("the log has everything");
    scene.world.connected().await;
    assert_eq!(std::fs::read(kept.unwrap()).unwrap(), b"not a checkpoint", "for whoever wants to know why");
    // Verified too: the damage is not taken for the state's.
    scene.unharmed().await;
}

#[tokio::test]
async fn a_wrong_configuration_file() {
    let dir = scratch();
    let path = dir.path().join("escrow.toml");
    let file = path.to_str().unwrap();
    let shards = "[[participants]]\nid = 0\nendpoint = 'http://127.0.0.1:1'\n";
    for (text, complaint) in [
        ("listen_on = 'there'".to_owned(), "listen_on"),
        ("listen = 'there'".to_owned(), "listen"),
        ("partition = -1".to_owned(), "partition"),
        ("= nonsense".to_owned(), "line 1"),
        ("partition = 1".to_owned(), "wallet shards"),
        (format!("in_flight_max = 0\n{shards}"), "in_flight_max"),
        (format!("{shards}{shards}"), "given twice"),
        (shards.replace("http", "ftp"), "not an endpoint"),
    ] {
        std::fs::write(&path, &text).unwrap();
        let ran = escrow(&["coordinator", "--config", file, "-o", "json"]).await.exits(2);
        assert_eq!(ran.json()["error"]["code"], "CONFIG_INVALID", "{text}");
        assert!(ran.stderr.contains(complaint), "{text}: {}", ran.stderr);
    }
    let ran = escrow(&["participant", "--config", "/no/such/file.toml", "-o", "json"]).await.exits(2);
    assert!(ran.stderr.contains("/no/such/file.toml"), "{}", ran.stderr);
}

#[tokio::test]
async fn a_command_line_that_is_none() {
    for words in [
        vec!["transfer", "-o", "json"],
        vec!["nonsense", "-o", "json"],
        vec!["account", "open", "", "--currency", "USD", "-o", "json"],
        vec![
            "transfer",
            "--from",
            "a",
            "--to",
            "b",
            "--amount",
            "1",
            "--currency",
            "USD",
            "--timeout",
            "soon",
            "-o",
            "json",
        ],
        vec!["account", "list", "--endpoint", "not-a-url", "-o", "json"],
    ] {
        let ran = escrow(&words).await.exits(2);
        assert_eq!(ran.json()["error"]["code"], "INVALID_ARGUMENT", "{words:?}");
    }
}

#[tokio::test]
async fn an_account_cannot_be_opened_with_a_currency_of_its_own_making() {
    let world = World::start().await;
    let open =
        |currency| [OpenAccount { account_id: id("carol"), currency, overdraft: Overdraft::Forbidden }];
    assert!(world.client.open_accounts(&open(Currency::EUR)).await.unwrap()[0].opened);
    let ran = escrow_at(&world, "account open dave --currency DOGE").await.exits(2);
    assert!(ran.stderr.contains("DOGE"), "{}", ran.stderr);
}
