//! Three replicas in one process, each with a journal of its own, over a network that can be cut.

#![allow(clippy::unwrap_used)] // helpers of tests are tests too

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use escrow_journal::storage::OsDisk;
use escrow_journal::{Group, Index, Journal, Options};
use escrow_proto::v1;
use escrow_proto::v1::change_group_request::Change;
use escrow_replica::export::NotExported;
use escrow_replica::restore::begin_log;
use escrow_replica::{
    CallError, Fed, Feed, GroupId, GroupLog, Member, MemberId, Position, Recovering, Replica, Replicas,
    Settings, Standing, Times, Transport, Trim,
};
use escrow_types::ParticipantId;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use tempfile::TempDir;

const GROUP: GroupId = GroupId::Shard(ParticipantId(3));
/// Longer than anything here takes; a machine may be busy.
const PATIENCE: Duration = Duration::from_secs(30);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Who is reached under which endpoint, and between which nobody is.
#[derive(Default)]
struct Network {
    replicas: Mutex<BTreeMap<String, Replicas>>,
    cut: Mutex<BTreeSet<(u32, u32)>>,
}

struct Wire(Arc<Network>);

impl Transport for Wire {
    fn call(
        &self,
        endpoint: &str,
        request: v1::CallRequest,
        _: Duration,
    ) -> BoxFuture<'static, Result<v1::CallResponse, CallError>> {
        let (network, endpoint) = (Arc::clone(&self.0), endpoint.to_owned());
        Box::pin(async move {
            let from = MemberId::from_raw(request.from).number();
            let to: u32 = endpoint.trim_start_matches("http://").parse().unwrap();
            let unreachable = || CallError::Unreachable("cut".into());
            let pair = (from.min(to), from.max(to));
            let is_cut = || lock(&network.cut).contains(&pair);
            if is_cut() {
                return Err(unreachable());
            }
            let replicas = lock(&network.replicas).get(&endpoint).cloned().ok_or_else(unreachable)?;
            let answer = replicas.answer(request).await;
            if is_cut() {
                return Err(unreachable());
            }
            answer.map_err(|error| CallError::Failed(error.to_string()))
        })
    }
}

/// The state machine: the commands, one after the other.
#[derive(Default)]
struct Text {
    position: Position,
    commands: Vec<String>,
}

/// A replica with its owner.
struct Node {
    number: u32,
    dir: TempDir,
    journal: Journal,
    replica: Replica,
    state: Arc<Mutex<Text>>,
    owner: tokio::task::JoinHandle<()>,
}

fn encode(text: &Text) -> Vec<u8> {
    text.commands.join("\n").into_bytes()
}

async fn own(replica: Replica, mut feed: Feed, state: Arc<Mutex<Text>>, checkpoint_every: u64) {
    let mut exports = Vec::new();
    while let Some(fed) = feed.recv().await {
        match fed {
            Fed::Committed(entry) => {
                let mut state = lock(&state);
                state.position.follow(&entry);
                if let Some(commands) = &entry.commands {
                    state.commands.push(String::from_utf8(commands.to_vec()).unwrap());
                }
                if entry.index().is_multiple_of(checkpoint_every) {
                    replica.checkpointed(state.position.clone());
                }
            }
            Fed::Export { path, includes, done } => exports.push((path, includes, done)),
            Fed::Install { position, path, done } => {
                let mut bytes = std::fs::read(path).unwrap();
                bytes.truncate(bytes.len() - 4);
                let text = String::from_utf8(bytes).unwrap();
                let commands = text.lines().map(ToOwned::to_owned).collect();
                *lock(&state) = Text { position, commands };
                drop(done.send(Ok(())));
            }
            Fed::Stopped(why) => panic!("{why}"),
        }
        let state = lock(&state);
        for (path, _, done) in exports.extract_if(.., |(_, includes, _)| *includes <= state.position.index())
        {
            std::fs::write(path, with_checksum(encode(&state))).unwrap();
            drop(done.send(Ok(state.position.clone())));
        }
    }
}

