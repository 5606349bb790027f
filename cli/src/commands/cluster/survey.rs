//! Which processes a cluster has, and what each says of its replicas.
//!
//! Some are known from the start; a coordinator knows the participants, and a replica the other members of its group.
//!
//! **Invariant:** asks only; changes nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use escrow_client::{Client, Options, RetryPolicy};
use escrow_cluster::{Manifest, groups};
use escrow_coordinator::config::Slots;
use escrow_grpc::Endpoint;
use escrow_proto::v1;
use escrow_replica::{GroupId, MemberId};

use crate::args::Endpoints;
use crate::cluster_file::ClusterFile;
use crate::exit::{Exit, Failure};

/// A process that does not answer by then counts as silent.
const LOOK: Duration = Duration::from_secs(2);
/// Stands between the replicas of one endpoint.
const SEPARATOR: char = '+';

/// Where the processes of a cluster are.
#[derive(Debug, clap::Args)]
pub struct Processes {
    /// A process of the cluster, instead of coordinators; may be repeated. The members of its groups are found by it
    #[arg(long = "process", value_name = "URL", conflicts_with = "data_dir")]
    named: Vec<String>,
    /// The data directory of an `escrow up` that runs, instead of coordinators
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The servers of a cluster file, instead of coordinators
    #[arg(long, value_name = "FILE", conflicts_with_all = ["named", "data_dir"])]
    cluster_file: Option<PathBuf>,
    #[command(flatten)]
    endpoints: Endpoints,
}

/// What every process said, by its endpoint.
#[derive(Debug, Default)]
pub(super) struct Survey {
    pub(super) answers: BTreeMap<String, Result<Vec<v1::Replica>, String>>,
}

/// What is known of one group.
#[derive(Debug)]
pub(super) struct Group<'a> {
    pub(super) id: GroupId,
    /// Every replica that answered, by its endpoint.
    pub(super) replicas: Vec<(&'a str, &'a v1::Replica)>,
}

impl Processes {
    /// Which shard holds which accounts, if a cluster file says so.
    pub(super) fn slots(&self) -> Result<Option<Slots>, Failure> {
        self.cluster_file.as_deref().map(|path| Ok(ClusterFile::load(path)?.slots)).transpose()
    }

    /// Asks every process that can be found. An error if none answers.
    pub(super) async fn survey(&self) -> Result<Survey, Failure> {
        let mut survey = Survey::default();
        if !self.named.is_empty() {
            survey.ask(self.named.iter().flat_map(|process| parts(process))).await?;
        } else if let Some(data_dir) = &self.data_dir {
            let manifest = Manifest::read(data_dir)?.ok_or_else(|| {
                Failure::bad_input(format!(
                    "no cluster runs in {}: there is no cluster.json",
                    data_dir.display()
                ))
            })?;
            let entries = manifest.coordinators.into_iter().chain(manifest.participants);
            survey.ask(entries.map(|entry| entry.endpoint)).await?;
        } else if let Some(path) = &self.cluster_file {
            survey
                .ask(ClusterFile::load(path)?.node.into_iter().flat_map(|node| parts(&node.endpoint)))
                .await?;
        } else {
            survey.ask(self.endpoints.endpoint.iter().flat_map(|endpoint| parts(endpoint))).await?;
            let participants = survey.participants().await;
            survey.ask(participants).await?;
        }
        survey.ask_members().await?;
        survey.check()
    }
}

impl Survey {
    /// Asks, all at once, those that have not been asked.
    async fn ask(&mut self, endpoints: impl IntoIterator<Item = String>) -> Result<(), Failure> {
        let mut asking = Vec::new();
        for endpoint in endpoints {
            Endpoint::parse(&endpoint).map_err(|error| Failure::bad_input(error.to_string()))?;
            if self.answers.contains_key(&endpoint) {
                continue;
            }
            self.answers.insert(endpoint.clone(), Err("not asked".to_owned()));
            asking.push(tokio::spawn(async move {
                let answer = groups::ask(&endpoint, LOOK).await;
                (endpoint, answer)
            }));
        }
        for asked in asking {
            let (endpoint, answer) =
                asked.await.map_err(|error| Failure::internal(format!("cannot ask: {error}")))?;
            self.answers.insert(endpoint, answer);
        }
        Ok(())
    }

