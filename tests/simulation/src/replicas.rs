//! What Raft runs on here: an executor of tasks for each process, and a network of calls between replicas.
//!
//! Whatever a process does is done within its [`Runtime`]: the tasks of its replicas then find their time, their randomness and their timers there. Calls
//! to other replicas come out of it, and become events.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use escrow_journal::storage::SplitMix64;
use escrow_proto::v1;
use escrow_proto::v1::call_request::Call;
use escrow_proto::v1::call_response::Answer;
use escrow_replica::runtime::{Executor, Task as Spawned, with_executor};
use escrow_replica::service::Unanswered;
use escrow_replica::{CallError, ChangeError, Replicas, Replication, Transport};
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use crate::members::Change;
use crate::network::delay;
use crate::observe::GroupObserver;
use crate::task::Task;
use crate::time::{MS, SECOND, Time, TrueTime};
use crate::violation::Step;
use crate::world::{Event, Node, World};

/// A connection that carries nothing is noticed within so long.
const KEEP_ALIVE: Time = SECOND;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A call that leaves a process.
pub(crate) struct Outgoing {
    /// As `http://coordinator-0` or `http://participant-4`: a process of the simulation.
    pub(crate) endpoint: String,
    pub(crate) request: v1::CallRequest,
    pub(crate) answer: oneshot::Sender<Result<v1::CallResponse, CallError>>,
}

/// Which replica a process is, and of how many.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Replica {
    /// The process, among those of its kind.
    pub(crate) first: usize,
    pub(crate) number: usize,
    pub(crate) of: usize,
    pub(crate) bytes_kept: usize,
}

impl Replica {
    /// What its server is told; nothing, if it is the only one.
    pub(crate) fn replication(self, kind: &str) -> Option<Replication> {
        if self.of == 1 {
            return None;
        }
        let member = |number: usize| (number as u32 + 1, format!("http://{kind}-{}", self.first + number));
        let members = (0..self.of).map(member).collect();
        // Slower than real ones, so that most of what happens is not heartbeats.
        let (heartbeat_ms, election_ms) = (100, 300);
        let (number, bytes_kept) = (self.number as u32 + 1, self.bytes_kept);
        Some(Replication { number, members, found: true, heartbeat_ms, election_ms, bytes_kept })
    }
}

/// Tasks that were woken.
#[derive(Default)]
struct Ready(Mutex<VecDeque<u64>>);

struct Woken {
    id: u64,
    ready: Arc<Ready>,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        lock(&self.ready.0).push_back(self.id);
    }
}

struct Tasks {
    next: u64,
    running: BTreeMap<u64, (Spawned, Waker)>,
    timers: BTreeMap<(Duration, u64), Waker>,
    random: SplitMix64,
}

struct Simulated {
    time: TrueTime,
    ready: Arc<Ready>,
    tasks: Mutex<Tasks>,
}

impl Executor for Simulated {
    fn spawn(&self, task: Spawned) {
        let mut tasks = lock(&self.tasks);
        tasks.next += 1;
        let id = tasks.next;
        let waker = Waker::from(Arc::new(Woken { id, ready: Arc::clone(&self.ready) }));
        tasks.running.insert(id, (task, waker));
        lock(&self.ready.0).push_back(id);
    }

    fn now(&self) -> Duration {
        // A second of room below, for whoever subtracts.
        Duration::from_micros(self.time.now()) + Duration::from_secs(1)
    }

    fn wake_at(&self, at: Duration, waker: &Waker) {
        let mut tasks = lock(&self.tasks);
        tasks.next += 1;
        let id = tasks.next;
        tasks.timers.insert((at, id), waker.clone());
    }

    fn random(&self) -> u64 {
        lock(&self.tasks).random.next_u64()
    }
}

/// Carries calls out of a process.
struct Outbox(Arc<Mutex<Vec<Outgoing>>>);

impl Transport for Outbox {
    fn call(
        &self,
        endpoint: &str,
        request: v1::CallRequest,
        _: Duration,
    ) -> BoxFuture<'static, Result<v1::CallResponse, CallError>> {
        let (answer, answered) = oneshot::channel();
        lock(&self.0).push(Outgoing { endpoint: endpoint.to_owned(), request, answer });
        Box::pin(async move { answered.await.unwrap_or_else(|_| Err(CallError::Failed("lost".into()))) })
    }
}

