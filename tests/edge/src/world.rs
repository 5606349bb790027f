//! The world of a story: hosts, what can be done to them, and how to wait.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use escrow_client::{Client, Options, ShardClient};
use escrow_journal::storage::SplitMix64;
use escrow_types::AccountId;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::net;
use crate::node::Node;

/// The host of the coordinator.
pub const COORDINATOR: &str = "coordinator";
/// The host of another coordinator of the same partition. It does not run until a story starts it.
pub const SUCCESSOR: &str = "successor";
/// The host of another replica of shard 0, if the setup has one. It does not run until a story starts it.
pub const SPARE: &str = "spare";
/// The host where the story is told, and from which checks are made.
pub const CALLER: &str = "caller";
/// The host of other callers, whose connections a story may cut.
pub const STRANGER: &str = "stranger";

/// The host of a shard.
pub fn shard(number: u16) -> String {
    format!("shard-{number}")
}

/// The endpoint of a shard: of its host, and of the spare if it has one.
pub(crate) fn shard_endpoint(number: u16, spare: bool) -> String {
    let own = net::endpoint(&shard(number));
    if number == 0 && spare { format!("{own}+{}", net::endpoint(SPARE)) } else { own }
}

/// What only the one who moves the simulation can do.
pub(crate) enum Command {
    Kill { host: String, power: bool },
    Start { host: String },
    Loss(f64),
}

pub(crate) type Errand = Pin<Box<dyn Future<Output = ()>>>;

/// The world, as the story sees it. Clones are the same.
#[derive(Clone)]
pub struct World {
    pub(crate) inner: Rc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) seed: u64,
    pub(crate) chance: RefCell<SplitMix64>,
    pub(crate) nodes: Vec<Rc<Node>>,
    pub(crate) shards: u16,
    pub(crate) spare: bool,
    pub(crate) commands: RefCell<VecDeque<(Command, oneshot::Sender<()>)>>,
    pub(crate) errands: mpsc::UnboundedSender<Errand>,
    pub(crate) transfers: Cell<u64>,
}

impl World {
    /// The seed of this run.
    pub fn seed(&self) -> u64 {
        self.inner.seed
    }

    /// A number below `bound`, from the seed.
    pub fn below(&self, bound: u64) -> u64 {
        self.inner.chance.borrow_mut().below(bound)
    }

    /// A time within `from..to` milliseconds, from the seed.
    pub fn within_ms(&self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }

    /// How many shards there are.
    pub fn shards(&self) -> u16 {
        self.inner.shards
    }

    /// The server on a host.
    pub fn node(&self, host: &str) -> Rc<Node> {
        let node = self.inner.nodes.iter().find(|node| node.host == host);
        Rc::clone(node.unwrap_or_else(|| panic!("no server on host {host}")))
    }

    async fn order(&self, command: Command) {
        let (done, is_done) = oneshot::channel();
        self.inner.commands.borrow_mut().push_back((command, done));
        is_done.await.expect("whoever moves the simulation obeys");
    }

    /// Kills a process: its sockets are closed, what it wrote stays.
    pub async fn kill(&self, host: &str) {
        self.order(Command::Kill { host: host.to_owned(), power: false }).await;
    }

    /// Cuts the power of a host: nobody hears of it, and what was not synced may be lost.
    pub async fn power_off(&self, host: &str) {
        let others = self.hosts();
        for other in others.iter().filter(|other| *other != host) {
            turmoil::partition(host, other.as_str());
        }
        self.order(Command::Kill { host: host.to_owned(), power: true }).await;
        for other in others.iter().filter(|other| *other != host) {
            turmoil::repair(host, other.as_str());
        }
    }

    /// From now on each message breaks its link with this probability; what is sent until it is repaired is lost.
    pub async fn lose(&self, rate: f64) {
        self.order(Command::Loss(rate)).await;
    }

    /// Every host there is.
    pub fn hosts(&self) -> Vec<String> {
        let nodes = self.inner.nodes.iter().map(|node| node.host.clone());
        nodes.chain([CALLER.to_owned(), STRANGER.to_owned()]).collect()
    }

    /// Starts the process of a host, killing the one that runs there, if one does.
    pub async fn start(&self, host: &str) {
        self.order(Command::Start { host: host.to_owned() }).await;
    }

    /// Tells a process to stop, waits until it has, and gives how it ended.
    pub async fn stop(&self, host: &str, within: Duration) -> Result<(), String> {
        self.node(host).stop();
        self.ended(host, within).await
    }

    /// Waits until a process has ended by itself, and gives how.
    pub async fn ended(&self, host: &str, within: Duration) -> Result<(), String> {
        let node = self.node(host);
        until("the process ends", within, async || node.ended.borrow().is_some() && !node.is_to_reap.get())
            .await;
        node.ended.borrow().clone().expect("just seen")
    }

    /// Does something on the host of the stranger; what came of it is received.
    pub fn elsewhere<T: 'static>(&self, errand: impl Future<Output = T> + 'static) -> oneshot::Receiver<T> {
        let (done, result) = oneshot::channel();
        let errand = Box::pin(async move { drop(done.send(errand.await)) });
        assert!(self.inner.errands.send(errand).is_ok(), "the stranger lives as long as the world");
        result
    }

    /// A client of the coordinator, for use on the host that makes it.
    pub fn client(&self, change: impl FnOnce(&mut Options)) -> Client {
        self.client_of(COORDINATOR, change)
    }

    /// A client of a coordinator on another host.
    pub fn client_of(&self, host: &str, change: impl FnOnce(&mut Options)) -> Client {
        let mut options = options();
        change(&mut options);
        Client::connect([net::endpoint(host)], options).expect("a good endpoint")
    }

    /// A client of a shard.
    pub fn shard_client(&self, number: u16) -> ShardClient {
        ShardClient::connect(shard_endpoint(number, self.inner.spare), options()).expect("a good endpoint")
    }

    /// The `number`th account of a shard: an id that is routed there.
    pub fn account(&self, number: u16, which: usize) -> AccountId {
        let names = (0..).map(|salt| format!("account-{number}-{which}-{salt}"));
        let mut ids = names.map(|name| AccountId::new(&name).expect("a good id"));
        let shards = self.inner.shards;
        let is_there = |id: &AccountId| escrow_types::Slot::of(id.key()).shard_of(shards) == number;
        ids.find(is_there).expect("there is one")
    }
}

/// Options of clients here: those of production on the simulated network.
pub fn options() -> Options {
    Options { connector: net::connector(), ..Options::default() }
}

/// Waits in simulated time until something is so; panics if it takes longer than `within`. Gives how long it took.
pub async fn until(what: &str, within: Duration, mut is_so: impl AsyncFnMut() -> bool) -> Duration {
    const PAUSE: Duration = Duration::from_millis(5);
    let begun = Instant::now();
    let waiting = async {
        while !is_so().await {
            tokio::time::sleep(PAUSE).await;
        }
    };
    let result = tokio::time::timeout(within, waiting).await;
    assert!(result.is_ok(), "waited {within:?} in vain until {what}");
    begun.elapsed()
}

/// Lets simulated time pass: how long a fault lasts.
pub async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}