fn with_checksum(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

fn member(number: u32, life: u32) -> Member {
    Member { id: MemberId::another(number, life), endpoint: format!("http://{number}") }
}

impl Node {
    async fn start(
        network: &Arc<Network>,
        number: u32,
        life: u32,
        is_new: bool,
        dir: TempDir,
        checkpoint_every: u64,
    ) -> Self {
        Self::start_with(network, number, life, is_new, dir, checkpoint_every, Text::default()).await
    }

    /// With a state that it has already.
    async fn start_with(
        network: &Arc<Network>,
        number: u32,
        life: u32,
        is_new: bool,
        dir: TempDir,
        checkpoint_every: u64,
        text: Text,
    ) -> Self {
        let options = Options { segment_bytes: 1 << 20, ..Options::new(dir.path().join("journal")) };
        let (journal, _) = Journal::open(OsDisk::shared(), options, Index::FIRST).unwrap();
        let mut recovering = Recovering::default();
        for entry in journal.read_from(journal.cursors().trimmed.next()).unwrap() {
            let entry = entry.unwrap();
            recovering.record(entry.index, entry.payload).unwrap();
        }
        let log = GroupLog::new(Group(3), journal.clone(), Trim::of([Group(3)]), recovering).unwrap();
        let settings = Settings {
            group: GROUP,
            me: member(number, life),
            members: (1..=3).map(|other| member(other, if other == number { life } else { 0 })).collect(),
            is_new,
            cluster_id: "test".into(),
            times: Times::default(),
            transport: Arc::new(Wire(Arc::clone(network))),
            disk: OsDisk::shared(),
            snapshot_dir: dir.path().to_owned(),
            bytes_kept: 1_000,
        };
        let (replica, feed) =
            Replica::start(settings, log, text.position.clone(), text.position.clone()).await.unwrap();
        lock(&network.replicas).insert(format!("http://{number}"), Replicas::new([replica.clone()]));
        let state = Arc::new(Mutex::new(text));
        let owner = tokio::spawn(own(replica.clone(), feed, Arc::clone(&state), checkpoint_every));
        Self { number, dir, journal, replica, state, owner }
    }

    fn standing(&self) -> Standing {
        self.replica.standing().borrow().clone()
    }

    /// As if the process had died; gives its disk.
    async fn kill(self, network: &Network) -> TempDir {
        lock(&network.replicas).remove(&format!("http://{}", self.number));
        self.owner.abort();
        self.replica.stop().await;
        self.journal.close().unwrap();
        self.dir
    }

    fn texts(&self) -> Vec<String> {
        lock(&self.state).commands.clone()
    }
}

/// Waits until something is so.
async fn until<T>(what: &str, mut is_so: impl AsyncFnMut() -> Option<T>) -> T {
    let look = async {
        loop {
            if let Some(found) = is_so().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, look).await.unwrap_or_else(|_| panic!("never: {what}"))
}

struct Cluster {
    network: Arc<Network>,
    nodes: BTreeMap<u32, Node>,
}

impl Cluster {
    async fn start(checkpoint_every: u64) -> Self {
        let network = Arc::new(Network::default());
        let mut nodes = BTreeMap::new();
        for number in 1..=3 {
            let dir = tempfile::tempdir().unwrap();
            nodes.insert(number, Node::start(&network, number, 0, true, dir, checkpoint_every).await);
        }
        Self { network, nodes }
    }

    /// The one that leads in the newest term.
    async fn leader(&self) -> u32 {
        until("a leader", async || {
            let newest = self.nodes.values().map(|node| node.standing().term).max()?;
            let leads = |node: &&Node| node.standing().leads && node.standing().term == newest;
            self.nodes.values().find(leads).map(|node| node.number)
        })
        .await
    }

    /// Proposes until it is applied there; gives who led.
    async fn write(&self, text: &str) -> u32 {
        until(text, async || {
            let leader = self.leader().await;
            let node = &self.nodes[&leader];
            node.replica.propose(node.standing().term, text.as_bytes().to_vec());
            let applied = async || node.texts().iter().any(|known| known == text).then_some(leader);
            let soon = until(text, applied);
            tokio::time::timeout(Duration::from_secs(2), soon).await.ok()
        })
        .await
    }

    /// All have applied the same, and this much.
    async fn agree(&self, texts: usize) -> Vec<String> {
        until("agreement", async || {
            let first = self.nodes.values().next().unwrap().texts();
            let same = self.nodes.values().all(|node| node.texts() == first);
            (same && first.len() >= texts).then_some(first)
        })
        .await
    }

    fn isolate(&self, number: u32) {
        for other in 1..=3 {
            if other != number {
                lock(&self.network.cut).insert((number.min(other), number.max(other)));
            }
        }
    }

    fn heal(&self) {
        lock(&self.network.cut).clear();
    }

    async fn stop(self) {
        for node in self.nodes.into_values() {
            node.kill(&self.network).await;
        }
    }
}

#[tokio::test]
async fn what_is_committed_survives_its_leader() {
    let mut cluster = Cluster::start(1_000_000).await;
    let first = cluster.write("a").await;
    cluster.write("b").await;
    let dir = cluster.nodes.remove(&first).unwrap().kill(&cluster.network).await;
    let second = cluster.write("c").await;
    assert_ne!(first, second);
    let node = Node::start(&cluster.network, first, 0, false, dir, 1_000_000).await;
    cluster.nodes.insert(first, node);
    let texts = cluster.agree(3).await;
    assert_eq!(texts, ["a", "b", "c"]);
    cluster.stop().await;
}

#[tokio::test]
async fn a_leader_without_a_quorum_gives_up_and_answers_no_read() {
    let cluster = Cluster::start(1_000_000).await;
    let old = cluster.write("a").await;
    let node = &cluster.nodes[&old];
    let term = node.standing().term;
    let read = node.replica.read_index().await.unwrap();
    until("the read index is applied", async || (lock(&node.state).position.index() >= read).then_some(()))
        .await;
    until("it is sure to lead", async || node.replica.surely_leads_in().map(drop)).await;
    cluster.isolate(old);
    until("another is chosen", async || {
        let others = || cluster.nodes.values().filter(|node| node.number != old);
        let is_chosen = others().any(|node| node.standing().leads && node.standing().term > term);
        assert!(
            !is_chosen || node.replica.surely_leads_in().is_none(),
            "nobody is sure when another is chosen"
        );
        is_chosen.then_some(())
    })
    .await;
    node.replica.propose(term, b"lost".to_vec());
    assert!(node.replica.read_index().await.is_err(), "no quorum confirms it");
    until("the old leader gives up", async || (!node.standing().leads).then_some(())).await;
    let new = cluster.write("b").await;
    assert_ne!(old, new);
    cluster.heal();
    assert_eq!(cluster.agree(2).await, ["a", "b"], "what was never committed is void");
    // It bears a term that is over.
    node.replica.propose(term, b"late".to_vec());
    cluster.write("c").await;
    assert_eq!(cluster.agree(3).await, ["a", "b", "c"]);
    cluster.stop().await;
}

#[tokio::test]
async fn a_follower_knows_how_old_its_state_is_at_most() {
    let cluster = Cluster::start(1_000_000).await;
    let leader = cluster.write("a").await;
    let follower = cluster.nodes.values().find(|node| node.number != leader).unwrap();
    for text in ["b", "c", "d"] {
        cluster.write(text).await;
        let written = std::time::Instant::now();
        let newer = async || follower.replica.freshness().filter(|known| known.age() < written.elapsed());
        let known = until("a leader vouches for what comes after the write", newer).await;
        let applied = async || (lock(&follower.state).position.index() >= known.index).then_some(());
        until("it is applied", applied).await;
        assert!(follower.texts().contains(&text.to_owned()), "{text} was acknowledged before that");
    }
    cluster.isolate(follower.number);
    let known = follower.replica.freshness().unwrap();
    cluster.write("e").await;
    let old = async || follower.replica.freshness().filter(|known| known.age() > Duration::from_millis(300));
    let older = until("it knows that it grows older", old).await;
    assert!(older.index <= known.index + 1, "nobody vouches for what it cannot hear of");
    assert!(!follower.texts().contains(&"e".to_owned()));
    cluster.heal();
    cluster.agree(5).await;
    cluster.stop().await;
}

#[tokio::test]
async fn leadership_moves_when_asked() {
    let cluster = Cluster::start(1_000_000).await;
    let old = cluster.write("a").await;
    let replica = cluster.nodes[&old].replica.clone();
    until("it is sure to lead", async || replica.surely_leads_in().map(drop)).await;
    let mut handing_over = std::pin::pin!(replica.hand_over(PATIENCE));
    assert!(futures_util::poll!(&mut handing_over).is_pending());
    assert!(replica.surely_leads_in().is_none(), "whoever was asked to take over may lead at any moment");
    assert!(handing_over.await);
    let new = cluster.leader().await;
    assert_ne!(old, new);
    let back = Change::Lead(member(old, 0).id.get());
    // On a busy machine the third may be quicker.
    until("the old one leads again", async || {
        let leader = cluster.leader().await;
        let moved = cluster.nodes[&leader].replica.change(back.clone()).await;
        (moved.is_ok() && cluster.leader().await == old).then_some(())
    })
    .await;
    let error = cluster.nodes[&new].replica.change(Change::Lead(0)).await.unwrap_err();
    assert!(error.to_string().contains("does not lead"), "{error}");
    cluster.stop().await;
}

#[tokio::test]
async fn a_replica_that_lost_its_disk_comes_back_as_another_member_by_a_snapshot() {
    // Checkpoints so often that the log alone would not do.
    let mut cluster = Cluster::start(100).await;
    let leader = cluster.write("first").await;
    let lost = (1..=3).find(|&number| number != leader).unwrap();
    drop(cluster.nodes.remove(&lost).unwrap().kill(&cluster.network).await);
    for number in 0..3_000 {
        let node = &cluster.nodes[&leader];
        node.replica.propose(node.standing().term, format!("n{number}").into_bytes());
    }
    cluster.write("last").await;
    let leader = cluster.leader().await;
    until("old entries are given up", async || {
        (cluster.nodes[&leader].replica.report().purged > 0).then_some(())
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(&cluster.network, lost, 77, false, dir, 100).await;
    cluster.nodes.insert(lost, node);
    let texts = cluster.agree(3_002).await;
    assert_eq!(texts.len(), 3_002, "each once");
    let members = until("the new member votes, the old one is gone", async || {
        let report = cluster.nodes[&cluster.leader().await].replica.report();
        let all_vote = report.members.iter().all(|member| member.voter);
        (report.members.len() == 3 && all_vote).then_some(report.members)
    })
    .await;
    let ids: Vec<u64> = members.into_iter().map(|member| member.member.unwrap().id).collect();
    assert!(ids.contains(&member(lost, 77).id.get()), "{ids:?}");
    cluster.stop().await;
}

#[tokio::test]
async fn members_are_added_and_removed() {
    let mut cluster = Cluster::start(1_000_000).await;
    cluster.write("a").await;
    let dir = tempfile::tempdir().unwrap();
    let fourth = Node::start(&cluster.network, 4, 0, false, dir, 1_000_000).await;
    cluster.nodes.insert(4, fourth);
    let leader = cluster.leader().await;
    let add = v1::Member { id: member(4, 0).id.get(), endpoint: "http://4".into() };
    cluster.nodes[&leader].replica.change(Change::Add(add)).await.unwrap();
    let gone = (1..=3).find(|&number| number != leader).unwrap();
    let remove = Change::Remove(member(gone, 0).id.get());
    cluster.nodes[&leader].replica.change(remove).await.unwrap();
    drop(cluster.nodes.remove(&gone).unwrap().kill(&cluster.network).await);
    cluster.write("b").await;
    assert_eq!(cluster.agree(2).await, ["a", "b"]);
    let report = cluster.nodes[&leader].replica.report();
    assert_eq!(report.members.len(), 3);
    cluster.stop().await;
}

#[tokio::test]
async fn calls_for_somebody_else_change_nothing() {
    let cluster = Cluster::start(1_000_000).await;
    cluster.write("a").await;
    let replicas = lock(&cluster.network.replicas)["http://1"].clone();
    let term = cluster.nodes[&1].standing().term;
    let vote = v1::VoteCall {
        vote: Some(v1::Ballot { term: term + 100, member: member(2, 0).id.get(), committed: false }),
        last: Some(v1::LogId { term: term + 100, index: 1_000 }),
        transfer: true,
        rehearsal: false,
    };
    let call = |to: u64, cluster_id: &str, number: u32| v1::CallRequest {
        group: Some(v1::GroupName { kind: v1::group_name::Kind::Shard.into(), number }),
        from: member(2, 0).id.get(),
        to,
        cluster_id: cluster_id.into(),
        call: Some(v1::call_request::Call::Vote(vote)),
    };
    let me = member(1, 0).id.get();
    for wrong in [call(me, "other", 3), call(member(1, 9).id.get(), "test", 3), call(me, "test", 4)] {
        assert!(replicas.answer(wrong).await.is_err());
    }
    assert_eq!(cluster.nodes[&1].standing().term, term);
    cluster.stop().await;
}

#[tokio::test]
async fn a_snapshot_for_a_backup_has_everything_and_makes_a_group_that_goes_on() {
    const TERM: u64 = 1_000;
    let cluster = Cluster::start(1_000_000).await;
    cluster.write("a").await;
    let leader = cluster.write("b").await;
    let follower = (1..=3).find(|&number| number != leader).unwrap();
    let refused = cluster.nodes[&follower].replica.export().await.err().unwrap();
    assert!(matches!(refused, NotExported::NotLeader(_)), "{refused}");
    let exported = cluster.nodes[&leader].replica.export().await.unwrap();
    let position = exported.position().clone();
    let mut chunks = Box::pin(exported.into_chunks());
    let mut bytes = Vec::new();
    while let Some(chunk) = chunks.next().await {
        bytes.extend(chunk.unwrap().chunk);
    }
    drop(chunks);
    assert_eq!(bytes, with_checksum(b"a\nb".to_vec()));
    let left = std::fs::read_dir(cluster.nodes[&leader].dir.path()).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["journal"], "the file has gone");
    cluster.stop().await;

    // Others, who have what those had.
    let members: Vec<Member> = (1..=3).map(|number| member(number, 10 + number)).collect();
    let position = position.with_members(&members).unwrap();
    let network = Arc::new(Network::default());
    let mut nodes = BTreeMap::new();
    for new in &members {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { segment_bytes: 1 << 20, ..Options::new(dir.path().join("journal")) };
        let (journal, mut steps, _) = Journal::open_stepped(OsDisk::shared(), options, Index::FIRST).unwrap();
        begin_log(&journal, Group(3), &position, TERM).unwrap();
        steps.write();
        drop((journal, steps));
        let text = Text { position: position.clone(), commands: vec!["a".into(), "b".into()] };
        let (number, life) = (new.id.number(), new.id.life());
        let node = Node::start_with(&network, number, life, false, dir, 1_000_000, text).await;
        nodes.insert(number, node);
    }
    let mut cluster = Cluster { network, nodes };
    let leader = cluster.write("c").await;
    assert!(cluster.nodes[&leader].standing().term > TERM);
    assert_eq!(cluster.agree(3).await, ["a", "b", "c"]);
    let lost = (1..=3).find(|&number| number != leader).unwrap();
    drop(cluster.nodes.remove(&lost).unwrap().kill(&cluster.network).await);
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(&cluster.network, lost, 77, false, dir, 1_000_000).await;
    cluster.nodes.insert(lost, node);
    assert_eq!(cluster.agree(3).await, ["a", "b", "c"], "never entries alone: they lack what was restored");
    cluster.stop().await;
}

#[tokio::test]
async fn whoever_is_left_says_what_the_group_had() {
    let cluster = Cluster::start(1_000_000).await;
    cluster.write("a").await;
    cluster.write("b").await;
    cluster.agree(2).await;
    let mut left = Vec::new();
    for (_, node) in cluster.nodes {
        let dir = node.kill(&cluster.network).await;
        let options = Options { segment_bytes: 1 << 20, ..Options::new(dir.path().join("journal")) };
        let (journal, _) = Journal::open(OsDisk::shared(), options, Index::FIRST).unwrap();
        let mut recovering = Recovering::default();
        for entry in journal.read_from(Index::FIRST).unwrap() {
            let entry = entry.unwrap();
            recovering.record(entry.index, entry.payload).unwrap();
        }
        let log = GroupLog::new(Group(3), journal.clone(), Trim::of([Group(3)]), recovering).unwrap();
        let mut position = Position::default();
        let remainder = log.remainder(&position).unwrap();
        assert!(remainder.committed <= remainder.entries.len() as u64);
        let mut texts = Vec::new();
        for mut entry in remainder.entries {
            position.advance(&mut entry);
            texts.extend(entry.commands.map(|commands| String::from_utf8(commands.to_vec()).unwrap()));
        }
        assert_eq!(texts, ["a", "b"]);
        assert!(remainder.term >= position.term());
        left.push(position);
        journal.close().unwrap();
    }
    let present = |numbers: &[u32]| numbers.iter().map(|&number| member(number, 0).id).collect();
    for position in left {
        assert_eq!(position.voters(), present(&[1, 2, 3]));
        assert!(position.is_majority(&present(&[1, 3])));
        assert!(!position.is_majority(&present(&[2])));
        assert!(!position.is_majority(&[member(1, 5).id, member(2, 0).id].into()), "another life is another");
    }
}
