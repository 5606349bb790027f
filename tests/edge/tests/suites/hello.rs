//! Who leads: epochs, hellos, and leaders that have been replaced without knowing it.

use std::time::Duration;

use escrow_client::{Client, RetryPolicy, State, Transfer};
use escrow_edge_tests::world::{self, CALLER, COORDINATOR, STRANGER, SUCCESSOR, World, pass, until};
use escrow_edge_tests::{Load, Setup, check, net, tell};
use escrow_grpc::{Channel, Endpoint};
use escrow_proto::v1;
use escrow_proto::v1::exchange_request::Message as Asked;
use escrow_proto::v1::exchange_response::Message as Told;
use escrow_proto::v1::participant_service_client::ParticipantServiceClient;
use escrow_types::{Currency, Reason, TransactionId};

/// The old leader is cut off, or what it has sent stands still; a new one takes over its log, and then the old one is back.
fn an_old_leader_comes_back(cut: fn(&str, &str), mend: fn(&str, &str)) {
    tell(Setup::default(), move |world| async move {
        let load = Load::begin(&world, 8).await;
        // Nobody asks the old one any more; what it was asked goes on until its shards are silent, too.
        turmoil::partition(CALLER, COORDINATOR);
        pass(world.within_ms(0, 20)).await;
        for shard in ["shard-0", "shard-1"] {
            cut(COORDINATOR, shard);
        }
        load.stop().await;
        let old = world.node(COORDINATOR);
        world.node(SUCCESSOR).disk.replace(old.disk().copy(world.seed()));
        world.start(SUCCESSOR).await;
        let client = world.client_of(SUCCESSOR, |_| ());
        load.start(&world, &client, 8);
        load.more(20).await;
        for shard in ["shard-0", "shard-1"] {
            mend(COORDINATOR, shard);
        }
        // An old leader that has nothing under way finds out when it is asked for something. Until then it may refuse and cancel
        // in a log that nobody reads any more, but what it is given never happens.
        turmoil::repair(CALLER, COORDINATOR);
        let to_old = world.client(|options| options.retry = RetryPolicy::never());
        let mut given = Vec::new();
        while old.ended.borrow().is_none() {
            let id = TransactionId::new(&format!("late-{}", given.len())).expect("a good id");
            let (from, to) = (world.account(0, 0), world.account(given.len() as u16 % 2, 2));
            let transfer = Transfer::new(from, to, 1, Currency::EUR).with_id(id.clone());
            let result = to_old.transfer(&transfer.with_timeout(Duration::from_secs(1))).await;
            assert!(
                !result.is_ok_and(|outcome| outcome.state == State::Confirmed),
                "{id} by a deposed leader"
            );
            given.push(id);
            pass(Duration::from_millis(100)).await;
        }
        let why = world.ended(COORDINATOR, Duration::from_secs(15)).await.expect_err("it is deposed");
        assert!(why.contains("deposed"), "{why}");
        load.more(20).await;
        for id in given {
            let record = client.get_transaction(id.as_str()).await.expect("it answers");
            assert_eq!(record.outcome.state, State::NotFound, "{id} was given to a deposed leader");
        }
        check::all_of(&world, &load, SUCCESSOR).await;
    });
}

#[test]
fn a_leader_that_was_cut_off_is_deposed() {
    an_old_leader_comes_back(
        |old, shard| turmoil::partition(old, shard),
        |old, shard| turmoil::repair(old, shard),
    );
}

/// What it had sent arrives after the hello of the new one, on a connection that never broke.
#[test]
fn late_messages_of_an_old_leader_change_nothing() {
    an_old_leader_comes_back(
        |old, shard| turmoil::hold(old, shard),
        |old, shard| turmoil::release(old, shard),
    );
}

#[test]
fn a_leader_that_is_heard_but_hears_nothing_is_deposed() {
    an_old_leader_comes_back(
        |old, shard| turmoil::partition_oneway(shard, old),
        |old, shard| turmoil::repair_oneway(shard, old),
    );
}

/// Speaks to a shard as a coordinator of some other partition would.
struct Raw(ParticipantServiceClient<Channel>);

const PARTITION: u32 = 7;

impl Raw {
    fn new(shard: u16) -> Self {
        let endpoint = Endpoint::parse(&net::endpoint(&world::shard(shard))).expect("a good endpoint");
        Self(ParticipantServiceClient::new(Channel::new(endpoint, net::connector())))
    }

    fn hello_of(epoch: u32) -> v1::HelloRequest {
        v1::HelloRequest { partition: PARTITION, epoch, participant: 0, ..v1::HelloRequest::default() }
    }

