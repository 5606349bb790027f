//! Shards and coordinators with replicas: links, calls and streams go to the one that leads.
//!
//! The replicas are stand-ins: a process that takes over the disk of the one before it, and a stranger that only refuses.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

use escrow_client::{Client, Outcome};
use escrow_edge_tests::world::{self, CALLER, COORDINATOR, SPARE, STRANGER, SUCCESSOR, World, pass};
use escrow_edge_tests::{Load, Setup, check, net, tell};
use escrow_proto::v1;
use escrow_proto::v1::participant_service_server::{ParticipantService, ParticipantServiceServer};
use escrow_service::{Incoming as _, not_leader};
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

const SHARD: &str = "shard-0";

/// From now on `to` is the replica that leads, with everything that the one before it had on its disk.
async fn take_over(world: &World, from: &str, to: &str) {
    world.node(to).disk.replace(world.node(from).disk().copy(world.seed()));
    world.start(to).await;
}

#[test]
fn the_link_follows_a_leader_that_moves() {
    tell(Setup { spare: true, ..Setup::default() }, |world| async move {
        let load = Load::begin(&world, 8).await;
        let (mut leads, mut next) = (SHARD, SPARE);
        for _ in 0..4 {
            world.kill(leads).await;
            pass(world.within_ms(0, 3_000)).await;
            take_over(&world, leads, next).await;
            load.more(20).await;
            (leads, next) = (next, leads);
        }
        check::all(&world, &load).await;
    });
}

/// The old leader vanishes without a word: nobody refuses, nothing is closed.
#[test]
fn the_link_leaves_a_leader_that_is_silent() {
    tell(Setup { spare: true, ..Setup::default() }, |world| async move {
        let load = Load::begin(&world, 8).await;
        turmoil::hold(COORDINATOR, SHARD);
        pass(world.within_ms(0, 3_000)).await;
        world.kill(SHARD).await;
        take_over(&world, SHARD, SPARE).await;
        load.more(20).await;
        check::all(&world, &load).await;
    });
}

/// A replica that never leads, and says who does.
#[derive(Clone)]
struct Follower;

type Answers = Pin<Box<dyn Stream<Item = Result<v1::ExchangeResponse, Status>> + Send>>;

fn refused<T>() -> Result<Response<T>, Status> {
    Err(not_leader(Some(&net::endpoint(SHARD))))
}

#[tonic::async_trait]
impl ParticipantService for Follower {
    type ExchangeStream = Answers;

    async fn exchange(
        &self,
        _: Request<Streaming<v1::ExchangeRequest>>,
    ) -> Result<Response<Answers>, Status> {
        refused()
    }

    async fn hello(&self, _: Request<v1::HelloRequest>) -> Result<Response<v1::HelloResponse>, Status> {
        refused()
    }

    async fn r#try(&self, _: Request<v1::TryRequest>) -> Result<Response<v1::TryResponse>, Status> {
        refused()
    }

    async fn confirm(
        &self,
        _: Request<v1::ConfirmBranchRequest>,
    ) -> Result<Response<v1::ConfirmBranchResponse>, Status> {
        refused()
    }

    async fn cancel(
        &self,
        _: Request<v1::CancelBranchRequest>,
    ) -> Result<Response<v1::CancelBranchResponse>, Status> {
        refused()
    }
}

/// The stranger's host stands first in the list; it refuses, and names the leader.
#[test]
fn the_link_goes_where_a_follower_sends_it() {
    let first = |config: &mut escrow_coordinator::Config| {
        let endpoint = &mut config.participants[0].endpoint;
        *endpoint = format!("{}+{endpoint}", net::endpoint(STRANGER));
    };
    tell(Setup { coordinator: first, ..Setup::default() }, |world| async move {
        let listening = world.elsewhere(async {
            let listener = net::Listener::bind().await.expect("the port is free");
            let server =
                tonic::transport::Server::builder().add_service(ParticipantServiceServer::new(Follower));
            tokio::task::spawn_local(server.serve_with_incoming(listener.connections()));
        });
        listening.await.expect("it is done");
        let load = Load::begin(&world, 8).await;
        for _ in 0..2 {
            world.kill(SHARD).await;
            pass(world.within_ms(0, 3_000)).await;
            world.start(SHARD).await;
            load.more(20).await;
        }
        check::all(&world, &load).await;
    });
}

/// A client of the coordinator and its successor, as replicas.
fn of_both() -> Client {
    let endpoint = format!("{}+{}", net::endpoint(COORDINATOR), net::endpoint(SUCCESSOR));
    Client::connect([endpoint], world::options()).expect("a good endpoint")
}

/// Sends transfers over one stream, a pause after each, and gives what was answered.
async fn stream(world: &World, load: &Load, client: &Client) -> BTreeMap<String, Outcome> {
    const TRANSFERS: usize = 400;
    let (sender, mut receiver) = client.transfer_stream(0).await.expect("it opens");
    let sending = async move {
        for _ in 0..TRANSFERS {
            let transfer = load.any(world);
            load.note(&transfer);
            sender.send(&transfer).await.expect("it goes on");
            pass(world.within_ms(1, 10)).await;
        }
    };
    let receiving = async {
        let mut answered = BTreeMap::new();
        while let Some(outcome) = receiver.next().await.expect("it goes on") {
            let before = answered.insert(outcome.transaction_id.clone(), outcome);
            assert!(before.is_none(), "answered twice: {before:?}");
        }
        answered
    };
    let ((), answered) = tokio::join!(sending, receiving);
    assert_eq!(answered.len(), TRANSFERS, "each is answered");
    answered
}

/// Callers hear nothing of the failover, and what they were told is so.
fn a_stream_outlives(fails: impl AsyncFn(&World) + Clone + 'static) {
    tell(Setup::default(), move |world| {
        let fails = fails.clone();
        async move {
            let client = of_both();
            let load = Load::prepare(&world, &client).await;
            load.start(&world, &client, 4);
            let failing = async {
                pass(world.within_ms(0, 1_000)).await;
                fails(&world).await;
                take_over(&world, COORDINATOR, SUCCESSOR).await;
            };
            let (answered, ()) = tokio::join!(stream(&world, &load, &client), failing);
            load.more(20).await;
            for (id, told) in answered {
                let record = client.get_transaction(&id).await.expect("it answers");
                assert_eq!(record.outcome.state, told.state, "{id}: what it is, and what was told");
            }
            assert!(load.longest() < Duration::from_secs(20), "{:?}", load.longest());
            check::all_of(&world, &load, SUCCESSOR).await;
        }
    });
}

#[test]
fn callers_do_not_hear_that_their_coordinator_died() {
    a_stream_outlives(async |world: &World| {
        world.kill(COORDINATOR).await;
        pass(world.within_ms(0, 3_000)).await;
    });
}

#[test]
fn callers_do_not_hear_that_their_coordinator_went_silent() {
    a_stream_outlives(async |world: &World| {
        turmoil::hold(CALLER, COORDINATOR);
        pass(world.within_ms(0, 3_000)).await;
        world.kill(COORDINATOR).await;
    });
}