/// A call of another replica that is being answered here.
type Answering = Task<Result<v1::CallResponse, Unanswered>>;

/// See the module.
pub(crate) struct Runtime {
    simulated: Arc<Simulated>,
    executor: Arc<dyn Executor>,
    outbox: Arc<Mutex<Vec<Outgoing>>>,
    answering: Vec<(u64, Answering)>,
    changing: Vec<(Change, Task<Result<(), ChangeError>>)>,
    /// When the next timer is looked at.
    pub(crate) wakes_at: Option<Time>,
}

impl Runtime {
    pub(crate) fn new(time: &TrueTime, seed: u64) -> Self {
        let tasks = Tasks {
            next: 0,
            running: BTreeMap::new(),
            timers: BTreeMap::new(),
            random: SplitMix64::new(seed),
        };
        let simulated =
            Arc::new(Simulated { time: time.clone(), ready: Arc::default(), tasks: Mutex::new(tasks) });
        let executor = Arc::clone(&simulated) as Arc<dyn Executor>;
        Self {
            simulated,
            executor,
            outbox: Arc::default(),
            answering: Vec::new(),
            changing: Vec::new(),
            wakes_at: None,
        }
    }

    /// What replicas reach each other by.
    pub(crate) fn transport(&self) -> Arc<dyn Transport> {
        Arc::new(Outbox(Arc::clone(&self.outbox)))
    }

    /// Does something as the process.
    pub(crate) fn within<T>(&self, work: impl FnOnce() -> T) -> T {
        with_executor(&self.executor, work)
    }

    /// The process is gone.
    pub(crate) fn clear(&mut self) {
        self.answering.clear();
        self.changing.clear();
        self.wakes_at = None;
        let (tasks, timers) = {
            let mut tasks = lock(&self.simulated.tasks);
            (std::mem::take(&mut tasks.running), std::mem::take(&mut tasks.timers))
        };
        // Dropped without the lock: tasks that end may wake others.
        self.within(|| drop((tasks, timers)));
        lock(&self.simulated.ready.0).clear();
        lock(&self.outbox).clear();
    }

    /// A call arrives; its answer comes out of [`Runtime::run`].
    pub(crate) fn answer(&mut self, call: u64, replicas: &Replicas, request: v1::CallRequest) {
        let replicas = replicas.clone();
        self.answering.push((call, Task::new(async move { replicas.answer(request).await })));
    }

    /// An operator asks a replica for a change of its group; whether it was made comes out of [`Runtime::changed`].
    pub(crate) fn change(&mut self, change: Change, replica: escrow_replica::Replica) {
        let wanted = change.wanted.clone();
        self.changing.push((change, Task::new(async move { replica.change(wanted).await })));
    }

    /// Changes that have ended.
    pub(crate) fn changed(&mut self) -> Vec<(Change, Result<(), ChangeError>)> {
        let (executor, changing) = (Arc::clone(&self.executor), &mut self.changing);
        let mut changed = Vec::new();
        with_executor(&executor, || {
            changing.retain_mut(|(change, task)| match task.poll() {
                None => true,
                Some(result) => {
                    changed.push((change.clone(), result));
                    false
                }
            });
        });
        changed
    }

    /// Lets everything go on that can; gives the answers to calls that are known now.
    pub(crate) fn run(&mut self) -> Vec<(u64, Result<v1::CallResponse, Unanswered>)> {
        /// Whoever never rests is broken.
        const POLLS_MAX: usize = 100_000;
        let mut answers = Vec::new();
        for _ in 0..POLLS_MAX {
            let moved = self.run_one();
            let (executor, answering) = (Arc::clone(&self.executor), &mut self.answering);
            let before = answers.len();
            with_executor(&executor, || {
                answering.retain_mut(|(call, task)| match task.poll() {
                    None => true,
                    Some(answer) => {
                        answers.push((*call, answer));
                        false
                    }
                });
            });
            if !moved && answers.len() == before {
                return answers;
            }
        }
        panic!("the tasks of a process never rest");
    }

