//! One replica of one group: openraft with this house's log, network and state machine, and what an owner needs of it.
//!
//! ```text
//!            propose(term, commands)                     call (from other replicas)
//!  owner ───────────────────────────────▶ Raft ◀──────────────────────────────── service
//!    ▲                                     │ │
//!    │        Fed: committed entries,      │ └──▶ journal (log, votes) ── durable ──▶ callback
//!    └──────── snapshots to make, install ─┘
//! ```
//! An owner acts to the outside only while its replica leads ([`Standing`]) and an entry of its own term is applied; what it proposes
//! bears the term in which it was leader, and is dropped in any other. A leader that hears nothing from a quorum gives up by
//! itself, so that whoever talks to it goes elsewhere.
//!
//! **Invariant:** no entry reaches the owner before it is committed, and none twice.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use escrow_journal::storage::{Disk, DiskFile};
use escrow_proto::v1;
use futures_util::FutureExt as _;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::raft::linearizable_read::LinearizerOption;
use openraft::{Config, Raft, RaftMetrics, ReadPolicy, ServerState, SnapshotPolicy};
use tokio::sync::{mpsc, watch};

use crate::error::{NotLeader, ReplicaError};
use crate::freshness::{Heard, Lead};
use crate::log::GroupLog;
use crate::machine::{Fed, Machine};
use crate::membership;
use crate::network::{Peers, Transport};
use crate::proposing::keep_proposing;
use crate::runtime;
use crate::standing::{Standing, Watcher, step_down};
use crate::types::{Address, GroupId, LogId, Member, MemberId, Position, Types};
use crate::wire;

/// Bytes of entries that a checkpoint includes and that are kept all the same, for followers that are a little behind: the others get
/// a snapshot.
pub const BYTES_KEPT: usize = 32 << 20;
/// Names of files of snapshots that are on their way end so.
pub(crate) const OUTGOING: &str = ".outgoing";
pub(crate) const INCOMING: &str = ".incoming";
/// Times of a group, in milliseconds. The same for all its members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// How often a leader says that it is there.
    pub heartbeat_ms: u64,
    /// A follower that hears nothing for a time drawn from this much to twice this much, beyond the leader's lease of twice this much,
    /// stands for election.
    pub election_ms: u64,
}

impl Default for Times {
    fn default() -> Self {
        Self { heartbeat_ms: 50, election_ms: 200 }
    }
}

/// What a replica is.
pub struct Settings {
    /// The group.
    pub group: GroupId,
    /// This member.
    pub me: Member,
    /// The members of a new group, this one included; of an existing group, where its members listen now.
    pub members: Vec<Member>,
    /// Whether the group is new. Never for a replica that has lost its disk: it would vote against what it had promised.
    pub is_new: bool,
    /// Replicas of other clusters are refused.
    pub cluster_id: String,
    /// Times.
    pub times: Times,
    /// The other replicas.
    pub transport: Arc<dyn Transport>,
    /// Where snapshots are written and read.
    pub disk: Arc<dyn Disk>,
    /// A directory for them, of this group alone.
    pub snapshot_dir: PathBuf,
    /// Bytes of entries that are kept although a checkpoint includes them: [`BYTES_KEPT`].
    pub bytes_kept: usize,
}

pub(crate) type RaftOf = Raft<Types, Machine>;

/// A snapshot that is being received.
pub(crate) struct Incoming {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) position: Position,
    pub(crate) bytes: u64,
    /// CRC-32C of all of them.
    pub(crate) crc: u32,
    /// Bytes that were not synced yet.
    pub(crate) unsynced: u64,
}

/// Snapshots from the leader: one at a time.
#[derive(Default)]
pub(crate) struct Snapshots {
    /// Counts them: each has a file of its own.
    pub(crate) count: u64,
    pub(crate) incoming: Option<Incoming>,
    /// The last one is being installed; whoever sent it may have gone.
    pub(crate) is_installing: bool,
}

pub(crate) struct Inner {
    pub(crate) group: GroupId,
    pub(crate) me: Member,
    pub(crate) raft: RaftOf,
    pub(crate) log: GroupLog,
    pub(crate) peers: Peers,
    proposals: mpsc::UnboundedSender<(u64, Bytes)>,
    pub(crate) standing: watch::Receiver<Standing>,
    bytes_kept: usize,
    pub(crate) lead: Lead,
    pub(crate) heard: Heard,
    /// It gives no vote before that.
    pub(crate) votes_from: runtime::Instant,
    pub(crate) checkpointed: Arc<Mutex<Position>>,
    pub(crate) snapshots: Mutex<Snapshots>,
}