    /// Asks whoever is named as a member by those that answered.
    async fn ask_members(&mut self) -> Result<(), Failure> {
        let replicas = self.answers.values().filter_map(|answer| answer.as_ref().ok()).flatten();
        let members = replicas.flat_map(|replica| &replica.members);
        let endpoints = members.filter_map(|member| Some(member.member.as_ref()?.endpoint.clone()));
        let endpoints: Vec<String> = endpoints.flat_map(|endpoint| parts(&endpoint)).collect();
        self.ask(endpoints).await
    }

    /// Where the wallet shards are, as the first coordinator says that answers: one that leads, if there are replicas.
    async fn participants(&self) -> Vec<String> {
        let answered = |(endpoint, answer): (&String, &Result<Vec<v1::Replica>, String>)| {
            let follows = answer.as_ref().ok()?.iter().any(|one| one.role() != v1::replica::Role::Leader);
            Some((follows, endpoint.clone()))
        };
        let mut coordinators: Vec<(bool, String)> = self.answers.iter().filter_map(answered).collect();
        coordinators.sort();
        for (_, endpoint) in coordinators {
            let options = Options { retry: RetryPolicy::never(), ..Options::within(LOOK) };
            let Ok(client) = Client::connect([endpoint], options) else { continue };
            if let Ok(status) = client.status(0).await {
                let shards = status.participants.iter().filter(|participant| participant.kind == "stream");
                return shards.flat_map(|participant| parts(&participant.endpoint)).collect();
            }
        }
        // The groups of the coordinators can be shown all the same.
        Vec::new()
    }

    fn check(self) -> Result<Self, Failure> {
        if self.answers.values().any(Result::is_ok) {
            return Ok(self);
        }
        let (endpoint, why) = self.silent().next().unwrap_or(("any process", "none is known"));
        let message = format!("cannot reach {endpoint}: {why}");
        Err(Failure { exit: Exit::Unavailable, code: "UNAVAILABLE", message })
    }

    /// Who did not answer, and why.
    pub(super) fn silent(&self) -> impl Iterator<Item = (&str, &str)> {
        self.answers
            .iter()
            .filter_map(|(endpoint, answer)| Some((endpoint.as_str(), answer.as_ref().err()?.as_str())))
    }

    /// Why one did not answer.
    pub(super) fn silence_of(&self, endpoint: &str) -> Option<&str> {
        let answer = self.answers.get(endpoint.trim_end_matches('/'))?;
        answer.as_ref().err().map(String::as_str)
    }

    /// Who answered and has no replicas.
    pub(super) fn alone(&self) -> impl Iterator<Item = &str> {
        let alone = |answer: &Result<Vec<v1::Replica>, String>| answer.as_ref().is_ok_and(Vec::is_empty);
        self.answers.iter().filter(move |(_, answer)| alone(answer)).map(|(endpoint, _)| endpoint.as_str())
    }

    /// The groups, coordinators first.
    pub(super) fn groups(&self) -> Vec<Group<'_>> {
        let mut groups: BTreeMap<GroupId, Vec<(&str, &v1::Replica)>> = BTreeMap::new();
        for (endpoint, answer) in &self.answers {
            for replica in answer.iter().flatten() {
                if let Some(id) = groups::group_of(replica) {
                    groups.entry(id).or_default().push((endpoint, replica));
                }
            }
        }
        groups.into_iter().map(|(id, replicas)| Group { id, replicas }).collect()
    }
}

impl<'a> Group<'a> {
    /// The replica that leads, and where.
    pub(super) fn leader(&self) -> Option<(&'a str, &'a v1::Replica)> {
        let replicas = self.replicas.iter();
        groups::leader(replicas.map(|&(endpoint, replica)| ((endpoint, replica), replica)))
    }

    /// The replica that knows best who the members are: the leader, or else one of the newest term.
    pub(super) fn best_informed(&self) -> &'a v1::Replica {
        let newest = || self.replicas.iter().map(|(_, replica)| *replica).max_by_key(|replica| replica.term);
        let informed = self.leader().map(|(_, replica)| replica).or_else(newest);
        informed.expect("a group is known by its replicas")
    }

    /// The members, as far as is known.
    pub(super) fn members(&self) -> impl Iterator<Item = (MemberId, &'a str, &'a v1::ReplicaMember)> {
        self.best_informed().members.iter().filter_map(|member| {
            let Some(v1::Member { id, endpoint }) = &member.member else { return None };
            Some((MemberId::from_raw(*id), endpoint.as_str(), member))
        })
    }
}

/// The replicas of an endpoint.
fn parts(endpoint: &str) -> Vec<String> {
    endpoint.split(SEPARATOR).map(|part| part.trim_end_matches('/').to_owned()).collect()
}