    async fn hello(&mut self, epoch: u32) -> (bool, u32) {
        let answer = self.0.hello(Self::hello_of(epoch)).await.expect("it is answered").into_inner();
        (answer.accepted, answer.epoch)
    }

    async fn cancel(&mut self, epoch: u32) -> v1::Answer {
        let xid = Some(v1::Xid { partition: PARTITION, epoch, sequence: 1 });
        let request = v1::CancelBranchRequest { xid, sender_epoch: epoch, participant: "0".into() };
        self.0.cancel(request).await.expect("it is answered").into_inner().answer()
    }

    /// Opens a stream, sends these messages, and gives what comes back until it ends.
    async fn stream(&mut self, messages: Vec<Asked>) -> (Vec<Told>, Option<tonic::Status>) {
        let messages = messages.into_iter().map(|message| v1::ExchangeRequest { message: Some(message) });
        let messages: Vec<_> = messages.collect();
        let mut answers = match self.0.exchange(tokio_stream::iter(messages)).await {
            Ok(answers) => answers.into_inner(),
            Err(status) => return (Vec::new(), Some(status)),
        };
        let mut told = Vec::new();
        loop {
            match answers.message().await {
                Ok(Some(message)) => told.extend(message.message),
                Ok(None) => return (told, None),
                Err(status) => return (told, Some(status)),
            }
        }
    }
}

/// A shard remembers its newest epoch through a power cut, and takes nothing from a leader that has not greeted.
#[test]
fn a_hello_is_required_and_remembered() {
    tell(Setup { seeds: 3, ..Setup::default() }, |world| async move {
        let load = Load::begin(&world, 2).await;
        let raw = async |epoch: u32| Raw::new(0).cancel(epoch).await;
        assert_eq!(raw(3).await, v1::Answer::HelloRequired);
        let (told, status) = Raw::new(0).stream(vec![Asked::Cancel(v1::EndColumns::default())]).await;
        let reason = status.as_ref().and_then(escrow_service::reason_of);
        assert!(told.is_empty() && reason == Some(Reason::InvalidArgument), "{told:?} {status:?}");
        assert_eq!(Raw::new(0).hello(3).await, (true, 3));
        assert_eq!(raw(3).await, v1::Answer::Canceled);
        world.power_off("shard-0").await;
        world.start("shard-0").await;
        // No new hello is needed for what was durable, and an older one is refused.
        assert_eq!(raw(3).await, v1::Answer::Canceled);
        assert_eq!(Raw::new(0).hello(2).await, (false, 3));
        assert_eq!(raw(2).await, v1::Answer::StaleEpoch);
        assert_eq!(raw(4).await, v1::Answer::HelloRequired);
        let hello = Asked::Hello(Raw::hello_of(2));
        let (told, status) = Raw::new(0).stream(vec![hello]).await;
        assert!(status.is_none(), "{status:?}");
        assert!(
            matches!(told.as_slice(), [Told::Hello(v1::HelloResponse { accepted: false, epoch: 3 })]),
            "{told:?}"
        );
        // The same hello twice: on a stream beside the one that has it already, and once more on one stream.
        assert_eq!(Raw::new(0).hello(3).await, (true, 3));
        let twice = vec![Asked::Hello(Raw::hello_of(3)), Asked::Hello(Raw::hello_of(3))];
        let (told, status) = Raw::new(0).stream(twice).await;
        assert!(
            matches!(told.as_slice(), [Told::Hello(v1::HelloResponse { accepted: true, .. })]),
            "{told:?}"
        );
        assert_eq!(status.as_ref().and_then(escrow_service::reason_of), Some(Reason::InvalidArgument));
        check::all(&world, &load).await;
    });
}

/// Connections that break at every point of the greeting: hellos are lost, come twice, or their answers are lost.
#[test]
fn a_greeting_may_be_cut_anywhere() {
    tell(Setup { seeds: 6, ..Setup::default() }, |world| async move {
        let load = Load::begin(&world, 4).await;
        for _ in 0..8 {
            let shard = world::shard(world.below(2) as u16);
            let server = if world.below(2) == 0 { shard.as_str() } else { COORDINATOR };
            world.kill(server).await;
            world.start(server).await;
            pass(world.within_ms(0, 25)).await;
            match world.below(4) {
                0 => turmoil::partition(COORDINATOR, shard.as_str()),
                1 => turmoil::partition_oneway(COORDINATOR, shard.as_str()),
                2 => turmoil::partition_oneway(shard.as_str(), COORDINATOR),
                _ => turmoil::hold(COORDINATOR, shard.as_str()),
            }
            pass(world.within_ms(1, 400)).await;
            turmoil::repair(COORDINATOR, shard.as_str());
            turmoil::release(COORDINATOR, shard.as_str());
        }
        load.more(20).await;
        check::all(&world, &load).await;
    });
}

