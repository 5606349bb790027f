//! A naive model of the coordinator: a list of transactions that is searched from end to end, and a log of what happened to
//! them. It has no windows, no columns, no phases; it is meant to be read beside the protocol.

use escrow_types::Reason;

use crate::driver::{LinkState, Wait};

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum End {
    Confirm,
    Cancel(Reason),
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Confirm => f.write_str("confirmed"),
            Self::Cancel(reason) => write!(f, "canceled {reason}"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum At {
    Trying,
    Reserved,
    Rejected,
    Ending,
    Done,
}

#[derive(Debug, Clone)]
pub(super) struct Branch {
    pub(super) shard: u16,
    pub(super) at: At,
    /// Ever sent to the shard.
    pub(super) sent: bool,
    /// Sent on the present connection, not answered.
    pub(super) out: bool,
}

/// What the log says of a decision that the branches imply.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Log {
    Enough,
    Nothing,
    NothingForLong,
    Soon,
}

#[derive(Debug, Clone)]
pub(super) struct Transaction {
    pub(super) id: u64,
    pub(super) content: (u16, u16, u64, bool),
    pub(super) xid: (u32, u64),
    pub(super) deadline: u64,
    /// Begin is durable.
    pub(super) begun: bool,
    pub(super) decision: Option<End>,
    /// The decision is durable, or implied.
    pub(super) decided: bool,
    /// The decision is in the log.
    pub(super) logged: bool,
    pub(super) log: Log,
    pub(super) fencing: Option<Reason>,
    /// All branches have ended.
    pub(super) over: bool,
    /// … and that is durable.
    pub(super) ended: bool,
    pub(super) one_phase: bool,
    pub(super) left_over: bool,
    pub(super) confirm_wanted: bool,
    pub(super) branches: Vec<Branch>,
    pub(super) waiters: Vec<(u64, Wait, u64)>,
}

impl Transaction {
    pub(super) fn name(&self) -> String {
        format!("{}-{}", self.xid.0, self.xid.1)
    }
    pub(super) fn two_step(&self) -> bool {
        self.content.3
    }
    pub(super) fn all_reserved(&self) -> bool {
        self.decision.is_none() && self.branches.iter().all(|branch| branch.at == At::Reserved)
    }
    pub(super) fn held(&self) -> bool {
        self.two_step() && self.begun && self.all_reserved()
    }
    pub(super) fn implied(&self) -> bool {
        self.branches.len() == 2 && !self.two_step()
    }
    pub(super) fn may_be_decided(&self) -> bool {
        self.implied() && self.left_over && self.decision.is_none()
    }
    pub(super) fn sent(&self) -> bool {
        self.branches.iter().any(|branch| branch.sent)
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Item {
    Begin((u32, u64)),
    Decide((u32, u64)),
    End((u32, u64)),
}

pub(super) struct Model {
    pub(super) now: u64,
    pub(super) epoch: u32,
    pub(super) next: u64,
    pub(super) links: [LinkState; 3],
    pub(super) transactions: Vec<Transaction>,
    pub(super) urgent: Vec<Item>,
    pub(super) lazy: Vec<Item>,
    pub(super) appended: Vec<Vec<Item>>,
    pub(super) events: Vec<String>,
    pub(super) next_log: u64,
}

impl Model {
    pub(super) fn find(&mut self, xid: (u32, u64)) -> Option<&mut Transaction> {
        self.transactions.iter_mut().find(|transaction| transaction.xid == xid)
    }

    pub(super) fn get(&mut self, xid: (u32, u64)) -> &mut Transaction {
        self.find(xid).expect("it is there")
    }

    fn live(&self) -> Vec<(u32, u64)> {
        self.transactions.iter().filter(|transaction| !transaction.over).map(|t| t.xid).collect()
    }

    pub(super) fn tell(&mut self, xid: (u32, u64), what: &str, wants: impl Fn(Wait, u64) -> bool) {
        let waiters = std::mem::take(&mut self.get(xid).waiters);
        let (told, rest): (Vec<_>, Vec<_>) =
            waiters.into_iter().partition(|&(_, wait, until)| wants(wait, until));
        self.get(xid).waiters = rest;
        self.events.extend(told.iter().map(|(tag, ..)| format!("#{tag} {what}")));
    }

    pub(super) fn send(&mut self, xid: (u32, u64), only: Option<u16>) {
        let (links, now) = (self.links, self.now);
        let transaction = self.get(xid);
        if transaction.may_be_decided() && transaction.deadline <= now {
            transaction.fencing.get_or_insert(Reason::DeadlineExceeded);
        }
        let transaction = transaction.clone();
        for (at, branch) in transaction.branches.iter().enumerate() {
            let what = match (branch.at, transaction.decision) {
                (At::Trying, None) if transaction.one_phase => "try+confirm",
                (At::Trying, None) if transaction.fencing.is_some() => "fence",
                (At::Trying, None) => "try",
                (At::Ending, Some(End::Confirm)) => "confirm",
                (At::Ending, Some(End::Cancel(_))) => "cancel",
                _ => continue,
            };
            let wanted = only.is_none_or(|only| only == branch.shard) && !branch.out;
            if wanted && links[usize::from(branch.shard)] == LinkState::Ready {
                self.events.push(format!("{}<{what} {}", branch.shard, transaction.name()));
                let branch = &mut self.get(xid).branches[at];
                (branch.sent, branch.out) = (true, true);
            }
        }
    }

    pub(super) fn decide(&mut self, xid: (u32, u64), end: End) {
        let transaction = self.get(xid);
        transaction.decision = Some(end);
        transaction.one_phase = false;
        self.urgent.push(Item::Decide(xid));
    }

    pub(super) fn wait(&mut self, xid: (u32, u64), tag: u64, wait: Wait, until: u64) {
        let transaction = self.get(xid);
        let text = match transaction.decision {
            Some(end) if transaction.over => format!("#{tag} {end} completed"),
            Some(end) if transaction.decided && wait != Wait::Completed => format!("#{tag} {end}"),
            None if transaction.held() && wait == Wait::Reserved => format!("#{tag} reserved"),
            _ => return transaction.waiters.push((tag, wait, until)),
        };
        self.events.push(text);
    }

    pub(super) fn submit(
        &mut self,
        tag: u64,
        id: u64,
        content: (u16, u16, u64, bool),
        wait: Wait,
        timeout: u64,
    ) {
        let (answer_in, deadline_in) = match (timeout, content.3) {
            (0, true) => (5_000, 60_000),
            (0, false) => (5_000, 5_000),
            (timeout, _) => (timeout, timeout),
        };
        if let Some(known) = self.transactions.iter().find(|transaction| transaction.id == id) {
            if known.content != content {
                self.events.push(format!("#{tag} refused TRANSACTION_ID_REUSED"));
                return;
            }
            return self.wait(known.xid, tag, wait, self.now + answer_in);
        }
        let mut shards = vec![content.0, content.1];
        shards.dedup();
        if shards.iter().any(|&shard| self.links[usize::from(shard)] == LinkState::Down) {
            self.events.push(format!("#{tag} refused PARTICIPANT_UNAVAILABLE"));
            return;
        }
        let xid = (self.epoch, self.next);
        self.next += 1;
        let one_phase = shards.len() == 1 && !content.3;
        let branch = |shard| Branch { shard, at: At::Trying, sent: false, out: false };
        self.transactions.push(Transaction {
            id,
            content,
            xid,
            deadline: self.now + deadline_in,
            begun: false,
            decision: None,
            decided: false,
            logged: false,
            log: Log::Enough,
            fencing: None,
            over: false,
            ended: false,
            one_phase,
            left_over: false,
            confirm_wanted: false,
            branches: shards.into_iter().map(branch).collect(),
            waiters: vec![(tag, wait, self.now + answer_in)],
        });
        self.urgent.push(Item::Begin(xid));
        if !one_phase {
            self.send(xid, None);
        }
    }

    pub(super) fn reserved(&mut self, xid: (u32, u64)) {
        let transaction = self.get(xid);
        if transaction.implied() {
            transaction.decision = Some(End::Confirm);
            if transaction.begun {
                self.imply(xid);
            }
        } else if !transaction.two_step() || transaction.confirm_wanted {
            self.decide(xid, End::Confirm);
        } else if transaction.begun {
            self.tell(xid, "reserved", |wait, _| wait == Wait::Reserved);
        }
    }

    /// Begin and all reservations are durable.
    fn imply(&mut self, xid: (u32, u64)) {
        let transaction = self.get(xid);
        transaction.decided = true;
        transaction.log = Log::Nothing;
        for branch in &mut transaction.branches {
            (branch.at, branch.out) = (At::Ending, false);
        }
        self.tell(xid, "confirmed", |wait, _| wait != Wait::Completed);
        self.send(xid, None);
    }

    fn fence(&mut self, xid: (u32, u64), reason: Reason) {
        let transaction = self.get(xid);
        if transaction.fencing.is_none() {
            transaction.fencing = Some(reason);
            transaction.branches.iter_mut().for_each(|branch| branch.out = false);
            self.send(xid, None);
        }
    }

    pub(super) fn over(&mut self, xid: (u32, u64)) {
        let transaction = self.get(xid);
        transaction.over = true;
        let text = format!("{} completed", transaction.decision.expect("decided"));
        self.tell(xid, &text, |_, _| true);
        self.lazy.push(Item::End(xid));
    }

    /// An answer of a shard to what it was last asked about a transaction.
    pub(super) fn answered(&mut self, xid: (u32, u64), shard: u16, good: bool) {
        let transaction = self.get(xid);
        let one_phase = transaction.one_phase;
        let (decision, decided) = (transaction.decision, transaction.decided);
        let branch =
            transaction.branches.iter_mut().find(|branch| branch.shard == shard).expect("it was asked");
        branch.out = false;
        match (branch.at, decision) {
            (At::Trying, None) if one_phase => {
                let end = if good { End::Confirm } else { End::Cancel(Reason::InsufficientFunds) };
                transaction.decision = Some(end);
                self.over(xid);
            }
            (At::Trying, None) if good => {
                branch.at = At::Reserved;
                if self.get(xid).all_reserved() {
                    self.reserved(xid);
                }
            }
            (At::Trying, None) if transaction.fencing.is_some() => {
                let reason = transaction.fencing.expect("just seen");
                self.decide(xid, End::Cancel(reason));
            }
            (At::Trying, None) => {
                branch.at = At::Rejected;
                self.decide(xid, End::Cancel(Reason::InsufficientFunds));
            }
            (At::Ending, Some(_)) if decided => {
                branch.at = At::Done;
                if !self.get(xid).branches.iter().any(|branch| branch.at == At::Ending) {
                    self.over(xid);
                }
            }
            _ => {}
        }
    }

    pub(super) fn append(&mut self, lazy_too: bool) {
        let lazy = lazy_too && !self.lazy.is_empty();
        if self.urgent.is_empty() && !lazy {
            return;
        }
        let mut items = std::mem::take(&mut self.urgent);
        // Begins, then decisions, then ends: in this order in each entry.
        items.sort_by_key(|item| matches!(item, Item::Decide(_)));
        items.append(&mut self.lazy);
        self.appended.push(items);
    }

    pub(super) fn durable(&mut self) {
        for item in std::mem::take(&mut self.appended).into_iter().flatten() {
            match item {
                Item::Begin(xid) => {
                    self.get(xid).begun = true;
                    let transaction = self.get(xid);
                    if transaction.implied() && transaction.decision == Some(End::Confirm) {
                        self.imply(xid);
                    } else if self.get(xid).all_reserved() {
                        self.reserved(xid);
                    } else {
                        self.send(xid, None);
                    }
                }
                Item::Decide(xid) if self.get(xid).log == Log::Soon => {
                    let transaction = self.get(xid);
                    (transaction.logged, transaction.log) = (true, Log::Enough);
                }
                Item::Decide(xid) => {
                    let transaction = self.get(xid);
                    (transaction.decided, transaction.logged) = (true, true);
                    let end = transaction.decision.expect("decided");
                    for branch in &mut transaction.branches {
                        branch.at = match (end, branch.at) {
                            (End::Cancel(_), At::Rejected) => At::Done,
                            (End::Cancel(_), At::Trying) if !branch.sent => At::Done,
                            _ => At::Ending,
                        };
                        branch.out = false;
                    }
                    let over = transaction.branches.iter().all(|branch| branch.at == At::Done);
                    self.tell(xid, &end.to_string(), |wait, _| wait != Wait::Completed);
                    if over {
                        self.over(xid);
                    } else {
                        self.send(xid, None);
                    }
                }
                Item::End(xid) => self.get(xid).ended = true,
            }
        }
    }

    pub(super) fn pass(&mut self, millis: u64) {
        self.now += millis;
        let now = self.now;
        for xid in self.live() {
            let transaction = self.get(xid);
            let awaited = transaction.one_phase && transaction.sent();
            let text = match transaction.decision {
                None if transaction.fencing.is_some() => "pending".to_owned(),
                None if transaction.deadline <= now && transaction.may_be_decided() => {
                    self.fence(xid, Reason::DeadlineExceeded);
                    "pending".to_owned()
                }
                None if !awaited && transaction.deadline <= now => {
                    self.decide(xid, End::Cancel(Reason::DeadlineExceeded));
                    continue;
                }
                None if transaction.held() => "reserved".to_owned(),
                None => "pending".to_owned(),
                Some(end) if transaction.decided => end.to_string(),
                Some(_) => continue,
            };
            self.tell(xid, &text, |_, until| until <= now);
        }
        self.log_overdue();
    }

    fn log_overdue(&mut self) {
        let is_unlogged = |t: &Transaction| !t.over && matches!(t.log, Log::Nothing | Log::NothingForLong);
        if self.now < self.next_log || !self.transactions.iter().any(is_unlogged) {
            return;
        }
        self.next_log = self.now + 250;
        for transaction in self.transactions.iter_mut().filter(|t| is_unlogged(t)) {
            if transaction.log == Log::Nothing {
                transaction.log = Log::NothingForLong;
            } else {
                transaction.log = Log::Soon;
                self.urgent.push(Item::Decide(transaction.xid));
            }
        }
    }

    pub(super) fn link(&mut self, shard: u16, state: LinkState) {
        self.links[usize::from(shard)] = state;
        if state == LinkState::Ready {
            for xid in self.live() {
                let branches = self.get(xid).branches.iter_mut();
                branches.filter(|branch| branch.shard == shard).for_each(|branch| branch.out = false);
                if self.get(xid).begun {
                    self.send(xid, Some(shard));
                }
            }
        }
    }

    pub(super) fn crash(&mut self) {
        self.transactions.retain(|transaction| transaction.begun);
        for transaction in &mut self.transactions {
            let single = transaction.branches.len() == 1 && !transaction.two_step();
            transaction.waiters.clear();
            transaction.over = transaction.ended;
            transaction.decided = transaction.logged;
            transaction.log = Log::Enough;
            transaction.fencing = None;
            if !transaction.decided && !transaction.ended {
                transaction.decision = None;
                transaction.one_phase = single;
            }
            transaction.left_over = true;
            transaction.confirm_wanted = false;
            let at = if transaction.decided { At::Ending } else { At::Trying };
            for branch in &mut transaction.branches {
                *branch = Branch { at, sent: true, out: false, ..*branch };
            }
        }
        self.urgent.clear();
        self.lazy.clear();
        self.appended.clear();
        self.next_log = 0;
        self.links = [LinkState::Waiting; 3];
        self.epoch += 1;
        self.next = 0;
        // Recovery goes on at once with what is left over; nobody is connected yet, but time may be up already.
        for xid in self.live() {
            self.send(xid, None);
        }
    }

    /// A caller or an operator wants to end it.
    pub(super) fn end(&mut self, xid: (u32, u64), verb: Verb, tag: u64) -> &'static str {
        let until = self.now + 5_000;
        let Some(transaction) = self.find(xid).filter(|transaction| !transaction.ended) else {
            return if verb == Verb::Operator { "ALREADY_DECIDED" } else { "TRANSACTION_NOT_FOUND" };
        };
        if verb == Verb::Operator {
            if transaction.decision.is_some() || (transaction.one_phase && transaction.sent()) {
                return "ALREADY_DECIDED";
            }
            if transaction.may_be_decided() {
                self.fence(xid, Reason::CanceledByOperator);
            } else {
                self.decide(xid, End::Cancel(Reason::CanceledByOperator));
            }
            return "ok";
        }
        if !transaction.two_step() {
            return if transaction.over && !transaction.begun {
                "TRANSACTION_NOT_FOUND"
            } else {
                "NOT_RESERVED"
            };
        }
        let settled = transaction.decision.filter(|_| transaction.decided);
        match (verb, settled) {
            (Verb::Confirm, Some(End::Cancel(_))) | (Verb::Cancel, Some(End::Confirm)) => {
                return "ALREADY_DECIDED";
            }
            _ => {}
        }
        if transaction.decision.is_none() {
            match verb {
                Verb::Confirm if transaction.begun && transaction.all_reserved() => {
                    self.decide(xid, End::Confirm);
                }
                Verb::Confirm if transaction.begun && transaction.left_over => {
                    transaction.confirm_wanted = true;
                }
                Verb::Confirm => return "NOT_RESERVED",
                _ => self.decide(xid, End::Cancel(Reason::CanceledByCaller)),
            }
        }
        self.wait(xid, tag, Wait::Completed, until);
        "ok"
    }

    pub(super) fn outcome(&mut self, xid: (u32, u64)) -> String {
        let Some(transaction) = self.find(xid) else { return "canceled DEADLINE_EXCEEDED".to_owned() };
        match transaction.decision {
            _ if transaction.ended => "canceled DEADLINE_EXCEEDED".to_owned(),
            Some(end) if transaction.decided || transaction.over => end.to_string(),
            _ => "pending".to_owned(),
        }
    }

    pub(super) fn hello(&self, shard: u16) -> String {
        let older = self.transactions.iter().filter(|t| t.begun && !t.ended && t.xid.0 < self.epoch);
        let concerned = older.filter(|t| t.branches.iter().any(|branch| branch.shard == shard));
        concerned.map(Transaction::name).collect::<Vec<_>>().join(" ")
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Verb {
    Confirm,
    Cancel,
    Operator,
}
