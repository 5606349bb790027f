//! Everything of one simulation, and its loop: take the next event, let it happen, check what is durable, go on.
//!
//! First everything that the seed drew goes wrong (safety), then nothing does (liveness): within a bounded time every transaction
//! must end, every caller must know, and every log must give the live state.

use std::collections::BTreeMap;

use escrow_coordinator::stepped::Stepped;
use escrow_proto::v1;
use escrow_replica::{CallError, GroupId};
use escrow_types::Slot;
use tonic::Status;

use crate::callers::Attempt;
use crate::chance::Chance;
use crate::coordinator::{CoordinatorProcess, Reply};
use crate::external::External;
use crate::faults::Faults;
use crate::jobs::{ACCOUNTS, Job};
use crate::links::{CallUnderWay, Link};
use crate::network::{ConnectionId, Network};
use crate::observe::Facts;
use crate::participant::ParticipantProcess;
use crate::replicas::{Groups, Replica, ReplicaCall};
use crate::time::{MS, SECOND, Time, TrueTime};
use crate::trace::{Trace, trace};
use crate::violation::{Step, Violation};

/// A process of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Node {
    Coordinator(usize),
    Participant(usize),
}

/// Something that is to happen. Those of a process bear its life: a later life has nothing to do with them.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    // Processes.
    Turn(Node, u32),
    Write(Node, u32),
    Background(Node, u32),
    Tick(usize, u32),
    /// A timer of its replicas may be due.
    Wake(Node, u32),
    Checkpoint(usize, u32),
    Restart(Node),
    // Links.
    Connect(usize, u16, u32),
    ToShard(ConnectionId, Vec<u8>),
    ToCoordinator(ConnectionId, Vec<u8>),
    LostHere(ConnectionId),
    LostThere(ConnectionId),
    Ask(ConnectionId),
    // Replicas.
    Call(u64),
    CallAnswered(u64, Box<Result<v1::CallResponse, CallError>>),
    // External participant.
    ExternalServes(usize),
    ExternalAnswers(usize, Result<u8, String>),
    // Callers and operators.
    NewJob,
    Caller(usize),
    Request(u64, usize),
    Answer(u64, Box<Result<Reply, Status>>),
    Operator,
    Freeze(usize, bool),
    // Faults.
    Disconnect,
    Partition,
    Kill,
    Pause,
    ClockJump,
    DiskFull,
    DiskRoom(Node),
    LoseDisk,
    ChangeMembers,
    /// A process reaches no other replica for a while.
    Isolate(Node, Time),
    /// A member that was removed is added again.
    PutBack(GroupId, Node),
    // The last phase.
    Calm,
}

/// See the module.
pub(crate) struct World {
    pub(crate) time: TrueTime,
    pub(crate) ages: u64,
    events: BTreeMap<(Time, u64), Event>,
    next_event: u64,
    pub(crate) chance: Chance,
    pub(crate) faults: Faults,
    pub(crate) trace: Trace,
    /// The replicas of the one partition.
    pub(crate) coordinators: Vec<CoordinatorProcess>,
    /// Replicas of one process stand next to each other.
    pub(crate) participants: Vec<ParticipantProcess>,
    /// How many replicas there are of everything.
    pub(crate) replicas: usize,
    /// By shard: the first replica of the process that holds it.
    pub(crate) home: Vec<usize>,
    pub(crate) network: Network,
    /// By coordinator and shard.
    pub(crate) links: Vec<Vec<Link>>,
    /// Calls between replicas that are under way.
    pub(crate) calls: BTreeMap<u64, ReplicaCall>,
    pub(crate) next_call: u64,
    /// By process, coordinators first: until when its replicas reach nobody.
    pub(crate) isolated: Vec<Time>,
    pub(crate) groups: Groups,
    /// Groups that somebody was removed from and not added again yet, and whom.
    pub(crate) removed: BTreeMap<GroupId, u64>,
    pub(crate) external: Option<External>,
    pub(crate) external_calls: Vec<CallUnderWay>,
    pub(crate) facts: Facts,
    pub(crate) jobs: Vec<Job>,
    pub(crate) attempts: BTreeMap<u64, Attempt>,
    pub(crate) next_attempt: u64,
    pub(crate) is_paused_by_operator: bool,
    /// Faults have stopped.
    pub(crate) is_calm: bool,
    /// Whose disk is full: those of the coordinators, and of the participants.
    pub(crate) full: Vec<bool>,
    pub(crate) steps: u64,
}

/// What one simulation did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Events that happened.
    pub events: u64,
    /// Transactions whose Begin became durable.
    pub begun: u64,
    /// Times that a process died.
    pub deaths: u64,
    /// Simulated time in microseconds.
    pub time: u64,
    /// From the end of the faults until all was settled, in microseconds.
    pub settling: u64,
    /// Times that a replica said how old its state was at most.
    pub ages: u64,
}