/// A replica of a group. Clones are handles of the same one.
#[derive(Clone)]
pub struct Replica(pub(crate) Arc<Inner>);

/// What a group tells the owner of its state machine.
pub type Feed = mpsc::UnboundedReceiver<Fed>;

fn raft_error(error: impl std::fmt::Display) -> ReplicaError {
    ReplicaError::Raft(error.to_string())
}

fn config(group: GroupId, times: Times) -> Result<Config, ReplicaError> {
    let config = Config {
        cluster_name: group.to_string(),
        heartbeat_interval: times.heartbeat_ms,
        election_timeout_min: times.election_ms,
        election_timeout_max: times.election_ms * 2,
        // The owner says when there is a checkpoint; and nothing but a missing entry makes a snapshot necessary.
        snapshot_policy: SnapshotPolicy::Never,
        replication_lag_threshold: u64::MAX,
        // Entries go when [`Replica::checkpointed`] says so.
        max_in_snapshot_log_to_keep: u64::MAX,
        enable_pre_vote: Some(true),
        // A leader that restarts has forgotten what it did in its term: it must not go on in it.
        enable_leader_restore: Some(false),
        ..Config::default()
    };
    config.validate().map_err(|error| ReplicaError::Config(error.to_string()))
}

impl Replica {
    /// Starts a replica over a log that was recovered. `position` is where the owner's state is, `checkpointed` where its durable
    /// checkpoint is. Must be called where [`crate::runtime`] finds an executor.
    pub async fn start(
        settings: Settings,
        log: GroupLog,
        position: Position,
        checkpointed: Position,
    ) -> Result<(Self, Feed), ReplicaError> {
        let Settings {
            group,
            me,
            members,
            is_new,
            cluster_id,
            times,
            transport,
            disk,
            snapshot_dir,
            bytes_kept,
        } = settings;
        let was_pristine = log.is_pristine() && position.index() == 0;
        let (feed, fed) = mpsc::unbounded_channel();
        let directory: BTreeMap<u32, String> =
            members.iter().map(|member| (member.id.number(), member.endpoint.clone())).collect();
        let peers = Peers {
            group,
            me: me.id,
            cluster_id: cluster_id.into(),
            transport,
            directory: Arc::new(directory),
            disk,
            snapshot_dir: Arc::new(snapshot_dir),
            feed: feed.downgrade(),
            lead: Lead::default(),
        };
        let lead = peers.lead.clone();
        let checkpointed = Arc::new(Mutex::new(checkpointed));
        sweep(&*peers.disk, &peers.snapshot_dir);
        let machine = Machine::new(feed.clone(), position, Arc::clone(&checkpointed), lead.clone());
        let config = Arc::new(config(group, times)?);
        let raft = Raft::new(me.id.get(), config, peers.clone(), log.clone(), machine);
        let raft: RaftOf = raft.await.map_err(raft_error)?;
        lead.watch(raft.metrics(), times);
        let votes_from = if was_pristine { runtime::Instant::of_now() } else { keep_lease(&raft, times) };
        if was_pristine && is_new {
            runtime::spawn(found(raft.clone(), group, members));
        }
        let (proposals, proposed) = mpsc::unbounded_channel();
        let (tell, standing) = watch::channel(Standing::default());
        runtime::spawn(keep_proposing(raft.clone(), proposed, standing.clone()));
        let watcher = Watcher {
            raft: raft.clone(),
            peers: peers.clone(),
            times,
            tell,
            feed: feed.downgrade(),
            log: log.clone(),
            checkpointed: Arc::clone(&checkpointed),
            bytes_kept,
        };
        runtime::spawn(watcher.run());
        let snapshots = Mutex::default();
        let heard = Heard::new();
        let replica = Self(Arc::new(Inner {
            group,
            me,
            raft,
            log,
            peers,
            proposals,
            standing,
            bytes_kept,
            lead,
            heard,
            votes_from,
            checkpointed,
            snapshots,
        }));
        if !is_new {
            // Until it votes, over all restarts on the way.
            runtime::spawn(membership::join(replica.clone()));
        }
        Ok((replica, fed))
    }

