//! Runs a story for several seeds. Every run ends with the checks, whatever the story did.
//!
//! `ESCROW_SEED=7` runs that seed alone, `ESCROW_SEEDS=200` so many of them. From the seed come faults, load, latencies, losses
//! and disks. What it does not fix is named in the package's README.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use escrow_coordinator as coordinator;
use escrow_journal::storage::SplitMix64;
use escrow_participant::{self as participant, MemoryView};
use tokio::sync::mpsc;
use turmoil::Sim;

use crate::node::{Kind, Node, data_dir};
use crate::world::{self, CALLER, COORDINATOR, Command, Errand, Inner, SPARE, STRANGER, SUCCESSOR, World};

/// The cluster that all belong to.
const CLUSTER: &str = "00000000000000000000000000edce00";
/// When every story begins: Unix seconds.
const EPOCH_S: u64 = 1_800_000_000;

/// What a story is told in.
#[derive(Clone, Copy)]
pub struct Setup {
    /// How many seeds are run, if the environment does not say otherwise.
    pub seeds: u64,
    /// Wallet shards, each on a host of its own.
    pub shards: u16,
    /// Whether shard 0 has another replica, on the host `SPARE`.
    pub spare: bool,
    /// How much simulated time the story with its checks may take.
    pub limit: Duration,
    /// The longest latency of a message; the shortest is 0.
    pub latency: Duration,
    /// Settings of the coordinators that differ.
    pub coordinator: fn(&mut coordinator::Config),
    /// Settings of the participants that differ.
    pub participant: fn(&mut participant::Config),
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            seeds: 4,
            shards: 2,
            spare: false,
            limit: Duration::from_secs(300),
            latency: Duration::from_millis(3),
            coordinator: |_| (),
            participant: |_| (),
        }
    }
}

/// Tells a story, once for each seed. Panics with the seed if anything in it does, in whichever task.
pub fn tell<F: Future<Output = ()> + 'static>(setup: Setup, story: impl Fn(World) -> F) {
    quiet();
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let seeds = match number("ESCROW_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("ESCROW_SEEDS").unwrap_or(setup.seeds),
    };
    for seed in seeds {
        let _rerun = Rerun(seed);
        tell_once(seed, &setup, &story);
    }
}

/// Says how to run a seed again if it fails.
struct Rerun(u64);

impl Drop for Rerun {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let test = std::thread::current().name().unwrap_or_default().to_owned();
            let seed = self.0;
            tracing::error!("again: ESCROW_SEED={seed} cargo test -p escrow-edge-tests {test}");
        }
    }
}

thread_local! {
    /// A panic in a task that nobody waits for must not be lost.
    static PANICKED: Cell<bool> = const { Cell::new(false) };
}

/// Logs by `RUST_LOG`, with simulated time, for tests that fail; and takes note of panics.
fn quiet() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let filter = tracing_subscriber::EnvFilter::try_from_default_env();
        let filter = filter.unwrap_or_else(|_| "error".into());
        let timer = Simulated;
        let logs = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_timer(timer)
            .with_ansi(false)
            .with_test_writer();
        logs.init();
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICKED.set(true);
            usual(panic);
        }));
    });
}

struct Simulated;

impl tracing_subscriber::fmt::time::FormatTime for Simulated {
    fn format_time(&self, to: &mut tracing_subscriber::fmt::format::Writer<'_>) -> std::fmt::Result {
        let elapsed = turmoil::sim_elapsed().unwrap_or_default();
        write!(to, "{:9.3}", elapsed.as_secs_f64())
    }
}