impl Summary {
    /// Adds what another did.
    pub(crate) fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.begun += other.begun;
        self.deaths += other.deaths;
        self.time += other.time;
        self.ages += other.ages;
        self.settling += other.settling;
    }
}

impl World {
    pub(crate) fn new(seed: u64, replicas: usize, trace: Trace) -> Self {
        let mut chance = Chance::new(seed, 0);
        let faults = Faults::draw(&mut Chance::new(seed, 1));
        let faults = if replicas > 1 { faults.of_replicas(&mut Chance::new(seed, 2)) } else { faults };
        let time = TrueTime::default();
        let shards = 2 + chance.below(2) as u16;
        // Sometimes one process holds two shards, and they share its log.
        let home: Vec<usize> = if chance.one_in(4) { vec![0, 0, 1] } else { vec![0, 1, 2] };
        let home = home[..usize::from(shards)].to_vec();
        let deletes_history = faults.flip_permille == 0 && faults.view_lost_permille == 0 && chance.one_in(4);
        let keep = chance.one_in(2);
        let coordinator_archive = match (deletes_history, keep) {
            (true, _) => escrow_coordinator::Archive::Delete,
            (false, true) => escrow_coordinator::Archive::Keep,
            (false, false) => escrow_coordinator::Archive::Compress,
        };
        let participant_archive = match (deletes_history, keep) {
            (true, _) => escrow_participant::Archive::Delete,
            (false, true) => escrow_participant::Archive::Keep,
            (false, false) => escrow_participant::Archive::Compress,
        };
        let processes = home[usize::from(shards) - 1] + 1;
        let participants = (0..processes * replicas).map(|at| {
            let (process, number) = (at / replicas, at % replicas);
            let replica =
                Replica { first: process * replicas, number, of: replicas, bytes_kept: faults.bytes_kept };
            let held = (0..shards).filter(|&shard| home[usize::from(shard)] == process).collect();
            ParticipantProcess::new(at, replica, held, participant_archive, &time, &mut chance)
        });
        let participants: Vec<_> = participants.collect();
        let home = home.iter().map(|process| process * replicas).collect();
        let external = faults.external.then_some(External { id: shards });
        let facts = Facts { external: external.as_ref().map(|external| external.id), ..Facts::default() };
        let coordinators = (0..replicas).map(|number| {
            let replica = Replica { first: 0, number, of: replicas, bytes_kept: faults.bytes_kept };
            let archive = coordinator_archive;
            CoordinatorProcess::new(replica, shards, faults.external, archive, &time, &mut chance)
        });
        let coordinators: Vec<_> = coordinators.collect();
        let nodes = coordinators.len() + participants.len();
        Self {
            time,
            ages: 0,
            events: BTreeMap::new(),
            next_event: 0,
            chance,
            faults,
            trace,
            coordinators,
            participants,
            replicas,
            home,
            network: Network::default(),
            links: vec![vec![Link::default(); usize::from(shards)]; replicas],
            calls: BTreeMap::new(),
            next_call: 0,
            isolated: vec![0; nodes],
            groups: Groups::new(shards, replicas),
            removed: BTreeMap::new(),
            external,
            external_calls: Vec::new(),
            facts,
            jobs: Vec::new(),
            attempts: BTreeMap::new(),
            next_attempt: 0,
            is_paused_by_operator: false,
            is_calm: false,
            full: vec![false; nodes],
            steps: 0,
        }
    }

    pub(crate) fn now(&self) -> Time {
        self.time.now()
    }

    /// Lets an event happen after a while.
    pub(crate) fn at(&mut self, after: Time, event: Event) {
        self.next_event += 1;
        self.events.insert((self.now() + after, self.next_event), event);
    }

    pub(crate) fn shards(&self) -> u16 {
        self.home.len() as u16
    }

    /// Runs until all is settled.
    pub(crate) fn run(&mut self) -> Step<Summary> {
        trace!(self, "{:?}", self.faults);
        self.open()?;
        let faults = self.faults.clone();
        self.at(0, Event::NewJob);
        self.begin_faults(&faults);
        self.at(faults.duration, Event::Calm);
        self.until(|world| world.is_calm && world.is_settled(), faults.duration + self.patience())?;
        let settling = self.now() - faults.duration.min(self.now());
        self.check_the_end()?;
        let coordinators = self.coordinators.iter().map(|it| it.life / 2).sum::<u32>();
        let deaths = coordinators + self.participants.iter().map(|it| it.life / 2).sum::<u32>();
        Ok(Summary {
            events: self.steps,
            begun: self.facts.begun.len() as u64,
            deaths: u64::from(deaths),
            time: self.now(),
            ages: self.ages,
            settling,
        })
    }

    /// How long everything may take to end once faults have stopped: the longest hold, the longest pause between retries, and
    /// what clocks were off.
    fn patience(&self) -> Time {
        let clocks =
            if self.faults.clock_jump_every > 0 { 2 * self.faults.clock_jump_max_ms * MS } else { 0 };
        40 * SECOND + clocks
    }