    /// As [`Replica::start`], for whoever has nothing to wait with: a simulation.
    pub fn start_at_once(
        settings: Settings,
        log: GroupLog,
        position: Position,
        checkpointed: Position,
    ) -> Result<(Self, Feed), ReplicaError> {
        let started = Self::start(settings, log, position, checkpointed).now_or_never();
        started.expect("a start waits for nothing but what is in memory")
    }

    /// Its group.
    pub fn group(&self) -> GroupId {
        self.0.group
    }

    /// This member.
    pub fn me(&self) -> &Member {
        &self.0.me
    }

    /// Whether it leads, and who does: the newest is always there.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.0.standing.clone()
    }

    /// Appends commands to the group's log, if this replica leads in that term when their turn comes; otherwise they are dropped.
    /// Whoever leads hears of them again as [`Fed::Committed`], in the order in which they were proposed.
    pub fn propose(&self, term: u64, commands: Vec<u8>) {
        // A stopped Raft tells the owner by the feed.
        let _ = self.0.proposals.send((term, commands.into()));
    }

    /// A place in the log that includes everything that was acknowledged before this call, once a quorum has confirmed that this
    /// replica leads (Raft's read index, Ongaro 2014, 6.4). Whoever has applied that much may answer a read.
    pub async fn read_index(&self) -> Result<u64, NotLeader> {
        let options = LinearizerOption::from(ReadPolicy::ReadIndex);
        match self.0.raft.get_read_linearizer(options).await {
            Ok(linearizer) => Ok(linearizer.read_log_id().index() + 1),
            Err(_) => Err(self.not_leader()),
        }
    }

    /// Who leads, for whoever asks the wrong replica.
    pub fn not_leader(&self) -> NotLeader {
        let standing = self.0.standing.borrow();
        NotLeader { leader: standing.leader.clone().filter(|_| !standing.leads) }
    }

    /// The owner has a durable checkpoint of this place: entries before it may be given up.
    pub fn checkpointed(&self, position: Position) {
        let last = position.last;
        *self.0.checkpointed.lock().unwrap_or_else(PoisonError::into_inner) = position;
        let (raft, log, bytes_kept) = (self.0.raft.clone(), self.0.log.clone(), self.0.bytes_kept);
        let Some(last) = last else { return };
        runtime::spawn(async move {
            // A stopped Raft tells the owner by the feed.
            let _ = raft.trigger().snapshot().await;
            give_up_entries(&raft, &log, last, bytes_kept).await;
        });
    }

    /// If it leads, lets the member that is furthest lead instead; ends when another leads, or when the time is over. Whether it
    /// does not lead any more.
    pub async fn hand_over(&self, within: Duration) -> bool {
        let handing_over = async {
            while self.0.standing.borrow().leads {
                let successor = membership::successor(&self.0.raft.metrics().borrow_watched());
                match successor {
                    Some(successor) => self.offer(successor).await,
                    None => return false,
                }
            }
            true
        };
        runtime::within(within, handing_over).await.unwrap_or(false)
    }

    /// Asks a member to take over, and waits for a moment whether it does: it may have been too busy, or too far behind.
    pub(crate) async fn offer(&self, to: u64) {
        const MOMENT: Duration = Duration::from_millis(500);
        let offering = self.0.lead.offer();
        // A stopped Raft tells the owner by the feed.
        let _ = self.0.raft.trigger().transfer_leader(to).await;
        // The offer stands for the rest of the term.
        self.0.lead.give_up(self.0.raft.metrics().borrow_watched().current_term);
        drop(offering);
        let mut standing = self.standing();
        let follows = async {
            while standing.borrow_and_update().leads {
                if standing.changed().await.is_err() {
                    break;
                }
            }
        };
        let _ = runtime::within(MOMENT, follows).await;
    }

    /// Has it give up leadership in a term: somebody was told of a newer one.
    pub fn give_up(&self, term: u64) {
        let raft = self.0.raft.clone();
        runtime::spawn(async move { step_down(&raft, term).await });
    }

    /// Ends Raft's tasks. Leadership is not handed over by this.
    pub async fn stop(&self) {
        // It has ended in any case.
        let _ = self.0.raft.shutdown().await;
    }

    /// The voters of the newest membership.
    pub(crate) fn voters(metrics: &RaftMetrics<Types>) -> BTreeSet<u64> {
        metrics.membership_config.membership().voter_ids().collect()
    }
}