    /// Polls the next task that was woken, by somebody or by the time.
    fn run_one(&self) -> bool {
        let due: Vec<Waker> = {
            let now = self.simulated.now();
            let mut tasks = lock(&self.simulated.tasks);
            let later = tasks.timers.split_off(&(now, u64::MAX));
            std::mem::replace(&mut tasks.timers, later).into_values().collect()
        };
        due.into_iter().for_each(Waker::wake);
        let Some(id) = lock(&self.simulated.ready.0).pop_front() else { return false };
        let task = lock(&self.simulated.tasks).running.remove(&id);
        let Some((mut task, waker)) = task else { return true };
        let is_done = self.within(|| task.as_mut().poll(&mut Context::from_waker(&waker)).is_ready());
        if is_done {
            self.within(|| drop(task));
        } else {
            lock(&self.simulated.tasks).running.insert(id, (task, waker));
        }
        true
    }

    /// Calls that leave now.
    pub(crate) fn outgoing(&self) -> Vec<Outgoing> {
        std::mem::take(&mut *lock(&self.outbox))
    }

    /// When the next timer is due.
    pub(crate) fn next_timer(&self) -> Option<Time> {
        let tasks = lock(&self.simulated.tasks);
        let at = tasks.timers.first_key_value().map(|((at, _), _)| *at)?;
        // One more than what is rounded down: a timer is never early.
        Some(at.saturating_sub(Duration::from_secs(1)).as_micros() as Time + 1)
    }
}

/// What every group has agreed on.
pub(crate) struct Groups {
    pub(crate) coordinator: GroupObserver,
    pub(crate) shards: Vec<GroupObserver>,
}

impl Groups {
    pub(crate) fn new(shards: u16, replicas: usize) -> Self {
        let group = |name: String| GroupObserver::new(name, replicas);
        Self {
            coordinator: group("the coordinator's group".into()),
            shards: (0..shards).map(|shard| group(format!("the group of shard {shard}"))).collect(),
        }
    }
}

/// A call between replicas that is under way.
pub(crate) struct ReplicaCall {
    pub(crate) from: Node,
    pub(crate) to: Node,
    /// The life of the caller.
    life: u32,
    request: Option<v1::CallRequest>,
    /// The number of the group that is to vote, not only to say whether it would.
    vote_for: Option<u16>,
    answer: Option<oneshot::Sender<Result<v1::CallResponse, CallError>>>,
}

fn vote_for(request: &v1::CallRequest) -> Option<u16> {
    match &request.call {
        Some(Call::Vote(vote)) if !vote.rehearsal => request.group.map(|group| group.number as u16),
        _ => None,
    }
}

/// The process behind an endpoint.
fn node_of(endpoint: &str) -> Node {
    let name = endpoint.trim_start_matches("http://");
    let (kind, number) = name.rsplit_once('-').expect("an endpoint of the simulation");
    let number = number.parse().expect("a number");
    if kind == "coordinator" { Node::Coordinator(number) } else { Node::Participant(number) }
}

impl World {
    pub(crate) fn runtime(&mut self, node: Node) -> &mut Runtime {
        match node {
            Node::Coordinator(at) => &mut self.coordinators[at].runtime,
            Node::Participant(at) => &mut self.participants[at].runtime,
        }
    }

    /// The tasks of the replicas of a process go on; their calls and answers leave.
    pub(crate) fn replicas_go_on(&mut self, node: Node) -> Step {
        if self.replicas == 1 {
            return Ok(());
        }
        for (change, result) in self.runtime(node).changed() {
            self.changed(&change, &result);
        }
        for (id, answer) in self.runtime(node).run() {
            self.check_vote(id, node, &answer)?;
            let answer = answer.map_err(|error| CallError::Failed(error.to_string()));
            match self.crosses(node, self.calls[&id].from) {
                Some(after) => self.at(after, Event::CallAnswered(id, Box::new(answer))),
                None => self.connection_fails(id, KEEP_ALIVE),
            }
        }
        for outgoing in self.runtime(node).outgoing() {
            let to = node_of(&outgoing.endpoint);
            self.next_call += 1;
            let id = self.next_call;
            let (life, answer) = (self.life(node), Some(outgoing.answer));
            let vote_for = vote_for(&outgoing.request);
            let request = Some(outgoing.request);
            self.calls.insert(id, ReplicaCall { from: node, to, life, request, vote_for, answer });
            match self.crosses(node, to) {
                Some(after) => self.at(after, Event::Call(id)),
                // Refused, or given up by the caller in its own time.
                None if self.chance.one_in(2) => {
                    let refused = Err(CallError::Unreachable("cut".into()));
                    self.at(MS, Event::CallAnswered(id, Box::new(refused)));
                }
                None => drop(self.calls.remove(&id)),
            }
        }
        self.wakes(node);
        Ok(())
    }