    /// Starts all processes and opens the accounts, in peace.
    fn open(&mut self) -> Step {
        let quiet = Faults {
            slow_permille: 0,
            duplicate_permille: 0,
            lose_permille: 0,
            sync_error_permille: 0,
            in_write_permille: 0,
            flip_permille: 0,
            view_lost_permille: 0,
            delay_max: MS,
            sync_max: MS,
            ..self.faults.clone()
        };
        let faults = std::mem::replace(&mut self.faults, quiet);
        for at in 0..self.participants.len() {
            self.start_participant(at)?;
        }
        for at in 0..self.coordinators.len() {
            self.start_coordinator(at)?;
        }
        self.until(World::is_led, 20 * SECOND)?;
        for (number, name) in ACCOUNTS[..7].iter().enumerate() {
            let key = escrow_types::AccountId::new(name).expect("a good id").key();
            let shard = Slot::of(key).shard_of(self.shards());
            let policy = match number {
                0 => v1::overdraft::Policy::Unlimited(true),
                1 => v1::overdraft::Policy::Limit(50),
                _ => v1::overdraft::Policy::Forbidden(true),
            };
            let overdraft = Some(v1::Overdraft { policy: Some(policy) });
            let account =
                v1::OpenAccount { account_id: (*name).to_owned(), currency: "USD".into(), overdraft };
            let at = self.leader_of(shard).expect("every shard is led");
            self.participants[at].open_accounts(shard, vec![account]);
            self.participant_turn_due(at);
        }
        self.until(World::is_open, 5 * SECOND)?;
        self.faults = faults;
        Ok(())
    }

    /// Whether everything that is replicated has a leader.
    fn is_led(&self) -> bool {
        self.leader().is_some() && (0..self.shards()).all(|shard| self.leader_of(shard).is_some())
    }

    fn is_open(&self) -> bool {
        let accounts = |shard: u16| {
            let server = self.leader_of(shard).and_then(|at| self.participants[at].server.as_ref());
            server.map_or(0, |server| server.wallet(shard).accounts_count())
        };
        let opened: usize = (0..self.shards()).map(accounts).sum();
        let greeted = |link: &Link| link.connection.is_some_and(|id| self.network.connections[&id].greeted);
        opened == 7 && self.leader().is_some_and(|at| self.links[at].iter().all(greeted))
    }

    /// The coordinator that leads, as far as it knows itself; the one of the newest term, if several think so.
    pub(crate) fn leader(&self) -> Option<usize> {
        if self.replicas == 1 {
            return self.coordinators[0].server.is_some().then_some(0);
        }
        let term = |at: usize| self.coordinators[at].server.as_ref().and_then(Stepped::serves);
        (0..self.replicas).filter(|&at| term(at).is_some()).max_by_key(|&at| term(at))
    }

    /// The process that serves a shard, likewise.
    pub(crate) fn leader_of(&self, shard: u16) -> Option<usize> {
        let first = self.home[usize::from(shard)];
        if self.replicas == 1 {
            return self.participants[first].server.is_some().then_some(first);
        }
        let term = |at: usize| self.participants[at].server.as_ref().and_then(|server| server.serves(shard));
        (first..first + self.replicas).filter(|&at| term(at).is_some()).max_by_key(|&at| term(at))
    }

    /// The place of a process among all.
    pub(crate) fn place(&self, node: Node) -> usize {
        match node {
            Node::Coordinator(at) => at,
            Node::Participant(at) => self.coordinators.len() + at,
        }
    }

    /// All processes.
    pub(crate) fn nodes(&self) -> Vec<Node> {
        let coordinators = (0..self.coordinators.len()).map(Node::Coordinator);
        coordinators.chain((0..self.participants.len()).map(Node::Participant)).collect()
    }

    /// The next event, if it happens before that time.
    pub(crate) fn next_before(&mut self, until: Time) -> Option<Event> {
        let ((now, _), _) = self.events.first_key_value()?;
        if *now > until {
            return None;
        }
        let ((now, _), event) = self.events.pop_first()?;
        self.time.set(now);
        self.steps += 1;
        Some(event)
    }

    /// Lets events happen until it is so; fails when that takes longer than `within` of simulated time.
    fn until(&mut self, is_so: impl Fn(&Self) -> bool, within: Time) -> Step {
        let deadline = self.now() + within;
        loop {
            if is_so(self) {
                return Ok(());
            }
            let Some(((now, _), event)) = self.events.pop_first() else {
                return Err(Violation::other("nothing is left to happen"));
            };
            if now > deadline {
                return Err(Violation::of(
                    escrow_invariants::Invariant::ReservationsEnd,
                    format!("not settled {} ms after the faults: {}", within / MS, self.unsettled()),
                ));
            }
            self.time.set(now);
            self.steps += 1;
            self.happen(event)?;
        }
    }
}