fn tell_once<F: Future<Output = ()> + 'static>(seed: u64, setup: &Setup, story: &impl Fn(World) -> F) {
    PANICKED.set(false);
    let mut sim = turmoil::Builder::new()
        .rng_seed(seed)
        .epoch(SystemTime::UNIX_EPOCH + Duration::from_secs(EPOCH_S))
        .simulation_duration(setup.limit)
        .max_message_latency(setup.latency)
        // A link that lost a message loses what follows, too, for a while.
        .repair_rate(0.1)
        // Segments under way on a connection, and connections that wait to be accepted: never what is tested.
        .tcp_capacity(4_096)
        .build();
    let nodes = nodes(seed, setup);
    for node in &nodes {
        let host = Rc::clone(node);
        sim.host(node.host.as_str(), move || Rc::clone(&host).run());
    }
    // They run only when a story says so.
    sim.crash(SUCCESSOR);
    if setup.spare {
        sim.crash(SPARE);
    }
    let errands = stranger(&mut sim);
    let inner = Rc::new(Inner {
        seed,
        chance: RefCell::new(SplitMix64::new(seed ^ 0xED6E)),
        nodes,
        shards: setup.shards,
        spare: setup.spare,
        commands: RefCell::new(VecDeque::new()),
        errands,
        transfers: Cell::new(0),
    });
    let world = World { inner: Rc::clone(&inner) };
    let told = story(world);
    sim.client(CALLER, async move {
        told.await;
        Ok(())
    });
    loop {
        let finished = sim.step().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert!(!PANICKED.get(), "seed {seed}: a task panicked");
        obey(&mut sim, &inner);
        if finished {
            break;
        }
    }
}

fn nodes(seed: u64, setup: &Setup) -> Vec<Rc<Node>> {
    let mut config = coordinator::Config {
        data_dir: data_dir(),
        cluster_id: Some(CLUSTER.to_owned()),
        participants: (0..setup.shards)
            .map(|id| coordinator::ParticipantConfig {
                id,
                name: id.to_string(),
                endpoint: world::shard_endpoint(id, setup.spare),
                kind: coordinator::ParticipantKind::Stream,
            })
            .collect(),
        segment_bytes: 16 << 20,
        checkpoint_interval_ms: 2_000,
        archive: coordinator::Archive::Keep,
        ..coordinator::Config::default()
    };
    (setup.coordinator)(&mut config);
    let mut nodes = vec![
        Node::new(COORDINATOR, seed ^ 0xC0, Kind::Coordinator(config.clone())),
        Node::new(SUCCESSOR, seed ^ 0xC1, Kind::Coordinator(config)),
    ];
    let spare = setup.spare.then(|| (SPARE.to_owned(), 0));
    for (host, number) in (0..setup.shards).map(|number| (world::shard(number), number)).chain(spare) {
        let mut config = participant::Config {
            data_dir: data_dir(),
            shards: vec![number],
            segment_bytes: 1 << 20,
            checkpoint_interval_ms: 2_000,
            archive: participant::Archive::Keep,
            ..participant::Config::default()
        };
        (setup.participant)(&mut config);
        let views = BTreeMap::from([(number, MemoryView::new(number))]);
        let kind = Kind::Participant(config, views);
        nodes.push(Node::new(&host, seed ^ 0x50 ^ u64::from(number), kind));
    }
    nodes
}

/// A host that runs whatever it is handed.
fn stranger(sim: &mut Sim<'_>) -> mpsc::UnboundedSender<Errand> {
    let (errands, queue) = mpsc::unbounded_channel::<Errand>();
    let queue = Rc::new(RefCell::new(Some(queue)));
    sim.host(STRANGER, move || {
        let mut queue = queue.borrow_mut().take().expect("the stranger is never killed");
        async move {
            while let Some(errand) = queue.recv().await {
                tokio::task::spawn_local(errand);
            }
            Ok(())
        }
    });
    errands
}

/// Does what the story has asked for, and closes the sockets of processes that have ended.
fn obey(sim: &mut Sim<'_>, inner: &Inner) {
    for node in inner.nodes.iter().filter(|node| node.is_to_reap.get()) {
        node.disk().kill();
        sim.crash(node.host.as_str());
        node.is_to_reap.set(false);
    }
    while let Some((command, done)) = inner.commands.borrow_mut().pop_front() {
        let node = |host: &str| inner.nodes.iter().find(|node| node.host == host).expect("a server");
        match command {
            Command::Kill { host, power } => {
                let node = node(&host);
                if power {
                    node.disk().crash();
                } else {
                    node.disk().kill();
                }
                sim.crash(host.as_str());
                node.ended.replace(None);
            }
            Command::Loss(rate) => sim.set_fail_rate(rate),
            Command::Start { host } => {
                node(&host).disk().kill();
                sim.bounce(host.as_str());
            }
        }
        // The story may be over.
        let _ = done.send(());
    }
}
