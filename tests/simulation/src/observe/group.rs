//! What a group of replicas has agreed on, as its disks say: an entry may be applied only when most of the members that vote have it on their
//! disks, and all apply the same.

use std::collections::{BTreeMap, BTreeSet};

use escrow_proto::v1;
use escrow_proto::v1::log_record::Record;
use escrow_replica::Committed;
use prost::Message as _;
use prost::bytes::Bytes;

use crate::time::Time;
use crate::violation::{Step, Violation, check};

/// One replica's log, as it is durable.
#[derive(Default)]
struct Durable {
    /// By Raft's index: the term of the entry.
    terms: BTreeMap<u64, u64>,
    /// What a disk had that is lost: it was counted when it said so.
    lost: BTreeMap<u64, u64>,
    /// The newest vote: term and member.
    vote: (u64, u64),
}

impl Durable {
    fn has(&self, index: u64, term: u64) -> bool {
        [&self.terms, &self.lost].iter().any(|terms| terms.get(&index) == Some(&term))
    }
}

/// See the module.
pub(crate) struct GroupObserver {
    name: String,
    replicas: Vec<Durable>,
    /// What most disks had, by index and term.
    most: BTreeSet<(u64, u64)>,
    /// What was applied first, by whomever: term and commands of each entry, from 1.
    agreed: Vec<(u64, Option<Bytes>)>,
    /// When whoever served had applied how much: others were told of it from then on. In order of both.
    served: Vec<(Time, u64)>,
}

impl GroupObserver {
    pub(crate) fn new(name: String, replicas: usize) -> Self {
        let replicas = (0..replicas).map(|_| Durable::default()).collect();
        Self { name, replicas, most: BTreeSet::new(), agreed: Vec::new(), served: Vec::new() }
    }

    /// A record of a replica has become durable.
    pub(crate) fn durable(&mut self, replica: usize, payload: &[u8]) -> Step {
        let wrong = || Violation::other(format!("{}: a record that cannot be read", self.name));
        let record = v1::LogRecord::decode(payload).map_err(|_| wrong())?.record.ok_or_else(wrong)?;
        let terms = &mut self.replicas[replica].terms;
        match record {
            Record::Append(append) => {
                let id = append.entry.and_then(|entry| entry.id).ok_or_else(wrong)?;
                terms.retain(|&index, _| index < id.index);
                terms.insert(id.index, id.term);
                let have = self.replicas.iter().filter(|it| it.has(id.index, id.term));
                if 2 * have.count() > self.replicas.len() {
                    self.most.insert((id.index, id.term));
                }
            }
            Record::Truncate(truncate) => {
                let keep = truncate.last.map_or(0, |last| last.index + 1);
                terms.retain(|&index, _| index < keep);
            }
            Record::Vote(vote) => self.replicas[replica].vote = (vote.term, vote.member),
            Record::Base(_) => {}
        }
        Ok(())
    }

    /// A replica says that it has given its vote: it must know that after a crash, or it could give it twice.
    pub(crate) fn voted(&self, replica: usize, vote: v1::Ballot) -> Step {
        let durable = self.replicas[replica].vote;
        check!(
            AcknowledgedSurvives,
            durable.0 > vote.term || durable == (vote.term, vote.member),
            "{}: replica {replica} granted {vote:?}, and has {durable:?} on disk",
            self.name
        );
        Ok(())
    }

    /// A replica has applied an entry. What it says, if it is the first.
    pub(crate) fn applied(&mut self, replica: usize, entry: &Committed) -> Step<Option<Bytes>> {
        let (index, term) = (entry.index(), entry.term());
        let next = self.agreed.len() as u64 + 1;
        if index < next {
            let agreed = &self.agreed[index as usize - 1];
            check!(
                ReplayEquals,
                *agreed == (term, entry.commands.clone()),
                "{}: replica {replica} applied entry {index} of term {term}, others one of term {} or other content",
                self.name,
                agreed.0
            );
            return Ok(None);
        }
        check!(ReplayEquals, index == next, "{}: entry {index} is applied before {next}", self.name);
        check!(
            AcknowledgedSurvives,
            self.most.contains(&(index - 1, term)),
            "{}: replica {replica} applied entry {index} of term {term}, which never was on most disks",
            self.name
        );
        self.agreed.push((term, entry.commands.clone()));
        Ok(entry.commands.clone())
    }

    /// A replica that serves has applied so much.
    pub(crate) fn served(&mut self, now: Time, applied: u64) {
        if self.served.last().is_none_or(|&(_, known)| known < applied) {
            self.served.push((now, applied));
        }
    }

    /// A replica says that nothing is lacking up to an index that was acknowledged before some time.
    pub(crate) fn vouched(&self, replica: usize, index: u64, before: Time) -> Step {
        let earlier = self.served.partition_point(|&(at, _)| at < before);
        let acknowledged = self.served[..earlier].last().map_or(0, |&(_, applied)| applied);
        check!(
            AcknowledgedSurvives,
            index >= acknowledged,
            "{}: replica {replica} says that entry {index} includes all from before {before} us, but {acknowledged} was served then",
            self.name
        );
        Ok(())
    }

    /// The disk of a replica is gone, with everything that it had.
    pub(crate) fn lost_disk(&mut self, replica: usize) {
        let Durable { terms, mut lost, .. } = std::mem::take(&mut self.replicas[replica]);
        lost.extend(terms);
        self.replicas[replica].lost = lost;
    }

    /// How many entries were applied by anybody.
    pub(crate) fn agreed(&self) -> u64 {
        self.agreed.len() as u64
    }
}