    fn check_vote(&self, call: u64, node: Node, answer: &Result<v1::CallResponse, Unanswered>) -> Step {
        let Ok(v1::CallResponse { answer: Some(Answer::Vote(answer)) }) = answer else { return Ok(()) };
        let (Some(vote), Some(group)) = (answer.vote, self.calls[&call].vote_for) else { return Ok(()) };
        if !answer.granted {
            return Ok(());
        }
        match (node, group) {
            (Node::Coordinator(at), _) => self.groups.coordinator.voted(at, vote),
            (Node::Participant(at), shard) => {
                self.groups.shards[usize::from(shard)].voted(at % self.replicas, vote)
            }
        }
    }

    /// The caller notices that its connection is gone, unless it has given up before.
    fn connection_fails(&mut self, call: u64, after: Time) {
        let failed = Err(CallError::Failed("the connection is lost".into()));
        self.at(after, Event::CallAnswered(call, Box::new(failed)));
    }

    /// A process is dead: so are the connections of those who wait for it.
    pub(crate) fn calls_fail(&mut self, node: Node) {
        let waiting = self.calls.iter().filter(|(_, call)| call.to == node && call.request.is_none());
        for id in waiting.map(|(&id, _)| id).collect::<Vec<_>>() {
            let after = delay(&self.faults, &mut self.chance);
            self.connection_fails(id, after);
        }
    }

    /// How long a message between two processes takes; `None`: it is lost.
    fn crosses(&mut self, from: Node, to: Node) -> Option<Time> {
        let now = self.now();
        let cut = [from, to].iter().any(|&node| self.isolated[self.place(node)] > now);
        if cut || self.chance.permille(self.faults.lose_permille / 5) {
            return None;
        }
        Some(delay(&self.faults, &mut self.chance))
    }

    /// Has the next timer of a process looked at in time.
    fn wakes(&mut self, node: Node) {
        let Some(at) = self.runtime(node).next_timer() else { return };
        if self.runtime(node).wakes_at.is_some_and(|known| known <= at) {
            return;
        }
        self.runtime(node).wakes_at = Some(at);
        let (now, life) = (self.now(), self.life(node));
        self.at(at.saturating_sub(now), Event::Wake(node, life));
    }

    /// A timer may be due.
    pub(crate) fn wake(&mut self, node: Node) -> Step {
        self.runtime(node).wakes_at = None;
        self.rests(node)
    }

    /// A call arrives at another replica.
    pub(crate) fn call_arrives(&mut self, id: u64) -> Step {
        let Some(call) = self.calls.get_mut(&id) else { return Ok(()) };
        let (to, request) = (call.to, call.request.take());
        let replicas = match to {
            Node::Coordinator(at) => {
                self.coordinators[at].server.as_ref().map(|server| server.replicas().clone())
            }
            Node::Participant(at) => {
                self.participants[at].server.as_ref().map(|server| server.replicas().clone())
            }
        };
        if let (Some(replicas), Some(request)) = (replicas, request) {
            self.runtime(to).answer(id, &replicas, request);
            return self.rests(to);
        }
        let refused = Err(CallError::Unreachable("nobody listens".into()));
        self.at(MS, Event::CallAnswered(id, Box::new(refused)));
        Ok(())
    }

    /// The answer to a call arrives.
    pub(crate) fn call_answered(&mut self, id: u64, answer: Result<v1::CallResponse, CallError>) -> Step {
        let Some(call) = self.calls.remove(&id) else { return Ok(()) };
        if call.life == self.life(call.from)
            && let Some(waiting) = call.answer
        {
            // It may have been given up.
            let _ = waiting.send(answer);
            self.rests(call.from)?;
        }
        Ok(())
    }
}