/// A shard that accepts connections but cannot make a hello durable: the coordinator gives up on each greeting, refuses new work
/// for the shard meanwhile, and is there when the disk is.
#[test]
fn a_shard_that_greets_too_late_is_refused_until_it_does() {
    tell(Setup { seeds: 2, ..Setup::default() }, |world| async move {
        let load = Load::begin(&world, 2).await;
        load.stop().await;
        world.node("shard-1").sync_takes(Duration::from_secs(600));
        world.kill("shard-1").await;
        world.start("shard-1").await;
        let client = world.client(|options| options.retry = RetryPolicy::never());
        pass(Duration::from_secs(2)).await;
        for _ in 0..100 {
            let result = load.call(&client, &load.between(&world, 1, 0)).await;
            let reason = result.as_ref().err().and_then(escrow_client::ClientError::reason);
            assert_eq!(reason, Some(Reason::ParticipantUnavailable), "{result:?}");
            let result = load.call(&client, &load.between(&world, 0, 0)).await;
            assert!(matches!(result, Ok(State::Confirmed | State::Canceled)), "{result:?}");
            pass(Duration::from_millis(250)).await;
        }
        world.node("shard-1").sync_takes(Duration::from_millis(1));
        load.start(&world, &client, 4);
        load.more(10).await;
        check::all(&world, &load).await;
    });
}

async fn balance(world: &World, client: &Client, account: (u16, usize)) -> (i64, u64) {
    let account = client.get_account(&world.account(account.0, account.1)).await.expect("the account");
    (account.balances[0].posted, account.balances[0].reserved)
}

/// The coordinator dies between Try and the durable Begin: the reservation is an orphan that holds all the funds there are. The
/// hello of its next life releases it, so that the caller's retry is not refused for lack of funds.
#[test]
fn orphans_do_not_stand_in_the_way_of_a_retry() {
    tell(Setup { seeds: 6, ..Setup::default() }, |world| async move {
        let client = world.client(|_| ());
        let load = Load::prepare(&world, &client).await;
        let mut fund = load.between(&world, 0, 0);
        (fund.from, fund.to, fund.amount) = (world.account(0, 0), world.account(0, 3), 100);
        assert_eq!(load.insist(&client, &fund).await, Some(State::Confirmed));
        // Trys leave beside a Begin that will never be durable.
        world.node(COORDINATOR).sync_takes(Duration::from_secs(600));
        let mut all = load.between(&world, 0, 1);
        (all.from, all.to, all.amount) = (world.account(0, 3), world.account(1, 3), 100);
        let call = {
            let (load, client, all) = (load.clone(), client.clone(), all.clone());
            tokio::task::spawn_local(async move { load.insist(&client, &all).await })
        };
        let shard = world.shard_client(0);
        until("the funds are held", Duration::from_secs(2), async || {
            shard.status().await.expect("it answers").shards[0].reservations == 1
        })
        .await;
        world.node(COORDINATOR).sync_takes(Duration::from_millis(1));
        if world.below(2) == 0 {
            world.kill(COORDINATOR).await;
        } else {
            world.power_off(COORDINATOR).await;
        }
        pass(world.within_ms(0, 1_000)).await;
        world.start(COORDINATOR).await;
        let told = tokio::time::timeout(Duration::from_secs(30), call).await.expect("in time");
        assert_eq!(told.expect("no panic"), Some(State::Confirmed));
        assert_eq!(balance(&world, &client, (0, 3)).await, (0, 0));
        check::all(&world, &load).await;
    });
}

/// Two leaders' streams at one shard: of different partitions they do not disturb each other.
#[test]
fn leaders_of_different_partitions_live_side_by_side() {
    tell(Setup { seeds: 2, ..Setup::default() }, |world| async move {
        let load = Load::begin(&world, 4).await;
        for epoch in 1..10 {
            let greeted = world.elsewhere(async move { Raw::new(0).hello(epoch).await });
            assert_eq!(greeted.await.expect("it is done"), (true, epoch));
            load.more(5).await;
        }
        turmoil::partition(STRANGER, "shard-0");
        load.more(10).await;
        check::all(&world, &load).await;
    });
}