/// Removes files of snapshots that were on their way when the process ended.
fn sweep(disk: &dyn Disk, dir: &Path) {
    let is_left = |name: &String| name.ends_with(OUTGOING) || name.ends_with(INCOMING);
    for name in disk.list(dir).unwrap_or_default().iter().filter(|name| is_left(name)) {
        // It only takes room.
        if let Err(error) = disk.remove(&dir.join(name)) {
            tracing::warn!(name, %error, "a file of a snapshot could not be removed");
        }
    }
}

/// Whoever restarts has forgotten which leader's lease it keeps: it neither votes nor stands for election for as long as it may have
/// promised. Gives when that is over.
fn keep_lease(raft: &RaftOf, times: Times) -> runtime::Instant {
    let lease = Duration::from_millis(times.election_ms * 2);
    raft.runtime_config().elect(false);
    let raft = raft.clone();
    runtime::spawn(async move {
        runtime::sleep(lease).await;
        raft.runtime_config().elect(true);
    });
    runtime::Instant::of_now() + lease
}

/// Makes the first entry of a new group. Every member does so, with the same members: whichever is first.
async fn found(raft: RaftOf, group: GroupId, members: Vec<Member>) {
    let members: BTreeMap<u64, Address> =
        members.into_iter().map(|member| (member.id.get(), Address(member.endpoint))).collect();
    // Refused when another was first and its entry, or its question for a vote, has come already. A stopped Raft tells the owner by
    // the feed.
    if let Err(error) = raft.initialize(members).await {
        tracing::debug!(%group, %error, "the group is founded already");
    }
}

/// Lets entries go that a checkpoint includes, once Raft knows of it; and what else keeps old segments of the journal.
async fn give_up_entries(raft: &RaftOf, log: &GroupLog, checkpointed: LogId, bytes_kept: usize) {
    const PAUSE: Duration = Duration::from_millis(20);
    const PAUSES_MAX: usize = 100;
    for _ in 0..PAUSES_MAX {
        if raft.metrics().borrow_watched().snapshot >= Some(checkpointed) {
            break;
        }
        runtime::sleep(PAUSE).await;
    }
    if let Some(upto) = log.superfluous(checkpointed, bytes_kept) {
        // A stopped Raft tells the owner by the feed.
        let _ = raft.trigger().purge_log(upto).await;
    }
}

/// What operators see of a replica. The owner adds what it has applied.
impl Replica {
    /// How it stands.
    pub fn report(&self) -> v1::Replica {
        let metrics = self.0.raft.metrics().borrow_watched().clone();
        let role = match metrics.state {
            ServerState::Learner => v1::replica::Role::Learner,
            ServerState::Follower => v1::replica::Role::Follower,
            ServerState::Candidate => v1::replica::Role::Candidate,
            ServerState::Leader => v1::replica::Role::Leader,
            ServerState::Shutdown => v1::replica::Role::Stopped,
        };
        let place = |id: Option<LogId>| id.map_or(0, |id| id.index + 1);
        let membership = metrics.membership_config.membership();
        let voters = Self::voters(&metrics);
        let now = runtime::Instant::of_now();
        let members = membership.nodes().map(|(&id, node)| {
            let matched = metrics.replication.as_ref().and_then(|all| all.get(&id)).map(|&id| place(id));
            let heard = metrics.heartbeat.as_ref().and_then(|all| all.get(&id)).and_then(|heard| *heard);
            v1::ReplicaMember {
                member: Some(v1::Member { id, endpoint: self.0.peers.endpoint(id, node) }),
                voter: voters.contains(&id),
                matched,
                silent_ms: heard.map(|heard| (now - *heard).as_millis() as u64),
            }
        });
        let checkpointed = self.0.checkpointed.lock().unwrap_or_else(PoisonError::into_inner).index();
        v1::Replica {
            group: Some(wire::group(self.0.group)),
            id: self.0.me.id.get(),
            role: role.into(),
            term: metrics.current_term,
            leader: self.0.standing.borrow().leader.clone().unwrap_or_default(),
            last: metrics.last_log_index.map_or(0, |index| index + 1),
            committed: place(metrics.local_committed),
            applied: place(metrics.last_applied),
            checkpointed,
            purged: place(metrics.purged),
            members: members.collect(),
            digest: String::new(),
        }
    }
}

/// For whoever keeps members by their raw numbers.
pub(crate) fn member_id(raw: u64) -> MemberId {
    MemberId::from_raw(raw)
}
